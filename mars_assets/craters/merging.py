"""Merging of craters that several windows and scales found.

Two detections are of one crater if their sizes and places agree. Circles that overlap are not enough: a crater often
lies in another of not much more than its size, and both must stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_SIZE, _PLACE = 0.6, 0.4
"""Largest difference of ln D, if the places agree, and of places in diameters, if the sizes agree."""

Float64 = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]


class Merged(NamedTuple):
    """Craters, each once, the most confident first.

    Args:
        x, y: centres, the means of their detections' weighted by confidence.
        diameter: likewise, the geometric mean.
        number: for each detection, which crater it is of.
        best: for each crater, its most confident detection.
    """

    x: Float64
    y: Float64
    diameter: Float64
    number: Index
    best: Index


def merge(x: Float64, y: Float64, diameter: Float64, confidence: Float64) -> Merged:
    """Merge detections of the same craters.

    Beginning with the most confident one, a detection takes those that are left with

        (ln(D / D') / 0.6)^2 + (distance / (0.4 sqrt(D D')))^2 < 1

    so that no chain of detections joins craters that differ.

    Args:
        x: centres, in a common plane.
        y: likewise.
        diameter: in the same unit.
        confidence: above 0.
    """
    count = len(x)
    order = np.lexsort((np.arange(count), -confidence))
    rank = np.empty(count, np.intp)
    rank[order] = np.arange(count)
    first, second = _pairs(x, y, diameter)
    # Each pair once, from the more confident detection to the other, in the order of both.
    swapped = rank[first] > rank[second]
    first, second = np.where(swapped, second, first), np.where(swapped, first, second)
    sort = np.lexsort((rank[second], rank[first]))
    first, second = first[sort], second[sort]
    number = np.full(count, -1, np.intp)
    starts = np.searchsorted(rank[first], np.arange(count + 1))
    best: list[int] = []
    for place, one in enumerate(order.tolist()):
        if number[one] >= 0:
            continue
        others = second[starts[place] : starts[place + 1]]
        number[others[number[others] < 0]] = len(best)
        number[one] = len(best)
        best.append(one)
    weight = np.bincount(number, confidence, len(best))
    mean_x, mean_y, mean_size = (
        np.bincount(number, confidence * values, len(best)) / weight for values in (x, y, np.log(diameter))
    )
    return Merged(mean_x, mean_y, np.exp(mean_size), number, np.array(best, np.intp))


def near_pairs(centres: Float64, diameter: Float64, size: float = _SIZE, place: float = _PLACE) -> tuple[Index, Index]:
    """List pairs of circles of similar place and size, each once.

    Among them are all pairs whose intersection over union is at least 0.5, and all detections of one crater.

    Args:
        centres: shape (n, 2) in a plane or (n, 3) in space.
        diameter: in the same unit.
        size: difference of ln D up to which all pairs are listed.
        place: distance up to which they are, in geometric means of the diameters.
    """
    found = list(_candidates(centres, diameter, size, place))
    if not found:
        return np.empty(0, np.intp), np.empty(0, np.intp)
    first, second = (np.concatenate(side) for side in zip(*found, strict=True))
    return first, second


def _pairs(x: Float64, y: Float64, diameter: Float64) -> tuple[Index, Index]:
    """List the pairs of detections of one crater, each once."""
    first, second = near_pairs(np.column_stack([x, y]), diameter)
    apart = np.hypot(x[first] - x[second], y[first] - y[second])
    same = disagreement(apart, diameter[first], diameter[second]) < 1
    return first[same], second[same]


def disagreement(apart: Float64, one: Float64, other: Float64) -> Float64:
    """Compute how much circles differ; below 1 they are one, see :func:`merge`.

    Args:
        apart: distances of the centres.
        one: diameters of the one circles.
        other: diameters of the other ones.
    """
    size, place = np.log(one / other) / _SIZE, apart / (_PLACE * np.sqrt(one * other))
    return np.asarray(size**2 + place**2)


def _candidates(centres: Float64, diameter: Float64, size: float, place: float) -> Iterator[tuple[Index, Index]]:
    """Yield pairs of detections that are near each other and of similar size."""
    from scipy.spatial import cKDTree

    size_class = np.floor(np.log(diameter) / size).astype(int)
    members = {number: np.flatnonzero(size_class == number) for number in np.unique(size_class).tolist()}
    trees = {number: cKDTree(centres[of]) for number, of in members.items()}
    for number, of in members.items():
        reach = place * np.exp(size * (number + 1))
        pairs = trees[number].query_pairs(reach, output_type="ndarray")
        yield of[pairs[:, 0]], of[pairs[:, 1]]
        if number + 1 in members:
            # The geometric mean of two sizes is at most that of the larger class's upper bound and this one's.
            near = trees[number].sparse_distance_matrix(
                trees[number + 1], reach * np.exp(size / 2), output_type="ndarray"
            )
            yield of[near["i"]], members[number + 1][near["j"]]
