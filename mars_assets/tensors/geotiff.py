"""Reading and writing of chips.

Chips are float32 GeoTIFFs with the band names as descriptions, which QGIS, TorchGeo and TerraTorch can open.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mars_assets.bands import EVALUATED, HLS_BANDS, VALID, WANTED, BandStatistics, Float32, impute, scale_to_reflectance
from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.images import picture_size, read_rgb
from mars_assets.storage.geotiff import chip_size, new_geotiff, opened

STRIP_ROWS = 64
"""Rows compressed together. Imputed bands are computed from the others, so zstd finds much repetition across the bands
of a pixel if it sees more than the one row of GDAL's default: 512 x 512 x 6 values then take 0.4 MB for a grey image
and 1.3 to 2.2 MB for a colour image."""

Part = tuple[tuple[int, int], tuple[int, int]]
"""First and last row of a part, and first and last column; the last ones are excluded."""

_FINGERPRINT = "MARS_ASSETS_FINGERPRINT"
_TIFF = (".tif", ".tiff")
_FEW = 0.01
"""Share of values, of glints for example, that may exceed the valid range."""
_WHOLE_NUMBERS = {"uint8", "int8", "uint16", "int16", "uint32", "int32"}


def read_bands(path: Path, statistics: BandStatistics) -> Float32:
    """Read an image's six bands, the input of models.

    Args:
        path: a six-band chip; or a picture, grey or RGB, which is converted like the labelled images.
        statistics: used to scale a picture.

    Returns:
        float32 (6, H, W) in HLS reflectance units.

    Raises:
        DamagedFileError: the file is missing, unreadable, or has other bands or more than 8 bits per channel.
    """
    if path.suffix.lower() in _TIFF:
        with opened(path) as file:
            if not _is_picture(file):
                return _part(file, path, HLS_BANDS, _whole)
    return impute(scale_to_reflectance(read_rgb(path), statistics), EVALUATED, statistics)


def is_chip(path: Path) -> bool:
    """Test whether a file is a TIFF of data, as chips are, and not a picture.

    Raises:
        DamagedFileError: it is named like a TIFF, and missing or unreadable.
    """
    if path.suffix.lower() not in _TIFF:
        return False
    with opened(path) as file:
        return not _is_picture(file)


def _is_picture(file: Any) -> bool:
    """Test whether an open TIFF has the channels of a picture, of any depth."""
    return file.count <= 4 and {*file.dtypes} <= _WHOLE_NUMBERS


def size_of(path: Path) -> tuple[int, int]:
    """Read the height and width in pixels of a chip or a picture from its header.

    Raises:
        DamagedFileError: it is missing or unreadable.
    """
    return chip_size(path) if path.suffix.lower() in _TIFF else picture_size(path, "repair it")


def write_chip(
    path: Path,
    chip: Float32,
    bands: Sequence[str],
    *,
    georeference: tuple[Any, Any] = (None, None),
    fingerprint: str = "",
) -> None:
    """Write a chip atomically, with lossless compression.

    The compression is ZSTD level 1 without a predictor, as values of 8-bit origin repeat.

    Args:
        path: the target.
        chip: float32, shape (bands, H, W).
        bands: a name for each band.
        georeference: rasterio's CRS and transform, if the source is georeferenced.
        fingerprint: of the chip's inputs; stored in the file, see :func:`read_fingerprint`.

    Raises:
        MarsError: the chip has values that are not finite.
    """
    if not np.isfinite(chip).all():
        raise MarsError(f"{path}: a chip's values must be finite")
    count, height, width = chip.shape
    crs, transform = georeference
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


def read_chip(path: Path, bands: Sequence[str]) -> Float32:
    """Read a chip: float32, shape (bands, H, W).

    Raises:
        DamagedFileError: it is missing or unreadable, or its bands differ in name or order.
    """
    return read_part(path, bands, _whole)


def _whole(height: int, width: int) -> Part:
    return (0, height), (0, width)


def read_reflectance(path: Path) -> Float32:
    """Read a chip that a user gives, float32 (6, H, W), and check its units.

    Raises:
        DamagedFileError: as for :func:`read_chip`, or its values are no HLS reflectance, or contain a fill value.
    """
    chip = read_chip(path, HLS_BANDS)
    low, high = float(chip.min()), float(chip.max())
    too_bright = float((chip > VALID[1]).mean()) > _FEW
    if not low >= VALID[0] or too_bright or 0 < high <= VALID[1] / 10_000:
        raise DamagedFileError(f"{path} has values from {low:g} to {high:g}: give {WANTED}, without fill values")
    return chip


def read_part(path: Path, bands: Sequence[str], part_of: Callable[[int, int], Part]) -> Float32:
    """Read a part of a chip, without decompressing the rows above and below it.

    Args:
        path: the chip.
        bands: names of its bands.
        part_of: returns the part from the chip's height and width.

    Returns:
        float32, shape (bands, rows, columns).

    Raises:
        DamagedFileError: it is missing or unreadable, or its bands differ in name or order.
    """
    with opened(path) as file:
        return _part(file, path, bands, part_of)


def _part(file: Any, path: Path, bands: Sequence[str], part_of: Callable[[int, int], Part]) -> Float32:
    """Read a part of an open chip, see :func:`read_part`."""
    if tuple(file.descriptions) != tuple(bands):
        raise DamagedFileError(
            f"{path} has the bands {file.descriptions}, not {tuple(bands)}: delete it and materialize its asset again, "
            "or, if it is a picture of yours, save it with 1 or 3 channels of 8 bits"
        )
    values: Float32 = file.read(window=part_of(file.height, file.width), out_dtype="float32")
    return values


def read_fingerprint(path: Path) -> str | None:
    """Read a chip's fingerprint; None if it has none or is unreadable."""
    try:
        with opened(path) as file:
            fingerprint: str | None = file.tags().get(_FINGERPRINT)
            return fingerprint
    except DamagedFileError:
        return None
