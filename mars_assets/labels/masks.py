"""Rasterisation of crater outlines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

from mars_assets.errors import DamagedFileError
from mars_assets.labels.formats.image import Outline

Annotation = Literal["filled", "outline_5", "outline_15"]
ANNOTATIONS: tuple[Annotation, ...] = get_args(Annotation)
RIM_WIDTHS: dict[Annotation, int] = {"filled": 0, "outline_5": 5, "outline_15": 15}
"""In pixels; 0 for filled masks."""
MASK_KINDS = (*ANNOTATIONS, "instances")
"""What each outlined image has a mask of: the annotations, and crater numbers."""

Mask = npt.NDArray[np.uint8]

_LONGEST_OUTLINE = 100
"""Longest plausible outline, as a multiple of the image's height plus width."""
_MOST_POINTS = 100_000
_MOST_BYTES = 2**31
"""Most bytes for an image's craters as separate masks."""


def instance_mask(outline: Outline, height: int, width: int) -> Mask:
    """Rasterise one crater: uint8 0 / 1, shape (height, width).

    All rings of a polygon are filled; parts outside the image are clipped.

    Raises:
        DamagedFileError: a run-length mask has another size or cannot be decoded.
    """
    if "polygons" in outline:
        _refuse_endless(outline["polygons"], height, width)
        return np.asarray(coco.decode(coco.merge(coco.frPyObjects(outline["polygons"], height, width))))
    rle = outline["rle"]
    if list(rle["size"]) != [height, width]:
        raise DamagedFileError(
            f"a run-length mask has the size {rle['size']}, its image {[height, width]}: export it again"
        )
    runs = rle["counts"] if isinstance(rle["counts"], list) else _decompressed(rle["counts"])
    if not all(isinstance(run, int) and run >= 0 for run in runs) or sum(runs) != height * width:
        raise DamagedFileError("a run-length mask's runs do not add up to its image's size: export it again")
    flags = np.arange(len(runs)) % 2
    return np.repeat(flags, runs).astype(np.uint8).reshape(width, height).T


def _refuse_endless(rings: Sequence[Sequence[float]], height: int, width: int) -> None:
    """Check that no outline is implausibly long.

    Pycocotools allocates memory in proportion to its length.

    Raises:
        DamagedFileError: an outline is too long to have been drawn around a crater.
    """
    for ring in rings:
        points = np.asarray(ring, np.float64).reshape(-1, 2)
        steps = np.abs(np.diff(points, axis=0, append=points[:1]))
        if steps.max(axis=1, initial=0).sum() > _LONGEST_OUTLINE * (height + width) or len(points) > _MOST_POINTS:
            raise DamagedFileError(
                f"an outline of {len(points)} points is far too long for an image of {width} x {height}: export it "
                "again"
            )


def _decompressed(counts: str) -> list[int]:
    """Decode COCO's compressed run lengths; -1 stands for one that is cut off.

    The C decoder does not validate them.

    Source: the format as documented in pycocotools' maskApi (similar to LEB128, 5 bits per character, differences to
    the run before the last).
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 30:
            raise DamagedFileError("a run-length mask has invalid characters: export it again")
        value |= (code & 0x1F) << shift
        shift += 5
        if not code & 0x20:
            if code & 0x10:
                value -= 1 << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    return [*runs, -1] if shift else runs


def instance_masks(outlines: Sequence[Outline], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Rasterise all craters of an image: uint8 0 / 1, shape (craters, height, width).

    Outlines that cover no pixel are dropped.

    Raises:
        DamagedFileError: as for :func:`instance_mask`, or there are implausibly many craters.
    """
    if len(outlines) * height * width > _MOST_BYTES:
        raise DamagedFileError(
            f"{len(outlines)} craters in one image of {width} x {height} pixels are implausible: export it again"
        )
    masks = [instance_mask(outline, height, width) for outline in outlines]
    visible = [mask for mask in masks if mask.any()]
    return np.stack(visible) if visible else np.zeros((0, height, width), np.uint8)


def annotation_mask(instances: npt.NDArray[np.uint8], annotation: Annotation) -> Mask:
    """Draw an image's training mask: uint8, shape (height, width), 1 in craters."""
    mask, width = np.zeros(instances.shape[1:], np.uint8), RIM_WIDTHS[annotation]
    for instance in instances:
        mask |= rim(instance, width) if width else instance
    return mask


def rim(instance: Mask, width: int) -> Mask:
    """Draw a line along a mask's outline: uint8 0 / 1.

    It covers the mask's outermost ``ceil(width / 2)`` pixels and ``width // 2`` pixels around it. A crater cut off by
    the image's border has no rim there: the mask is extended beyond the border before it is outlined.
    """
    from scipy.ndimage import distance_transform_edt

    rows, columns = np.flatnonzero(instance.any(axis=1)), np.flatnonzero(instance.any(axis=0))
    line = np.zeros_like(instance)
    if not rows.size:
        return line
    # Only the crater's surroundings are needed: distances matter up to half the width.
    top, left = max(rows[0] - width, 0), max(columns[0] - width, 0)
    window = (slice(top, rows[-1] + width + 1), slice(left, columns[-1] + width + 1))
    padded = np.pad(instance[window], width, mode="edge").astype(bool)
    inside, outside = distance_transform_edt(padded), distance_transform_edt(~padded)
    near = np.where(padded, inside <= (width + 1) // 2, outside <= width // 2)
    line[window] = near[width:-width, width:-width]
    return line


def label_image(instances: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint16]:
    """Number craters from 1 in a uint16 image.

    Smaller ones are on top of larger. A crater of which nothing can be seen then has no number.
    """
    labels = np.zeros(instances.shape[1:], np.uint16)
    order = np.argsort([-int(instance.sum()) for instance in instances], kind="stable")
    for number, index in enumerate(order, start=1):
        labels[instances[index] > 0] = number
    seen = np.union1d(0, labels)
    return np.searchsorted(seen, labels).astype(np.uint16)
