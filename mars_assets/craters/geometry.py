"""Craters from masks, and the matching of predicted craters to true ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

IOU_THRESHOLD = 0.5
"""A predicted crater counts as true if its intersection over union with a true one reaches this."""

Mask = npt.NDArray[np.bool_]


class Crater(NamedTuple):
    """One crater in an image.

    Args:
        box: the rows and columns that contain it.
        pixels: mask of the crater within the box.
    """

    box: tuple[slice, slice]
    pixels: Mask

    @property
    def diameter(self) -> float:
        """Compute the diameter of the disc of equal area, in pixels."""
        return float(2 * np.sqrt(self.pixels.sum() / np.pi))

    def is_whole(self, shape: tuple[int, ...]) -> bool:
        """Test whether the crater touches no border of an image with this shape."""
        return all(side.start > 0 and side.stop < length for side, length in zip(self.box, shape, strict=True))


class Matching(NamedTuple):
    """A matching of predicted to true craters.

    Args:
        found: for each true crater, whether a predicted one matches it.
        false: for each predicted crater, whether it matches none.
    """

    found: Mask
    false: Mask


def craters_of_mask(mask: Mask, rim: int = 0) -> list[Crater]:
    """Find the craters of a mask.

    They are its 4-connected components, or the areas that rims enclose.

    Args:
        mask: the pixels of all craters, shape (H, W).
        rim: width in pixels if the mask shows rims, see :func:`mars_assets.labels.masks.rim`; 0 if it is filled.
    """
    from scipy import ndimage

    if rim:
        return _craters_of_rims(mask, rim)
    labels, _ = ndimage.label(mask)
    return _numbered(labels)


def _craters_of_rims(mask: Mask, width: int) -> list[Crater]:
    """Find the craters whose rims a mask shows, out to the labelled outline.

    The outline runs along the middle of the rim. A crater is an enclosed region plus the inner half of the rim around
    it, so craters whose rims touch stay separate. A rim cut by the border encloses its crater together with the border:
    of the regions into which rims divide an image, the largest counts as the outside. A rim too small to enclose a
    region is itself the crater, without its outer half.
    """
    from scipy import ndimage

    inner, outer = (width + 1) // 2, width // 2
    regions, _ = ndimage.label(~mask)
    outside = int(np.bincount(regions.ravel(), minlength=2)[1:].argmax()) + 1
    craters = []
    for number, box in enumerate(ndimage.find_objects(regions), start=1):
        if number != outside:
            window = _grown(box, inner, mask.shape)
            hole = ndimage.binary_fill_holes(regions[window] == number)
            craters.append(Crater(window, ndimage.distance_transform_edt(~hole) <= inner))
    rims, _ = ndimage.label(mask)
    hollow = set(rims[ndimage.binary_dilation((regions > 0) & (regions != outside))].tolist())
    for number, box in enumerate(ndimage.find_objects(rims), start=1):
        if number not in hollow:
            window = _grown(box, 1, mask.shape)
            padded = np.pad(rims[window] == number, width, mode="edge")
            core = (ndimage.distance_transform_edt(padded) > outer)[width:-width, width:-width]
            for tight in ndimage.find_objects(core.astype(np.uint8)):
                place = tuple(
                    slice(side.start + part.start, side.start + part.stop)
                    for side, part in zip(window, tight, strict=True)
                )
                craters.append(Crater((place[0], place[1]), core[tight]))
    return craters


def _grown(box: tuple[slice, ...], margin: int, shape: tuple[int, ...]) -> tuple[slice, slice]:
    rows, columns = (
        slice(max(side.start - margin, 0), min(side.stop + margin, length))
        for side, length in zip(box, shape, strict=True)
    )
    return rows, columns


def craters_of_labels(labels: npt.NDArray[np.integer]) -> list[Crater]:
    """Find the craters of a label image, shape (H, W), in which 0 is background.

    Holes are filled, since smaller craters may lie on top of larger ones.
    """
    from scipy import ndimage

    return [Crater(box, ndimage.binary_fill_holes(pixels)) for box, pixels in _numbered(labels)]


def _numbered(labels: npt.NDArray[np.integer]) -> list[Crater]:
    from scipy import ndimage

    boxes = ndimage.find_objects(labels)
    return [Crater(box, labels[box] == number) for number, box in enumerate(boxes, start=1) if box is not None]


def iou(a: Crater, b: Crater) -> float:
    """Compute the intersection over union of two craters of one image."""
    common = tuple(
        slice(max(one.start, other.start), min(one.stop, other.stop)) for one, other in zip(a.box, b.box, strict=True)
    )
    if any(side.start >= side.stop for side in common):
        return 0.0
    parts = [
        crater.pixels[
            tuple(
                slice(side.start - own.start, side.stop - own.start)
                for side, own in zip(common, crater.box, strict=True)
            )
        ]
        for crater in (a, b)
    ]
    intersection = int((parts[0] & parts[1]).sum())
    return intersection / (int(a.pixels.sum()) + int(b.pixels.sum()) - intersection)


def match(true: Sequence[Crater], predicted: Sequence[Crater]) -> Matching:
    """Match craters one to one, in order of decreasing overlap.

    The smallest overlap is ``IOU_THRESHOLD``.
    """
    found, false = np.zeros(len(true), bool), np.ones(len(predicted), bool)
    pairs = [(iou(true[row], predicted[column]), row, column) for row, column in _boxes_that_meet(true, predicted)]
    for overlap, row, column in sorted(pairs, key=lambda pair: -pair[0]):
        if overlap >= IOU_THRESHOLD and not found[row] and false[column]:
            found[row], false[column] = True, False
    return Matching(found, false)


def _boxes_that_meet(true: Sequence[Crater], predicted: Sequence[Crater]) -> list[tuple[int, int]]:
    """List the index pairs of craters whose boxes overlap.

    A noisy mask has thousands of components, most of which overlap none.
    """
    boxes = [
        np.array([[side.start, side.stop] for crater in craters for side in crater.box]).reshape(-1, 2, 2)
        for craters in (true, predicted)
    ]
    starts = np.maximum(boxes[0][:, None, :, 0], boxes[1][None, :, :, 0])
    stops = np.minimum(boxes[0][:, None, :, 1], boxes[1][None, :, :, 1])
    return [(int(row), int(column)) for row, column in np.argwhere((starts < stops).all(axis=2))]
