"""Boxes in the place of outlines."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from mars_assets.errors import DamagedFileError
from mars_assets.labels.formats.image import ExportedImage, Notes, Outline

_RIGHT = 0.02
"""Largest cosine of a right angle, whose corners are rounded."""
_TRACED = 8.0
"""Longest side in pixels of a rectangle that may be traced around a mask of few pixels."""


def leave_out_boxes(where: str, images: Iterable[ExportedImage], notes: Notes) -> list[ExportedImage]:
    """Leave out the images with a box in the place of an outline.

    Args:
        where: the export's name.
        images: all of its images.
        notes: takes the images that are left out.

    Raises:
        DamagedFileError: all outlines are boxes.
    """
    all_images = list(images)
    sides = [[_longest_side(outline) for outline in image.outlines or ()] for image in all_images]
    everywhere = [side for of_image in sides for side in of_image]
    if everywhere and None not in everywhere:
        raise DamagedFileError(
            f"{where}: all {len(everywhere)} outlines are rectangles, as of boxes or oriented boxes: export outlines"
        )
    outlined = []
    for image, of_image in zip(all_images, sides, strict=True):
        if boxes := sum(side is not None and side > _TRACED for side in of_image):
            notes.left_out[image.entry] = (
                f"{boxes} of its {len(of_image)} outlines are rectangles, as of boxes: outline these craters"
            )
        else:
            outlined.append(image)
    return outlined


def _longest_side(outline: Outline) -> float | None:
    """Measure a rectangle's longest side in pixels; None if it is of another shape."""
    rings = outline.get("polygons", ())
    if len(rings) != 1:
        return None
    corners: npt.NDArray[np.float64] = np.array(rings[0]).reshape(-1, 2)
    if len(corners) == 5 and (corners[0] == corners[-1]).all():
        corners = corners[:-1]
    if len(corners) != 4:
        return None
    sides = np.roll(corners, -1, axis=0) - corners
    lengths = np.linalg.norm(sides, axis=1)
    cosines = (sides * np.roll(sides, -1, axis=0)).sum(axis=1) / np.maximum(lengths * np.roll(lengths, -1), 1e-9)
    return float(lengths.max()) if (np.abs(cosines) < _RIGHT).all() else None
