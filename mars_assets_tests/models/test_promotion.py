"""Which of two models is used from now on."""

import pandas as pd
import pytest

from mars_assets.lake import Lake
from mars_assets.models.promotion import compare
from mars_assets.models.versions import ModelVersion, current_model, make_current, start_version
from mars_assets.storage.files import write_json


def _images(rows: list[tuple[str, str]]) -> pd.DataFrame:
    """Of (observation, split)."""
    table = pd.DataFrame(rows, columns=["observation", "split"])
    return table.assign(image_id=table["observation"] + " image")


def _model(lake: Lake, version: str, images: pd.DataFrame) -> ModelVersion:
    write_json(start_version(lake, "cls_model", version, images) / "config.json", {})
    make_current(lake, "cls_model", version, {})
    return current_model(lake, "cls_model")


NOW = _images([("A", "train"), ("B", "train"), ("C", "valid"), ("D", "test"), ("E", "test")])
OLD = _images([("A", "train"), ("D", "train"), ("C", "valid")])  # D was trained on when it was in another split


@pytest.fixture
def models(lake: Lake) -> tuple[ModelVersion, ModelVersion]:
    return _model(lake, "old", OLD), _model(lake, "new", NOW)


@pytest.mark.parametrize(
    ("scores", "not_worse", "said"),
    [
        ({"old": 0.7, "new": 0.8}, True, "score 0.800, the one in use 0.700: the new one takes its place"),
        ({"old": 0.7, "new": 0.7}, True, "takes its place"),
        ({"old": 0.8, "new": 0.7}, False, "is kept, and not in use"),
        ({"old": None, "new": 0.7}, False, "undefined"),
        ({"old": 0.7, "new": None}, False, "undefined"),
    ],
)
def test_the_better_on_what_neither_has_seen_is_used(models, scores, not_worse: bool, said: str) -> None:
    judged = []

    def judge(model: ModelVersion, images: pd.DataFrame, split: str) -> float | None:
        judged.append((split, images["observation"].tolist()))
        return scores[model.version]

    comparison = compare(*models, NOW, "score", judge)
    assert judged[:2] == [("test", ["E"])] * 2
    assert comparison.is_not_worse is not_worse
    assert said in str(comparison)


def test_valid_judges_where_no_test_image_is_left(models) -> None:
    without = NOW[NOW["observation"] != "E"]
    comparison = compare(*models, without, "score", lambda model, images, split: float(len(images)))
    assert (comparison.split, comparison.n) == ("valid", 1)


def test_valid_judges_where_test_says_nothing(models) -> None:
    """A test image without craters leaves the score undefined; it must not stop every retraining."""
    comparison = compare(*models, NOW, "score", lambda model, images, split: None if split == "test" else 0.5)
    assert (comparison.split, comparison.is_not_worse) == ("valid", True)


def test_with_nothing_to_judge_on_the_one_in_use_stays(models) -> None:
    def judge(*_: object) -> float:
        raise AssertionError

    comparison = compare(*models, NOW[NOW["split"] == "train"], "score", judge)
    assert not comparison.is_not_worse
    assert "no image that neither" in str(comparison)
