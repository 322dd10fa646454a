"""Image files: which of a folder are, and what is in them."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from mars_assets.errors import DamagedFileError, MarsError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def read_label_image(path: Path) -> npt.NDArray[Any]:
    """A mask, or the numbered craters, of ``labelled_crops``.

    Raises:
        DamagedFileError: it cannot be read.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image)
    except (OSError, UnidentifiedImageError) as error:
        raise DamagedFileError(f"the mask {path} cannot be read ({error}): make 'labelled_crops' again") from error


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

    try:
        with Image.open(path, formats=("JPEG", "PNG")) as image:
            if image.mode not in MODES:
                raise MarsError(
                    f"{path} has more than 8 bits a channel (mode {image.mode}): stretch it to 8 bits, as HiRISE's pictures are"
                )
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DamagedFileError(f"{path} cannot be decoded ({error}): fetch or export it again") from error
