"""Chips on disk: float32 GeoTIFFs that QGIS, TorchGeo and TerraTorch open, with the band names as descriptions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mars_assets.bands import EVALUATED, HLS_BANDS, Float32, impute, scale_to_reflectance
from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.images import SUFFIXES, read_rgb
from mars_assets.storage.geotiff import _opened, _place, new_geotiff

if TYPE_CHECKING:
    import numpy as np

    from mars_assets.bands import BandStatistics, Float32


def read_bands(path: Path, statistics: BandStatistics) -> Float32:
    """The six bands that models see of an image.

    Args:
        path: a six-band chip; or a JPEG or PNG, grey or RGB, which becomes one as the labelled images do.
        statistics: that a picture is scaled with.

    Returns:
        float32 (6, H, W) in HLS reflectance units.

    Raises:
        DamagedFileError: the file is missing, unreadable or has other bands.
        MarsError: a picture has more than 8 bits.
    """
    if path.suffix.lower() in SUFFIXES:
        return impute(scale_to_reflectance(read_rgb(path), statistics), EVALUATED, statistics)
    return read_chip(path, HLS_BANDS)


STRIP_ROWS = 64
"""Rows compressed together. Imputed bands follow from the others, so pixel by pixel zstd finds much that repeats, if it
sees more than the one row of GDAL's default: 512 x 512 x 6 then take 0.4 MB of a grey image, 1.3 to 2.2 of a
coloured one.
"""

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


def _values(file: Any, bands: Sequence[str]) -> Float32:
    if tuple(file.descriptions) != tuple(bands):
        raise DamagedFileError(
            f"{file.name} has the bands {file.descriptions}, expected {tuple(bands)}: delete it and make its asset "
            "again"
        )
    return file.read(out_dtype="float32")


def read_fingerprint(path: Path) -> str | None:
    """The fingerprint a chip was written with; None where the file cannot be read or has none."""
    import rasterio
    from rasterio.errors import RasterioError

    try:
        with rasterio.open(path) as file:
            return file.tags().get(_FINGERPRINT)
    except RasterioError:
        return None
