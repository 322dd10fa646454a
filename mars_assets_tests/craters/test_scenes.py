"""Maps of a lake read for a catalogue."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyproj
import pytest
import shapely

from mars_assets.craters.crater_map import IAU_RADIUS
from mars_assets.craters.scenes import find_maps, read_scenes
from mars_assets.lake import Lake
from mars_assets.progress import Progress
from mars_assets.storage.files import read_json, write_json
from mars_assets_tests.craters.formats.scenes import PROJECTIONS, random_map, transform_at, without_craters
from mars_assets_tests.craters.lakes import field, put_map, scene_around

LOCAL_SPHERE = 3_390_000.0


def said(lake: Lake) -> tuple[dict[str, str], list[str]]:
    lines: list[str] = []
    read = read_scenes(lake, Progress(lines.append))
    return read.left_out, lines


@pytest.mark.parametrize("name", PROJECTIONS)
def test_scenes_of_all_projections(lake: Lake, name: str) -> None:
    crs, place = PROJECTIONS[name]
    crater_map = random_map(pyproj.CRS(crs).to_wkt(), transform_at(crs, place, turn=0.3), n=20)
    put_map(lake, crater_map)
    (scene,) = read_scenes(lake).scenes
    ground, radius = scene.ground, pyproj.CRS(crs).ellipsoid.semi_major_metre
    assert ground.scene == crater_map.scene
    assert ground.model == "seg_model v1"
    assert ground.counted_m2 == pytest.approx(crater_map.counted_m2 * (IAU_RADIUS / radius) ** 2)
    assert ground.added_m2 == ground.counted_m2
    columns = ["crater_id", "longitude", "latitude", "diameter_px", "angle", "probability", "cut"]
    pd.testing.assert_frame_equal(scene.craters[columns], crater_map.craters[columns])
    np.testing.assert_array_equal(scene.craters["diameter_m"], crater_map.craters["diameter_iau_m"])
    geod = pyproj.Geod(a=IAU_RADIUS, b=IAU_RADIUS)
    clear = scene.craters["counted"] if "counted" in scene.craters else crater_map.craters["counted"]
    inside = shapely.intersects_xy(ground.counted, scene.craters["longitude"], scene.craters["latitude"])
    np.testing.assert_array_equal(inside, clear)
    if "degrees" in name:  # the width of a pixel is that of the whole ground's mean
        return
    ends = crater_map.on_the_map(np.array([[2000.0, 1500.0], [2001, 1500], [2000, 1501]]))
    longitude, latitude = pyproj.Proj(crs)(*ends.T, inverse=True)
    if "ellipsoid" not in name:
        _, _, right = geod.inv(longitude[0], latitude[0], longitude[1], latitude[1])
        _, _, down = geod.inv(longitude[0], latitude[0], longitude[2], latitude[2])
        assert ground.pixel_m == pytest.approx(np.sqrt(right * down), rel=0.2)
    assert ground.smallest_m >= 8 * ground.pixel_m * (1 - 1e-9)


def test_the_smallest_size_is_the_largest_that_the_pixels_have(lake: Lake) -> None:
    """On a map true at the equator, a pixel is the larger the nearer to it."""
    crs = f"+proj=eqc +lat_ts=0 +lon_0=0 +R={LOCAL_SPHERE}"
    crater_map = scene_around("A", (30.0, 40.0), np.empty((0, 3)), crs=crs, side=(2e5, 6e5), pixel=100.0)
    put_map(lake, crater_map)
    (scene,) = read_scenes(lake).scenes
    south = np.radians(40) - 3e5 / LOCAL_SPHERE
    to_iau = IAU_RADIUS / LOCAL_SPHERE
    assert scene.ground.pixel_m == pytest.approx(100 * to_iau * np.sqrt(np.cos(np.radians(40))), rel=1e-3)
    assert scene.ground.smallest_m == pytest.approx(800 * to_iau * np.sqrt(np.cos(south)), rel=1e-4)


def test_a_scene_without_craters_counts(lake: Lake) -> None:
    crs, place = PROJECTIONS["RDR at 30"]
    put_map(lake, without_craters(random_map(crs, transform_at(crs, place))))
    (scene,) = read_scenes(lake).scenes
    assert len(scene.craters) == 0
    assert scene.ground.smallest_m > 0


def damaged_table(folder: Path) -> None:
    (folder / "craters.parquet").write_bytes(b"PAR1" * 10)


def table_of_another(folder: Path) -> None:
    pd.read_parquet(folder / "craters.parquet").iloc[1:].to_parquet(folder / "craters.parquet")


def no_table(folder: Path) -> None:
    (folder / "craters.parquet").unlink()


def a_column_less(folder: Path) -> None:
    pd.read_parquet(folder / "craters.parquet").drop(columns="angle").to_parquet(folder / "craters.parquet")


def no_places(folder: Path) -> None:
    pd.read_parquet(folder / "craters.parquet").assign(latitude=np.nan).to_parquet(folder / "craters.parquet")


def a_bad_row(folder: Path) -> None:
    table = pd.read_parquet(folder / "craters.parquet")
    table.loc[1, "latitude"] = 95.0
    table.to_parquet(folder / "craters.parquet")


def damaged_area(folder: Path) -> None:
    (folder / "A_AREA.shp").write_bytes(b"no shapefile")


def no_area(folder: Path) -> None:
    (folder / "A_AREA.shp").unlink()


def another_area(folder: Path) -> None:
    about = read_json(folder / "provenance.json")
    write_json(folder / "provenance.json", {**about, "counted_m2": 1.01 * about["counted_m2"]})


def no_crs(folder: Path) -> None:
    about = read_json(folder / "provenance.json")
    write_json(folder / "provenance.json", {**about, "grid": {**about["grid"], "crs": "nothing"}})


@pytest.mark.parametrize(
    "damage",
    [
        damaged_table,
        table_of_another,
        no_table,
        a_column_less,
        no_places,
        a_bad_row,
        damaged_area,
        no_area,
        another_area,
        no_crs,
    ],
)
def test_damaged_maps_are_left_out_with_a_word(lake: Lake, damage: Callable[[Path], None]) -> None:
    for number, name in enumerate("AB"):
        put_map(lake, scene_around(name, (10.0 + number, 5.0), field(np.random.default_rng(0), 5, (6000, 4000))))
    damage(lake.crater_map("A"))
    read = read_scenes(lake)
    assert [scene.ground.scene for scene in read.scenes] == ["B"]
    left_out, lines = said(lake)
    assert left_out.keys() == {"A"}
    assert "its map is damaged" in left_out["A"]
    assert f"delete {lake.crater_map('A')} and materialize 'crater_maps'" in left_out["A"]
    assert any(line.startswith("A is left out of the catalogue: its map is damaged") for line in lines)


@pytest.mark.parametrize("content", ["", "[]", "{", "{}", json.dumps({"key": "k", "scene": "A"}), "null"])
def test_damaged_provenance_is_said(lake: Lake, content: str) -> None:
    put_map(lake, scene_around("A", (10.0, 5.0), np.empty((0, 3))))
    (lake.crater_map("A") / "provenance.json").write_text(content)
    left_out, _ = said(lake)
    assert "its provenance.json is damaged: delete" in left_out["A"]


def test_what_cannot_be_in_a_catalogue_is_said(lake: Lake) -> None:
    nothing = np.empty((0, 3))
    crs, place = PROJECTIONS["RDR at 30"]
    put_map(lake, random_map(None, None, n=3, scene="flat"))
    put_map(lake, random_map(crs, transform_at(crs, place), n=3, scene="empty", counted=shapely.MultiPolygon()))
    put_map(lake, scene_around("replaced", (10.0, 5.0), nothing))
    (lake.crater_map("replaced") / "provenance.json").unlink()
    put_map(lake, scene_around("one", (10.0, 5.0), nothing))
    shutil.copytree(lake.crater_map("one"), lake.crater_map("two"))
    put_map(lake, scene_around("blank", (10.0, 5.0), nothing), folder="a blank")
    (lake.crater_map(".mapping")).mkdir()
    lake.crater_catalogue(".csv").write_text("")
    found = find_maps(lake)
    assert list(found.maps) == ["one"]
    assert found.left_out == {
        "a blank": "the name of its folder has blanks: rename the folder",
        "empty": "nothing of it is counted",
        "flat": "it is not map projected",
        "replaced": "its map is not finished: materialize 'crater_maps' for replaced",
        "two": "one is the map of the same product: delete one of the folders",
    }
    left_out, lines = said(lake)
    assert left_out == found.left_out
    assert sum("is left out of the catalogue" in line for line in lines) == 5


def test_maps_of_other_models_are_reported(lake: Lake) -> None:
    nothing = np.empty((0, 3))
    put_map(lake, scene_around("A", (10.0, 5.0), nothing))
    put_map(lake, scene_around("B", (20.0, 5.0), nothing))
    assert not any("different models" in line for line in said(lake)[1])
    put_map(lake, scene_around("C", (30.0, 5.0), nothing), version="v2")
    put_map(lake, scene_around("D", (40.0, 5.0), nothing), calibration={"weights": [1]})
    (line,) = (line for line in said(lake)[1] if "different models" in line)
    assert "seg_model v1: 2 scenes, such as A" in line
    assert "seg_model v2: 1 scenes, such as C" in line
    assert "seg_model v1: 1 scenes, such as D" in line


def test_no_maps(lake: Lake) -> None:
    assert read_scenes(lake).scenes == []
    lake.all_crater_maps.mkdir(parents=True)
    assert find_maps(lake).maps == {}
