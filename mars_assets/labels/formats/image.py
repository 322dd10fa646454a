"""Common representation of an exported image with its class or craters."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from mars_assets.images import SUFFIXES

Split = Literal["train", "valid", "test"]
Label = Literal["crater", "no_crater"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
_NO_CRATER = re.compile(r"^(no|non|not)[ _-]?(a[ _-]?)?craters?$", re.IGNORECASE)
_CRATER = re.compile(r"^craters?$", re.IGNORECASE)
EXPORT_AGAIN = "export it again"
"""The remedy for a faulty export, in error messages."""
_ROBOFLOW_NAME = re.compile(r"^(?P<uploaded>.+)\.rf\.[0-9A-Za-z]+$")
_UPLOADED_SUFFIX = re.compile(
    r"_(jpe?g|jpe|jfif|pjpeg|a?png|tiff?|bmp|dib|gif|webp|hei[cf]s?|avif|jp2|j2k|jxl|p[bgnp]m|tga|psd|dng|cr[23]|nef|arw)$",
    re.IGNORECASE,
)
"""Ending of an uploaded file's name, whose dot Roboflow replaces by '_'."""

Outline = dict[str, Any]
"""A crater's outline in pixels: ``{"polygons": [[x, y, …], …]}`` or ``{"rle": {"size": […], "counts": …}}``."""


@dataclass(frozen=True)
class ExportedImage:
    """One image of an export.

    Args:
        entry: name in the zip.
        split: split in the export.
        original: name under which it was uploaded, without suffix.
        label: "crater" or "no_crater" in a classification export, otherwise None.
        outlines: one per crater in a segmentation export (empty if the image is labelled as having none), None in a
            classification export.
        size: (height, width) as stated in the export, None if it is not stated.
    """

    entry: str
    split: Split
    original: str
    label: Literal["crater", "no_crater"] | None = None
    outlines: tuple[Outline, ...] | None = None
    size: tuple[int, int] | None = None


def original_name(file_name: str) -> str:
    """Parse the uploaded name from ``ORIGINAL_jpg.rf.HASH.jpg``, composed as in NFC.

    The suffix before ``.rf.`` is in any case or missing. For a name of another form, return its stem.
    """
    return _uploaded(PurePosixPath(unicodedata.normalize("NFC", file_name).replace("\\", "/")).stem)


def picture_of(original: str) -> str:
    """Name the picture that an upload shows.

    The upload may itself be a copy that Roboflow exported.
    """
    while (uploaded := _uploaded(original)) != original:
        original = uploaded
    return original


def _uploaded(name: str) -> str:
    """Remove what Roboflow adds to an uploaded name, once."""
    match = _ROBOFLOW_NAME.match(name)
    return (_UPLOADED_SUFFIX.sub("", match["uploaded"]) or name) if match else name


def class_of(name: str) -> Label | None:
    """Return the class that a name denotes, or None."""
    if _NO_CRATER.match(name):
        return "no_crater"
    return "crater" if _CRATER.match(name) else None


def is_image(name: PurePosixPath) -> bool:
    """Test whether an entry has the suffix of an image."""
    return name.suffix.lower() in SUFFIXES


def split_of(name: PurePosixPath) -> Split | None:
    """Return the split named by an entry's first folder, or None."""
    return name.parts[0] if len(name.parts) > 1 and name.parts[0] in SPLITS else None


def listed(problems: list[str]) -> str:
    """Join the first ten problems for an error message."""
    more = f" and {len(problems) - 10} more" if len(problems) > 10 else ""
    return "; ".join(problems[:10]) + more
