import numpy as np
import pytest
from scipy.stats import poisson

from mars_assets.evaluation.counts import ONE_SIGMA, poisson_interval


def test_ends_are_the_means_for_which_the_count_is_just_extreme() -> None:
    counts = np.array([0, 1, 5, 300])
    low, high = poisson_interval(counts)
    assert poisson.cdf(counts, high) == pytest.approx((1 - ONE_SIGMA) / 2)
    assert low[0] == 0
    assert poisson.sf(counts[1:] - 1, low[1:]) == pytest.approx((1 - ONE_SIGMA) / 2)


def test_one_sigma_of_few_counts_is_that_of_the_tables() -> None:
    """Gehrels, Confidence Limits for Small Numbers of Events (ApJ 303, 1986), tables 1 and 2."""
    low, high = poisson_interval([0, 1, 10])
    assert low == pytest.approx([0, 0.173, 6.891], abs=2e-3)
    assert high == pytest.approx([1.841, 3.300, 14.27], abs=5e-3)
