"""Completeness from injection: the recall that is put in comes out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mars_assets.craters.comparison import Circles
from mars_assets.craters.levels import Picture
from mars_assets.craters.relief import Crater
from mars_assets.craters.schema import InjectedCraters
from mars_assets.craters.sizes import shares_by_size
from mars_assets.errors import DamagedFileError
from mars_assets.imagery.geolocation import ground_diameters
from mars_assets.imagery.raster import open_raster
from mars_assets.lake import INJECTED
from mars_assets.progress import Progress
from mars_assets.segmentation import completeness
from mars_assets.segmentation.completeness import Injection, inject_with, read_injection
from mars_assets.segmentation.maps import Finder, MapRequest, map_with
from mars_assets.storage.schema import violations
from mars_assets_tests.craters.oracle import Known
from mars_assets_tests.segmentation.known import EQC, TRANSFORM, MapOracle, finder, ground, write

pytestmark = pytest.mark.slow

REAL: Known = [(70.0, 60.0, 60.0), (180.0, 160.0, 40.0), (60.0, 190.0, 25.0)]
SMALLEST = 8.0


class Eye(MapOracle):
    """Sees the real craters, and of those in its pixels a share that depends on their size.

    It is told where craters were drawn, and sees those alone whose pixels changed. Its window shows the whole scene.
    """

    def __init__(self, raster: Path, drawn: list[list[Crater]], recall: Callable[[float], float]) -> None:
        with open_raster(raster) as scene:
            self.scene = scene.read(0, scene.shape[0])[0].astype(int)
        super().__init__(REAL, 2 * (max(self.scene.shape) // 2))
        self.drawn, self.recall, self.rng = drawn, recall, np.random.default_rng(0)

    def margins(self, windows: np.ndarray, good: np.ndarray, places: list[Any]) -> np.ndarray:
        height, width = self.scene.shape[:2]
        changed = np.abs(windows[0, :height, :width].astype(int) - self.scene).max(axis=2) > 3
        self.craters = [*REAL]
        for crater in self.drawn[-1] if self.drawn else []:
            y, x = np.ogrid[:height, :width]
            inside = np.hypot(x + 0.5 - crater.x, y + 0.5 - crater.y) < crater.diameter / 2
            if changed[inside].mean() > 0.5 and self.rng.random() < self.recall(crater.diameter):
                self.craters.append((crater.x, crater.y, crater.diameter))
        return super().margins(windows, good, places)


def scene(folder: Path, lines: int = 220, samples: int = 240) -> Path:
    return write(folder / "x.tif", ground(lines, samples), crs=EQC, transform=TRANSFORM)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[list[Crater]]:
    """All that is drawn, a list for each scan."""
    lists: list[list[Crater]] = []
    draw = completeness.draw_craters

    def noted(*arguments: Any) -> list[Crater]:
        lists.append(draw(*arguments))
        return lists[-1]

    monkeypatch.setattr(completeness, "draw_craters", noted)
    return lists


def eye(raster: Path, drawn: list[list[Crater]], recall: Callable[[float], float] = lambda _: 1.0) -> Finder:
    return finder(lambda: Eye(raster, drawn, recall), "eye")


def test_the_recall_that_is_put_in_comes_out(tmp_path: Path, drawn: list[list[Crater]]) -> None:
    def recall(diameter: float) -> float:
        return float(1 / (1 + np.exp(-4 * np.log(diameter / 20))))

    said: list[str] = []
    raster = scene(tmp_path, 440, 400)
    made = inject_with(
        eye(raster, drawn, recall), MapRequest(raster, SMALLEST), tmp_path / "out", 0, Progress(said.append)
    )
    trials = made.trials
    assert violations(trials, InjectedCraters) == []
    assert len(trials) == sum(map(len, drawn))
    assert (trials["patch"] == 0).all()
    shares = shares_by_size(trials.assign(success=trials["found"]))
    useful = shares[(shares["diameter_from"] >= SMALLEST) & (shares["diameter_to"] <= 50)]
    assert len(useful) == 5
    assert (useful["craters"] >= 20).all()
    middle = np.sqrt(useful["diameter_from"] * useful["diameter_to"]).map(recall)
    assert ((useful["low"] <= middle) & (middle <= useful["high"])).all()
    assert useful["share"].iloc[0] < 0.25 < 0.8 < useful["share"].iloc[-1]
    found = trials[trials["found"]]
    assert (found["found_diameter_px"] / found["diameter_px"] - 1).abs().median() < 0.03
    assert trials["found_diameter_px"].notna().equals(trials["found"])
    assert trials["probability"].isna().all(), "the oracle is not calibrated"
    assert trials["degradation"].between(0, 1).all()
    a, _, c, _, e, f = TRANSFORM[:6]
    metres = ground_diameters(
        EQC,
        c + a * trials["x_px"].to_numpy(),
        f + e * trials["y_px"].to_numpy(),
        625 * np.pi / 4 * trials["diameter_px"].to_numpy() ** 2,
    )
    np.testing.assert_allclose(trials["diameter_m"], metres)
    assert made.about["sun"]["error"] is None
    assert any("4 windows" in line for line in said)
    assert any("the sun is assumed at 270 degrees" in line for line in said)


def test_craters_of_the_map_found_again_do_not_count(tmp_path: Path, drawn: list[list[Crater]]) -> None:
    raster = scene(tmp_path)
    made = inject_with(eye(raster, drawn, lambda _: 0.0), MapRequest(raster, SMALLEST), tmp_path / "out", 0)
    assert len(made.trials) > 80
    assert not made.trials["found"].any()


@pytest.mark.parametrize(
    ("known", "is_found"), [([], True), ([(104.0, 100.0, 41.0)], False), ([(140.0, 100.0, 41.0)], True)]
)
def test_what_agrees_better_with_a_crater_of_the_map_is_that(tmp_path: Path, known: Known, is_found: bool) -> None:
    picture = Picture(np.full((200, 240, 3), 100, np.uint8))
    existing = Circles.in_plane(*np.array(known, np.float64).reshape(-1, 3).T)
    shown = completeness._Shown(completeness.Patch(1000, 2000, 200, 240), None, None, existing)  # type: ignore[arg-type]
    network = MapOracle([(103.0, 100.0, 40.0)], 240)
    search = completeness._Search(network, finder(), SMALLEST)
    rows = search.trials(picture, [Crater(100.0, 100.0, 40.0, 0.3), Crater(30.0, 40.0, 20.0, 0.1)], shown, tmp_path)
    assert rows["found"].tolist() == [is_found, False]
    assert rows["x_px"].tolist() == [2100, 2030]
    assert rows["y_px"].tolist() == [1100, 1040]


def same(one: Injection, other: Injection) -> bool:
    pd.testing.assert_frame_equal(one.trials, other.trials)
    return one.about == other.about


def test_what_exists_is_not_looked_for_again(tmp_path: Path, drawn: list[list[Crater]]) -> None:
    raster, out = scene(tmp_path), tmp_path / "out"
    request = MapRequest(raster, SMALLEST)
    assert read_injection(out) is None
    made = inject_with(eye(raster, drawn), request, out, 0)
    stored = read_injection(out)
    assert stored is not None
    assert same(stored, made)
    closed = finder(lambda: pytest.fail("the network was opened"), "eye")
    assert same(inject_with(closed, request, out, 0), made)
    other = inject_with(eye(raster, drawn), request, out, 1)
    assert other.about["seed"] == 1
    assert not other.trials["x_px"].equals(made.trials["x_px"])
    assert same(inject_with(eye(raster, drawn), request, out, 0), made)
    # Another map makes it out of date.
    map_with(eye(raster, []), MapRequest(raster, 20.0), out)
    assert read_injection(out) is None
    assert (out / INJECTED).exists()


def test_damaged_files(tmp_path: Path, drawn: list[list[Crater]]) -> None:
    raster, out = scene(tmp_path), tmp_path / "out"
    request = MapRequest(raster, 20.0)
    made = inject_with(eye(raster, drawn), request, out, 0)
    (out / INJECTED).write_bytes(b"PAR1")
    with pytest.raises(DamagedFileError, match="cannot be read as Parquet"):
        read_injection(out)
    assert same(inject_with(eye(raster, drawn), request, out, 0), made)
    for name in ("craters.parquet", "craters.gpkg"):
        (out / INJECTED).unlink()
        (out / name).write_bytes(b"nothing")
        with pytest.raises(DamagedFileError, match=rf"{name} of a crater map is damaged .*: delete it"):
            inject_with(eye(raster, drawn), request, out, 0)
        (out / name).unlink()
        drawn.clear()  # the map is made first
        assert same(inject_with(eye(raster, drawn), request, out, 0), made)


class Killed(BaseException):
    """As an interrupt: nothing may catch it."""


def test_a_killed_run_goes_on(tmp_path: Path, drawn: list[list[Crater]]) -> None:
    raster = scene(tmp_path)
    request = MapRequest(raster, SMALLEST)
    expected = inject_with(eye(raster, drawn), request, tmp_path / "whole", 0)
    map_with(eye(raster, []), request, tmp_path / "out")

    class Dying(Eye):
        scans = 0

        def margins(self, windows: np.ndarray, good: np.ndarray, places: list[Any]) -> np.ndarray:
            self.scans += 1
            if self.scans == 3:
                raise Killed
            return super().margins(windows, good, places)

    with pytest.raises(Killed):
        inject_with(finder(lambda: Dying(raster, drawn, lambda _: 1.0), "eye"), request, tmp_path / "out", 0)
    assert read_injection(tmp_path / "out") is None
    drawn.clear()
    again = inject_with(eye(raster, drawn), request, tmp_path / "out", 0)
    assert len(drawn) == 2
    pd.testing.assert_frame_equal(again.trials, expected.trials)
    assert not [path for path in (tmp_path / "out" / ".mapping").iterdir() if path.is_dir()]


@pytest.mark.parametrize("projected", [True, False])
def test_craters_are_drawn_where_they_are_counted(tmp_path: Path, drawn: list[list[Crater]], projected: bool) -> None:
    pixels = ground(220, 240)
    pixels[:100, :150] = 0
    profile = {"crs": EQC, "transform": TRANSFORM} if projected else {}
    raster = write(tmp_path / "x.tif", pixels, nodata=0, **profile)
    request = MapRequest(raster, SMALLEST)
    trials = inject_with(eye(raster, drawn), request, tmp_path / "out", 0).trials
    hidden = (trials["y_px"] < 100 + trials["diameter_px"] / 2) & (trials["x_px"] < 150 + trials["diameter_px"] / 2)
    corner = np.hypot(trials["x_px"] - 150, trials["y_px"] - 100) > trials["diameter_px"] / 2
    assert len(trials) > 60
    assert not (hidden & ((trials["x_px"] < 150) | (trials["y_px"] < 100) | ~corner)).any()
    assert ((trials["y_px"] < 100) & (trials["x_px"] > 150)).any()
    assert trials["diameter_m"].notna().all() == projected


def test_nothing_fits(tmp_path: Path, drawn: list[list[Crater]]) -> None:
    raster = scene(tmp_path)
    made = inject_with(eye(raster, drawn), MapRequest(raster, 115.0), tmp_path / "out", 0)
    assert len(made.trials) == 0
    stored = read_injection(tmp_path / "out")
    assert stored is not None
    assert len(stored.trials) == 0


def test_patches_are_few_and_spread_over_what_is_counted() -> None:
    from shapely.geometry import MultiPolygon, box

    counted = MultiPolygon([box(3000, 0, 9000, 20000)])
    patches = completeness._patches((20000, 9000), counted, 3)
    assert patches == completeness._patches((20000, 9000), counted, 3)
    assert len(set(patches)) == 4
    assert all(max(patch.height, patch.width) <= 2048 for patch in patches)
    assert all(patch.left + patch.width > 3000 and patch.top + patch.height <= 20000 for patch in patches)
    assert max(patch.top for patch in patches) - min(patch.top for patch in patches) > 10000
    assert len({tuple(completeness._patches((20000, 9000), counted, seed)) for seed in range(4)}) > 1
    assert completeness._patches((500, 600), MultiPolygon([box(0, 0, 100, 100)]), 0) == [(0, 0, 500, 600)]
    assert completeness._patches((500, 600), MultiPolygon(), 0) == []
