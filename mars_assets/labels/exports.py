"""What a Roboflow export says: its format told by content, its images, classes and outlines. Reads, writes nothing."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from mars_assets.errors import DamagedFileError
from mars_assets.labels.formats.coco import is_coco, read_coco
from mars_assets.labels.formats.folders import is_folders, read_folders
from mars_assets.labels.formats.image import ExportedImage
from mars_assets.labels.formats.layout import leftover_warnings, name_as_roboflow
from mars_assets.labels.formats.tables import is_masks, is_multilabel, read_masks, read_multilabel
from mars_assets.labels.formats.yolo import is_yolo, read_yolo
from mars_assets.labels.zip_archive import ExportArchive, open_export
from mars_assets.storage.hashing import sha256_file

ExportFormat = Literal["coco-segmentation", "png-mask-semantic", "yolo", "multi-label", "folder"]
_EXPORT_NAME = re.compile(r"^(?P<project>.+?)\.v(?P<version>\d+)i?(?![^\W_])")
"""The website's are ``Mars Craters.v2i.coco.zip`` and, of a version with a name, ``Mars Craters.v3-raw.coco.zip``;
those that are fetched are ``mars-craters.v2.coco-segmentation.zip``.
"""

_NONSENSE = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, NotImplementedError, RecursionError)
"""What Python and the libraries raise on values of kinds and sizes that none of the formats has."""


class _Format(NamedTuple):
    """How a format looks in a zip, by what it is told, and what reads it."""

    layout: str
    fits: Callable[[ExportArchive], bool]
    read: Callable[[ExportArchive, list[str]], Iterator[ExportedImage]]


# A YOLO export and one of masks may have folders that look like classes: they are asked first.
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
        sha256: of the zip's bytes: its identity, whatever it is called.
        project, version: by the name of the file, see :func:`export_identity`.
        format: told by the content.
        images: all of them.
        notes: preprocessing and augmentation lines of ``README.roboflow.txt``.
        warnings: what a person should know and training can bear.
    """

    path: Path
    sha256: str
    project: str
    version: int
    format: ExportFormat
    images: tuple[ExportedImage, ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=())


def export_identity(path: Path) -> tuple[str, int]:
    """(project, version) of a zip named as Roboflow names it; any other name is a project of its own, version 0.

    Roboflow's website names downloads by a project's title, its API by the address: both give the address's form.
    """
    match = _EXPORT_NAME.match(path.stem)
    return (project_slug(match["project"]), int(match["version"])) if match else (project_slug(path.stem), 0)


def project_slug(name: str) -> str:
    """A project's title as it stands in its address: "Mars Craters" is "mars-craters". What is one already stays."""
    return re.sub(r"[\W_]+", "-", name.casefold()).strip("-") or name


@contextmanager
def open_splits(path: Path) -> Iterator[ExportArchive]:
    """Opens an export, its files named as Roboflow names them.

    Raises:
        DamagedFileError: no zip, half-copied, hostile, or with two files of one name.
    """
    with open_export(path) as archive:
        name_as_roboflow(archive)
        yield archive


def read_export(path: Path) -> Export:
    """Reads and checks an export's labels; the pixels stay in the zip.

    Raises:
        DamagedFileError: the zip or what it says is broken, hostile, or of no known format.
    """
    project, version = export_identity(path)
    warnings: list[str] = []
    try:
        with open_splits(path) as archive:
            export_format = _format_of(archive)
            images = tuple(_FORMATS[export_format].read(archive, warnings))
            notes = _readme_notes(archive)
            archive.account_for(*(image.entry for image in images))
            warnings += leftover_warnings(archive)
    except _NONSENSE as error:
        raise DamagedFileError(
            f"{path.name} is not a valid export ({type(error).__name__}: {str(error)[:200]}): export it again"
        ) from error
    if not images:
        raise DamagedFileError(f"{path.name} has no labelled image: label some in Roboflow and export again")
    warnings += [f"the export was changed by Roboflow: {note}" for note in notes if _alters_geometry(note)]
    return Export(path, sha256_file(path), project, version, export_format, images, notes, tuple(warnings))


def label_version(sha256s: list[str]) -> str:
    """The version of all labels: sha256 over the set of exports in force, whatever their names and order."""
    return hashlib.sha256("\n".join(sorted(set(sha256s))).encode()).hexdigest()


def _format_of(archive: ExportArchive) -> ExportFormat:
    for name, known in _FORMATS.items():
        if known.fits(archive):
            return name
    layouts = ", or ".join(known.layout for known in _FORMATS.values())
    raise DamagedFileError(
        f"{archive.path.name} is no export of a known format: expected {layouts}, with SPLIT one of train, valid, "
        "test. Export it in one of these formats"
    )


def _readme_notes(archive: ExportArchive) -> tuple[str, ...]:
    """The bullet lines of ``README.roboflow.txt``: what Roboflow did to the images."""
    if "README.roboflow.txt" not in archive:
        return ()
    lines = (line.strip() for line in archive.text("README.roboflow.txt").splitlines())
    return tuple(line.lstrip("*- ").strip() for line in lines if line.startswith(("* ", "- ")))


def _alters_geometry(note: str) -> bool:
    return bool(
        re.search(r"resize|stretch|crop|flip|rotat|shear|mosaic|grayscale|noise|blur|cutout", note, re.IGNORECASE)
    )
