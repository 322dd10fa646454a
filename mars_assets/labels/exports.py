"""Reading of Roboflow exports: format detection, images, classes and outlines."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

from mars_assets.errors import DamagedFileError
from mars_assets.labels.class_names import NOTHING_STATED, ClassNames, project_slug
from mars_assets.labels.formats.boxes import leave_out_boxes
from mars_assets.labels.formats.coco import is_coco, read_coco
from mars_assets.labels.formats.folders import is_folders, read_folders
from mars_assets.labels.formats.image import ExportedImage, Notes, listed
from mars_assets.labels.formats.layout import name_as_roboflow, note_leftovers
from mars_assets.labels.formats.tables import is_masks, is_multilabel, read_masks, read_multilabel
from mars_assets.labels.formats.yolo import is_yolo, read_yolo
from mars_assets.labels.zip_archive import ExportArchive, open_export
from mars_assets.storage.hashing import sha256_file

ExportFormat = Literal["coco-segmentation", "png-mask-semantic", "yolo", "multi-label", "folder"]
_EXPORT_NAME = re.compile(r"^(?P<project>.+?)\.v(?P<version>\d+)i?(?![^\W_])", re.IGNORECASE)
"""Downloads from the website are called ``Mars Craters.v2i.coco.zip`` or, if the version has a name,
``Mars Craters.v3-raw.coco.zip``; those fetched through the API ``mars-craters.v2.coco-segmentation.zip``."""

_README = "README.roboflow.txt"
_ALTERATION = re.compile(r"resize|stretch|crop|flip|rotat|shear|mosaic|grayscale|noise|blur|cutout", re.IGNORECASE)

_NONSENSE = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, NotImplementedError, RecursionError)
"""Exceptions of Python and the libraries on values of types and sizes that none of the formats allows."""


class _Format(NamedTuple):
    """A format's layout in a zip, the test that recognises it, and its reader."""

    layout: str
    fits: Callable[[ExportArchive], bool]
    read: Callable[[ExportArchive, Notes], Iterator[ExportedImage]]


# In this order, since YOLO and mask exports may contain folders that look like classes.
_FORMATS: dict[ExportFormat, _Format] = {
    "coco-segmentation": _Format("SPLIT/_annotations.coco.json (COCO segmentation)", is_coco, read_coco),
    "yolo": _Format("data.yaml, SPLIT/images, SPLIT/labels (YOLO polygons)", is_yolo, read_yolo),
    "png-mask-semantic": _Format("SPLIT/_classes.csv with SPLIT/IMAGE_mask.png (semantic masks)", is_masks, read_masks),
    "multi-label": _Format("SPLIT/_classes.csv of file names (multi-label)", is_multilabel, read_multilabel),
    "folder": _Format("SPLIT/CLASS/IMAGE (folder classification)", is_folders, read_folders),
}


@dataclass(frozen=True)
class Export:
    """A readable export.

    Args:
        path: the zip.
        sha256: of the zip's bytes, which identifies the export whatever its file name.
        project, version: from the file name, see :func:`export_identity`.
        format: recognised by content.
        images: all images.
        warnings: problems that a person should know of but that do not prevent training.
        left_out: images that cannot be used, each with the reason.
        unknown: number of images with a class whose meaning is not known, by the class's name.
    """

    path: Path
    sha256: str
    project: str
    version: int
    format: ExportFormat
    images: tuple[ExportedImage, ...]
    warnings: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    unknown: Mapping[str, int] = field(default_factory=dict)


def export_identity(path: Path) -> tuple[str, int]:
    """Parse project and version from a zip's name.

    A name of another form is taken as a project, with version 0. The website names downloads by the project's title,
    the API by its address: both give the form of the address.
    """
    match = _EXPORT_NAME.match(path.stem)
    return (project_slug(match["project"]), int(match["version"])) if match else (project_slug(path.stem), 0)


@contextmanager
def open_splits(path: Path) -> Iterator[ExportArchive]:
    """Open an export and normalise the names of its files to Roboflow's.

    Raises:
        DamagedFileError: it is no zip, half-copied or hostile, or two files have the same name.
    """
    with open_export(path) as archive:
        name_as_roboflow(archive)
        yield archive


def read_export(path: Path, class_names: ClassNames = NOTHING_STATED) -> Export:
    """Read and check an export's labels, but no pixels.

    Args:
        path: the zip.
        class_names: what the user stated about class names.

    Raises:
        DamagedFileError: the zip or its content is damaged, hostile, or of no known format; or none of its labels can
            be used.
    """
    project, version = export_identity(path)
    notes = Notes(class_names.of(project))
    try:
        with open_splits(path) as archive, _explained_names(archive):
            export_format = _format_of(archive)
            read = _FORMATS[export_format].read(archive, notes)
            images = tuple(leave_out_boxes(path.name, read, notes, is_yolo=export_format == "yolo"))
            archive.account_for(*(image.entry for image in images))
            archive.account_for(*notes.left_out, *notes.unlabelled, *notes.unknown)
            note_leftovers(archive, notes)
            others = dict(notes.ignored)
            ignored = [f"annotations of classes other than crater were left out: {others}"] if others else []
            altered = _alteration_warnings(archive)
            warnings = (*ignored, *notes.warnings, *altered, *_undecoded_warnings(archive))
    except _NONSENSE as error:
        raise DamagedFileError(
            f"{path.name} is not a valid export ({type(error).__name__}: {str(error)[:200]}): export it again"
        ) from error
    unlabelled = [f"{entry}: {reason}" for entry, reason in notes.unlabelled.items()]
    if not images and not notes.left_out and not notes.unknown:
        raise DamagedFileError(
            f"{path.name} has no labelled image: label some in Roboflow and export again"
            + (f" ({listed(unlabelled)})" if unlabelled else "")
        )
    unknown = Counter(name for names in notes.unknown.values() for name in sorted(names))
    sha256 = sha256_file(path)
    export = Export(path, sha256, project, version, export_format, images, warnings, tuple(unlabelled), unknown)
    return without(export, notes.left_out)


def without(export: Export, left_out: Mapping[str, str]) -> Export:
    """Leave out images that cannot be used.

    Args:
        export: the export.
        left_out: reasons by entry.

    Raises:
        DamagedFileError: what is left has no class and no outline, of known or unknown meaning.
    """
    images = tuple(image for image in export.images if image.entry not in left_out)
    reasons = [f"{entry}: {reason}" for entry, reason in left_out.items()]
    only_unknown = not images and export.unknown  # which the user is told first
    if reasons and not only_unknown and not any(image.label or image.outlines for image in images):
        raise DamagedFileError(f"{export.path.name}: {listed(reasons)}. Correct these images and export again")
    return replace(export, images=images, left_out=(*export.left_out, *reasons))


@contextmanager
def _explained_names(archive: ExportArchive) -> Iterator[None]:
    """Add to an error that names in the zip may be read wrongly."""
    try:
        yield
    except DamagedFileError as error:
        if not (more := _undecoded_warnings(archive)):
            raise
        raise DamagedFileError(f"{error}. {more[0]}") from error


def _undecoded_warnings(archive: ExportArchive) -> list[str]:
    if not archive.undecoded:
        return []
    return [
        f"{len(archive.undecoded)} names in the zip are not in UTF-8, and are read as CP437, such as "
        f"{archive.undecoded[0]!r}: if they are wrong, pack it again with names in UTF-8 (7-Zip's parameter cu=on)"
    ]


def label_version(sha256s: Iterable[str], stated: Sequence[str] = ()) -> str:
    """Compute the label version: a sha256 of the set of exports in use.

    Args:
        sha256s: of the exports.
        stated: :attr:`ClassNames.key` of what the user stated about class names.
    """
    return hashlib.sha256("\n".join([*sorted(set(sha256s)), *stated]).encode()).hexdigest()


def _format_of(archive: ExportArchive) -> ExportFormat:
    for name, known in _FORMATS.items():
        if known.fits(archive):
            return name
    if inner := [name for name in archive.names if name.lower().endswith(".zip")]:
        raise DamagedFileError(
            f"{archive.path.name} is no export but contains zips: {listed(inner)}. Unpack it, and put these into the "
            "inbox"
        )
    layouts = ", or ".join(known.layout for known in _FORMATS.values())
    raise DamagedFileError(
        f"{archive.path.name} has no known export format: expected {layouts}, where SPLIT is train, valid or test. "
        "Export it in one of these formats"
    )


def _alteration_warnings(archive: ExportArchive) -> list[str]:
    """Describe the changes to the images that ``README.roboflow.txt`` lists."""
    if _README not in archive:
        return []
    lines = (line.strip() for line in archive.text(_README).splitlines())
    return [
        f"Roboflow altered the exported images: {line.lstrip('*- ').strip()}"
        for line in lines
        if line.startswith(("* ", "- ")) and _ALTERATION.search(line)
    ]
