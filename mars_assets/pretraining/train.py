"""The masked pretraining.

It is validated as it goes and resumed where it stopped; the last state is stored in the published layout.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay  # type: ignore[attr-defined]
from torch import Tensor

from mars_assets.bands import model_input
from mars_assets.errors import MarsError
from mars_assets.labels.formats.image import listed
from mars_assets.lake import HISTORY, IMAGES, MARS_WEIGHTS
from mars_assets.pretraining.data import RandomCrops, Unlabelled, split_groups
from mars_assets.pretraining.recipe import PretrainRecipe
from mars_assets.prithvi.masking import mask_noise
from mars_assets.prithvi.model import PrithviMAE
from mars_assets.prithvi.weights import OpenedWeights, open_weights, save_weights
from mars_assets.progress import Progress
from mars_assets.storage.files import write_table
from mars_assets.training.augmentation import MIDDLE, relit
from mars_assets.training.loop import Row, Training, train
from mars_assets.training.run_folder import Trained, TrainingJob, run_training
from mars_assets.training.sampler import batches_of_steps

if TYPE_CHECKING:
    from mars_assets.training.compute import Compute


_VALIDATED_AT_A_TIME = 64


class MaskedPretraining(Training[PrithviMAE, Tensor]):
    """The masked pretraining.

    Args:
        recipe: how to pretrain.
        compute: device, precision and seed.
        crops: random crops of the training images.
        held_out: centres of the held-out images, uint8 (N, 3, H, W), and their ids.
    """

    name = "pretraining"
    validates_start = True

    def __init__(
        self, recipe: PretrainRecipe, compute: Compute, crops: RandomCrops, held_out: tuple[Tensor, list[str]]
    ) -> None:
        super().__init__(recipe, compute)
        self.accumulate, self.clip_grad = recipe.accumulate, recipe.clip_grad
        self._recipe = recipe
        self._crops = crops
        self._centres, self._ids = held_out

    def optimizer(self, model: PrithviMAE) -> torch.optim.Optimizer:
        """Build AdamW, with a learning rate per encoder block.

        Biases, norms and tokens have no weight decay.
        """
        recipe = self._recipe
        encoder = param_groups_layer_decay(
            model.encoder,
            weight_decay=recipe.weight_decay,
            no_weight_decay_list=("cls_token",),
            layer_decay=recipe.layer_decay,
        )
        decoder = param_groups_weight_decay(
            model.decoder, weight_decay=recipe.weight_decay, no_weight_decay_list=("mask_token",)
        )
        groups = [*encoder, *decoder]
        for group in groups:
            group["initial_lr"] = recipe.lr * group.pop("lr_scale", 1.0)
        return torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.95), fused=True)

    def batches(self, numbers: range, rank: int, world_size: int) -> Iterator[Tensor]:
        """Yield random crops, uint8 (B, 3, H, W), R, G, B."""
        size = self._recipe.batch_size // self._recipe.accumulate
        drawn = batches_of_steps(len(self._crops), size, numbers, self.compute.seed)
        for number, images in zip(numbers, drawn, strict=True):
            yield torch.stack([self._crops[image, number] for image in images[rank::world_size]])

    def losses(self, model: PrithviMAE, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the reconstruction loss of the removed patches.

        With a weight, that of the visible ones is added.
        """
        recipe, shape = self._recipe, (len(batch), 1, 1, 1)
        gain = 1 + recipe.brightness * (2 * torch.rand(shape) - 1).to(batch.device)
        offset = 255 * recipe.brightness * (torch.rand(shape) - 0.5).to(batch.device)
        bgr = relit(batch.flip(1).float(), gain, offset, MIDDLE).clamp(0, 255)
        x = model_input(bgr, recipe.imputation, model.config.statistics)
        noise = torch.rand(len(x), self._patches(model, x)).to(x.device)
        with self.compute.autocast():
            loss, pred, mask = model(x, recipe.mask_ratio, noise)
            reported = {"train_loss": loss}
            if recipe.visible_weight:
                loss = loss + recipe.visible_weight * model.loss(x, pred, 1 - mask)
        return loss, reported

    @torch.no_grad()
    def validate(self, model: PrithviMAE) -> Row:
        """Compute the mean loss of the removed patches of held-out images.

        An image's mask is always the same.
        """
        losses = []
        device = next(model.parameters()).device
        for start in range(0, len(self._centres), _VALIDATED_AT_A_TIME):
            part = slice(start, start + _VALIDATED_AT_A_TIME)
            bgr = self._centres[part].to(device).flip(1).float()
            x = model_input(bgr, self._recipe.imputation, model.config.statistics)
            patches = self._patches(model, x)
            noise = np.stack([mask_noise(image_id, self.compute.seed, patches) for image_id in self._ids[part]])
            with self.compute.autocast():
                loss = model(x, self._recipe.mask_ratio, torch.from_numpy(noise).to(device)).loss
            losses.append(float(loss) * len(x))
        return {"valid_loss": sum(losses) / len(self._centres)}

    @staticmethod
    def _patches(model: PrithviMAE, x: Tensor) -> int:
        return math.prod(model.encoder.grid(x[:, :, None]))


def pretrain(job: TrainingJob[PretrainRecipe, Unlabelled]) -> dict[str, Any]:
    """Pretrain into a folder.

    A pretraining that stopped there continues, and a finished one's report is returned.

    While it runs, ``training/`` in the folder holds the last checkpoint. The result is ``weights/`` (the last state, in
    the published layout), ``history.parquet`` (one row a validation) and ``config.json``, written last.

    Args:
        job: the pretraining; its weights give architecture, bands and statistics in any case.

    Returns:
        JSON-able: ``steps``, ``first`` and ``last`` (rows of the history; ``first`` is before any step), ``n_train``,
        ``n_valid``, ``groups``, ``parameters``, and of the images ``left_out``, ``n_unknown`` and ``broken``, see
        :class:`~mars_assets.pretraining.data.Unlabelled`.

    Raises:
        MarsError: too few images, a batch that cannot be shared evenly, or a pretraining that diverged.
        ProvenanceError: the folder holds a pretraining of other settings.
    """
    recipe, unlabelled, compute = job.recipe, job.images, job.compute
    published = open_weights(job.weights)
    if recipe.batch_size % (recipe.accumulate * recipe.devices):
        raise MarsError(
            f"batch_size {recipe.batch_size} is not a multiple of accumulate x devices, "
            f"{recipe.accumulate} x {recipe.devices}: change one of the three"
        )
    if compute.device == "cuda" and recipe.devices > torch.cuda.device_count():
        raise MarsError(f"devices is {recipe.devices}, and this machine has {torch.cuda.device_count()} GPUs: lower it")
    return run_training(job, published.sha256, unlabelled.sha, partial(_fit, job, published))


def _fit(job: TrainingJob[PretrainRecipe, Unlabelled], published: OpenedWeights, scratch: Path) -> Trained:
    recipe, unlabelled, compute = job.recipe, job.images, job.compute
    images = unlabelled.images
    say_what_is_missing(unlabelled, job.progress)
    trained, valid = split_groups(images, recipe.hold_out)
    paths = images["path"].tolist()
    size = published.config.img_size

    compute.seed_everything()
    mae = PrithviMAE(published.config) if recipe.from_random else published.load()
    held_out = RandomCrops([paths[i] for i in valid], size, 1.0, compute.seed, 0)
    ids = images["image_id"].iloc[valid].tolist()
    centres = torch.stack([held_out.centre(i) for i in job.progress.track(range(len(ids)), "reading held-out images")])
    crops = RandomCrops([paths[i] for i in trained], size, recipe.smallest_scale, compute.seed)
    training = MaskedPretraining(recipe, compute, crops, (centres, ids))
    history = train(training, mae, scratch, job.progress, devices=recipe.devices).history

    def write(folder: Path) -> None:
        held = np.isin(np.arange(len(images)), valid)
        write_table(folder / IMAGES, images[["image_id", "group"]].assign(held_out=held))
        write_table(folder / HISTORY, pd.DataFrame(history).astype({"step": "int64"}))
        about = {"source": "pretrained on Mars", "went_on_from": published.sha256}
        save_weights(folder / MARS_WEIGHTS, mae, about)

    report = {
        "steps": int(history[-1]["step"]),
        "first": {"step": 0, "valid_loss": history[0]["valid_loss"]},
        "last": history[-1],
        "n_train": len(trained),
        "n_valid": len(valid),
        "groups": int(images["group"].nunique()),
        "left_out": unlabelled.left_out,
        "n_unknown": unlabelled.unknown,
        "broken": unlabelled.broken,
        "parameters": sum(parameter.numel() for parameter in mae.parameters()),
    }
    return Trained(report, (), published.config, write)


def say_what_is_missing(unlabelled: Unlabelled, progress: Progress) -> None:
    """Say how many images are of no known observation, and which ones are left out."""
    if unlabelled.unknown:
        progress.say(
            f"{unlabelled.unknown} of {len(unlabelled.images)} images are of no known observation: "
            "where one is in the labels' valid or test, models are evaluated on what their encoder has "
            "seen. Name files or folders by observation"
        )
    if unlabelled.broken:
        progress.say(
            f"{len(unlabelled.broken)} images cannot be read or are masks, and are left out: "
            f"{listed(list(unlabelled.broken.values()))}"
        )
