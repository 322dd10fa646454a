"""GeoTIFFs of crop size: written whole or not at all, and what their headers say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mars_assets.errors import DamagedFileError
from mars_assets.storage.files import write_bytes


@contextmanager
def new_geotiff(path: Path, **profile: Any) -> Iterator[Any]:
    """A GeoTIFF of crop size to write into, rasterio's; it takes its place, whole, when the block ends without an
    exception.

    Encoded in memory: GDAL keeps errors of its last writes, as on a full disk, to itself when it closes a file.

    Args:
        path: where to.
        profile: rasterio's, without the driver.

    Raises:
        MarsError: the disk is full or the folder may not be written.
    """
    from rasterio.io import MemoryFile

    with MemoryFile() as memory:
        with memory.open(driver="GTiff", **profile) as file:
            yield file
        write_bytes(path, memory.read())


def chip_size(path: Path) -> tuple[int, int]:
    """Read a chip's height and width in pixels from its header.

    Raises:
        DamagedFileError: it is missing or unreadable.
    """
    with _opened(path) as file:
        return file.height, file.width


def georeference(path: Path) -> tuple[Any, Any]:
    """A chip's CRS and transform, rasterio's; (None, None) where it has no CRS.

    Raises:
        DamagedFileError: it is missing or unreadable.
    """
    with _opened(path) as file:
        return _place(file)


def _place(file: Any) -> tuple[Any, Any]:
    return (file.crs, file.transform) if file.crs else (None, None)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import rasterio
    from rasterio.errors import RasterioError

    try:
        with rasterio.open(path) as file:
            yield file
    except RasterioError as error:
        raise DamagedFileError(f"{path} cannot be read ({error}): delete it and make its asset again") from error
