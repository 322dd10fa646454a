"""GeoTIFFs small enough for memory: atomic writing, and header reading."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mars_assets.errors import DamagedFileError
from mars_assets.storage.files import shown, write_bytes


@contextmanager
def new_geotiff(path: Path, **profile: Any) -> Iterator[Any]:
    """Yield a rasterio dataset that is saved unless the block fails.

    It is encoded in memory because GDAL does not report failures of its last writes (full disk) when it closes a file.

    Args:
        path: the target, replaced atomically.
        profile: rasterio's creation profile, without the driver.

    Raises:
        MarsError: the disk is full or the folder is not writable.
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
    with opened(path) as file:
        return file.height, file.width


def georeference(path: Path) -> tuple[Any, Any]:
    """Read a chip's CRS and transform as rasterio's; (None, None) without a CRS.

    Raises:
        DamagedFileError: it is missing or unreadable.
    """
    with opened(path) as file:
        return (file.crs, file.transform) if file.crs else (None, None)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a file with rasterio.

    Raises:
        DamagedFileError: it is missing or unreadable, also while it is being read.
    """
    import rasterio
    from rasterio.errors import RasterioError

    try:
        with rasterio.open(path) as file:
            yield file
    except UnicodeEncodeError as error:
        raise DamagedFileError(f"{shown(path)} cannot be read, since its name is not UTF-8: rename it") from error
    except RasterioError as error:
        raise DamagedFileError(
            f"{path} cannot be read ({error}): delete it and materialize its asset again, or replace it if it is yours"
        ) from error
