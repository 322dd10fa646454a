"""Fine-tuning of the classifier: validated as it goes, resumed where it stopped, the best state kept."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mars_assets.classification.checkpoint import (
    begin_with_outlines,
    build_baseline,
    build_classifier,
    load_weights,
    save_weights,
    start_of,
)
from mars_assets.classification.data import Chips, Inputs, augment, median_side, shares_of
from mars_assets.classification.evaluate import scores
from mars_assets.classification.features import FeatureCache, FeatureHead, are_enough
from mars_assets.classification.model import Classifier
from mars_assets.classification.recipe import CLASSES, OUTLINES, PRITHVI, ClsRecipe
from mars_assets.errors import DivergedError, MarsError
from mars_assets.lake import HISTORY, SCRATCH, WEIGHTS
from mars_assets.prithvi.config import PrithviConfig
from mars_assets.prithvi.model import PrithviEncoder
from mars_assets.prithvi.weights import load_encoder
from mars_assets.progress import SILENT, Progress
from mars_assets.storage.files import atomic_path, write_table
from mars_assets.training.run_folder import begin, finish, settings_of
from mars_assets.training.sampler import BatchesOfSteps
from mars_assets.training.schedule import learning_rate_factor, seed_step

if TYPE_CHECKING:
    from mars_assets.training.compute import Compute


Batch = tuple[Tensor, Tensor]
History = list[dict[str, float]]

SMALL, LARGE = 112, 224
"""Sides in pixels that a recipe without a size takes. Tiles of 227 pixels, which their craters half fill, are told best at 112
(``docs/results/classification.md``); larger images are shown at the same scale as far as 224 goes."""
LAST = "last.pt"
VALIDATED = ("loss", "accuracy", "balanced_accuracy", "auroc")
"""Which of the validation's scores the history keeps, as ``valid_NAME``."""


def classification_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Binary cross entropy with logits, (B,) and (B,) -> scalar, against targets drawn towards 0.5."""
    targets = labels * (1 - label_smoothing) + label_smoothing / 2
    return F.binary_cross_entropy_with_logits(logits.float(), targets)


def best_of(history: History) -> dict[str, float]:
    """The validation of lowest loss; the earliest of equals.

    The loss and not the accuracy: a validation split of a hundred images gives accuracy in steps of a percent, so that
    its maximum is mostly luck, while the loss uses every probability and is proper, i.e. rewards calibration.
    """
    return min(history, key=lambda row: row["valid_loss"])


def is_over(history: History, recipe: ClsRecipe) -> bool:
    """Whether a training with this history takes no further step."""
    if not history:
        return False
    since_best = len(history) - 1 - history.index(best_of(history))
    return history[-1]["step"] >= recipe.steps or 0 < recipe.patience <= since_best


class FineTuning:
    """A training of the classifier: its state, a step of it, a validation.

    Every random number of a step (augmentation, masking, dropout, choice of images) follows from the seed and the step's
    number, so that a resumed training is the unbroken one.

    Args:
        classifier: what is trained, in place: of chips, or of the features of a frozen encoder.
        recipe: how.
        compute: device, precision, and the seed of every random number.
    """

    def __init__(self, classifier: Classifier | FeatureHead, recipe: ClsRecipe, compute: Compute) -> None:
        self.classifier = classifier.to(compute.device).train()  # loaded weights come in evaluation mode
        self.recipe = recipe
        self.compute = compute
        self.averaged = (
            AveragedModel(classifier, multi_avg_fn=get_ema_multi_avg_fn(recipe.average_weights), use_buffers=True)
            if recipe.average_weights
            else None
        )
        self.optimizer = self._optimizer()
        self.steps = 0
        self.history: History = []
        of_features = isinstance(classifier, FeatureHead)
        self._augment = "none" if of_features else recipe.augment
        self._autocast = contextlib.nullcontext if of_features else compute.autocast
        self._losses: list[Tensor] = []

    @property
    def kept(self) -> Classifier | FeatureHead:
        """The classifier that is validated and kept: the averaged one, where weights are averaged."""
        return cast("Classifier | FeatureHead", self.averaged.module) if self.averaged is not None else self.classifier

    def _optimizer(self) -> torch.optim.Optimizer:
        recipe = self.recipe
        if isinstance(self.classifier, Classifier):
            groups = param_groups_layer_decay(
                self.classifier.layers,
                weight_decay=recipe.weight_decay,
                no_weight_decay_list=self.classifier.without_decay,
                layer_decay=recipe.layer_decay,
            )
        else:
            groups = param_groups_weight_decay(self.classifier, recipe.weight_decay)
        for group in groups:
            group["initial_lr"] = recipe.lr * group.pop("lr_scale", 1.0)
        kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
        return kind(groups, lr=recipe.lr, fused=True)  # a third of the time, also on CPU

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Of a batch as it comes from memory: augmented, masked, dropped out. A scalar with its gradient's graph."""
        # Not under autocast, which would round coordinates by up to most of a pixel.
        inputs = augment(inputs, self._augment)
        with self._autocast():
            logits = self.classifier(inputs)
            return classification_loss(logits, labels, self.recipe.label_smoothing)

    def step(self, inputs: Tensor, labels: Tensor) -> None:
        """One step of the training, on a batch of any device."""
        seed_step(self.compute.seed, self.steps)
        loss = self.loss(inputs.to(self.compute.device), labels.to(self.compute.device))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._losses.append(loss.detach())
        self.update()

    def update(self) -> None:
        """The optimizer's step at this step's learning rate, and the average's."""
        recipe = self.recipe
        factor = learning_rate_factor(self.steps, recipe.steps, recipe.warmup_steps, recipe.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        self.optimizer.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.classifier)
        self.steps += 1

    def validate(self, batches: Iterable[Batch]) -> None:
        """Adds a row to the history.

        Raises:
            DivergedError: the loss since the last validation, or a logit, is not finite.
        """
        kept = self.kept.eval()
        logits, labels = [], []
        with torch.inference_mode(), self._autocast():
            for inputs, some in batches:
                logits.append(kept(inputs.to(self.compute.device)).double().cpu())
                labels.append(some)
        self.classifier.train()
        found = torch.cat(logits)
        train_loss = float(torch.stack(self._losses).mean())
        self._losses.clear()
        if not (math.isfinite(train_loss) and found.isfinite().all()):
            raise DivergedError(
                f"the loss is not finite before step {self.steps}: the training diverged. "
                f"Take a lower lr than {self.recipe.lr:g} or a longer warm-up"
            )
        values = scores(torch.cat(labels).long().numpy(), found.sigmoid().numpy())
        row = {"step": float(self.steps), "train_loss": train_loss}
        self.history.append(row | {f"valid_{name}": values[name] for name in VALIDATED})

    def state_dict(self) -> dict[str, Any]:
        """All that a training after a validation goes on from: plain values and tensors."""
        return {
            "steps": self.steps,
            "history": self.history,
            **{name: part.state_dict() for name, part in self._parts().items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.history = state["steps"], state["history"]
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = {"classifier": self.classifier, "optimizer": self.optimizer}
        return parts | ({"averaged": self.averaged} if self.averaged is not None else {})


class _Keeper:
    """After each validation: says how it went, keeps the best weights, and now and then leaves a checkpoint to resume from.

    Args:
        task: the training.
        scratch: where the checkpoint and the best weights at that time go.
        progress: takes lines.
        save_every: seconds between two checkpoints; the first validation leaves one in any case.
    """

    def __init__(self, task: FineTuning, scratch: Path, progress: Progress, save_every: float) -> None:
        self._task = task
        self._scratch = scratch
        self._progress = progress
        self._save_every = save_every
        self._saved = -math.inf
        self._best: dict[str, Tensor] | None = None

    def keep(self) -> None:
        task = self._task
        row = task.history[-1]
        self._progress.say(
            f"step {row['step']:.0f}/{task.recipe.steps}: train loss {row['train_loss']:.4f}, validation loss "
            f"{row['valid_loss']:.4f}, accuracy {row['valid_accuracy']:.3f}"
        )
        if row is best_of(task.history):
            self._best = {name: value.detach().cpu().clone() for name, value in task.kept.state_dict().items()}
        if time.monotonic() - self._saved >= self._save_every:
            self._save()

    def best(self) -> dict[str, Tensor]:
        """The weights of the best validation so far."""
        return load_weights(self._file()) if self._best is None else self._best

    def _file(self) -> Path:
        """Where the best weights are kept: named by their step, so that they are those that the history tells of."""
        return self._scratch / f"best-{best_of(self._task.history)['step']:.0f}.safetensors"

    def _save(self) -> None:
        best = self._file()
        if self._best is not None:  # else the best are those of the run that this one continues
            save_weights(best, self._best)
            self._best = None
        with atomic_path(self._scratch / LAST) as temporary:
            torch.save(self._task.state_dict(), temporary)
        for weights in self._scratch.glob("best-*.safetensors"):
            if weights != best:
                weights.unlink()
        self._saved = time.monotonic()


def train_classifier(
    recipe: ClsRecipe,
    images: pd.DataFrame,
    weights: Path,
    folder: Path,
    compute: Compute,
    provenance: dict[str, Any],
    progress: Progress = SILENT,
    *,
    memory_gb: float = 2.0,
    features: Path | None = None,
    whole: bool = True,
    save_every: float = 20.0,
) -> dict[str, Any]:
    """Trains a classifier into ``folder``, or goes on where a training into it stopped, or returns a finished one's report.

    While it trains, ``folder/training`` holds the last checkpoint and the best weights. The result is
    ``model.safetensors`` (the state of the lowest validation loss), ``history.parquet`` (one row a validation) and
    ``config.json``, written last.

    Args:
        recipe: how to train.
        images: ``image_id, split (train, valid, ...), chip (path), label (0 or 1), observation``, and ``chip_sha`` if the
            chips have one. Their order does not matter.
        weights: folder of the encoder's weights; for the architecture ``seg_model`` of a finished segmentation model.
        folder: of this one training.
        compute: device, precision and seed.
        provenance: is put into ``config.json`` as it is.
        progress: of the steps.
        memory_gb: how much the chips may take in memory; those beyond it are read anew each time.
        features: a folder where the features of frozen encoders are kept for other trainings; without it they are not.
        whole: write the encoder too where only the linear unit was trained on features.
        save_every: seconds between two checkpoints, each left by a validation: a killed run loses no more than these and
            the stretch to the next validation.

    Returns:
        JSON-able: ``steps``, ``best_step``, ``best`` and ``last`` (rows of the history), ``stopped_early``, ``n_train``,
        ``n_valid``, ``n_train_craters``, ``n_valid_craters``, ``median_side`` (of the training images, pixels), ``image_size`` (that they were shown at),
        ``parameters``, ``trained_parameters``.

    Raises:
        MarsError: there are no images to train or validate on, or one class only, the masking leaves nothing of them, or
            the training diverged.
        ProvenanceError: the folder holds a training of other settings.
    """
    images = _checked(images)
    stated, recipe = recipe, _sized(recipe, images)
    start, sha256 = start_of(recipe, weights)
    _check_masking(recipe, start)
    settings = settings_of(stated, images, sha256, compute.seed)
    finished = begin(folder, settings, compute.precision, progress)
    if finished is not None:
        return finished
    scratch = folder / SCRATCH

    if features is not None and "chip_sha" in images and are_enough(recipe):
        cache = FeatureCache(features, sha256, recipe, compute)
        inputs: Inputs = cache.of(lambda: new_encoder(recipe, start, weights, compute), images, progress)
        compute.seed_everything()
        trained: Classifier | FeatureHead = FeatureHead(start.embed_dim, recipe)
    else:
        compute.seed_everything()
        trained = _new_classifier(recipe, start, weights, folder, compute)
        if recipe.frozen:
            trained.freeze()
        paths = [Path(chip) for chip in images["chip"]]
        inputs = Chips(paths, trained.config, recipe.image_size, memory_gb, recipe.normalize)
    task = FineTuning(trained, recipe, compute)
    _resume(task, scratch)
    keeper = _Keeper(task, scratch, progress, save_every)
    if not is_over(task.history, recipe):  # else killed between the last checkpoint and the result
        _fit(task, inputs, images, keeper, progress)
    history = task.history

    write_table(folder / HISTORY, pd.DataFrame(history).astype({"step": "int64"}))
    best = keeper.best()
    if whole and isinstance(trained, FeatureHead):
        encoder = new_encoder(recipe, start, weights, compute)
        best |= {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    save_weights(folder / WEIGHTS, best)
    report = _report(trained, start, recipe, history, images)
    finish(
        folder,
        recipe=stated,
        classes=CLASSES,
        encoder=start,
        settings=settings,
        provenance=provenance,
        compute=compute,
        report=report,
    )
    return report


def _new_classifier(
    recipe: ClsRecipe, start: PrithviConfig, weights: Path, folder: Path, compute: Compute
) -> Classifier:
    if recipe.architecture == OUTLINES:
        return begin_with_outlines(weights, start, folder)
    if recipe.architecture == PRITHVI:
        return build_classifier(recipe, new_encoder(recipe, start, weights, compute))
    return build_baseline(recipe, start, recipe.imagenet)


def new_encoder(recipe: ClsRecipe, config: PrithviConfig, weights: Path, compute: Compute) -> PrithviEncoder:
    """The encoder that a recipe starts from; random weights are those of the seed."""
    if recipe.encoder != "random":
        return load_encoder(weights)
    compute.seed_everything()
    return PrithviEncoder(config)


def _resume(task: FineTuning, scratch: Path) -> None:
    """Puts a training to where it stopped, if it was begun."""
    if (scratch / LAST).exists():
        task.load_state_dict(torch.load(scratch / LAST, map_location=task.compute.device, weights_only=True))


def _fit(task: FineTuning, inputs: Inputs, images: pd.DataFrame, keeper: _Keeper, progress: Progress) -> None:
    """Trains to the end."""
    recipe = task.recipe
    labels = torch.tensor(images["label"].tolist(), dtype=torch.float32)
    train, valid = (np.flatnonzero(images["split"] == split) for split in ("train", "valid"))
    shares = shares_of(images[images["split"] == "train"], recipe.draw)

    def batch(places: npt.NDArray[np.intp]) -> Batch:
        chosen = torch.from_numpy(places)
        if isinstance(inputs, Tensor):
            return inputs.index_select(0, chosen), labels.index_select(0, chosen)
        return torch.stack([inputs[place] for place in places.tolist()]), labels.index_select(0, chosen)

    if task.steps:
        progress.say(f"training goes on after step {task.steps}")
    counter = progress.counter("training", recipe.steps - task.steps, "steps")
    while not is_over(task.history, recipe):
        stretch = range(task.steps, min(task.steps + recipe.evaluate_every, recipe.steps))
        for drawn in BatchesOfSteps(len(train), recipe.batch_size, stretch, task.compute.seed, shares):
            task.step(*batch(train[drawn]))
            counter.advance()
        size = max(32, recipe.batch_size)
        task.validate(batch(valid[start : start + size]) for start in range(0, len(valid), size))
        keeper.keep()
    counter.close()


def _sized(recipe: ClsRecipe, images: pd.DataFrame) -> ClsRecipe:
    """The recipe with the size that it leaves to the images."""
    if recipe.image_size:
        return recipe
    half = (_median_side(images) or 0) / 2
    return recipe.model_copy(update={"image_size": min((SMALL, LARGE), key=lambda size: abs(size - half))})


def _median_side(images: pd.DataFrame) -> float | None:
    return median_side([Path(chip) for chip in images.loc[images["split"] == "train", "chip"]])


def _checked(images: pd.DataFrame) -> pd.DataFrame:
    """The images of train and valid, ordered by id.

    Raises:
        MarsError: see :func:`train_classifier`.
    """
    images = images[images["split"].isin(["train", "valid"])].sort_values("image_id", ignore_index=True)
    if not images["label"].isin([0, 1]).all():
        raise MarsError(
            f"labels are 0 ({CLASSES[0]}) and 1 ({CLASSES[1]}); these are {sorted(images['label'].unique())}"
        )
    for split in ("train", "valid"):
        if not (images["split"] == split).any():
            raise MarsError(
                f"no image with a class is in the split '{split}': put an export with one into the lake's inbox, or some "
                "observations into that split, and make 'labelled_crops' again"
            )
    present = images.loc[images["split"] == "train", "label"].unique()
    if len(present) < 2:
        raise MarsError(
            f"all training images are of class {CLASSES[present[0]]}: a classifier needs both. Label some images of class "
            f"{CLASSES[1 - present[0]]}, or move observations between the splits"
        )
    return images


def _check_masking(recipe: ClsRecipe, config: PrithviConfig) -> None:
    """
    Raises:
        MarsError: the masking leaves nothing of an image.
    """
    patches = (recipe.image_size // config.patch_size[1]) * (recipe.image_size // config.patch_size[2])
    if recipe.architecture == PRITHVI and int(patches * (1 - recipe.mask_ratio)) < 1:
        raise MarsError(
            f"mask_ratio {recipe.mask_ratio:g} removes all {patches} patches of images of {recipe.image_size} pixels: take a "
            "lower one, or a larger image_size"
        )


def _report(
    trained: Classifier | FeatureHead, config: PrithviConfig, recipe: ClsRecipe, history: History, images: pd.DataFrame
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
def _encoder_parameters(config: PrithviConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in PrithviEncoder(config).parameters())


def _json_able(row: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in row.items()}
