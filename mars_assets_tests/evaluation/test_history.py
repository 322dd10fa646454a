"""Histories of scores: what is kept, what is replaced, and what a change is worth."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mars_assets.evaluation.history import CHANGE, KEYS, in_words, record, with_change
from mars_assets.storage.files import read_json


def _row(model: str, labels: str, score: float | None, half: float = 0.05, split: str = "test") -> dict[str, Any]:
    low, high = (None, None) if score is None else (score - half, score + half)
    return {
        "model_version": model,
        "label_version": labels,
        "split": split,
        "score": score,
        "score_low": low,
        "score_high": high,
    }


def _measured(path: Path, row: dict[str, Any]) -> dict[str, Any]:
    found = with_change(path, row, "score", "x")
    record(path, [found], KEYS, "x")
    return found


def test_the_first_row_has_no_change(tmp_path: Path) -> None:
    row = _measured(tmp_path / "x.parquet", _row("m1", "l1", 0.8))
    assert [row[key] for key in CHANGE] == [None] * 4
    assert in_words(row, "score") == "the first evaluation on this split"


def test_changes_are_against_the_row_before_of_the_same_split(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    _measured(path, _row("m1", "l1", 0.8))
    _measured(path, _row("m1", "l1", 0.1, split="valid"))
    other_labels = _measured(path, _row("m1", "l2", 0.83))
    assert other_labels["change"] == pytest.approx(0.03)
    assert other_labels["within_noise"] is True
    assert in_words(other_labels, "score") == "score +0.030 since the previous evaluation (other labels): within noise"
    other_model = _measured(path, _row("m2", "l2", 0.6))
    assert other_model["within_noise"] is False
    assert (
        in_words(other_model, "score") == "score -0.230 since the previous evaluation (another model): more than noise"
    )
    table = record(path, [other_model], KEYS, "x")
    assert len(table) == 4


def test_the_same_thing_measured_again_is_compared_with_the_row_before_it(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    _measured(path, _row("m1", "l1", 0.8))
    first, again = _measured(path, _row("m1", "l2", 0.7)), _measured(path, _row("m1", "l2", 0.7))
    assert first == again


def test_an_undefined_score_has_no_change(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    _measured(path, _row("m1", "l1", 0.8))
    row = _measured(path, _row("m1", "l2", None))
    assert row["change"] is None
    assert row["within_noise"] is None
    assert "undefined" in in_words(row, "score")


@pytest.mark.slow
def test_what_is_called_noise_is_noise_nineteen_times_of_twenty(tmp_path: Path) -> None:
    """Two scores of the same truth, with intervals of their own standard errors."""
    rng, within = np.random.default_rng(0), []
    for number in range(300):
        path = tmp_path / f"{number}.parquet"
        for labels, error in (("l1", 0.02), ("l2", 0.05)):
            row = _measured(path, _row("m", labels, 0.8 + error * rng.standard_normal(), 1.96 * error))
        within.append(row["within_noise"])
    assert np.mean(within) == pytest.approx(0.95, abs=0.03)


def test_rows_of_an_earlier_layout_are_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    record(path, [_row("m1", "l1", 0.8)], KEYS, "x")  # without the columns of a change
    assert _measured(path, _row("m1", "l2", 0.81))["within_noise"] is True


def test_intervals_without_width_say_nothing_of_noise(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    _measured(path, _row("m1", "l1", 0.5, half=0.0))
    row = _measured(path, _row("m1", "l2", 0.6))
    assert row["change"] == pytest.approx(0.1)
    assert row["within_noise"] is None
    assert in_words(row, "score").endswith("the noise is unknown")


def test_the_twin_keeps_every_digit(tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    record(path, [{"name": "a", "p": 3.25e-14, "n": 3, "best": True}, {"name": "b", "p": float("nan")}], ["name"], "t")
    first, second = read_json(path.with_suffix(".json"))
    assert (first["p"], first["n"], first["best"]) == (3.25e-14, 3, True)
    assert (second["p"], second["best"]) == (None, None)


def test_of_few_observations_no_change_is_called_more_than_noise(tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    few = {"n_observations": 4, "n": 90}
    alone = {"n_observations": 1, "n": 90}
    _measured(tmp_path / "one.parquet", _row("m1", "l1", 0.5) | alone)
    assert _measured(tmp_path / "one.parquet", _row("m1", "l2", 0.9) | alone)["within_noise"] is None
    unknown = {"n_observations": 0, "n": 90}
    _measured(tmp_path / "none.parquet", _row("m1", "l1", 0.5) | unknown)
    assert _measured(tmp_path / "none.parquet", _row("m1", "l2", 0.9) | unknown)["within_noise"] is False
    _measured(path, _row("m1", "l1", 0.5) | few)
    row = _measured(path, _row("m1", "l2", 0.9) | few)
    assert row["change"] == pytest.approx(0.4)
    assert row["within_noise"] is None
    assert _measured(path, _row("m1", "l3", 0.5) | few | {"n_observations": 9})["within_noise"] is None
    assert _measured(path, _row("m1", "l4", 0.9) | few | {"n_observations": 9})["within_noise"] is False
