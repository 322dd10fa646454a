"""Craters drawn into real ground, and the sun that lights them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mars_assets.craters.comparison import Circles, circle_iou
from mars_assets.craters.injection import (
    ASSUMED_AZIMUTH,
    ASSUMED_INCIDENCE,
    FEWEST,
    Ground,
    Sun,
    draw_craters,
    estimate_sun,
    inject,
    shading_of,
)
from mars_assets.craters.relief import Crater
from mars_assets.imagery.crops import rgb_composite, to_8bit
from mars_assets.sample.terrain import SMALLEST_LABELLED, SceneSpec, draw_spec, render_scene

NOWHERE = Circles(np.empty((0, 2)), np.empty(0))


def flat(value: int = 120, side: int = 400, black: float = 0.0) -> Ground:
    return Ground(np.full((side, side, 3), value, np.uint8), np.ones((side, side), bool), (black,) * 3)


def rendered(seed: int, azimuth: float) -> tuple[SceneSpec, Ground, Circles]:
    """A scene of the sample, stretched as crops are, and its true craters."""
    spec = draw_spec(np.random.default_rng(seed), "ESP_990001_1800", 700, 700)
    spec = replace(spec, sun_azimuth=azimuth, crater_density=0.3, old_ground=0.9)
    scene = render_scene(spec)
    rgb = rgb_composite("COLOR", np.moveaxis(scene.iof, 0, -1))
    low, high = np.percentile(rgb, (0.1, 99.9), axis=(0, 1))
    ground = Ground(
        to_8bit(rgb, low.tolist(), high.tolist()), np.ones(rgb.shape[:2], bool), (-255 * low / (high - low)).tolist()
    )
    craters = np.array([(c.x, c.y, c.diameter) for c in scene.craters if c.diameter >= SMALLEST_LABELLED])
    return spec, ground, Circles.in_plane(*craters.T)


def turned(one: float, other: float) -> float:
    return abs((one - other + 180) % 360 - 180)


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "azimuth"), [(0, 20.0), (2, 135.0), (3, 270.0), (4, 250.0), (5, 310.0)])
def test_the_sun_follows_from_the_craters(seed: int, azimuth: float) -> None:
    spec, ground, true = rendered(seed, azimuth)
    sun = estimate_sun(shading_of(ground, true))
    assert sun.error is not None
    assert sun.error < 3
    assert turned(sun.azimuth, azimuth) < 5
    assert sun.incidence == pytest.approx(spec.incidence, abs=6)


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "azimuth"), [(0, 20.0), (2, 135.0), (3, 270.0), (4, 250.0), (5, 310.0)])
def test_errors_and_false_alarms_hardly_turn_the_sun(seed: int, azimuth: float) -> None:
    """Of a person's size, and a third of them is no crater."""
    spec, ground, true = rendered(seed, azimuth)
    rng = np.random.default_rng(seed)
    count = len(true.diameter)
    centres = true.centres + rng.normal(0, 0.07, (count, 2)) * true.diameter[:, None]
    diameter = true.diameter * np.exp(rng.normal(0, 0.11, count))
    false = count // 2
    said = Circles(
        np.concatenate([centres, rng.uniform(40, 660, (false, 2))]), np.concatenate([diameter, diameter[:false]])
    )
    sun = estimate_sun(shading_of(ground, said))
    assert sun.error is not None
    assert turned(sun.azimuth, azimuth) < 15
    assert turned(sun.azimuth, azimuth) < 4 * sun.error
    assert spec.incidence - 15 < sun.incidence < spec.incidence + 6


def test_the_sun_is_assumed_where_craters_are_few_or_disagree() -> None:
    lit = np.tile([[0.5, 0.0]], (FEWEST, 1))
    assert estimate_sun(lit).azimuth == pytest.approx(270, abs=0.1)
    few = estimate_sun(lit[:-1])
    assert few == Sun(ASSUMED_AZIMUTH, ASSUMED_INCIDENCE, FEWEST - 1, None)
    turns = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    assert estimate_sun(np.column_stack([np.cos(turns), np.sin(turns)])).error is None
    assert estimate_sun(np.empty((0, 2))).error is None


@pytest.mark.parametrize("azimuth", [30.0, 160.0, 280.0])
def test_injected_craters_are_lit_from_the_sun(azimuth: float) -> None:
    crater = Crater(200.3, 190.8, 60.0, 0.3)
    sun = Sun(azimuth, 50.0)
    drawn = inject(np.random.default_rng(0), flat(), [crater], sun)
    ground = replace(flat(), pixels=drawn)
    right, down = shading_of(ground, Circles.in_plane(*np.array([[200.3], [190.8], [60.0]])))[0]
    assert turned(np.degrees(np.arctan2(-right, down)), azimuth) < 3
    y, x = np.mgrid[:400, :400] + 0.5
    changed = (drawn != 120).any(axis=2)
    distance = np.hypot(x - 200.3, y - 190.8) / 30
    assert not changed[distance > 3.3].any()
    steep = np.abs(drawn[..., 0].astype(int) - 120)
    assert steep[distance < 0.95].mean() > 4 * steep[(distance > 1.3) & (distance < 3)].mean()


def test_brightness_is_measured_from_the_black_point() -> None:
    crater = Crater(200, 200, 80.0, 0.2)
    light = inject(np.random.default_rng(3), flat(), [crater], Sun(270, 50)) / 120
    assert light.min() < 0.6
    assert light.max() > 1.3
    for value, black in ((80, -40.0), (60, -60.0)):
        drawn = inject(np.random.default_rng(3), flat(value, black=black), [crater], Sun(270, 50))
        np.testing.assert_allclose(drawn, np.maximum(light * 120 + black, 0), atol=1.01)


def test_craters_look_alike_at_every_scale() -> None:
    """Also those that are drawn smaller and magnified."""
    pictures = []
    for scale in (1, 4):
        crater = Crater(100.5 * scale, 99.2 * scale, 60.0 * scale, 0.5)
        drawn = inject(np.random.default_rng(3), flat(side=200 * scale), [crater], Sun(240, 45))
        pictures.append(drawn[..., 0].reshape(200, scale, 200, scale).mean(axis=(1, 3)))
    assert np.abs(pictures[0] - pictures[1]).mean() < 0.3
    assert np.abs(pictures[0] - pictures[1]).max() < 25


def test_craters_at_the_border_and_pixels_that_are_not_good() -> None:
    ground = flat(250)
    ground.good[:, 200:] = False
    drawn = inject(
        np.random.default_rng(0), ground, [Crater(3, 2, 90.0, 0.1), Crater(200, 300, 50.0, 0.1)], Sun(270, 60)
    )
    np.testing.assert_array_equal(drawn[:, 200:], 250)
    assert (drawn[280:320, 180:200] != 250).any()
    assert drawn.max() == 255
    np.testing.assert_array_equal(ground.pixels, 250)


@pytest.mark.parametrize("of_each_size", [4, 7])
def test_where_craters_are_drawn(of_each_size: int) -> None:
    counted = np.ones((1000, 1200), bool)
    counted[:150] = False
    counted[600:700, 500:600] = False
    existing = Circles.in_plane(
        *np.random.default_rng(5).uniform([[100], [200], [15]], [[1100], [900], [90]], (3, 150))
    )
    craters = draw_craters(np.random.default_rng(1), counted, existing, 10.0, of_each_size)
    assert craters == draw_craters(np.random.default_rng(1), counted, existing, 10.0, of_each_size)
    x, y, diameter = np.array([(c.x, c.y, c.diameter) for c in craters]).T
    assert 10 <= diameter.min() < 12
    assert (np.diff(diameter) <= 0).all()
    assert len(set(np.round([c.degradation for c in craters], 6))) == len(craters)
    bins = np.histogram(diameter, 10 * 2 ** (np.arange(8) / 2))[0]
    assert (bins[:-1] >= of_each_size - 1).all()
    large = diameter > 125
    assert 1 <= large.sum() < of_each_size
    assert np.pi / 4 * (diameter[large] ** 2).sum() <= 0.2 * counted.size
    rows, columns = np.nonzero(~counted)
    for cx, cy, d in zip(x, y, diameter, strict=True):
        assert np.hypot(columns + 0.5 - cx, rows + 0.5 - cy).min() > d / 2 - 1
        assert d / 2 <= cx <= 1200 - d / 2
    apart = np.hypot(x[:, None] - x, y[:, None] - y) - (diameter[:, None] + diameter) / 2
    assert apart[np.triu_indices(len(x), 1)].min() > 0
    distance = np.linalg.norm(existing.centres - np.column_stack([x, y])[:, None], axis=2)
    radii = np.broadcast_arrays(diameter[:, None] / 2, existing.diameter / 2)
    assert circle_iou(distance, *radii).max() < 0.25
    assert (distance < radii[0]).any(), "they may lie on others"


def test_no_room_no_craters() -> None:
    counted = np.zeros((300, 300), bool)
    assert draw_craters(np.random.default_rng(0), counted, NOWHERE, 10, 7) == []
    assert draw_craters(np.random.default_rng(0), ~counted, NOWHERE, 200, 7) == []
