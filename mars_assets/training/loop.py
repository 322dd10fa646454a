"""The training loop: steps, validations and checkpoints.

Each is a function of the seed and the step's number.

It knows no model and no data. A :class:`Training` says what is learnt; a :class:`Loop` is its state and takes its
steps; :func:`train` runs it to the end, from the last checkpoint where there is one.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mars_assets.errors import DivergedError
from mars_assets.lake import CHECKPOINT
from mars_assets.progress import SILENT, Counter, Progress
from mars_assets.storage.files import atomic_path
from mars_assets.training.schedule import Schedule, learning_rate_factor, seed_step

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from mars_assets.training.compute import Compute
    from mars_assets.training.recipe import TrainingRecipe

Model = TypeVar("Model", bound=nn.Module)
Batch = TypeVar("Batch")
Row = dict[str, float]
History = list[Row]
"""A row per validation: ``step``, the mean losses of the steps since the row before, and what the validation measured.
"""


class Training(ABC, Generic[Model, Batch]):
    """What is learnt: everything in which one training differs from another.

    Every random number of a batch follows from the seed and the batch's number, so that a resumed training is the
    unbroken one.

    Args:
        recipe: batches, steps and rates.
        compute: device, precision, and the seed of every random number.
    """

    name = "training"
    """What lines of progress call it."""
    schedule: Schedule = "cosine"
    accumulate: int = 1
    """Batches whose gradients make one step."""
    clip_grad: float = 0.0
    """Largest norm of the gradient; 0: not clipped."""
    average_weights: float = 0.0
    """Decay of the exponential average of the weights, which is then what is validated; 0: off."""
    validates_start = False
    """Whether the first row of the history is a validation before any step."""
    selects_best = False
    """Whether the weights of the lowest ``valid_loss`` are retained."""
    patience: int = 0
    """Stop after this many validations without a lower ``valid_loss``; 0: never."""
    save_every: float = 0.0
    """Seconds between two checkpoints, each left by a validation: a killed run loses no more than these and the stretch
    to the next validation."""

    def __init__(self, recipe: TrainingRecipe, compute: Compute) -> None:
        self.recipe = recipe
        self.compute = compute

    @abstractmethod
    def optimizer(self, model: Model) -> torch.optim.Optimizer:
        """Build the optimizer.

        Each of its groups has its peak learning rate as ``initial_lr``.
        """

    @abstractmethod
    def batches(self, numbers: range, rank: int, world_size: int) -> Iterable[Batch]:
        """Yield one process's share of the batches of these numbers.

        A step takes ``accumulate`` of them.
        """

    @abstractmethod
    def losses(self, model: Model, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss to minimise, with its graph, and the losses to report.

        Args:
            model: the model as it is called in training, synchronised between processes.
            batch: one of :meth:`batches`, on the model's device.
        """

    def validate(self, model: Model) -> Row:
        """Measure the model, in evaluation mode, on the held-out images.

        ``valid_loss`` is among the values.
        """
        return {}

    def is_over(self, history: History) -> bool:
        """Test whether a training with this history takes no further step."""
        if not history:
            return False
        if history[-1]["step"] >= self.recipe.steps:
            return True
        return 0 < self.patience <= len(history) - 1 - history.index(best_of(history))


def best_of(history: History) -> Row:
    """Return the row of the lowest validation loss; the earliest of equals.

    The loss and not the accuracy: a validation set of a hundred images gives accuracy in steps of a percent, so that
    its maximum is mostly luck, while the loss uses every probability and is proper, i.e. rewards calibration.
    """
    return min(history, key=lambda row: row["valid_loss"])


class Loop(Generic[Model, Batch]):
    """A training's state, and the steps that change it.

    Args:
        training: what is learnt.
        model: trained in place.
        fabric: device, precision and processes; one process of the training's compute if None.
    """

    def __init__(self, training: Training[Model, Batch], model: Model, fabric: Fabric | None = None) -> None:
        self.training = training
        self.fabric = fabric or training.compute.fabric()
        self.model = model.train()  # loaded weights come in evaluation mode
        self.optimizer = training.optimizer(model)
        self._called, self._stepped = self.fabric.setup(model, self.optimizer)
        self.averaged = (
            AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(training.average_weights), use_buffers=True)
            if training.average_weights
            else None
        )
        self.step = 0
        self.history: History = []
        self.best: dict[str, Tensor] = {}
        """Weights of the lowest validation loss, on the CPU."""

    @property
    def validated(self) -> Model:
        """The model that is validated and saved.

        It is the averaged one, where weights are averaged.
        """
        return cast("Model", self.averaged.module) if self.averaged is not None else self.model

    def train_steps(self, steps: int, counter: Counter | None = None) -> Row:
        """Take steps; return the mean of each reported loss."""
        training, fabric, every = self.training, self.fabric, self.training.accumulate
        numbers = range(self.step * every, (self.step + steps) * every)
        losses: list[dict[str, Tensor]] = []
        batches = training.batches(numbers, fabric.global_rank, fabric.world_size)
        for number, batch in zip(numbers, batches, strict=True):
            completes_step = (number + 1) % every == 0
            seed_step(training.compute.seed, number, fabric.global_rank)
            with fabric.no_backward_sync(self._called, enabled=not completes_step):
                loss, reported = training.losses(cast("Model", self._called), fabric.to_device(batch))
                fabric.backward(loss / every)
            losses.append({name: value.detach() for name, value in reported.items()})
            if completes_step:
                self.update()
                if counter is not None:
                    counter.advance()
        means = {name: torch.stack([row[name] for row in losses]).mean() for name in losses[0]}
        return {name: float(cast("Tensor", fabric.all_reduce(mean))) for name, mean in means.items()}

    def update(self) -> None:
        """Take the optimizer's step at this step's learning rate, and the average's."""
        training, recipe = self.training, self.training.recipe
        factor = learning_rate_factor(self.step, recipe.steps, recipe.warmup_steps, training.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        if training.clip_grad:
            self.fabric.clip_gradients(
                self._called, self._stepped, max_norm=training.clip_grad, error_if_nonfinite=False
            )
        self._stepped.step()
        self._stepped.zero_grad(set_to_none=True)
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)
        self.step += 1

    def close_stretch(self, losses: Row) -> Row:
        """Validate, and add a row to the history.

        Args:
            losses: the mean losses of the steps since the last validation.

        Raises:
            DivergedError: a loss is not finite.
        """
        measured = self.training.validate(self.validated.eval())
        self.model.train()
        row = {"step": float(self.step), **losses, **measured}
        if self.step and not all(map(math.isfinite, [*losses.values(), measured.get("valid_loss", 0.0)])):
            raise DivergedError(
                f"the loss is not finite before step {self.step}: the {self.training.name} diverged. "
                f"Take a lower lr than {self.training.recipe.lr:g} or a longer warm-up"
            )
        self.history.append(row)
        if self.training.selects_best and row is best_of(self.history):
            self.best = {name: value.detach().cpu().clone() for name, value in self.validated.state_dict().items()}
        return row

    def save(self, path: Path) -> None:
        """Write all that a training continues from: plain values and tensors."""
        if self.fabric.is_global_zero:
            parts = {name: part.state_dict() for name, part in self._parts().items()}
            with atomic_path(path) as temporary:
                torch.save({"history": self.history, "best": self.best, **parts}, temporary)

    def load(self, path: Path) -> None:
        """Continue from a file of :meth:`save`."""
        state = torch.load(path, map_location=self.fabric.device, weights_only=True)
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.history = state["history"]
        self.step = int(self.history[-1]["step"])
        self.best = {name: value.cpu() for name, value in state["best"].items()}

    def _parts(self) -> dict[str, Any]:
        parts = {"model": self.model, "optimizer": self.optimizer, "averaged": self.averaged}
        return {name: part for name, part in parts.items() if part is not None}


def train(
    training: Training[Model, Batch], model: Model, folder: Path, progress: Progress = SILENT, *, devices: int = 1
) -> Loop[Model, Batch]:
    """Train to the end, from the last checkpoint where there is one.

    Args:
        training: what is learnt.
        model: trained in place.
        folder: where the checkpoint is.
        progress: of the steps.
        devices: processes that share the steps, each on a device of its own.

    Raises:
        DivergedError: a loss is not finite.
    """
    fabric = training.compute.fabric(devices)
    if devices == 1:
        return _train(fabric, training, model, folder, progress)
    # The log of the process that asked does not travel to another one, which writes to its own terminal.
    fabric.launch(cast(Any, _train_in_process), training, model, folder, Progress(print))
    loop = Loop(training, model)
    loop.load(folder / CHECKPOINT)
    return loop


def _train_in_process(fabric: Fabric, *arguments: Any) -> None:
    """Train without a result, which processes would have to copy.

    The checkpoint has it.
    """
    _train(fabric, *arguments)


def _train(
    fabric: Fabric, training: Training[Model, Batch], model: Model, folder: Path, progress: Progress
) -> Loop[Model, Batch]:
    loop = Loop(training, model, fabric)
    progress = progress if fabric.is_global_zero else SILENT
    _resume(loop, folder, progress)
    if training.is_over(loop.history):
        return loop
    steps, saved = training.recipe.steps, -math.inf
    if training.validates_start and not loop.history:
        progress.say(_described(loop.close_stretch({"train_loss": math.nan}), steps))
    counter = progress.counter(training.name, steps - loop.step, "steps")
    while not training.is_over(loop.history):
        stretch = min(training.recipe.evaluate_every, steps - loop.step)
        progress.say(_described(loop.close_stretch(loop.train_steps(stretch, counter)), steps))
        if time.monotonic() - saved >= training.save_every:
            loop.save(folder / CHECKPOINT)
            saved = time.monotonic()
    counter.close()
    return loop


def _resume(loop: Loop[Any, Any], folder: Path, progress: Progress) -> None:
    if (folder / CHECKPOINT).exists():
        loop.load(folder / CHECKPOINT)
        if not loop.training.is_over(loop.history):  # else killed between the last checkpoint and the result
            progress.say(f"continuing the {loop.training.name} after step {loop.step}")
    elif former := list(folder.glob("last.*")):
        progress.say(
            f"{former[0]} is a checkpoint of an earlier version, which cannot be continued: restarting from step 0"
        )
        for path in former:
            path.unlink()


def _described(row: Row, steps: int) -> str:
    measured = (f"{name.replace('_', ' ')} {value:.4f}" for name, value in row.items() if math.isfinite(value))
    _, *values = measured
    return f"step {row['step']:.0f}/{steps}: {', '.join(values)}"
