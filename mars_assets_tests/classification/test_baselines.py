"""Models of timm's in the same code path."""

import pytest
import torch

from mars_assets.classification.checkpoint import build_baseline, open_classifier
from mars_assets.classification.predict import predict
from mars_assets.classification.recipe import ClsRecipe
from mars_assets.classification.train import train_classifier
from mars_assets.errors import MarsError
from mars_assets.training.run_folder import TrainingJob
from mars_assets_tests.classification.conftest import CONFIG

RECIPE = ClsRecipe(
    architecture="resnet10t", image_size=32, batch_size=8, steps=4, warmup_steps=1, evaluate_every=2, lr=1e-3,
    average_weights=0.5, layer_decay=0.5,
)  # fmt: skip


@pytest.mark.slow
def test_a_baseline_is_trained_kept_and_opened_like_any_other(images, weights, compute, tmp_path):
    report = train_classifier(TrainingJob(RECIPE, images, weights, tmp_path, compute, {}))
    assert report["parameters"] > 4e6
    classifier, config = open_classifier(tmp_path)
    assert config["recipe"]["architecture"] == "resnet10t"
    # The averaged batch norm is that of training, not the initial one.
    assert not torch.equal(classifier.model.bn1.running_mean, torch.zeros_like(classifier.model.bn1.running_mean))
    probability = predict(tmp_path, images, tmp_path / "p.json", compute)["probability"]
    assert probability.between(0, 1).all()


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224"])
def test_layers_have_their_rates_and_a_frozen_one_trains_its_head_alone(name, fine_tuning):
    recipe = RECIPE.model_copy(update={"architecture": name})
    model = build_baseline(recipe, CONFIG)
    assert model(torch.randn(2, 6, 32, 32)).shape == (2,)
    optimizer = fine_tuning(recipe).optimizer(model)
    rates = {id(p): g["initial_lr"] / recipe.lr for g in optimizer.param_groups for p in g["params"]}
    head = model.model.get_classifier().weight
    assert rates[id(head)] == 1
    assert min(rates.values()) < 0.5
    assert len(rates) == len(list(model.parameters()))
    model.freeze()
    assert {p for p in model.parameters() if p.requires_grad} == set(model.model.get_classifier().parameters())


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224", "mobilenetv3_small_050", "convnext_atto"])
def test_logits_are_timms_and_the_linear_unit_is_fp32_under_autocast(name):
    torch.manual_seed(0)
    model = build_baseline(RECIPE.model_copy(update={"architecture": name}), CONFIG).eval()
    chips = torch.randn(4, 6, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(chips), model.model(chips)[:, 0])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model(chips)
            features = model.model.forward_head(model.model.forward_features(chips), pre_logits=True)
    assert found.dtype == torch.float32
    head = model.model.get_classifier()
    torch.testing.assert_close(found, head(features.float())[:, 0], rtol=0, atol=0)


def test_the_features_are_dropped_out_also_of_a_frozen_model():
    model = build_baseline(RECIPE.model_copy(update={"dropout": 0.9}), CONFIG)
    model.freeze()
    chips = torch.randn(8, 6, 32, 32)
    torch.nn.init.normal_(model.model.get_classifier().weight)
    assert not torch.equal(model.train()(chips), model(chips))
    assert torch.equal(model.eval()(chips), model(chips))


def test_what_timm_does_not_decay_does_not(fine_tuning):
    recipe = RECIPE.model_copy(update={"architecture": "vit_tiny_patch16_224"})
    model = build_baseline(recipe, CONFIG)
    optimizer = fine_tuning(recipe).optimizer(model)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay[id(model.model.pos_embed)] == decay[id(model.model.cls_token)] == 0
    assert decay[id(model.model.blocks[0].mlp.fc1.weight)] == recipe.weight_decay


def test_a_model_without_one_linear_unit_is_told():
    with pytest.raises(MarsError, match="does not end in one linear unit"):
        build_baseline(RECIPE.model_copy(update={"architecture": "deit_tiny_distilled_patch16_224"}), CONFIG)


def test_an_unknown_name_suggests_others():
    with pytest.raises(MarsError, match=r"no model 'resnet1800': choose .*resnet18"):
        build_baseline(RECIPE.model_copy(update={"architecture": "resnet1800"}), CONFIG)


def test_imagenet_weights_that_cannot_be_fetched(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MarsError, match=r"ImageNet weights of resnet10t.*cannot be downloaded.*imagenet to false"):
        build_baseline(RECIPE, CONFIG, imagenet=True)


def test_a_frozen_baseline_keeps_the_statistics_of_its_batch_norms():
    model = build_baseline(RECIPE, CONFIG)
    model.freeze()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()(torch.randn(8, 6, 32, 32))
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
