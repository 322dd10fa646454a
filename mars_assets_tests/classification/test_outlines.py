"""Classifiers that begin as a segmentation model."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from mars_assets.bands import HLS_BANDS, impute, scale_to_reflectance
from mars_assets.classification.checkpoint import begin_with_outlines, open_classifier, start_of
from mars_assets.classification.predict import predict
from mars_assets.classification.recipe import STRONGEST, ClsRecipe
from mars_assets.classification.train import FineTuning, train_classifier
from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.lake import NETWORK
from mars_assets.segmentation.checkpoint import open_segmenter
from mars_assets.segmentation.train import train_segmentation
from mars_assets.tensors.geotiff import write_chip
from mars_assets.training.compute import Compute
from mars_assets.training.run_folder import TrainingJob

RECIPE = ClsRecipe(
    architecture="seg_model", image_size=32, batch_size=4, steps=4, warmup_steps=1, evaluate_every=2, lr=1e-3,
    average_weights=0.5, layer_decay=0.5, label_smoothing=0.0, augment="flips",
)  # fmt: skip
NETWORKS = {
    "detail": {},
    "half scale": {"magnify": 0.5, "auxiliary_head": True},
    "pyramid": {"neck": "pyramid", "frozen": True},
    "unet": {"architecture": "unet", "unet_stages": 3, "unet_channels": 4},
}


@pytest.fixture(scope="module")
def segmenters(micro_weights, squares, tmp_path_factory):
    """Makes a finished segmentation model of each kind, once."""
    made = {}

    def make(kind):
        if kind not in made:
            from mars_assets.segmentation.recipe import SegRecipe

            recipe = SegRecipe(
                **{
                    "neck_channels": 8, "detail_channels": 4, "head_channels": 8, "layers": 2, "crop_size": 32,
                    "window": 32,
                    "stride": 16, "batch_size": 2, "steps": 2, "evaluate_every": 2, "warmup_steps": 1, "lr": 1e-2,
                    "normalize": "image",
                } | NETWORKS[kind]
            )  # fmt: skip
            folder = tmp_path_factory.mktemp("segmenter")
            train_segmentation(TrainingJob(recipe, squares, micro_weights, folder, Compute("cpu", "fp32", 1, 5), {}))
            made[kind] = folder
        return made[kind]

    return make


def _begun(segmenter, folder, recipe=RECIPE):
    config, _ = start_of(recipe, segmenter)
    return begin_with_outlines(segmenter, config, folder)


@pytest.mark.slow
@pytest.mark.parametrize("kind", NETWORKS)
def test_the_logit_is_of_the_networks_strongest_margins(segmenters, kind, tmp_path):
    classifier = _begun(segmenters(kind), tmp_path).eval()
    network, _ = open_segmenter(segmenters(kind))
    chips = torch.randn(3, 6, 32, 32)
    with torch.no_grad():
        logits = network.decode_head(network.extract_feat(chips))
        margins = (logits[:, 1] - logits[:, 0]).flatten(1).sort(dim=1, descending=True).values
        torch.testing.assert_close(classifier(chips), margins[:, :STRONGEST].mean(dim=1) / 2 - 1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert classifier(chips).dtype == torch.float32
    assert not any("auxiliary" in name for name, _ in classifier.named_parameters())
    assert all(p.requires_grad for p in classifier.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["half scale", "unet"])
def test_one_is_trained_kept_and_opened_like_any_other(segmenters, kind, images, compute, tmp_path):
    report = train_classifier(TrainingJob(RECIPE, images, segmenters(kind), tmp_path / "model", compute, {}))
    assert report["trained_parameters"] == report["parameters"]
    classifier, config = open_classifier(tmp_path / "model")
    assert config["recipe"]["architecture"] == "seg_model"
    probability = predict(tmp_path / "model", images, tmp_path / "p.json", compute)["probability"]
    assert probability.between(0, 1).all()
    begun = _begun(segmenters(kind), tmp_path)
    changed = [
        name
        for (name, before), (_, after) in zip(begun.named_parameters(), classifier.named_parameters(), strict=True)
        if not torch.equal(before, after)
    ]
    assert {"head.weight", "head.bias", "network.decode_head.conv_seg.weight"} <= set(changed)


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_end(segmenters, images, compute, tmp_path, monkeypatch):
    monkeypatch.setattr(FineTuning, "save_every", 0.0)
    train_classifier(TrainingJob(RECIPE, images, segmenters("half scale"), tmp_path / "whole", compute, {}))
    validate, calls = FineTuning.validate, []

    def dies(self, model):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return validate(self, model)

    killed = TrainingJob(RECIPE, images, segmenters("half scale"), tmp_path / "killed", compute, {})
    with monkeypatch.context() as patched:
        patched.setattr(FineTuning, "validate", dies)
        with pytest.raises(KeyboardInterrupt):
            train_classifier(killed)
    train_classifier(killed)
    unbroken, continued = (open_classifier(tmp_path / name)[0].state_dict() for name in ("whole", "killed"))
    assert all(torch.equal(value, continued[name]) for name, value in unbroken.items())


@pytest.mark.slow
def test_it_learns_to_tell_tiles_with_squares_from_those_without(segmenters, compute, tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for number in range(48):
        label = number % 2
        tile = rng.integers(60, 100, (32, 32, 3))
        if label:
            top, left = rng.integers(0, 18, 2)
            tile[top : top + 14, left : left + 14] += 90
        path = tmp_path / f"{number}.tif"
        write_chip(path, impute(scale_to_reflectance(tile.astype(np.uint8)), "post_norm"), HLS_BANDS)
        split = "train" if number < 32 else "valid"
        rows.append((path.stem, split, str(path), label, f"ESP_{number // 4}", f"sha-{number}"))
    images = pd.DataFrame(rows, columns=["image_id", "split", "chip", "label", "observation", "chip_sha"])
    recipe = RECIPE.model_copy(update={"steps": 40, "evaluate_every": 20, "lr": 1e-2, "batch_size": 16})
    report = train_classifier(TrainingJob(recipe, images, segmenters("detail"), tmp_path / "model", compute, {}))
    assert report["last"]["valid_balanced_accuracy"] > 0.9


def test_batch_norms_keep_their_statistics_and_a_frozen_network_all(segmenters, tmp_path):
    classifier = _begun(segmenters("unet"), tmp_path)
    before = {name: buffer.clone() for name, buffer in classifier.named_buffers()}
    classifier.train()(torch.randn(4, 6, 32, 32) * 3 + 1)
    assert any(isinstance(module, _BatchNorm) for module in classifier.modules())
    assert all(torch.equal(before[name], buffer) for name, buffer in classifier.named_buffers())
    assert classifier.network.decode_head.dropout.training
    classifier.freeze()
    assert not classifier.train().network.decode_head.dropout.training
    assert {name for name, p in classifier.named_parameters() if p.requires_grad} == {"head.weight", "head.bias"}


def test_layers_have_their_rates(segmenters, fine_tuning, tmp_path):
    classifier = _begun(segmenters("half scale"), tmp_path)
    optimizer = fine_tuning(RECIPE).optimizer(classifier)
    rates = {id(p): g["initial_lr"] / RECIPE.lr for g in optimizer.param_groups for p in g["params"]}
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert len(rates) == len(list(classifier.parameters()))
    named = dict(classifier.named_parameters())
    encoder = "network.backbone.encoder."
    assert rates[id(named["head.weight"])] == rates[id(named["network.decode_head.conv_seg.weight"])] == 1
    assert rates[id(named[encoder + "blocks.3.mlp.fc1.weight"])] == 0.5
    assert rates[id(named[encoder + "cls_token"])] == pytest.approx(0.5**5)
    assert decays[id(named[encoder + "cls_token"])] == 0


def test_all_layers_of_a_unet_have_the_heads_rate(segmenters, fine_tuning, tmp_path):
    classifier = _begun(segmenters("unet"), tmp_path)
    rates = {group["initial_lr"] for group in fine_tuning(RECIPE).optimizer(classifier).param_groups}
    assert rates == {RECIPE.lr}


def test_images_that_the_network_cannot_see_are_refused(segmenters):
    with pytest.raises(MarsError, match=r"image_size=48 must be a multiple of 32 pixels.*magnified 0\.5 times"):
        start_of(RECIPE.model_copy(update={"image_size": 48}), segmenters("half scale"))
    with pytest.raises(MarsError, match=r"normalize is 'statistics', but seg_model was trained with 'image'"):
        start_of(RECIPE.model_copy(update={"normalize": "statistics"}), segmenters("detail"))


def test_a_model_of_an_earlier_version_is_told(segmenters, tmp_path):
    import shutil

    old = shutil.copytree(segmenters("detail"), tmp_path / "old")
    config = json.loads((old / "config.json").read_text())
    config["recipe"]["of_before"] = 1
    (old / "config.json").write_text(json.dumps(config))
    with pytest.raises(MarsError, match="earlier version: materialize 'seg_model' again"):
        start_of(RECIPE, old)


def test_a_classifier_without_its_networks_description_is_damaged(segmenters, images, compute, tmp_path):
    train_classifier(TrainingJob(RECIPE, images, segmenters("detail"), tmp_path, compute, {}))
    (tmp_path / NETWORK).unlink()
    with pytest.raises(DamagedFileError, match=r"network\.json is missing: materialize 'cls_model' again"):
        open_classifier(tmp_path)


@pytest.mark.parametrize(
    "wrong", [{"encoder": "mars_weights"}, {"dropout": 0.5}, {"pooling": "class_token"}, {"imagenet": True}]
)
def test_settings_of_other_architectures_are_refused(wrong):
    with pytest.raises(ValueError, match="seg_model"):
        ClsRecipe(architecture="seg_model", **wrong)
