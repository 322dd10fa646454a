"""Synthetic Mars in HiRISE's three colour bands.

It is fractal terrain with impact craters, sunlit.

Lengths, including heights, are in pixels, so slopes have no unit and craters look alike at every scale. Nothing here is
an image of Mars, but the list of craters is exact rather than estimated by eye.

Shape and light are those of :mod:`mars_assets.craters.relief`. Sizes: cumulative power law with a slope of about -2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mars_assets.craters.relief import DEGRADATION, OUT_OF_ROUND, Crater, Float32, around, distances, heights_of, light
from mars_assets.imagery.crops import rgb_composite, to_8bit

SMALLEST_LABELLED = 14.0
"""Diameter in pixels below which a crater is texture: present, but not labelled."""

_DARK = np.array([0.135, 0.125, 0.075], np.float32)
_DUST = np.array([0.310, 0.285, 0.105], np.float32)
"""Albedo of basaltic sand and of dust in NIR, RED and BG. Dust is bright and red, and BG varies least."""

_SKY = np.array([0.012, 0.012, 0.008], np.float32)
"""I/F of the light scattered by dust in the air, which brightens the shadows."""

_LONGEST = 320
"""Wavelength in pixels above which a fractal's spectrum is flat, so that a tile looks like part of a scene."""


@dataclass(frozen=True)
class SceneSpec:
    """The specification of a scene; the same specification yields the same pixels.

    Args:
        observation: HiRISE observation id under which the scene is stored.
        height, width: size in pixels.
        seed: seed of everything random in it.
        sun_azimuth: direction towards the sun, degrees clockwise from the top of the image.
        incidence: angle of the sun from the vertical, degrees.
        crater_density: fraction of the old ground that craters would cover, including those that are left out because
            they would cut another's rim.
        smallest_diameter, largest_diameter: range of the labelled craters in pixels.
        old_ground: fraction of the ground that has craters; the rest was resurfaced.
        roughness: RMS slope of the fractal terrain.
        smoothness: Hurst exponent of the fractal terrain, 0..1.
        dust: mean share of bright dust on the surface, 0..1.
        patchiness: standard deviation of that share.
        ripples, boulders, knobs, channels: amount of other relief, from 0 (none) to 1 (much).
    """

    observation: str
    height: int
    width: int
    seed: int
    sun_azimuth: float = 270.0
    incidence: float = 50.0
    crater_density: float = 0.16
    smallest_diameter: float = 16.0
    largest_diameter: float = 180.0
    old_ground: float = 0.42
    roughness: float = 0.05
    smoothness: float = 0.75
    dust: float = 0.5
    patchiness: float = 0.1
    ripples: float = 0.0
    boulders: float = 0.0
    knobs: float = 0.0
    channels: float = 0.0


@dataclass(frozen=True)
class Scene:
    """A rendered scene.

    Args:
        spec: its specification.
        iof: I/F of NEAR-INFRARED, RED, BLUE-GREEN, float32, shape (3, height, width).
        heights: elevation in pixels, float32, shape (height, width).
        craters: all craters that reach into the scene, including those below ``SMALLEST_LABELLED``; largest first.
    """

    spec: SceneSpec
    iof: Float32
    heights: Float32
    craters: list[Crater]


def draw_spec(rng: np.random.Generator, observation: str, height: int, width: int) -> SceneSpec:
    """Draw a random scene, with afternoon sun as in HiRISE's images."""

    def sometimes(probability: float) -> float:
        return float(rng.uniform(0.3, 1.0)) if rng.random() < probability else 0.0

    return SceneSpec(
        observation,
        height,
        width,
        seed=int(rng.integers(2**31)),
        sun_azimuth=float(rng.uniform(225, 315)),
        incidence=float(rng.uniform(38, 66)),
        crater_density=float(rng.uniform(0.14, 0.24)),
        old_ground=float(rng.uniform(0.32, 0.5)),
        roughness=float(np.exp(rng.uniform(math.log(0.025), math.log(0.075)))),
        smoothness=float(rng.uniform(0.6, 0.95)),
        dust=float(rng.uniform(0.25, 0.75)),
        patchiness=float(rng.uniform(0.04, 0.15)),
        ripples=sometimes(0.4),
        boulders=sometimes(0.35),
        knobs=sometimes(0.35),
        channels=sometimes(0.3),
    )


def render_scene(spec: SceneSpec) -> Scene:
    """Render a scene."""
    from scipy.fft import next_fast_len

    rng = np.random.default_rng(spec.seed)
    craters = _place_craters(rng, spec)
    # A margin of ground around the scene casts shadows into it, and keeps the fractal's periodic edges out of it.
    margin = 16
    height, width = (int(next_fast_len(side + 2 * margin, real=True)) for side in (spec.height, spec.width))
    heights, dust, untouched = _ground(rng, spec, (height, width))
    for crater in craters:
        _stamp(rng, replace(crater, x=crater.x + margin, y=crater.y + margin), heights, dust, untouched)
    _dress(rng, spec, heights, untouched)
    brightness = light(heights, spec.sun_azimuth, spec.incidence)
    inside = (slice(margin, margin + spec.height), slice(margin, margin + spec.width))
    iof = _colour(rng, brightness[inside], dust[inside])
    visible = [crater for crater in craters if reaches_into(crater, spec.height, spec.width)]
    return Scene(spec, iof, heights[inside], visible)


def tile_image(rng: np.random.Generator, iof: Float32) -> npt.NDArray[np.uint8]:
    """Render a tile, stretched like a crop of a larger scene.

    Returns:
        uint8 RGB, shape (size, size, 3).
    """
    rgb = rgb_composite("COLOR", np.moveaxis(iof, 0, -1))
    # A crop is stretched by the limits of its whole scene, whose range a tile seldom fills. Relative to the median,
    # whole scenes have black points of 0.2 to 0.7 and white points of 1.2 to 1.6.
    low, high = stretch_limits(rgb)
    middle = np.median(rgb[::3, ::3], axis=(0, 1))
    low = np.minimum(low, middle * rng.uniform(0.4, 0.72))
    high = np.maximum(high, middle * rng.uniform(1.2, 1.45))
    return to_8bit(rgb, low.tolist(), high.tolist())


def stretch_limits(rgb: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Compute the 0.5 and 99.5 percentiles of each band.

    The image is (height, width, 3).
    """
    low, high = np.percentile(rgb[::3, ::3], (0.5, 99.5), axis=(0, 1))
    return low, high


def reaches_into(crater: Crater, height: int, width: int) -> bool:
    """Test whether a crater's bounding square overlaps an image."""
    radius = crater.diameter / 2
    return -radius < crater.x < width + radius and -radius < crater.y < height + radius


def _fractal(rng: np.random.Generator, shape: tuple[int, int], hurst: float) -> Float32:
    """Draw a Gaussian field with a power-law spectrum.

    The amplitude falls as k ** -(hurst + 1); mean 0, standard deviation 1.
    """
    from scipy.fft import irfft2

    # Cycles per pixel on the half plane of irfft2.
    y = np.fft.fftfreq(shape[0]).astype(np.float32)[:, None]
    x = np.fft.rfftfreq(shape[1]).astype(np.float32)[None]
    numbers = np.maximum(np.hypot(y, x), np.float32(1 / _LONGEST))
    numbers[0, 0] = np.inf  # the mean is 0
    spectrum = np.empty(numbers.shape, np.complex64)
    spectrum.real = rng.standard_normal(numbers.shape, np.float32)
    spectrum.imag = rng.standard_normal(numbers.shape, np.float32)
    spectrum *= numbers ** np.float32(-(hurst + 1))
    field: Float32 = irfft2(spectrum, s=shape)
    field /= field.std()
    return field


def _ground(rng: np.random.Generator, spec: SceneSpec, shape: tuple[int, int]) -> tuple[Float32, Float32, Float32]:
    """Generate the ground.

    Returns:
        Heights, dust cover (0..1), and a mask of the ground untouched by craters, initially all ones.
    """
    heights = _fractal(rng, shape, spec.smoothness)
    slope_y, slope_x = np.gradient(heights)
    heights *= np.float32(spec.roughness / math.sqrt(float(np.mean(slope_y**2 + slope_x**2))))
    if spec.channels:
        # The zero line of a smooth field meanders like a channel.
        course = _fractal(rng, shape, 1.4)
        width = 0.12 + 0.15 * rng.random()
        heights -= np.float32(5 * spec.channels) * np.exp(-((course / np.float32(width)) ** 2))
    dust = np.float32(spec.dust) + np.float32(spec.patchiness) * _fractal(rng, shape, 0.35)
    return heights, dust, np.ones(shape, np.float32)


def _place_craters(rng: np.random.Generator, spec: SceneSpec) -> list[Crater]:
    """Draw craters in and around the scene, largest first.

    None cuts another's rim: small ones lie next to or within larger ones.
    """
    return [
        *_draw_craters(rng, spec, spec.crater_density, spec.smallest_diameter, spec.largest_diameter),
        # Pits too small to be labelled.
        *_draw_craters(rng, spec, 0.002, 4.0, 9.0),
    ]


def _draw_craters(
    rng: np.random.Generator, spec: SceneSpec, density: float, smallest: float, largest: float
) -> list[Crater]:
    from scipy.ndimage import map_coordinates
    from scipy.special import ndtri

    margin = largest / 2
    low, high = smallest**-2, largest**-2
    mean_area = math.pi / 4 * 2 * math.log(largest / smallest) / (low - high)
    area = (spec.height + 2 * margin) * (spec.width + 2 * margin)
    count = rng.poisson(density * area / mean_area)
    diameters = np.sort((high + (low - high) * rng.random(count)) ** -0.5)[::-1]
    ys = rng.uniform(-margin, spec.height + margin, count)
    xs = rng.uniform(-margin, spec.width + margin, count)
    # Resurfacing: ages vary on a scale of some hundred pixels.
    cell = 420
    ages = rng.standard_normal((int(spec.height + 2 * margin) // cell + 4, int(spec.width + 2 * margin) // cell + 4))
    age = map_coordinates(ages, [(ys + margin) / cell + 1, (xs + margin) / cell + 1], order=1)
    # Interpolation between four normal numbers reduces the standard deviation of the age to about 2/3.
    old = age / 0.67 > -ndtri(spec.old_ground)
    placed: list[Crater] = []
    known = np.empty((count, 3))
    for x, y, diameter in zip(xs[old], ys[old], diameters[old], strict=True):
        radius = diameter / 2
        x0, y0, r0 = known[: len(placed)].T
        distance = np.hypot(x0 - x, y0 - y)
        apart = distance > 1.05 * (r0 + radius)
        within = (distance + radius < 0.85 * r0) & (radius < 0.3 * r0)
        if np.all(apart | within):
            known[len(placed)] = x, y, radius
            placed.append(Crater(float(x), float(y), float(diameter), float(rng.beta(*DEGRADATION))))
    return placed


def _stamp(rng: np.random.Generator, crater: Crater, heights: Float32, dust: Float32, untouched: Float32) -> None:
    """Dig a crater into the ground, in place."""
    out_of_round = rng.uniform(-OUT_OF_ROUND, OUT_OF_ROUND, 2)
    brightness = rng.uniform(-0.12, 0.16) * (1 - crater.degradation)
    window, r = distances(crater, out_of_round.tolist(), heights.shape)
    heights[window] += heights_of(crater, r)
    dust[window] += np.float32(brightness) * np.clip(np.float32(1.6) - r, 0, 1)
    untouched[window] = np.minimum(untouched[window], np.clip((r - 1) / np.float32(0.6), 0.15, 1))


def _dress(rng: np.random.Generator, spec: SceneSpec, heights: Float32, untouched: Float32) -> None:
    """Add ripples, boulders and knobs in place.

    They avoid craters, which must stay visible.
    """
    shape = heights.shape
    if spec.ripples:
        wavelength = rng.uniform(7, 18)
        angle = rng.uniform(0, math.pi)
        y, x = np.ogrid[: shape[0], : shape[1]]
        along = (np.float32(math.cos(angle)) * x + np.float32(math.sin(angle)) * y).astype(np.float32)
        phase = along * np.float32(2 * math.pi / wavelength) + np.float32(4) * _fractal(rng, (shape[0], shape[1]), 1.0)
        where = np.clip(_fractal(rng, (shape[0], shape[1]), 1.0) + np.float32(spec.ripples - 0.4), 0, 1) * untouched
        # Sharp crests and wide troughs.
        crest = np.float32(1) - np.abs(np.sin(phase / 2))
        heights += np.float32(wavelength * 0.09) * where * crest
    for count, smallest, largest, height in (
        (spec.boulders * 6e-4 * heights.size, 1.2, 3.2, 1.0),
        (spec.knobs * 2.5e-5 * heights.size, 8.0, 34.0, 0.35),
    ):
        for _ in range(rng.poisson(count)):
            x0, y0 = rng.uniform(0, shape[1]), rng.uniform(0, shape[0])
            radius = smallest * largest / (largest - rng.random() * (largest - smallest))
            stretch = rng.uniform(0.6, 1.6)
            if untouched[int(y0), int(x0)] < 1:
                continue
            window, dy, dx = around(x0, y0, 2.5 * radius, shape)
            mound = np.exp(-((dx**2 * np.float32(stretch) + dy**2 / np.float32(stretch)) / np.float32(radius**2)))
            heights[window] += np.float32(height * radius) * mound * untouched[window]


def _colour(rng: np.random.Generator, brightness: Float32, dust: Float32) -> Float32:
    """Compute the I/F of the three bands.

    They have blur by the optics and noise of the detectors.
    """
    from scipy.ndimage import gaussian_filter

    share = np.clip(dust, 0, 1)
    iof = np.empty((3, *brightness.shape), np.float32)
    for band in range(3):
        surface = (_DARK[band] + (_DUST[band] - _DARK[band]) * share) * brightness + _SKY[band]
        iof[band] = gaussian_filter(surface, 0.6, truncate=2.5)
        iof[band] *= 1 + np.float32(0.008) * rng.standard_normal(brightness.shape, np.float32)
    return iof
