"""Execution of a transfer study: existing results are reused.

The encoders and seeds of a study are computed one after the other, and the predictions of each are a file. A study that
was killed continues with those that are missing.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from mars_assets.bands import HLS_BANDS
from mars_assets.classification.data import load_chip
from mars_assets.classification.features import POOLINGS, FeatureCache
from mars_assets.classification.recipe import ClsRecipe
from mars_assets.classification.train import check_encoder, sized
from mars_assets.code_versions import FEATURES, TRANSFER
from mars_assets.datasets import classification_dataset
from mars_assets.encoders.registry import is_drawn
from mars_assets.encoders.weights import open_encoder
from mars_assets.errors import MarsError
from mars_assets.experiments.hold_back import HELD_BACK, hold_back_part
from mars_assets.lake import Lake
from mars_assets.models.starting_point import Start, initial_encoder, start_from_weights
from mars_assets.prithvi.config import VARIANTS
from mars_assets.progress import SILENT, Progress
from mars_assets.storage.files import write_table
from mars_assets.storage.hashing import fingerprint
from mars_assets.training.compute import Compute
from mars_assets.transfer.baselines import FEATURES as BASELINE_FEATURES
from mars_assets.transfer.heads import NEIGHBOURS, REGULARISATION, Features, tuned
from mars_assets.transfer.protocol import BASELINES, TransferStudy, studied
from mars_assets.transfer.subsets import drawn_order, sizes

if TYPE_CHECKING:
    from mars_assets.encoders.weights import Encoder

ASSET = "transfer_study"


@dataclass(frozen=True)
class StudyJob:
    """A study to run.

    Args:
        lake: contains the inputs and the results.
        study: the settings.
        compute: device and precision; each repetition has its own seed, from 1.
        progress: reports what is computed.
    """

    lake: Lake
    study: TransferStudy
    _: KW_ONLY
    compute: Compute
    progress: Progress = SILENT


@dataclass(frozen=True, kw_only=True)
class Contender:
    """An encoder or a baseline, and what it is applied to.

    Args:
        name: as in :func:`mars_assets.transfer.protocol.studied`.
        start: the weights; None for a baseline.
        images: those of train and valid, ordered by id: ``image_id, split, observation, label, chip, chip_sha,
            labels_sha``.
        recipe: how images are shown to it.
        label_version: version of the labels.
    """

    name: str
    start: Start | None
    images: pd.DataFrame
    recipe: ClsRecipe
    label_version: str

    @property
    def sha256(self) -> str:
        """Identify the weights."""
        return self.start.sha256 if self.start else self.name


class Repetition(NamedTuple):
    """The predictions of a contender with one seed.

    Args:
        contender: the encoder or baseline.
        seed: of the labels drawn, and of random weights.
        path: table of the predictions: ``way, fraction, part, n_train, setting, validation_loss, seconds, image_id,
            probability, trained_parameters, parameters, gflop``.
    """

    contender: Contender
    seed: int
    path: Path


def contenders_of(lake: Lake, study: TransferStudy) -> list[Contender]:
    """Collect the encoders of a study and their inputs, all checked.

    Raises:
        MissingInputError: weights or labelled tensors have not been materialized.
        ProvenanceError: tensors and weights do not match.
        MarsError: the labels do not suffice, or an encoder cannot see images of this size.
    """
    found = []
    for name in studied(lake, study):
        start = None if name in BASELINES else start_from_weights(lake, name)
        dataset = classification_dataset(lake, start.statistics if start else None)
        images = dataset.images[dataset.images["split"].isin(["train", "valid"])]
        images = images.sort_values("image_id", ignore_index=True)
        _require_enough(images, study)
        settings: dict[str, Any] = {"frozen": True, "mask_ratio": 0.0, "augment": "none", "all_orientations": False}
        recipe = sized(ClsRecipe(**settings, **({"encoder": name} if start else {})), images)
        if start:
            check_encoder(recipe, open_encoder(start.folder).config)
        label_version = dataset.provenance["label_version"]
        found.append(Contender(name=name, start=start, images=images, recipe=recipe, label_version=label_version))
    return found


def repetitions_of(job: StudyJob, contenders: Sequence[Contender]) -> list[Repetition]:
    """List the parts of a study in the order in which they are computed."""
    return [
        Repetition(contender, seed, job.lake.study_predictions(_key(job, contender, seed)))
        for contender in contenders
        for seed in range(1, job.study.seeds + 1)
    ]


def run_study(job: StudyJob) -> tuple[list[Repetition], int]:
    """Compute what is missing of a study.

    Returns:
        All its parts, and how many of them were computed now.

    Raises:
        MarsError: see :func:`contenders_of`.
    """
    repetitions = repetitions_of(job, contenders_of(job.lake, job.study))
    missing = [one for one in repetitions if not one.path.exists()]
    counter = job.progress.counter("encoders and seeds", len(missing))
    features: tuple[str, Features, dict[str, float]] | None = None
    for one in missing:
        name = one.contender.name
        if features is None or features[0] != name or is_drawn(name):
            job.progress.say(f"{name}, seed {one.seed}" if is_drawn(name) else name)
            features = name, *_features(job, one)
        write_table(one.path, pd.DataFrame(_predicted(job, one, features[1])).assign(**features[2]))
        counter.advance(note=f"{name}, seed {one.seed}")
    if missing:
        counter.close()
    return repetitions, len(missing)


def _require_enough(images: pd.DataFrame, study: TransferStudy) -> None:
    valid = images.loc[images["split"] == "valid", "label"]
    if valid.nunique() < 2:
        raise MarsError(
            "the validation images choose settings, so both classes must be among them: move some observations to "
            "the split valid, in the exports or where they are divided"
        )
    for part in _parts(images, study.folds):
        if images.loc[part == "train", "label"].nunique() < 2:
            raise MarsError(
                f"with {study.folds} parts, one leaves training images of one class only: label further "
                "observations, or choose other folds"
            )


def _parts(images: pd.DataFrame, folds: int) -> Iterator[npt.NDArray[np.object_]]:
    """Yield the split of each image for each part that is not empty."""
    for fold in range(folds):
        split = hold_back_part(images, folds, fold)["split"].to_numpy(object)
        if (split == HELD_BACK).any():
            yield split


def _key(job: StudyJob, contender: Contender, seed: int) -> str:
    """Fingerprint all that predictions follow from."""
    identity = ["image_id", "split", "observation", "label", "chip_sha", "labels_sha"]
    drawn = torch.__version__ if is_drawn(contender.name) else ""
    return fingerprint(
        *(TRANSFER, FEATURES, contender.name, contender.sha256, drawn, seed, job.compute.precision),
        contender.recipe.model_dump(exclude={"encoder"}),
        [*REGULARISATION, *NEIGHBOURS],
        *(job.study.ways, job.study.fractions, job.study.folds),
        contender.images[identity].astype(str).to_dict("list"),
    )[:16]


def _features(job: StudyJob, one: Repetition) -> tuple[Features, dict[str, float]]:
    """Compute the features (n, D) of all images, and what they cost for each."""
    contender, images = one.contender, one.contender.images
    if contender.start is None:
        return _baseline(contender, job.progress), {"parameters": 0.0, "gflop": 0.0}
    compute = replace(job.compute, seed=one.seed)
    load = functools.cache(functools.partial(initial_encoder, contender.recipe, contender.start.folder, compute))
    cache = FeatureCache(job.lake.features, contender.sha256, contender.recipe, compute)
    found = cache.of(load, images, job.progress)[:, 0, POOLINGS.index(contender.recipe.pooling)].numpy()
    return found, _cost(load(), contender.recipe.image_size)


def _baseline(contender: Contender, progress: Progress) -> Features:
    places = [HLS_BANDS.index(band) for band in ("RED", "GREEN", "BLUE")]
    chips = progress.track(contender.images["chip"], f"computing {contender.name}")
    recipe = contender.recipe
    shown = (load_chip(Path(chip), VARIANTS["v1_100"].config, recipe.image_size, recipe.normalize) for chip in chips)
    return np.stack([BASELINE_FEATURES[contender.name](chip[places].mean(0).numpy()) for chip in shown])


def _cost(encoder: Encoder, side: int) -> dict[str, float]:
    """Count an encoder's parameters, and an image's operations in 10^9."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        encoder.cpu()(torch.zeros(1, encoder.config.in_chans, side, side))
    parameters = sum(values.numel() for values in encoder.parameters())
    return {"parameters": float(parameters), "gflop": counter.get_total_flops() / 1e9}


def _predicted(job: StudyJob, one: Repetition, features: Features) -> dict[str, npt.NDArray[Any]]:
    """Fit and tune all heads of a repetition, and predict the held-out images."""
    images = one.contender.images
    labels, ids = images["label"].to_numpy(np.int64), images["image_id"].to_numpy(object)
    rows: list[tuple[Any, ...]] = []
    for part, split in enumerate(_parts(images, job.study.folds)):
        train, valid, held = (np.flatnonzero(split == name) for name in ("train", "valid", HELD_BACK))
        order = train[drawn_order(images.iloc[train], one.seed)]
        for fraction, size in zip(job.study.fractions, sizes(len(train), 2, job.study.fractions), strict=True):
            some = order[:size]
            for way in job.study.ways:
                labelled, validation = ((features[places], labels[places]) for places in (some, valid))
                found = tuned(way, labelled, validation, features[held])
                trained = features.shape[1] + 1 if way == "linear" else 0
                about = way, fraction, part, size, found.setting, found.validation_loss, found.seconds, trained
                rows.append((about, ids[held], found.probabilities))
    names = (*("way", "fraction", "part", "n_train", "setting", "validation_loss", "seconds"), "trained_parameters")
    lengths = [len(held) for _, held, _ in rows]
    columns = {name: np.repeat([about[place] for about, _, _ in rows], lengths) for place, name in enumerate(names)}
    each = {"image_id": np.concatenate([held for _, held, _ in rows])}
    return columns | each | {"probability": np.concatenate([found for _, _, found in rows])}
