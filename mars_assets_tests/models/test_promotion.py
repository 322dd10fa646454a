"""Which of two models is used from now on."""

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace

import pandas as pd
import pytest

from mars_assets.classification.task import CLASSIFICATION
from mars_assets.datasets import Dataset
from mars_assets.lake import Lake
from mars_assets.models.promotion import compare
from mars_assets.models.versions import ModelVersion, current_model, make_current, start_version
from mars_assets.storage.files import write_json
from mars_assets.training.compute import Compute


def _images(rows: list[tuple[str, str]]) -> pd.DataFrame:
    """Of (observation, split)."""
    table = pd.DataFrame(rows, columns=["observation", "split"])
    return table.assign(image_id=table["observation"] + " image")


def _model(lake: Lake, version: str, images: pd.DataFrame) -> ModelVersion:
    write_json(start_version(lake, "cls_model", version, images) / "config.json", {"recipe": {}})
    make_current(lake, "cls_model", version, {})
    return current_model(lake, "cls_model")


def _compare(
    lake: Lake, models, images: pd.DataFrame, score: Callable[[ModelVersion, pd.DataFrame, str], float | None]
):
    """With a task whose models have the score that a function gives them."""

    def evaluate(model, predictions, images, splits, resamples):
        return {split: SimpleNamespace(row={"balanced_accuracy": score(model, images, split)}) for split in splits}

    task = dataclasses.replace(
        CLASSIFICATION, dataset=lambda *_: Dataset(images, {}), predict=lambda *_: None, evaluate=evaluate
    )
    return compare(lake, task, models, images, Compute("cpu", "fp32", 1, 1))


NOW = _images([("A", "train"), ("B", "train"), ("C", "valid"), ("D", "test"), ("E", "test")])
OLD = _images([("A", "train"), ("D", "train"), ("C", "valid")])  # D was trained on when it was in another split


@pytest.fixture
def models(lake: Lake) -> tuple[ModelVersion, ModelVersion]:
    return _model(lake, "old", OLD), _model(lake, "new", NOW)


@pytest.mark.parametrize(
    ("scores", "not_worse", "said"),
    [
        ({"old": 0.7, "new": 0.8}, True, "balanced_accuracy 0.800 and the one in use 0.700: the new one replaces it"),
        ({"old": 0.7, "new": 0.7}, True, "replaces it"),
        ({"old": 0.8, "new": 0.7}, False, "is stored, but not put into use"),
        ({"old": None, "new": 0.7}, False, "undefined"),
        ({"old": 0.7, "new": None}, False, "undefined"),
    ],
)
def test_the_better_on_what_neither_has_seen_is_used(lake: Lake, models, scores, not_worse: bool, said: str) -> None:
    judged = []

    def judge(model: ModelVersion, images: pd.DataFrame, split: str) -> float | None:
        judged.append((split, images["observation"].tolist()))
        return scores[model.version]

    comparison = _compare(lake, models, NOW, judge)
    assert judged[:2] == [("test", ["E"])] * 2
    assert comparison.is_not_worse is not_worse
    assert said in str(comparison)


def test_valid_judges_where_no_test_image_is_left(lake: Lake, models) -> None:
    without = NOW[NOW["observation"] != "E"]
    comparison = _compare(lake, models, without, lambda model, images, split: float(len(images)))
    assert (comparison.split, comparison.n) == ("valid", 1)


def test_valid_judges_where_test_says_nothing(lake: Lake, models) -> None:
    """A test image without craters leaves the score undefined; it must not stop every retraining."""
    comparison = _compare(lake, models, NOW, lambda model, images, split: None if split == "test" else 0.5)
    assert (comparison.split, comparison.is_not_worse) == ("valid", True)


def test_with_nothing_to_judge_on_the_one_in_use_stays(lake: Lake, models) -> None:
    def judge(*_: object) -> float:
        raise AssertionError

    comparison = _compare(lake, models, NOW[NOW["split"] == "train"], judge)
    assert not comparison.is_not_worse
    assert "no image that neither" in str(comparison)
