"""Several scenes as one catalogue."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import shapely

from mars_assets.craters.catalogue import Catalogue, CountedScene
from mars_assets.craters.joining import Joined, catalogue_of
from mars_assets.craters.scenes import MappedScene
from mars_assets_tests.craters.lakes import field, seen
from mars_assets_tests.craters.test_shifts import circles

SIDE = (6000.0, 4000.0)
PLACE = (100.0, 47.0)


def scene(
    name: str,
    craters: np.ndarray,
    place: tuple[float, float] = PLACE,
    *,
    smallest_m: float = 4.0,
    pixel: float = 0.5,
    counted: shapely.Geometry | None = None,
    **columns: Any,
) -> MappedScene:
    """A scene of craters in metres around a place, all of it counted."""
    centres = circles(craters, place).centres
    n = len(craters)
    table = {
        "crater_id": pd.Series([f"{name}_{number}" for number in range(n)], dtype=str),
        "longitude": np.degrees(np.arctan2(centres[:, 1], centres[:, 0])) % 360,
        "latitude": np.degrees(np.arctan2(centres[:, 2], np.hypot(centres[:, 0], centres[:, 1]))),
        "diameter_m": craters[:, 2].astype(float),
        "diameter_px": craters[:, 2] / pixel,
        **dict.fromkeys(("axis_ratio", "roundness", "rim_coverage", "confidence", "probability"), np.full(n, 0.9)),
        "angle": np.full(n, 10.0),
        "cut": np.zeros(n, bool),
        **columns,
    }
    south, north = np.clip([place[1] - 1, place[1] + 1], -90, 90)
    area = shapely.box(place[0] - 1, south, place[0] + 1, north) if counted is None else counted
    whole = shapely.MultiPolygon([area])
    ground = CountedScene(name, smallest_m, pixel, whole, 1e6, 1e6, f"key of {name}", "seg_model v1")
    return MappedScene(ground, pd.DataFrame(table))


def names(joined: Joined) -> list[str]:
    return sorted(joined.catalogue.craters["scenes"])


def test_one_scene_is_its_catalogue() -> None:
    craters = field(np.random.default_rng(0), 50, SIDE)
    catalogue, shifts = catalogue_of([scene("A", craters)])
    assert len(shifts) == 0
    assert (catalogue.craters["scenes"] == "A").all()
    assert catalogue.craters["counted"].all()
    np.testing.assert_allclose(catalogue.craters["diameter_m"], np.sort(craters[:, 2])[::-1])
    assert catalogue.scenes[0].added_m2 == 1e6


@pytest.mark.parametrize("count", [0, 1])
def test_hardly_any_craters(count: int) -> None:
    craters = field(np.random.default_rng(0), count, SIDE)
    joined = catalogue_of([scene("A", craters), scene("B", np.empty((0, 3))), scene("C", craters)])
    assert names(joined) == ["A C"] * count
    assert [s.added_m2 for s in joined.catalogue.scenes] == [1e6, 0, 0]


@pytest.mark.parametrize("place", [PLACE, (0.0, 5.0), (180.0, -50.0), (0.0, 90.0), (11.0, -89.999)])
@pytest.mark.parametrize("apart", [0, 30, 200])
def test_the_same_craters_are_one_row(place: tuple[float, float], apart: float) -> None:
    """Three scenes that are shifted against each other, in which craters are missed and false."""
    rng = np.random.default_rng(1)
    true = field(rng, 400, SIDE)
    scenes, of = [], {}
    for number, name in enumerate("ABC"):
        craters, which = seen(rng, true, SIDE, recall=0.6, precision=0.7)
        craters[:, :2] += [[0, 0], [apart, 0], [0, -apart]][number]
        scenes.append(scene(name, craters, place))
        of |= {f"{name}_{row}": int(one) for row, one in enumerate(which)}
    joined = catalogue_of(scenes)
    rows = joined.catalogue.craters
    assert sum(len(s.craters) for s in scenes) == rows["scenes"].str.split().str.len().sum()
    numbers = rows["crater_id"].map(of)
    found = numbers[numbers >= 0]
    assert len(found) - found.nunique() <= 0.06 * found.nunique(), "twice in the catalogue"
    often = {number: sum(number in (of[f"{s.ground.scene}_{row}"] for row in range(len(s.craters))) for s in scenes)
             for number in set(found)}  # fmt: skip
    right = [len(said.split()) == often[one] for said, one in zip(rows["scenes"], numbers, strict=True) if one >= 0]
    assert np.mean(right) > 0.9
    assert joined.shifts["significant"].all()
    assert joined.shifts[["scene", "other"]].to_numpy().tolist() == [["A", "B"], ["A", "C"], ["B", "C"]]
    several = rows["scenes"].str.split()
    for pair in joined.shifts.itertuples():
        assert pair.same_craters == sum({pair.scene, pair.other} <= set(found) for found in several)
    if abs(place[1]) < 80:
        shift = joined.shifts.iloc[0]
        assert np.hypot(shift["east_m"] - apart, shift["north_m"]) < 1


def test_scenes_of_other_ground_have_nothing_in_common() -> None:
    rng = np.random.default_rng(2)
    joined = catalogue_of([scene("A", field(rng, 200, SIDE)), scene("B", field(rng, 200, SIDE), (101.0, 47.0))])
    assert len(joined.catalogue.craters) == 400
    assert len(joined.shifts) == 0


def test_without_a_significant_shift_there_is_none() -> None:
    craters = np.array([[0.0, 0, 50], [900, 0, 60]])
    joined = catalogue_of([scene("A", craters), scene("B", craters + np.array([3, 0, 0]))])
    assert names(joined) == ["A B", "A B"]
    (shift,) = joined.shifts.itertuples()
    assert (shift.east_m, shift.north_m, shift.significant, shift.same_craters) == (0, 0, False, 2)


def test_nested_craters_stay_apart() -> None:
    nested = np.array([[0.0, 0, 100], [5, 0, 80], [-5, 0, 64]])
    assert names(catalogue_of([scene("A", nested)])) == ["A"] * 3
    assert names(catalogue_of([scene("A", nested), scene("B", nested)])) == ["A B"] * 3
    assert names(catalogue_of([scene("A", nested), scene("B", nested[1:2])])) == ["A", "A", "A B"]
    assert names(catalogue_of([scene(name, nested) for name in "ABCD"])) == ["A B C D"] * 3


def test_the_closest_pairs_come_first() -> None:
    one, other = np.array([[0.0, 0, 100]]), np.array([[20.0, 0, 100], [5, 0, 100]])
    joined = catalogue_of([scene("A", one), scene("B", other)])
    rows = joined.catalogue.craters.set_index("crater_id")["scenes"]
    assert rows["B_0"] == "B"
    assert len(rows) == 2


def test_no_chain_joins_craters_of_other_sizes() -> None:
    """Each is like the next one, but the last is twice as large as the first."""
    sizes = 100 * np.exp([0, 0.4, 0.8])
    joined = catalogue_of([scene(name, np.array([[0.0, 0, d]])) for name, d in zip("ABC", sizes, strict=True)])
    assert len(joined.catalogue.craters) == 2


def test_the_values_are_those_of_the_scene_that_shows_it_best() -> None:
    crater = np.array([[0.0, 0, 100]])
    coarse, fine = scene("coarse", crater, pixel=6.0, smallest_m=60), scene("fine", crater * 1.01, pixel=0.5)
    rows = catalogue_of([coarse, fine]).catalogue.craters
    assert rows[["scene", "diameter_m", "diameter_px"]].to_numpy().tolist() == [["fine", 101, 202]]
    cut = scene("fine", crater * 1.01, pixel=0.5, cut=np.ones(1, bool))
    assert catalogue_of([coarse, cut]).catalogue.craters["scene"].tolist() == ["coarse"]
    unsure = scene("unsure", crater, probability=np.array([np.nan]))
    sure, surer = (
        scene("sure", crater, probability=np.array([0.3])),
        scene("surer", crater, probability=np.array([0.4])),
    )
    assert catalogue_of([unsure, sure, surer]).catalogue.craters["scene"].tolist() == ["surer"]
    assert catalogue_of([unsure, sure]).catalogue.craters["scene"].tolist() == ["sure"]


def test_what_is_counted_where_scenes_differ_in_resolution() -> None:
    """A crater counts where its size is listed everywhere, which is the area by which its number is divided."""
    west, east = shapely.box(99, 46, 100, 48), shapely.box(100, 46, 101, 48)
    craters = np.array([[-900.0, 0, 20], [900, 0, 20], [-900, 900, 80], [900, 900, 80]])
    fine = scene("fine", craters[craters[:, 0] < 0], counted=west, smallest_m=10)
    coarse = scene("coarse", craters, counted=shapely.union(west, east), smallest_m=60, pixel=6)
    catalogue = catalogue_of([coarse, fine]).catalogue
    assert [s.scene for s in catalogue.scenes] == ["fine", "coarse"]
    rows = catalogue.craters
    small = rows[rows["diameter_m"] == 20]
    assert (small["counted"] == (small["longitude"] < 100)).all()
    assert rows[rows["diameter_m"] == 80]["counted"].all()
    np.testing.assert_allclose(catalogue.area_m2([5, 10, 59, 60, 1000]), [0, 1e6, 1e6, 1.5e6, 1.5e6])


def test_outside_of_the_counted_area() -> None:
    half = shapely.box(100, 46, 101, 48)
    craters = np.array([[-900.0, 0, 20], [900, 0, 20]])
    rows = catalogue_of([scene("A", craters, counted=half)]).catalogue.craters
    assert rows["counted"].tolist() == (rows["longitude"] > 100).tolist()


def test_the_order_of_scenes_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    true = field(rng, 200, SIDE)
    scenes = [scene(name, seen(rng, true, SIDE, 0.7, 0.8)[0]) for name in "ABCD"]
    one, other = catalogue_of(scenes), catalogue_of(scenes[::-1])
    pd.testing.assert_frame_equal(one.catalogue.craters, other.catalogue.craters)
    pd.testing.assert_frame_equal(one.shifts, other.shifts)


def test_areas_by_size() -> None:
    grounds = [
        CountedScene(str(size), size, 1.0, shapely.MultiPolygon(), 5.0, added, "", "")
        for size, added in ((10, 5.0), (20, 3.0))
    ]
    catalogue = Catalogue(pd.DataFrame(), grounds)
    assert catalogue.area_m2([9.9, 10, 15, 20, 99]).tolist() == [0, 5, 5, 8, 8]
