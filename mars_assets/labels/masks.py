"""Crater outlines to masks: filled, and as rims of a given width. How long masks that are out of date are kept."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

from mars_assets.errors import DamagedFileError
from mars_assets.labels.formats.image import Outline

Annotation = Literal["filled", "outline_5", "outline_15"]
ANNOTATIONS: tuple[Annotation, ...] = get_args(Annotation)
RIM_WIDTHS: dict[Annotation, int] = {"filled": 0, "outline_5": 5, "outline_15": 15}
"""In pixels; 0 where there is no rim."""

Mask = npt.NDArray[np.uint8]

KEPT_SECONDS = 7 * 24 * 3600
"""How long a mask stays that the table no longer names: a training that began before reads it at every step."""

_LONGEST_OUTLINE = 100
"""Length of an outline, in sums of the image's sides, beyond which none is believed."""
_MOST_POINTS = 100_000
_MOST_BYTES = 2**31
"""Of an image's craters as masks of their own."""


def instance_mask(outline: Outline, height: int, width: int) -> Mask:
    """One crater's pixels, uint8 0 / 1, shape (height, width). All rings of a polygon count; what lies outside is
    clipped.

    Raises:
        DamagedFileError: a run-length mask of another size, or one that cannot be decoded.
    """
    if "polygons" in outline:
        _refuse_endless(outline["polygons"], height, width)
        return coco.decode(coco.merge(coco.frPyObjects(outline["polygons"], height, width)))
    rle = outline["rle"]
    if list(rle["size"]) != [height, width]:
        raise DamagedFileError(
            f"a run-length mask of size {rle['size']} in an image of {height} x {width}: export it again"
        )
    if isinstance(rle["counts"], list):
        counts = rle["counts"]
        if not all(isinstance(n, int) and n >= 0 for n in counts) or sum(counts) != height * width:
            raise DamagedFileError("a run-length mask whose runs do not add up to its image: export it again")
        return coco.decode(coco.frPyObjects(rle, height, width))
    return _decode_compressed(rle["counts"], height, width)


def _refuse_endless(rings: Sequence[Sequence[float]], height: int, width: int) -> None:
    """Pycocotools draws an outline point by point, and allocates by its length.

    Raises:
        DamagedFileError: an outline is longer than any that was drawn around a crater.
    """
    for ring in rings:
        points = np.asarray(ring, np.float64).reshape(-1, 2)
        steps = np.abs(np.diff(points, axis=0, append=points[:1]))
        if steps.max(axis=1, initial=0).sum() > _LONGEST_OUTLINE * (height + width) or len(points) > _MOST_POINTS:
            raise DamagedFileError(
                f"an outline of {len(points)} points is far too long for an image of {width} x {height}: export it "
                "again"
            )


def _decode_compressed(counts: str, height: int, width: int) -> Mask:
    """COCO's compressed run lengths, decoded here because the C decoder trusts them to add up.

    Source: the format as documented in pycocotools' maskApi (LEB128-like, 5 bits a character, deltas from the run
    before the last).
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 30:
            raise DamagedFileError("a run-length mask with characters that none has: export it again")
        value |= (code & 0x1F) << shift
        shift += 5
        if not code & 0x20:
            if code & 0x10:
                value -= 1 << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    if shift or any(run < 0 for run in runs) or sum(runs) != height * width:
        raise DamagedFileError("a run-length mask whose runs do not add up to its image: export it again")
    flags = np.arange(len(runs)) % 2
    return np.repeat(flags, runs).astype(np.uint8).reshape(width, height).T


def instance_masks(outlines: Sequence[Outline], height: int, width: int) -> npt.NDArray[np.uint8]:
    """All craters of an image, uint8 0 / 1, shape (craters, height, width). Outlines that cover no pixel are dropped.

    Raises:
        DamagedFileError: as :func:`instance_mask`, or more craters than is plausible.
    """
    if len(outlines) * height * width > _MOST_BYTES:
        raise DamagedFileError(
            f"{len(outlines)} craters in one image of {width} x {height} pixels: more than is plausible, export it "
            "again"
        )
    masks = [instance_mask(outline, height, width) for outline in outlines]
    kept = [mask for mask in masks if mask.any()]
    return np.stack(kept) if kept else np.zeros((0, height, width), np.uint8)


def annotation_mask(instances: npt.NDArray[np.uint8], annotation: Annotation) -> Mask:
    """The training mask of an image, uint8 0 background / 1 crater, shape (height, width)."""
    _, height, width = instances.shape
    if annotation == "filled":
        return np.any(instances, axis=0, keepdims=False).astype(np.uint8)
    mask = np.zeros((height, width), np.uint8)
    for instance in instances:
        mask |= rim(instance, RIM_WIDTHS[annotation])
    return mask


def rim(instance: Mask, width: int) -> Mask:
    """A line along a mask's outline, uint8 0 / 1: the outer ``ceil(width / 2)`` pixels of it and ``width // 2`` around
    it.

    A crater cut by the image's border has no rim there: the mask is continued past the border before it is outlined.
    """
    from scipy.ndimage import distance_transform_edt

    rows, columns = np.flatnonzero(instance.any(axis=1)), np.flatnonzero(instance.any(axis=0))
    line = np.zeros_like(instance)
    if not rows.size:
        return line
    # Only the crater's surroundings: the distance of a pixel to the outline is of interest up to half the width.
    top, left = max(rows[0] - width, 0), max(columns[0] - width, 0)
    window = (slice(top, rows[-1] + width + 1), slice(left, columns[-1] + width + 1))
    padded = np.pad(instance[window], width, mode="edge").astype(bool)
    inside, outside = distance_transform_edt(padded), distance_transform_edt(~padded)
    near = np.where(padded, inside <= (width + 1) // 2, outside <= width // 2)
    line[window] = near[width:-width, width:-width]
    return line


def label_image(instances: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint16]:
    """Crater numbers 1… in one image, uint16, 0 is background. Where craters overlap, the smaller lies on top."""
    _, height, width = instances.shape
    labels = np.zeros((height, width), np.uint16)
    order = np.argsort([-int(instance.sum()) for instance in instances], kind="stable")
    for number, index in enumerate(order, start=1):
        labels[instances[index] > 0] = number
    return labels


def retire_masks(folder: Path, names: Iterable[str]) -> None:
    """Notes, as the time of the files, that from now on no table names them; see :func:`sweep_masks`.

    Args:
        folder: of the annotations' folders.
        names: of the masks, in each of these.
    """
    places = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    for name in names:
        for place in places:
            with suppress(FileNotFoundError):
                os.utime(place / name)


def sweep_masks(folder: Path, named: Set[str]) -> int:
    """Removes masks that the table does not name and that were drawn or retired more than ``KEPT_SECONDS`` ago.

    Returns:
        How many.
    """
    oldest, count = time.time() - KEPT_SECONDS, 0
    for path in folder.glob("*/*"):
        if path.name not in named and path.stat().st_mtime < oldest:
            path.unlink()
            count += 1
    return count
