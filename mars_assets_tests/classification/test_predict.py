"""Predictions: right, in order, and computed for new images only."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mars_assets.classification import predict as module
from mars_assets.classification.checkpoint import open_classifier
from mars_assets.classification.data import load_chip
from mars_assets.classification.predict import predict
from mars_assets.classification.recipe import ClsRecipe
from mars_assets.classification.train import train_classifier
from mars_assets.errors import DamagedFileError, MissingInputError
from mars_assets.training.compute import Compute
from mars_assets.training.run_folder import TrainingJob

RECIPE = ClsRecipe(
    image_size=32,
    batch_size=4,
    steps=2,
    warmup_steps=1,
    evaluate_every=2,
    normalize="statistics",
    all_orientations=False,
)


@pytest.fixture(scope="module")
def models(images, weights, tmp_path_factory):
    """Two models of different seeds."""
    root = tmp_path_factory.mktemp("models")
    for seed in (1, 2):
        train_classifier(TrainingJob(RECIPE, images, weights, root / str(seed), Compute("cpu", "fp32", 1, seed), {}))
    return root / "1", root / "2"


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """The chips that are read, by name."""
    names: list[str] = []

    def counted(path: Path, *args: object) -> torch.Tensor:
        names.append(path.stem)
        return load_chip(path, *args)

    monkeypatch.setattr(module, "load_chip", counted)
    return names


def test_probabilities_are_the_models_in_the_order_of_the_images(models, images, compute, tmp_path):
    shuffled = images.sample(frac=1, random_state=0)
    predicted = predict(models[0], shuffled, tmp_path / "cache.json", compute)
    assert predicted["image_id"].tolist() == shuffled["image_id"].tolist()
    classifier, _ = open_classifier(models[0])
    with torch.no_grad():
        one_by_one = [
            classifier(load_chip(Path(chip), classifier.config, 32)[None]).double().sigmoid().item()
            for chip in shuffled["chip"]
        ]
    np.testing.assert_allclose(predicted["probability"], one_by_one, atol=1e-6)


def test_only_new_and_changed_images_are_computed(models, images, compute, tmp_path, read):
    cache = tmp_path / "cache.json"
    first = predict(models[0], images.head(10), cache, compute)
    assert len(read) == 10
    read.clear()
    second = predict(models[0], images.head(13), cache, compute)
    assert read == images["image_id"][10:13].tolist()
    pd.testing.assert_frame_equal(second.head(10), first)
    read.clear()
    changed = images.head(13).assign(chip_sha=lambda table: table["chip_sha"].where(table.index != 4, "another"))
    predict(models[0], changed, cache, compute)
    assert read == [images["image_id"][4]]
    read.clear()
    assert predict(models[0], images.head(13), cache, compute).equals(second)
    assert read == []


def test_without_fingerprints_the_id_alone_counts(models, images, compute, tmp_path, read):
    plain = images.drop(columns="chip_sha")
    predict(models[0], plain, tmp_path / "cache.json", compute)
    predict(models[0], plain, tmp_path / "cache.json", compute)
    assert len(read) == len(images)


def test_another_model_does_not_take_this_ones_predictions(models, images, compute, tmp_path, read):
    one = predict(models[0], images, tmp_path / "cache.json", compute)
    other = predict(models[1], images, tmp_path / "cache.json", compute)
    assert len(read) == 2 * len(images)
    assert not np.allclose(one["probability"], other["probability"])


def test_predictions_that_were_computed_in_another_way_are_not_taken(
    models, images, compute, tmp_path, read, monkeypatch
):
    predict(models[0], images, tmp_path / "cache.json", compute)
    monkeypatch.setattr(module, "CLASSIFIER_PREDICTION", "another")
    predict(models[0], images, tmp_path / "cache.json", compute)
    assert len(read) == 2 * len(images)


def test_what_is_predicted_before_a_failure_is_kept(models, images, compute, tmp_path, read):
    broken = images.assign(chip=images["chip"].where(images.index != 9, "gone.tif"))
    with pytest.raises(DamagedFileError, match=r"gone\.tif"):
        predict(models[0], broken, tmp_path / "cache.json", compute)
    read.clear()
    assert predict(models[0], images, tmp_path / "cache.json", compute)["probability"].notna().all()
    assert sorted(read) == images["image_id"][9:].tolist()


def test_no_model_is_told(images, compute, tmp_path):
    with pytest.raises(MissingInputError, match="cls_model"):
        predict(tmp_path, images, tmp_path / "cache.json", compute)
