"""Common representation of an exported image with its class or craters."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

from mars_assets.errors import DamagedFileError
from mars_assets.images import SUFFIXES, image_size
from mars_assets.labels.class_names import ClassNames

Split = Literal["train", "valid", "test"]
Label = Literal["crater", "no_crater"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
EXPORT_AGAIN = "export it again"
"""The remedy for a faulty export, in error messages."""
_ROBOFLOW_NAME = re.compile(r"^(?P<uploaded>.+)\.rf\.[0-9A-Za-z]+(?:[^0-9A-Za-z].*)?$", re.IGNORECASE)
"""What follows the hash is added by browsers and people, such as " (1)" and "-copy"."""
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
    label: Label | None = None
    outlines: tuple[Outline, ...] | None = None
    size: tuple[int, int] | None = None


@dataclass
class Findings:
    """What an image's annotations say.

    Args:
        outlines: of its craters.
        problems: annotations that cannot be used, and why.
        unknown: names of classes whose meaning is not known.
    """

    outlines: list[Outline] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    unknown: set[str] = field(default_factory=set)


@dataclass
class Notes:
    """What a reader finds in an export beside its images.

    Args:
        class_names: the meanings of the project's class names.
        warnings: what a person should know of.
        left_out: images that cannot be used, by entry, with the reason.
        unlabelled: images without a label, by entry, with the reason.
        unknown: images with a class whose meaning is not known, by entry, with the names of these classes.
        ignored: number of annotations of classes that are no craters, by the class's name.
    """

    class_names: ClassNames = field(default_factory=ClassNames)
    warnings: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    unlabelled: dict[str, str] = field(default_factory=dict)
    unknown: dict[str, set[str]] = field(default_factory=dict)
    ignored: Counter[str] = field(default_factory=Counter)

    def doubtful(self, names: Iterable[str]) -> set[str]:
        """Select the classes of unknown meaning, if none of the names means crater.

        Whether images without outlines show no crater is then not known either.
        """
        meanings = {name: self.class_names.meaning(name) for name in names}
        return set() if "crater" in meanings.values() else {name for name in meanings if meanings[name] is None}

    def size_of(self, entry: str, content: bytes) -> tuple[int, int] | None:
        """Read an image's height and width; leave it out if it is no readable image."""
        try:
            return image_size(content, EXPORT_AGAIN, "it")
        except DamagedFileError as error:
            self.left_out[entry] = str(error)
            return None

    def means_crater(self, name: str, findings: Findings) -> bool:
        """Test whether an annotation is of a crater; note it if it is not."""
        meaning = self.class_names.meaning(name)
        if meaning is None:
            findings.unknown.add(name)
        elif meaning != "crater":
            self.ignored[name] += 1
        return meaning == "crater"

    def outlined(self, entry: str, split: Split, size: tuple[int, int], findings: Findings) -> Iterator[ExportedImage]:
        """Yield an outlined image, unless its outlines are not all known.

        Training takes what is not outlined as background: an outline too few would teach the opposite of what it says.
        An outline that occurs twice counts once.
        """
        if findings.problems:
            self.left_out[entry] = listed(findings.problems)
        if findings.unknown:
            self.unknown[entry] = findings.unknown
        if findings.unknown or findings.problems:
            return
        outlines = {_vertices(outline): outline for outline in reversed(findings.outlines)}
        if twice := len(findings.outlines) - len(outlines):
            self.warnings.append(f"{entry}: {twice} outlines occur twice and count once")
        shapes = tuple(reversed(outlines.values()))
        yield ExportedImage(entry, split, original_name(entry), outlines=shapes, size=size)


def _vertices(outline: Outline) -> str:
    """Name an outline by its vertices, whichever of them is the first."""
    if "polygons" not in outline:
        return repr(outline)
    rings = [[round(value, 2) for value in ring] for ring in outline["polygons"]]
    return repr(sorted(sorted(set(zip(ring[::2], ring[1::2], strict=True))) for ring in rings))


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


def is_image(name: PurePosixPath) -> bool:
    """Test whether an entry has the suffix of an image."""
    return name.suffix.lower() in SUFFIXES


def split_of(name: PurePosixPath) -> Split | None:
    """Return the split named by an entry's first folder, or None."""
    return name.parts[0] if len(name.parts) > 1 and name.parts[0] in SPLITS else None


def refuse_half_characters(content: Any, where: str) -> None:
    """Refuse names that can be neither written nor shown.

    JSON and YAML may escape a code point that is half of a character.

    Raises:
        DamagedFileError: the content has such an escape.
    """
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise DamagedFileError(
            f"{where} has half of a character ({half!r}) in a name: rename the class or image, and export it again"
        ) from error


def listed(problems: list[str]) -> str:
    """Join the first ten problems for an error message."""
    more = f" and {len(problems) - 10} more" if len(problems) > 10 else ""
    return "; ".join(problems[:10]) + more
