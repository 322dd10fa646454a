"""Picture files: which of a folder's are, and what is in them."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from mars_assets.errors import DamagedFileError, MarsError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from mars_assets.bands import BandStatistics, Float32

SUFFIXES = (".jpg", ".jpeg", ".png")
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")
"""Pillow's kinds of pictures that have no more than 8 bits a channel."""


def is_picture(relative: PurePath) -> bool:
    """Whether a path in a folder or archive names a picture, and not what a Mac or a killed extraction leaves beside it."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in relative.parts)
    return relative.suffix.lower() in SUFFIXES and not hidden


def pictures_below(folder: Path) -> list[Path]:
    """The JPEG and PNG files of a folder and its folders, in order of their paths."""
    return sorted(path for path in folder.rglob("*") if is_picture(path.relative_to(folder)) and path.is_file())


def read_rgb(path: Path) -> npt.NDArray[np.uint8]:
    """A picture as 8-bit RGB, uint8 (H, W, 3); a grey one is repeated to three channels.

    Raises:
        DamagedFileError: it cannot be decoded, or is too large.
        MarsError: it has more than 8 bits.
    """
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=("JPEG", "PNG")) as image:
            if image.mode not in MODES:
                raise MarsError(
                    f"{path} has more than 8 bits a channel (mode {image.mode}): stretch it to 8 bits, as HiRISE's pictures are"
                )
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DamagedFileError(f"{path} cannot be decoded ({error}): fetch or export it again") from error


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
    from mars_assets.bands import EVALUATED, HLS_BANDS, impute, scale_to_reflectance
    from mars_assets.chips import read_chip

    if path.suffix.lower() in SUFFIXES:
        return impute(scale_to_reflectance(read_rgb(path), statistics), EVALUATED, statistics)
    return read_chip(path, HLS_BANDS)
