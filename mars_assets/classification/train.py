"""Fine-tuning of the classifier.

It is validated as it goes, resumed where it stopped, and the best state is saved.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from timm.optim import param_groups_layer_decay, param_groups_weight_decay  # type: ignore[attr-defined]
from torch import Tensor

from mars_assets.classification.checkpoint import (
    begin_with_outlines,
    build_baseline,
    build_classifier,
    save_weights,
    start_of,
)
from mars_assets.classification.data import Inputs, augment, load_chip, median_side, shares_of
from mars_assets.classification.evaluate import scores
from mars_assets.classification.features import FeatureCache, FeatureHead, are_enough
from mars_assets.classification.model import Classifier
from mars_assets.classification.recipe import CLASSES, OUTLINES, ClsRecipe
from mars_assets.encoders.config import EncoderConfig
from mars_assets.encoders.weights import new_encoder
from mars_assets.errors import MarsError
from mars_assets.lake import HISTORY, WEIGHTS
from mars_assets.models.starting_point import initial_encoder
from mars_assets.prithvi import PRITHVI
from mars_assets.storage.files import write_table
from mars_assets.training.loop import History, Row, Training, best_of, train
from mars_assets.training.low_rank import adapt, merged
from mars_assets.training.memory import InMemory
from mars_assets.training.run_folder import Trained, TrainingJob, identity_of, run_training, used_images
from mars_assets.training.sampler import batches_of_steps

if TYPE_CHECKING:
    from mars_assets.training.compute import Compute


ClassifierOrHead = Classifier | FeatureHead
Batch = tuple[Tensor, Tensor]

SMALL, LARGE = 112, 224
"""Sides in pixels that a recipe without a size takes. Tiles of 227 pixels, which their craters half fill, are told best
at 112 (``docs/results/classification.md``); larger images are shown at the same scale as far as 224 goes.
"""
VALIDATED = ("loss", "accuracy", "balanced_accuracy", "auroc")
"""Which of the validation's scores the history keeps, as ``valid_NAME``."""
_EMPTY = (
    "no image with a class is in the split '{split}': put an export with one into the lake's inbox, or some "
    "observations into that split, and make 'labelled_crops' again"
)


class FineTuning(Training[ClassifierOrHead, Batch]):
    """Fine-tuning of a classifier, or of a head on cached features.

    The features are those of a frozen encoder.

    Args:
        recipe: how to train.
        compute: device, precision and seed. A head is trained in fp32 whatever the precision: entering autocast takes
            longer than bf16 saves.
        inputs: chips or features of the images.
        images: ``split, label, observation`` of each.
    """

    selects_best = True
    save_every = 20.0

    def __init__(self, recipe: ClsRecipe, compute: Compute, inputs: Inputs, images: pd.DataFrame) -> None:
        on_features = isinstance(inputs, Tensor)
        super().__init__(recipe, replace(compute, precision="fp32") if on_features else compute)
        self.schedule, self.average_weights, self.patience = recipe.schedule, recipe.average_weights, recipe.patience
        self._recipe = recipe
        self._augment = "none" if on_features else recipe.augment
        self._inputs = inputs
        self._labels = torch.tensor(images["label"].tolist(), dtype=torch.float32)
        self._train, self._valid = (np.flatnonzero(images["split"] == split) for split in ("train", "valid"))
        self._shares = shares_of(images[images["split"] == "train"], recipe.draw)

    def optimizer(self, model: ClassifierOrHead) -> torch.optim.Optimizer:
        """Build Adam or AdamW, with a learning rate per layer.

        Biases and norms have no weight decay.
        """
        recipe = self._recipe
        if isinstance(model, Classifier):
            groups = param_groups_layer_decay(
                model.layers,
                weight_decay=recipe.weight_decay,
                no_weight_decay_list=model.without_decay,
                layer_decay=recipe.layer_decay,
            )
        else:
            groups = param_groups_weight_decay(model, recipe.weight_decay)
        for group in groups:
            group["initial_lr"] = recipe.lr * group.pop("lr_scale", 1.0)
        kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
        return kind(groups, lr=recipe.lr, fused=True)  # a third of the time, also on CPU

    def batches(self, numbers: range, rank: int, world_size: int) -> Iterator[Batch]:
        """Yield inputs (B, ...) and labels (B,); fine-tuning has one process."""
        drawn = batches_of_steps(len(self._train), self._recipe.batch_size, numbers, self.compute.seed, self._shares)
        return (self._batch(self._train[places]) for places in drawn)

    def losses(self, model: ClassifierOrHead, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss of a batch, augmented, masked, dropped out.

        It is the cross entropy against smoothed labels.
        """
        inputs, labels = batch
        smoothing = self._recipe.label_smoothing
        # Not under autocast, which would round coordinates by up to most of a pixel.
        inputs = augment(inputs, self._augment)
        with self.compute.autocast():
            targets = labels * (1 - smoothing) + smoothing / 2
            loss = F.binary_cross_entropy_with_logits(model(inputs).float(), targets)
        return loss, {"train_loss": loss}

    def validate(self, model: ClassifierOrHead) -> Row:
        """Compute the scores of the validation set.

        Without finite logits there is ``valid_loss`` alone, which is NaN then.
        """
        size = max(32, self._recipe.batch_size)
        logits = []
        with torch.inference_mode(), self.compute.autocast():
            for start in range(0, len(self._valid), size):
                inputs, _ = self._batch(self._valid[start : start + size])
                logits.append(model(inputs.to(self.compute.device)).double().cpu())
        found = torch.cat(logits)
        if not found.isfinite().all():
            return {"valid_loss": math.nan}
        values = scores(self._labels[self._valid].long().numpy(), found.sigmoid().numpy())
        return {f"valid_{name}": values[name] for name in VALIDATED}

    def _batch(self, places: npt.NDArray[np.intp]) -> Batch:
        chosen = torch.from_numpy(places)
        if isinstance(self._inputs, Tensor):
            inputs = self._inputs.index_select(0, chosen)
        else:
            inputs = torch.stack([self._inputs[place] for place in places.tolist()])
        return inputs, self._labels.index_select(0, chosen)


def train_classifier(job: TrainingJob[ClsRecipe, pd.DataFrame]) -> dict[str, Any]:
    """Train a classifier into a folder.

    A training that stopped there continues, and a finished one's report is returned.

    While it trains, ``training/`` in the folder holds the last checkpoint and the best weights. The result is
    ``model.safetensors`` (the state of the lowest validation loss), ``history.parquet`` (one row a validation) and
    ``config.json``, written last.

    Args:
        job: the training. Its images have ``image_id, split (train, valid, ...), chip (path), label (0 or 1),
            observation``, and ``chip_sha`` if the chips have one; their order does not matter. Its weights are those of
            an encoder or, for the architecture ``seg_model``, a finished segmentation model.

    Returns:
        JSON-able: ``steps``, ``best_step``, ``best`` and ``last`` (rows of the history), ``stopped_early``,
        ``n_train``, ``n_valid``, ``n_train_craters``, ``n_valid_craters``, ``median_side`` (of the training images,
        pixels), ``image_size`` (that they were shown at), ``parameters``, ``trained_parameters``.

    Raises:
        MarsError: there are no images to train or validate on, or one class only, the masking leaves nothing of them,
            or the training diverged.
        ProvenanceError: the folder holds a training of other settings.
    """
    images, compute = _checked(job.images), job.compute
    recipe = sized(job.recipe, images)
    start, sha256 = start_of(recipe, job.weights)
    if recipe.architecture == PRITHVI:
        check_encoder(recipe, start)

    def fit(scratch: Path) -> Trained:
        if job.cache is not None and "chip_sha" in images and are_enough(recipe):
            cache = FeatureCache(job.cache, sha256, recipe, compute)
            inputs: Inputs = cache.of(lambda: initial_encoder(recipe, job.weights, compute), images, job.progress)
            compute.seed_everything()
            trained: ClassifierOrHead = FeatureHead(start.embed_dim, recipe)
        else:
            compute.seed_everything()
            trained = _new_classifier(job, recipe, start)
            if recipe.frozen:
                trained.freeze()
            read = functools.partial(load_chip, config=start, image_size=recipe.image_size, by=recipe.normalize)
            inputs = InMemory(read, [Path(chip) for chip in images["chip"]])
        loop = train(FineTuning(recipe, compute, inputs, images), trained, scratch, job.progress)
        best = merged(loop.best) if recipe.lora_rank else loop.best
        if job.whole and isinstance(trained, FeatureHead):
            encoder = initial_encoder(recipe, job.weights, compute)
            best |= {f"encoder.{name}": value for name, value in encoder.state_dict().items()}

        def write(folder: Path) -> None:
            write_table(folder / HISTORY, pd.DataFrame(loop.history).astype({"step": "int64"}))
            save_weights(folder / WEIGHTS, best)

        return Trained(_report(trained, start, recipe, loop.history, images), CLASSES, start, write)

    return run_training(job, sha256, identity_of(images), fit)


def _new_classifier(job: TrainingJob[ClsRecipe, pd.DataFrame], recipe: ClsRecipe, start: EncoderConfig) -> Classifier:
    if recipe.architecture == OUTLINES:
        return begin_with_outlines(job.weights, start, job.folder)
    if recipe.architecture == PRITHVI:
        classifier = build_classifier(recipe, initial_encoder(recipe, job.weights, job.compute))
        if recipe.lora_rank:
            adapt(classifier.encoder, recipe.lora_rank)
        return classifier
    return build_baseline(recipe, start, recipe.imagenet)


def sized(recipe: ClsRecipe, images: pd.DataFrame) -> ClsRecipe:
    """Complete a recipe by the size that it leaves to the images."""
    if recipe.image_size:
        return recipe
    half = (_median_side(images) or 0) / 2
    return recipe.model_copy(update={"image_size": min((SMALL, LARGE), key=lambda size: abs(size - half))})


def _median_side(images: pd.DataFrame) -> float | None:
    return median_side([Path(chip) for chip in images.loc[images["split"] == "train", "chip"]])


def _checked(images: pd.DataFrame) -> pd.DataFrame:
    """Select the images of train and valid, ordered by id.

    Raises:
        MarsError: see :func:`train_classifier`.
    """
    images = used_images(images, _EMPTY)
    if not images["label"].isin([0, 1]).all():
        raise MarsError(
            f"labels are 0 ({CLASSES[0]}) and 1 ({CLASSES[1]}); these are {sorted(images['label'].unique())}"
        )
    present = images.loc[images["split"] == "train", "label"].unique()
    if len(present) < 2:
        raise MarsError(
            f"all training images are of class {CLASSES[present[0]]}: a classifier needs both. Label some images of "
            f"class {CLASSES[1 - present[0]]}, or move observations between the splits"
        )
    return images


def check_encoder(recipe: ClsRecipe, config: EncoderConfig) -> None:
    """Check that the encoder can do what a recipe asks for.

    Raises:
        MarsError: its patches do not divide the images, the masking leaves nothing of them, or the encoder has no
            patches to mask, or no class token.
    """
    if recipe.mask_ratio and not config.is_transformer:
        raise MarsError(f"{config.variant} has no patches that could be left out: set mask_ratio to 0")
    _, rows, columns = config.patch_size
    size = recipe.image_size
    if size % rows or size % columns:
        steps = math.lcm(rows, columns)
        raise MarsError(
            f"image_size={size}: {config.variant} cuts images into patches of {rows} x {columns} pixels, so take a "
            f"multiple of {steps}, such as {max(round(size / steps), 1) * steps}"
        )
    if recipe.pooling == "class_token" and not config.has_class_token:
        raise MarsError(f"{config.variant} has no class token: set pooling to mean")
    patches = (size // rows) * (size // columns)
    if int(patches * (1 - recipe.mask_ratio)) < 1:
        raise MarsError(
            f"mask_ratio {recipe.mask_ratio:g} removes all {patches} patches of images of {recipe.image_size} pixels: "
            "take a lower one, or a larger image_size"
        )


def _report(
    trained: Classifier | FeatureHead, config: EncoderConfig, recipe: ClsRecipe, history: History, images: pd.DataFrame
) -> dict[str, Any]:
    splits = {split: images.loc[images["split"] == split, "label"] for split in ("train", "valid")}
    parameters = sum(p.numel() for p in trained.parameters())
    if isinstance(trained, FeatureHead):
        parameters += _encoder_parameters(config)
    best, last = best_of(history), history[-1]
    return {
        "steps": int(last["step"]),
        "best_step": int(best["step"]),
        "stopped_early": last["step"] < recipe.steps,
        "best": _json_able(best),
        "last": _json_able(last),
        "median_side": _median_side(images),
        "image_size": recipe.image_size,
        **{f"n_{split}": len(labels) for split, labels in splits.items()},
        **{f"n_{split}_craters": int(labels.sum()) for split, labels in splits.items()},
        "parameters": parameters,
        "trained_parameters": sum(p.numel() for p in trained.parameters() if p.requires_grad),
    }


@functools.cache
def _encoder_parameters(config: EncoderConfig) -> int:
    return sum(p.numel() for p in new_encoder(config, meta=True).parameters())


def _json_able(row: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in row.items()}
