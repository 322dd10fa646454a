import numpy as np
import pandas as pd
import pytest
from scipy.stats import beta

from mars_assets.craters.rates import CompleteFrom, Rate
from mars_assets.evaluation.counts import ONE_SIGMA


def trials(rng: np.random.Generator, count: int, rate, smallest: float = 6, largest: float = 200) -> pd.DataFrame:
    diameters = np.exp(rng.uniform(np.log(smallest), np.log(largest), count))
    return pd.DataFrame({"diameter_px": diameters, "success": rng.random(count) < rate(diameters)})


def test_bins_have_enough_trials_and_all_of_them() -> None:
    diameters = np.array([9.0] * 15 + [12.0] * 10 + [17.0] * 30 + [50.0] * 3)
    rate = Rate.of_trials(pd.DataFrame({"diameter_px": diameters, "success": diameters > 10}))
    assert rate is not None
    # 15 are too few and go with the 10 larger ones; the last 3 with those before.
    assert rate.trials.tolist() == [25, 33]
    assert rate.successes.tolist() == [10, 33]
    assert rate.edges.tolist() == [9, 16, 50]
    table = rate.table()
    assert table["rate"].tolist() == [0.4, 1.0]
    assert table["rate_high"].iloc[1] == 1
    tail = (1 - ONE_SIGMA) / 2
    assert beta(10.5, 15.5).cdf(table["rate_low"].iloc[0]) == pytest.approx(tail)
    assert beta(10.5, 15.5).sf(table["rate_high"].iloc[0]) == pytest.approx(tail)


def test_outside_the_trials_a_rate_is_missing() -> None:
    rate = Rate.of_trials(trials(np.random.default_rng(0), 400, lambda d: d > 20))
    assert rate is not None
    low, high = rate.edges[0], rate.edges[-1]
    assert np.isnan(rate.at([low - 1e-9, high + 1e-9, 1e9])).all()
    assert rate.at([low, high]).tolist() == [0, 1]
    assert rate.number_of([low - 1e-9, high + 1e-9]).tolist() == [-1, len(rate.trials)]


def test_too_few_trials_are_no_rate() -> None:
    assert Rate.of_trials(pd.DataFrame({"diameter_px": [9.0] * 19, "success": [True] * 19})) is None
    assert Rate.of_trials(pd.DataFrame({"diameter_px": [], "success": []})) is None
    same = Rate.of_trials(pd.DataFrame({"diameter_px": [9.0] * 20, "success": [True] * 20}))
    assert same is not None
    assert same.at(9.0) == 1


def test_intervals_contain_the_rate_as_often_as_they_say() -> None:
    rng = np.random.default_rng(3)
    inside = []
    for _ in range(400):
        rate = Rate.of_trials(trials(rng, 300, lambda d: np.full(d.shape, 0.8)))
        assert rate is not None
        low, high = rate.interval()
        inside += ((low <= 0.8) & (high >= 0.8)).tolist()
    assert 0.64 < np.mean(inside) < 0.74


def in_observations(rng: np.random.Generator, count: int, spread: float, observations: int = 8) -> pd.DataFrame:
    """Trials whose rate is 0.7 in the mean, and differs between observations."""
    shape = 1 / spread - 1 if spread else 1e9
    rates = rng.beta(0.7 * shape, 0.3 * shape, observations)
    group = np.repeat(np.arange(observations), count)
    diameters = np.exp(rng.uniform(np.log(8), np.log(40), len(group)))
    return pd.DataFrame({"diameter_px": diameters, "success": rng.random(len(group)) < rates[group], "group": group})


@pytest.mark.parametrize("spread", [0.0, 0.02, 0.1, 0.3])
def test_rates_differ_between_observations(spread: float) -> None:
    rng = np.random.default_rng(7)
    correlations, inside, draws = [], [], []
    for _ in range(300):
        rate = Rate.of_trials(in_observations(rng, 80, spread))
        assert rate is not None
        assert rate.observations == 8
        correlations.append(rate.correlation)
        other = rng.beta(0.7 * (1 / spread - 1), 0.3 * (1 / spread - 1)) if spread else 0.7
        low, high = rate.interval()
        inside += ((low <= other) & (other <= high)).tolist()
        drawn = rate.draws(rng, 400).mean(axis=1)
        draws.append(np.quantile(drawn, [(1 - ONE_SIGMA) / 2, (1 + ONE_SIGMA) / 2]))
        draws[-1] = draws[-1][0] <= other <= draws[-1][1]
    assert np.mean(correlations) == pytest.approx(spread, abs=0.02 + 0.15 * spread)
    # The observation is another one. How much observations differ is itself known from eight of them alone, so that
    # its rate is in the 68 % interval a little more often where they hardly differ, and less often where they do much.
    assert 0.62 < np.mean(inside) < 0.83
    assert 0.52 < np.mean(draws) < 0.83


def test_draws_are_numbers_where_all_trials_of_a_bin_succeeded() -> None:
    table = in_observations(np.random.default_rng(2), 40, 0.5, observations=3)
    table["success"] |= table["diameter_px"] > 20
    rate = Rate.of_trials(table)
    assert rate is not None
    assert rate.correlation > 0
    draws = rate.draws(np.random.default_rng(0), 20_000)
    assert ((draws > 0) & (draws <= 1)).all()


def test_trials_of_one_observation_do_not_tell_how_others_differ() -> None:
    table = in_observations(np.random.default_rng(1), 400, 0.1, observations=1)
    rate, plain = Rate.of_trials(table), Rate.of_trials(table.drop(columns="group"))
    assert rate is not None
    assert plain is not None
    assert rate.observations == 1
    assert plain.observations == 0
    np.testing.assert_allclose(rate.interval(), plain.interval())


def test_between_bins_a_rate_is_interpolated() -> None:
    def truth(diameters: np.ndarray) -> np.ndarray:
        return 0.97 / (1 + (diameters / 11.0) ** -4)

    rate = Rate.of_trials(trials(np.random.default_rng(0), 10**6, truth))
    assert rate is not None
    sizes = np.geomspace(rate.middles[0], rate.middles[-1], 500)
    assert np.abs(rate.at(sizes) - truth(sizes)).max() < 0.03
    assert rate.at(6.5) == pytest.approx(rate.at(rate.middles[0]))
    draws = rate.interpolated(rate.draws(np.random.default_rng(1), 10), sizes)
    assert draws.shape == (10, 500)
    assert np.abs(draws - rate.at(sizes)).max() < 0.02


def test_the_diameter_from_which_a_count_is_complete() -> None:
    edges, middles = np.array([6.0, 8, 11, 16, 40]), np.array([7.0, 9, 13, 25])

    def of(*found: int) -> CompleteFrom:
        return Rate(edges, middles, np.full(4, 100), np.array(found)).complete_from()

    assert of(95, 95, 95, 95) == CompleteFrom(6.0, 6.0, 6.0)
    assert of(95, 95, 95, 60) == CompleteFrom(None, None, None)
    estimate, low, high = of(95, 40, 92, 99)
    assert estimate == pytest.approx(np.exp(np.interp(90, [40, 92], np.log([9, 13]))))
    assert low is not None
    assert high is not None
    assert 9 < low < estimate < 13 < high < 25
    assert of(10, 20, 95, 91).high is None, "91 may be 88"
    rising = Rate.of_trials(trials(np.random.default_rng(0), 10**5, lambda d: 1 - 0.5 * (8 / np.maximum(d, 8)) ** 3))
    assert rising is not None
    found = rising.complete_from()
    assert found.estimate == pytest.approx(8 * 5 ** (1 / 3), rel=0.05)
    assert found.low <= found.estimate <= found.high  # type: ignore[operator]
