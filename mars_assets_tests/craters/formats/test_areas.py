"""Areas of several scenes, against plain polygons of an equal-area projection around the place."""

from __future__ import annotations

import functools

import numpy as np
import pyproj
import pytest
import shapely
import shapely.affinity

from mars_assets.craters.crater_map import CraterMap
from mars_assets.craters.formats.areas import added_shares, in_plane, square_metres, united
from mars_assets.craters.formats.shapes import ground_parts
from mars_assets_tests.craters.formats.scenes import PROJECTIONS, RADIUS, random_map, transform_at
from mars_assets_tests.craters.formats.test_craterstats_files import AROUND_THE_POLE, POLAR, WORLDS
from mars_assets_tests.craters.lakes import scene_around

PLACES = {
    "somewhere": (100.0, 47.0),
    "across 0": (0.0, 10.0),
    "next to 0": (359.99, -60.0),
    "across 180": (180.0, -30.0),
    "north pole": (0.0, 90.0),
    "next to a pole": (77.0, -89.99),
}
BOX = shapely.box(-3000, -2000, 3000, 2000)
SETS = {
    "identical": [BOX, BOX],
    "nested": [BOX, shapely.box(-500, -800, 900, 700)],
    "around the first": [shapely.box(-500, -800, 900, 700), BOX],
    "disjoint": [BOX, shapely.affinity.translate(BOX, 20_000, 9000)],
    "crossing": [shapely.affinity.rotate(BOX, angle) for angle in (0, 20, 70, 110)],
    "a hole that the next fills": [BOX - shapely.box(-800, -900, 700, 400), shapely.box(-900, -1000, 1000, 0)],
    "next to each other": [BOX, shapely.affinity.translate(BOX, 6000, 0)],
}


def plane_of(crater_map: CraterMap) -> shapely.MultiPolygon:
    return in_plane(ground_parts(crater_map))


@functools.cache
def drawn(place: tuple[float, float], *shapes: shapely.Geometry) -> list[shapely.MultiPolygon]:
    nothing = np.empty((0, 3))
    return [plane_of(scene_around("s", place, nothing, counted=shape)) for shape in shapes]


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("shapes", SETS.values(), ids=SETS)
def test_each_scene_adds_what_none_before_it_has(place: tuple[float, float], shapes: list[shapely.Polygon]) -> None:
    planes = drawn(place, *shapes)
    areas = np.array([square_metres(plane) for plane in planes])
    np.testing.assert_allclose(areas, [shape.area for shape in shapes], rtol=1e-6)
    added = [shape.difference(shapely.union_all(shapes[:number])).area for number, shape in enumerate(shapes)]
    np.testing.assert_allclose(added_shares(planes) * areas, added, rtol=1e-6, atol=1e-6 * areas.max())
    whole = shapely.union_all(shapes).area
    assert (added_shares(planes) * areas).sum() == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("shapes", SETS.values(), ids=SETS)
def test_the_union_for_ages(place: tuple[float, float], shapes: list[shapely.Polygon]) -> None:
    parts = united(drawn(place, *shapes))
    assert all(part.is_valid for part in parts)
    geod = pyproj.Geod(a=RADIUS, b=RADIUS)
    area = sum(abs(geod.geometry_area_perimeter(part)[0]) for part in parts)
    assert area == pytest.approx(shapely.union_all(shapes).area, rel=2e-4), "it is simplified by half a metre"
    for number, part in enumerate(parts):
        for other in parts[:number]:
            copies = [shapely.affinity.translate(other, turn) for turn in (-360, 0, 360)]
            assert all(part.intersection(copy).length == 0 for copy in copies), "no shared edges"
    assert max(np.abs(shapely.bounds(parts)[:, [1, 3]]).ravel()) < 90, "no pole"


def test_an_island_comes_before_the_ring_around_it() -> None:
    """craterstats takes what lies in a polygon and comes after it for its hole."""
    ring, island = BOX - shapely.box(-1000, -1000, 1000, 1000), shapely.box(-300, -300, 300, 300)
    parts = united(drawn((100.0, 47.0), ring, island))
    assert [len(part.interiors) for part in parts] == [0, 1]
    assert sum(len(part.exterior.coords) for part in parts) < 30, "straight edges need few vertices"


@pytest.mark.parametrize("name", PROJECTIONS)
def test_areas_in_the_plane(name: str) -> None:
    crs, place = PROJECTIONS[name]
    crater_map = random_map(crs, transform_at(crs, place, turn=0.3), n=1)
    plane = plane_of(crater_map)
    radius = pyproj.CRS(crs).ellipsoid.semi_major_metre
    assert plane.is_valid
    assert square_metres(plane) * (radius / RADIUS) ** 2 == pytest.approx(crater_map.counted_m2, rel=1e-6)
    west, south, east, north = plane.bounds
    assert 0 <= west < east <= 360
    assert -90 <= south < north <= 90


@pytest.mark.parametrize("counted", AROUND_THE_POLE.values(), ids=AROUND_THE_POLE)
@pytest.mark.parametrize("pixel", [0.25, 100.0])
def test_areas_at_a_pole(counted: shapely.Polygon, pixel: float) -> None:
    shape = shapely.MultiPolygon([counted])
    crater_map = random_map(POLAR, (pixel, 0.0, 0.0, 0.0, -pixel, 0.0), n=1, counted=shape)
    plane = plane_of(crater_map)
    assert plane.is_valid
    assert square_metres(plane) == pytest.approx(crater_map.counted_m2, rel=1e-6)
    rng = np.random.default_rng(0)
    places = rng.uniform(-1000, 1000, (500, 2))
    x, y = places.T * [[pixel], [-pixel]]
    longitude, latitude = pyproj.Proj(POLAR)(x, y, inverse=True)
    clear = shapely.distance(counted.boundary, shapely.points(places)) > 0.1
    inside = shapely.intersects_xy(plane, np.asarray(longitude) % 360, latitude)
    np.testing.assert_array_equal(inside[clear], shapely.contains_xy(counted, places)[clear])


@pytest.mark.parametrize(("crs", "transform"), WORLDS.values(), ids=WORLDS)
def test_all_of_mars(crs: str, transform: tuple[float, ...]) -> None:
    whole = shapely.MultiPolygon([shapely.box(0, 0, 1000, 500)])
    plane = plane_of(random_map(crs, transform, n=1, counted=whole))
    assert square_metres(plane) == pytest.approx(4 * np.pi * RADIUS**2, rel=1e-6)
    scene = drawn((0.0, 90.0), BOX)
    np.testing.assert_allclose(added_shares([plane, *scene]), [1, 0], atol=1e-3)
    np.testing.assert_allclose(added_shares([*scene, plane])[0], 1)


def test_no_areas() -> None:
    assert added_shares([]).tolist() == []


def test_parts_that_touch_themselves_at_a_pole_stay() -> None:
    """Made valid, they are a collection with a line in it."""
    crs = pyproj.Proj(f"+proj=laea +lat_0=89.99 +lon_0=33 +R={RADIUS}")
    scene = scene_around("A", crs(2000, 0, inverse=True), np.empty((0, 3)), side=(8000, 8000), crs=crs.srs)
    assert square_metres(in_plane(ground_parts(scene))) == pytest.approx(scene.counted_m2, rel=1e-6)
