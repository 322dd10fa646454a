"""The files of the catalogue of all scenes."""

from __future__ import annotations

import shutil
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely
from PIL import Image

from mars_assets.craters import catalogue_files
from mars_assets.craters.catalogue_files import read_catalogue, update_catalogue
from mars_assets.craters.crater_map import IAU_RADIUS
from mars_assets.craters.scenes import read_scenes
from mars_assets.errors import DamagedFileError, MarsError, MissingInputError
from mars_assets.lake import SHIFTS, Lake
from mars_assets.progress import Progress
from mars_assets.storage.files import read_json
from mars_assets_tests.craters.formats.test_craterstats_files import geodesic_area, number, table
from mars_assets_tests.craters.formats.test_robbins import THEIRS
from mars_assets_tests.craters.lakes import field, put_map, scene_around, seen
from mars_assets_tests.disk import largest_file

SIDE = (6000.0, 4000.0)
PLACE = (359.99, -10.0)
SUFFIXES = (".gpkg", ".parquet", ".csv", ".png", SHIFTS, ".scc", ".diam")


def fill(lake: Lake, names: str = "ABC") -> None:
    """Scenes of the same ground, the second shifted, the third coarser and half next to them; across longitude 0."""
    rng = np.random.default_rng(5)
    true = field(rng, 300, (12_000.0, 4000.0))
    for name in names:
        east, pixel = {"A": (0, 0.5), "B": (90, 0.5), "C": (0, 4.0), "D": (3000, 0.5)}[name]
        craters, _ = seen(rng, true[true[:, 2] > 8 * pixel], SIDE, 0.8, 0.8)
        middle = 3000 if name == "C" else 0
        craters[:, 0] += east - middle
        craters = craters[(np.abs(craters[:, :2]) < np.array(SIDE) / 2).all(axis=1)]
        place = (PLACE[0] + np.degrees(middle / IAU_RADIUS / np.cos(np.radians(PLACE[1]))), PLACE[1])
        put_map(lake, scene_around(name, place, craters, pixel=pixel))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = Lake.at(tmp_path_factory.mktemp("lake"))
    fill(lake)
    update_catalogue(lake)
    return lake


def state(lake: Lake) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in lake.all_crater_maps.iterdir() if path.is_file()}


def test_what_is_written(made: Lake) -> None:
    about, catalogue = read_json(made.crater_catalogue(".json")), read_catalogue(made)
    assert set(about["files"]) == set(SUFFIXES)
    assert state(made).keys() == {made.crater_catalogue(suffix).name for suffix in (*SUFFIXES, ".json")}
    assert about["craters"] == len(catalogue.craters)
    assert about["counted_craters"] == catalogue.craters["counted"].sum()
    assert about["in_several_scenes"] == catalogue.craters["scenes"].str.contains(" ").sum() > 100
    assert [scene["scene"] for scene in about["scenes"]] == ["A", "B", "C"]
    assert about["counted_m2"] == pytest.approx(1.5 * SIDE[0] * SIDE[1], rel=1e-4)
    found = {scene.ground.scene: len(scene.craters) for scene in read_scenes(made).scenes}
    assert {scene["scene"]: scene["craters"] for scene in about["scenes"]} == found
    assert about["left_out"] == {}
    assert about["software"]["mars_assets"]


def test_it_is_read_back(made: Lake) -> None:
    catalogue = read_catalogue(made)
    scenes = {scene.ground.scene: scene.ground for scene in read_scenes(made).scenes}
    for scene in catalogue.scenes:
        ground = scenes[scene.scene]
        assert (scene.smallest_m, scene.pixel_m, scene.counted_m2) == (
            ground.smallest_m,
            ground.pixel_m,
            ground.counted_m2,
        )
        assert (scene.key, scene.model) == (ground.key, ground.model)
        assert scene.counted.equals(ground.counted)
        assert scene.counted.geom_type == "MultiPolygon"
    np.testing.assert_allclose(catalogue.area_m2([1, 4.1, 33]), np.array([0, 1, 1.5]) * 24e6, rtol=1e-4)
    assert catalogue.craters["diameter_m"].is_monotonic_decreasing


def test_the_geopackage(made: Lake) -> None:
    path, catalogue = made.crater_catalogue(".gpkg"), read_catalogue(made)
    assert pyogrio.list_layers(path)[:, 0].tolist() == ["craters", "counted_area", "layer_styles"]
    circles = pyogrio.read_dataframe(path, layer="craters")
    pd.testing.assert_frame_equal(pd.DataFrame(circles).drop(columns="geometry"), catalogue.craters, check_dtype=False)
    assert circles.crs.is_geographic
    assert circles.crs.ellipsoid.semi_major_metre == IAU_RADIUS
    for row in circles.head(20).itertuples():
        assert geodesic_area([row.geometry], IAU_RADIUS) == pytest.approx(np.pi / 4 * row.diameter_m**2, rel=1e-4)
        assert shapely.get_x(row.geometry.centroid) == pytest.approx(row.longitude, abs=1e-4)
    areas = pyogrio.read_dataframe(path, layer="counted_area")
    assert areas["scene"].tolist() == ["A", "B", "C"]
    assert areas["model"].tolist() == ["seg_model v1"] * 3
    np.testing.assert_allclose(areas["counted_km2"], 24, rtol=1e-4)
    np.testing.assert_allclose(areas["added_km2"], [24, 0, 12], rtol=1e-4, atol=1e-3)
    styles = pyogrio.read_dataframe(path, layer="layer_styles")
    assert styles["f_table_name"].tolist() == ["craters", "counted_area"]


def test_more_circles_than_are_in_memory_at_a_time(made: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mars_assets.craters.formats import catalogue as writers

    monkeypatch.setattr(writers, "_AT_ONCE", 7)
    catalogue = read_catalogue(made)
    writers.write_gpkg(tmp_path / "x.gpkg", catalogue)
    again = pyogrio.read_dataframe(tmp_path / "x.gpkg", layer="craters")
    assert again["crater_id"].tolist() == catalogue.craters["crater_id"].tolist()


def test_tables(made: Lake) -> None:
    catalogue = read_catalogue(made)
    points = gpd.read_parquet(made.crater_catalogue(".parquet"))
    np.testing.assert_array_equal(points.geometry.x, catalogue.craters["longitude"])
    np.testing.assert_array_equal(points.geometry.y, catalogue.craters["latitude"])
    assert points.crs.to_authority() == ("IAU_2015", "49900")
    rows = pd.read_csv(made.crater_catalogue(".csv"))
    assert rows.columns[: len(THEIRS)].tolist() == THEIRS
    assert rows["CRATER_ID"].tolist() == catalogue.craters["crater_id"].tolist()
    np.testing.assert_allclose(rows["DIAM_CIRCLE_IMAGE"], catalogue.craters["diameter_m"] / 1000)
    assert rows["LONGITUDE_CIRCLE_IMAGE"].abs().max() < 1
    pd.testing.assert_frame_equal(
        rows[["scene", "scenes", "counted", "cut", "probability"]],
        catalogue.craters[["scene", "scenes", "counted", "cut", "probability"]],
        check_dtype=False,
    )
    shifts = pd.read_csv(made.crater_catalogue(SHIFTS))
    (shift,) = (row for row in shifts.itertuples() if (row.scene, row.other) == ("A", "B"))
    assert np.hypot(shift.east_m - 90, shift.north_m) < 1
    assert shift.significant


def test_files_for_ages_begin_where_all_scenes_list_craters(made: Lake) -> None:
    catalogue = read_catalogue(made)
    smallest = catalogue.scenes[-1].smallest_m
    assert smallest == pytest.approx(32, rel=1e-3)
    craters = catalogue.craters
    listed = craters[(craters["diameter_m"] >= smallest) & craters["counted"]]
    assert 0 < len(listed) < len(craters)
    scc, diam = (made.crater_catalogue(suffix).read_text() for suffix in (".scc", ".diam"))
    for text in (scc, diam):
        assert "# Craters of at least 32" in text
        assert "all 3 scenes" in text
    np.testing.assert_allclose(np.array(table(scc, "crater")["diam"], float), listed["diameter_m"] / 1000, rtol=1e-6)
    assert number(scc, "Total_area") == pytest.approx(36, rel=1e-4)
    assert number(scc, "a_axis_radius") == pytest.approx(3396.19)
    assert len(table(diam, "crater")["diameter"]) == len(listed)


def test_the_picture_has_all_scenes(made: Lake) -> None:
    with Image.open(made.crater_catalogue(".png")) as picture:
        assert picture.width > 500
        assert len(picture.getcolors(10**6)) > 20


def test_nothing_is_written_unless_a_map_changed(lake: Lake) -> None:
    fill(lake, "AB")
    first = update_catalogue(lake)
    before = state(lake)
    assert update_catalogue(lake) == first
    assert state(lake) == before
    fill(lake, "ABD")
    more = update_catalogue(lake)
    assert [scene["scene"] for scene in more["scenes"]] == ["A", "B", "D"]
    lake.crater_catalogue(".csv").unlink()
    update_catalogue(lake)
    assert lake.crater_catalogue(".csv").exists()
    shutil.rmtree(lake.crater_map("B"))
    assert len(update_catalogue(lake)["scenes"]) == 2


def test_a_repaired_map_is_taken_in(lake: Lake) -> None:
    fill(lake, "AB")
    table = lake.crater_map("A") / "craters.parquet"
    content = table.read_bytes()
    table.write_bytes(b"damaged")
    lines: list[str] = []
    for _ in range(2):
        about = update_catalogue(lake, Progress(lines.append))
        assert [scene["scene"] for scene in about["scenes"]] == ["B"]
        assert "A" in about["left_out"]
    assert sum(line.startswith("A is left out") for line in lines) == 2
    table.write_bytes(content)
    assert [scene["scene"] for scene in update_catalogue(lake)["scenes"]] == ["A", "B"]


def test_a_new_scene_is_compared_with_those_near_it_alone(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    from mars_assets.craters import joining

    compared: list[int] = []
    whole = joining.relative_shift
    monkeypatch.setattr(joining, "relative_shift", lambda *of: compared.append(1) or whole(*of))
    fill(lake, "AB")
    update_catalogue(lake)
    assert len(compared) == 1
    fill(lake, "D")
    update_catalogue(lake)
    assert len(compared) == 3
    catalogue, shifts = read_catalogue(lake), pd.read_csv(lake.crater_catalogue(SHIFTS))
    lake.cache("shifts").unlink()
    lake.crater_catalogue(".json").unlink()
    update_catalogue(lake)
    assert len(compared) == 6
    pd.testing.assert_frame_equal(read_catalogue(lake).craters, catalogue.craters)
    pd.testing.assert_frame_equal(pd.read_csv(lake.crater_catalogue(SHIFTS)), shifts)
    assert shifts["significant"].any()


def test_scenes_left_out_are_said_even_if_nothing_changed(lake: Lake) -> None:
    fill(lake, "A")
    (lake.all_crater_maps / "unfinished").mkdir()
    for _ in range(2):
        lines: list[str] = []
        about = update_catalogue(lake, Progress(lines.append))
        assert list(about["left_out"]) == ["unfinished"]
        assert any("unfinished is left out" in line for line in lines)


def test_without_countable_craters_there_are_no_files_for_ages(lake: Lake) -> None:
    put_map(lake, scene_around("A", PLACE, np.array([[0.0, 0, 50]])))
    assert set(update_catalogue(lake)["files"]) == set(SUFFIXES)
    put_map(lake, scene_around("B", (50.0, 0.0), np.empty((0, 3)), pixel=50.0))
    about = update_catalogue(lake)
    assert set(about["files"]) == set(SUFFIXES) - {".scc", ".diam"}
    assert not lake.crater_catalogue(".scc").exists()
    assert not lake.crater_catalogue(".diam").exists()
    assert len(read_catalogue(lake).craters) == 1


@pytest.mark.parametrize("place", [(0.0, 90.0), (123.0, -89.99)])
def test_at_a_pole(lake: Lake, place: tuple[float, float]) -> None:
    craters = np.array([[10.0, 0, 50], [500, 300, 40], [-1900, 1000, 60]])
    for name, east in (("A", 0), ("B", 1000)):
        put_map(lake, scene_around(name, place, craters, counted=shapely.box(east - 3000, -2000, east + 2000, 2000)))
    about = update_catalogue(lake)
    assert about["counted_m2"] == pytest.approx(24e6, rel=2e-6)
    rows = read_catalogue(lake).craters
    assert rows["counted"].all()
    assert rows["scenes"].tolist() == ["A B"] * 3
    assert len(table(lake.crater_catalogue(".scc").read_text(), "crater")["diam"]) == 3


def test_one_scene_without_craters(lake: Lake) -> None:
    put_map(lake, scene_around("A", PLACE, np.empty((0, 3))))
    assert update_catalogue(lake)["craters"] == 0
    catalogue = read_catalogue(lake)
    assert len(catalogue.craters) == 0
    assert catalogue.area_m2(10) == pytest.approx(24e6, rel=1e-6)
    assert len(pyogrio.read_dataframe(lake.crater_catalogue(".gpkg"), layer="craters")) == 0


def test_no_maps(lake: Lake) -> None:
    with pytest.raises(MissingInputError, match="crater_maps is missing"):
        update_catalogue(lake)
    (lake.all_crater_maps / "unfinished").mkdir(parents=True)
    with pytest.raises(MarsError, match=r"no map that can be in a catalogue\. unfinished: its map is not finished"):
        update_catalogue(lake)
    with pytest.raises(MissingInputError, match="crater_catalogue is missing"):
        read_catalogue(lake)


@pytest.mark.parametrize("suffix", [".parquet", ".gpkg"])
def test_files_that_do_not_belong_together(made: Lake, lake: Lake, suffix: str) -> None:
    fill(lake, "AD")
    update_catalogue(lake)
    path = lake.crater_catalogue(suffix)
    shutil.copyfile(made.crater_catalogue(suffix), path)
    with pytest.raises(DamagedFileError, match=r"is not of the same catalogue as catalogue.json: delete that"):
        read_catalogue(lake)
    path.write_bytes(b"damaged")
    with pytest.raises(
        DamagedFileError, match=rf"catalogue{suffix} (is not of the same|cannot be opened as a GeoPackage)"
    ):
        read_catalogue(lake)
    path.unlink()
    with pytest.raises(MissingInputError, match=r"(?s)crater_catalogue is missing.*catalogue" + suffix):
        read_catalogue(lake)
    update_catalogue(lake)
    assert len(read_catalogue(lake).scenes) == 2


@pytest.mark.parametrize("content", ["", "{}", "[]"])
def test_a_damaged_summary(made: Lake, lake: Lake, content: str) -> None:
    shutil.copytree(made.all_crater_maps, lake.all_crater_maps)
    lake.crater_catalogue(".json").write_text(content)
    with pytest.raises(DamagedFileError, match=r"catalogue\.json"):
        read_catalogue(lake)
    update_catalogue(lake)
    assert len(read_catalogue(lake).scenes) == 3


@pytest.mark.parametrize("size", [0, 300, 2000, 20_000, 60_000, 150_000])
def test_a_full_disk_leaves_no_catalogue_that_looks_whole(made: Lake, lake: Lake, size: int) -> None:
    shutil.copytree(made.all_crater_maps, lake.all_crater_maps)
    shutil.rmtree(lake.crater_map("C"))
    with largest_file(size), pytest.raises(MarsError, match=str(lake.root)):
        update_catalogue(lake)
    if size < 10_000:  # nothing was replaced yet
        assert len(read_catalogue(lake).scenes) == 3
    else:
        with pytest.raises(MissingInputError, match="crater_catalogue is missing"):
            read_catalogue(lake)
    hidden = [path for path in lake.all_crater_maps.iterdir() if path.name.startswith(".")]
    assert [path.name for path in hidden] == [".joining"]
    update_catalogue(lake)
    assert len(read_catalogue(lake).scenes) == 2


@pytest.mark.parametrize("step", ["write_points", "write_gpkg", "write_csv", "to_png", "write_for_ages", "software"])
def test_a_killed_run_leaves_no_catalogue_that_looks_whole(
    made: Lake, lake: Lake, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made.all_crater_maps, lake.all_crater_maps)
    shutil.rmtree(lake.crater_map("C"))

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(catalogue_files, step, kill)
        with pytest.raises(KeyboardInterrupt):
            update_catalogue(lake)
    with pytest.raises(MissingInputError, match="crater_catalogue is missing"):
        read_catalogue(lake)
    update_catalogue(lake)
    assert len(read_catalogue(lake).scenes) == 2
