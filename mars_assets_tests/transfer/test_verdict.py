"""The verdict follows from the intervals."""

import pandas as pd
import pytest

from mars_assets.transfer.results import Results
from mars_assets.transfer.verdict import verdicts


class Named:
    def __init__(self, name: str) -> None:
        self.name = name


def results(random: tuple[float, float], shuffled: tuple[float, float]) -> Results:
    """Build a study of one encoder: differences to controls, each with its p-value."""
    interval = {"balanced_accuracy": 0.8, "balanced_accuracy_low": 0.7, "balanced_accuracy_high": 0.9}
    estimates = pd.DataFrame(
        [
            {"encoder": "e", "way": "linear", "fraction": fraction, "n_train": 421 * fraction, **interval}
            for fraction in (0.1, 1.0)
        ]
    )
    comparisons = pd.DataFrame(
        [
            {"encoder": "e", "way": "linear", "to": what, "what": what, "difference": difference}
            | {"difference_low": difference - 0.05, "difference_high": difference + 0.05, "p_value": p}
            for what, (difference, p) in (("random weights", random), ("shuffled weights", shuffled))
        ]
    )
    named = [Named(name) for name in ("e", "shuffled:e", "random:e", "hog")]
    return Results(runs=estimates, estimates=estimates, comparisons=comparisons, contenders=named)


@pytest.mark.parametrize(
    ("random", "shuffled", "conclusion"),
    [
        ((0.14, 0.001), (0.06, 0.01), "helps here, beyond the scale"),
        ((0.14, 0.001), (0.06, 0.2), "may help as much"),
        ((0.05, 0.3), (0.10, 0.01), "not shown to beat random"),
        ((0.05, 0.3), (0.02, 0.9), "No gain"),
        ((-0.10, 0.01), (0.02, 0.9), "harm"),
        ((-0.10, 0.01), (0.10, 0.01), "harm"),
        ((0.02, 0.9), (-0.10, 0.01), "harm"),
        ((float("nan"), float("nan")), (0.02, 0.9), "No gain"),
    ],
)
def test_conclusions(random: tuple[float, float], shuffled: tuple[float, float], conclusion: str):
    (said,) = verdicts(results(random, shuffled), {"e": "images of the Earth"})
    assert conclusion in said
    assert "0.800 [0.700, 0.900] with 421 labelled images" in said
    assert "images of the Earth" in said


def test_differences_have_signs_intervals_and_p_values():
    (said,) = verdicts(results((0.14, 0.001), (-0.02, 0.5)), {"e": "images of the Earth"})
    assert "Differences to random weights: +0.140 [+0.090, +0.190], p = 0.001; to" in said
    assert "to shuffled weights: -0.020 [-0.070, +0.030], p = 0.5." in said
