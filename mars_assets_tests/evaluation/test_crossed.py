"""Intervals over seeds and observations."""

import functools

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from mars_assets.evaluation.crossed import Resampled, holm, interquartile_estimate, interquartile_mean, resample_crossed


def accuracy(right: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    return {"accuracy": counts @ right / counts.sum(1)}


def trainings(right: np.ndarray) -> list:
    """Take scores of (seeds, observations, images)."""
    return [functools.partial(accuracy, one.mean(1)) for one in right]


def test_the_value_is_the_mean_over_seeds():
    right = np.random.default_rng(0).integers(0, 2, (7, 15, 4)).astype(float)
    found = resample_crossed(trainings(right), 15)["accuracy"]
    assert found.value == pytest.approx(right.mean())
    assert found.draws.shape == (1000,)


def test_the_interval_covers_new_observations_and_seeds():
    """Of 95 % intervals nine in ten cover at least, where those of one source of chance cover half to nine in ten."""
    rng, covered, of_seeds, n = np.random.default_rng(1), 0, 0, 300
    units, each, seeds, truth = 30, 6, 5, 0.8
    for trial in range(n):
        centre = truth + rng.normal(0, 0.08, (1, units, 1)) + rng.normal(0, 0.04, (seeds, 1, 1))
        scores = centre + rng.normal(0, 0.1, (seeds, units, each))
        found = resample_crossed(trainings(scores), units, resamples=300, seed=trial)
        low, high = found["accuracy"].estimate()[1:]
        covered += low <= truth <= high
        alone = interquartile_estimate(scores.mean((1, 2))[None], 300, trial)
        of_seeds += alone.low <= truth <= alone.high
    assert covered / n >= 0.9
    assert of_seeds / n < covered / n


def test_differences_are_paired():
    rng = np.random.default_rng(2)
    worse = rng.random((5, 30, 3)) < 0.7
    better = worse | (rng.random((5, 30, 3)) < 0.2)
    first, second = (resample_crossed(trainings(x.astype(float)), 30)["accuracy"] for x in (better, worse))
    difference = (first - second).estimate()
    apart = first.estimate().high - first.estimate().low
    assert difference.value == pytest.approx(first.value - second.value)
    assert difference.low > 0  # no image of any seed is worse
    assert difference.high - difference.low < apart


def test_undefined_draws_are_left_out():
    found = Resampled(0.5, np.array([np.nan, 0.4, 0.6, 0.5]))
    assert found.estimate().low >= 0.4
    nothing = Resampled(np.nan, np.full(3, np.nan))
    assert np.isnan(nothing.estimate().low)
    assert np.isnan(nothing.p_value())


@pytest.mark.parametrize(("draws", "expected"), [([1.0] * 999, 0.002), ([-1.0] * 999, 0.002), ([1.0, -1.0] * 500, 1.0)])
def test_p_value(draws: list[float], expected: float):
    assert Resampled(0.0, np.array(draws)).p_value() == pytest.approx(expected)


def test_interquartile_mean_leaves_out_a_quarter_at_each_end():
    assert interquartile_mean(np.array([100.0, 1, 2, 3, 4, 5, -50])) == pytest.approx(3.0)
    assert interquartile_mean(np.array([[0.0, 1, 2, 9], [4, 4, 4, 4]])).tolist() == [1.5, 4.0]


def test_interquartile_estimate_resamples_within_tasks():
    """Tasks of different level, without any chance in their seeds, have an interval without width."""
    found = interquartile_estimate(np.array([[0.2] * 5, [0.8] * 5]))
    assert found.low == found.value == found.high == pytest.approx(0.5)


def test_holm():
    """By hand, from the definition: each is multiplied by how many are left, and none is below the one before."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    random = np.random.default_rng(3).random(20)
    # Holm's is never below Benjamini and Hochberg's, which controls less.
    assert (np.array(holm(random)) >= false_discovery_control(random) - 1e-12).all()
