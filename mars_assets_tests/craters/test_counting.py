"""Counts of scenes whose craters are drawn from a known production function, with an oracle in the model's place."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import poisson

from mars_assets.craters.crater_map import CraterMap
from mars_assets.craters.mapping import find_craters, map_of
from mars_assets.craters.scan import scan
from mars_assets.evaluation.counts import poisson_interval
from mars_assets.imagery.grid import Grid
from mars_assets_tests.craters.counts import power_law
from mars_assets_tests.craters.oracle import FlatScene, Known, Oracle

SIDE, WINDOW = 440, 128
SMALLEST, FROM, LARGEST = 8.0, 10.0, 200.0
"""Diameters in pixels: the smallest listed, the one from which craters are counted, and the largest drawn."""
SLOPE, MEAN = 3.0, 24.0
SCENES = 50
COUNTED = (SMALLEST / 2, SIDE - SMALLEST / 2)
"""Where the counted area begins and ends in both directions."""


def surface(rng: np.random.Generator, number: int) -> Known:
    """Draw the craters that a scene shows.

    They lie anywhere, also over each other and over the scene's border.

    Args:
        rng: for their sizes and places.
        number: of those of at least ``FROM`` that are centred in the counted area.
    """
    reach = LARGEST / 2
    density = MEAN / (COUNTED[1] - COUNTED[0]) ** 2
    more = (SMALLEST**-SLOPE - LARGEST**-SLOPE) / (FROM**-SLOPE - LARGEST**-SLOPE)
    sizes = power_law(rng, rng.poisson(density * more * (SIDE + 2 * reach) ** 2), SMALLEST, SLOPE, LARGEST)
    places = rng.uniform(-reach, SIDE + reach, (len(sizes), 2))
    inside = ((places > COUNTED[0]) & (places < COUNTED[1])).all(axis=1)
    seen = (np.abs(places - SIDE / 2) < SIDE / 2 + sizes[:, None] / 2).all(axis=1)
    others = seen & ~(inside & (sizes >= FROM))
    sizes = np.concatenate([sizes[others], power_law(rng, number, FROM, SLOPE, LARGEST)])
    places = np.concatenate([places[others], rng.uniform(*COUNTED, (number, 2))])
    return [(*place, size) for place, size in zip(places.tolist(), sizes.tolist(), strict=True)]


def mapped(craters: Known, folder: Path) -> CraterMap:
    levels = scan(FlatScene(np.ones((SIDE, SIDE), bool)), Oracle(craters, WINDOW), folder)
    return map_of("scene", Grid(SIDE, SIDE, None, None), levels, find_craters(levels, WINDOW, SMALLEST), SMALLEST)


@pytest.mark.slow
def test_counts_contain_the_truth_as_often_as_their_intervals_say(tmp_path: Path) -> None:
    """The numbers of craters are quantiles of a Poisson distribution, so that chance has no part in them.

    Exact intervals of numbers around 24 contain the mean in 74 % of all cases, and not in 68 %: numbers are whole.
    """
    there = poisson.ppf((np.arange(SCENES) + 0.5) / SCENES, MEAN).astype(int)
    found = []
    for seed, number in enumerate(there.tolist()):
        made = mapped(surface(np.random.default_rng(seed), number), tmp_path / str(seed))
        assert made.counted.area == pytest.approx((COUNTED[1] - COUNTED[0]) ** 2)
        found.append(int((made.craters["counted"] & (made.craters["diameter_px"] >= FROM)).sum()))

    def coverage(numbers: list[int]) -> float:
        low, high = poisson_interval(numbers)
        return float(((low <= MEAN) & (high >= MEAN)).mean())

    assert 0.68 <= coverage(there.tolist()) <= 0.76
    assert 0.60 <= coverage(found) <= 0.76
    # A crater whose rim crosses that of another is lost in a third of all cases, and no other one is.
    assert 0.94 < sum(found) / there.sum() <= 1
