"""What a Roboflow export says: its format told by content, its images, classes and outlines. Reads, writes nothing.

Formats: ``coco-segmentation`` (``SPLIT/_annotations.coco.json``) and ``folder`` (``SPLIT/CLASS/IMAGE``).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from mars_assets.errors import DamagedFileError
from mars_assets.labels.archives import ExportArchive, open_export
from mars_assets.lake import sha256_file
from mars_assets.pictures import SUFFIXES

ExportFormat = Literal["coco-segmentation", "folder"]
Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
COCO_FILE = "_annotations.coco.json"
MAX_IMAGE_SIDE = 16384
_NO_CRATER = re.compile(r"^(no|non|not)[ _-]?(a[ _-]?)?craters?$", re.IGNORECASE)
_CRATER = re.compile(r"^craters?$", re.IGNORECASE)
_ROBOFLOW_NAME = re.compile(r"^(?P<original>.+)_(?P<suffix>jpe?g|png|tiff?|bmp|webp)\.rf\.[0-9A-Za-z]+$")
_EXPORT_NAME = re.compile(r"^(?P<project>.+?)\.v(?P<version>\d+)(\..*)?$")

Outline = dict[str, Any]
"""One annotation's shape: ``{"polygons": [[x, y, …], …]}`` or ``{"rle": {"size": […], "counts": …}}``, in pixels."""


@dataclass(frozen=True)
class ExportedImage:
    """One image of an export.

    Args:
        entry: its name in the zip.
        split: as the export has it.
        original: the name it was uploaded under, without suffix.
        label: "crater" or "no_crater" in a classification export, else None.
        outlines: a crater each in a segmentation export (empty is a labelled negative), None in a classification export.
        size: (height, width) as the export states it, None where it does not.
    """

    entry: str
    split: Split
    original: str
    label: Literal["crater", "no_crater"] | None = None
    outlines: tuple[Outline, ...] | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Export:
    """A readable export.

    Args:
        path: the zip.
        sha256: of the zip's bytes: its identity, whatever it is called.
        project, version: by the name that Roboflow gives a download, ``PROJECT.vN.FORMAT.zip``.
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


def original_name(file_name: str) -> str:
    """The uploaded name of ``ORIGINAL_jpg.rf.HASH.jpg``, without suffix; any other name without its suffix."""
    stem = PurePosixPath(file_name).stem
    match = _ROBOFLOW_NAME.match(stem)
    return match["original"] if match else stem


def export_identity(path: Path) -> tuple[str, int]:
    """(project, version) of a zip named as Roboflow names it; any other name is a project of its own, version 0."""
    match = _EXPORT_NAME.match(path.stem)
    return (match["project"], int(match["version"])) if match else (path.stem, 0)


def read_export(path: Path) -> Export:
    """Reads and checks an export's labels; the pixels stay in the zip.

    Raises:
        DamagedFileError: the zip or what it says is broken, hostile, or of no known format.
    """
    project, version = export_identity(path)
    warnings: list[str] = []
    with open_export(path) as archive:
        export_format = _format_of(archive)
        read = {"coco-segmentation": _read_coco, "folder": _read_folders}[export_format]
        images = tuple(read(archive, warnings))
        notes = _readme_notes(archive)
    if not images:
        raise DamagedFileError(f"{path.name} has no labelled image: label some in Roboflow and export again")
    warnings += [f"the export was changed by Roboflow: {note}" for note in notes if _alters_geometry(note)]
    return Export(path, sha256_file(path), project, version, export_format, images, notes, tuple(warnings))


def exports_in_force(inbox: Path) -> list[Path]:
    """The zips that count: of every project the newest version, of identical files one; hidden and part files left out."""
    newest: dict[str, tuple[int, str, Path]] = {}
    for path in sorted(inbox.glob("*.zip")) if inbox.is_dir() else []:
        if path.name.startswith(".") or not path.is_file():
            continue
        project, version = export_identity(path)
        if project not in newest or (version, path.name) > newest[project][:2]:
            newest[project] = (version, path.name, path)
    paths, seen = [], set()
    for _, _, path in sorted(newest.values(), key=lambda item: item[1]):
        digest = sha256_file(path)
        if digest not in seen:
            seen.add(digest)
            paths.append(path)
    return paths


def label_version(sha256s: list[str]) -> str:
    """The version of all labels: sha256 over the set of exports in force, whatever their names and order."""
    return hashlib.sha256("\n".join(sorted(set(sha256s))).encode()).hexdigest()


def _format_of(archive: ExportArchive) -> ExportFormat:
    names = [PurePosixPath(name) for name in archive.names]
    if any(name.name == COCO_FILE for name in names):
        return "coco-segmentation"
    if any(len(name.parts) == 3 and name.parts[0] in SPLITS and _is_image(name) for name in names):
        return "folder"
    raise DamagedFileError(
        f"{archive.path.name} is no export of a known format: expected SPLIT/{COCO_FILE} (COCO segmentation) or "
        f"SPLIT/CLASS/IMAGE (folder classification) with SPLIT one of {', '.join(SPLITS)}. Export it in one of these formats"
    )


def _is_image(name: PurePosixPath) -> bool:
    return name.suffix.lower() in SUFFIXES


def _read_folders(archive: ExportArchive, warnings: list[str]) -> Iterator[ExportedImage]:
    unknown: dict[str, int] = {}
    for entry in archive.names:
        name = PurePosixPath(entry)
        if not _is_image(name) or len(name.parts) != 3 or name.parts[0] not in SPLITS:
            continue
        label = _class_of(name.parts[1])
        if label is None:
            unknown[name.parts[1]] = unknown.get(name.parts[1], 0) + 1
            continue
        split: Split = next(split for split in SPLITS if split == name.parts[0])
        yield ExportedImage(entry, split, original_name(name.name), label=label)
    if unknown:
        warnings.append(f"classes that are neither crater nor no crater, left out: {unknown}")


def _class_of(name: str) -> Literal["crater", "no_crater"] | None:
    if _NO_CRATER.match(name):
        return "no_crater"
    return "crater" if _CRATER.match(name) else None


def _read_coco(archive: ExportArchive, warnings: list[str]) -> Iterator[ExportedImage]:
    for split in SPLITS:
        folder = f"{split}/"
        if folder + COCO_FILE in archive:
            yield from _read_coco_split(archive, split, folder, warnings)


def _read_coco_split(archive: ExportArchive, split: Split, folder: str, warnings: list[str]) -> Iterator[ExportedImage]:
    where = f"{archive.path.name}: {folder}{COCO_FILE}"
    try:
        content = json.loads(archive.text(folder + COCO_FILE))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DamagedFileError(f"{where} is not valid JSON ({error}): export it again") from error
    images, annotations, categories = _coco_lists(content, where)

    # Roboflow adds a root category that owns no annotation and may share the class's name: only used ids count.
    names = {category.get("id"): str(category.get("name")) for category in categories}
    outlines: dict[Any, list[Outline]] = {}
    known = {image.get("id") for image in images}
    problems: list[str] = []
    ignored: dict[str, int] = {}
    for annotation in annotations:
        identity = f"annotation {annotation.get('id')}"
        name = names.get(annotation.get("category_id"))
        if name is None:
            problems.append(f"{identity} has the unknown category {annotation.get('category_id')}")
        elif annotation.get("image_id") not in known:
            problems.append(f"{identity} belongs to the unknown image {annotation.get('image_id')}")
        elif not _CRATER.match(name):
            ignored[name] = ignored.get(name, 0) + 1
        else:
            outline = _outline(annotation.get("segmentation"), identity, problems)
            if outline is not None:
                outlines.setdefault(annotation["image_id"], []).append(outline)
    if ignored:
        warnings.append(f"{split}: classes other than crater, left out: {ignored}")

    seen: set[Any] = set()
    rows = []
    for image in images:
        entry, size = _coco_image(archive, image, folder, problems)
        if image.get("id") in seen:
            problems.append(f"image id {image.get('id')} occurs twice")
        seen.add(image.get("id"))
        if entry is not None:
            rows.append((entry, size, tuple(outlines.get(image.get("id"), ()))))
    if problems:
        more = f" and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise DamagedFileError(f"{where}: {'; '.join(problems[:10])}{more}. Export it again")
    for entry, size, shapes in rows:
        yield ExportedImage(entry, split, original_name(PurePosixPath(entry).name), outlines=shapes, size=size)


def _coco_lists(content: Any, where: str) -> tuple[list[dict[str, Any]], ...]:
    lists = []
    for key in ("images", "annotations", "categories"):
        value = content.get(key) if isinstance(content, dict) else None
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise DamagedFileError(f"{where} has no list of objects {key!r}: this is no COCO file")
        lists.append(value)
    return tuple(lists)


def _coco_image(
    archive: ExportArchive, image: dict[str, Any], folder: str, problems: list[str]
) -> tuple[str | None, tuple[int, int]]:
    name, height, width = image.get("file_name"), image.get("height"), image.get("width")
    if not isinstance(name, str) or folder + name not in archive:
        problems.append(f"the image {name!r} is not in the archive")
        return None, (0, 0)
    if not (
        isinstance(height, int)
        and isinstance(width, int)
        and 0 < height <= MAX_IMAGE_SIDE
        and 0 < width <= MAX_IMAGE_SIDE
    ):
        problems.append(f"the image {name!r} has the impossible size {width} x {height}")
        return None, (0, 0)
    return folder + name, (height, width)


def _outline(segmentation: Any, identity: str, problems: list[str]) -> Outline | None:
    """An annotation's shape, or None with a problem noted. Coordinates may lie outside the image: they are clipped later."""
    if isinstance(segmentation, dict):
        size, counts = segmentation.get("size"), segmentation.get("counts")
        if isinstance(size, list) and len(size) == 2 and isinstance(counts, str | list):
            return {"rle": {"size": size, "counts": counts}}
        problems.append(f"{identity} has a run-length mask without size or counts")
        return None
    if not isinstance(segmentation, list) or not segmentation:
        problems.append(f"{identity} has no outline")
        return None
    rings = []
    for ring in segmentation:
        if not isinstance(ring, list) or len(ring) < 6 or len(ring) % 2:
            problems.append(f"{identity} has an outline of {len(ring) if isinstance(ring, list) else 'no'} numbers")
            return None
        if not all(isinstance(v, int | float) and math.isfinite(v) and abs(v) <= 4 * MAX_IMAGE_SIDE for v in ring):
            problems.append(f"{identity} has coordinates that are no numbers or far outside any image")
            return None
        rings.append([float(value) for value in ring])
    return {"polygons": rings}


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
