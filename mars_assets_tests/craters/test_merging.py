import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mars_assets.craters.merging import merge


def _detections(seed: int, count: int, side: float) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, side, (2, count))
    return x, y, 8 * rng.uniform(0.001, 1, count) ** (-1 / 1.6), rng.uniform(0.05, 1, count)


def _by_the_rule(x: np.ndarray, y: np.ndarray, diameter: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """The rule as it is written down, each detection compared with each."""
    number = np.full(len(x), -1)
    for crater, one in enumerate(np.lexsort((np.arange(len(x)), -confidence))):
        if number[one] >= 0:
            continue
        size = np.log(diameter / diameter[one]) / 0.6
        place = np.hypot(x - x[one], y - y[one]) / (0.4 * np.sqrt(diameter * diameter[one]))
        number[(size**2 + place**2 < 1) & (number < 0)] = crater
        number[one] = crater
    return number


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 300), side=st.sampled_from([50.0, 400.0, 4000.0]))
def test_groups_are_those_of_the_rule(seed: int, count: int, side: float) -> None:
    detections = _detections(seed, count, side)
    merged = merge(*detections)
    expected = _by_the_rule(*detections)
    assert np.array_equal(np.unique(expected, return_inverse=True)[1], merged.number)
    assert np.array_equal(merged.number[merged.best], np.arange(len(merged.best)))
    assert (np.diff(detections[3][merged.best]) <= 0).all()


def test_a_crater_is_the_mean_of_its_detections() -> None:
    x, y = np.array([10.0, 12.0, 11.0, 40.0]), np.array([20.0, 20.0, 20.0, 20.0])
    diameter, confidence = np.array([20.0, 22.0, 9.0, 20.0]), np.array([0.6, 0.9, 0.5, 0.3])
    merged = merge(x, y, diameter, confidence)
    assert merged.number.tolist() == [0, 0, 1, 2]
    assert merged.best.tolist() == [1, 2, 3]
    assert merged.x[0] == pytest.approx((0.6 * 10 + 0.9 * 12) / 1.5)
    assert merged.diameter[0] == pytest.approx(np.exp((0.6 * np.log(20) + 0.9 * np.log(22)) / 1.5))


def test_the_order_of_detections_does_not_matter() -> None:
    detections = _detections(1, 500, 300.0)
    order = np.random.default_rng(0).permutation(500)
    one, other = merge(*detections), merge(*(values[order] for values in detections))
    for name in ("x", "y", "diameter"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name))


def test_nothing_is_nothing() -> None:
    merged = merge(*(np.empty(0) for _ in range(4)))
    assert len(merged.x) == len(merged.number) == 0
