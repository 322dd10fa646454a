"""Which observations a model has seen.

It saw them directly or through its starting point, and may be evaluated on the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import pandas as pd

from mars_assets.imagery.products import further_observations, observation_of
from mars_assets.labels.formats.image import original_name, picture_of
from mars_assets.lake import CONFIG, IMAGES, Lake
from mars_assets.models.versions import ModelVersion
from mars_assets.storage.files import read_json, read_table
from mars_assets.training.run_folder import require_finished

_VERSION = "_version"
_NO_MODEL = "label_version"


def held_out(lake: Lake, model: ModelVersion, images: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Select the images that a model may be evaluated on.

    Left out are images of the present training split, those that the model was trained on or whose observation it was
    trained on, whatever split the labels put them in now, and those whose observation was seen by what the model was
    initialised from: ``mars_weights``, or another model.

    Returns:
        The images, and how many outside of the training split were left out.

    Raises:
        MissingInputError: what the model was initialised from no longer exists, so that nothing tells what it saw.
    """
    trained_on = read_table(model.folder / IMAGES, model.name)
    candidates = images[images["split"] != "train"]
    again = candidates["image_id"].isin(trained_on.loc[trained_on["split"] == "train", "image_id"])
    seen = candidates["observation"].isin(seen_by(lake, model.folder, model.config.get("provenance", {})))
    return candidates[~(again | seen)], int((again | seen).sum())


def seen_by(lake: Lake, folder: Path, provenance: Mapping[str, Any]) -> set[str]:
    """Collect the observations that have shaped a model.

    They are its own, and those of what it was initialised from.

    Of a pretraining, which knows images without labels, also the names of its images without folders, and whatever
    other observations these names hold: labels know an image of no known observation by its name alone.

    Args:
        lake: has the model's starting point.
        folder: of the model.
        provenance: of its ``config.json``.
    """
    images = read_table(folder / IMAGES, folder.parent.name)
    if "split" in images:
        own = set(images.loc[images["split"] == "train", "observation"].astype(str))
    else:
        own = {*images["group"], *(original_name(image_id) for image_id in images["image_id"])}
        own = own.union(*(further_observations(PurePath(image_id)) for image_id in images["image_id"]))
    # Earlier versions of the code recognised fewer names, and stored what they made of the others.
    return own | {observation_of(name) or picture_of(name) for name in own} | seen_through(lake, provenance)


def seen_through(lake: Lake, provenance: Mapping[str, Any]) -> set[str]:
    """Collect the observations that a model had seen before its own training began."""
    seen: set[str] = set()
    for key, version in provenance.items():
        if key.endswith(_VERSION) and key != _NO_MODEL:
            name = key.removesuffix(_VERSION)
            folder = lake.version(name, version)
            require_finished(folder, name)
            seen |= seen_by(lake, folder, read_json(folder / CONFIG).get("provenance", {}))
    return seen
