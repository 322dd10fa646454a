"""Verification of downloaded files: start, end marker and a test decoding."""

from __future__ import annotations

from pathlib import Path

from mars_assets.errors import DamagedFileError
from mars_assets.imagery.index import INDEX_FILES, read_index_label
from mars_assets.imagery.jpeg2000 import codestream_box
from mars_assets.imagery.pds_label import read_label
from mars_assets.imagery.scene import open_jp2
from mars_assets.images import read_grey_or_rgb

_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_INDEX_LABEL = Path(INDEX_FILES.label or "").name
_OVERVIEW = 512  # maximum length of the longer edge in pixels
_JP2_START, _JP2_END = b"\x00\x00\x00\x0cjP  \r\n\x87\n", b"\xff\xd9"


def verify_file(path: Path, name: str) -> None:
    """Check a file from the archive before it gets its final name.

    Args:
        path: the file under its present name.
        name: its final name, whose suffix gives the format.

    Raises:
        DamagedFileError: it is truncated, of another format, or does not decode.
    """
    match Path(name).suffix.lower():
        case ".jpg":
            _verify_jpeg(path)
        case ".jp2":
            _verify_jp2(path)
        case ".lbl":
            read_index_label(path) if name == _INDEX_LABEL else read_label(path)
        case ".tab":
            if _ends(path, 0, 1)[1] not in (b"\n", b"\x1a"):
                raise DamagedFileError("the table does not end with a newline: it is truncated")
        case suffix:
            raise DamagedFileError(f"{name}: the archive's files end in .jpg, .JP2, .LBL or .TAB, not {suffix!r}")


def _verify_jpeg(path: Path) -> None:
    start, end = _ends(path, len(_JPEG_START), len(_JPEG_END))
    if start != _JPEG_START:
        raise DamagedFileError(f"the file is not a JPEG: it starts with {start!r}")
    if end != _JPEG_END:
        raise DamagedFileError("the JPEG lacks its end-of-image marker: it is truncated")
    read_grey_or_rgb(path, remedy="fetching it again", name="the JPEG")


def _verify_jp2(path: Path) -> None:
    start, _ = _ends(path, len(_JP2_START), 0)
    if start != _JP2_START:
        raise DamagedFileError(f"the file is not JPEG 2000: it starts with {start!r}")
    with open(path, "rb") as file:
        _, end = codestream_box(file)
        file.seek(end - len(_JP2_END))
        if file.read(len(_JP2_END)) != _JP2_END:
            raise DamagedFileError("the JPEG 2000 codestream lacks its end marker: it is truncated")
    # A small overview uses some packets of every region; decoding everything would take as long as cutting the crops.
    with open_jp2(path) as scene:
        smaller = max(scene.info.lines, scene.info.samples) // _OVERVIEW
        scene.overview(1 << max(0, smaller.bit_length()))


def _ends(path: Path, first: int, last: int) -> tuple[bytes, bytes]:
    with open(path, "rb") as file:
        start = file.read(first)
        file.seek(max(0, path.stat().st_size - last))
        return start, file.read(last)
