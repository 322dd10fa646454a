"""Boxes in the place of outlines."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from mars_assets.errors import DamagedFileError
from mars_assets.labels.formats.image import ExportedImage, Notes, Outline

Float64 = npt.NDArray[np.float64]
_ROUNDED = 0.02
"""Largest deviation from a parallelogram, whose corners are rounded, as a share of its longest side."""
_TRACED = 8.0
"""Longest side in pixels of a parallelogram that may be traced around a mask of few pixels."""
_MOSTLY = 0.9
"""Share of boxes, the others of which an image's border cuts, in an export that has nothing else."""
_A_FEW = 5
"""Fewest rectangles that are boxes in a format with a field for boxes; somebody may have drawn fewer."""
_SEVERAL = 20
"""Number of outlines of four corners that are no accident: who outlines craters clicks more often."""


def leave_out_boxes(where: str, images: Iterable[ExportedImage], notes: Notes, *, is_yolo: bool) -> list[ExportedImage]:
    """Leave out the images with a box in the place of an outline.

    Boxes may be oriented, and are parallelograms where images were stretched.

    Args:
        where: the export's name.
        images: all of its images.
        notes: takes the images that are left out.
        is_yolo: whether the format writes oriented boxes as it writes outlines. Others have a field for boxes: there, a
            few rectangles and nothing else are read and noted.

    Raises:
        DamagedFileError: the outlines are boxes.
    """
    all_images = list(images)
    corners = [[_four_corners(outline, image.size) for outline in image.outlines or ()] for image in all_images]
    count = sum(map(len, corners))
    quadrilaterals = [four for of_image in corners for four in of_image if four is not None]
    boxes = sum(map(_is_box, quadrilaterals))
    are_boxes = count > 0 and boxes > _MOSTLY * count
    if are_boxes and count < _A_FEW and not is_yolo:
        notes.warnings.append(f"its {count} outlines are rectangles, as boxes are: look whether they are outlines")
        return all_images
    if are_boxes or len(quadrilaterals) == count >= _SEVERAL:
        raise DamagedFileError(
            f"{where}: its {count} outlines have four corners, as boxes and oriented boxes have: export outlines"
        )
    outlined = []
    for image, of_image in zip(all_images, corners, strict=True):
        if large := sum(four is not None and _is_box(four, _TRACED) for four in of_image):
            notes.left_out[image.entry] = (
                f"{large} of its {len(of_image)} outlines are rectangles, as of boxes: outline these craters"
            )
        else:
            outlined.append(image)
    return outlined


def _four_corners(outline: Outline, size: tuple[int, int] | None) -> Float64 | None:
    """Return a quadrilateral's corners, shape (4, 2); None for other shapes.

    Also None if they are the image's own: an image within a crater has that outline.
    """
    rings = outline.get("polygons", ())
    if len(rings) != 1 or len(rings[0]) not in (8, 10):
        return None
    corners: Float64 = np.array(rings[0]).reshape(-1, 2)
    if len(corners) == 5 and (corners[0] != corners[-1]).any():
        return None
    if size is not None and _spans(corners, size):
        return None
    return corners[:4]


def _spans(corners: Float64, size: tuple[int, int]) -> bool:
    """Test whether a shape reaches all borders of an image, to a pixel."""
    height, width = size
    return bool((corners.min(axis=0) <= 1).all() and (corners.max(axis=0) >= (width - 1, height - 1)).all())


def _is_box(corners: Float64, traced: float = 0.0) -> bool:
    """Test for a parallelogram with a side longer than ``traced``."""
    longest = np.linalg.norm(np.roll(corners, -1, axis=0) - corners, axis=1).max()
    skew = np.linalg.norm(corners[0] - corners[1] + corners[2] - corners[3])
    return bool(longest > traced and skew <= _ROUNDED * longest)
