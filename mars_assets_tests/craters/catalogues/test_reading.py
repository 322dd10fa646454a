"""Catalogues of all kinds, read back as they were written."""

from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely
from pyproj import CRS, Proj

from mars_assets.craters.catalogues.columns import About
from mars_assets.craters.catalogues.crater_list import CraterList
from mars_assets.craters.catalogues.reading import read_craters
from mars_assets.craters.formats import write_catalogue
from mars_assets.craters.formats.shapes import ground_circles
from mars_assets.errors import DamagedFileError, MarsError
from mars_assets_tests.craters.maps import random_map

pytestmark = pytest.mark.slow

R = 3_396_190.0
PLACES = pd.DataFrame(
    {
        "longitude": [359.99, 0.01, 180.0, 75.5],
        "latitude": [-30.0, 12.5, 89.9, -89.5],
        "diameter_m": [9e3, 120, 3e3, 8e4],
    }
)


def write(path: Path, text: str, yaml: str = "", encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding=encoding)
    if yaml:
        path.with_suffix(".yaml").write_text(yaml)
    return path


def assert_same(read: CraterList, expected: pd.DataFrame, tolerance: float = 1e-9) -> None:
    craters = read.craters
    assert len(craters) == len(expected)
    turn = (craters["longitude"].to_numpy() - expected["longitude"].to_numpy() + 180) % 360 - 180
    assert np.abs(turn).max() < 1e-7
    np.testing.assert_allclose(craters["latitude"], expected["latitude"], atol=1e-9)
    np.testing.assert_allclose(craters["diameter_m"], expected["diameter_m"], rtol=tolerance)
    assert craters["longitude"].between(0, 360, inclusive="left").all()


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize(
    ("names", "unit"),
    [
        (("LONGITUDE_CIRCLE_IMAGE", "LATITUDE_CIRCLE_IMAGE", "DIAM_CIRCLE_IMAGE"), 1000),
        (("LON_CIRC_IMG", "LAT_CIRC_IMG", "DIAM_CIRC_IMG"), 1000),
        (("Longitude", "Latitude", "Diameter (km)"), 1000),
        (("x_coord", "y_coord", "Diam_km"), 1000),
        (("lon", "lat", "diam"), 1000),
        (("longitude", "latitude", "diameter_m"), 1),
    ],
)
def test_names_of_the_field_need_no_word(
    tmp_path: Path, names: tuple[str, ...], unit: int, separator: str, encoding: str
) -> None:
    table = PLACES.assign(diameter_m=PLACES["diameter_m"] / unit, longitude=(PLACES["longitude"] + 180) % 360 - 180)
    text = table.set_axis(list(names), axis=1).to_csv(sep=separator, index=False)
    read = read_craters(write(tmp_path / "theirs.csv", text, encoding=encoding))
    assert_same(read, PLACES)
    assert not read.states_size
    assert not read.states_area
    assert read.counted[0].smallest_m == 120


def test_the_real_catalogues_are_read(shared: Path) -> None:
    data = shared / "data/scenes"
    named = read_craters(data / "mars_map/iau_craters_km.csv").craters
    assert len(named) == 352
    assert named["diameter_m"].max() == 2_300_000
    crops = read_craters(data / "dem_robbins/craters.csv")
    assert crops.has_ground
    assert crops.has_pixels
    assert len(crops.craters) == 262
    count = read_craters(data / "counts/Pickering.scc")
    assert len(count.craters) == 1707
    assert count.covers(*_ground(count)).all()
    assert not count.covers(np.array([[226.0, -32.0]]), np.array([1000.0]), True).any()
    drawn = read_craters(data / "counts/ejecta01_CRATER.shp")
    table = geopandas.read_file(data / "counts/ejecta01_CRATER.shp")
    np.testing.assert_allclose(drawn.craters["longitude"], table["x_coord"], atol=1e-7)
    np.testing.assert_allclose(drawn.craters["latitude"], table["y_coord"], atol=1e-7)
    # On the sphere, as craterstats reads it; its table was made on the ellipsoid.
    np.testing.assert_allclose(drawn.craters["diameter_m"] / 1000, table["Diam_km"] * 1.0046, rtol=1e-4)
    assert drawn.covers(*_ground(drawn)).all()


def _ground(read: CraterList) -> tuple[Any, Any, bool]:
    return read.craters[["longitude", "latitude"]].to_numpy(), read.craters["diameter_m"].to_numpy(), True


def test_the_files_of_a_map_all_say_the_same(tmp_path: Path) -> None:
    crater_map = random_map(40)
    write_catalogue(crater_map, tmp_path)
    counted = crater_map.craters["counted"].to_numpy()
    for file in sorted(tmp_path.iterdir()):
        if file.suffix not in (".gpkg", ".parquet", ".csv", ".scc") and not file.name.endswith("_CRATER.shp"):
            continue
        read = read_craters(file)
        whole = file.suffix in (".gpkg", ".parquet", ".csv")
        assert_same(read, crater_map.craters if whole else crater_map.craters[counted], 1e-9 if whole else 6e-5)
        assert read.has_pixels == whole
        if file.suffix in (".gpkg", ".scc", ".shp"):
            assert read.covers(*_ground(read)).tolist() == (counted if whole else counted[counted]).tolist()
        if whole:
            assert read.craters["probability"].tolist() == crater_map.craters["probability"].tolist()
    assert read_craters(tmp_path / "craters.gpkg").states_area


def test_a_map_without_a_projection_is_in_pixels(tmp_path: Path) -> None:
    crater_map = random_map(40, projected=False)
    write_catalogue(crater_map, tmp_path)
    for name in ("craters.gpkg", "craters.parquet", "craters.csv"):
        read = read_craters(tmp_path / name)
        assert (read.has_ground, read.has_pixels) == (False, True)
        assert read.craters["x_px"].tolist() == crater_map.craters["x_px"].tolist()
    read = read_craters(tmp_path / "craters.gpkg")
    places = crater_map.craters[["x_px", "y_px"]].to_numpy()
    assert read.covers(places, np.full(40, 1e9), False).tolist() == crater_map.craters["counted"].tolist()


SYSTEMS = {
    "degrees": "+proj=longlat +R=3396190",
    "IAU": "IAU_2015:49900",
    "equirectangular": "+proj=eqc +lat_ts=40 +lon_0=180 +R=3396190",
    "local sphere": "+proj=eqc +lat_ts=25 +lon_0=180 +R=3392593.6",
    "polar": "+proj=stere +lat_0=90 +R=3396190",
    "sinusoidal": "+proj=sinu +lon_0=10 +R=3396190",
}


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("suffix", [".shp", ".gpkg", ".parquet"])
def test_polygons_become_circles_on_the_ground(tmp_path: Path, system: str, suffix: str) -> None:
    crs = CRS.from_user_input(SYSTEMS[system])
    rng = np.random.default_rng(4)
    radius = crs.ellipsoid.semi_major_metre if crs.ellipsoid else R
    lowest = 40 if system == "polar" else -80
    expected = pd.DataFrame(
        {
            "longitude": rng.uniform(20, 160, 30),
            "latitude": rng.uniform(lowest, 80, 30),
            "diameter_m": 10 ** rng.uniform(1, 4, 30),
        }
    )
    circles = ground_circles(*expected.to_numpy().T, radius)
    if not crs.is_geographic:
        circles = shapely.transform(circles, lambda points: np.column_stack(Proj(crs)(*points.T)))
    path = tmp_path / f"THEIRS_CRATER{suffix}"
    frame = geopandas.GeoDataFrame({"tag": ["standard"] * 30}, geometry=circles, crs=crs)
    frame.to_parquet(path) if suffix == ".parquet" else frame.to_file(path)
    expected["diameter_m"] *= R / radius
    assert_same_within(read_craters(path), expected)


def assert_same_within(read: CraterList, expected: pd.DataFrame) -> None:
    np.testing.assert_allclose(read.craters["diameter_m"], expected["diameter_m"], rtol=2e-4)
    near = expected["diameter_m"] / R * 57.3 * 1e-3
    assert (np.abs(read.craters["latitude"] - expected["latitude"]) < near + 1e-7).all()


@pytest.mark.parametrize("place", [(0.0, 10.0), (359.999, -40.0), (180.0, 0.0), (33.0, 89.99), (200.0, -89.9999)])
def test_polygons_at_seams_and_poles(tmp_path: Path, place: tuple[float, float]) -> None:
    circle = ground_circles(*(np.array([value]) for value in (*place, 5000.0)), R)
    geopandas.GeoDataFrame({"tag": ["a"]}, geometry=circle, crs=SYSTEMS["degrees"]).to_file(tmp_path / "a.shp")
    (row,) = read_craters(tmp_path / "a.shp").craters.to_dict("records")
    assert row["diameter_m"] == pytest.approx(5000, rel=1e-4)
    assert row["latitude"] == pytest.approx(place[1], abs=1e-3)
    assert abs(place[1]) > 89.9 or (row["longitude"] - place[0] + 180) % 360 - 180 == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("system", SYSTEMS)
def test_points_with_diameters(tmp_path: Path, system: str) -> None:
    crs = CRS.from_user_input(SYSTEMS[system])
    lon, lat, diameter = np.array([20.0, 100]), np.array([45.0, 60]), [1.5, 2.5]
    x, y = (lon, lat) if crs.is_geographic else Proj(crs)(lon, lat)
    frame = geopandas.GeoDataFrame({"D": diameter}, geometry=shapely.points(x, y), crs=crs)
    frame.to_file(tmp_path / "points.shp")
    (tmp_path / "points.yaml").write_text("columns: {diameter: D}\nunit: km\nsmallest: 1.2\n")
    read = read_craters(tmp_path / "points.shp")
    expected = pd.DataFrame({"longitude": lon, "latitude": lat, "diameter_m": [1500.0, 2500]})
    assert_same(read, expected)
    assert read.states_size
    assert read.counted[0].smallest_m == 1200


def test_an_area_is_the_same_on_every_turn(tmp_path: Path) -> None:
    area = shapely.box(-1, -1, 1, 1)
    for offset in (0, 360, -360):
        moved = shapely.transform(area, lambda points, by=offset: points + np.array([by, 0]))
        circle = ground_circles(np.array([0.2]), np.array([0.0]), np.array([1000.0]), R)
        for name, shape in (("A_CRATER", circle), ("A_AREA", [moved])):
            geopandas.GeoDataFrame({"n": [1]}, geometry=shape, crs=SYSTEMS["degrees"]).to_file(tmp_path / f"{name}.shp")
        read = read_craters(tmp_path / "A_CRATER.shp")
        places = np.array([[0.5, 0], [359.5, 0], [-0.5, 0.5], [2, 0], [358, 0], [0, 1.5]])
        assert read.covers(places, np.full(6, 1e5), True).tolist() == [True] * 3 + [False] * 3


def test_an_area_that_crosses_itself(tmp_path: Path) -> None:
    """With a spike, which becomes a line, and two parts that touch in a point."""
    rings = [(0, 0), (2, 0), (2, 2), (1, 2), (1, 3), (1, 2), (0, 2)], [(4, 0), (6, 2), (6, 0), (4, 2)]
    rows = [f"{n}\t{n}\text\t{x}\t{y}\n" for n, ring in enumerate(rings) for x, y in (*ring, ring[0])]
    boundary = f"unit_boundary = {{vertex, sub_area, tag, lon, lat\n{''.join(rows)}}}\n"
    counts = read_craters(write(tmp_path / "a.scc", boundary + "crater = {diam, fraction, lon, lat\n1 1 1 1\n}\n"))
    frame = geopandas.GeoDataFrame({"n": [1, 2]}, geometry=[*map(shapely.Polygon, rings)], crs=SYSTEMS["degrees"])
    frame.to_file(tmp_path / "A_AREA.shp")
    frame.set_geometry(frame.centroid.buffer(0.01)).to_file(tmp_path / "A_CRATER.shp")
    places = np.array([[1, 1], [4.2, 1], [5.8, 1], [5, 1.5], [3, 1], [1, 2.5]])
    for read in (counts, read_craters(tmp_path / "A_CRATER.shp")):
        assert read.covers(places, np.full(6, 1e9), True).tolist() == [True] * 3 + [False] * 3


def test_an_area_around_a_pole(tmp_path: Path) -> None:
    crs = SYSTEMS["polar"]
    for name, shape in (("A_CRATER", shapely.Point(0, 0).buffer(500)), ("A_AREA", shapely.Point(0, 0).buffer(1e5))):
        geopandas.GeoDataFrame({"n": [1]}, geometry=[shape], crs=crs).to_file(tmp_path / f"{name}.shp")
    read = read_craters(tmp_path / "A_CRATER.shp")
    places = np.column_stack([np.arange(0, 360, 30), np.full(12, 88.5)])
    assert read.covers(places, np.full(12, 1e5), True).all()
    assert not read.covers(places - [0, 0.5], np.full(12, 1e5), True).any()


BOXES = """columns: {annotator: by, image: tile}
boxes: {xmin: xmin, ymin: ymin, xmax: xmax, ymax: ymax}
reference: expert
image: K
smallest: 10
"""


def test_boxes_of_several_people_in_several_images(tmp_path: Path) -> None:
    text = "tile,by,xmin,ymin,xmax,ymax\nK,expert,10,20,30,44\nK,ann,0,0,10,12\nL,expert,1,1,2,2\n"
    read = read_craters(write(tmp_path / "labels.csv", text, BOXES))
    assert read.craters[["x_px", "y_px", "diameter_px", "annotator", "image"]].to_numpy().tolist() == [
        [20, 32, 22, "expert", "K"],
        [5, 6, 11, "ann", "K"],
    ]
    assert read.craters["row"].tolist() == [2, 3]
    assert read.reference == "expert"
    assert read.counted[0].smallest_px == 10
    with pytest.raises(MarsError, match=r"labels.csv, line 3 has a box .*: correct the file"):
        read_craters(write(tmp_path / "labels.csv", text.replace("0,0,10,12", "10,0,10,12")))


def test_stated_columns_units_spheres_and_longitudes_to_the_west(tmp_path: Path) -> None:
    yaml = "columns: {longitude: W, latitude: N, diameter: D, probability: p, terrain: geo}\nunit: m\n"
    yaml += "west_positive: true\nradius_km: 3393\nsmallest_m: 50\n"
    read = read_craters(write(tmp_path / "a.csv", "W,N,D,p,geo\n10,5,100,0.5, plain\n", yaml))
    (row,) = read.craters.to_dict("records")
    assert (row["longitude"], row["latitude"], row["probability"], row["terrain"]) == (350, 5, 0.5, "plain")
    assert row["diameter_m"] == pytest.approx(100 * 3396.19 / 3393)
    assert read.counted[0].smallest_m == 50


def test_pixels_are_read_where_the_unit_says_so(tmp_path: Path) -> None:
    text = "x,y,diameter,longitude,latitude,diameter_m\n5,6,7,8,9,10\n"
    ground = read_craters(write(tmp_path / "a.csv", text))
    assert (ground.has_ground, ground.has_pixels) == (True, False)
    pixels = read_craters(tmp_path / "a.csv", About(unit="px"))
    assert (pixels.has_ground, pixels.has_pixels) == (False, True)
    assert pixels.craters["diameter_px"].tolist() == [7]


def test_rows_without_numbers_are_counted_and_said(tmp_path: Path) -> None:
    text = "lon,lat,diam\n1,2,3\n\n4,5,\n6,n/a,7\n8,9,10\n"
    read = read_craters(write(tmp_path / "a.csv", text))
    assert read.craters["row"].tolist() == [2, 6]
    assert read.notes == ("2 of 4 rows of a.csv have no place or size and are left out: line 4, 5",)


@pytest.mark.parametrize(
    ("text", "yaml", "message"),
    [
        ("lon,lat,diam\n1,2,3\n1,2,x\n", "", r"a.csv, line 3: diam is 'x' and no number: correct it"),
        ("lon;lat;diam\n1;2;3,5\n", "", r"line 2: diam is '3,5' and no number: .* a point before decimals"),
        ("lon,lat,diam\n1,2,-3\n", "", r"line 2 has a diameter of 0 or less: correct the file"),
        ("lon,lat,diam\n1,2,3\n1,91,3\n1,92,3\n", "", r"line 3 has a latitude beyond 90 degrees, as have 1 others"),
        ("lon,lat,diam\n361,2,3\n", "", r"line 2 has a longitude beyond 360"),
        ("lon,lat,diam\n1,2,99999\n", "", r"line 2 has a diameter larger than Mars: .* units in a.yaml"),
        ("lon,lat,diam\n,2,\n", "", r"no row has numbers in lon, lat, diam: look"),
        ("lon,lat,diam\n", "", r"lists no crater"),
        ("", "", r"is no table \(No columns to parse from file\)"),
        ("lon,lat,diam\n1,2,3,4\n1,2,3\n1,2,3,4,5\n", "", r"is no table \(.*line 4.*\): each row needs as many cells"),
        ("lon,lat,diameter\n1,2,3\n", "", r"does not say whether its column diameter is in metres.*: write unit"),
        ("lon,lat,size\n1,2,3\n", "", r"no columns that are known as place and diameter, but lon, lat, size: state"),
        ("lon,lat,diam\n1,2,3\n", "unit: m", r"states unit: m, but the name of the column diam stands for km: add"),
        ("lon,lat,diam\n1,2,3\n", "columns: {terrain: geo}", r"has no column geo, which a.yaml states"),
        ("lon,lat,diam\n1,2,3\n", "colour: red", r"a.yaml states .*: colour: Extra inputs.* The keys are columns,"),
        ("lon,lat,diam\n1,2,3\n", "columns: {size: D}", r"columns.size: Extra inputs"),
        ("lon,lat,diam\n1,2,3\n", "smallest: 1", r"smallest needs unit"),
        ("lon,lat,diam\n1,2,3\n", "reference: me", r"reference needs columns"),
        ("lon,lat,diam\n1,2,3\n", "radius_km: 6371", r"radius_km: Input should be less than"),
        ("lon,lat,diam\n1,2,3\n", "columns: [", r"a.yaml is not valid YAML"),
        ("lon,lat,D\n1,2,3\n", "columns: {diameter: D}", r"needs unit: m, km or px"),
        (
            "lon,lat,diam,by\n1,2,3,a\n1,2,3,b\n",
            "columns: {annotator: by}",
            r"has the craters of a, b: write reference",
        ),
        (
            "lon,lat,diam,by\n1,2,3,a\n1,2,3,b\n",
            "columns: {annotator: by}\nreference: c",
            r"no craters of c, the reference .*: choose one of a, b",
        ),
        ("lon,lat,diam,im\n1,2,3,a\n", "columns: {image: im}\nimage: b", r"no rows of image: b, which a.yaml states"),
        ("lon,lat,diam,probability\n1,2,3,1.5\n", "", r"line 2 has a probability outside 0 to 1"),
    ],
)
def test_what_is_wrong_is_said_with_its_row(tmp_path: Path, text: str, yaml: str, message: str) -> None:
    with pytest.raises(MarsError, match=message):
        read_craters(write(tmp_path / "a.csv", text, yaml))


def test_other_files_are_refused(tmp_path: Path) -> None:
    for name, content, message in (
        ("a.csv", "ä".encode("latin-1"), "is not UTF-8 text"),
        ("a.xlsx", b"", "is none of the catalogues that are read"),
        ("a.gpkg", b"SQLite", "cannot be read by GDAL"),
        ("a.shp", b"", "cannot be read by GDAL"),
        ("a.parquet", b"PAR1", "cannot be read as a Parquet file"),
        ("a.scc", b"hello", "no complete table crater"),
        ("b.scc", b"crater = {diam, lon, lat\n1 2 3\n4 5\n}", "line 3: 3 cells are expected"),
        ("c.scc", b"a_axis_radius = x <km>\ncrater = {diam, lon, lat\n1 2 3\n}", "radius or unit_boundary"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(MarsError, match=message):
            read_craters(tmp_path / name)
    with pytest.raises(MarsError, match="does not exist: name a catalogue"):
        read_craters(tmp_path / "none.csv")
    with pytest.raises(MarsError, match="has no finished crater map"):
        read_craters(tmp_path)


def test_other_bodies_and_latitudes_are_refused(tmp_path: Path) -> None:
    circle = [shapely.Point(10, 10).buffer(0.1)]
    for crs, message in (
        ("EPSG:4326", "a body of radius 6378 km"),
        ("IAU_2015:49901", "planetographic latitudes"),
    ):
        geopandas.GeoDataFrame({"n": [1]}, geometry=circle, crs=crs).to_file(tmp_path / "a.gpkg")
        with pytest.raises(MarsError, match=message):
            read_craters(tmp_path / "a.gpkg")
    geopandas.GeoDataFrame({"n": [1]}, geometry=circle).to_file(tmp_path / "b.shp")
    with pytest.raises(MarsError, match=r"has no .prj"):
        read_craters(tmp_path / "b.shp")
    for name in ("one", "other"):
        geopandas.GeoDataFrame({"n": [1]}, geometry=circle).to_file(tmp_path / "c.gpkg", layer=name)
    with pytest.raises(MarsError, match="has the layers one, other"):
        read_craters(tmp_path / "c.gpkg")


def test_an_area_without_a_projection_is_refused(tmp_path: Path) -> None:
    circle = ground_circles(np.array([10.0]), np.array([10.0]), np.array([500.0]), R)
    for name in ("A_CRATER", "A_AREA"):
        geopandas.GeoDataFrame({"n": [1]}, geometry=circle, crs=SYSTEMS["degrees"]).to_file(tmp_path / f"{name}.shp")
    (tmp_path / "A_AREA.prj").unlink()
    with pytest.raises(MarsError, match="counted area have no projection"):
        read_craters(tmp_path / "A_CRATER.shp")
    (tmp_path / "A_CRATER.prj").write_bytes(b"\xff\xfe")
    with pytest.raises(MarsError, match=r"A_CRATER\.shp"):
        read_craters(tmp_path / "A_CRATER.shp")


def test_a_damaged_file_is_a_damaged_file(tmp_path: Path) -> None:
    circle = ground_circles(np.array([10.0]), np.array([10.0]), np.array([500.0]), R)
    geopandas.GeoDataFrame({"n": [1]}, geometry=circle, crs=SYSTEMS["degrees"]).to_file(tmp_path / "a.shp")
    whole = (tmp_path / "a.shp").read_bytes()
    (tmp_path / "a.shp").write_bytes(whole[:-2] + b"xx")  # its ring does not end where it begins
    with pytest.raises(DamagedFileError, match="cannot be read by GDAL"):
        read_craters(tmp_path / "a.shp")
    path = tmp_path / "a.gpkg"
    write_catalogue(random_map(5), tmp_path)
    path.write_bytes((tmp_path / "craters.gpkg").read_bytes()[:5000])
    with pytest.raises(DamagedFileError, match="cannot be read by GDAL"):
        read_craters(path)
