"""The probability of a crater at every pixel of a scene.

It is stored as a cloud-optimised GeoTIFF.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mars_assets.craters.mapping import Found
from mars_assets.craters.scan import LevelMap
from mars_assets.errors import MarsError
from mars_assets.progress import SILENT, Progress
from mars_assets.storage.files import atomic_path

if TYPE_CHECKING:
    from mars_assets.imagery.grid import Grid

_ROWS = 512
"""Side of the file's tiles."""
_MOST = 254
"""Stored value of the probability 1."""
_NODATA = 255
_CACHE = 64 * 2**20
"""GDAL's cache in bytes: with its default a copy to a cloud-optimised file takes three times the memory."""


def write_probability(
    path: Path, grid: Grid, levels: Sequence[LevelMap], found: Found, progress: Progress = SILENT
) -> None:
    """Write the probability of a crater at full resolution.

    Craters that were seen at a coarser level are shown as that shows them.

    Args:
        path: the file: uint8, 254 for a probability of 1, 255 for no data, with that scale.
        grid: of the scene.
        levels: of its scan.
        found: its craters.
        progress: reports the strips.

    Raises:
        MarsError: the disk is full.
    """
    import rasterio
    from rasterio._err import CPLE_BaseError  # which copy raises as it is
    from rasterio.errors import RasterioError
    from rasterio.shutil import copy
    from rasterio.windows import Window

    height, width = levels[0].shape
    coarse = [(level, _outlines(found, level.factor)) for level in levels[1:]]
    profile: dict[str, Any] = {"driver": "GTiff", "dtype": "uint8", "count": 1, "height": height, "width": width}
    profile |= {"nodata": _NODATA, "tiled": True, "blockxsize": _ROWS, "blockysize": _ROWS, "bigtiff": "if_safer"}
    profile |= {"compress": "zstd", "zstd_level": 1, "crs": grid.crs}
    if grid.transform is not None:
        profile["transform"] = rasterio.Affine(*grid.transform)
    with atomic_path(path) as temporary, rasterio.Env(GDAL_CACHEMAX=_CACHE, GDAL_NUM_THREADS="ALL_CPUS"):
        plain = temporary.with_name(temporary.name + ".plain.tif")
        try:
            with rasterio.open(plain, "w", **profile) as file:
                file.scales, file.offsets = (1 / _MOST,), (0.0,)
                file.set_band_description(1, "probability of a crater")
                for first in progress.track(range(0, height, _ROWS), "writing probabilities"):
                    last = min(first + _ROWS, height)
                    file.write(_strip(levels[0], coarse, first, last), 1, window=Window(0, first, width, last - first))
            copy(
                plain,
                temporary,
                driver="COG",
                compress="DEFLATE",
                blocksize=_ROWS,
                overview_resampling="AVERAGE",
                bigtiff="IF_SAFER",
            )
            _require_whole(temporary)
        except (RasterioError, CPLE_BaseError) as error:
            raise MarsError(
                f"{path} cannot be written ({error}): check the space on the disk, and run again"
            ) from error
        finally:
            plain.unlink(missing_ok=True)


def _require_whole(path: Path) -> None:
    """Read all blocks of a file.

    GDAL does not say that the last ones found no space on the disk.
    """
    import rasterio

    with rasterio.open(path) as file:
        for _, window in file.block_windows(1):
            file.read(1, window=window)


def _outlines(found: Found, factor: int) -> list[tuple[npt.NDArray[np.float64], float, float]]:
    """List the outlines of the craters seen best at a level, in its pixels.

    Each comes with its first and last row.
    """
    outlines = [crater.outline / factor for crater, at in zip(found.craters, found.factor, strict=True) if at == factor]
    return [(outline, float(outline[:, 1].min()), float(outline[:, 1].max())) for outline in outlines]


def _strip(finest: LevelMap, coarse: Sequence[tuple[LevelMap, Any]], first: int, last: int) -> npt.NDArray[np.uint8]:
    import cv2
    import shapely
    from rasterio.features import rasterize
    from rasterio.transform import Affine

    margins, seen = finest.read(first, last)
    for level, outlines in coarse:
        factor = level.factor
        top, bottom = max(first // factor - 1, 0), min(-(-last // factor) + 1, level.shape[0])
        here = [shapely.polygons(outline) for outline, low, high in outlines if low < bottom and high > top]
        if not here:
            continue
        inside = rasterize(here, (bottom - top, level.shape[1]), transform=Affine.translation(0, top), dtype="uint8")
        values, _ = level.read(top, bottom)
        size = (level.shape[1] * factor, (bottom - top) * factor)
        rows = slice(first - top * factor, last - top * factor)
        enlarged = cv2.resize(values, size, interpolation=cv2.INTER_LINEAR)[rows, : margins.shape[1]]
        shown = cv2.resize(inside, size, interpolation=cv2.INTER_NEAREST)[rows, : margins.shape[1]] > 0
        margins = np.where(shown, np.maximum(margins, enlarged), margins)
    probability = np.rint(_MOST / (1 + np.exp(-margins))).astype(np.uint8)
    return np.where(seen, probability, np.uint8(_NODATA))
