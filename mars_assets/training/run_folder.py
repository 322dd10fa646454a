"""The folder of one training.

It is started, continued after a kill, finished, and never mixed with another training.

Who trains claims the folder, see :mod:`mars_assets.storage.claims`. ``training/`` in it holds what the training
continues from; ``config.json``, written last, marks it as finished.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pandas as pd

from mars_assets.errors import DivergedError, MarsError, MissingInputError, ProvenanceError
from mars_assets.lake import CONFIG, SCRATCH, SETTINGS
from mars_assets.progress import SILENT, Progress
from mars_assets.storage.claims import claim, has_work
from mars_assets.storage.files import read_json, sweep, write_json
from mars_assets.storage.hashing import fingerprint
from mars_assets.training.compute import Compute
from mars_assets.training.recipe import Recipe

if TYPE_CHECKING:
    from mars_assets.encoders.config import EncoderConfig


R = TypeVar("R", bound=Recipe)
Images = TypeVar("Images")

_IDENTITY = ("image_id", "split", "label", "labels_sha", "mask_sha", "chip_sha")


@dataclass(frozen=True)
class TrainingJob(Generic[R, Images]):
    """One training.

    Args:
        recipe: how to train.
        images: what to train on. Of a task's images, those of the splits train and valid are used.
        weights: folder of the weights that training starts from, or of the finished model.
        folder: of this one training.
        compute: device, precision and seed.
        provenance: copied into ``config.json``.
        progress: takes lines.
        cache: folder that trainings on the same frozen encoder share; without it nothing is shared.
        whole: write a model that can be opened on its own; a sweep, which has the starting point at hand, does without.
    """

    recipe: R
    images: Images
    weights: Path
    folder: Path
    compute: Compute
    provenance: dict[str, Any]
    progress: Progress = SILENT
    cache: Path | None = None
    whole: bool = True


def used_images(images: pd.DataFrame, empty: str) -> pd.DataFrame:
    """Select the images of the training and validation sets, ordered by id.

    Args:
        images: of a dataset.
        empty: the message about a split without images, which it names as ``{split}``.

    Raises:
        MarsError: one of the two has none.
    """
    images = images[images["split"].isin(["train", "valid"])].sort_values("image_id", ignore_index=True)
    for split in ("train", "valid"):
        if not (images["split"] == split).any():
            raise MarsError(empty.format(split=split))
    return images


def identity_of(images: pd.DataFrame) -> str:
    """Fingerprint the images of a training.

    Columns are ``image_id`` and those of ``split, label, ..._sha`` that exist.
    """
    return fingerprint(images[[name for name in _IDENTITY if name in images]].to_numpy().tolist())


@dataclass(frozen=True)
class Trained:
    """A training that has ended.

    Args:
        report: its results, JSON-able.
        classes: that the model tells apart.
        encoder: configuration of the model's encoder.
        write: writes the model into a folder.
    """

    report: dict[str, Any]
    classes: tuple[str, ...]
    encoder: EncoderConfig
    write: Callable[[Path], None]


def run_training(
    job: TrainingJob[Any, Any], weights_sha256: str, images: str, fit: Callable[[Path], Trained]
) -> dict[str, Any]:
    """Start or continue a training, and write its results.

    A training that was started in another precision is restarted, since half a training in each is neither; a finished
    one is left as it is. If another process trains in the folder, this one waits for it.

    Args:
        job: the training.
        weights_sha256: sha256 of the initial weights.
        images: fingerprint of the images, see :func:`identity_of`.
        fit: trains, from what is in a folder to the end, and leaves there what a killed training continues from.

    Returns:
        The report.

    Raises:
        ProvenanceError: the folder holds a training with other settings; every difference is listed.
        SupersededError: another process took the training over.
    """
    settings = {**job.recipe.identity(), "seed": job.compute.seed, "weights": weights_sha256, "images": images}
    place = job.folder / SCRATCH
    if not has_work(place) and (report := _finished(job.folder, settings)) is not None:
        return report
    with claim(job.folder, place, job.progress) as mine:
        if (report := _finished(job.folder, settings)) is not None:
            shutil.rmtree(mine.folder)  # of a run killed after it was finished
            mine.folder.mkdir()
            return report
        _begin(job, settings, mine.folder)
        try:
            trained = fit(mine.folder)
        except DivergedError:
            shutil.rmtree(mine.folder)  # to go on ends the same way
            mine.folder.mkdir()
            raise
        with mine.publishing():
            trained.write(job.folder)
            _write_config(job, settings, trained)
    return trained.report


def _finished(folder: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Read the report of a finished training; None if it is not finished."""
    if not (folder / CONFIG).exists():
        return None
    config = read_json(folder / CONFIG)
    _refuse_others(config["settings"], settings, folder)
    report: dict[str, Any] = config["report"]
    return report


def _begin(job: TrainingJob[Any, Any], settings: dict[str, Any], scratch: Path) -> None:
    """Prepare the folder from which a training starts or continues."""
    precision = job.compute.precision
    if (scratch / SETTINGS).exists():
        begun = read_json(scratch / SETTINGS)
        before = begun.pop("precision", "")
        _refuse_others(begun, settings, job.folder)
        if before != precision:
            job.progress.say(
                f"this run was started in {before or 'an unknown precision'} and "
                f"is now {precision}: restarting from step 0"
            )
            shutil.rmtree(scratch)
    write_json(scratch / SETTINGS, {**settings, "precision": precision})
    for place in (job.folder, scratch):
        sweep(place)


def _write_config(job: TrainingJob[Any, Any], settings: dict[str, Any], trained: Trained) -> None:
    """Write ``config.json``, which has everything needed to open the model."""
    write_json(
        job.folder / CONFIG,
        {
            "recipe": job.recipe.model_dump(),
            "seed": job.compute.seed,
            "classes": trained.classes,
            "bands": trained.encoder.bands,
            "statistics": trained.encoder.to_dict()["statistics"],
            "encoder": trained.encoder.to_dict(),
            "provenance": job.provenance,
            "compute": job.compute.describe(),
            "settings": settings,
            "report": trained.report,
        },
    )


def require_finished(folder: Path, asset: str) -> None:
    """Check that a folder holds a finished training.

    Raises:
        MissingInputError: it does not.
    """
    if not (folder / CONFIG).exists():
        raise MissingInputError(asset, folder / CONFIG)


def _refuse_others(there: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    different = [
        f"{name} {there.get(name)!r} there, {now.get(name)!r} now"
        for name in sorted(there.keys() | now.keys())
        if there.get(name) != now.get(name)
    ]
    if different:
        raise ProvenanceError(
            f"{folder} holds a training with other settings: "
            f"{'; '.join(different)}. Train into another folder, or delete it"
        )
