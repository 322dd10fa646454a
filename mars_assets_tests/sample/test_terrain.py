"""The synthetic terrain is deterministic, and its craters look like the craters that its ground truth lists."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from mars_assets.craters import relief
from mars_assets.craters.relief import Crater
from mars_assets.sample import terrain
from mars_assets.sample.terrain import SMALLEST_LABELLED, SceneSpec, draw_spec, render_scene

SPEC = SceneSpec("ESP_990001_1800", 320, 400, seed=5, old_ground=0.999, crater_density=0.25)


def test_same_seed_same_pixels() -> None:
    first, again, other = render_scene(SPEC), render_scene(SPEC), render_scene(replace(SPEC, seed=6))
    assert first.iof.shape == (3, 320, 400)
    assert first.iof.dtype == np.float32
    np.testing.assert_array_equal(first.iof, again.iof)
    assert first.craters == again.craters
    assert not np.array_equal(first.iof, other.iof)


def test_drawn_specs_follow_the_generator() -> None:
    specs = [draw_spec(np.random.default_rng(seed), "ESP_990001_1800", 8, 8) for seed in (1, 1, 2)]
    assert specs[0] == specs[1] != specs[2]


@pytest.mark.parametrize("azimuth", [20.0, 135.0, 270.0])
def test_craters_are_visible_and_lit_from_the_sun(azimuth: float) -> None:
    """A bowl is dark on the sun's side and bright on the other; elsewhere there is no such difference."""
    scene = render_scene(replace(SPEC, height=640, width=640, sun_azimuth=azimuth))
    red = scene.iof[1]
    towards = np.array([math.sin(math.radians(azimuth)), -math.cos(math.radians(azimuth))])

    def difference(x: float, y: float, radius: float) -> float:
        rows, columns = np.ogrid[:640, :640]
        dx, dy = columns + 0.5 - x, rows + 0.5 - y
        inside = dx**2 + dy**2 < (0.9 * radius) ** 2
        sunward = dx * towards[0] + dy * towards[1] > 0
        return float(red[inside & ~sunward].mean() / red[inside & sunward].mean() - 1)

    whole = [c for c in scene.craters if c.diameter >= SMALLEST_LABELLED and _inside(c, 640)]
    bowls = np.array([difference(c.x, c.y, c.diameter / 2) for c in whole])
    rng = np.random.default_rng(0)
    elsewhere = np.array([difference(*rng.uniform(60, 580, 2), 15.0) for _ in range(60)])
    assert len(bowls) > 40
    assert (bowls > 0.05).mean() > 0.95
    assert np.median(bowls) > 3 * np.median(np.abs(elsewhere))


def _inside(crater: Crater, size: int) -> bool:
    radius = crater.diameter / 2
    return min(crater.x, crater.y) > radius and max(crater.x, crater.y) < size - radius


def test_sizes_follow_the_power_law() -> None:
    """Maximum-likelihood slope of a truncated power law over many scenes."""
    spec = replace(SPEC, height=1500, width=1500, crater_density=0.08)
    sizes = np.array(
        [
            c.diameter
            for seed in range(30)
            for c in terrain._place_craters(np.random.default_rng(seed), replace(spec, seed=seed))
            if c.diameter >= SMALLEST_LABELLED
        ]
    )
    assert sizes.min() >= spec.smallest_diameter
    assert sizes.max() <= spec.largest_diameter
    slopes = np.linspace(0.5, 4, 200)
    low, high = spec.smallest_diameter, spec.largest_diameter
    likelihood = [len(sizes) * math.log(b / (low**-b - high**-b)) - (b + 1) * np.log(sizes).sum() for b in slopes]
    assert slopes[np.argmax(likelihood)] == pytest.approx(2, abs=0.15)


def test_no_rim_is_cut() -> None:
    craters = terrain._draw_craters(np.random.default_rng(2), replace(SPEC, height=800, width=800), 0.3, 16, 180)
    assert len(craters) > 60
    for index, small in enumerate(craters):
        for big in craters[:index]:
            distance = math.hypot(small.x - big.x, small.y - big.y)
            assert distance > (small.diameter + big.diameter) / 2 or distance + small.diameter / 2 < big.diameter / 2


def test_fresh_and_degraded_profiles() -> None:
    """Depth / diameter 0.2, rim 0.04 D and cubic ejecta when fresh; shallow when degraded."""
    r, fresh = relief.profile(0.0)
    _, old = relief.profile(1.0)
    assert (fresh.max() - fresh.min()) / 2 == pytest.approx(0.2, rel=0.1)
    assert fresh.max() / 2 == pytest.approx(0.04, rel=0.25)
    assert 0.04 < (old.max() - old.min()) / 2 < 0.09
    assert r[np.argmax(fresh)] == pytest.approx(1, abs=0.05)
    at = np.interp([1.15, 1.4], r, fresh)
    assert at[0] / at[1] == pytest.approx((1.4 / 1.15) ** 3, rel=0.1)


def test_shadow_of_a_wall_has_its_geometric_length() -> None:
    heights = np.zeros((40, 200), np.float32)
    heights[:, 40:80] = 10
    depth = relief.shadow(heights, 270, 30)
    length = int((depth[20, 80:] > 0).sum())
    assert length == pytest.approx(10 / math.tan(math.radians(30)), abs=2.5)
    assert not depth[:, :40].any()
    assert relief.shadow(heights, 90, 30)[20, :40].any()


def test_fractal_has_a_power_law_spectrum() -> None:
    hurst = 0.8
    field = terrain._fractal(np.random.default_rng(0), (256, 256), hurst)
    assert field.std() == pytest.approx(1, rel=1e-3)
    power = np.abs(np.fft.rfft2(field)) ** 2
    k = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.rfftfreq(256)[None])
    used = (k > 0.01) & (k < 0.4)
    slope = np.polyfit(np.log(k[used]), np.log(power[used]), 1)[0]
    assert slope == pytest.approx(-2 * (hurst + 1), abs=0.1)


def test_colours_are_those_of_mars() -> None:
    """NIR above RED above BLUE-GREEN everywhere that the sun reaches, as in HiRISE's colour products."""
    near_infrared, red, blue_green = render_scene(SPEC).iof
    lit = red > np.percentile(red, 5)
    assert (near_infrared > red)[lit].mean() > 0.97
    assert (red > 1.3 * blue_green)[lit].mean() > 0.99
    assert 0.05 < red.mean() < 0.3
