"""Reader of COCO segmentation: ``SPLIT/_annotations.coco.json``."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from mars_assets.errors import DamagedFileError
from mars_assets.images import MAX_SIDE
from mars_assets.labels.formats.image import (
    SPLITS,
    ExportedImage,
    Findings,
    Notes,
    Outline,
    Split,
    listed,
    refuse_half_characters,
)
from mars_assets.labels.formats.layout import require_labels
from mars_assets.labels.zip_archive import ExportArchive

COCO_FILE = "_annotations.coco.json"


def is_coco(archive: ExportArchive) -> bool:
    """Test whether an archive has a COCO annotation file."""
    return any(PurePosixPath(name).name == COCO_FILE for name in archive.names)


def read_coco(archive: ExportArchive, notes: Notes) -> Iterator[ExportedImage]:
    """Read the images of all splits.

    An image with an annotation that cannot be used is left out.

    Raises:
        DamagedFileError: a split has no annotation file, or one is not valid COCO, is inconsistent, or does not match
            the archive.
    """
    require_labels(archive, COCO_FILE)
    for split in SPLITS:
        if f"{split}/{COCO_FILE}" in archive:
            yield from _read_coco_split(archive, split, notes)


def _read_coco_split(archive: ExportArchive, split: Split, notes: Notes) -> Iterator[ExportedImage]:
    where = f"{archive.path.name}: {split}/{COCO_FILE}"
    try:
        text = archive.text(f"{split}/{COCO_FILE}")
        content = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DamagedFileError(f"{where} is not valid JSON ({error}): export it again") from error
    if "\\ud" in text.lower():
        refuse_half_characters(content, where)
    images, annotations, categories = _coco_lists(content, where)

    # By id: Roboflow adds a root category without annotations, which may have the class's name.
    names = _class_names(categories, where)
    above = {category.get("supercategory") for category in categories}
    used = {names.get(_plain(annotation.get("category_id"))) for annotation in annotations}
    doubtful = notes.doubtful(name for name in names.values() if name in used or name not in above)
    problems: list[str] = []
    findings: dict[Any, Findings] = {}
    read: dict[Any, tuple[str, tuple[int, int]]] = {}
    for image in images:
        identity, name = _plain(image.get("id")), image.get("file_name")
        height, width = _plain(image.get("height")), _plain(image.get("width"))
        entry = archive.entry(split, name) if isinstance(name, str) else None
        if entry is None:
            problems.append(f"the image {name!r} is not in the archive")
        if identity in findings:
            problems.append(f"image id {identity} occurs twice")
        findings[identity], read[identity] = Findings(unknown=set(doubtful)), (entry or "", (height, width))
        if not all(isinstance(side, int) and 0 < side <= MAX_SIDE for side in (height, width)):
            findings[identity].problems.append(f"it has the impossible size {width} x {height}")

    for annotation in annotations:
        identity = f"annotation {annotation.get('id')}"
        name = names.get(_plain(annotation.get("category_id")))
        found = findings.get(_plain(annotation.get("image_id")))
        if found is None:
            problems.append(f"{identity} belongs to the unknown image {annotation.get('image_id')}")
        elif name is None:
            found.problems.append(f"{identity} has the unknown category {annotation.get('category_id')}")
        elif notes.means_crater(name, found):
            try:
                found.outlines.append(_outline(annotation.get("segmentation")))
            except ValueError as error:
                found.problems.append(f"{identity} {error}")
    if problems:
        raise DamagedFileError(f"{where}: {listed(problems)}. Export it again")
    for identity, (entry, size) in read.items():
        yield from notes.outlined(entry, split, size, findings[identity])


def _class_names(categories: list[dict[str, Any]], where: str) -> dict[Any, str]:
    """Map the ids of categories to their names.

    Raises:
        DamagedFileError: two categories have one id.
    """
    names: dict[Any, str] = {}
    for category in categories:
        identity, name = _plain(category.get("id")), category.get("name")
        if name is None:
            continue
        if names.setdefault(identity, str(name)) != str(name):
            raise DamagedFileError(
                f"{where}: the category id {identity} is both {names[identity]!r} and {str(name)!r}: export it again"
            )
    return names


def _plain(value: Any) -> Any:
    """Convert a whole number that is written as text or with a fraction.

    Other values are returned as they are.
    """
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit() and len(value) < 20:
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _coco_lists(content: Any, where: str) -> tuple[list[dict[str, Any]], ...]:
    lists = []
    for key in ("images", "annotations", "categories"):
        value = content.get(key) if isinstance(content, dict) else None
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise DamagedFileError(f"{where} has no list of objects {key!r}: this is not a COCO file")
        lists.append(value)
    return tuple(lists)


def _outline(segmentation: Any) -> Outline:
    """Read an annotation's shape.

    Coordinates may lie outside the image; they are clipped later.

    Raises:
        ValueError: the annotation has no usable shape; the message says what it has.
    """
    if isinstance(segmentation, dict):
        size, counts = segmentation.get("size"), segmentation.get("counts")
        size = [_plain(side) for side in size] if isinstance(size, list) else size
        counts = [_plain(count) for count in counts] if isinstance(counts, list) else counts
        if isinstance(size, list) and len(size) == 2 and isinstance(counts, str | list):
            return {"rle": {"size": size, "counts": counts}}
        raise ValueError("has a run-length mask without size or counts")
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("has no outline, at most a box: outline the crater")
    if not isinstance(segmentation[0], list):  # a single ring may be written without its list
        segmentation = [segmentation]
    rings = [_flat(ring) for ring in segmentation]
    for ring in rings:
        if not isinstance(ring, list) or len(ring) < 6 or len(ring) % 2:
            raise ValueError(f"has an outline of {len(ring) if isinstance(ring, list) else 'no'} numbers")
        if not all(isinstance(v, int | float) and math.isfinite(v) and abs(v) <= 4 * MAX_SIDE for v in ring):
            raise ValueError("has coordinates that are not numbers or are far outside any image")
    if all(0 <= value <= 1 for ring in rings for value in ring):
        raise ValueError("has coordinates from 0 to 1, which are no pixels")
    return {"polygons": [[float(value) for value in ring] for ring in rings]}


def _flat(ring: Any) -> Any:
    """Flatten a ring that is a list of pairs; return any other value as it is."""
    if isinstance(ring, list) and all(isinstance(point, list) and len(point) == 2 for point in ring):
        return [value for point in ring for value in point]
    return ring
