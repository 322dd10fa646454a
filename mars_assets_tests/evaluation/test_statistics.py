"""Intervals against resamples drawn and computed one by one."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mars_assets.evaluation.statistics import bootstrap_intervals, independent_units, once, ratio, with_interval


def _weighted_mean(values: np.ndarray):
    return lambda counts: {"mean": counts @ values / counts.sum(1)}


@pytest.mark.parametrize("at_once", [1, 7 * 40, 10**6], ids=["one by one", "in sevens", "all together"])
@pytest.mark.parametrize("grouped", [False, True])
def test_intervals_are_those_of_resamples_drawn_one_by_one(grouped, at_once):
    values = np.random.default_rng(1).normal(size=40)
    groups = np.repeat(["b", "a", "d", "c"], [3, 20, 7, 10]) if grouped else np.arange(40)
    rng, means = np.random.default_rng(5), []
    for _ in range(300):
        if grouped:
            names = np.unique(groups)[rng.integers(0, 4, 4)]
            sample = np.concatenate([values[groups == name] for name in names])
        else:
            sample = values[rng.integers(0, 40, 40)]
        means.append(sample.mean())
    units = 4 if grouped else 40
    tail = stats.norm.cdf(np.sqrt(units / (units - 1)) * stats.t.ppf(0.025, units - 1))
    expected = np.quantile(means, [tail, 1 - tail])
    found = bootstrap_intervals(_weighted_mean(values), groups, resamples=300, seed=5, at_once=at_once)["mean"]
    assert found == pytest.approx(tuple(expected))


@pytest.mark.parametrize("units", [4, 8, 30])
def test_intervals_of_few_observations_cover_the_truth(units: int):
    """300 samples of so many observations of ten images each, whose true mean is 0."""
    rng, groups = np.random.default_rng(0), np.repeat(np.arange(units), 10)
    covered = 0
    for seed in range(300):
        values = np.repeat(rng.normal(size=units), 10) + 0.1 * rng.normal(size=10 * units)
        intervals = bootstrap_intervals(_weighted_mean(values), groups, resamples=400, seed=seed)
        covered += intervals["mean"][0] <= 0 <= intervals["mean"][1]
    assert covered / 300 > (0.85 if units == 4 else 0.9)  # plain percentiles: 0.81, 0.86, 0.91


def test_observations_are_resampled_where_there_are_two():
    ids = pd.Series(["a", "b", "c"])
    groups, name = independent_units(pd.Series(["x", None, "y"]), ids)
    assert (groups.tolist(), name) == (["x", "b", "y"], "observations")
    for observations in (["x", None, "x"], [None, None, None]):
        groups, name = independent_units(pd.Series(observations), ids)
        assert (groups.tolist(), name) == ([0, 1, 2], "images")


def test_a_value_that_some_resamples_leave_undefined_has_the_interval_of_the_others():
    def share_of_the_second(counts):
        return {"share": ratio(counts[:, 1], counts[:, 1]), "never": np.full(len(counts), np.nan)}

    intervals = bootstrap_intervals(share_of_the_second, np.arange(2), resamples=50)
    assert intervals["share"] == (1, 1)
    assert np.isnan(intervals["never"]).all()


def test_a_ratio_without_a_whole_is_undefined():
    np.testing.assert_array_equal(ratio(np.array([1.0, 0.0, 0.0]), np.array([2.0, 0.0, 3.0])), [0.5, np.nan, 0.0])
    assert once(3).tolist() == [[1, 1, 1]]


def test_a_score_is_read_with_its_interval() -> None:
    row = {"f1": 0.9, "f1_low": 0.85, "f1_high": 0.94, "iou": None, "iou_low": None, "iou_high": None}
    row |= {"loss": 0.5, "auroc": 0.7, "auroc_low": float("nan"), "auroc_high": float("nan")}
    shown = {name: with_interval(row, name) for name in ("f1", "iou", "loss", "auroc", "absent")}
    assert shown == {"f1": "0.900 [0.850, 0.940]", "iou": "–", "loss": "0.500", "auroc": "0.700", "absent": "–"}
