"""Scenes that are stored in odd ways are mapped as the plain one, and bad ones are refused."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
from affine import Affine
from pyproj import CRS, Proj

from mars_assets.errors import MarsError
from mars_assets.imagery.grid import Grid
from mars_assets.imagery.raster import open_raster
from mars_assets.segmentation.maps import MapRequest, map_with
from mars_assets_tests.craters.oracle import Known
from mars_assets_tests.segmentation.known import MapOracle, finder, ground, mapped, placed, rows, write

pytestmark = pytest.mark.slow

R = 3_396_190.0
PLACE = (187.0, 60.0)
AROUND = Proj(f"+proj=stere +lat_0={PLACE[1]} +lon_0={PLACE[0]} +R={R}")
SEEN, PIXEL, SMALLEST = 4500.0, 20.0, 160.0
"""Radius in metres of the ground that was seen, side of a pixel on it, and smallest crater."""
CRATERS = np.array(
    [
        (-900.0, 600, 3000),
        (1800, 1500, 1100),
        (1500, -1800, 1500),
        (-700, 700, 500),
        (-2000, -2200, 700),
        (200, -900, 300),
    ]
)
"""Places to the east and north of the middle, and diameters, in metres."""


@dataclass
class Stored:
    """A way to store the scene."""

    name: str
    crs: str | None
    shape: tuple[int, int] = (500, 500)
    turned: float = 0.0
    up: bool = False
    dtype: Any = np.uint8
    outside: float = 0

    @property
    def transform(self) -> Affine:
        system = CRS.from_user_input(self.crs or PLAIN.crs)
        x, y = PLACE if system.is_geographic else Proj(system)(*PLACE)
        side = math.degrees(PIXEL / R) if system.is_geographic else PIXEL
        middle = Affine.translation(-self.shape[1] / 2, -self.shape[0] / 2)
        size = Affine.scale(side, side * (1 if self.up else -1))
        return Affine.translation(x, y) @ Affine.rotation(self.turned) @ size @ middle

    def write(self, folder: Path) -> Path:
        system = CRS.from_user_input(self.crs or PLAIN.crs)
        row, col = np.mgrid[: self.shape[0], : self.shape[1]] + 0.5
        x, y = self.transform @ (col, row)
        longitude, latitude = (x, y) if system.is_geographic else Proj(system)(x, y, inverse=True)
        seen = np.hypot(*AROUND(longitude, latitude)) < SEEN
        dark = self.name == "dark"
        pixels = np.random.default_rng(0).integers(1 if dark else 60, 14 if dark else 200, self.shape)
        stored = np.where(seen, pixels, self.outside).astype(self.dtype)
        placing = {} if self.crs is None else {"crs": self.crs, "transform": self.transform}
        return write(folder / f"{self.name}.tif", stored, **placing)


PLAIN = Stored("plain", f"+proj=eqc +lat_ts=60 +lon_0=180 +R={R} +units=m")
ODD = [
    Stored("turned", PLAIN.crs, (700, 700), turned=33),
    Stored("south up", PLAIN.crs, up=True),
    Stored("degrees", f"+proj=longlat +R={R} +no_defs", (500, 1000)),
    Stored("true at the equator", f"+proj=eqc +lat_ts=0 +lon_0=180 +R={R} +units=m", (500, 1000)),
    Stored("sinusoidal", f"+proj=sinu +lon_0=127 +R={R} +units=m", (500, 950)),
    Stored("pole", f"+proj=stere +lat_0=90 +lon_0=0 +R={R} +units=m", (550, 550)),
    Stored("NaN", PLAIN.crs, dtype=np.float32, outside=np.nan),
    Stored("dark", PLAIN.crs, dtype=np.uint16),
]


def _known(grid: Grid) -> tuple[Known, float]:
    """The craters in a grid's pixels, and the side of a pixel on the ground."""
    assert grid.crs is not None
    assert grid.transform is not None
    projection, affine = Proj(grid.crs), Affine(*grid.transform)
    longitude, latitude = AROUND(CRATERS[:, 0], CRATERS[:, 1], inverse=True)
    x, y = ~affine @ projection(longitude, latitude)
    scale = np.sqrt(projection.get_factors(longitude, latitude).areal_scale / abs(affine.determinant))
    known = list(zip(x.tolist(), y.tolist(), (CRATERS[:, 2] * scale).tolist(), strict=True))
    return known, float(1 / scale.mean())


def _mapped(stored: Stored, folder: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    raster = stored.write(folder)
    with open_raster(raster) as opened:
        known, side = _known(opened.grid if stored.crs else Grid(*stored.shape, PLAIN.crs, stored.transform[:6]))
    request, out = MapRequest(raster, SMALLEST / side), folder / stored.name
    made = map_with(finder(lambda: MapOracle(known, 128)), request, out)
    return rows(out), made


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, dict[str, Any]]:
    return _mapped(PLAIN, tmp_path_factory.mktemp("plain"))


def test_the_plain_scene_is_right(plain: tuple[pd.DataFrame, dict[str, Any]]) -> None:
    table, made = plain
    assert len(table) == len(CRATERS)
    np.testing.assert_allclose(table["diameter_m"], sorted(CRATERS[:, 2], reverse=True), rtol=0.025)
    assert made["counted_m2"] == pytest.approx(np.pi * (SEEN - SMALLEST / 2) ** 2, rel=0.005)


@pytest.mark.parametrize("stored", ODD, ids=lambda stored: stored.name)
def test_rows_are_those_of_the_plain_scene(
    stored: Stored, plain: tuple[pd.DataFrame, dict[str, Any]], tmp_path: Path
) -> None:
    table, made = _mapped(stored, tmp_path)
    expected, expected_made = plain
    assert len(table) == len(expected)
    x, y = AROUND(table["longitude"].to_numpy(), table["latitude"].to_numpy())
    true_x, true_y = AROUND(expected["longitude"].to_numpy(), expected["latitude"].to_numpy())
    truth = zip(true_x, true_y, expected["diameter_m"], strict=True)
    nearest = [int(np.argmin(np.hypot(x - a, y - b) + abs(table["diameter_m"] - d))) for a, b, d in truth]
    assert sorted(nearest) == list(range(len(expected)))
    assert np.hypot(x[nearest] - true_x, y[nearest] - true_y).max() < PIXEL
    np.testing.assert_allclose(table["diameter_m"].to_numpy()[nearest], expected["diameter_m"], rtol=0.02)
    assert table["counted"].all()
    assert (table["axis_ratio"] > 0.85).all()
    assert made["counted_m2"] == pytest.approx(expected_made["counted_m2"], rel=0.005)


def test_without_a_place_there_are_the_same_pixels(plain: tuple[pd.DataFrame, dict[str, Any]], tmp_path: Path) -> None:
    table, made = _mapped(Stored("nowhere", None), tmp_path)
    names = ["x_px", "y_px", "diameter_px", "counted", "counted_share"]
    pd.testing.assert_frame_equal(table[names], plain[0][names])
    assert made["counted_m2"] is None
    assert made["counted_share"] == plain[1]["counted_share"]
    assert not list((tmp_path / "nowhere").glob("*.scc"))


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _truncated(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


EARTH = "EPSG:32633"
BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "Earth": (lambda folder: placed(folder / "x.tif", crs=EARTH), "body of radius 6378"),
    "constant": (lambda folder: write(folder / "x.tif", np.full((90, 80), 7, np.uint8)), "no contrast"),
    "one valid pixel": (lambda folder: write(folder / "x.tif", _one_pixel(), nodata=0), "no contrast"),
    "all no data": (lambda folder: write(folder / "x.tif", np.zeros((90, 80), np.uint8), nodata=0), "no good pixel"),
    "1 x 1": (lambda folder: write(folder / "x.tif", np.ones((1, 1), np.uint8)), "x.tif"),
    "TIFF cut at its end": (lambda folder: _truncated(placed(folder / "x.tif"), 0.95), "x.tif"),
    "TIFF cut in its middle": (lambda folder: _truncated(placed(folder / "x.tif"), 0.5), "x.tif"),
    "large TIFF damaged below its overviews": (lambda folder: _large_damaged(folder / "x.tif"), "x.tif"),
    "JP2 cut at its end": (lambda folder: _truncated(_jp2(folder / "x.jp2"), 0.95), "x.jp2"),
    "JP2 cut in its middle": (lambda folder: _truncated(_jp2(folder / "x.jp2"), 0.5), "x.jp2"),
    "empty": (lambda folder: _written(folder / "x.tif", b""), "is empty"),
    "folder": (lambda folder: folder, "is a folder"),
    "text": (lambda folder: _written(folder / "x.txt", b"no raster at all"), "x.txt"),
    "missing": (lambda folder: folder / "missing.tif", "does not exist"),
}


def _one_pixel() -> np.ndarray:
    pixels = np.zeros((90, 80), np.uint8)
    pixels[40, 50] = 9
    return pixels


def _large_damaged(path: Path) -> Path:
    """So large that its stretch is computed from overviews, without looking at all pixels."""
    write(path, ground(2600, 2600) // 16, tiled=True, blockxsize=256, blockysize=256, compress="deflate")
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2, 4], rasterio.enums.Resampling.average)
    content = path.read_bytes()
    middle = len(content) // 3
    return _written(path, content[:middle] + bytes(2000) + content[middle + 2000 :])


def _jp2(path: Path) -> Path:
    return write(path, ground(), driver="JP2OpenJPEG", reversible="YES", quality=100)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("exists", [False, True], ids=["new folder", "folder"])
def test_bad_rasters_are_refused_and_leave_nothing(bad: str, exists: bool, tmp_path: Path) -> None:
    make, said = BAD[bad]
    (tmp_path / "from").mkdir()
    raster, out = make(tmp_path / "from"), tmp_path / "out"
    if exists:
        out.mkdir()
        (out / "notes.txt").write_text("mine")
    with pytest.raises(MarsError, match=said):
        mapped(raster, out)
    assert [path.name for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "from")] == (
        ["out", "notes.txt"] if exists else []
    )


def test_a_missing_label_is_refused(tmp_path: Path) -> None:
    raster = placed(tmp_path / "x.tif")
    with pytest.raises(MarsError, match=r"x\.LBL does not exist"):
        mapped(raster, tmp_path / "out", label=tmp_path / "x.LBL")
    assert not (tmp_path / "out").exists()
