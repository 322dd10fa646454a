"""Which observations a model has seen, directly or through its starting point, and what it may be evaluated on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from mars_assets.models.versions import IMAGES, SEG_MODEL_VERSION, ModelVersion
from mars_assets.storage.files import read_json, read_table
from mars_assets.training.run_folder import CONFIG, require_finished


def held_out(model: ModelVersion, images: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """The images that the model may be judged on, and how many were left out.

    Left out are images of the present training split, and those that the model was trained on or whose observation it
    was trained on, whatever split the labels put them in now; and those whose observation was seen by what it began as,
    ``mars_weights`` or a ``seg_model``.

    Raises:
        MissingInputError: what it began as is no longer there, so that nobody can tell.
    """
    made_from = read_table(model.folder / IMAGES, model.name)
    candidates = images[images["split"] != "train"]
    again = candidates["image_id"].isin(made_from.loc[made_from["split"] == "train", "image_id"])
    known = candidates["observation"].isin(seen_by(model.folder, model.config.get("provenance", {})))
    return candidates[~(again | known)], int((again | known).sum())


def seen_by(folder: Path, provenance: Mapping[str, Any]) -> set[str]:
    """The observations whose labels or images have shaped a model of the lake: its own, and those of what it began as.

    Args:
        folder: of the version.
        provenance: of its ``config.json``.
    """
    images = read_table(folder / IMAGES, folder.parent.name)
    return {*images.loc[images["split"] == "train", "observation"], *_seen_before(folder.parent.parent, provenance)}


def _seen_before(models: Path, provenance: Mapping[str, Any]) -> set[str]:
    """What a model had seen before its own training began."""
    seen: set[str] = set()
    if "mars_weights_version" in provenance:
        seen |= pretrained_groups(models / "mars_weights" / provenance["mars_weights_version"])
    if SEG_MODEL_VERSION in provenance:
        folder = models / "seg_model" / provenance[SEG_MODEL_VERSION]
        require_finished(folder, "seg_model")
        seen |= seen_by(folder, read_json(folder / CONFIG)["provenance"])
    return seen


def pretrained_groups(folder: Path) -> set[str]:
    """The observations that a version of ``mars_weights`` was pretrained on, and the names of its images without folders.

    Labels know an image of no known observation by its name alone.
    """
    from mars_assets.labels.formats.image import original_name

    images = read_table(folder / IMAGES, "mars_weights", ["image_id", "group"])
    return {*images["group"], *(original_name(PurePosixPath(image_id).name) for image_id in images["image_id"])}
