"""The files of a scene together: which there are, what they are called, and what a failure leaves."""

import dataclasses
from pathlib import Path

import pandas as pd
import pyogrio
import pytest
import shapely

from mars_assets.craters.crater_map import CraterMap
from mars_assets.craters.formats import write_catalogue
from mars_assets.errors import MarsError
from mars_assets_tests.craters.formats.scenes import PROJECTIONS, random_map, transform_at, without_craters
from mars_assets_tests.disk import largest_file

ALWAYS = {"craters.gpkg", "craters.parquet", "craters.csv"}
SHAPEFILE = (".shp", ".shx", ".dbf", ".prj", ".cpg")


def for_ages(scene: str) -> set[str]:
    shapefiles = {f"{scene}_{name}{part}" for name in ("CRATER", "AREA") for part in SHAPEFILE}
    return {f"{scene}.scc", f"{scene}.diam"} | shapefiles


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def crater_map() -> CraterMap:
    crs, place = PROJECTIONS["RDR at 30"]
    return random_map(crs, transform_at(crs, place), n=50)


def test_all_files(tmp_path: Path, crater_map: CraterMap) -> None:
    written = write_catalogue(crater_map, tmp_path / "new" / "folder")
    assert names(tmp_path / "new" / "folder") == ALWAYS | for_ages("ESP_012345_1900_RED")
    assert {path.name for path in written} == names(tmp_path / "new" / "folder")


@pytest.mark.parametrize("scene", ["Ares Vallis, Süd 火星", "ESP_012345_1900_RED.NOMAP", "a'b\"<&>;é", "Bytes \udce9"])
def test_names_of_all_kinds(tmp_path: Path, crater_map: CraterMap, scene: str) -> None:
    write_catalogue(dataclasses.replace(crater_map, scene=scene), tmp_path)
    assert names(tmp_path) == ALWAYS | for_ages(scene)
    area = pyogrio.read_dataframe(tmp_path / "craters.gpkg", layer="counted_area")
    assert area["scene"].tolist() == [scene.replace("\udce9", r"\xe9")]
    if not {";", "\udce9"} & set(scene):  # which pyogrio does not read
        assert len(pyogrio.read_dataframe(tmp_path / f"{scene}_CRATER.shp")) == crater_map.craters["counted"].sum()


def test_a_name_that_craterstats_would_change(tmp_path: Path, crater_map: CraterMap) -> None:
    """It looks for the area where each CRATER of the name is an AREA."""
    write_catalogue(dataclasses.replace(crater_map, scene="MY_CRATER_3"), tmp_path)
    (craters,) = tmp_path.glob("*_CRATER.shp")
    assert craters.name == "MY_Crater_3_CRATER.shp"
    assert (tmp_path / craters.name.replace("CRATER", "AREA")).exists()


def test_a_folder_that_gdal_cannot_name_is_an_error(tmp_path: Path, crater_map: CraterMap) -> None:
    folder = tmp_path / "not UTF-8 \udce9"
    with pytest.raises(MarsError, match="its name is not UTF-8: rename the folder"):
        write_catalogue(crater_map, folder)
    assert names(folder) == set()


def test_a_name_that_is_too_long_is_an_error_and_the_others_remain(tmp_path: Path, crater_map: CraterMap) -> None:
    with pytest.raises(MarsError, match="its name is too long"):
        write_catalogue(dataclasses.replace(crater_map, scene="x" * 250), tmp_path)
    assert names(tmp_path) == ALWAYS


@pytest.mark.parametrize("missing", ["projection", "area"])
def test_without_projection_or_area_nothing_is_for_ages(tmp_path: Path, crater_map: CraterMap, missing: str) -> None:
    """Nor does anything of an earlier map remain, which would be dated with it."""
    write_catalogue(crater_map, tmp_path)
    (tmp_path / "another.scc").write_text("")
    changes = {
        "projection": {"crs": None, "transform": None, "counted_m2": None},
        "area": {"counted": shapely.MultiPolygon(), "counted_m2": 0.0},
    }
    written = write_catalogue(dataclasses.replace(crater_map, **changes[missing]), tmp_path)
    assert {path.name for path in written} == ALWAYS
    assert names(tmp_path) == ALWAYS | {"another.scc"}


def test_no_craters(tmp_path: Path, crater_map: CraterMap) -> None:
    write_catalogue(without_craters(crater_map), tmp_path)
    assert names(tmp_path) == ALWAYS | for_ages(crater_map.scene)
    assert len(pd.read_csv(tmp_path / "craters.csv")) == 0


def test_what_a_full_disk_leaves_is_whole(tmp_path: Path, crater_map: CraterMap) -> None:
    """One byte less than each file needs, and much less."""
    write_catalogue(crater_map, tmp_path / "whole")
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "whole").iterdir()}
    failures = 0
    for number, limit in enumerate(sorted({10, 1000, *(size - 1 for size in sizes.values())})):
        folder = tmp_path / str(number)
        with largest_file(limit):
            try:
                write_catalogue(crater_map, folder)
            except MarsError:
                failures += 1
        for name in names(folder):
            if name != "craters.gpkg":  # holds the time
                assert (folder / name).stat().st_size == sizes[name], (limit, name)
        left = {name for name in names(folder) if name.startswith("ESP_012345_1900_RED_")}
        assert len(left) in (0, 10), "both shapefiles or neither"
        assert not any(name.startswith(".") for name in names(folder))
    assert failures > 10


def test_a_failure_retains_what_was_there(tmp_path: Path, crater_map: CraterMap) -> None:
    write_catalogue(crater_map, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with largest_file(10), pytest.raises(MarsError, match=r"craters\.gpkg cannot be written by GDAL"):
        write_catalogue(without_craters(crater_map), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
