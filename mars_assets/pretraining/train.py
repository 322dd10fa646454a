"""The masked pretraining: validated as it goes, resumed where it stopped, the last state kept in the published layout."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import Tensor
from torch.utils.data import DataLoader

from mars_assets.bands import model_input
from mars_assets.errors import MarsError
from mars_assets.lake import HISTORY, IMAGES, MARS_WEIGHTS, SCRATCH
from mars_assets.pretraining.data import RandomCrops, StepBatches, Unlabelled, split_groups
from mars_assets.pretraining.recipe import PretrainRecipe
from mars_assets.prithvi.masking import mask_noise
from mars_assets.prithvi.model import PrithviMAE
from mars_assets.prithvi.weights import load_mae, open_weights, save_weights
from mars_assets.progress import SILENT, Counter, Progress
from mars_assets.storage.files import write_table
from mars_assets.training.augmentation import MIDDLE, relit
from mars_assets.training.run_folder import begin, finish
from mars_assets.training.schedule import learning_rate_factor, seed_step

if TYPE_CHECKING:
    from mars_assets.training.compute import Compute


History = list[dict[str, float]]

LAST = "last.ckpt"
_VALIDATED_AT_A_TIME = 64


class MaskedPretraining(lightning.LightningModule):
    """A pretraining. An epoch of Lightning's is the stretch of steps between two validations.

    Args:
        mae: what is trained, in place.
        recipe: how.
        compute: precision of the validations, and the seed of every random number.
        held_out: centres of the held-out images, uint8 (N, 3, H, W), and their ids.
    """

    def __init__(
        self, mae: PrithviMAE, recipe: PretrainRecipe, compute: Compute, held_out: tuple[Tensor, list[str]]
    ) -> None:
        super().__init__()
        self.mae = mae.train()
        self.recipe = recipe
        self.compute = compute
        self._centres, self._ids = held_out
        self.history: History = []
        self._losses: list[Tensor] = []

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        recipe = self.recipe
        encoder = param_groups_layer_decay(
            self.mae.encoder,
            weight_decay=recipe.weight_decay,
            no_weight_decay_list=("cls_token",),
            layer_decay=recipe.layer_decay,
        )
        decoder = param_groups_weight_decay(
            self.mae.decoder, weight_decay=recipe.weight_decay, no_weight_decay_list=("mask_token",)
        )
        groups = [*encoder, *decoder]
        for group in groups:
            group["lr"] = recipe.lr * group.pop("lr_scale", 1.0)
        optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.95))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, recipe.steps, recipe.warmup_steps, "cosine")
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, rgb: Tensor, batch_idx: int) -> Tensor:
        recipe = self.recipe
        batch = self.global_step * recipe.accumulate + batch_idx % recipe.accumulate
        seed_step(self.compute.seed, batch, self.global_rank)
        x = model_input(_relit(rgb, recipe.brightness).flip(1), recipe.imputation, self.mae.config.statistics)
        noise = torch.rand(len(x), math.prod(self.mae.encoder.grid(x[:, :, None]))).to(x.device)
        removed, pred, mask = self.mae(x, recipe.mask_ratio, noise)
        self._losses.append(removed.detach())
        if not recipe.visible_weight:
            return removed
        return removed + recipe.visible_weight * self.mae.loss(x, pred, 1 - mask)

    def close_stretch(self) -> None:
        """Adds a row to the history: what the steps since the last lost, and the validation loss now."""
        train_loss = float(torch.stack(self._losses).mean())
        self._losses.clear()
        if self.trainer.world_size > 1:
            shared = self.all_gather(torch.tensor(train_loss))
            assert isinstance(shared, Tensor)
            train_loss = float(shared.mean())
        valid_loss = self.validation_loss()
        if not (math.isfinite(train_loss) and math.isfinite(valid_loss)):
            raise MarsError(
                f"the loss is not finite before step {self.global_step}: the pretraining diverged. "
                f"Take a lower lr than {self.recipe.lr:g} or a longer warm-up"
            )
        self.history.append({"step": float(self.global_step), "train_loss": train_loss, "valid_loss": valid_loss})

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Mean loss of the removed patches of the held-out images, with one mask an image for all times."""
        self.mae.eval()
        losses = []
        device = next(self.mae.parameters()).device  # Lightning tells its own only once it fits
        for start in range(0, len(self._centres), _VALIDATED_AT_A_TIME):
            part = slice(start, start + _VALIDATED_AT_A_TIME)
            bgr = self._centres[part].to(device).flip(1).float()
            x = model_input(bgr, self.recipe.imputation, self.mae.config.statistics)
            patches = math.prod(self.mae.encoder.grid(x[:, :, None]))
            noise = np.stack([mask_noise(image_id, self.compute.seed, patches) for image_id in self._ids[part]])
            with self.compute.autocast():
                loss = self.mae(x, self.recipe.mask_ratio, torch.from_numpy(noise).to(device)).loss
            losses.append(float(loss) * len(x))
        self.mae.train()
        return sum(losses) / len(self._centres)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = checkpoint["history"]


def _relit(rgb: Tensor, amount: float) -> Tensor:
    """Change gain and offset of 8-bit images, each by its own random amount."""
    shape = (len(rgb), 1, 1, 1)
    gain = 1 + amount * (2 * torch.rand(shape) - 1).to(rgb.device)
    offset = 255 * amount * (torch.rand(shape) - 0.5).to(rgb.device)
    return relit(rgb.float(), gain, offset, MIDDLE).clamp(0, 255)


class _Data(lightning.LightningDataModule):
    def __init__(self, crops: RandomCrops, recipe: PretrainRecipe, seed: int) -> None:
        super().__init__()
        self._crops, self._recipe, self._seed = crops, recipe, seed

    def train_dataloader(self) -> DataLoader[Tensor]:
        assert self.trainer is not None
        done, recipe = self.trainer.global_step, self._recipe
        steps = range(done, min(done + recipe.evaluate_every, recipe.steps))
        batches = range(steps.start * recipe.accumulate, steps.stop * recipe.accumulate)
        sampler = StepBatches(
            len(self._crops),
            recipe.batch_size // recipe.accumulate,
            batches,
            self._seed,
            self.trainer.global_rank,
            self.trainer.world_size,
        )
        return DataLoader(self._crops, batch_sampler=sampler)


class _Keeper(lightning.Callback):
    """After each stretch of steps: says how it went and leaves a checkpoint to resume from."""

    def __init__(self, scratch: Path, progress: Progress) -> None:
        self._scratch, self._progress = scratch, progress
        self._counter: Counter | None = None
        self._step = 0

    def __getstate__(self) -> dict[str, Any]:
        # A process that shares the steps writes to its own terminal: the log of the one that asked does not travel.
        return {**self.__dict__, "_progress": Progress(print)}

    def on_train_start(self, trainer: lightning.Trainer, task: lightning.LightningModule) -> None:
        assert isinstance(task, MaskedPretraining)
        self._step = trainer.global_step
        if trainer.global_step:
            self._progress.say(f"pretraining goes on after step {trainer.global_step}")
        self._counter = self._progress.counter("pretraining", task.recipe.steps - trainer.global_step, "steps")

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        assert self._counter is not None
        if trainer.global_step > self._step:  # not where gradients are still accumulated
            self._counter.advance()
        self._step = trainer.global_step

    def on_train_epoch_end(self, trainer: lightning.Trainer, task: lightning.LightningModule) -> None:
        assert isinstance(task, MaskedPretraining)
        task.close_stretch()  # Lightning would call a hook of the module's after this one
        row = task.history[-1]
        self._progress.say(
            f"step {row['step']:.0f}/{task.recipe.steps}: train loss {row['train_loss']:.4f}, validation loss "
            f"{row['valid_loss']:.4f}"
        )
        temporary = self._scratch / f".{LAST}.tmp-"
        trainer.save_checkpoint(temporary)  # every process has to call it, the first one writes
        if trainer.is_global_zero:
            temporary.replace(self._scratch / LAST)


def pretrain(
    recipe: PretrainRecipe,
    unlabelled: Unlabelled,
    weights: Path,
    folder: Path,
    compute: Compute,
    provenance: dict[str, Any],
    progress: Progress = SILENT,
    *,
    memory_gb: float = 2.0,
) -> dict[str, Any]:
    """Pretrains into ``folder``, or goes on where a pretraining into it stopped, or returns a finished one's report.

    While it runs, ``folder/training`` holds the last checkpoint. The result is ``weights/`` (the last state, in the
    published layout), ``history.parquet`` (one row a validation) and ``config.json``, written last.

    Args:
        recipe: how to pretrain.
        unlabelled: on what.
        weights: folder of the weights to go on from, which give architecture, bands and statistics in any case.
        folder: of this one pretraining.
        compute: device, precision and seed.
        provenance: is put into ``config.json`` as it is.
        progress: of the steps.
        memory_gb: how much decoded images may take in memory; those beyond it are decoded anew each time.

    Returns:
        JSON-able: ``steps``, ``first`` and ``last`` (rows of the history; ``first`` is before any step), ``n_train``,
        ``n_valid``, ``groups``, ``parameters``, and of the images ``left_out``, ``n_unknown`` and ``broken``, see
        :class:`~mars_assets.pretraining.data.Unlabelled`.

    Raises:
        MarsError: too few images, a batch that cannot be shared evenly, or a pretraining that diverged.
        ProvenanceError: the folder holds a pretraining of other settings.
    """
    published = open_weights(weights)
    if recipe.batch_size % (recipe.accumulate * recipe.devices):
        raise MarsError(
            f"batch_size {recipe.batch_size} is not a multiple of accumulate x devices, "
            f"{recipe.accumulate} x {recipe.devices}"
        )
    if compute.device == "cuda" and recipe.devices > torch.cuda.device_count():
        raise MarsError(f"devices is {recipe.devices}, and this machine has {torch.cuda.device_count()} GPUs")
    settings = {
        **recipe.identity(),
        "seed": compute.seed,
        "weights": published.sha256,
        "images": unlabelled.sha,
    }
    finished = begin(folder, settings, compute.precision, progress)
    if finished is not None:
        return finished
    scratch = folder / SCRATCH
    images = unlabelled.images
    _say_what_is_missing(unlabelled, progress)
    train, valid = split_groups(images, recipe.hold_out)
    paths = images["path"].tolist()
    size = published.config.img_size

    compute.seed_everything()
    mae = PrithviMAE(published.config) if recipe.from_random else published.load()
    kept = RandomCrops([paths[i] for i in valid], size, 1.0, compute.seed, 0)
    ids = images["image_id"].iloc[valid].tolist()
    centres = torch.stack([kept.centre(i) for i in progress.track(range(len(ids)), "reading held-out images")])
    task = MaskedPretraining(mae, recipe, compute, (centres, ids))
    crops = RandomCrops([paths[i] for i in train], size, recipe.smallest_scale, compute.seed, memory_gb)
    state = _fit(task, crops, scratch, compute, progress)

    history: History = state["history"]
    trained = {key.removeprefix("mae."): value for key, value in state["state_dict"].items()}
    mae, _ = load_mae(published.config, trained)
    write_table(folder / IMAGES, images[["image_id", "group"]].assign(held_out=np.isin(np.arange(len(images)), valid)))
    write_table(folder / HISTORY, pd.DataFrame(history).astype({"step": "int64"}))
    save_weights(folder / MARS_WEIGHTS, mae, {"source": "pretrained on Mars", "went_on_from": published.sha256})
    report = {
        "steps": int(history[-1]["step"]),
        "first": {"step": 0, "valid_loss": history[0]["valid_loss"]},
        "last": history[-1],
        "n_train": len(train),
        "n_valid": len(valid),
        "groups": int(images["group"].nunique()),
        "left_out": unlabelled.left_out,
        "n_unknown": unlabelled.unknown,
        "broken": unlabelled.broken,
        "parameters": sum(parameter.numel() for parameter in mae.parameters()),
    }
    finish(
        folder,
        recipe=recipe,
        classes=(),
        encoder=published.config,
        settings=settings,
        provenance=provenance,
        compute=compute,
        report=report,
    )
    return report


def _say_what_is_missing(unlabelled: Unlabelled, progress: Progress) -> None:
    if unlabelled.unknown:
        progress.say(
            f"{unlabelled.unknown} of {len(unlabelled.images)} images are of no known observation: where one is in the "
            "labels' valid or test, models are judged on what their encoder has seen. Name files or folders by observation"
        )
    if unlabelled.broken:
        progress.say(
            f"{len(unlabelled.broken)} images cannot be read and are left out: {'; '.join(unlabelled.broken.values())}"
        )


def _fit(
    task: MaskedPretraining, crops: RandomCrops, scratch: Path, compute: Compute, progress: Progress
) -> dict[str, Any]:
    """Pretrains to the end and returns the last checkpoint."""
    recipe, last = task.recipe, scratch / LAST
    over = last.exists() and _read(last)["global_step"] >= recipe.steps
    if not over:
        if not last.exists():
            task.mae.to(compute.device)
            task.history.append({"step": 0.0, "train_loss": math.nan, "valid_loss": task.validation_loss()})
            task.mae.cpu()  # processes that share the steps are sent it
            progress.say(f"before any step: validation loss {task.history[0]['valid_loss']:.4f}")
        with _quiet_lightning():
            trainer = _quiet_trainer(
                compute,
                scratch,
                math.ceil(recipe.steps / recipe.evaluate_every),
                [_Keeper(scratch, progress)],
                devices=recipe.devices,
                strategy="ddp_spawn" if recipe.devices > 1 else "auto",
                use_distributed_sampler=False,
                accumulate_grad_batches=recipe.accumulate,
                gradient_clip_val=recipe.clip_grad,
                limit_val_batches=0,
            )
            data = _Data(crops, recipe, compute.seed)
            trainer.fit(task, datamodule=data, ckpt_path=last if last.exists() else None, weights_only=True)
    return _read(last)


def _read(checkpoint: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return state


def _quiet_trainer(
    compute: Compute, scratch: Path, stretches: int, callbacks: list[lightning.Callback], **options: Any
) -> lightning.Trainer:
    """A trainer that only computes: what is kept and said is its callbacks' business.

    Args:
        compute: device and precision.
        scratch: a folder of its own.
        stretches: how often the data are asked for anew and validated: Lightning's epochs.
        callbacks: what keeps and says.
        options: further ones of Lightning's.
    """
    return lightning.Trainer(
        accelerator="gpu" if compute.device == "cuda" else "cpu",
        precision="bf16-mixed" if compute.precision == "bf16" else "32-true",
        max_epochs=stretches,
        reload_dataloaders_every_n_epochs=1,
        num_sanity_val_steps=0,
        callbacks=callbacks,
        default_root_dir=scratch,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **({"devices": 1} | options),
    )


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Lightning without its greetings and advice: what a person needs to know, ``Progress`` says."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
