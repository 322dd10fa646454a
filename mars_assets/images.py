"""Reading of JPEG and PNG files: recognition, headers and pixels.

This is the only module that opens image files. Pixels are returned as stored: EXIF orientation is not applied, since
outlines and masks refer to stored pixels, and transparency is dropped. Pillow reduces 16-bit colour to its upper 8
bits; each function documents how it treats 16-bit grey. An unreadable file raises a
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
"""Longest side of a labelled image, in pixels."""
MAX_PIXELS = 2**26
_FORMATS = ("JPEG", "PNG")


def is_picture(relative: PurePath) -> bool:
    """Test whether a relative path names an image, not a hidden or macOS file."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in relative.parts)
    return relative.suffix.lower() in SUFFIXES and not hidden


def pictures_below(folder: Path) -> list[Path]:
    """List the JPEG and PNG files of a folder and its subfolders, sorted by path."""
    return sorted(path for path in folder.rglob("*") if is_picture(path.relative_to(folder)) and path.is_file())


def read_rgb(
    source: Path | bytes, remedy: str = "fetch or export it again", name: str | None = None
) -> npt.NDArray[np.uint8]:
    """Read an image as 8-bit RGB; grey is repeated to three channels.

    Args:
        source: a file, or its bytes.
        remedy: what to do about a damaged file, for the error message.
        name: the file's name in the error message, if ``source`` is bytes.

    Returns:
        uint8 (H, W, 3).

    Raises:
        DamagedFileError: it cannot be decoded, is too large, or is 16-bit grey.
    """
    pixels = read_grey_or_rgb(source, "refuse", remedy, name)
    return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)


def read_grey_or_rgb(
    source: Path | bytes,
    sixteen_bits: Literal["refuse", "scale"] = "refuse",
    remedy: str = "remove or repair it",
    name: str | None = None,
) -> npt.NDArray[np.uint8]:
    """Read an image as 8-bit RGB, or as one channel if it is grey.

    Args:
        source: a file, or its bytes.
        sixteen_bits: whether to refuse 16-bit grey or to reduce it to its upper 8 bits.
        remedy: what to do about a damaged file, for the error message.
        name: the file's name in the error message, if ``source`` is bytes.

    Returns:
        uint8 (H, W, 1 or 3).

    Raises:
        DamagedFileError: it cannot be decoded, is too large, or is 16-bit grey and this is refused.
    """
    with _opened(source, remedy, name) as image:
        if image.mode.startswith("I"):
            if sixteen_bits == "refuse":
                raise DamagedFileError(
                    f"{_called(source, name)} has more than 8 bits per channel (mode {image.mode}): "
                    f"stretch it to 8 bits, or {remedy}"
                )
            # Pillow's own conversion clips instead of scaling.
            return (np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)[..., None]
        pixels = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def read_stored(
    source: Path | bytes, remedy: str, name: str | None = None, formats: tuple[str, ...] = _FORMATS
) -> npt.NDArray[Any]:
    """Read an image's stored values: mask values, palette indices, 16 bits as uint16.

    Args:
        source: a file, or its bytes.
        remedy: what to do about a damaged file, for the error message.
        name: the file's name in the error message, if ``source`` is bytes.
        formats: accepted formats, by Pillow's names.

    Returns:
        bool, uint8 or uint16, (H, W) or (H, W, channels).

    Raises:
        DamagedFileError: it cannot be decoded or is too large.
    """
    with _opened(source, remedy, name, formats) as image:
        return np.asarray(image)


def read_label_image(path: Path) -> npt.NDArray[Any]:
    """Read a mask, uint8 (H, W), or crater numbers, uint16 (H, W).

    Raises:
        DamagedFileError: it cannot be read.
    """
    return read_stored(path, "materialize 'labelled_crops' again", f"the mask {path}")


def image_size(source: Path | bytes, remedy: str, name: str | None = None) -> tuple[int, int]:
    """Read an image's size from its header, without decoding it.

    Args:
        source: a file, or its bytes.
        remedy: what to do about a damaged file, for the error message.
        name: the file's name in the error message, if ``source`` is bytes.

    Returns:
        Height and width in pixels.

    Raises:
        DamagedFileError: it is neither JPEG nor PNG, or exceeds ``MAX_SIDE`` or ``MAX_PIXELS``.
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
        key: keyword of the text entry.
        text: its content, which :func:`png_text` reads.
    """
    info = PngInfo()
    info.add_text(key, text)
    return encode(Image.fromarray(pixels), "PNG", pnginfo=info)


def encode(image: Image.Image, kind: Literal["PNG", "JPEG"], **options: Any) -> bytes:
    """Encode an image as a file, with Pillow's options for files of this kind."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_text(path: Path, key: str) -> str | None:
    """Read a PNG's text entry; None if the file or the entry is missing or damaged."""
    try:
        with _opened(path, "") as image:
            return image.info.get(key)
    except DamagedFileError:
        return None


def _called(source: Path | bytes, name: str | None) -> str:
    """Name an image in an error message."""
    return name or (str(source) if isinstance(source, Path) else "an image in memory")


@contextmanager
def _opened(
    source: Path | bytes, remedy: str, name: str | None = None, formats: tuple[str, ...] = _FORMATS
) -> Iterator[Image.Image]:
    """Open an image; errors while it is read or decoded name the file and the remedy."""
    where = _called(source, name)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats) as image:
            yield image
    except UnidentifiedImageError as error:
        raise DamagedFileError(f"{where} is not a {' or '.join(formats)} file: {remedy}") from error
    except Image.DecompressionBombError as error:
        raise DamagedFileError(f"{where} is too large ({error}): {remedy}") from error
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises SyntaxError on a damaged PNG
        raise DamagedFileError(f"{where} cannot be decoded ({error}): {remedy}") from error
