"""mmengine hooks: a training state that survives a kill."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from mars_assets.errors import DivergedError
from mars_assets.progress import Progress
from mars_assets.storage.files import atomic_path
from mars_assets.training.schedule import seed_step


class TrainingState(Hook):
    """Hook that seeds iterations, records the history and saves checkpoints.

    All that is random in an iteration follows from the seed and the iteration, so that a killed training resumes
    exactly: the last checkpoint holds no state of a random generator.

    Where mmengine averages the weights, ``state_dict`` holds the averages in both checkpoints, and the scores are those
    of the averages; ``last.pth`` holds the trained weights in addition. Both checkpoints contain plain values and
    tensors only. ``best.pth`` contains its own score: whichever of the two was written last before a kill, the pair is
    consistent.

    Args:
        folder: where ``last.pth`` and ``best.pth`` go.
        progress: receives messages.
        seed: of the training.
        log_every: iterations over which the loss is averaged.
        save_every: seconds between two checkpoints, in addition to one at each validation.
    """

    priority = "VERY_LOW"  # after the schedulers have stepped: the checkpoint then holds the next iteration's rate

    def __init__(self, folder: Path, progress: Progress, seed: int, log_every: int, save_every: float) -> None:
        self.folder = folder
        self.progress = progress
        self.seed = seed
        self.log_every = log_every
        self.save_every = save_every
        self.history: list[dict[str, float]] = []
        self.best = -math.inf
        self.seconds = 0.0
        self._metrics: dict[str, float] = {}
        self._lr = math.nan
        self._note = ""
        self._losses: list[Tensor] = []
        self._since = self._saved = time.monotonic()

    def before_train(self, runner: Runner) -> None:
        self._since = self._saved = time.monotonic()
        remaining = runner.max_iters - runner.iter
        self._trained = self.progress.counter("training segmentation", remaining, "iterations")
        if runner.iter:
            self.progress.say(f"resuming at iteration {runner.iter}")

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self._lr = max(runner.optim_wrapper.get_lr()["lr"])
        seed_step(self.seed, runner.iter)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Tensor] | None = None
    ) -> None:
        assert outputs is not None
        iteration = runner.iter + 1
        self._losses.append(outputs["loss"].detach())
        if iteration % self.log_every == 0 or iteration == runner.max_iters:
            loss = torch.stack(self._losses).mean().item()
            self._losses.clear()
            if not math.isfinite(loss):
                raise DivergedError(
                    f"the segmentation loss is {loss} at iteration {iteration}: lower the recipe's lr, or set clip_grad"
                )
            self._record(iteration, {"loss": loss, "lr": self._lr})
            self._note = f"loss {loss:.4f}"
        self._trained.advance(note=self._note)
        validation_follows = iteration % runner.train_loop.val_interval == 0 or iteration == runner.max_iters
        if time.monotonic() - self._saved >= self.save_every and not validation_follows:
            self._save(runner, "last.pth", iteration)

    def before_val_epoch(self, runner: Runner) -> None:
        self._validated = self.progress.counter(
            f"validating iteration {runner.iter}", len(runner.val_dataloader), "images"
        )

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self._validated.advance()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        assert metrics is not None
        self._validated.close(", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
        self._metrics = metrics
        self._record(runner.iter, metrics)
        if metrics["miou"] > self.best:
            self.best = metrics["miou"]
            self._save(runner, "best.pth", runner.iter)
        self._save(runner, "last.pth", runner.iter)

    def after_train(self, runner: Runner) -> None:
        self.seconds += time.monotonic() - self._since
        self._trained.close(f"best mIoU {self.best:.4f}")

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        # mmengine's running means are objects, which a safe checkpoint may not contain; the history has what is needed.
        checkpoint["message_hub"] = {"log_scalars": {}, "runtime_info": {}, "resumed_keys": {}}
        if "optimizer" not in checkpoint:
            checkpoint["meta"]["metrics"] = dict(self._metrics)
            return
        checkpoint["meta"]["training"] = {
            "history": self.history,
            "losses": [loss.item() for loss in self._losses],
            "seconds": self.seconds + time.monotonic() - self._since,
        }

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["meta"]["training"]
        self.history, self.seconds = list(state["history"]), state["seconds"]
        device = next(runner.model.parameters()).device
        self._losses = [torch.tensor(loss, device=device) for loss in state["losses"]]
        best = self.folder / "best.pth"
        if best.exists():
            self.best = torch.load(best, map_location="cpu", weights_only=True)["meta"]["metrics"]["miou"]

    def _record(self, iteration: int, values: dict[str, float]) -> None:
        if not self.history or self.history[-1]["iteration"] != iteration:
            self.history.append({"iteration": iteration})
        self.history[-1].update(values)

    def _save(self, runner: Runner, name: str, iteration: int) -> None:
        resumable = name == "last.pth"
        with atomic_path(self.folder / name) as temporary:
            runner.save_checkpoint(
                str(temporary.parent),
                temporary.name,
                save_optimizer=resumable,
                save_param_scheduler=resumable,
                meta={"epoch": 0, "iter": iteration},
                by_epoch=False,
            )
        self._saved = time.monotonic()
