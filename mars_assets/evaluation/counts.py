"""Intervals of counts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

ONE_SIGMA = 0.6827
"""Share of a normal distribution within one standard deviation, the usual level for crater counts."""


def poisson_interval(counts: npt.ArrayLike) -> tuple[Float64, Float64]:
    """Compute exact central intervals of the means behind Poisson counts.

    An interval contains the mean with a probability of at least ``ONE_SIGMA``.

    Args:
        counts: numbers of events, 0 or more.

    Returns:
        The lower and upper ends; the lower one of 0 events is 0.

    Source: Garwood, Fiducial Limits for the Poisson Distribution (Biometrika 28, 1936).
    """
    from scipy.special import gammaincinv

    counts = np.asarray(counts, np.float64)
    tail = (1 - ONE_SIGMA) / 2
    # The quantiles of chi squared with 2n degrees of freedom are twice those of the gamma distribution of shape n.
    low = np.where(counts > 0, gammaincinv(np.maximum(counts, 1), tail), 0.0)
    return low, np.asarray(gammaincinv(counts + 1, 1 - tail))


class WeightedCounts(NamedTuple):
    """Sums of Poisson counts that are weighted, in arrays of one shape.

    Args:
        total: sum of the weights of all events.
        squares: sum of their squares.
        largest: largest weight that an event can have.
    """

    total: Float64
    squares: Float64
    largest: Float64

    def interval(self) -> tuple[Float64, Float64]:
        """Compute central intervals of the expected sums, of the level ``ONE_SIGMA``.

        They are gamma distributions' of the same mean and variance, the upper one after another event of the largest
        weight. With equal weights they are :func:`poisson_interval`'s.

        Returns:
            The lower and upper ends; the lower one of no event is 0.

        Source: Fay and Feuer, Confidence Intervals for Directly Standardized Rates: a Method Based on the Gamma
        Distribution (Statistics in Medicine 16, 1997).
        """
        from scipy.special import gammaincinv

        tail = (1 - ONE_SIGMA) / 2
        (low_shape, low_scale), (high_shape, high_scale) = self._gammas()
        return low_scale * gammaincinv(low_shape, tail), high_scale * gammaincinv(high_shape, 1 - tail)

    def melded_interval(self, rng: np.random.Generator) -> tuple[Float64, Float64]:
        """Compute intervals of sums whose weights are uncertain, too.

        Where the weights are certain, these are :meth:`interval`'s.

        Args:
            rng: for a draw from the gamma distributions of each draw of the weights. Axis 0 is that of the draws.

        Returns:
            The lower and upper ends, without that axis.

        Source: Fay, Proschan and Brittain, Combining One-sample Confidence Procedures for Inference in the Two-sample
        Case (Biometrics 71, 2015).
        """
        tail = (1 - ONE_SIGMA) / 2
        low, high = (scale * rng.standard_gamma(shape) for shape, scale in self._gammas())
        return np.quantile(low, tail, axis=0), np.quantile(high, 1 - tail, axis=0)

    def _gammas(self) -> tuple[tuple[Float64, Float64], tuple[Float64, Float64]]:
        """Compute shape and scale of the distributions for the lower and the upper end."""
        some = self.total > 0
        total, squares = np.where(some, self.total, 1), np.where(some, self.squares, 1)
        weighty = self.largest > 0
        more = np.where(weighty, self.total + self.largest, 1)
        more_squares = np.where(weighty, self.squares + self.largest**2, 1)
        low, high = squares / total, more_squares / more
        return (total / low, np.where(some, low, 0)), (more / high, np.where(weighty, high, 0))
