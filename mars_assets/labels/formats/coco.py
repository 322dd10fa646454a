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
    Outline,
    Split,
    class_of,
    listed,
    original_name,
)
from mars_assets.labels.formats.layout import require_labels
from mars_assets.labels.zip_archive import ExportArchive

COCO_FILE = "_annotations.coco.json"


def is_coco(archive: ExportArchive) -> bool:
    """Test whether an archive has a COCO annotation file."""
    return any(PurePosixPath(name).name == COCO_FILE for name in archive.names)


def read_coco(archive: ExportArchive, warnings: list[str]) -> Iterator[ExportedImage]:
    """Read the images of all splits.

    Classes other than crater are left out and reported.

    Raises:
        DamagedFileError: a split has no annotation file, or one is not valid COCO, is inconsistent, or does not match
            the archive.
    """
    require_labels(archive, COCO_FILE)
    for split in SPLITS:
        if f"{split}/{COCO_FILE}" in archive:
            yield from _read_coco_split(archive, split, warnings)


def _read_coco_split(archive: ExportArchive, split: Split, warnings: list[str]) -> Iterator[ExportedImage]:
    where = f"{archive.path.name}: {split}/{COCO_FILE}"
    try:
        content = json.loads(archive.text(f"{split}/{COCO_FILE}"))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DamagedFileError(f"{where} is not valid JSON ({error}): export it again") from error
    images, annotations, categories = _coco_lists(content, where)

    # By id: Roboflow adds a root category without annotations, which may have the class's name.
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
        elif class_of(name) != "crater":
            ignored[name] = ignored.get(name, 0) + 1
        else:
            try:
                outlines.setdefault(annotation["image_id"], []).append(_outline(annotation.get("segmentation")))
            except ValueError as error:
                problems.append(f"{identity} {error}")
    if ignored:
        warnings.append(f"{split}: annotations of classes other than crater were left out: {ignored}")

    seen: set[Any] = set()
    for image in images:
        name, height, width = image.get("file_name"), image.get("height"), image.get("width")
        if not isinstance(name, str) or f"{split}/{name}" not in archive:
            problems.append(f"the image {name!r} is not in the archive")
        elif not all(isinstance(side, int) and 0 < side <= MAX_SIDE for side in (height, width)):
            problems.append(f"the image {name!r} has the impossible size {width} x {height}")
        if image.get("id") in seen:
            problems.append(f"image id {image.get('id')} occurs twice")
        seen.add(image.get("id"))
    if problems:
        raise DamagedFileError(f"{where}: {listed(problems)}. Export it again")
    for image in images:
        entry, shapes = f"{split}/{image['file_name']}", tuple(outlines.get(image.get("id"), ()))
        size = image["height"], image["width"]
        yield ExportedImage(entry, split, original_name(entry), outlines=shapes, size=size)


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
        if isinstance(size, list) and len(size) == 2 and isinstance(counts, str | list):
            return {"rle": {"size": size, "counts": counts}}
        raise ValueError("has a run-length mask without size or counts")
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("has no outline")
    for ring in segmentation:
        if not isinstance(ring, list) or len(ring) < 6 or len(ring) % 2:
            raise ValueError(f"has an outline of {len(ring) if isinstance(ring, list) else 'no'} numbers")
        if not all(isinstance(v, int | float) and math.isfinite(v) and abs(v) <= 4 * MAX_SIDE for v in ring):
            raise ValueError("has coordinates that are not numbers or are far outside any image")
    return {"polygons": [[float(value) for value in ring] for ring in segmentation]}
