import numpy as np
import pytest
from scipy.stats import poisson

from mars_assets.evaluation.counts import ONE_SIGMA, WeightedCounts, poisson_interval


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


def test_equal_weights_have_the_intervals_of_counts() -> None:
    counts = np.array([0, 1, 5, 300])
    low, high = WeightedCounts(counts * 0.2, counts * 0.04, np.full(4, 0.2)).interval()
    expected_low, expected_high = poisson_interval(counts)
    assert low == pytest.approx(0.2 * expected_low)
    assert high == pytest.approx(0.2 * expected_high)


def test_an_event_of_large_weight_could_have_happened() -> None:
    """The more an event can weigh that was not seen, the higher the upper end, and the lower one stays."""
    few, more = (WeightedCounts(np.array([2.0]), np.array([1.0]), np.array([largest])) for largest in (0.5, 5.0))
    assert few.interval()[0] == more.interval()[0]
    assert few.interval()[1] < more.interval()[1]


def test_melded_intervals_of_certain_weights_are_the_same() -> None:
    counts = np.array([0.0, 3.0, 40.0])
    certain = WeightedCounts(counts, counts, np.ones(3))
    drawn = WeightedCounts(*(np.tile(part, (40_000, 1)) for part in certain))
    low, high = drawn.melded_interval(np.random.default_rng(0))
    assert low == pytest.approx(certain.interval()[0], rel=0.02)
    assert high == pytest.approx(certain.interval()[1], rel=0.02)
    nothing = WeightedCounts(*(np.zeros((10, 1)) for _ in range(3)))
    assert [end.tolist() for end in nothing.melded_interval(np.random.default_rng(0))] == [[0], [0]]


def test_uncertain_weights_widen_an_interval() -> None:
    rng = np.random.default_rng(0)
    weights = rng.lognormal(0, 0.3, (40_000, 1))
    low, high = WeightedCounts(1000 * weights, 1000 * weights**2, weights).melded_interval(rng)
    assert np.log(high / low) / 2 == pytest.approx(np.hypot(0.3, 1000**-0.5), rel=0.03)
