"""Craters of known size, drawn into real ground.

A pixel changes by the ratio of the light on the ground with the crater and without it. The ground itself is taken for
flat there, since its heights are unknown; its texture and albedo stay. So does its noise, which shadows darken with it.

Where the sun is follows from the craters that were found in the scene: within each, the wall that faces it is bright.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from mars_assets.craters.comparison import Circles, circle_iou
from mars_assets.craters.levels import Mask, UInt8
from mars_assets.craters.relief import (
    DEGRADATION,
    OUT_OF_ROUND,
    REACH,
    SHADOW_STEPS,
    Crater,
    Float32,
    distances,
    heights_of,
    light,
)

Float64 = npt.NDArray[np.float64]

FEWEST = 10
"""Craters in which the shading is measured, from which the sun's direction is estimated."""
ASSUMED_AZIMUTH, ASSUMED_INCIDENCE = 270.0, 50.0
"""The sun where it cannot be estimated: in the west, as in HiRISE's afternoon orbit with north up, and halfway down."""
_MOST_ERROR = 20.0
"""Standard error of the sun's direction in degrees from which it is not known."""
_INCIDENCES = tuple(np.arange(20.0, 76.0, 2.5).tolist())
_SHARPEST = 0.85
"""Quantile of the contrast by which craters are compared."""
_SKY = 0.08
"""Share of the light on flat ground that the dust in the air scatters, also into shadows."""
_OPTICS = 0.6
"""Standard deviation of the blur in pixels, as in the sample."""
_LARGEST_DRAWN = 128
"""Diameter in pixels above which a crater is drawn smaller and magnified: they look alike at every scale."""
_MEASURED = 12.0
"""Smallest diameter in pixels in which the shading is measured: pixels blur that of smaller ones."""
_INNER = 0.9
"""Distance from the centre up to which it is, in radii."""
_SAMPLES = 48
"""Pixels along a crater's diameter that are used for it, at most."""
_LARGE, _LARGE_COVER = 1 / 8, 0.2
"""Diameter from which a crater is large, in sides of the patch, and the share of the patch that large ones cover."""
_APART = 1.05
"""Least distance of two injected craters, in sums of their radii."""
_SAME = 0.25
"""Intersection over union with a crater that is there, from which nobody could say which of both was found."""
_ATTEMPTS = 200


@dataclass(frozen=True)
class Ground:
    """Pixels of real ground.

    Args:
        pixels: shape (H, W, 3).
        good: which of them show it, shape (H, W).
        black: value of a surface without light in each channel: brightness is measured from there.
    """

    pixels: npt.NDArray[np.number[Any]]
    good: Mask
    black: Sequence[float]


@dataclass(frozen=True)
class Sun:
    """Where the sun is, and how that is known.

    Args:
        azimuth: direction towards it, degrees clockwise from the top of the image.
        incidence: its angle from the vertical, degrees.
        craters: number of craters in which the shading was measured.
        error: standard error of the direction in degrees; None if both angles are assumed.
    """

    azimuth: float
    incidence: float
    craters: int = 0
    error: float | None = None


def estimate_sun(shading: Float64) -> Sun:
    """Estimate where the sun is from the shading of craters.

    The direction is the mean of all craters', each of the same weight, so that a few that lie on slopes or are none
    hardly turn it. With fewer than ``FEWEST``, or if they disagree, both angles are assumed.

    The incidence is that at which the sharpest of the generator's craters have the contrast of the sharpest ones that
    were found. A label may state the true one. But what a detector sees is the contrast, which also depends on haze, on
    the slopes of this scene's craters, and on a black point that is unknown for most rasters: one number fitted to what
    was seen stands for all of them. The sharpest are compared, since few of them are missed and none is a false alarm.
    Circles that lie a little beside their craters dilute the contrast: with the errors of a person, and a quarter false
    alarms, the incidence comes out 5 degrees too small in sample scenes, and exact with true circles.

    Args:
        shading: of each crater, see :func:`shading_of`, shape (n, 2).
    """
    strength = np.linalg.norm(shading, axis=1)
    shading, strength = shading[strength > 0], strength[strength > 0]
    count = len(shading)
    if count < FEWEST:
        return Sun(ASSUMED_AZIMUTH, ASSUMED_INCIDENCE, count)
    mean = (shading / strength[:, None]).mean(axis=0)
    agreement = min(float(np.linalg.norm(mean)), 1.0)
    error = math.degrees(math.sqrt(-2 * math.log(max(agreement, 1e-12)) / count))
    if error > _MOST_ERROR:
        return Sun(ASSUMED_AZIMUTH, ASSUMED_INCIDENCE, count)
    azimuth = math.degrees(math.atan2(-mean[0], mean[1])) % 360
    contrast = float(np.quantile(shading @ mean / agreement, _SHARPEST))
    incidence = float(np.interp(contrast, _contrasts(), _INCIDENCES))
    return Sun(azimuth, incidence, count, error)


@cache
def _contrasts() -> tuple[float, ...]:
    """Compute the contrast of sharp drawn craters at each of ``_INCIDENCES``."""
    from scipy.stats import beta

    degradation = float(beta(*DEGRADATION).ppf(1 - _SHARPEST))
    found = []
    for incidence in _INCIDENCES:
        _, ratio = _ratio(Crater(96.0, 96.0, 48.0, degradation), (0.0, 0.0), Sun(ASSUMED_AZIMUTH, incidence))
        ground = Ground(np.repeat(ratio[..., None], 3, axis=2), np.ones(ratio.shape, bool), (0.0, 0.0, 0.0))
        centre = np.array([[len(ratio[0]) / 2, len(ratio) / 2]])
        found.append(shading_of(ground, Circles(centre, np.array([48.0]))))
    return tuple(np.maximum.accumulate([float(one[0, 0]) for one in found]).tolist())


def shading_of(ground: Ground, circles: Circles) -> Float64:
    """Measure how the brightness rises across craters.

    It is relative to their mean, for each radius.

    Args:
        ground: what shows them.
        circles: the craters; those that are small or not seen whole are left out.

    Returns:
        Rise to the right and downwards, a row for each crater that is measured.
    """
    found = []
    height, width = ground.good.shape
    for (x, y), diameter in zip(circles.centres.tolist(), circles.diameter.tolist(), strict=True):
        radius = _INNER * diameter / 2
        top, bottom, left, right = y - radius, y + radius, x - radius, x + radius
        if diameter < _MEASURED or top < 0 or left < 0 or bottom > height or right > width:
            continue
        step = max(int(diameter / _SAMPLES), 1)
        rows, columns = np.arange(int(top), math.ceil(bottom), step), np.arange(int(left), math.ceil(right), step)
        part = np.ix_(rows, columns)
        dy, dx = np.meshgrid((rows + 0.5 - y) / diameter * 2, (columns + 0.5 - x) / diameter * 2, indexing="ij")
        disc = dx**2 + dy**2 < _INNER**2
        inside = disc & ground.good[part]
        if np.count_nonzero(inside) < 0.9 * np.count_nonzero(disc):
            continue
        values = (ground.pixels[part].astype(np.float64) - ground.black).sum(axis=2)[inside]
        matrix = np.column_stack([np.ones(len(values)), dx[inside], dy[inside]])
        mean, *slopes = np.linalg.lstsq(matrix, values, rcond=None)[0].tolist()
        if mean > 0:
            found.append([slope / mean for slope in slopes])
    return np.array(found, np.float64).reshape(-1, 2)


def draw_craters(
    rng: np.random.Generator, counted: Mask, existing: Circles, smallest: float, of_each_size: int
) -> list[Crater]:
    """Draw craters of all sizes, and places for them.

    Sizes are log-uniform from the smallest to half of the patch. Those larger than an eighth of it cover a fifth of it
    at most, so that there are few. No two overlap. They lie anywhere on the counted ground, also on craters, but not
    where one of similar size already is.

    Args:
        rng: source of random numbers.
        counted: the ground of the patch on which craters are counted.
        existing: craters that are known there.
        smallest: smallest diameter in pixels.
        of_each_size: number of craters between a diameter and sqrt(2) times it.

    Returns:
        The craters, the largest first. Those for which no place was found are left out.
    """
    import cv2

    largest = min(counted.shape) / 2
    count = round(of_each_size * 2 * math.log2(max(largest / smallest, 1)))
    # One in each of as many equal steps, so that no size is missing.
    sizes = smallest * (largest / smallest) ** ((np.arange(count) + rng.random(count)) / max(count, 1))
    chosen = sizes[sizes <= _LARGE * min(counted.shape)].tolist()
    left = _LARGE_COVER * counted.size
    for size in rng.permutation(sizes[len(chosen) :]).tolist():
        if (area := np.pi / 4 * size**2) <= left:
            chosen.append(size)
            left -= area
    room = cv2.distanceTransform(np.pad(counted, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    placed: list[Crater] = []
    for diameter in sorted(chosen, reverse=True):
        places = np.flatnonzero(room > diameter / 2 + 1)
        if not len(places):
            continue
        y, x = np.divmod(rng.choice(places, _ATTEMPTS), counted.shape[1]) + rng.random((2, _ATTEMPTS))
        at = np.flatnonzero(_apart(x, y, diameter, placed) & _alone(x, y, diameter, existing))
        if len(at):
            degradation = float(rng.beta(*DEGRADATION))
            placed.append(Crater(float(x[at[0]]), float(y[at[0]]), diameter, degradation))
    return placed


def _apart(x: Float64, y: Float64, diameter: float, placed: Sequence[Crater]) -> Mask:
    """Test at which places a crater overlaps no other injected one."""
    others = np.array([(crater.x, crater.y, crater.diameter) for crater in placed], np.float64).reshape(-1, 3)
    distance = np.hypot(x[:, None] - others[:, 0], y[:, None] - others[:, 1])
    return np.asarray((distance > _APART * (diameter + others[:, 2]) / 2).all(axis=1))


def _alone(x: Float64, y: Float64, diameter: float, existing: Circles) -> Mask:
    """Test at which places there is no crater of similar size."""
    similar = (existing.diameter > _SAME * diameter) & (existing.diameter < diameter / _SAME)
    centres, radius = existing.centres[similar], existing.diameter[similar] / 2
    distance = np.hypot(x[:, None] - centres[:, 0], y[:, None] - centres[:, 1])
    shape = distance.shape
    overlap = circle_iou(distance, np.full(shape, diameter / 2), np.broadcast_to(radius, shape))
    return np.asarray((overlap < _SAME).all(axis=1))


def inject(rng: np.random.Generator, ground: Ground, craters: Sequence[Crater], sun: Sun) -> UInt8:
    """Draw craters into the pixels of a ground.

    Args:
        rng: source of random numbers, of which the craters' ovals are made.
        ground: the ground, whose pixels have 8 bits. Those that are not good stay as they are.
        craters: the craters.
        sun: the light.
    """
    black = np.asarray(ground.black, np.float32)
    brightness: Float32 = np.asarray(ground.pixels - black, np.float32)
    for crater in craters:
        out_of_round = rng.uniform(-OUT_OF_ROUND, OUT_OF_ROUND, 2).tolist()
        (top, left), ratio = _ratio(crater, out_of_round, sun)
        rows, columns = (
            slice(max(start, 0), min(start + length, side))
            for start, length, side in zip((top, left), ratio.shape, ground.good.shape, strict=True)
        )
        inside = ratio[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        brightness[rows, columns] *= inside[..., None]
    drawn = np.clip(np.rint(brightness + black), 0, 255).astype(np.uint8)
    return np.where(ground.good[..., None], drawn, ground.pixels)


def _ratio(crater: Crater, out_of_round: Sequence[float], sun: Sun) -> tuple[tuple[int, int], Float32]:
    """Compute the ratio of the light with a crater and without it.

    Returns:
        The first row and column of the square, and the ratio in it.
    """
    import cv2
    from scipy.ndimage import gaussian_filter

    # Drawn smaller by a whole number, a pixel of the small picture covers whole pixels of the large one.
    factor = max(math.ceil(crater.diameter / _LARGEST_DRAWN), 1)
    reach = REACH * crater.diameter / 2 + 2 * factor
    top, left = math.floor(crater.y - reach), math.floor(crater.x - reach)
    side = math.ceil((2 * reach + 1) / factor)
    small = replace(
        crater,
        x=(crater.x - left) / factor,
        y=(crater.y - top) / factor,
        diameter=crater.diameter / factor,
    )
    heights = np.zeros((side, side), np.float32)
    window, distance = distances(small, out_of_round, heights.shape)
    heights[window] = heights_of(small, distance)
    steps = [step for step in SHADOW_STEPS if step <= small.diameter]
    lit = light(heights, sun.azimuth, sun.incidence, steps)
    flat = light(np.zeros((2, 2), np.float32), sun.azimuth, sun.incidence, ())[0, 0]
    ratio = np.float32(1 - _SKY) * lit / flat + np.float32(_SKY)
    if factor > 1:
        ratio = cv2.resize(ratio, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
    return (top, left), np.asarray(gaussian_filter(ratio, _OPTICS, truncate=2.5), np.float32)
