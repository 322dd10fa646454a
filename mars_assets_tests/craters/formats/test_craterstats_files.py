import dataclasses
import re
from pathlib import Path

import numpy as np
import pyogrio
import pyproj
import pytest
import shapely
import shapely.affinity

from mars_assets.craters.crater_map import CraterMap
from mars_assets.craters.formats.craterstats import scene_count, write_diam, write_scc, write_shapefiles
from mars_assets.craters.formats.shapes import ground_parts
from mars_assets.errors import MarsError
from mars_assets_tests.craters.formats.scenes import (
    COUNTED,
    PROJECTIONS,
    RADIUS,
    random_map,
    transform_at,
    without_craters,
)

DEGREE = RADIUS * np.pi / 180
POLAR = f"+proj=stere +lat_0=90 +lon_0=0 +R={RADIUS}"
AROUND_THE_POLE = {
    "off the middle": shapely.box(-900, -300, 400, 500),
    "hole at the pole": shapely.box(-900, -300, 400, 500) - shapely.box(-1, -2, 3, 4),
    "corner at the pole": shapely.box(0, 0, 900, 700),
    "edge through the pole": shapely.box(-200, 0, 900, 700),
    "a tenth of a pixel away": shapely.box(-200, 0.1, 900, 700),
    "nearly around": shapely.box(-900, -700, 900, 700) - shapely.Polygon([(0, 0), (900, -9), (900, -1)]),
}
WORLDS = {
    "degrees": (f"+proj=longlat +R={RADIUS}", (0.36, 0.0, 0.0, 0.0, -0.36, 90.0)),
    "metres": (
        f"+proj=eqc +lon_0=180 +R={RADIUS}",
        (0.36 * DEGREE, 0.0, -180 * DEGREE, 0.0, -0.36 * DEGREE, 90 * DEGREE),
    ),
}


@pytest.fixture(params=PROJECTIONS)
def crater_map(request: pytest.FixtureRequest) -> CraterMap:
    crs, place = PROJECTIONS[request.param]
    return random_map(crs, transform_at(crs, place, turn=-0.2))


def table(text: str, name: str) -> dict[str, list[str]]:
    """A table of a craterstats file, by column."""
    header, _, rest = text.partition(f"{name} = {{")[2].partition("\n")
    rows = [line.split() for line in rest.partition("}")[0].splitlines()]
    return {column: list(cells) for column, cells in zip(header.split(", "), zip(*rows, strict=True), strict=True)}


def number(text: str, name: str) -> float:
    return float(re.search(rf"^{name} = ([0-9.]+)( <.+>)?$", text, re.MULTILINE)[1])


def geodesic_area(polygons: list[shapely.Polygon], radius: float) -> float:
    geod = pyproj.Geod(a=radius, b=radius)
    return sum(abs(geod.geometry_area_perimeter(polygon)[0]) for polygon in polygons)


def test_spatial_count(tmp_path: Path, crater_map: CraterMap) -> None:
    write_scc(tmp_path / "x.scc", scene_count(crater_map), ground_parts(crater_map))
    text = (tmp_path / "x.scc").read_text()
    counted = crater_map.craters[crater_map.craters["counted"]]
    assert 0 < len(counted) < len(crater_map.craters)
    craters = {name: np.array(cells, float) for name, cells in table(text, "crater").items()}
    np.testing.assert_allclose(craters["diam"], counted["diameter_m"] / 1000, rtol=1e-6)
    np.testing.assert_allclose(craters["lon"], counted["longitude"], atol=1e-11)
    np.testing.assert_allclose(craters["lat"], counted["latitude"], atol=1e-11)
    assert set(craters["fraction"]) == {1.0}
    assert number(text, "Total_area") == pytest.approx(crater_map.counted_m2 / 1e6, rel=1e-9)
    radius = number(text, "a_axis_radius") * 1000
    assert radius == pytest.approx(pyproj.CRS(crater_map.crs).ellipsoid.semi_major_metre, rel=1e-12)
    boundary = table(text, "unit_boundary")
    assert [*map(int, boundary["vertex"])] == [*range(1, len(boundary["vertex"]) + 1)]
    area = 0.0
    vertices = np.column_stack([boundary["lon"], boundary["lat"]]).astype(float)
    for ring in dict.fromkeys(boundary["sub_area"]):
        mine = np.array(boundary["sub_area"]) == ring
        (tag,) = set(np.array(boundary["tag"])[mine])
        np.testing.assert_array_equal(vertices[mine][0], vertices[mine][-1])
        area += {"ext": 1, "int": -1}[tag] * geodesic_area([shapely.Polygon(vertices[mine])], radius)
    assert area == pytest.approx(crater_map.counted_m2, rel=1e-6)


def test_diameters(tmp_path: Path, crater_map: CraterMap) -> None:
    write_diam(tmp_path / "x.diam", scene_count(crater_map))
    text = (tmp_path / "x.diam").read_text()
    craters = table(text, "crater")
    counted = crater_map.craters[crater_map.craters["counted"]]
    np.testing.assert_allclose(np.array(craters["diameter"], float), counted["diameter_m"] / 1000, rtol=1e-6)
    assert set(craters["fraction"]) == {"1"}
    assert number(text, "area") == pytest.approx(crater_map.counted_m2 / 1e6, rel=1e-9)


@pytest.mark.parametrize("square_metres", [0.52, 5.2e7, 1.4e14])
def test_no_exponent_is_written(tmp_path: Path, square_metres: float) -> None:
    """craterstats would read 5.2e-05 as 5.2."""
    crs, place = PROJECTIONS["RDR at 30"]
    crater_map = dataclasses.replace(random_map(crs, transform_at(crs, place)), counted_m2=square_metres)
    write_diam(tmp_path / "x.diam", scene_count(crater_map))
    write_scc(tmp_path / "x.scc", scene_count(crater_map), ground_parts(crater_map))
    for name in ("x.diam", "x.scc"):
        text = (tmp_path / name).read_text()
        assert not re.search(r"\d[eE][-+]?\d|nan|inf", text)
    assert number((tmp_path / "x.diam").read_text(), "area") == pytest.approx(square_metres / 1e6, rel=1e-5)
    assert number((tmp_path / "x.scc").read_text(), "Total_area") == pytest.approx(square_metres / 1e6, rel=1e-5)


def test_shapefiles(tmp_path: Path, crater_map: CraterMap) -> None:
    write_shapefiles(tmp_path / "x_CRATER.shp", tmp_path / "x_AREA.shp", crater_map, ground_parts(crater_map))
    names = {f"x_{name}.{suffix}" for name in ("CRATER", "AREA") for suffix in ("shp", "shx", "dbf", "prj", "cpg")}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert (tmp_path / "x_CRATER.prj").read_text() == (tmp_path / "x_AREA.prj").read_text()
    area, craters = (pyogrio.read_dataframe(tmp_path / f"x_{name}.shp") for name in ("AREA", "CRATER"))
    radius = pyproj.CRS(crater_map.crs).ellipsoid.semi_major_metre
    assert craters.crs.is_geographic
    assert (craters.crs.ellipsoid.semi_major_metre, craters.crs.ellipsoid.semi_minor_metre) == (radius, radius)
    assert area.geometry.is_valid.all()
    assert geodesic_area([*area.geometry], radius) == pytest.approx(crater_map.counted_m2, rel=1e-6)
    polygons = area.geometry.to_numpy()
    assert shapely.union_all(polygons).area == pytest.approx(shapely.area(polygons).sum(), rel=1e-9)
    counted = crater_map.craters[crater_map.craters["counted"]]
    assert craters["crater_id"].tolist() == counted["crater_id"].tolist()
    np.testing.assert_allclose(craters["Diam_km"], counted["diameter_m"] / 1000, rtol=1e-9)
    vertices = shapely.get_num_coordinates(craters.geometry.to_numpy())
    assert set(vertices) == {361}, "the first is repeated"
    for circle, row in zip(craters.geometry, counted.itertuples(), strict=True):
        angle = np.sqrt(geodesic_area([circle], radius) / (4 * np.pi)) / radius
        assert 4 * radius * np.arcsin(angle) == pytest.approx(row.diameter_m, rel=5e-4)
        x = np.array(circle.exterior.coords)[:, 0]
        assert np.abs(x - row.longitude).max() <= 180 + 1e-9


def parts_of(
    crs: str, transform: tuple[float, ...], counted: shapely.Polygon
) -> tuple[CraterMap, list[shapely.Polygon]]:
    crater_map = random_map(crs, transform, n=5, counted=shapely.MultiPolygon([counted]))
    return crater_map, ground_parts(crater_map)


@pytest.mark.parametrize("counted", AROUND_THE_POLE.values(), ids=AROUND_THE_POLE)
@pytest.mark.parametrize("pixel", [0.25, 100.0])
def test_areas_at_a_pole_are_cut(counted: shapely.Polygon, pixel: float) -> None:
    crater_map, parts = parts_of(POLAR, (pixel, 0.0, 0.0, 0.0, -pixel, 0.0), counted)
    assert all(part.is_valid for part in parts)
    assert geodesic_area(parts, RADIUS) == pytest.approx(crater_map.counted_m2, rel=1e-6)
    for number, part in enumerate(parts):
        for other in parts[:number]:
            shifted = [shapely.affinity.translate(other, turn) for turn in (-360, 0, 360)]
            assert all(part.intersection(copy).length == 0 for copy in shifted), "they meet at the pole alone"


@pytest.mark.parametrize(("crs", "transform"), WORLDS.values(), ids=WORLDS)
def test_the_area_of_a_map_of_mars(crs: str, transform: tuple[float, ...]) -> None:
    crater_map, parts = parts_of(crs, transform, shapely.box(0, 0, 1000, 500))
    assert len(parts) > 1
    assert all(part.is_valid for part in parts)
    assert geodesic_area(parts, RADIUS) == pytest.approx(4 * np.pi * RADIUS**2, rel=1e-6)
    assert crater_map.counted_m2 == pytest.approx(4 * np.pi * RADIUS**2, rel=1e-6)


@pytest.mark.parametrize("name", [name for name in PROJECTIONS if name != "around a pole"])
def test_rings_that_touch_share_their_vertices(name: str) -> None:
    """A vertex that is not exactly the other ring's lies on its wrong side as often as not."""
    crs, place = PROJECTIONS[name]
    parts = ground_parts(random_map(crs, transform_at(crs, place, turn=0.3), n=1))
    (main,) = (part for part in parts if len(part.interiors) == 2)
    shell = set(main.exterior.coords)
    assert sorted(len(shell & set(ring.coords)) for ring in main.interiors) == [0, 1]
    others = [set(part.exterior.coords) for part in parts if part is not main]
    assert max(len(a & b) for a in others for b in others if a is not b) == 1


def test_edges_of_the_area_follow_the_raster() -> None:
    """A straight edge of a polar map is far from straight in longitude and latitude."""
    square = shapely.box(-900, 500, 900, 1900)
    _, parts = parts_of(POLAR, (100.0, 0.0, 0.0, 0.0, -100.0, 0.0), square)
    (part,) = parts
    middles = (np.array(part.exterior.coords)[1:] + np.array(part.exterior.coords)[:-1]) / 2
    x, y = pyproj.Proj(POLAR)(*middles.T)
    assert shapely.distance(square.exterior, shapely.points(x / 100, -y / 100)).max() < 0.01


def test_a_crater_over_the_pole(tmp_path: Path) -> None:
    everywhere = shapely.MultiPolygon([shapely.box(0, 0, 4000, 3000)])
    crater_map = random_map(POLAR, (10.0, 0.0, -2e4, 0.0, -10.0, 2e4), n=1, counted=everywhere)
    place = {"longitude": 90.0, "latitude": 90 - 30 / DEGREE, "diameter_m": 400.0, "counted": True}
    row = crater_map.craters.assign(x_px=2003.0, y_px=2000.0, **place)
    crater_map = dataclasses.replace(crater_map, craters=row)
    write_shapefiles(tmp_path / "x_CRATER.shp", tmp_path / "x_AREA.shp", crater_map, ground_parts(crater_map))
    (circle,) = pyogrio.read_dataframe(tmp_path / "x_CRATER.shp").geometry
    longitude, latitude = np.array(circle.exterior.coords).T
    _, _, distance = pyproj.Geod(a=RADIUS, b=RADIUS).inv(
        np.full(361, 90.0), np.full(361, row.latitude[0]), longitude, latitude
    )
    np.testing.assert_allclose(distance, 200, rtol=1e-6)


def test_no_craters(tmp_path: Path, crater_map: CraterMap) -> None:
    empty = without_craters(crater_map)
    parts = ground_parts(empty)
    write_shapefiles(tmp_path / "x_CRATER.shp", tmp_path / "x_AREA.shp", empty, parts)
    write_scc(tmp_path / "x.scc", scene_count(empty), parts)
    write_diam(tmp_path / "x.diam", scene_count(empty))
    assert len(pyogrio.read_dataframe(tmp_path / "x_CRATER.shp")) == 0
    assert len(pyogrio.read_dataframe(tmp_path / "x_AREA.shp")) == len(parts)
    for name in ("x.scc", "x.diam"):
        assert (tmp_path / name).read_text().count("crater = {") == 1


def test_more_craters_than_are_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crs, place = PROJECTIONS["RDR at 30"]
    crater_map = random_map(crs, transform_at(crs, place))
    counted = crater_map.craters[crater_map.craters["counted"]]
    monkeypatch.setattr("mars_assets.craters.formats.craterstats._AT_ONCE", 50)
    write_shapefiles(tmp_path / "x_CRATER.shp", tmp_path / "x_AREA.shp", crater_map, ground_parts(crater_map))
    craters = pyogrio.read_dataframe(tmp_path / "x_CRATER.shp")
    assert craters["crater_id"].tolist() == counted["crater_id"].tolist()
    centres = shapely.get_x(shapely.centroid(craters.geometry.to_numpy()))
    np.testing.assert_allclose(centres, counted["longitude"], atol=1e-4)


def test_an_area_that_is_nowhere() -> None:
    crater_map = random_map(None, None, n=1, counted=COUNTED)
    nowhere = dataclasses.replace(crater_map, crs=f"+proj=ortho +R={RADIUS}", transform=(1e6, 0.0, 0.0, 0.0, -1e6, 0.0))
    with pytest.raises(MarsError, match="beyond the map of its projection"):
        ground_parts(nowhere)
