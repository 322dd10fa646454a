"""Training: the step itself against plain formulas, then resuming, determinism, and that it learns."""

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mars_assets.classification.checkpoint import build_classifier, open_classifier
from mars_assets.classification.data import load_chip
from mars_assets.classification.evaluate import scores
from mars_assets.classification.predict import predict
from mars_assets.classification.recipe import ClsRecipe
from mars_assets.classification.train import FineTuning, train_classifier
from mars_assets.errors import MarsError, MissingInputError, ProvenanceError
from mars_assets.lake import HISTORY, WEIGHTS
from mars_assets.prithvi.model import position_table
from mars_assets.prithvi.weights import load_encoder
from mars_assets.progress import Progress
from mars_assets.storage.claims import has_work
from mars_assets.training.compute import Compute
from mars_assets.training.loop import Loop
from mars_assets.training.memory import InMemory
from mars_assets.training.run_folder import TrainingJob

pytestmark = pytest.mark.slow

MICRO = ClsRecipe(
    image_size=32, batch_size=4, steps=6, warmup_steps=2, evaluate_every=2, lr=1e-3, mask_ratio=0.25,
    normalize="statistics",
)  # fmt: skip
PAPER = ClsRecipe(
    image_size=32, normalize="statistics", pooling="class_token", dropout=0.5, mask_ratio=0.375, augment="none",
    optimizer="adam", lr=8.2e-6,
    layer_decay=1.0, weight_decay=0.0, label_smoothing=0.0, batch_size=4, steps=2000, warmup_steps=2000,
    schedule="constant", average_weights=0.0,
)  # fmt: skip


def reference_loss(weights: dict[str, Tensor], chips: Tensor, labels: Tensor, noise: Tensor, dropped: Tensor) -> Tensor:
    """The paper's classification loss for the tiny encoder, written out without the project's or timm's modules."""
    b, patch, width, heads, eps = len(chips), 8, 48, 3, 1e-6

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + eps).sqrt()
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    kernel = weights["encoder.patch_embed.proj.weight"][:, :, 0]
    grid = F.conv2d(chips, kernel, weights["encoder.patch_embed.proj.bias"], stride=patch)
    positions = position_table(width, (1, 4, 4))
    tokens = grid.flatten(2).transpose(1, 2) + positions[:, 1:]
    kept = [image[order[:10]] for image, order in zip(tokens, noise.argsort(1), strict=True)]  # int(16 * (1 - 0.375))
    x = torch.cat([weights["encoder.cls_token"].expand(b, -1, -1), torch.stack(kept)], 1)
    for block in ("encoder.blocks.0", "encoder.blocks.1"):
        q, k, v = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv").reshape(b, -1, 3, heads, 16).unbind(2)
        attention = torch.einsum("bqhd,bkhd->bhqk", q, k) / 16**0.5
        mixed = torch.einsum("bhqk,bkhd->bqhd", attention.softmax(-1), v).reshape(b, -1, width)
        x = x + linear(mixed, f"{block}.attn.proj")
        hidden = linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")
        x = x + linear(hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5)), f"{block}.mlp.fc2")
    pooled = norm(x, "encoder.norm")[:, 0] * dropped
    probability = 1 / (1 + torch.exp(-linear(pooled, "head")[:, 0]))
    return -(labels * probability.log() + (1 - labels) * (1 - probability).log()).mean()


def test_a_step_of_the_papers_recipe_has_the_loss_and_gradients_of_the_plain_formulas(weights, images, fine_tuning):
    torch.manual_seed(3)
    classifier = build_classifier(PAPER, load_encoder(weights)).train()
    chips = torch.stack([load_chip(Path(path), classifier.config, 32) for path in images["chip"][:4]])
    labels = torch.tensor(images["label"][:4].to_numpy(), dtype=torch.float32)
    torch.manual_seed(11)
    noise, dropped = torch.rand(4, 16), F.dropout(torch.ones(4, 48), 0.5)
    plain = {name: value.detach().clone().requires_grad_() for name, value in classifier.named_parameters()}
    expected = reference_loss(plain, chips, labels, noise, dropped)
    expected.backward()

    torch.manual_seed(11)
    loss, reported = fine_tuning(PAPER).losses(classifier, (chips, labels))
    loss.backward()
    assert reported == {"train_loss": loss}
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    for name, parameter in classifier.named_parameters():
        torch.testing.assert_close(
            parameter.grad, plain[name].grad, rtol=1e-3, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_the_papers_optimizer_takes_adams_step_at_the_warm_up_rate(weights, fine_tuning):
    loop = Loop(fine_tuning(PAPER), build_classifier(PAPER, load_encoder(weights)))
    before = loop.model.head.weight.detach().clone()
    gradient = torch.linspace(-1, 1, 48)[None]
    for step in (1, 2):
        loop.model.head.weight.grad = gradient.clone()
        loop.update()
        # Adam's first steps on a constant gradient are lr * sign: bias correction cancels its averages.
        before -= 8.2e-6 * step / 2000 * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(loop.model.head.weight.detach(), before, rtol=0, atol=1e-9)


def test_removed_patches_are_not_encoded_in_training_and_none_are_removed_in_validation(weights):
    classifier = build_classifier(PAPER, load_encoder(weights))
    seen: list[int] = []
    for block in classifier.encoder.blocks:
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    chips = torch.rand(2, 6, 32, 32)
    classifier.train()(chips)
    classifier.eval()(chips)
    assert seen == [11, 11, 17, 17]  # the class token and 10 of 16 patches; then all


@pytest.mark.parametrize("pooling", ["class_token", "mean"])
def test_validation_is_deterministic_and_training_is_not(weights, pooling):
    classifier = build_classifier(MICRO.model_copy(update={"pooling": pooling}), load_encoder(weights))
    chips = torch.rand(4, 6, 32, 32)
    with torch.no_grad():
        assert torch.equal(classifier.eval()(chips), classifier(chips))
        assert not torch.equal(classifier.train()(chips), classifier(chips))


def test_learning_rates_fall_from_the_linear_unit_down_and_biases_do_not_decay(weights, fine_tuning):
    recipe = MICRO.model_copy(update={"layer_decay": 0.5})
    classifier = build_classifier(recipe, load_encoder(weights))
    optimizer = fine_tuning(recipe).optimizer(classifier)
    names = {id(parameter): name for name, parameter in classifier.named_parameters()}
    rates, decays = {}, {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            rates[names[id(parameter)]] = group["initial_lr"] / recipe.lr
            decays[names[id(parameter)]] = group["weight_decay"]
    assert len(rates) == len(names)
    order = ["head.weight", "encoder.norm.weight", "encoder.blocks.1.attn.qkv.weight", "encoder.blocks.0.mlp.fc1.bias"]
    assert [rates[name] for name in order] == [1, 0.5, 0.5, 0.25]
    assert rates["encoder.patch_embed.proj.weight"] == rates["encoder.cls_token"] == 0.125
    assert decays["head.weight"] == decays["encoder.blocks.0.mlp.fc1.weight"] == recipe.weight_decay
    assert decays["head.bias"] == decays["encoder.norm.weight"] == decays["encoder.cls_token"] == 0


@pytest.fixture(scope="module")
def trained(weights, images, tmp_path_factory):
    """An unbroken run of the micro recipe."""
    folder = tmp_path_factory.mktemp("trained")
    report = train_classifier(
        TrainingJob(MICRO, images, weights, folder, Compute("cpu", "fp32", 1, 1), {"label_version": "v1"})
    )
    return folder, report


def _history(folder) -> pd.DataFrame:
    return pd.read_parquet(folder / HISTORY)


def _same(one, other) -> None:
    pd.testing.assert_frame_equal(_history(one), _history(other), check_exact=True)
    assert (one / WEIGHTS).read_bytes() == (other / WEIGHTS).read_bytes()


def test_a_run_leaves_a_whole_model_and_nothing_else(trained, images):
    folder, report = trained
    files = {path.name for path in folder.iterdir() if path.is_file()}
    assert files == {"model.safetensors", "config.json", "history.parquet"}
    assert not has_work(folder / "training")
    history = _history(folder)
    assert history["step"].tolist() == [2, 4, 6]
    assert np.isfinite(history.drop(columns="step").to_numpy()).all()
    assert (report["steps"], report["n_train"], report["n_valid"], report["n_train_craters"]) == (6, 16, 8, 8)
    config = json.loads((folder / "config.json").read_text())
    assert config["provenance"] == {"label_version": "v1"}
    assert config["recipe"] == MICRO.model_dump()
    assert config["bands"][:3] == ["BLUE", "GREEN", "RED"]
    assert config["report"] == report


def test_the_kept_model_is_the_best_validated_one(trained, images):
    folder, report = trained
    classifier, _ = open_classifier(folder)
    assert not classifier.training
    valid = images[images["split"] == "valid"]
    chips = torch.stack([load_chip(Path(path), classifier.config, 32) for path in valid["chip"]])
    with torch.no_grad():
        probabilities = classifier(chips).double().sigmoid().numpy()
    again = scores(valid["label"].to_numpy(), probabilities)
    assert again["loss"] == pytest.approx(report["best"]["valid_loss"], abs=1e-6)
    assert report["best"]["valid_loss"] == _history(folder)["valid_loss"].min()


def test_a_finished_folder_returns_its_report_at_once(trained, images, weights, compute):
    folder, report = trained
    lines: list[str] = []
    assert train_classifier(TrainingJob(MICRO, images, weights, folder, compute, {}, Progress(lines.append))) == report
    assert lines == []


def test_the_same_seed_gives_the_same_model_whatever_the_order_of_the_table_and_another_seed_another(
    trained, images, weights, compute, tmp_path
):
    torch.rand(7)  # the state of the global generator does not matter
    train_classifier(TrainingJob(MICRO, images[::-1], weights, tmp_path / "same", compute, {}))
    _same(trained[0], tmp_path / "same")
    other = type(compute)("cpu", "fp32", 1, seed=2)
    train_classifier(TrainingJob(MICRO, images, weights, tmp_path / "other", other, {}))
    assert not _history(tmp_path / "other").equals(_history(trained[0]))


def test_every_image_is_seen_once_before_any_is_seen_twice(images, weights, compute, tmp_path, monkeypatch):
    from mars_assets.classification import train

    seen: list[bytes] = []
    monkeypatch.setattr(
        train, "augment", lambda chips, _: seen.extend(chip.numpy().tobytes() for chip in chips) or chips
    )
    train_classifier(TrainingJob(MICRO, images, weights, tmp_path, compute, {}))
    assert len(seen) == 24
    assert len(set(seen[:16])) == 16  # across the stretches between validations


class _PulledPlugError(RuntimeError):
    pass


def test_a_run_killed_in_one_precision_begins_anew_in_another(trained, images, weights, compute, tmp_path, monkeypatch):
    monkeypatch.setattr(FineTuning, "save_every", 0.0)
    lines: list[str] = []

    def sink(line: str) -> None:
        lines.append(line)
        if "step 4/" in line and len(lines) < 4:
            raise _PulledPlugError

    with pytest.raises(_PulledPlugError):
        train_classifier(
            TrainingJob(MICRO, images, weights, tmp_path, Compute("cpu", "bf16", 1, 1), {}, Progress(sink))
        )
    train_classifier(TrainingJob(MICRO, images, weights, tmp_path, compute, {}, Progress(sink)))
    assert "this run was started in bf16 and is now fp32: restarting from step 0" in lines
    _same(trained[0], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("side", "shown"), [(32, 112), (227, 112), (512, 224)])
def test_a_recipe_without_a_size_takes_that_of_the_images(make_images, weights, compute, tmp_path, side, shown):
    recipe = MICRO.model_copy(update={"image_size": 0, "steps": 2})
    images = make_images(train=4, valid=4, side=side)
    report = train_classifier(TrainingJob(recipe, images, weights, tmp_path / "0", compute, {}))
    assert report["image_size"] == shown
    assert train_classifier(TrainingJob(recipe, images, weights, tmp_path / "0", compute, {})) == report
    train_classifier(
        TrainingJob(recipe.model_copy(update={"image_size": shown}), images, weights, tmp_path / "stated", compute, {})
    )
    _same(tmp_path / "0", tmp_path / "stated")
    predicted = [predict(tmp_path / name, images, tmp_path / f"{name}.json", compute) for name in ("0", "stated")]
    pd.testing.assert_frame_equal(*predicted)


def test_a_folder_of_other_settings_is_refused_with_every_difference(trained, images, weights, compute):
    relabelled = images.assign(label=1 - images["label"])
    with pytest.raises(ProvenanceError, match=r"images .* lr 0\.001 there, 0\.1 now; seed 1 there, 5 now"):
        train_classifier(
            TrainingJob(
                MICRO.model_copy(update={"lr": 0.1}),
                relabelled,
                weights,
                trained[0],
                type(compute)("cpu", "fp32", 1, 5),
                {},
            )
        )


@pytest.mark.slow
def test_a_separable_set_is_learned_from_random_weights(images, weights, compute, tmp_path):
    recipe = ClsRecipe(
        encoder="random", image_size=32, batch_size=8, steps=60, warmup_steps=5, evaluate_every=20, lr=3e-3,
        augment="flips",
        average_weights=0.9, normalize="statistics",
    )  # fmt: skip
    report = train_classifier(TrainingJob(recipe, images, weights, tmp_path, compute, {}))
    assert report["best"]["valid_balanced_accuracy"] == 1
    assert report["best"]["valid_loss"] < 0.4


def test_patience_stops_a_run_that_does_not_improve(images, weights, compute, tmp_path):
    recipe = MICRO.model_copy(update={"lr": 1e-12, "steps": 40, "patience": 2, "average_weights": 0.0})
    report = train_classifier(TrainingJob(recipe, images, weights, tmp_path, compute, {}))
    assert report["stopped_early"]
    assert report["steps"] < 40
    assert report["steps"] - report["best_step"] == 4


def test_a_frozen_encoder_keeps_its_weights(images, weights, compute, tmp_path):
    report = train_classifier(
        TrainingJob(MICRO.model_copy(update={"frozen": True}), images, weights, tmp_path, compute, {})
    )
    assert report["trained_parameters"] == 49
    classifier, _ = open_classifier(tmp_path)
    for name, value in load_encoder(weights).state_dict().items():
        torch.testing.assert_close(classifier.encoder.state_dict()[name], value)


def test_tiles_of_another_size_train_too(make_images, weights, compute, tmp_path):
    report = train_classifier(TrainingJob(MICRO, make_images(8, 4, side=37), weights, tmp_path, compute, {}))
    assert math.isfinite(report["best"]["valid_loss"])


def test_images_beyond_the_memory_bound_are_read_anew(trained, images, weights, compute, tmp_path, monkeypatch):
    monkeypatch.setattr("mars_assets.classification.train.InMemory", partial(InMemory, gigabytes=1e-4))
    train_classifier(TrainingJob(MICRO, images, weights, tmp_path, compute, {}))
    _same(trained[0], tmp_path)


def test_what_cannot_be_trained_on_is_told(images, weights, compute, tmp_path):
    train, valid = (images[images["split"] == split] for split in ("train", "valid"))
    cases = [
        (valid, "no image with a class is in the split 'train'"),
        (train, "no image with a class is in the split 'valid'"),
        (images[images["label"] == 0], "all training images are of class NoCrater"),
        (images.assign(label=2), r"labels are 0 \(NoCrater\) and 1 \(Crater\)"),
    ]
    for table, message in cases:
        with pytest.raises(MarsError, match=message):
            train_classifier(TrainingJob(MICRO, table, weights, tmp_path, compute, {}))
    assert list(tmp_path.iterdir()) == []


def test_a_masking_that_leaves_nothing_is_told(images, weights, compute, tmp_path):
    with pytest.raises(MarsError, match=r"mask_ratio 0\.95 removes all 16 patches of images of 32 pixels"):
        train_classifier(
            TrainingJob(MICRO.model_copy(update={"mask_ratio": 0.95}), images, weights, tmp_path, compute, {})
        )


def test_a_diverging_run_is_told(images, weights, compute, tmp_path):
    recipe = MICRO.model_copy(update={"lr": 1e30, "warmup_steps": 0})
    with pytest.raises(MarsError, match="the training diverged"):
        train_classifier(TrainingJob(recipe, images, weights, tmp_path, compute, {}))


def test_an_unfinished_folder_is_not_opened(tmp_path):
    with pytest.raises(MissingInputError, match="cls_model"):
        open_classifier(tmp_path)


def test_steps_and_validations_compute_in_bf16_where_it_is_asked_for(weights, fine_tuning):
    loop = Loop(fine_tuning(MICRO, "bf16"), build_classifier(MICRO, load_encoder(weights)))
    seen: list[torch.dtype] = []
    for classifier in (loop.model, loop.validated):
        classifier.encoder.blocks[0].mlp.fc1.register_forward_hook(lambda *hooked: seen.append(hooked[2].dtype))
        classifier.encoder.patch_embed.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    loop.close_stretch(loop.train_steps(1))
    assert seen == [torch.float32, torch.bfloat16] * 2  # the step and the validation; chips are not rounded beforehand
    assert all(parameter.dtype == torch.float32 for parameter in loop.model.parameters())


@pytest.mark.parametrize("how", ["flips", "full"])
def test_images_are_augmented_alike_in_every_precision(fine_tuning, how):
    recipe = MICRO.model_copy(update={"augment": how, "image_size": 224})
    chips, seen = torch.rand(3, 6, 224, 224), []
    for precision in ("fp32", "bf16"):
        torch.manual_seed(4)
        training = fine_tuning(recipe, precision)
        training.losses(lambda chips: seen.append(chips) or chips.mean((1, 2, 3)), (chips, torch.ones(3)))
    assert torch.equal(*seen)
    assert not torch.equal(seen[0], chips)
