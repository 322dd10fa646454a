"""Maps of scenes: which files there are, and what failures leave of them."""

import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mars_assets.errors import MarsError
from mars_assets.lake import PROVENANCE
from mars_assets.progress import Progress
from mars_assets.segmentation.maps import MapRequest, is_mapped, map_with
from mars_assets.storage.published import version_in_use
from mars_assets_tests.disk import largest_file
from mars_assets_tests.segmentation.known import CRATERS, MapOracle, finder, ground, mapped, placed, rows, state, write

pytestmark = pytest.mark.slow

FILES = {
    *("craters.gpkg", "craters.parquet", "craters.csv", "probability.tif", "overview.png", "size_frequency.png"),
    *("counts_by_size.csv", "map.html", "provenance.json"),
}
FOR_AGES = {
    *("x.scc", "x.diam"),
    *(f"x_{name}.{part}" for name in ("CRATER", "AREA") for part in ("shp", "shx", "dbf", "prj", "cpg")),
}


def names(out: Path) -> set[str]:
    return {path.name for path in out.iterdir() if path.is_file()}


def contents(out: Path) -> dict[str, bytes]:
    """The content of all files but those that have the time, or random ids, in them."""
    other = ("craters.gpkg", "map.html", PROVENANCE)
    return {name: content for name, (_, content) in state(out).items() if name not in other and "/" not in name}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map, to compare with and to copy."""
    folder = tmp_path_factory.mktemp("whole")
    mapped(placed(folder / "x.tif"), folder / "out")
    return folder / "out"


def test_all_files_and_where_they_come_from(whole: Path) -> None:
    assert names(whole) == FILES | FOR_AGES
    about = json.loads((whole / PROVENANCE).read_text())
    assert about["scene"] == "x"
    assert len(about["source"]["raster"]) == 64
    assert about["smallest_px"] == 8.0
    assert about["model"] == "oracle"
    assert about["raster"]["file"] == "x.tif"
    assert (about["raster"]["lines"], about["raster"]["samples"]) == (230, 260)
    assert about["stretch"]["percentiles"] == [0.1, 99.9]
    assert about["windows"] == {"side": 128, "orientations": 1}
    assert about["reductions"] == [1, 2, 4]
    assert about["craters"] == len(rows(whole)) == len(CRATERS)
    assert about["counted_craters"] == len(CRATERS)
    assert about["counted_m2"] == pytest.approx(222 * 252 * 625, rel=0.01)
    assert about["counted_share"] == pytest.approx(222 * 252 / (230 * 260))
    assert set(about["files"]) <= names(whole)
    assert about["software"]["mars_assets"]
    np.testing.assert_allclose(rows(whole)["diameter_px"], [90, 50, 30, 20], rtol=0.025)
    assert rows(whole)["probability"].isna().all(), "the oracle is not calibrated"


def test_a_map_that_exists_is_left_as_it_is(whole: Path) -> None:
    before, said = state(whole), list[str]()
    again = map_with(
        finder(lambda: pytest.fail("the network was opened")),
        MapRequest(whole.parent / "x.tif", 8.0),
        whole,
        Progress(said.append),
    )
    assert state(whole) == before
    assert any("the map of x exists" in line for line in said)
    assert again == json.loads((whole / PROVENANCE).read_text())


@pytest.mark.parametrize("change", ["size", "network", "raster", "file", "provenance"])
def test_other_inputs_or_a_missing_file_make_it_anew(whole: Path, tmp_path: Path, change: str) -> None:
    raster, out = Path(shutil.copy(whole.parent / "x.tif", tmp_path)), shutil.copytree(whole, tmp_path / "out")
    request, by = MapRequest(raster, 25.0 if change == "size" else 8.0), finder()
    if change == "network":
        by = finder(lambda: MapOracle(CRATERS[:2], 128), "another")
    if change == "raster":
        placed(raster, transform=(30.0, 0, 0, 0, -30.0, 0))
    if change == "file":
        (out / "probability.tif").unlink()
    if change == "provenance":
        (out / PROVENANCE).write_text("[]")
    made = map_with(by, request, out)
    assert json.loads(json.dumps(made)) == json.loads((out / PROVENANCE).read_text())
    assert names(out) == FILES | FOR_AGES
    expected = {"size": [90, 50, 30], "network": [90, 30]}.get(change, [90, 50, 30, 20])
    np.testing.assert_allclose(rows(out)["diameter_px"], expected, rtol=0.025)


class Killed(BaseException):
    """As an interrupt: nothing may catch it."""


@pytest.mark.parametrize("after", [0, 4])
def test_a_map_killed_in_the_network_goes_on(whole: Path, tmp_path: Path, after: int) -> None:
    class Dying(MapOracle):
        def margins(self, windows: np.ndarray, good: np.ndarray, places: Any) -> np.ndarray:
            if len({(place.factor, place.top) for place in [*self.windows, *places]}) > after:
                raise Killed
            return super().margins(windows, good, places)

    request, out = MapRequest(whole.parent / "x.tif", 8.0), tmp_path / "out"
    with pytest.raises(Killed):
        map_with(finder(lambda: Dying(CRATERS, 128)), request, out)
    assert names(out) == set()
    rest = MapOracle(CRATERS, 128)
    map_with(finder(lambda: rest), request, out)
    assert contents(out) == contents(whole)
    every = MapOracle(CRATERS, 128)
    map_with(finder(lambda: every), request, tmp_path / "every")
    assert len(rest.windows) < len(every.windows) or not after
    assert sorted(path.name for path in (out / ".mapping").iterdir()) == [".lock", "claim.json"]


WRITERS = ["write_probability", "write_catalogue", "to_png", "write_csv", "write_page", "write_json"]


@pytest.mark.parametrize("earlier", [False, True], ids=["new", "over an earlier map"])
def test_a_map_killed_in_a_writer_goes_on(
    whole: Path, tmp_path: Path, earlier: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise Killed

    request, out = MapRequest(whole.parent / "x.tif", 25.0 if earlier else 8.0), tmp_path / "out"
    if earlier:
        shutil.copytree(whole, out)
    oracle = MapOracle(CRATERS, 128)
    windows = 0
    for writer in WRITERS[::5] if earlier else WRITERS:
        with monkeypatch.context() as patch:
            patch.setattr(f"mars_assets.segmentation.maps.{writer}", killed)
            with pytest.raises(Killed):
                map_with(finder(lambda: oracle), request, out)
        if earlier:
            assert contents(out) == contents(whole), "the earlier map stays"
        else:
            assert names(out) == set()
        windows = windows or len(oracle.windows)
    map_with(finder(lambda: oracle), request, out)
    assert len(oracle.windows) == windows, "the scan was complete"
    assert names(out) == FILES | FOR_AGES
    if not earlier:
        assert contents(out) == contents(whole)


def test_a_map_killed_while_files_are_replaced_is_made_whole(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, out = MapRequest(whole.parent / "x.tif", 8.0), tmp_path / "out"
    shutil.copytree(whole, out)
    (out / "craters.csv").unlink()  # so that it is made again
    real, left = os.replace, 4

    def killed(source: Path, target: Path) -> None:
        nonlocal left
        left -= Path(target).parent == out
        if left == 0:
            raise Killed
        real(source, target)

    oracle = MapOracle(CRATERS, 128)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(Killed):
            map_with(finder(lambda: oracle), request, out)
    assert PROVENANCE not in names(out), "the files do not belong together"
    windows = len(oracle.windows)
    map_with(finder(lambda: oracle), request, out)
    assert len(oracle.windows) == windows, "the scan was complete"
    assert contents(out) == contents(whole)


def test_a_map_is_a_version_of_its_scene(whole: Path, tmp_path: Path) -> None:
    """As in a lake: readers of the earlier version still have all of it."""
    out, raster = tmp_path / "out", whole.parent / "x.tif"
    versions = []
    for smallest in (25.0, 8.0):
        map_with(finder(), MapRequest(raster, smallest, versions=True), out)
        versions.append(version_in_use(out))
    assert names(versions[0]) == names(versions[1]) == FILES | FOR_AGES
    assert contents(versions[1]) == contents(whole)
    assert (out / "current").resolve() == versions[1]
    idle = MapOracle(CRATERS, 128)
    map_with(finder(lambda: idle), MapRequest(raster, 8.0, versions=True), out)
    assert idle.windows == []
    assert is_mapped(finder(), MapRequest(raster, 8.0), out)


def test_a_full_disk_is_an_error_and_leaves_nothing_half(whole: Path, tmp_path: Path) -> None:
    sizes = {path.stat().st_size for path in whole.iterdir() if path.is_file()}
    expected, request = contents(whole), MapRequest(whole.parent / "x.tif", 8.0)
    out = tmp_path / "out"
    for limit in sorted({10, 1000, *(size - 1 for size in sizes)}):
        with largest_file(limit), pytest.raises(MarsError, match=r"limit|space"):
            map_with(finder(), request, out)
        assert names(out) == set(), limit
    map_with(finder(), request, out)
    assert contents(out) == expected


def test_processes_take_turns_in_a_folder(whole: Path, tmp_path: Path) -> None:
    request, out = MapRequest(whole.parent / "x.tif", 8.0), tmp_path / "out"
    begun, waiting = threading.Event(), threading.Event()

    class Slow(MapOracle):
        def margins(self, windows: np.ndarray, good: np.ndarray, places: Any) -> np.ndarray:
            begun.set()
            assert waiting.wait(30)
            return super().margins(windows, good, places)

    first = threading.Thread(target=map_with, args=(finder(lambda: Slow(CRATERS, 128)), request, out))
    first.start()
    assert begun.wait(30)
    said: list[str] = []

    def sink(line: str) -> None:
        said.append(line)
        if "waiting for process" in line:
            waiting.set()

    idle = MapOracle(CRATERS, 128)
    made = map_with(finder(lambda: idle), request, out, Progress(sink))
    first.join()
    assert idle.windows == []
    assert made["craters"] == len(CRATERS)
    assert any("exists" in line for line in said)
    assert contents(out) == contents(whole)


def test_a_folder_that_cannot_be_written(whole: Path, tmp_path: Path) -> None:
    raster = whole.parent / "x.tif"
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(MarsError, match="a file and a folder have the same name"):
            mapped(raster, out)
    assert (tmp_path / "file").read_text() == "mine"
    if os.geteuid():  # root may write anywhere
        (tmp_path / "closed").mkdir(mode=0o500)
        with pytest.raises(MarsError, match="permissions"):
            mapped(raster, tmp_path / "closed")


@pytest.mark.parametrize("name", ["probability", "overview", "size_frequency"])
def test_the_raster_is_not_replaced_by_its_own_map(tmp_path: Path, name: str) -> None:
    suffix = ".tif" if name == "probability" else ".png"
    raster = write(tmp_path / f"{name}{suffix}", ground(), driver="GTiff" if suffix == ".tif" else "PNG")
    before = raster.read_bytes()
    with pytest.raises(MarsError, match="would be replaced by a file of its map: name another folder"):
        mapped(raster, tmp_path / "deeper" / "..")
    assert raster.read_bytes() == before


def test_the_map_of_another_scene_in_the_same_folder(whole: Path, tmp_path: Path) -> None:
    """Files of ages that have the name of the earlier scene would be taken for the later one's."""
    out = shutil.copytree(whole, tmp_path / "out")
    (out / "mine.scc").write_text("mine")
    mapped(placed(tmp_path / "other.tif"), out)
    assert names(out) == FILES | {name.replace("x", "other", 1) for name in FOR_AGES} | {"mine.scc"}


@pytest.mark.parametrize("name", ['a\'b, "c"  <&>.d;', "-Süd 火星 MY_CRATER_3", "n" * 240, "火" * 80])
def test_names_of_all_kinds(tmp_path: Path, name: str) -> None:
    raster = placed(tmp_path / "plain.tif")
    raster = raster.rename(tmp_path / f"{name}.tif")
    out = tmp_path / "out"
    made = mapped(raster, out)
    assert len(rows(out)) == len(CRATERS)
    assert len(names(out)) == len(FILES | FOR_AGES)
    assert all((out / file).exists() for file in json.loads((out / PROVENANCE).read_text())["files"])
    assert mapped(raster, out)["key"] == made["key"]
    if len(os.fsencode(name)) < 240:
        assert made["scene"] == name


def test_a_name_that_gdal_does_not_read(tmp_path: Path) -> None:
    raster = placed(tmp_path / "plain.tif").rename(tmp_path / "Bytes \udce9.tif")
    with pytest.raises(MarsError, match="not UTF-8: rename it"):
        mapped(raster, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_long_names_that_begin_alike_stay_apart(tmp_path: Path) -> None:
    one, other = (MapRequest(tmp_path / f"{'n' * 245}{end}.tif", 8.0).name for end in "ab")
    assert one != other


def test_out_folders_of_all_names(whole: Path, tmp_path: Path) -> None:
    raster = whole.parent / "x.tif"
    for name in ("Süd, 火星.tif", "d" * 255):
        mapped(raster, tmp_path / name)
        assert names(tmp_path / name) == FILES | FOR_AGES
    with pytest.raises(MarsError, match="not UTF-8: rename"):
        mapped(raster, tmp_path / "Bytes \udce9")
    with pytest.raises(MarsError, match="too long"):
        mapped(raster, tmp_path / ("d" * 256))


def test_inside_the_rasters_folder(tmp_path: Path) -> None:
    raster = placed(tmp_path / "x.tif")
    before = raster.read_bytes()
    mapped(raster, tmp_path)
    assert names(tmp_path) == FILES | FOR_AGES | {"x.tif"}
    assert raster.read_bytes() == before
    assert mapped(raster, tmp_path)["craters"] == len(CRATERS)


def test_without_a_projection_nothing_is_for_ages_and_it_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    made = mapped(write(tmp_path / "x.tif", ground()), tmp_path / "out", Progress(said.append))
    assert names(tmp_path / "out") == FILES
    assert made["counted_m2"] is None
    assert any("x.tif is not map projected, so places and sizes are those in pixels only" in line for line in said)


@pytest.mark.parametrize("nodata", [float("nan"), -1.5, float("inf")])
def test_values_without_data_of_all_kinds(tmp_path: Path, nodata: float) -> None:
    pixels = ground().astype(np.float32)
    pixels[:40] = nodata
    out = tmp_path / "out"
    made = mapped(write(tmp_path / "x.tif", pixels), out, nodata=nodata)
    assert made["counted_share"] == pytest.approx(182 * 252 / (230 * 260), rel=0.01)
    assert mapped(tmp_path / "x.tif", out, nodata=nodata) == json.loads(json.dumps(made))
