import numpy as np
import pyproj
import pytest
import shapely
from rasterio.crs import CRS

from mars_assets.errors import MarsError
from mars_assets.imagery.geolocation import approximate_positions, ground_area, ground_diameters, projected_positions
from mars_assets.sample.products import MapPosition
from mars_assets_tests.imagery.test_index import REAL

RADIUS_KM = 3389.5


def test_projected_positions_are_the_maps() -> None:
    position = MapPosition.at(-33.0, 251.0)
    x = (position.left + np.array([0.0, 100.0, 5000.0])) * 0.5
    y = (position.top - np.array([0.0, 300.0, 7000.0])) * 0.5
    longitude, latitude = projected_positions(position.crs, x, y)
    np.testing.assert_allclose(longitude, [position.longitude(column) for column in (0, 100, 5000)], atol=1e-9)
    np.testing.assert_allclose(latitude, [position.latitude(row) for row in (0, 300, 7000)], atol=1e-9)


def test_polar_positions_by_hand() -> None:
    """On the sphere of a polar product: along 90 degrees east, 1 and 5 degrees from the south pole."""
    radius = 3376200.0
    crs = f"+proj=stere +lat_0=-90 +lon_0=0 +R={radius}"
    distance = 2 * radius * np.tan(np.radians([1.0, 5.0]) / 2)
    longitude, latitude = projected_positions(crs, distance, np.zeros(2))
    np.testing.assert_allclose(longitude, [90, 90], atol=1e-9)
    np.testing.assert_allclose(latitude, [-89, -85], atol=1e-9)


def test_latitudes_of_an_ellipsoid_are_planetocentric() -> None:
    crs = "+proj=eqc +lat_ts=0 +lon_0=0 +a=3396190 +b=3376200"
    one_degree = np.radians(1) * 3396190
    _, latitude = projected_positions(crs, np.zeros(1), np.array([45 * one_degree]))
    graphic = latitude[0]
    assert 44.5 < graphic < 44.99, "centric latitudes are smaller than graphic ones"
    _, latitude = projected_positions(CRS.from_string(crs).to_wkt(), np.zeros(1), np.array([45 * one_degree]))
    assert latitude[0] == pytest.approx(graphic, abs=1e-6), "WKT states the flattening and no polar radius"


MARS = 3396190.0
MAPS = {
    "RDR at 30": (f"+proj=eqc +lat_ts=30 +lon_0=180 +R={MARS - 5000}", (31.0, 33.0)),
    "true at the equator": (f"+proj=eqc +lat_ts=0 +lon_0=0 +R={MARS}", (-62.0, 62.0)),
    "polar": (f"+proj=stere +lat_0=-90 +lon_0=0 +R={MARS}", (-89.9, -60.0)),
    "sinusoidal": (f"+proj=sinu +lon_0=77 +R={MARS}", (-50.0, 50.0)),
    "kilometres": (f"+proj=laea +lat_0=10 +lon_0=75 +R={MARS} +units=km", (0.0, 20.0)),
    "degrees": (f"+proj=longlat +R={MARS}", (-70.0, 70.0)),
    "IAU's": ("IAU_2015:49910", (40.0, 60.0)),
}


@pytest.mark.parametrize("form", ["given", "WKT"])
@pytest.mark.parametrize(("crs", "latitudes"), MAPS.values(), ids=MAPS)
def test_diameters_are_those_of_circles_drawn_on_the_ground(
    crs: str, latitudes: tuple[float, float], form: str
) -> None:
    """Circles by PROJ's geodesics on the sphere, their areas by the polygons of the map."""
    system = pyproj.CRS.from_user_input(crs)
    rng = np.random.default_rng(0)
    longitude, latitude = rng.uniform(70, 85, 20), rng.uniform(*latitudes, 20)
    true = 10 ** rng.uniform(1, 4.5, 20)
    radius = system.ellipsoid.semi_major_metre
    azimuths, half = np.arange(0, 360, 0.5), np.repeat(true / 2, 720)
    rim_longitude, rim_latitude, _ = pyproj.Geod(a=radius, b=radius).fwd(
        *(np.repeat(values, 720) for values in (longitude, latitude)), np.tile(azimuths, 20), half
    )
    to_map = pyproj.Proj(system)
    place = (lambda x, y: (np.asarray(x), np.asarray(y))) if system.is_geographic else to_map
    x, y = (np.reshape(values, (20, 720)) for values in place(rim_longitude, rim_latitude))
    areas = np.abs((x * np.roll(y, -1, axis=1) - np.roll(x, -1, axis=1) * y).sum(axis=1)) / 2
    centres = place(longitude, latitude)
    diameters = ground_diameters(system.to_wkt() if form == "WKT" else crs, *centres, areas)
    np.testing.assert_allclose(diameters, true, rtol=5e-4)


def test_an_equirectangular_map_stretches_what_lies_north_of_its_true_scale() -> None:
    """By 41 % at 60 degrees: half a square metre of ground is a square metre of the map."""
    x, area = np.zeros(1), np.array([100.0])
    y = np.radians([60.0]) * MARS
    (diameter,) = ground_diameters(MAPS["true at the equator"][0], x, y, area)
    assert diameter == pytest.approx(np.sqrt(100 * 0.5 * 4 / np.pi), rel=1e-6)


@pytest.mark.parametrize("product", REAL)
def test_corners_are_met(product: str) -> None:
    corners = REAL[product]
    rows, cols = np.array([0.0, 0, 1000, 1000]), np.array([0.0, 400, 400, 0])
    longitude, latitude = approximate_positions(corners, 1000, 400, rows, cols)
    np.testing.assert_allclose(latitude, corners[::2], atol=1e-9)
    np.testing.assert_allclose(longitude, corners[1::2], atol=1e-9)


@pytest.mark.parametrize("product", REAL)
def test_the_image_is_not_mirrored(product: str) -> None:
    """Along samples, then along lines, is clockwise on the ground as it is in the image."""
    longitude, latitude = approximate_positions(REAL[product], 2, 2, np.array([1.0, 1, 1.5]), np.array([1.0, 1.5, 1]))
    east = (longitude - longitude[0]) * np.cos(np.radians(latitude[0]))
    north = latitude - latitude[0]
    along_samples, along_lines = (east[1], north[1]), (east[2], north[2])
    assert along_samples[0] * along_lines[1] - along_samples[1] * along_lines[0] < 0


def test_over_the_prime_meridian_and_the_pole() -> None:
    longitude, latitude = approximate_positions(
        [0.0, 359.9, 0.0, 0.1, -0.2, 0.1, -0.2, 359.9], 10, 10, np.array([5.0]), np.array([5.0])
    )
    assert min(longitude[0], 360 - longitude[0]) < 1e-9
    assert latitude[0] == pytest.approx(-0.1, abs=1e-6)
    _, latitude = approximate_positions(
        [89.9, 0.0, 89.9, 90.0, 89.9, 180.0, 89.9, 270.0], 10, 10, np.array([5.0]), np.array([5.0])
    )
    assert latitude[0] == pytest.approx(90, abs=1e-6)


PIXEL = 100.0
AREAS = {
    "RDR at 30": (f"+proj=eqc +lat_ts=30 +lon_0=180 +R={MARS - 5000}", (77.0, 32.0)),
    "true elsewhere": (f"+proj=eqc +lat_ts=0 +lon_0=0 +R={MARS}", (-120.0, -61.0)),
    "across 0": (f"+proj=eqc +lat_ts=0 +lon_0=180 +R={MARS}", (0.0, 20.0)),
    "across 180": (f"+proj=sinu +lon_0=0 +R={MARS}", (180.0, -40.0)),
    "sinusoidal": (f"+proj=sinu +lon_0=77 +R={MARS}", (60.0, 50.0)),
    "near the pole": (f"+proj=stere +lat_0=90 +lon_0=0 +R={MARS}", (33.0, 75.0)),
    "around a pole": (f"+proj=stere +lat_0=-90 +lon_0=0 +R={MARS}", (10.0, -89.0)),
    "degrees": (f"+proj=longlat +R={MARS}", (200.0, 70.0)),
    "kilometres": (f"+proj=laea +lat_0=10 +lon_0=75 +R={MARS} +units=km", (70.0, 15.0)),
    "ellipsoid": ("+proj=eqc +lat_ts=0 +lon_0=0 +a=3396190 +b=3376200", (15.0, 45.0)),
}


def raster_at(crs: str, longitude: float, latitude: float, turn: float = 0.0) -> tuple[float, ...]:
    """The transform of a raster of 4000 x 3000 pixels around a place, perhaps turned."""
    system = pyproj.CRS.from_user_input(crs)
    if system.is_geographic:
        x, y, pixel = longitude, latitude, np.degrees(PIXEL / MARS)
    else:
        (x, y), pixel = pyproj.Proj(system)(longitude, latitude), PIXEL / system.axis_info[0].unit_conversion_factor
    cos, sin = pixel * np.cos(turn), pixel * np.sin(turn)
    return (cos, sin, x - 2000 * cos - 1500 * sin, sin, -cos, y - 2000 * sin + 1500 * cos)


def area_by_geodesics(polygon: shapely.Polygon, crs: str, transform: tuple[float, ...]) -> float:
    """By PROJ's geodesics between points so close that they follow the edges of the raster."""
    system = pyproj.CRS.from_user_input(crs)
    radius = system.ellipsoid.semi_major_metre

    def ring_area(ring: shapely.LinearRing) -> float:
        x, y = np.array(shapely.segmentize(ring, 2.0).coords).T
        a, b, c, d, e, f = transform
        longitude, latitude = projected_positions(crs, a * x + b * y + c, d * x + e * y + f)
        area = abs(pyproj.Geod(a=radius, b=radius).polygon_area_perimeter(longitude, latitude)[0])
        return min(area, 4 * np.pi * radius**2 - area)

    return ring_area(polygon.exterior) - sum(map(ring_area, polygon.interiors))


@pytest.mark.parametrize("turn", [0.0, 0.7])
@pytest.mark.parametrize(("crs", "place"), AREAS.values(), ids=AREAS)
def test_areas_on_the_ground_are_those_by_geodesics(crs: str, place: tuple[float, float], turn: float) -> None:
    transform = raster_at(crs, *place, turn)
    swath = shapely.Polygon([(300, 0), (4000, 200), (3600, 3000), (0, 2700)], [[(900, 900), (1900, 900), (900, 1500)]])
    small = shapely.box(10, 10, 30, 25)
    for polygon in (swath, small):
        expected = area_by_geodesics(polygon, crs, transform)
        assert ground_area(polygon, crs, transform) == pytest.approx(expected, rel=1e-6)
    both = shapely.MultiPolygon([swath, shapely.box(5000, 0, 5010, 10)])
    expected = area_by_geodesics(swath, crs, transform) + area_by_geodesics(both.geoms[1], crs, transform)
    assert ground_area(both, crs, transform) == pytest.approx(expected, rel=1e-6)


def test_an_area_around_the_pole_is_the_cap() -> None:
    crs = f"+proj=stere +lat_0=90 +lon_0=0 +R={MARS}"
    angle = np.radians(1.0)
    circle = shapely.Point(1500, 1500).buffer(2 * MARS * np.tan(angle / 2) / 100, quad_segs=20000)
    area = ground_area(circle, crs, (100.0, 0.0, -150_000.0, 0.0, -100.0, 150_000.0))
    assert area == pytest.approx(2 * np.pi * MARS**2 * (1 - np.cos(angle)), rel=1e-7)


DEGREE = MARS * np.pi / 180


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        (f"+proj=longlat +R={MARS}", (0.36, 0.0, 0.0, 0.0, -0.36, 90.0)),
        (
            f"+proj=eqc +lon_0=180 +R={MARS}",
            (0.36 * DEGREE, 0.0, -180 * DEGREE, 0.0, -0.36 * DEGREE, 90 * DEGREE),
        ),
    ],
    ids=["degrees", "metres"],
)
def test_the_area_of_a_map_of_mars_is_that_of_mars(crs: str, transform: tuple[float, ...]) -> None:
    assert ground_area(shapely.box(0, 0, 1000, 500), crs, transform) == pytest.approx(4 * np.pi * MARS**2, rel=1e-7)
    assert ground_area(shapely.box(0, 250, 1000, 500), crs, transform) == pytest.approx(2 * np.pi * MARS**2, rel=1e-7)


def test_an_area_beyond_the_map_is_an_error_and_an_empty_one_is_nothing() -> None:
    transform = (1e6, 0.0, 0.0, 0.0, -1e6, 0.0)
    for crs in (f"+proj=sinu +R={MARS}", f"+proj=ortho +R={MARS}"):
        with pytest.raises(MarsError, match="beyond the map of its projection"):
            ground_area(shapely.box(0, 0, 100, 100), crs, transform)
    assert ground_area(shapely.MultiPolygon(), "IAU_2015:49910", transform) == 0
