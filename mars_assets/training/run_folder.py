"""The folder of one training.

It is started, continued after a kill, finished, and never mixed with another training.

``training/`` in it holds what the training continues from; ``config.json``, written last, marks it as finished.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pandas as pd

from mars_assets.errors import MarsError, MissingInputError, ProvenanceError
from mars_assets.lake import CONFIG, SCRATCH, SETTINGS
from mars_assets.progress import SILENT, Progress
from mars_assets.storage.files import read_json, sweep, write_json
from mars_assets.storage.hashing import fingerprint
from mars_assets.training.compute import Compute
from mars_assets.training.recipe import Recipe

if TYPE_CHECKING:
    from mars_assets.prithvi.config import PrithviConfig


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


def begin(job: TrainingJob[Any, Any], weights_sha256: str, images: str) -> dict[str, Any] | None:
    """Start or continue a training.

    A training that was started in another precision is restarted, since half a training in each is neither; a finished
    one is left as it is.

    Args:
        job: the training.
        weights_sha256: sha256 of the initial weights.
        images: fingerprint of the images, see :func:`identity_of`.

    Returns:
        The report of a finished training; else None, and ``training/`` exists.

    Raises:
        ProvenanceError: the folder holds a training with other settings; every difference is listed.
    """
    folder, scratch, precision = job.folder, job.folder / SCRATCH, job.compute.precision
    settings = {**job.recipe.identity(), "seed": job.compute.seed, "weights": weights_sha256, "images": images}
    if (folder / CONFIG).exists():
        config = read_json(folder / CONFIG)
        _refuse_others(config["settings"], settings, folder)
        shutil.rmtree(scratch, ignore_errors=True)  # of a run killed after it was finished
        report: dict[str, Any] = config["report"]
        return report
    if (scratch / SETTINGS).exists():
        begun = read_json(scratch / SETTINGS)
        before = begun.pop("precision", "")
        _refuse_others(begun, settings, folder)
        if before != precision:
            job.progress.say(
                f"this run was started in {before or 'an unknown precision'} and "
                f"is now {precision}: restarting from step 0"
            )
            shutil.rmtree(scratch)
    write_json(scratch / SETTINGS, {**settings, "precision": precision})
    for place in (folder, scratch):
        sweep(place)
    return None


def finish(
    job: TrainingJob[Any, Any], classes: tuple[str, ...], encoder: PrithviConfig, report: dict[str, Any]
) -> None:
    """Write ``config.json``, and remove what only training needed.

    It has everything needed to open the model.
    """
    settings = read_json(job.folder / SCRATCH / SETTINGS)
    del settings["precision"]
    write_json(
        job.folder / CONFIG,
        {
            "recipe": job.recipe.model_dump(),
            "seed": job.compute.seed,
            "classes": classes,
            "bands": encoder.bands,
            "statistics": encoder.to_dict()["statistics"],
            "prithvi": encoder.to_dict(),
            "provenance": job.provenance,
            "compute": job.compute.describe(),
            "settings": settings,
            "report": report,
        },
    )
    shutil.rmtree(job.folder / SCRATCH)


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
