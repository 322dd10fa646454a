"""mmengine hooks: a training state that outlives a kill."""

from __future__ import annotations

import math
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.fileio.backends import LocalBackend, register_backend
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from mars_assets.errors import DivergedError
from mars_assets.progress import Progress
from mars_assets.storage.files import write_bytes


class AtomicBackend(LocalBackend):
    """mmengine's local files, whole or absent: a checkpoint that is there can be read."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        write_bytes(Path(filepath), obj)


register_backend("mars_assets.atomic", AtomicBackend, force=True)


class TrainingState(Hook):
    """Keeps the best and the last checkpoint and the history, so that a killed run goes on where it stopped.

    Where mmengine averages the weights, ``state_dict`` holds the averages in both, and the scores are theirs; ``last.pth``
    has those that are trained beside them. Both checkpoints hold plain values and tensors only. ``best.pth`` carries its own
    score: whichever of the two was written last before a kill, the pair is consistent. With data loaded in this process (no
    workers) a continued run draws the same random numbers as one that was never stopped.

    Args:
        folder: where ``last.pth`` and ``best.pth`` go.
        progress: takes lines.
        log_every: iterations over which the loss is averaged.
        save_every: seconds between two checkpoints, beside the one of each validation.
    """

    priority = "VERY_LOW"  # after the schedulers have stepped: the checkpoint then holds the next iteration's rate

    def __init__(self, folder: Path, progress: Progress, log_every: int, save_every: float = 120.0) -> None:
        self.folder = folder
        self.progress = progress
        self.log_every = log_every
        self.save_every = save_every
        self.history: list[dict[str, float]] = []
        self.best = -math.inf
        self.seconds = 0.0
        self._metrics: dict[str, float] = {}
        self._lr = math.nan
        self._note = ""
        self._losses: list[Tensor] = []
        self._random: dict[str, Any] | None = None
        self._since = self._saved = time.monotonic()

    def before_train(self, runner: Runner) -> None:
        self._since = self._saved = time.monotonic()
        remaining = runner.max_iters - runner.iter
        self._trained = self.progress.counter("training segmentation", remaining, "iterations")
        if self._random is not None:
            self.progress.say(f"going on from iteration {runner.iter}")
            version, words, gauss = self._random["python"]
            random.setstate((version, tuple(words), gauss))
            numpy_state = self._random["numpy"]
            numpy_state["state"]["key"] = np.array(numpy_state["state"]["key"], np.uint32)
            np.random.set_state(numpy_state)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self._lr = max(runner.optim_wrapper.get_lr()["lr"])
        if self._random is not None:
            # Only now: the loader's iterator, made in between, drew from torch's generator.
            torch.set_rng_state(self._random["torch"].cpu())
            if _device(runner).type == "cuda" and self._random["cuda"] is not None:
                torch.cuda.set_rng_state(self._random["cuda"].cpu())
            self._random = None

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
        # mmengine's running means are objects; what is worth keeping of them is in the history.
        checkpoint["message_hub"] = {"log_scalars": {}, "runtime_info": {}, "resumed_keys": {}}
        if "optimizer" not in checkpoint:
            checkpoint["meta"]["metrics"] = dict(self._metrics)
            return
        numpy_state = np.random.get_state(legacy=False)
        numpy_state["state"]["key"] = numpy_state["state"]["key"].tolist()
        checkpoint["meta"]["training"] = {
            "history": self.history,
            "losses": [loss.item() for loss in self._losses],
            "seconds": self.seconds + time.monotonic() - self._since,
            "random": {
                "python": random.getstate(),
                "numpy": numpy_state,
                "torch": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
            },
        }

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["meta"]["training"]
        self.history, self.seconds = list(state["history"]), state["seconds"]
        self._losses = [torch.tensor(loss, device=_device(runner)) for loss in state["losses"]]
        self._random = state["random"]
        best = self.folder / "best.pth"
        if best.exists():
            self.best = torch.load(best, map_location="cpu", weights_only=True)["meta"]["metrics"]["miou"]

    def _record(self, iteration: int, values: dict[str, float]) -> None:
        if not self.history or self.history[-1]["iteration"] != iteration:
            self.history.append({"iteration": iteration})
        self.history[-1].update(values)

    def _save(self, runner: Runner, name: str, iteration: int) -> None:
        resumable = name == "last.pth"
        runner.save_checkpoint(
            str(self.folder),
            name,
            save_optimizer=resumable,
            save_param_scheduler=resumable,
            meta={"epoch": 0, "iter": iteration},
            by_epoch=False,
            backend_args={"backend": "mars_assets.atomic"},
        )
        self._saved = time.monotonic()


def _device(runner: Runner) -> torch.device:
    return next(runner.model.parameters()).device
