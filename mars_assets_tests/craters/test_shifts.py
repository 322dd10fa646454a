"""Shifts between scenes, found from craters of which some are missed and some false."""

from __future__ import annotations

import numpy as np
import pytest

from mars_assets.craters.comparison import Circles
from mars_assets.craters.crater_map import IAU_RADIUS
from mars_assets.craters.shifts import relative_shift, same_craters
from mars_assets_tests.craters.lakes import field, seen

SIDE = (6000.0, 4000.0)
DIRECTION = np.array([0.8, -0.6])


def circles(craters: np.ndarray, place: tuple[float, float] = (100.0, 47.0)) -> Circles:
    """Craters in metres around a place, straight up from the ground there, which is flat enough."""
    east, north = np.radians(place)
    up = np.array([np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north)])
    right = np.array([-np.sin(east), np.cos(east), 0])
    frame = np.stack([right, np.cross(up, right)])
    places = IAU_RADIUS * up + craters[:, :2] @ frame
    return Circles(places * IAU_RADIUS / np.linalg.norm(places, axis=1, keepdims=True), craters[:, 2])


@pytest.mark.parametrize("apart", [0, 30, 200, 450])
@pytest.mark.parametrize(("count", "smallest"), [(60, 5.0), (2000, 5.0), (300, 60.0)])
@pytest.mark.parametrize("place", [(100.0, 47.0), (0.0, 0.0), (180.0, -60.0), (30.0, 90.0)])
def test_shifts_are_found(apart: float, count: int, smallest: float, place: tuple[float, float]) -> None:
    rng = np.random.default_rng(count)
    true = field(rng, count, SIDE, smallest)
    (one, of_one), (other, of_other) = (seen(rng, true, SIDE, recall=0.6, precision=0.7) for _ in range(2))
    other[:, :2] += apart * DIRECTION
    here, there = circles(one, place), circles(other, place)
    shift = relative_shift(here, there)
    assert shift is not None
    assert shift.votes > 4 * shift.expected
    if place[1] < 90:
        assert np.hypot(shift.east - 0.8 * apart, shift.north + 0.6 * apart) < 0.2 * smallest
    assert np.hypot(shift.east, shift.north) == pytest.approx(np.linalg.norm(shift.vector))
    first, second, _ = same_craters(here, Circles(there.centres - shift.vector, there.diameter))
    both = np.intersect1d(of_one[of_one >= 0], of_other[of_other >= 0])
    right = (of_one[first] == of_other[second]) & (of_one[first] >= 0)
    assert right.sum() >= 0.9 * len(both)


@pytest.mark.parametrize("clustered", [False, True])
@pytest.mark.parametrize(("count", "smallest"), [(15, 5.0), (60, 5.0), (2000, 5.0), (300, 60.0)])
def test_other_craters_have_no_shift(clustered: bool, count: int, smallest: float) -> None:
    accepted = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        scenes = [field(rng, count, SIDE, smallest) for _ in range(2)]
        if clustered:
            for scene in scenes:
                third = count // 3
                middle = rng.uniform(-0.5, 0.5, (3, 2)) * SIDE
                scene[:third, :2] = middle[rng.integers(0, 3, third)] + rng.normal(0, 100, (third, 2))
        accepted += relative_shift(*map(circles, scenes)) is not None
    assert accepted <= 1


@pytest.mark.parametrize(("mine", "theirs"), [(0, 0), (0, 50), (1, 1), (3, 50)])
def test_too_few_craters(mine: int, theirs: int) -> None:
    craters = field(np.random.default_rng(0), 50, SIDE)
    assert relative_shift(circles(craters[:mine]), circles(craters[:theirs])) is None


def test_far_apart() -> None:
    craters = field(np.random.default_rng(0), 50, SIDE)
    assert relative_shift(circles(craters), circles(craters, (101.0, 47.0))) is None
    assert relative_shift(circles(craters), circles(craters + np.array([300, 600, 0]))) is None, "beyond the reach"


def test_same_craters_by_the_rule_of_merging() -> None:
    one = circles(np.array([[0.0, 0, 100], [1000, 0, 100], [2000, 0, 100], [0, 900, 100]]))
    other = circles(np.array([[39.0, 0, 100], [1041, 0, 100], [2000, 0, 180], [0, 900, 184]]))
    first, second, differs = same_craters(one, other)
    assert sorted(zip(first, second, strict=True)) == [(0, 0), (2, 2)]
    assert differs.max() < 1
