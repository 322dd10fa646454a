"""Reading of image files: recognition, headers and pixels.

This is the only module that opens image files. JPEG, PNG, TIFF, BMP, WebP, GIF and JPEG 2000 are recognised by content,
whatever the name. Pixels are returned as every viewer shows them: an orientation in EXIF is applied, also to the size.
What 8 bits of grey or colour cannot represent is refused: transparent pixels, several pages or frames, and more than 8
bits per channel, which Pillow would reduce without a word; each function documents its exceptions. A file that is
unreadable or refused raises a :class:`~mars_assets.errors.DamagedFileError` that names the file and the remedy.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import TiffImageFile

from mars_assets.errors import DamagedFileError

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".jp2", ".j2k", ".jpx"),
    *(".heic", ".heif", ".avif", ".jxl", ".psd", ".dng", ".tga", ".pgm", ".ppm", ".svg", ".ico", ".nef", ".cr2"),
    *(".exr", ".npy", ".fits", ".fit", ".img", ".cub"),
)
"""Of images in an export, also of formats that are not read, so that these are refused and not passed over."""
READABLE = "JPEG or PNG file, nor TIFF, BMP, WebP, GIF or JPEG 2000"
"""The formats that are read, for an error message that begins with "no" or "not"."""
MAX_SIDE = 16384
"""Longest side of a labelled image, in pixels."""
MAX_PIXELS = 2**26
MIN_SIDE = 16
"""Shortest side of an image that a model can be asked about, in pixels: that of Prithvi's patches."""
_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "JPEG2000")
_ADDED = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
"""Files that Windows and macOS add to folders of images."""
_NOTES = (".txt", ".md", ".html", ".json", ".geojson", ".xml", ".yaml", ".yml", ".csv", ".tsv", ".tab", ".parquet")
_GEOREFERENCES = (".lbl", ".prj", ".wld", ".tfw", ".tifw", ".jgw", ".jpgw", ".pgw", ".pngw", ".j2w", ".ovr", ".msk")
"""With the notes and tables, what lies next to images; the last two are GDAL's smaller copies and masks of images."""
_CUT = "cut it into smaller ones"
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by EXIF's orientation."""
_NEARLY_BLACK = 16
"""An image that is darker everywhere after the reduction to 8 bits had 12 bits or fewer, stored in 16."""
_SUBFILE_TYPE, _BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLES_PER_PIXEL, _SAMPLE_FORMAT = 254, 258, 262, 277, 339
"""Tags of TIFF."""
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_DAMAGE = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, AssertionError, MemoryError),
    *(struct.error, zlib.error),
)
"""Exceptions of Pillow on damaged files."""


def is_picture(relative: PurePath) -> bool:
    """Test whether a file of a folder of images is meant to be one.

    All are except hidden files, those that macOS and Windows add, and notes and tables, so that an image of an unusual
    format or name is reported and not passed over.
    """
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in relative.parts)
    beside = relative.suffix.lower() in (*_NOTES, *_GEOREFERENCES) or relative.name.lower() in _ADDED
    return not (hidden or beside)


def pictures_below(folder: Path) -> list[Path]:
    """List the files meant to be images in a folder and below, sorted by path.

    Links to folders are not followed. They and links to nothing are listed, so that they are reported.
    """
    paths = (path for path in folder.rglob("*") if is_picture(path.relative_to(folder)))
    return sorted(path for path in paths if path.is_file() or path.is_symlink())


def refuse_tiny(where: object, height: int, width: int) -> None:
    """Refuse an image that is smaller than a patch.

    Raises:
        DamagedFileError: one of its sides is below ``MIN_SIDE``.
    """
    if min(height, width) < MIN_SIDE:
        raise DamagedFileError(
            f"{where} is {width} x {height} pixels, smaller than a model's patch of {MIN_SIDE} x {MIN_SIDE}: give a "
            "larger image"
        )


def read_rgb(
    source: Path | bytes, remedy: str = "fetch or export it again", name: str | None = None
) -> npt.NDArray[np.uint8]:
    """Read an image as 8-bit RGB; grey is repeated to three channels.

    Args:
        source: a file, or its bytes.
        remedy: what to do about a damaged file, for the error message.
        name: the file's name in the error message, if ``source`` is bytes.

    Returns:
        uint8 (H, W, 3), upright.

    Raises:
        DamagedFileError: it cannot be decoded, is too large, has several pages or frames, transparent pixels, or more
            than 8 bits per channel.
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
        sixteen_bits: whether to refuse 16 bits per channel or to reduce them to the upper 8.
        remedy: what to do about a damaged file, for the error message.
        name: the file's name in the error message, if ``source`` is bytes.

    Returns:
        uint8 (H, W, 1 or 3), upright.

    Raises:
        DamagedFileError: it cannot be decoded, is too large, has several pages or frames, transparent pixels, or more
            than 8 bits per channel. If these are to be scaled, only where that cannot be done: 16-bit grey and 16-bit
            PNGs are scaled, unless their values leave the upper 4 bits unused.
    """
    where = _called(source, name)
    with _opened(source, remedy, name) as image:
        _refuse_layers(image, where)
        deep = _bits(image, source) > 8
        if deep and (sixteen_bits == "refuse" or not _can_be_scaled(image)):
            raise DamagedFileError(
                f"{where} has more than 8 bits per channel (mode {image.mode}): stretch it to 8 bits, or {remedy}"
            )
        _scale_transparent_grey(image, source)
        upright = _upright(image)
        if image.mode.startswith("I"):  # Pillow's own conversion clips instead of scaling.
            pixels = (np.asarray(upright) >> 8).clip(0, 255).astype(np.uint8)
        else:
            pixels = np.asarray(upright.convert("L" if image.mode in ("1", "L") else "RGB"))
        if deep and pixels.max() < _NEARLY_BLACK:
            raise DamagedFileError(f"{where} uses the lowest of its 16 bits only: stretch it to 8 bits, or {remedy}")
        _refuse_transparency(upright, where)
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
        bool, uint8 or uint16, (H, W) or (H, W, channels), upright. An alpha channel is one of them.

    Raises:
        DamagedFileError: it cannot be decoded, is too large, has several pages or frames, or several channels of more
            than 8 bits.
    """
    where = _called(source, name)
    with _opened(source, remedy, name, formats) as image:
        _refuse_layers(image, where)
        if len(image.getbands()) > 1 and _bits(image, source) > 8:
            raise DamagedFileError(f"{where} has channels of more than 8 bits (mode {image.mode}): {remedy}")
        return np.asarray(_upright(image))


def read_label_image(path: Path) -> npt.NDArray[Any]:
    """Read a mask, uint8 (H, W), or crater numbers, uint16 (H, W).

    Raises:
        DamagedFileError: it cannot be read.
    """
    return read_stored(path, "materialize 'labelled_crops' again", f"the mask {path}")


def image_size(source: Path | bytes, remedy: str, name: str | None = None) -> tuple[int, int]:
    """Read the size of an image to label, when upright, from its header.

    Args:
        source: a file, or its bytes.
        remedy: what to do about a damaged file, for the error message.
        name: the file's name in the error message, if ``source`` is bytes.

    Returns:
        Height and width in pixels.

    Raises:
        DamagedFileError: it is of no readable format, or exceeds ``MAX_SIDE`` or ``MAX_PIXELS``.
    """
    height, width = picture_size(source, remedy, name)
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise DamagedFileError(
            f"{_called(source, name)} is too large ({width} x {height} pixels; the limits are {MAX_SIDE} along a side "
            f"and {MAX_PIXELS / 1e6:.0f} megapixels): {_CUT}"
        )
    return height, width


def picture_size(source: Path | bytes, remedy: str, name: str | None = None) -> tuple[int, int]:
    """Read the size of an image of any size, as :func:`image_size` does."""
    with _opened(source, remedy, name) as image:
        width, height = image.size
        return (width, height) if _orientation_of(image, source) in (5, 6, 7, 8) else (height, width)


def is_turned(source: Path | bytes, name: str | None = None) -> bool:
    """Test whether EXIF turns a JPEG, PNG or WebP, so that it is not read as stored.

    Raises:
        DamagedFileError: it is of no readable format.
    """
    with _opened(source, "repair it", name) as image:
        return _orientation_of(image, source) in _TURNS


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
        with _opened(path, "", formats=("PNG",)) as image:
            return image.info.get(key)
    except DamagedFileError:
        return None


def _called(source: Path | bytes, name: str | None) -> str:
    """Name an image in an error message."""
    return name or (str(source) if isinstance(source, Path) else "an image in memory")


def _content(source: Path | bytes, length: int | None = None) -> bytes:
    """Read a file's first bytes, or all of them."""
    if isinstance(source, bytes):
        return source[:length]
    with open(source, "rb") as file:
        return file.read(length)


def _refuse_layers(image: Image.Image, where: str) -> None:
    """Refuse several pages or frames, and channels that Pillow drops.

    A JPEG may contain previews of itself (MPO), a TIFF smaller copies; they are no pages.
    """
    try:
        pages = getattr(image, "n_frames", 1)
    except SyntaxError as error:  # GDAL writes masks as pages that Pillow cannot open
        raise DamagedFileError(
            f"{where} has a page that is no picture, such as a mask, under which anything may be hidden: fill or cut "
            "off what is masked, and save it as one page"
        ) from error
    if isinstance(image, TiffImageFile):
        channels = image.tag_v2.get(_SAMPLES_PER_PIXEL, 1)
        if channels > len(image.getbands()):
            raise DamagedFileError(
                f"{where} has {channels} channels, more than grey or red, green and blue: save it with 1 or 3 channels"
            )
        if 2 in image.tag_v2.get(_SAMPLE_FORMAT, (1,)) and image.mode == "L":
            raise DamagedFileError(f"{where} has signed numbers, some of which may be negative: stretch it to 8 bits")
        pages = _pages(image) if pages > 1 else 1
    if pages > 1 and image.format != "MPO":
        raise DamagedFileError(f"{where} has {pages} pages or frames: save each as an image of its own")


def _pages(image: TiffImageFile) -> int:
    """Count a TIFF's pages, without smaller copies of a page."""
    pages = 0
    for page in range(image.n_frames):
        image.seek(page)
        pages += not image.tag_v2.get(_SUBFILE_TYPE, 0) & 1
    image.seek(0)
    return pages


def _bits(image: Image.Image, source: Path | bytes) -> int:
    """Read the bits per channel from the header, as Pillow hides those of colour."""
    if image.mode.startswith(("I", "F")):
        return 16
    if image.format == "PNG":
        return _content(source, 25)[24]
    if isinstance(image, TiffImageFile):
        return int(max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,))))
    if image.format == "JPEG2000":
        content = _content(source)
        sizes = content.find(b"\xff\x4f\xff\x51") + 42  # of the components, in the codestream's first segment
        channels = int.from_bytes(content[sizes - 2 : sizes])
        return max(((depth & 0x7F) + 1 for depth in content[sizes : sizes + 3 * channels : 3]), default=8)
    return 8


def _can_be_scaled(image: Image.Image) -> bool:
    """Test whether 16 bits can be reduced to 8.

    Those of grey can, and those of colour in a PNG, where Pillow does it.
    """
    if image.format == "PNG":
        return image.mode.startswith("I") or "transparency" not in image.info
    inverted = isinstance(image, TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC) == 0  # Pillow ignores it
    return image.mode.startswith("I;16") and not inverted


def _scale_transparent_grey(image: Image.Image, source: Path | bytes) -> None:
    """Scale the transparent grey value as Pillow scales grey of less than 8 bits."""
    key = image.info.get("transparency")
    if image.mode in ("1", "L") and isinstance(key, int):
        most = 2 ** _bits(image, source) - 1
        image.info["transparency"] = (key & most) * 255 // most


def _refuse_transparency(image: Image.Image, where: str) -> None:
    """Refuse transparent pixels, whose values no viewer shows."""
    if not image.has_transparency_data:
        return
    if image.mode.startswith("I"):
        transparent = bool((np.asarray(image) == image.info["transparency"]).any())
    else:
        transparent = np.asarray(image.convert("RGBA"))[..., 3].min() < 255
    if transparent:
        raise DamagedFileError(
            f"{where} has transparent pixels, under which anything may be hidden: fill or cut them off, and save it "
            "without transparency"
        )


def _upright(image: Image.Image) -> Image.Image:
    """Decode an image and apply its orientation."""
    image.load()  # a PNG's orientation may follow its pixels
    turn = _TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _orientation_of(image: Image.Image, source: Path | bytes) -> int:
    """Read the orientation of an image that is not decoded yet."""
    if image.format == "PNG" and b"eXIf" in _content(source):
        image.load()  # its orientation may follow its pixels
    return _orientation(image)


def _orientation(image: Image.Image) -> int:
    """Read the orientation in EXIF that is still to be applied; 1 is upright.

    Pillow applies that of a TIFF itself. Its own ``getexif`` would fall back on XMP, which viewers ignore.
    """
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif", b""))
        orientation: int = exif.get(ExifTags.Base.Orientation, 1)
    except (SyntaxError, struct.error, TypeError, ValueError, LookupError, OSError):  # damaged EXIF turns nothing
        return 1
    return orientation


@contextmanager
def _opened(
    source: Path | bytes, remedy: str, name: str | None = None, formats: tuple[str, ...] = _FORMATS
) -> Iterator[Image.Image]:
    """Open an image; errors while it is read or decoded name the file and the remedy."""
    where = _called(source, name)
    try:
        # As a stream: Pillow maps a TIFF's file into memory, and then misreads one that is to be turned.
        with (
            io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file,
            Image.open(file, formats=formats) as image,
        ):
            image.info.pop("xmp", None)  # from which Pillow would turn a TIFF
            yield image
    except UnidentifiedImageError as error:
        if "TIFF" in formats and _content(source, 4) in _TIFF_STARTS:
            raise DamagedFileError(
                f"{where} is a TIFF, but neither grey nor red, green and blue of 8 bits per channel: save it as one of "
                "these"
            ) from error
        expected, wanted = READABLE, "save it as one of these, or "
        if formats != _FORMATS:
            expected, wanted = f"{' or '.join(formats)} file", ""
        raise DamagedFileError(f"{where} cannot be read, since it is not a {expected}: {wanted}{remedy}") from error
    except Image.DecompressionBombError as error:
        size = str(error).split(", could")[0]  # without the guess that this is an attack
        raise DamagedFileError(f"{where} is too large ({size}): {_CUT}") from error
    except _DAMAGE as error:
        raise DamagedFileError(f"{where} cannot be decoded ({error}): {remedy}") from error
