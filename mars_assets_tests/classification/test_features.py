"""Features of frozen encoders: the same classifier as without them, and the encoder passes over an image once."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mars_assets.classification import features as module
from mars_assets.classification.checkpoint import is_head_alone, load_weights, open_classifier
from mars_assets.classification.data import load_chip
from mars_assets.classification.features import FeatureCache, FeatureHead, are_enough, orientations_of
from mars_assets.classification.predict import predict, predict_from_features
from mars_assets.classification.recipe import ClsRecipe
from mars_assets.classification.task import CLASSIFICATION
from mars_assets.classification.train import train_classifier
from mars_assets.errors import ProvenanceError
from mars_assets.lake import WEIGHTS, Lake
from mars_assets.models.evaluate import RESAMPLES
from mars_assets.models.versions import ModelVersion, set_current_weights
from mars_assets.prithvi.model import PrithviMAE
from mars_assets.prithvi.weights import load_encoder, open_weights, save_weights
from mars_assets.progress import SILENT
from mars_assets.storage.files import read_json
from mars_assets.training.augmentation import oriented
from mars_assets.training.loop import Loop
from mars_assets.training.run_folder import TrainingJob
from mars_assets_tests.classification.conftest import CONFIG

HEAD = ClsRecipe(
    frozen=True, image_size=32, mask_ratio=0.0, augment="none", all_orientations=False, dropout=0.0, batch_size=4,
    steps=8,
    warmup_steps=1, evaluate_every=4, lr=0.01, normalize="statistics", average_weights=0.0,
)  # fmt: skip


@pytest.fixture
def passes(monkeypatch) -> list[int]:
    """How many images each pass of the encoder had."""
    counts: list[int] = []
    computed = FeatureCache._computed

    def counted(self, encoder, chips):
        counts.append(len(chips))
        return computed(self, encoder, chips)

    monkeypatch.setattr(module.FeatureCache, "_computed", counted)
    return counts


@pytest.mark.parametrize(
    ("change", "enough"),
    [({}, True), ({"augment": "flips"}, True), ({"augment": "full"}, False), ({"mask_ratio": 0.1}, False),
     ({"frozen": False}, False), ({"architecture": "resnet10t"}, False)],
)  # fmt: skip
def test_when_features_are_enough(change, enough):
    assert are_enough(HEAD.model_copy(update=change)) is enough


def test_a_head_is_trained_and_validated_in_fp32_whatever_the_precision(images, fine_tuning):
    features = torch.randn(len(images), 1, 2, 48)
    heads = []
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        loop = Loop(fine_tuning(HEAD, precision, features), FeatureHead(48, HEAD))
        loop.close_stretch(loop.train_steps(1))
        heads.append((loop.history, loop.validated.state_dict()))
    torch.testing.assert_close(heads[0], heads[1], rtol=0, atol=0)


def test_features_are_both_poolings_in_every_orientation(images, weights, compute, tmp_path):
    recipe = HEAD.model_copy(update={"augment": "flips"})
    assert orientations_of(recipe) == 8
    encoder = load_encoder(weights)
    got = FeatureCache(tmp_path, "w", recipe, compute).of(lambda: encoder, images.head(3))
    assert got.shape == (3, 8, 2, 48)
    chip = load_chip(Path(images["chip"][2]), encoder.config, 32)
    with torch.no_grad():
        tokens = encoder(oriented(chip, 5)[None]).tokens[0]
    torch.testing.assert_close(got[2, 5], torch.stack([tokens[0], tokens[1:].mean(0)]))


@pytest.mark.parametrize("pooling", ["class_token", "mean"])
def test_a_head_on_features_is_the_head_on_chips(images, weights, compute, tmp_path, pooling, passes, monkeypatch):
    made = nn.Linear.__init__

    def alike(self, *arguments, **options):
        """Both heads get the same first weights, which are drawn at another moment."""
        made(self, *arguments, **options)
        if self.out_features == 1:
            with torch.no_grad():
                self.weight.copy_(torch.linspace(-0.1, 0.1, self.in_features)[None])
                self.bias.zero_()

    monkeypatch.setattr(nn.Linear, "__init__", alike)
    recipe = HEAD.model_copy(update={"pooling": pooling})
    on_features = train_classifier(
        TrainingJob(recipe, images, weights, tmp_path / "a", compute, {}, cache=tmp_path / "features")
    )
    assert passes
    on_chips = train_classifier(TrainingJob(recipe, images, weights, tmp_path / "b", compute, {}))
    for key in ("parameters", "trained_parameters", "best_step", "n_train"):
        assert on_features[key] == on_chips[key]
    for name in ("train_loss", "valid_loss"):
        assert on_features["last"][name] == pytest.approx(on_chips["last"][name], abs=1e-4)
    classifier, _ = open_classifier(tmp_path / "a")
    expected = predict(tmp_path / "a", images, tmp_path / "p.json", compute)
    got = predict_from_features(tmp_path / "a", images, tmp_path / "features", lambda: load_encoder(weights), compute)
    np.testing.assert_allclose(got["probability"], expected["probability"], atol=1e-6)
    for name, value in load_encoder(weights).state_dict().items():
        torch.testing.assert_close(classifier.encoder.state_dict()[name], value)


def test_the_encoder_passes_over_an_image_once_for_many_heads(images, weights, compute, tmp_path, passes):
    first = images[images["image_id"] != "tile-05"]
    for lr in (0.1, 0.01):
        recipe = HEAD.model_copy(update={"lr": lr, "pooling": "class_token" if lr == 0.1 else "mean"})
        train_classifier(
            TrainingJob(recipe, first, weights, tmp_path / str(lr), compute, {}, cache=tmp_path / "features")
        )
    assert sum(passes) == len(first)
    train_classifier(TrainingJob(HEAD, images, weights, tmp_path / "all", compute, {}, cache=tmp_path / "features"))
    assert sum(passes) == len(images)


def test_only_the_head_is_written_where_the_whole_is_not_wanted(images, weights, compute, tmp_path):
    train_classifier(TrainingJob(HEAD, images, weights, tmp_path / "a", compute, {}, cache=tmp_path / "f", whole=False))
    assert set(load_weights(tmp_path / "a" / WEIGHTS)) == {"head.weight", "head.bias"}
    assert is_head_alone(tmp_path / "a")
    assert len(predict_from_features(tmp_path / "a", images, tmp_path / "f", lambda: None, compute)) == len(images)
    train_classifier(TrainingJob(HEAD, images, weights, tmp_path / "b", compute, {}, cache=tmp_path / "f"))
    assert not is_head_alone(tmp_path / "b")


def test_features_of_other_weights_are_not_taken_for_those_of_the_trained(images, weights, compute, lake: Lake):
    def use(variant: str, mae: PrithviMAE) -> None:
        save_weights(lake.foundation(variant), mae, {})
        set_current_weights(lake, lake.foundation(variant), open_weights(lake.foundation(variant)).sha256)

    use("own", open_weights(weights).load())
    task, folder = CLASSIFICATION, lake.model("cls_experiments") / "v"
    train_classifier(
        TrainingJob(
            HEAD, images.drop(index=[20]), lake.foundation("own"), folder, compute, {}, cache=lake.features, whole=False
        )
    )
    model = ModelVersion("cls_experiments", "v", folder, read_json(folder / "config.json"))
    use("other", PrithviMAE(CONFIG))
    valid = images[images["split"] == "valid"]
    task.predict(lake, model, valid.drop(index=[20]), compute, SILENT)  # all of them are cached
    with pytest.raises(ProvenanceError, match="features of other weights than other"):
        task.predict(lake, model, valid, compute, SILENT)
    use("own", open_weights(weights).load())
    predictions = task.predict(lake, model, valid, compute, SILENT)
    evaluation = task.evaluate(model, predictions, valid, ["valid"], RESAMPLES)["valid"]
    assert evaluation.row["n"] == 8
    assert {**task.pool(evaluation.evidence, "held_back"), "split": "valid"} == evaluation.row


def test_a_damaged_cache_is_made_again(images, weights, compute, tmp_path, passes):
    cache = FeatureCache(tmp_path, "w", HEAD, compute)
    encoder = load_encoder(weights)
    expected = cache.of(lambda: encoder, images.head(2))
    cache.path.write_bytes(cache.path.read_bytes()[:100])
    assert torch.equal(cache.of(lambda: encoder, images.head(2)), expected)
    assert passes == [2, 2]


def test_features_that_an_earlier_version_cached_are_computed_again(images, weights, compute, tmp_path, passes):
    cache = FeatureCache(tmp_path, "w", HEAD, compute)
    keys = "\n".join(f"{row.image_id} {row.chip_sha}" for row in images.head(2).itertuples()).encode()
    old = {"keys": torch.tensor(list(keys), dtype=torch.uint8), "features": torch.zeros(2, 1, 2, 48)}
    save_file(old, cache.path)
    assert cache.of(lambda: load_encoder(weights), images.head(2)).abs().sum() > 0
    assert passes == [2]


def test_what_differs_shares_no_cache(tmp_path, compute):
    recipe = HEAD.model_copy(update={"encoder": "random"})
    other = dataclasses.replace(compute, seed=2)

    def path(recipe, compute):
        return FeatureCache(tmp_path, "w", recipe, compute).path

    assert path(recipe, compute) != path(recipe, other)
    assert path(recipe, compute) != path(HEAD.model_copy(update={"encoder": "shuffled:prithvi_weights"}), compute)
    assert path(HEAD, compute) == path(HEAD, other)
    assert path(HEAD, compute) != path(HEAD, dataclasses.replace(compute, precision="bf16"))
    assert path(HEAD, compute) != path(HEAD.model_copy(update={"image_size": 48}), compute)


def test_flips_take_one_orientation_at_random_validation_the_first_and_predictions_all():
    recipe = HEAD.model_copy(update={"augment": "flips", "all_orientations": True})
    head = FeatureHead(4, recipe)
    features = torch.randn(64, 8, 2, 4)
    each = torch.stack([head.head(features[:, view, 1])[:, 0] for view in range(8)], dim=1)
    torch.testing.assert_close(head.eval()(features), each[:, 0])
    torch.testing.assert_close(head.mean_logits(features), each.mean(dim=1))
    torch.manual_seed(0)
    trained = head.train()(features)
    chosen = (each - trained[:, None]).abs().argmin(dim=1)
    assert torch.allclose(each[torch.arange(64), chosen], trained)
    assert len(chosen.unique()) == 8
