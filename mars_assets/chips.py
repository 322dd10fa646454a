"""Chips on disk: float32 GeoTIFFs that QGIS, TorchGeo and TerraTorch open, with the band names as descriptions."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mars_assets.bands import Float32
from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.lake import write_bytes

STRIP_ROWS = 64
"""Rows compressed together. Imputed bands follow from the others, so pixel by pixel zstd finds much that repeats, if it sees
more than the one row of GDAL's default: 512 x 512 x 6 then take 0.4 MB of a grey image, 1.3 to 2.2 of a coloured one."""

_FINGERPRINT = "MARS_ASSETS_FINGERPRINT"


def write_chip(
    path: Path,
    chip: Float32,
    bands: Sequence[str],
    *,
    crs: Any = None,
    transform: Any = None,
    fingerprint: str = "",
) -> None:
    """Writes a chip, losslessly compressed (ZSTD 1 without predictor: values of 8-bit origin repeat).

    Args:
        path: where to; written whole or not at all.
        chip: float32, shape (bands, H, W).
        bands: a name for each band.
        crs: rasterio's, where the source is georeferenced.
        transform: rasterio's, likewise.
        fingerprint: of what the chip was made from; travels in the file, see :func:`read_fingerprint`.

    Raises:
        MarsError: another shape or type, or values that are not finite.
    """
    if chip.dtype != np.float32 or chip.ndim != 3 or chip.shape[0] != len(bands):
        raise MarsError(f"{path}: a chip is float32 of shape ({len(bands)}, H, W), not {chip.dtype} {chip.shape}")
    if not np.isfinite(chip).all():
        raise MarsError(f"{path}: a chip's values must be finite")
    count, height, width = chip.shape
    with new_geotiff(
        path,
        count=count,
        height=height,
        width=width,
        dtype="float32",
        crs=crs,
        transform=transform,
        compress="zstd",
        zstd_level=1,
        blockysize=min(height, STRIP_ROWS),
        interleave="pixel",
    ) as file:
        file.write(chip)
        file.descriptions = tuple(bands)
        file.update_tags(**{_FINGERPRINT: fingerprint})


@contextmanager
def new_geotiff(path: Path, **profile: Any) -> Iterator[Any]:
    """A GeoTIFF of crop size to write into, rasterio's; it takes its place, whole, when the block ends without an exception.

    Encoded in memory: GDAL keeps errors of its last writes, as on a full disk, to itself when it closes a file.

    Args:
        path: where to.
        profile: rasterio's, without the driver.

    Raises:
        MarsError: the disk is full or the folder may not be written.
    """
    _rasterio()
    from rasterio.io import MemoryFile

    with MemoryFile() as memory:
        with memory.open(driver="GTiff", **profile) as file:
            yield file
        write_bytes(path, memory.read())


def read_chip(path: Path, bands: Sequence[str]) -> Float32:
    """Reads a chip, float32, shape (bands, H, W).

    Raises:
        DamagedFileError: it is missing, unreadable, or has other bands or another order of bands.
    """
    with _opened(path) as file:
        return _values(file, bands)


def read_placed_chip(path: Path, bands: Sequence[str]) -> tuple[Float32, Any, Any]:
    """A chip as :func:`read_chip` reads it, and its CRS and transform as :func:`georeference` gives them."""
    with _opened(path) as file:
        return _values(file, bands), *_place(file)


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) in pixels that the header of a chip, a JPEG or a PNG states.

    Raises:
        DamagedFileError: it is missing or unreadable.
    """
    from rasterio.errors import RasterioError

    rasterio = _rasterio()
    try:
        with rasterio.open(path) as file:
            return file.height, file.width
    except RasterioError as error:
        raise DamagedFileError(f"{path} cannot be read ({error}): delete it and make its asset again") from error


def georeference(path: Path) -> tuple[Any, Any]:
    """A chip's CRS and transform, rasterio's; (None, None) where it has no CRS.

    Raises:
        DamagedFileError: it is missing or unreadable.
    """
    with _opened(path) as file:
        return _place(file)


def _values(file: Any, bands: Sequence[str]) -> Float32:
    if tuple(file.descriptions) != tuple(bands):
        raise DamagedFileError(
            f"{file.name} has the bands {file.descriptions}, expected {tuple(bands)}: delete it and make its asset again"
        )
    return file.read(out_dtype="float32")


def _place(file: Any) -> tuple[Any, Any]:
    return (file.crs, file.transform) if file.crs else (None, None)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from rasterio.errors import RasterioError

    try:
        with _rasterio().open(path) as file:
            yield file
    except RasterioError as error:
        raise DamagedFileError(f"{path} cannot be read ({error}): delete it and make its asset again") from error


def read_fingerprint(path: Path) -> str | None:
    """The fingerprint a chip was written with; None where the file cannot be read or has none."""
    from rasterio.errors import RasterioError

    rasterio = _rasterio()
    try:
        with rasterio.open(path) as file:
            return file.tags().get(_FINGERPRINT)
    except RasterioError:
        return None


def _rasterio() -> Any:
    """rasterio, without its warning that a chip has no georeference: crops of browse products have none.

    Set for the process, since chips are read by threads and ``warnings.catch_warnings`` is not for them.
    """
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
    return rasterio
