"""Classifiers whose encoder is adapted by additions of low rank."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mars_assets.classification.checkpoint import load_weights, open_classifier
from mars_assets.classification.predict import predict
from mars_assets.classification.recipe import ClsRecipe
from mars_assets.classification.train import train_classifier
from mars_assets.lake import WEIGHTS
from mars_assets.prithvi.weights import load_encoder
from mars_assets.training.compute import Compute
from mars_assets.training.run_folder import TrainingJob

pytestmark = pytest.mark.slow


def test_frozen_and_low_rank_exclude_each_other():
    with pytest.raises(ValueError, match="set one of the two"):
        ClsRecipe(frozen=True, lora_rank=8)
    with pytest.raises(ValueError, match="does nothing with resnet18"):
        ClsRecipe(architecture="resnet18", lora_rank=8)


def test_a_trained_classifier_is_a_plain_one(
    make_images: Callable[..., pd.DataFrame], weights: Path, compute: Compute, tmp_path: Path
):
    images = make_images(train=16, valid=8)
    recipe = ClsRecipe(
        lora_rank=4, image_size=32, mask_ratio=0.0, augment="none", batch_size=4, steps=12, warmup_steps=2, lr=0.01,
        evaluate_every=4, layer_decay=1.0, average_weights=0.5,
    )  # fmt: skip
    report = train_classifier(TrainingJob(recipe, images, weights, tmp_path / "model", compute, {}))
    assert report["trained_parameters"] == 2 * 4 * 6 * 48 + 49
    written, start = load_weights(tmp_path / "model" / WEIGHTS), load_encoder(weights).state_dict()
    assert not [name for name in written if name.endswith((".up", ".down"))]
    changed = {name for name, values in start.items() if not torch.equal(values, written[f"encoder.{name}"])}
    assert changed == {f"blocks.{block}.attn.{layer}.weight" for block in (0, 1) for layer in ("qkv", "proj")}
    _, config = open_classifier(tmp_path / "model")
    assert config["recipe"]["lora_rank"] == 4
    probabilities = predict(tmp_path / "model", images, tmp_path / "cache.json", compute)["probability"]
    valid = images["split"] == "valid"
    found = np.where(images["label"][valid] == 1, probabilities[valid], 1 - probabilities[valid])
    assert -np.log(found).mean() == pytest.approx(report["best"]["valid_loss"], abs=0.05)
