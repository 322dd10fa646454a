"""Intervals of counts."""

from __future__ import annotations

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
