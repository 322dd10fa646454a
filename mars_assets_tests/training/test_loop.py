"""The training loop: one suite for all trainings that it runs, and its steps against plain formulas."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from mars_assets.bands import HLS_BANDS, impute, scale_to_reflectance
from mars_assets.classification.recipe import ClsRecipe
from mars_assets.classification.train import FineTuning, train_classifier
from mars_assets.errors import DivergedError
from mars_assets.pretraining.data import Unlabelled
from mars_assets.pretraining.recipe import PretrainRecipe
from mars_assets.pretraining.train import pretrain
from mars_assets.prithvi.config import PrithviConfig
from mars_assets.prithvi.model import PrithviMAE
from mars_assets.prithvi.weights import save_weights
from mars_assets.progress import SILENT, Progress
from mars_assets.sample import pretrain as sample
from mars_assets.storage.files import read_json, write_json
from mars_assets.tensors.geotiff import write_chip
from mars_assets.training import loop as module
from mars_assets.training.compute import Compute
from mars_assets.training.loop import Loop, Training, train
from mars_assets.training.recipe import LayerDecay, TrainingRecipe
from mars_assets.training.run_folder import TrainingJob

CPU = Compute("cpu", "fp32", 1, seed=5)
CONFIG = PrithviConfig(
    "tiny", img_size=32, patch_size=(1, 8, 8), embed_dim=32, depth=2, num_heads=2, decoder_embed_dim=16,
    decoder_depth=1, decoder_num_heads=2,
)  # fmt: skip
STEPS: dict[str, Any] = {"steps": 6, "warmup_steps": 2, "evaluate_every": 2}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, and 24 images of six observations as pictures and as chips, bright ones of label 1."""
    folder = tmp_path_factory.mktemp("inputs")
    torch.manual_seed(0)
    save_weights(folder / "weights", PrithviMAE(CONFIG), {})
    rng = np.random.default_rng(0)
    for number in range(24):
        rgb = rng.integers(60 * (number % 2), 200, (40, 40, 3)).astype(np.uint8)
        Image.fromarray(rgb).save(folder / f"{number}.png")
        write_chip(folder / f"{number}.tif", impute(scale_to_reflectance(rgb), "post_norm"), HLS_BANDS)
    return folder


Run = Callable[[Path, Path, Progress], object]
"""Trains from inputs into a folder."""


def classifier(**settings: Any) -> Run:
    recipe = ClsRecipe(**STEPS | {"image_size": 32, "batch_size": 4, "mask_ratio": 0.25} | settings)

    def run(inputs: Path, folder: Path, progress: Progress) -> None:
        images = pd.DataFrame(
            [
                (f"{n}", "train" if n < 16 else "valid", str(inputs / f"{n}.tif"), n % 2, f"ESP_{n // 4}", f"sha {n}")
                for n in range(24)
            ],
            columns=["image_id", "split", "chip", "label", "observation", "chip_sha"],
        )
        features = inputs / "features" if recipe.frozen else None
        weights = inputs / "weights"
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(FineTuning, "save_every", 0.0)
            train_classifier(TrainingJob(recipe, images, weights, folder, CPU, {}, progress, cache=features))

    return run


def pretraining(**settings: Any) -> Run:
    recipe = PretrainRecipe(**STEPS | {"batch_size": 8, "hold_out": 0.2, "mask_ratio": 0.5} | settings)

    def run(inputs: Path, folder: Path, progress: Progress) -> None:
        table = [(f"{number}", f"group {number // 4}", inputs / f"{number}.png") for number in range(24)]
        images = pd.DataFrame(table, columns=["image_id", "group", "path"])
        pretrain(TrainingJob(recipe, Unlabelled(images, "sha", 0), inputs / "weights", folder, CPU, {}, progress))

    return run


def pretraining_of_the_sample(inputs: Path, folder: Path, progress: Progress) -> None:
    settings = sample.Settings(**STEPS, tiles=2, batch_size=1)
    (folder / "training").mkdir(exist_ok=True)
    tiles = torch.randint(256, (2, 4, 240, 240), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    with pytest.MonkeyPatch.context() as patched:  # terrain and principal components take longer than the steps
        patched.setattr(sample, "draw_tiles", lambda *_: tiles)
        patched.setattr(sample.ReliefMAE, "start", lambda *_: None)
        sample.pretrain(settings, folder, folder / "training", CPU, progress)


def unfinished(folder: Path) -> Path:
    """The folder that a training continues from: the work of a claim, except where the sample is made."""
    training = folder / "training"
    return next((path for path in training.iterdir() if path.is_dir()), training)


RUNS: dict[str, Run] = {
    "classifier": classifier(),
    "head on features": classifier(frozen=True, mask_ratio=0.0, augment="flips", average_weights=0.0),
    "pretraining": pretraining(accumulate=2, visible_weight=0.5, layer_decay=0.8),
    "pretraining of the sample": pretraining_of_the_sample,
}


@pytest.fixture(scope="module", params=RUNS, ids=lambda name: name.replace(" ", "_"))
def unbroken(
    request: pytest.FixtureRequest, inputs: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Run, Path]:
    """A training, and the folder of a run of it that nothing interrupted."""
    folder = tmp_path_factory.mktemp("unbroken")
    RUNS[request.param](inputs, folder, SILENT)
    return RUNS[request.param], folder


def assert_same(one: Path, other: Path) -> None:
    for history in one.glob("history.parquet"):
        pd.testing.assert_frame_equal(pd.read_parquet(history), pd.read_parquet(other / history.name), check_exact=True)
    files = [path.relative_to(one) for path in one.rglob("model.safetensors")]
    assert files
    for file in files:
        weights, others = load_file(one / file), load_file(other / file)
        assert all(torch.equal(value, others[name]) for name, value in weights.items())


class _PulledPlugError(RuntimeError):
    pass


class Plug:
    """A sink of progress that fails where a line has one of some texts, each once."""

    def __init__(self, *plugs: str) -> None:
        self.plugs, self.lines = list(plugs), list[str]()

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        if self.plugs and self.plugs[0] in line:
            raise _PulledPlugError(self.plugs.pop(0))

    @property
    def continued(self) -> list[str]:
        return [line.partition(" after ")[2] for line in self.lines if line.startswith("continuing")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plugs", "continued"),
    [
        (["step 2/6"], []),
        (["step 4/6"], ["step 2"]),
        (["step 4/6", "continuing"], ["step 2", "step 2"]),
        (["steps in"], []),
    ],
    ids=["before any checkpoint", "after the first", "twice", "after the last"],
)
def test_a_killed_training_ends_as_the_unbroken_one(
    unbroken: tuple[Run, Path], inputs: Path, tmp_path: Path, plugs: list[str], continued: list[str]
) -> None:
    run, whole = unbroken
    plug = Plug(*plugs)
    while plug.plugs:
        with pytest.raises(_PulledPlugError):
            run(inputs, tmp_path, Progress(plug))
        assert not (tmp_path / "config.json").exists()
        (unfinished(tmp_path) / ".checkpoint.tmp-killed.pt").write_bytes(b"half")
    run(inputs, tmp_path, Progress(plug))
    assert plug.continued == continued
    assert_same(whole, tmp_path)


@pytest.mark.slow
def test_a_training_killed_between_two_validations_continues_from_the_first(
    unbroken: tuple[Run, Path], inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, whole = unbroken
    seeded, numbers = module.seed_step, list[int]()

    def dies(seed: int, number: int, rank: int) -> None:
        numbers.append(number)
        if len(numbers) == 6:
            raise _PulledPlugError
        seeded(seed, number, rank)

    with monkeypatch.context() as patched:
        patched.setattr(module, "seed_step", dies)
        with pytest.raises(_PulledPlugError):
            run(inputs, tmp_path, SILENT)
    plug = Plug()
    run(inputs, tmp_path, Progress(plug))
    assert len(plug.continued) == 1
    assert_same(whole, tmp_path)


@pytest.mark.slow
def test_a_checkpoint_of_an_earlier_version_restarts_the_training_and_says_so(
    unbroken: tuple[Run, Path], inputs: Path, tmp_path: Path
) -> None:
    run, whole = unbroken
    with pytest.raises(_PulledPlugError):
        run(inputs, tmp_path, Progress(Plug("step 2/6")))
    (unfinished(tmp_path) / "last.pt").write_bytes(b"of an earlier version")
    plug = Plug()
    run(inputs, tmp_path, Progress(plug))
    assert (
        sum("of an earlier version, which cannot be continued: restarting from step 0" in line for line in plug.lines)
        == 1
    )
    assert_same(whole, tmp_path)


# the steps themselves


class LineRecipe(TrainingRecipe):
    """The recipe of a training that fits a line."""

    layer_decay: LayerDecay = 1.0


class Line(Training[nn.Linear, Tensor]):
    """Fits y = 3 x + 1 with plain gradient descent, in batches that follow from their number."""

    def optimizer(self, model: nn.Linear) -> torch.optim.Optimizer:
        return torch.optim.SGD([{"params": model.parameters(), "initial_lr": self.recipe.lr}], self.recipe.lr)

    def batches(self, numbers: range, rank: int, world_size: int) -> Iterator[Tensor]:
        for number in numbers:
            size = self.recipe.batch_size // self.accumulate
            yield torch.linspace(-1, 1, self.recipe.batch_size)[:, None].split(size)[number % self.accumulate]

    def losses(self, model: nn.Linear, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss = (model(batch) - (3 * batch + 1)).square().mean()
        return loss, {"train_loss": loss}

    def validate(self, model: nn.Linear) -> dict[str, float]:
        with torch.no_grad():
            return {"valid_loss": float((model.weight - 3).abs() + (model.bias - 1).abs())}


def line(**settings: Any) -> Line:
    return Line(
        LineRecipe(**{"batch_size": 4, "steps": 40, "warmup_steps": 0, "lr": 0.3, "evaluate_every": 10} | settings), CPU
    )


def start() -> nn.Linear:
    model = nn.Linear(1, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    return model


def test_a_step_is_the_gradients_at_the_steps_learning_rate() -> None:
    training = line(warmup_steps=2, lr=0.1)
    loop = Loop(training, start())
    x = torch.linspace(-1, 1, 4)
    weight, bias = 0.0, 0.0
    for factor in (0.5, 1.0):
        loop.train_steps(1)
        error = weight * x + bias - (3 * x + 1)
        weight -= 0.1 * factor * float((2 * error * x).mean())
        bias -= 0.1 * factor * float((2 * error).mean())
        assert (loop.model.weight.item(), loop.model.bias.item()) == pytest.approx((weight, bias), rel=1e-5)


def test_parts_of_a_batch_make_the_step_of_the_whole() -> None:
    loops = []
    for accumulate in (1, 2):
        training = line()
        training.accumulate = accumulate
        loops.append(Loop(training, start()))
        losses = loops[-1].train_steps(3)
    assert loops[0].step == loops[1].step == 3
    torch.testing.assert_close(loops[0].model.state_dict(), loops[1].model.state_dict())
    assert losses["train_loss"] > 0


def test_a_clipped_gradient_is_no_longer_than_the_norm() -> None:
    training = line(lr=1.0)
    training.clip_grad = 0.01
    loop = Loop(training, start())
    loop.train_steps(1)
    moved = torch.cat([loop.model.weight.detach().ravel(), loop.model.bias.detach()])
    assert float(moved.norm()) == pytest.approx(0.01, rel=1e-4)


def test_the_averaged_weights_are_validated_and_the_best_are_retained(tmp_path: Path) -> None:
    training = line(lr=1.9)  # swings around the solution
    training.average_weights, training.selects_best = 0.5, True
    loop = train(training, start(), tmp_path)
    assert loop.validated is not loop.model
    best = min(row["valid_loss"] for row in loop.history)
    assert float((loop.best["weight"] - 3).abs() + (loop.best["bias"] - 1).abs()) == pytest.approx(best, abs=1e-6)


def test_it_learns_and_reports_each_validation(tmp_path: Path) -> None:
    lines: list[str] = []
    loop = train(line(), start(), tmp_path, Progress(lines.append))
    assert [row["step"] for row in loop.history] == [10, 20, 30, 40]
    assert loop.history[-1]["valid_loss"] < 0.1
    assert lines[-2].startswith("step 40/40: train loss 0.0")
    assert ", valid loss 0.0" in lines[-2]


def test_patience_counts_validations_since_the_best() -> None:
    training = line(steps=100)
    history = [{"step": float(step), "valid_loss": loss} for step, loss in ((2, 0.7), (4, 0.5), (6, 0.5), (8, 0.9))]
    assert module.best_of(history)["step"] == 4
    assert not training.is_over([])
    over = {}
    for training.patience in (0, 2, 3):
        over[training.patience] = training.is_over(history)
    assert over == {0: False, 2: True, 3: False}
    assert line(steps=8).is_over(history)


def test_a_diverging_training_says_what_to_change(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"before step 10: the training diverged. Take a lower lr than 1e\+30"):
        train(line(lr=1e30), start(), tmp_path)


def test_a_checkpoint_is_left_at_most_so_often(tmp_path: Path) -> None:
    saved: list[int] = []

    class Watched(Loop[Any, Any]):
        def save(self, path: Path) -> None:
            saved.append(self.step)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "Loop", Watched)
        for every in (1000, 0):
            training = line()
            training.save_every = every
            train(training, start(), tmp_path)
    assert saved == [10, 10, 20, 30, 40]


@pytest.mark.slow
def test_processes_that_share_the_steps_end_with_the_same_weights(tmp_path: Path) -> None:
    training = line()
    loop = train(training, start(), tmp_path, devices=2)
    write_json(tmp_path / "history.json", loop.history)
    alone = train(training, start(), tmp_path / "alone")
    torch.testing.assert_close(loop.model.state_dict(), alone.model.state_dict())  # both have the same batches
    assert [row["step"] for row in read_json(tmp_path / "history.json")] == [10, 20, 30, 40]
