import contextlib
import dataclasses
import itertools
import sqlite3
import xml.etree.ElementTree as ET
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pyogrio
import pyproj
import pytest
import shapely

from mars_assets.craters.crater_map import CraterMap
from mars_assets.craters.formats.geopackage import write_geopackage, write_geoparquet
from mars_assets.imagery.geolocation import ground_area, projected_positions
from mars_assets_tests.craters.formats.scenes import (
    COUNTED,
    PROJECTIONS,
    random_map,
    transform_at,
    without_craters,
)


@pytest.fixture(params=PROJECTIONS)
def crater_map(request: pytest.FixtureRequest) -> CraterMap:
    crs, place = PROJECTIONS[request.param]
    return random_map(pyproj.CRS(crs).to_wkt(), transform_at(crs, place, turn=0.4))


def read(path: Path, layer: str) -> gpd.GeoDataFrame:
    return pyogrio.read_dataframe(path, layer=layer)


def same_table(read_back: pd.DataFrame, crater_map: CraterMap) -> None:
    table = pd.DataFrame(read_back).drop(columns=["geometry", "bbox"], errors="ignore")
    pd.testing.assert_frame_equal(table, crater_map.craters, check_dtype=False)


def test_layers_have_the_rasters_crs_and_the_tables_columns(tmp_path: Path, crater_map: CraterMap) -> None:
    path = tmp_path / "craters.gpkg"
    write_geopackage(path, crater_map)
    assert pyogrio.list_layers(path)[:, 0].tolist() == ["craters", "rims", "counted_area", "layer_styles"]
    somewhere = crater_map.on_the_map(np.array([[0.0, 0.0], [100.0, 0.0], [0.0, 2000.0]]))
    for layer in ("craters", "rims", "counted_area"):
        # WKT of version 1 has other words for some projections.
        crs = read(path, layer).crs.to_wkt()
        np.testing.assert_allclose(
            projected_positions(crs, *somewhere.T), projected_positions(crater_map.crs, *somewhere.T), atol=1e-9
        )
    same_table(read(path, "craters"), crater_map)
    same_table(read(path, "rims"), crater_map)
    (area,) = read(path, "counted_area").itertuples()
    assert area.scene == crater_map.scene
    assert area.area_km2 == pytest.approx(crater_map.counted_m2 / 1e6)
    a, b, _, d, e, _ = crater_map.transform
    assert area.geometry.area == pytest.approx(COUNTED.area * abs(a * e - b * d))
    for rim, outline in zip(read(path, "rims").geometry, crater_map.outlines, strict=True):
        np.testing.assert_allclose(rim.exterior.coords, crater_map.on_the_map(outline), rtol=1e-12)


def test_circles_are_round_on_the_ground(tmp_path: Path, crater_map: CraterMap) -> None:
    write_geopackage(tmp_path / "craters.gpkg", crater_map)
    circles = read(tmp_path / "craters.gpkg", "craters").geometry
    system = pyproj.CRS(crater_map.crs)
    equator, pole = system.ellipsoid.semi_major_metre, system.ellipsoid.semi_minor_metre
    geod = pyproj.Geod(a=equator, b=pole)
    for circle, row in zip(circles, crater_map.craters.itertuples(), strict=True):
        x, y = np.array(circle.exterior.coords).T
        longitude, latitude = projected_positions(crater_map.crs, x, y)
        graphic = np.degrees(np.arctan(np.tan(np.radians([*latitude, row.latitude])) * (equator / pole) ** 2))
        start = np.full(len(x), row.longitude), np.full(len(x), graphic[-1])
        _, _, distance = geod.inv(*start, longitude, graphic[:-1])
        # Exact for the small, where the map's scale is the same all over the crater; 1.3 degrees here at most.
        np.testing.assert_allclose(distance, row.diameter_m / 2, rtol=1e-4 + row.diameter_m / 1e6)
        centre = crater_map.on_the_map(np.array([[row.x_px, row.y_px]]))[0]
        np.testing.assert_allclose([circle.centroid.x, circle.centroid.y], centre, rtol=1e-9)


def test_nothing_spans_mars_where_longitudes_begin_again(tmp_path: Path) -> None:
    crs, place = PROJECTIONS["across 0"]
    crater_map = random_map(crs, transform_at(crs, place))
    write_geopackage(tmp_path / "craters.gpkg", crater_map)
    for layer in ("craters", "rims", "counted_area"):
        left, _, right, _ = read(tmp_path / "craters.gpkg", layer).total_bounds
        assert right - left < 100_000


def test_a_circle_at_the_very_pole(tmp_path: Path) -> None:
    crs = PROJECTIONS["around a pole"][0]
    crater_map = random_map(crs, (20.0, 0.0, 0.0, 0.0, -20.0, 0.0), n=1)
    table = crater_map.craters.assign(x_px=0.0, y_px=0.0, latitude=-90.0, diameter_m=400.0)
    write_geopackage(tmp_path / "craters.gpkg", dataclasses.replace(crater_map, craters=table))
    (circle,) = read(tmp_path / "craters.gpkg", "craters").geometry
    assert np.hypot(*np.array(circle.exterior.coords).T) == pytest.approx(200, rel=1e-4)


def test_without_a_projection_the_image_stands_upright(tmp_path: Path) -> None:
    crater_map = random_map(None, None)
    write_geopackage(tmp_path / "craters.gpkg", crater_map)
    with contextlib.closing(sqlite3.connect(tmp_path / "craters.gpkg")) as file:
        rows = file.execute("select table_name, srs_id from gpkg_contents where data_type = 'features'").fetchall()
    assert dict(rows) == {"craters": -1, "rims": -1, "counted_area": -1}, "undefined Cartesian"
    for circle, row in zip(
        read(tmp_path / "craters.gpkg", "craters").geometry, crater_map.craters.itertuples(), strict=True
    ):
        assert (circle.centroid.x, circle.centroid.y) == pytest.approx((row.x_px, -row.y_px))
        assert 2 * np.sqrt(circle.area / np.pi) == pytest.approx(row.diameter_px, rel=2e-3)
    assert read(tmp_path / "craters.gpkg", "counted_area")["area_km2"].isna().all()


def test_styles_are_where_qgis_looks_for_them(tmp_path: Path) -> None:
    write_geopackage(tmp_path / "craters.gpkg", random_map(None, None))
    with contextlib.closing(sqlite3.connect(tmp_path / "craters.gpkg")) as file:
        assert file.execute("pragma user_version").fetchone() == (10200,), "older programs warn of later versions"
        geometries = dict(file.execute("select table_name, column_name from gpkg_geometry_columns").fetchall())
        columns = [row[1] for row in file.execute("pragma table_info(layer_styles)")]
        rows = file.execute(
            "select f_table_name, f_geometry_column, f_table_schema, useAsDefault, styleQML from layer_styles"
        ).fetchall()
    assert columns == [
        "id",
        "f_table_catalog",
        "f_table_schema",
        "f_table_name",
        "f_geometry_column",
        "styleName",
        "styleQML",
        "styleSLD",
        "useAsDefault",
        "description",
        "owner",
        "ui",
        "update_time",
    ]
    assert {name: column for name, column, *_ in rows} == geometries
    assert all(schema == "" and default == 1 for _, _, schema, default, _ in rows)
    styles = {name: ET.fromstring(qml).find("renderer-v2") for name, *_, qml in rows}
    craters = styles["craters"]
    assert craters.get("attr") == 'coalesce("probability", "confidence")'
    bounds = [(float(r.get("lower")), float(r.get("upper"))) for r in craters.iter("range")]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == 1
    assert all(before[1] == after[0] for before, after in itertools.pairwise(bounds))
    assert {r.get("symbol") for r in craters.iter("range")} == {s.get("name") for s in craters.iter("symbol")}
    assert all(option.get("value") == "no" for option in craters.iter("Option") if option.get("name") == "style")


def test_geoparquet_is_the_table_with_rims(tmp_path: Path, crater_map: CraterMap) -> None:
    path = tmp_path / "craters.parquet"
    write_geoparquet(path, crater_map)
    back = gpd.read_parquet(path)
    same_table(back, crater_map)
    assert back.crs == pyproj.CRS(crater_map.crs)
    np.testing.assert_array_equal(
        shapely.get_coordinates(back.geometry), np.concatenate([*map(crater_map.on_the_map, crater_map.outlines)])
    )
    metadata = pq.read_metadata(path)
    assert metadata.row_group(0).column(0).compression == "ZSTD"
    assert b'"version": "1.1.0"' in metadata.metadata[b"geo"]
    assert b"covering" in metadata.metadata[b"geo"]
    left, top, right, bottom = back.geometry.iloc[0].bounds
    some = gpd.read_parquet(path, bbox=(left, top, right, bottom))
    assert some.crater_id.iloc[0] == back.crater_id.iloc[0]
    assert len(some) < len(back)


def test_geoparquet_without_a_projection_has_no_crs(tmp_path: Path) -> None:
    crater_map = random_map(None, None, n=3)
    write_geoparquet(tmp_path / "craters.parquet", crater_map)
    back = gpd.read_parquet(tmp_path / "craters.parquet")
    assert back.crs is None, "a missing entry would be longitude and latitude on Earth"
    assert back.geometry.iloc[0].exterior.coords[0][1] == -crater_map.outlines[0][0, 1]


def test_no_craters_and_no_area(tmp_path: Path) -> None:
    crs, place = PROJECTIONS["RDR at 30"]
    empty = without_craters(random_map(crs, transform_at(crs, place), counted=shapely.MultiPolygon()))
    write_geopackage(tmp_path / "craters.gpkg", empty)
    write_geoparquet(tmp_path / "craters.parquet", empty)
    for layer in ("craters", "rims", "counted_area"):
        assert len(read(tmp_path / "craters.gpkg", layer)) == 0
    assert pyogrio.read_info(tmp_path / "craters.gpkg", layer="craters")["geometry_type"] == "Polygon"
    back = gpd.read_parquet(tmp_path / "craters.parquet")
    assert len(back) == 0
    assert [*back.columns] == [*empty.craters.columns, "geometry"]
    assert ground_area(empty.counted, crs, empty.transform) == 0
