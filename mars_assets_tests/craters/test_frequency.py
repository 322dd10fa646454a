import numpy as np
import pandas as pd
import pytest

from mars_assets.craters.frequency import bin_edges, bin_numbers, frequency_table, raw_numbers
from mars_assets.errors import MarsError
from mars_assets.evaluation.counts import poisson_interval
from mars_assets_tests.craters.counts import catalogue_of, power_law, scene


def _table(diameters: np.ndarray, area) -> pd.DataFrame:
    edges = bin_edges(diameters, 1000.0)
    return frequency_table(diameters, edges, area, raw_numbers(diameters, edges, area))


def test_every_diameter_is_in_a_bin_also_on_a_border() -> None:
    borders = 1000 * 2 ** (np.arange(-21, 14) / 2)
    diameters = np.concatenate(
        [np.nextafter(borders, 0), borders, np.nextafter(borders, np.inf), 1000 / 2**0.5 * np.ones(1)]
    )
    edges = bin_edges(diameters, 1000.0)
    assert 1000.0 in edges
    number = bin_numbers(diameters, edges)
    assert number.min() == 0
    assert number.max() == len(edges) - 2
    assert ((edges[number] <= diameters) & (diameters < edges[number + 1])).all()
    for diameter in diameters:
        assert len(bin_edges(np.array([diameter]), 1000.0)) == 2
    assert bin_edges(np.empty(0), 1000.0).tolist() == [1000.0]


def test_presentations_of_a_single_area_are_those_by_hand() -> None:
    diameters = np.array([200.0, 210, 260, 300, 600, 1100])
    made = _table(diameters, lambda d: np.full(np.shape(d), 50e6)).set_index("diameter_from_m")
    assert made.index.tolist() == pytest.approx([1000 * 2 ** (k / 2) for k in range(-5, 1)])
    assert made["craters"].tolist() == [2, 2, 0, 1, 0, 1]
    assert made["at_least"].tolist() == [6, 4, 2, 2, 1, 1]
    row = made.iloc[1]
    start, end = 0.25, 0.25 * 2**0.5
    assert (row["number"], row["sqrt_n"], row["area_km2"]) == pytest.approx((2, 2**0.5, 50))
    assert row["per_km2"] == pytest.approx(2 / 50)
    assert row["per_km2_km"] == pytest.approx(2 / 50 / (end - start))
    assert row["r"] == pytest.approx((start * end) ** 1.5 * 2 / 50 / (end - start))
    assert row["at_least_per_km2"] == pytest.approx(4 / 50)
    for name, count, factor in (
        ("number", 2, 1),
        ("at_least", 4, 1),
        ("per_km2", 2, 1 / 50),
        ("at_least_per_km2", 4, 1 / 50),
    ):
        assert (row[f"{name}_low"], row[f"{name}_high"]) == pytest.approx(np.array(poisson_interval(count)) * factor)
    assert made.iloc[2]["number_high"] == pytest.approx(poisson_interval(0)[1])
    assert made.iloc[2]["r_low"] == 0


def test_a_slope_of_two_is_level_in_the_r_plot_of_three() -> None:
    """R is flat for a differential slope of -3, that is a cumulative one of -2."""
    diameters = power_law(np.random.default_rng(0), 200_000, 100.0)
    made = _table(diameters, lambda d: np.full(np.shape(d), 1e9))
    many = made[(made["craters"] > 2000) & (made["diameter_from_m"] > 100)]
    assert len(many) == 5
    assert many["r"].max() / many["r"].min() < 1.06


def test_densities_follow_the_area_of_each_size() -> None:
    """Scenes of different resolution: the density is the surface's, whichever scene lists its craters."""
    scenes = [scene("fine", 50, 2, 40), scene("coarse", 170, 20, 400)]
    rng = np.random.default_rng(1)
    diameters, by = [], []
    for number, one in enumerate(scenes):
        drawn = power_law(rng, rng.poisson(2000 * one.counted_m2 / 1e6), 10.0)
        diameters.append(drawn[drawn >= one.smallest_m])
        by += [number] * len(diameters[-1])
    catalogue = catalogue_of(np.concatenate(diameters), scenes, np.array(by))
    made = _table(catalogue.craters["diameter_m"].to_numpy(), catalogue.area_m2)
    truth = 2000 * (made["diameter_from_m"] / 10) ** -2
    some = ~made["partial"] & (made["craters"] > 0)
    pulls = ((made["at_least_per_km2"] - truth) / (made["at_least_per_km2_high"] - made["at_least_per_km2_low"]))[some]
    assert (pulls.abs() < 1.2).all()
    assert made["partial"].tolist() == [True] + [False] * (len(made) - 1)
    assert set(made["area_km2"]) == {40.0, 440.0}


@pytest.mark.parametrize("mean", [5, 50])
def test_intervals_of_densities_contain_the_truth(mean: float) -> None:
    """A bin in which a second scene begins: its craters weigh 1 / 10 and 1 / 100 square kilometres."""
    catalogue = catalogue_of(np.empty(0), [scene("fine", 100, 2, 10), scene("coarse", 160, 20, 90)])
    rng = np.random.default_rng(0)
    edges = np.array([1000 * 2**-3.0, 1000 * 2**-2.5])
    # As many craters in the part that only the fine scene lists as in the other.
    truth = (mean / 10 + mean / 100) * np.ones(2000)
    low, high = np.empty(2000), np.empty(2000)
    for trial in range(2000):
        diameters = np.concatenate(
            [rng.uniform(edges[0], 160, rng.poisson(mean)), rng.uniform(160, edges[1], rng.poisson(mean))]
        )
        density = raw_numbers(diameters, edges, catalogue.area_m2).number_per_km2
        low[trial], high[trial] = density.low[0], density.high[0]
    covered = ((low <= truth) & (truth <= high)).mean()
    assert 0.67 < covered < 0.82


def test_an_empty_bin_has_an_upper_end() -> None:
    catalogue = catalogue_of(np.empty(0), [scene(km2=10)])
    made = _table(np.array([150.0, 900.0]), catalogue.area_m2)
    empty = made[made["craters"] == 0]
    assert len(empty) == 4
    assert empty["per_km2_high"].to_numpy() == pytest.approx(poisson_interval(0)[1] / 10)


def test_no_craters_are_no_rows() -> None:
    made = _table(np.empty(0), lambda d: np.full(np.shape(d), 1e6))
    assert len(made) == 0
    assert "r_high" in made


def test_a_crater_that_no_scene_lists_is_refused() -> None:
    catalogue = catalogue_of(np.array([90.0]), [scene(smallest_m=100)])
    with pytest.raises(MarsError, match=r"a crater of 90 m was counted"):
        _table(np.array([90.0]), catalogue.area_m2)
