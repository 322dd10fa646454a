"""The shape of an impact crater, and the light on it.

Lengths, including heights, are in pixels, so slopes have no unit and craters look alike at every scale.

Shape: depth / diameter 0.2 if fresh (Pike 1977, simple craters), rim height 0.04 D, ejecta thinning with the third
power of distance (McGetchin et al. 1973). Light: lunar-Lambert (McEwen 1991).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]

OUT_OF_ROUND = 0.04
"""Largest share by which the radius of a crater is longer or shorter than its mean."""
DEGRADATION = (1.1, 1.4)
"""Parameters of the beta distribution of degradations."""
REACH = 3.0
"""Distance from the centre at which ejecta end, in radii."""
SHADOW_STEPS = (1.5, 3, 5, 8, 12, 17, 24, 33, 45, 60, 80, 110)
"""Distances towards the sun, in pixels, at which what casts a shadow is looked for."""


@dataclass(frozen=True)
class Crater:
    """A crater in pixel coordinates.

    Args:
        x, y: centre, x along columns and y along rows; pixel (row 0, col 0) covers 0..1 in both.
        diameter: from rim to rim in pixels.
        degradation: from 0 (fresh) to 1 (shallow, with a soft rim).
    """

    x: float
    y: float
    diameter: float
    degradation: float


def distances(
    crater: Crater, out_of_round: Sequence[float], shape: tuple[int, ...]
) -> tuple[tuple[slice, slice], Float32]:
    """Compute the distances of pixels from the centre of a slightly oval crater.

    Args:
        crater: the crater.
        out_of_round: two numbers of up to ``OUT_OF_ROUND``.
        shape: of the image.

    Returns:
        The part of the image that the crater reaches, and the distances of its pixels in radii.
    """
    radius = crater.diameter / 2
    window, dy, dx = around(crater.x, crater.y, REACH * radius, shape)
    square = dy**2 + dx**2
    # The radius varies with twice the angle of direction.
    wobble = (np.float32(out_of_round[0]) * (dx**2 - dy**2) + np.float32(2 * out_of_round[1]) * dx * dy) / (square + 1)
    return window, np.sqrt(square) * (1 + wobble) / np.float32(radius)


def heights_of(crater: Crater, distance: Float32) -> Float32:
    """Compute a crater's heights in pixels above the ground at distances in radii."""
    r, height = profile(crater.degradation)
    return np.float32(crater.diameter / 2) * np.interp(distance, r, height).astype(np.float32)


def profile(degradation: float) -> tuple[Float32, Float32]:
    """Compute the profile of bowl, rim and ejecta.

    Returns:
        Distances from the centre, and heights there, both in units of the radius.
    """
    from scipy.ndimage import gaussian_filter1d

    r = np.linspace(0, 3, 193, dtype=np.float32)
    depth = 2 * (0.2 - 0.12 * degradation)
    rim = 2 * 0.04 * (1 - 0.7 * degradation)
    bowl = rim + depth * (r ** (2 + 1.5 * degradation) - 1)
    ejecta = rim * np.maximum(r, 1) ** -3 * np.clip((3 - r) / 1.5, 0, 1)
    heights = np.where(r < 1, bowl, ejecta)
    # Erosion rounds the rim. The profile is nearly flat at both ends, so the filter's boundary mode does not matter.
    return r, gaussian_filter1d(heights, (0.03 + 0.09 * degradation) / (r[1] - r[0]), mode="nearest").astype(np.float32)


def around(x: float, y: float, reach: float, shape: tuple[int, ...]) -> tuple[tuple[slice, slice], Float32, Float32]:
    """Select the part of an array within ``reach`` of a point, which may be empty.

    Returns:
        The part, and the rows (n, 1) and columns (1, m) of its pixel centres relative to the point.
    """
    top, bottom = np.clip([math.floor(y - reach), math.ceil(y + reach)], 0, shape[0])
    left, right = np.clip([math.floor(x - reach), math.ceil(x + reach)], 0, shape[1])
    dy = np.arange(top, bottom, dtype=np.float32)[:, None] + np.float32(0.5 - y)
    dx = np.arange(left, right, dtype=np.float32)[None] + np.float32(0.5 - x)
    return (slice(top, bottom), slice(left, right)), dy, dx


def shadow(heights: Float32, azimuth: float, elevation: float, steps: Sequence[float] = SHADOW_STEPS) -> Float32:
    """Compute the height of the shadow's edge above the ground.

    It is in pixels, 0 in sunlight. The ground must be larger than the longest step.

    Args:
        heights: of the ground.
        azimuth: direction towards the sun, degrees clockwise from the top of the image.
        elevation: of the sun above the horizon, degrees.
        steps: distances towards the sun at which what casts a shadow is looked for.
    """
    depth = np.zeros_like(heights)
    height, width = heights.shape
    tangent = math.tan(math.radians(elevation))
    north, east = math.cos(math.radians(azimuth)), math.sin(math.radians(azimuth))
    for distance in steps:
        down, right = -round(distance * north), round(distance * east)
        here = (slice(max(0, -down), height - max(0, down)), slice(max(0, -right), width - max(0, right)))
        there = (slice(max(0, down), height - max(0, -down)), slice(max(0, right), width - max(0, -right)))
        rise = np.float32(math.hypot(down, right) * tangent)
        np.maximum(depth[here], heights[there] - heights[here] - rise, out=depth[here])
    return depth


def light(heights: Float32, azimuth: float, incidence: float, steps: Sequence[float] = SHADOW_STEPS) -> Float32:
    """Compute the brightness of a white surface seen from above.

    The model is lunar-Lambert with equal weights, and shadows are dark.

    Args:
        heights: of the ground.
        azimuth: direction towards the sun, degrees clockwise from the top of the image.
        incidence: angle of the sun from the vertical, degrees.
        steps: see :func:`shadow`.
    """
    slope_y, slope_x = np.gradient(heights)
    angle, zenith = math.radians(azimuth), math.radians(incidence)
    upright = 1 / np.sqrt(1 + slope_x**2 + slope_y**2)
    toward = (
        np.float32(math.sin(zenith) * math.sin(angle)) * slope_x
        - np.float32(math.sin(zenith) * math.cos(angle)) * slope_y
    )
    sun = np.maximum((np.float32(math.cos(zenith)) - toward) * upright, 0)
    brightness: Float32 = sun / (sun + upright) + np.float32(0.5) * sun
    brightness *= np.clip(1 - shadow(heights, azimuth, 90 - incidence, steps) / np.float32(0.6), 0, 1)
    return brightness
