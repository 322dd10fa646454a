"""Image files: which files are images, what their headers state, and their pixels.

The one place that opens an image file. Images are JPEG or PNG. Pixels come as stored: an orientation in EXIF is not
applied, since outlines and masks count stored pixels, and transparency is dropped. Of colour with 16 bits a channel
Pillow reads the upper 8; what becomes of grey with 16 bits stands with each function. Whatever cannot be read is a
:class:`~mars_assets.errors.DamagedFileError` that names the file and the remedy.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from mars_assets.errors import DamagedFileError

SUFFIXES = (".jpg", ".jpeg", ".png")
MAX_SIDE = 16384
"""Pixels of the longer side of an image that is labelled."""
MAX_PIXELS = 2**26
_FORMATS = ("JPEG", "PNG")


def is_picture(relative: PurePath) -> bool:
    """Whether a path in a folder or archive names an image; hidden files and what a Mac adds to archives are none."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in relative.parts)
    return relative.suffix.lower() in SUFFIXES and not hidden


def pictures_below(folder: Path) -> list[Path]:
    """List the JPEG and PNG files of a folder and its subfolders, sorted by path."""
    return sorted(path for path in folder.rglob("*") if is_picture(path.relative_to(folder)) and path.is_file())


def read_rgb(
    source: Path | bytes, remedy: str = "fetch or export it again", name: str | None = None
) -> npt.NDArray[np.uint8]:
    """Read an image as 8-bit RGB, a grey one repeated to three channels.

    Args:
        source: a file, or the bytes of one.
        remedy: what to do about a damaged one, for the error.
        name: of the file, for the error; needed with bytes.

    Returns:
        uint8 (H, W, 3).

    Raises:
        DamagedFileError: it cannot be decoded, is too large, or has 16 bits of grey.
    """
    pixels = read_grey_or_rgb(source, "refuse", remedy, name)
    return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)


def read_grey_or_rgb(
    source: Path | bytes,
    sixteen_bits: Literal["refuse", "scale"] = "refuse",
    remedy: str = "remove or repair it",
    name: str | None = None,
) -> npt.NDArray[np.uint8]:
    """Read an image as 8-bit RGB or, where it is grey, with one channel, which takes a third of the memory.

    Args:
        source: a file, or the bytes of one.
        sixteen_bits: whether grey of 16 bits is refused or reduced to its upper 8 bits.
        remedy: what to do about a damaged one, for the error.
        name: of the file, for the error; needed with bytes.

    Returns:
        uint8 (H, W, 1 or 3).

    Raises:
        DamagedFileError: it cannot be decoded or is too large, or has 16 bits of grey and they are refused.
    """
    with _opened(source, remedy, name) as image:
        if image.mode.startswith("I"):
            if sixteen_bits == "refuse":
                raise DamagedFileError(
                    f"{_called(source, name)} has more than 8 bits a channel (mode {image.mode}): "
                    f"stretch it to 8 bits, or {remedy}"
                )
            # Pillow's own conversion would clip and not scale.
            return (np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)[..., None]
        pixels = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def read_stored(
    source: Path | bytes, remedy: str, name: str | None = None, formats: tuple[str, ...] = _FORMATS
) -> npt.NDArray[Any]:
    """Read the numbers of an image as they are stored: values of a mask, indices of a palette, 16 bits as uint16.

    Args:
        source: a file, or the bytes of one.
        remedy: what to do about a damaged one, for the error.
        name: of the file, for the error; needed with bytes.
        formats: those accepted, in Pillow's names.

    Returns:
        bool, uint8 or uint16, (H, W) or (H, W, channels).

    Raises:
        DamagedFileError: it cannot be decoded or is too large.
    """
    with _opened(source, remedy, name, formats) as image:
        return np.asarray(image)


def read_label_image(path: Path) -> npt.NDArray[Any]:
    """Read a mask of ``labelled_crops``, uint8 (H, W), or its numbered craters, uint16 (H, W).

    Raises:
        DamagedFileError: it cannot be read.
    """
    return read_stored(path, "materialize 'labelled_crops' again", f"the mask {path}")


def image_size(source: Path | bytes, remedy: str, name: str | None = None) -> tuple[int, int]:
    """Read the size of an image that may be labelled from its header, without decoding it.

    Args:
        source: a file, or the bytes of one.
        remedy: what to do about a damaged one, for the error.
        name: of the file, for the error; needed with bytes.

    Returns:
        Height and width in pixels.

    Raises:
        DamagedFileError: it is no JPEG or PNG, or larger than ``MAX_SIDE`` or ``MAX_PIXELS``.
    """
    with _opened(source, remedy, name) as image:
        width, height = image.size
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise DamagedFileError(f"{_called(source, name)} is too large ({width} x {height} pixels): {remedy}")
    return height, width


def encode_png(pixels: npt.NDArray[Any], key: str, text: str) -> bytes:
    """Encode pixels as a PNG with one text entry.

    Args:
        pixels: uint8 or uint16 (H, W), or uint8 (H, W, 3).
        key: names the text.
        text: what is stored under it, see :func:`png_text`.
    """
    info = PngInfo()
    info.add_text(key, text)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def png_text(path: Path, key: str) -> str | None:
    """Read a text entry of a PNG; None where there is no such file, it is damaged, or it has none."""
    try:
        with _opened(path, "") as image:
            return image.info.get(key)
    except DamagedFileError:
        return None


def _called(source: Path | bytes, name: str | None) -> str:
    """What an error calls an image."""
    return name or (str(source) if isinstance(source, Path) else "an image in memory")


@contextmanager
def _opened(
    source: Path | bytes, remedy: str, name: str | None = None, formats: tuple[str, ...] = _FORMATS
) -> Iterator[Image.Image]:
    """Open an image and name the file and the remedy in what goes wrong while its header is read or it is decoded."""
    where = _called(source, name)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats) as image:
            yield image
    except UnidentifiedImageError as error:  # whose message names the file, or a buffer in memory
        raise DamagedFileError(f"{where} is no {' or '.join(formats)}: {remedy}") from error
    except Image.DecompressionBombError as error:
        raise DamagedFileError(f"{where} is too large ({error}): {remedy}") from error
    except (OSError, SyntaxError, ValueError) as error:  # Pillow calls a damaged PNG a SyntaxError
        raise DamagedFileError(f"{where} cannot be decoded ({error}): {remedy}") from error
