"""The folder of one training: started, continued after a kill, finished, and never mixed with another training.

``training/`` in it holds what the training continues from; ``config.json``, written last, marks it as finished.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mars_assets.errors import MissingInputError, ProvenanceError
from mars_assets.lake import CONFIG, SCRATCH, SETTINGS
from mars_assets.progress import SILENT, Progress
from mars_assets.storage.files import read_json, sweep, write_json
from mars_assets.storage.hashing import fingerprint
from mars_assets.training.compute import Compute

if TYPE_CHECKING:
    from mars_assets.prithvi.config import PrithviConfig
    from mars_assets.training.recipe import TrainingRecipe


_IDENTITY = ("image_id", "split", "label", "labels_sha", "mask_sha", "chip_sha")


def settings_of(recipe: TrainingRecipe, images: pd.DataFrame, weights_sha256: str, seed: int) -> dict[str, Any]:
    """Return what a training must have in common with one that it continues.

    Args:
        recipe: the recipe of the training.
        images: its images; those of ``image_id, split, label, labels_sha, mask_sha, chip_sha`` that exist identify them.
        weights_sha256: sha256 of the initial weights.
        seed: the seed of the training.
    """
    columns = [name for name in _IDENTITY if name in images]
    described = fingerprint(images[columns].to_numpy().tolist())
    return {**recipe.identity(), "seed": seed, "weights": weights_sha256, "images": described}


def begin(
    folder: Path, settings: dict[str, Any], precision: str = "", progress: Progress = SILENT
) -> dict[str, Any] | None:
    """Start or continue a training.

    Args:
        folder: the folder of this one training.
        settings: settings of the training; see :func:`settings_of`.
        precision: precision of its computations. A training that was started in another precision is restarted, since half
            a training in each is neither; a finished one is left as it is.
        progress: reports a restart.

    Returns:
        The report of a finished training; else None, and ``training/`` exists.

    Raises:
        ProvenanceError: the folder holds a training with other settings; every difference is listed.
    """
    scratch = folder / SCRATCH
    if (folder / CONFIG).exists():
        config = read_json(folder / CONFIG)
        _refuse_others(config["settings"], settings, folder)
        shutil.rmtree(scratch, ignore_errors=True)  # of a run killed after it was finished
        return config["report"]
    if (scratch / SETTINGS).exists():
        begun = read_json(scratch / SETTINGS)
        before = begun.pop("precision", "")
        _refuse_others(begun, settings, folder)
        if before != precision:
            progress.say(
                f"this run was started in {before or 'an unknown precision'} and is now {precision}: restarting from step 0"
            )
            shutil.rmtree(scratch)
    if not (scratch / SETTINGS).exists():
        write_json(scratch / SETTINGS, {**settings, "precision": precision} if precision else settings)
    for place in (folder, scratch):
        sweep(place)
    return None


def finish(
    folder: Path,
    *,
    recipe: TrainingRecipe,
    classes: tuple[str, ...],
    encoder: PrithviConfig,
    settings: dict[str, Any],
    provenance: dict[str, Any],
    compute: Compute,
    report: dict[str, Any],
) -> None:
    """Write ``config.json``, with everything needed to open the model, and remove what only training needed."""
    write_json(
        folder / CONFIG,
        {
            "recipe": recipe.model_dump(),
            "seed": compute.seed,
            "classes": classes,
            "bands": encoder.bands,
            "statistics": encoder.to_dict()["statistics"],
            "prithvi": encoder.to_dict(),
            "provenance": provenance,
            "compute": compute.describe(),
            "settings": settings,
            "report": report,
        },
    )
    shutil.rmtree(folder / SCRATCH)


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
            f"{folder} holds a training with other settings: {'; '.join(different)}. Train into another folder, or delete it"
        )
