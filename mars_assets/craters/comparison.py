"""Craters compared with those that somebody else marked on the same ground."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mars_assets.craters.crater_map import IAU_RADIUS
from mars_assets.craters.geometry import IOU_THRESHOLD
from mars_assets.craters.merging import near_pairs

Float64 = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

LEAST_IOU = 0.3
"""Smallest intersection over union at which craters are matched."""
_REACH = (0.61, 0.44)
"""Difference of ln D, and of places in geometric means of the diameters, that circles of that overlap do not exceed."""


@dataclass(frozen=True)
class Circles:
    """Craters as circles in a plane or on a sphere.

    Args:
        centres: shape (n, 2) in a plane or (n, 3) on a sphere.
        diameter: in the same unit.
    """

    centres: Float64
    diameter: Float64

    @classmethod
    def in_plane(cls, x: Float64, y: Float64, diameter: Float64) -> Circles:
        """Build circles in a plane."""
        return cls(np.column_stack([x, y]), diameter)

    @classmethod
    def on_sphere(cls, longitude: Float64, latitude: Float64, diameter: Float64) -> Circles:
        """Build circles on IAU 2015's sphere.

        Args:
            longitude: of the centres in degrees.
            latitude: planetocentric, in degrees.
            diameter: in metres.
        """
        east, north = np.radians(longitude), np.radians(latitude)
        level = np.cos(north)
        directions = np.column_stack([level * np.cos(east), level * np.sin(east), np.sin(north)])
        return cls(IAU_RADIUS * directions, diameter)


@dataclass(frozen=True)
class Comparison:
    """How craters agree with true ones.

    Args:
        right: number of those said that are true ones.
        said: number of those said.
        found: number of true ones that are among those said.
        true: number of true ones.
        size: mean of ln(D / true D) of those found.
        size_spread: its standard deviation.
        off: median distance of the centres of those found, in true diameters.
    """

    right: int
    said: int
    found: int
    true: int
    size: float
    size_spread: float
    off: float

    @property
    def precision(self) -> float:
        """The share of those said that are true; NaN if there are none."""
        return self.right / self.said if self.said else float("nan")

    @property
    def recall(self) -> float:
        """The share of true ones that were found; NaN if there are none."""
        return self.found / self.true if self.true else float("nan")

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall; 0 if nothing agrees."""
        return 2 / (1 / self.precision + 1 / self.recall) if self.right and self.found else 0.0

    def interval(self, name: str) -> tuple[float, float]:
        """Compute Wilson's 95 % interval of ``precision`` or ``recall``."""
        from scipy.stats import binomtest

        part, whole = (self.right, self.said) if name == "precision" else (self.found, self.true)
        low, high = binomtest(part, whole).proportion_ci(method="wilson") if whole else (float("nan"),) * 2
        return float(low), float(high)


def compare(said: Circles, true: Circles, smallest: float) -> Comparison:
    """Compare craters with true ones.

    They are matched one to one, those of the largest overlap first, if the intersection over union of their circles is
    at least ``IOU_THRESHOLD``. Whether one counts is decided by the true diameter where there is one, so that a crater
    next to the limit is not both missed and false.

    Args:
        said: what is judged.
        true: what it is judged by.
        smallest: smallest diameter that counts.
    """
    ours, theirs = match_circles(said, true)
    matched = np.zeros(len(said.diameter), bool)
    matched[ours] = True
    judged_by = said.diameter.copy()
    judged_by[ours] = true.diameter[theirs]
    found = np.zeros(len(true.diameter), bool)
    found[theirs] = True
    counts = judged_by >= smallest
    large = true.diameter >= smallest
    pairs = large[theirs]
    ours, theirs = ours[pairs], theirs[pairs]
    size = np.log(said.diameter[ours] / true.diameter[theirs])
    off = np.linalg.norm(said.centres[ours] - true.centres[theirs], axis=1) / true.diameter[theirs]
    return Comparison(
        right=int((matched & counts).sum()),
        said=int(counts.sum()),
        found=int((found & large).sum()),
        true=int(large.sum()),
        size=float(size.mean()) if len(size) else float("nan"),
        size_spread=float(size.std(ddof=1)) if len(size) > 1 else float("nan"),
        off=float(np.median(off)) if len(off) else float("nan"),
    )


def match_circles(one: Circles, other: Circles, least: float = IOU_THRESHOLD) -> tuple[Index, Index]:
    """Match circles one to one, those of the largest overlap first.

    Args:
        one: circles.
        other: circles that they may match.
        least: intersection over union of a match, at least ``LEAST_IOU``.

    Returns:
        The numbers of the matched circles in both.
    """
    centres, diameter = np.concatenate([one.centres, other.centres]), np.concatenate([one.diameter, other.diameter])
    first, second = near_pairs(centres, diameter, *_REACH)
    count = len(one.diameter)
    swap = first > second
    first, second = np.where(swap, second, first), np.where(swap, first, second)
    across = (first < count) & (second >= count)
    first, second = first[across], second[across] - count
    overlap = circle_iou(
        np.linalg.norm(one.centres[first] - other.centres[second], axis=1),
        one.diameter[first] / 2,
        other.diameter[second] / 2,
    )
    enough = overlap >= least
    first, second, overlap = first[enough], second[enough], overlap[enough]
    order = np.lexsort((second, first, -overlap))
    used, taken = np.zeros(count, bool), np.zeros(len(other.diameter), bool)
    pairs = []
    for a, b in zip(first[order].tolist(), second[order].tolist(), strict=True):
        if not used[a] and not taken[b]:
            used[a] = taken[b] = True
            pairs.append((a, b))
    ours, theirs = np.array(pairs, np.intp).reshape(-1, 2).T
    return ours, theirs


def circle_iou(apart: Float64, radius: Float64, other: Float64) -> Float64:
    """Compute the intersection over union of circles.

    Args:
        apart: distances of the centres.
        radius: radii of the one circles.
        other: radii of the other ones.
    """
    smaller, larger = np.minimum(radius, other), np.maximum(radius, other)
    # The lens of two circles that cross; a distance between touching inside and outside makes the formula hold.
    d = np.clip(apart, larger - smaller, larger + smaller)
    safe = np.maximum(d, 1e-300)
    near = np.arccos(np.clip((d**2 + smaller**2 - larger**2) / (2 * safe * smaller), -1, 1))
    far = np.arccos(np.clip((d**2 + larger**2 - smaller**2) / (2 * safe * larger), -1, 1))
    kite = (larger + smaller - d) * (d + smaller - larger) * (d - smaller + larger) * (d + smaller + larger)
    lens = smaller**2 * near + larger**2 * far - np.sqrt(np.maximum(kite, 0)) / 2
    both = np.where(apart <= larger - smaller, np.pi * smaller**2, lens)
    return np.asarray(both / (np.pi * (radius**2 + other**2) - both))
