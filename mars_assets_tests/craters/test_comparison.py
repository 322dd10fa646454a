import importlib.util
import io
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from mars_assets.craters.comparison import Circles, circle_iou, compare, match_circles


def _circles(table: np.ndarray) -> Circles:
    return Circles.in_plane(*np.asarray(table, float).reshape(-1, 3).T)


def _drawn(rng: np.random.Generator, count: int) -> np.ndarray:
    return np.column_stack([rng.uniform(0, 200, (count, 2)), 8 * rng.uniform(0.05, 1, count) ** -0.7])


@given(apart=st.floats(0, 30), radius=st.floats(0.5, 12), other=st.floats(0.5, 12))
@settings(deadline=None, max_examples=60)
def test_overlap_is_that_of_polygons(apart: float, radius: float, other: float) -> None:
    one, two = shapely.Point(0, 0).buffer(radius, 256), shapely.Point(apart, 0).buffer(other, 256)
    expected = one.intersection(two).area / one.union(two).area
    assert circle_iou(*(np.array([value]) for value in (apart, radius, other)))[0] == pytest.approx(expected, abs=2e-4)


@given(seed=st.integers(0, 10**6), least=st.sampled_from([0.5, 0.3]))
@settings(deadline=None, max_examples=40)
def test_matching_is_greedy_by_overlap(seed: int, least: float) -> None:
    rng = np.random.default_rng(seed)
    true = _drawn(rng, 60)
    said = np.concatenate([true[:40] * rng.normal(1, [0.02, 0.02, 0.2], (40, 3)), _drawn(rng, 30)])
    pairs = sorted(
        (
            (float(circle_iou(*(np.array([v]) for v in (np.hypot(*(a - b)[:2]), a[2] / 2, b[2] / 2)))[0]), i, j)
            for i, a in enumerate(said)
            for j, b in enumerate(true)
        ),
        key=lambda pair: (-pair[0], pair[1], pair[2]),
    )
    expected, used, taken = [], set(), set()
    for overlap, i, j in pairs:
        if overlap >= least and i not in used and j not in taken:
            expected.append((i, j))
            used.add(i)
            taken.add(j)
    found = match_circles(_circles(said), _circles(true), least)
    assert sorted(zip(*(side.tolist() for side in found), strict=True)) == sorted(expected)


def test_known_errors_come_back() -> None:
    rng = np.random.default_rng(1)
    true = np.column_stack([rng.uniform(0, 10_000, (4000, 2)), rng.uniform(20, 60, 4000)])
    kept = rng.random(4000) < 0.8
    said = true[kept].copy()
    said[:, 2] *= np.exp(rng.normal(0.05, 0.06, len(said)))
    said[:, 0] += 0.1 * true[kept][:, 2]
    false = np.column_stack([rng.uniform(20_000, 30_000, (800, 2)), rng.uniform(20, 60, 800)])
    result = compare(_circles(np.concatenate([said, false])), _circles(true), 10)
    assert result.recall == pytest.approx(kept.mean(), abs=0.005)
    assert result.precision == pytest.approx(len(said) / (len(said) + 800), abs=0.005)
    assert (result.size, result.size_spread) == (pytest.approx(0.05, abs=0.005), pytest.approx(0.06, abs=0.004))
    assert result.off == pytest.approx(0.1, abs=0.002)
    low, high = result.interval("recall")
    assert low < result.recall < high
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.8 * 0.2 / 4000), rel=0.05)


def test_a_crater_next_to_the_limit_counts_by_its_true_size() -> None:
    result = compare(_circles([[0, 0, 9.5], [100, 0, 10.5]]), _circles([[0, 0, 10.5], [100, 0, 9.5]]), 10)
    assert (result.right, result.said, result.found, result.true) == (1, 1, 1, 1)


def test_nothing_agrees_with_nothing() -> None:
    nothing, one = _circles(np.empty(0)), _circles([[0, 0, 20]])
    assert np.isnan(compare(nothing, nothing, 10).precision)
    assert compare(nothing, one, 10).recall == 0
    assert compare(one, nothing, 10).precision == 0
    assert compare(one, nothing, 10).f1 == 0


def test_annotators_score_as_in_the_reference(shared: Path) -> None:
    script = shared / "trials/scenes/annotators.py"
    spec = importlib.util.spec_from_file_location("annotators", script)
    assert spec is not None
    assert spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    with redirect_stdout(io.StringIO()):
        spec.loader.exec_module(reference)
    table = pd.read_csv(shared / "data/scenes/ctx_multi_annotator/labels.csv")
    for _, tile in table.groupby("tile"):
        expert = reference.circles(tile[tile["by"] == "expert"])
        for _, own in tile[tile["by"] != "expert"].groupby("by"):
            said = reference.circles(own)
            result = compare(_circles(said), _circles(expert), 10)
            assert (result.right, result.said, result.found, result.true) == reference.match(said, expert)
