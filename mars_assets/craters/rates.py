"""Completeness of maps and precision of their craters, by size, from trials.

Sizes are in pixels.

A trial of completeness is a crater that is there, and succeeds if it was found. A trial of precision is a crater that
was found, and succeeds if it is there.

Trials in other observations than those that were counted tell less than their number says: terrain and light differ,
and with them the rates. How much they do is estimated from the trials, and is in the intervals.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from mars_assets.craters.frequency import bin_edges, bin_numbers
from mars_assets.evaluation.counts import ONE_SIGMA

Float64 = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]

COMPLETE = 0.9
"""Completeness from which a count is called complete: what is missing is then less than sqrt(n) of 100 craters."""
FEWEST_TRIALS = 20
"""Trials in a bin at least: with fewer, the interval of a rate of one half is wider than 0.2."""

_WIDEST = 0.9
"""Largest variance of a rate, in units of mean * (1 - mean): at 1 it would be 0 or 1."""

_LOWEST = 1e-9
"""Lowest rate that is drawn, and the highest is as far from 1: at 0 a corrected count would be infinite."""


class CompleteFrom(NamedTuple):
    """The diameter in pixels from which on completeness is at least ``COMPLETE``.

    None if it never is.

    Args:
        estimate: by the share that was found.
        low: by the upper ends of its intervals, which is the smallest that the trials allow.
        high: by their lower ends.
    """

    estimate: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Rate:
    """A rate by diameter in pixels.

    Between the middles of bins it is interpolated in ln D, and constant beyond the first and last of them. Steps would
    be far off where completeness rises: it often doubles within a bin.

    Args:
        edges: of the bins. The first is the smallest diameter of a trial, the last the largest.
        middles: geometric mean of the diameters of each bin's trials.
        trials: in each bin.
        successes: of them.
        observations: number of observations that the trials are in; 0 for those that were counted themselves.
        correlation: of two trials in the same observation, from 0 to 1.
        design: of each bin, how many times the variance of the rate exceeds that of as many independent trials; None
            for 1.
    """

    edges: Float64
    middles: Float64
    trials: Index
    successes: Index
    observations: int = 0
    correlation: float = 0.0
    design: Float64 | None = None

    @classmethod
    def of_trials(cls, trials: pd.DataFrame) -> Rate | None:
        """Count trials in bins from d to sqrt(2) d.

        Bins with too few trials are merged with larger ones, or at the end with smaller ones.

        Args:
            trials: ``diameter_px, success``, and ``group``, which names the observation, if they are in others than
                those that were counted.

        Returns:
            The rate; None if there are too few trials for one bin.
        """
        diameters, success = trials["diameter_px"].to_numpy(np.float64), trials["success"].to_numpy(bool)
        if len(diameters) < FEWEST_TRIALS:
            return None
        edges = bin_edges(diameters, 1.0)
        counts = np.bincount(bin_numbers(diameters, edges), minlength=len(edges) - 1)
        borders = [float(diameters.min())]
        waiting = 0
        for count, end in zip(counts.tolist(), edges[1:].tolist(), strict=True):
            waiting += count
            if waiting >= FEWEST_TRIALS:
                borders.append(end)
                waiting = 0
        borders[-1] = float(diameters.max())
        merged = np.array(borders)
        number = np.clip(np.searchsorted(merged, diameters, side="right") - 1, 0, len(merged) - 2)
        total, found, logarithms = (
            np.bincount(number, weights, len(merged) - 1)
            for weights in (np.ones(len(number)), success, np.log(diameters))
        )
        rate = cls(merged, np.exp(logarithms / total), total.astype(np.intp), found.astype(np.intp))
        return rate._of_others(number, success, trials["group"].to_numpy()) if "group" in trials else rate

    def _of_others(self, number: Index, success: Mask, group: npt.NDArray[Any]) -> Rate:
        """Widen what these trials say of their observations to what they say of others.

        The correlation is that of the beta-binomial distribution by moments (Kleinman, Proportions with Extraneous
        Variance: Single and Independent Samples, JASA 68, 1973), over all bins: the squared differences between the
        observations' rates and their mean exceed those of independent trials by it.

        Args:
            number: the bin of each trial.
            success: of each trial.
            group: of each trial.
        """
        _, place = np.unique(group, return_inverse=True)
        shape = (len(self.trials), int(place.max()) + 1)
        counts, found = (np.zeros(shape), np.zeros(shape))
        np.add.at(counts, (number, place), 1.0)
        np.add.at(found, (number, place), success)
        total = self.trials[:, None]
        mean = self.successes[:, None] / total
        share = counts / total
        varies = (mean > 0) & (mean < 1) & (counts > 0)
        squares = (found - counts * mean) ** 2 / np.where(varies, counts * mean * (1 - mean), 1.0)
        excess = np.where(varies, squares - (1 - share), 0.0).sum()
        scale = np.where(varies, (1 - share) * (counts - 1), 0.0).sum()
        correlation = float(np.clip(excess / scale, 0.0, _WIDEST)) if scale > 0 else 0.0
        design = (share * (1 + (counts - 1) * correlation)).sum(axis=1)
        return replace(self, observations=shape[1], correlation=correlation, design=design)

    def number_of(self, diameters_px: npt.ArrayLike) -> Index:
        """Find the bins of diameters.

        It is -1 for those smaller than all trials, and the number of bins for those larger than all.
        """
        diameters = np.asarray(diameters_px, np.float64)
        number = np.searchsorted(self.edges, diameters, side="right") - 1
        return np.where(diameters == self.edges[-1], len(self.trials) - 1, number)

    def at(self, diameters_px: npt.ArrayLike) -> Float64:
        """Compute the rate at diameters; it is missing outside the range of the trials."""
        number = self.number_of(diameters_px)
        inside = (number >= 0) & (number < len(self.trials))
        return np.where(inside, self.interpolated(self.successes / self.trials, diameters_px), np.nan)

    def interpolated(self, rates: Float64, diameters_px: npt.ArrayLike) -> Float64:
        """Interpolate rates of the bins, along the last axis, at diameters."""
        logarithms, middles = np.log(np.asarray(diameters_px, np.float64)), np.log(self.middles)
        place = np.interp(logarithms, middles, np.arange(len(middles)))
        before = np.minimum(place.astype(np.intp), max(len(middles) - 2, 0))
        after = np.minimum(before + 1, len(middles) - 1)
        share = place - before
        return np.asarray((1 - share) * rates[..., before] + share * rates[..., after])

    def interval(self) -> tuple[Float64, Float64]:
        """Compute Jeffreys intervals of the level ``ONE_SIGMA``.

        Without a success they begin at 0, and without a failure they end at 1. For trials in other observations they
        are those of the rate in one more.

        Source: Brown, Cai and DasGupta, Interval Estimation for a Binomial Proportion (Statistical Science 16, 2001).
        """
        from scipy.special import betaincinv

        tail, shapes = (1 - ONE_SIGMA) / 2, self._posterior(self.correlation)
        low = np.where(self.successes == 0, 0.0, betaincinv(*shapes, tail))
        return low, np.where(self.successes == self.trials, 1.0, betaincinv(*shapes, 1 - tail))

    def draws(self, rng: np.random.Generator, count: int) -> Float64:
        """Draw the bins' rates from their Jeffreys posterior, shape (count, bins).

        For trials in other observations they are rates in one more, in which craters of all sizes are as easy or as
        hard to find.
        """
        from scipy.special import betaincinv

        mean = rng.beta(*self._posterior(), (count, len(self.trials)))
        if self.correlation == 0:
            return mean
        total = 1 / self.correlation - 1
        mean = np.clip(mean, _LOWEST, 1 - _LOWEST)
        return np.asarray(np.maximum(betaincinv(mean * total, (1 - mean) * total, rng.random((count, 1))), _LOWEST))

    def _posterior(self, correlation: float = 0.0) -> tuple[Float64, Float64]:
        """Compute the two shapes of the rates' beta distributions.

        Args:
            correlation: adds the variance of an observation's rate to that of the mean.
        """
        design = 1.0 if self.design is None else self.design
        variance = correlation + design / (self.trials + 2)  # of a beta distribution, in units of mean * (1 - mean)
        total = 1 / np.minimum(variance, _WIDEST) - 1
        mean = (self.successes + 0.5) / (self.trials + 1)
        return mean * total, (1 - mean) * total

    def complete_from(self) -> CompleteFrom:
        """Find the smallest diameter from which on the rate is at least ``COMPLETE``."""
        low, high = self.interval()
        return CompleteFrom(*(self._from(rates) for rates in (self.successes / self.trials, high, low)))

    def _from(self, rates: Float64) -> float | None:
        last = int(np.flatnonzero(rates < COMPLETE).max(initial=-1))
        if last < 0:
            return float(self.edges[0])
        if last == len(rates) - 1:
            return None
        share = (COMPLETE - rates[last]) / (rates[last + 1] - rates[last])
        return float(self.middles[last] ** (1 - share) * self.middles[last + 1] ** share)

    def table(self) -> pd.DataFrame:
        """List the bins, see :class:`mars_assets.craters.schema.RatesBySize`."""
        low, high = self.interval()
        return pd.DataFrame(
            {
                "diameter_from_px": self.edges[:-1],
                "diameter_to_px": self.edges[1:],
                "middle_px": self.middles,
                "trials": self.trials,
                "successes": self.successes,
                "rate": self.successes / self.trials,
                "rate_low": low,
                "rate_high": high,
            }
        )
