"""Statistics over several trainings that are evaluated on the same images.

Seeds and observations are both random, so both are resampled, crossed: an interval over seeds alone says nothing of
other observations, and one over observations alone nothing of another training (Bouthillier et al. 2021,
arXiv:2103.03098). The interquartile mean and its stratified bootstrap are those of Agarwal et al. 2021
(arXiv:2108.13264).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mars_assets.evaluation.statistics import Floats, Statistic, once


class Estimate(NamedTuple):
    """A value with its 95 % interval; NaN where undefined."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def signed(self) -> str:
        """Format a difference."""
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


class Resampled(NamedTuple):
    """A score of several trainings.

    Args:
        value: the mean over the seeds.
        draws: the same in each resample, (R,); NaN where a drawn seed has no score on the drawn observations.
    """

    value: float
    draws: Floats

    def __sub__(self, other: Resampled) -> Resampled:
        """Subtract a score with the same resamples: the difference is paired."""
        return Resampled(self.value - other.value, self.draws - other.draws)

    def estimate(self) -> Estimate:
        """Compute the 95 % percentile interval."""
        return Estimate(self.value, *_percentiles(self.draws))

    def p_value(self) -> float:
        """Compute the two-sided p-value of a difference.

        It is twice the share of resamples on the other side of 0. With R resamples it is at least 2 / (R + 1).
        """
        finite = self.draws[np.isfinite(self.draws)]
        if not finite.size:
            return float("nan")
        beyond = min((finite <= 0).sum(), (finite >= 0).sum())
        return float(min(1.0, 2 * (beyond + 1) / (finite.size + 1)))


def resample_crossed(
    trainings: Sequence[Statistic], observations: int, *, resamples: int = 1000, seed: int = 0
) -> dict[str, Resampled]:
    """Resample observations and seeds, crossed.

    In each resample, observations and seeds are drawn with replacement, and the scores of the drawn seeds on the drawn
    observations are averaged. Results with the same groups, seed and numbers are paired.

    Args:
        trainings: the scores of each seed, as functions of how often each observation is counted, (R, observations).
        observations: their number.
        resamples: number of draws.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    seeds = len(trainings)
    draws = rng.integers(0, observations, (resamples, observations))
    counts = np.stack([np.bincount(draw, minlength=observations) for draw in draws]).astype(np.float64)
    chosen = rng.integers(0, seeds, (resamples, seeds))
    whole = [training(once(observations)) for training in trainings]
    each = [training(counts) for training in trainings]
    found = {}
    for name in whole[0]:
        of_seeds = np.stack([scores[name] for scores in each], axis=1)
        value = float(np.mean([scores[name][0] for scores in whole]))
        found[name] = Resampled(value, np.take_along_axis(of_seeds, chosen, axis=1).mean(axis=1))
    return found


def interquartile_mean(values: Floats) -> Floats:
    """Average the middle half of values, (..., n) -> (...).

    A quarter of them, rounded down, is left out at each end.
    """
    from scipy.stats import trim_mean

    return np.asarray(trim_mean(values, 0.25, axis=-1))


def interquartile_estimate(scores: Floats, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Estimate the interquartile mean over tasks and seeds.

    The interval says how far another set of seeds might lead, on the same observations.

    Args:
        scores: (tasks, seeds). Seeds are resampled within each task.
        resamples: number of draws.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    tasks, seeds = scores.shape
    drawn = scores[np.arange(tasks)[:, None], rng.integers(0, seeds, (resamples, tasks, seeds))]
    draws = interquartile_mean(drawn.reshape(resamples, -1))
    return Estimate(float(interquartile_mean(scores.ravel())), *_percentiles(draws))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number.

    Source: Holm 1979 (Scandinavian Journal of Statistics 6).
    """
    values = np.asarray(p_values, np.float64)
    order = np.argsort(values, kind="stable")
    scaled = np.maximum.accumulate((len(values) - np.arange(len(values))) * values[order])
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(scaled, 1.0)
    return [float(value) for value in corrected]


def _percentiles(draws: Floats) -> tuple[float, float]:
    finite = draws[np.isfinite(draws)]
    if not finite.size:
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [0.025, 0.975])
    return float(low), float(high)
