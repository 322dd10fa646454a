"""Maps by an oracle in the place of a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import rasterio

from mars_assets.progress import SILENT, Progress
from mars_assets.segmentation.maps import Finder, MapNetwork, MapRequest, map_with
from mars_assets_tests.craters.oracle import Known, Oracle

CRATERS: Known = [(100.0, 80.0, 90.0), (190.0, 60.0, 30.0), (60.0, 190.0, 20.0), (170.0, 150.0, 50.0)]
EQC = "+proj=eqc +lat_ts=40 +lon_0=180 +R=3396190 +units=m"
TRANSFORM = rasterio.Affine(25.0, 0, -3e5, 0, -25.0, 2.4e6)


class MapOracle(Oracle):
    """An oracle for maps."""

    peak = 0.0
    orientations = 1


def finder(network: Callable[[], MapNetwork] | None = None, about: str = "oracle") -> Finder:
    return Finder(network or (lambda: MapOracle(CRATERS, 128)), {"model": about}, {"device": "none"}, None)


def write(path: Path, pixels: np.ndarray, **profile: Any) -> Path:
    """Pixels of shape (rows, columns) as a GeoTIFF."""
    how = {"driver": "GTiff", "count": 1, "height": pixels.shape[0], "width": pixels.shape[1], "dtype": pixels.dtype}
    with rasterio.open(path, "w", **{**how, **profile}) as dataset:
        dataset.write(pixels, 1)
    return path


def ground(lines: int = 230, samples: int = 260) -> np.ndarray:
    return np.random.default_rng(1).integers(60, 200, (lines, samples)).astype(np.uint8)


def placed(path: Path, **profile: Any) -> Path:
    """A small scene on Mars."""
    return write(path, ground(), **{"crs": EQC, "transform": TRANSFORM, **profile})


def mapped(raster: Path, out: Path, progress: Progress = SILENT, **options: Any) -> dict[str, Any]:
    return map_with(finder(), MapRequest(raster, **{"smallest_px": 8.0, **options}), out, progress)


def rows(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "craters.parquet")


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    """The time and content of all files below a folder."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
