import numpy as np
import pandas as pd
import pytest

from mars_assets.craters.catalogue import Catalogue, CountedScene
from mars_assets.craters.correction import corrected_numbers, counted_craters, share_that_is_real
from mars_assets.craters.frequency import bin_edges, raw_numbers
from mars_assets.craters.rates import Rate
from mars_assets_tests.craters.counts import catalogue_of, power_law, scene

SLOPE = 2.0


def completeness(px: np.ndarray) -> np.ndarray:
    return 0.97 / (1 + (px / 11.0) ** -4)


def precision(px: np.ndarray) -> np.ndarray:
    return 0.95 - 0.35 * (px / 8.0) ** -1.0


def trial_table(rng: np.random.Generator, count: int, rate) -> pd.DataFrame:
    """Trials whose sizes fall like the craters'; some large ones, too, as in injection."""
    px = np.concatenate(
        [power_law(rng, count, 7.5, SLOPE, 400), np.exp(rng.uniform(np.log(20), np.log(400), count // 4))]
    )
    return pd.DataFrame({"diameter_px": px, "success": rng.random(len(px)) < rate(px)})


def rates(rng: np.random.Generator, count: int = 1500) -> tuple[Rate, Rate]:
    trials = trial_table(rng, count, completeness)
    found = Rate.of_trials(trials)
    px = trial_table(rng, 3 * count, completeness).query("success")["diameter_px"].to_numpy()
    right = Rate.of_trials(pd.DataFrame({"diameter_px": px, "success": rng.random(len(px)) < precision(px)}))
    assert found is not None
    assert right is not None
    return found, right


def one_rate(start: float, end: float, value: float, trials: int = 10**9) -> Rate:
    """The same rate for all sizes in a range."""
    return Rate(np.array([start, end]), np.array([start]), np.array([trials]), np.array([round(value * trials)]))


def surface(rng: np.random.Generator, scenes: list[CountedScene], per_km2: float) -> Catalogue:
    """What a map lists of a surface with so many craters of 100 m and more: some missed, and some false."""

    def found(one: CountedScene) -> np.ndarray:
        mean = per_km2 * one.added_m2 / 1e6 * (100 / one.smallest_m) ** SLOPE
        drawn = power_law(rng, rng.poisson(mean), one.smallest_m, SLOPE)
        drawn = drawn[drawn < 390 * one.pixel_m]
        return drawn[rng.random(len(drawn)) < completeness(drawn / one.pixel_m)]

    sizes, by = [], []
    for number, one in enumerate(scenes):
        false = found(one)
        false = false[rng.random(len(false)) < 1 / precision(false / one.pixel_m) - 1]
        sizes += [found(one), false]
        by += [number] * sum(map(len, sizes[-2:]))
    return catalogue_of(np.concatenate(sizes), scenes, np.array(by, int))


@pytest.mark.slow
@pytest.mark.parametrize("several", [False, True])
def test_corrected_counts_contain_the_truth_as_often_as_they_say(several: bool) -> None:
    scenes = [scene("a", 80, 10, 60)] if not several else [scene("a", 40, 5, 20), scene("b", 160, 20, 120)]
    rng = np.random.default_rng(7)
    covered, raw_covered, ratios = [], [], []
    for _ in range(100):
        catalogue = surface(rng, scenes, 3.0)
        sizes = counted_craters(catalogue)["diameter_m"].to_numpy()
        edges = bin_edges(sizes, 1000.0)
        made = corrected_numbers(catalogue, edges, rates(rng)).numbers.at_least_per_km2
        raw = raw_numbers(sizes, edges, catalogue.area_m2).at_least_per_km2
        # Bins in which scenes begin are partial or show several curves at once.
        some = (edges[:-1] >= 80) & (edges[:-1] <= 360)
        truth = 3.0 * ((100 / edges[:-1][some]) ** SLOPE - (100 / (390 * scenes[-1].pixel_m)) ** SLOPE)
        covered.append((made.low[some] <= truth) & (truth <= made.high[some]))
        raw_covered.append((raw.low[some] <= truth) & (truth <= raw.high[some]))
        ratios.append(made.value[some] / truth)
    count = min(map(len, covered))
    each = np.mean([row[:count] for row in covered], axis=0)
    assert (each > 0.6).all(), each
    assert (each < 0.85).all(), each
    assert 0.65 < each.mean() < 0.79
    ratio = np.array([row[:count] for row in ratios])
    assert (np.abs(ratio.mean(axis=0) - 1) < 0.01 + 3 * ratio.std(axis=0) / 10).all()
    if not several:
        assert np.mean([row[0] for row in raw_covered]) < 0.2, "there is something to correct"


def test_certain_rates_of_one_give_the_raw_numbers_and_intervals() -> None:
    catalogue = catalogue_of(power_law(np.random.default_rng(0), 300, 100.0), [scene()])
    certain = one_rate(1.0, 1e9, 1)
    edges = bin_edges(catalogue.craters["diameter_m"].to_numpy(), 1000.0)
    made = corrected_numbers(catalogue, edges, (certain, certain))
    raw = raw_numbers(catalogue.craters["diameter_m"].to_numpy(), edges, catalogue.area_m2)
    for corrected, counted in zip(made.numbers, raw, strict=True):
        assert corrected.value == pytest.approx(counted.value, rel=1e-6)
        width = counted.high - counted.low
        assert np.abs(corrected.low - counted.low).max() <= 0.06 * width.max()
        assert (np.abs(corrected.high - counted.high) <= 0.08 * width).all()
    assert (made.as_found == 0).all()


def test_the_same_input_gives_the_same_intervals() -> None:
    rng = np.random.default_rng(5)
    catalogue, both = surface(rng, [scene("a", 80, 10, 60)], 3.0), rates(rng)
    edges = bin_edges(catalogue.craters["diameter_m"].to_numpy(), 1000.0)
    one, other = (corrected_numbers(catalogue, edges, both).numbers.at_least for _ in range(2))
    assert np.array_equal(one.low, other.low, equal_nan=True)
    assert np.array_equal(one.high, other.high, equal_nan=True)


def test_outside_the_trials_numbers_are_missing_or_as_found() -> None:
    half = one_rate(16, 64, 0.5, 1000)
    every = one_rate(4, 300, 1)
    catalogue = catalogue_of(np.array([150.0, 300, 310, 900]), [scene()])
    edges = bin_edges(catalogue.craters["diameter_m"].to_numpy(), 1000.0)
    made = corrected_numbers(catalogue, edges, (half, every))
    numbers = {"number": made.numbers.number.value, "at_least": made.numbers.at_least.value}
    by_size = pd.DataFrame(numbers | {"as_found": made.as_found}, edges[:-1]).round(0)
    assert by_size.index.tolist() == pytest.approx([1000 * 2 ** (k / 2) for k in range(-6, 0)])
    # 150 m is below the trials of completeness, and 900 m above.
    assert by_size["number"].tolist() == pytest.approx([np.nan, 0, 4, 0, 0, np.nan], nan_ok=True)
    assert by_size["at_least"].tolist() == pytest.approx([np.nan, 5, 5, 1, 1, 1], nan_ok=True)
    assert by_size["as_found"].tolist() == [1, 1, 1, 1, 1, 1]
    assert np.isnan(made.numbers.at_least_per_km2.low[0])


def test_where_nothing_was_found_of_the_trials_no_number_is_corrected() -> None:
    none = Rate(np.array([8.0, 16, 64]), np.array([11.0, 29]), np.array([50, 50]), np.array([0, 50]))
    every = one_rate(4, 300, 1)
    catalogue = catalogue_of(np.array([120.0, 300]), [scene()])
    edges = bin_edges(catalogue.craters["diameter_m"].to_numpy(), 1000.0)
    made = corrected_numbers(catalogue, edges, (none, every))
    assert np.isnan(made.numbers.number.value[0])
    assert np.isnan(made.numbers.at_least.value[0])
    assert made.numbers.at_least.value[-1] == pytest.approx(1, abs=0.05)


def test_each_crater_has_the_rates_of_its_own_scene() -> None:
    """Craters of 160 m have 32 pixels in one scene and 8 in the other, where half of them are missed."""
    found = Rate(np.array([4.0, 16, 100]), np.array([8.2, 28]), np.full(2, 10**8), np.array([5 * 10**7, 10**8]))
    every = one_rate(4, 300, 1)
    scenes = [scene("fine", 40, 5, 10), scene("coarse", 80, 20, 10)]
    catalogue = catalogue_of(np.full(30, 160.0), scenes, np.array([0] * 20 + [1] * 10))
    edges = bin_edges(catalogue.craters["diameter_m"].to_numpy(), 1000.0)
    numbers = corrected_numbers(catalogue, edges, (found, every)).numbers
    assert numbers.number.value == pytest.approx([40], rel=1e-3)
    assert numbers.number_per_km2.value == pytest.approx([2], rel=1e-3)


def test_the_share_that_is_real_has_the_rates_interval_alone() -> None:
    half = one_rate(4, 64, 0.5, 100)
    every = one_rate(4, 300, 1)
    share = share_that_is_real(np.full(10**6, 20.0), (half, every))
    assert share is not None
    assert share.value == pytest.approx(2, abs=0.02)
    assert share.high - share.low == pytest.approx(2 * 0.05 / 0.5**2, rel=0.1)
    assert share_that_is_real(np.array([3.0, 20]), (half, every)) is None
    assert share_that_is_real(np.empty(0), (half, every)) is None
    above = share_that_is_real(np.array([20.0, 100]), (half, every))
    assert above is not None
    assert above.value == pytest.approx(1.5, abs=0.02)
