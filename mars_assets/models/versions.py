"""Versions of models in the lake: named by what made them, so that the same settings on the same inputs are one version.

``models/NAME/VERSION/`` holds a version; ``models/NAME/current.json`` names the one in use. Training goes on in the
version's own folder, so a killed run is continued by running it again, and a finished one is found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from mars_assets.errors import MissingInputError
from mars_assets.lake import Lake
from mars_assets.prithvi.weights import open_weights
from mars_assets.storage.files import read_json, write_json, write_table
from mars_assets.storage.hashing import fingerprint
from mars_assets.storage.published import version_in_use
from mars_assets.training.run_folder import CONFIG, require_finished

IMAGES = "images.parquet"
"""The list, in a version's folder, of the images that it was made from."""
SEG_MODEL_VERSION = "seg_model_version"
"""What the provenance of a model calls the segmentation model that it began as."""
MARS_WEIGHTS = "weights"
"""The folder of weights in a version of ``mars_weights``."""


@dataclass(frozen=True)
class ModelVersion:
    """A finished version of a model.

    Args:
        name: ``cls_model``, ``seg_model`` or ``mars_weights``.
        version: see :func:`version_of`.
        folder: where its files lie.
        config: its ``config.json``.
    """

    name: str
    version: str
    folder: Path
    config: dict[str, Any]


def version_of(
    recipe: Mapping[str, Any], images: pd.DataFrame, weights_sha256: str, seed: int, computation: str = ""
) -> str:
    """The name of the version that these settings make: twelve hexadecimal digits.

    Args:
        recipe: the recipe's values.
        images: a dataset's images; identity, split, chips and labels of those in train and valid count, their paths do not,
            and nor do images that only judge.
        weights_sha256: of the encoder that training starts from.
        seed: of training.
        computation: names the way of training: another name where the same settings train in another way than before.
    """
    images = images[images["split"].isin(["train", "valid"])]
    rows = images[["image_id", "split", "chip_sha", "labels_sha"]].sort_values("image_id").to_dict("list")
    return fingerprint(dict(recipe), rows, weights_sha256, seed, *filter(None, [computation]))[:12]


def start_version(lake: Lake, name: str, version: str, images: pd.DataFrame) -> Path:
    """The version's folder, with the list of the images it is made from, and of those beside them at the time."""
    folder = lake.model(name) / version
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / IMAGES, images[["image_id", "split", "observation"]])
    return folder


def make_current(lake: Lake, name: str, version: str, metrics: Mapping[str, Any]) -> None:
    """Puts a finished version into use."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(lake.model(name) / "current.json", {"version": version, "since": since, "metrics": dict(metrics)})


def current_model(lake: Lake, name: str) -> ModelVersion:
    """The version in use.

    Raises:
        MissingInputError: none is.
    """
    pointer = lake.model(name) / "current.json"
    if not pointer.exists():
        raise MissingInputError(name, pointer)
    version = str(read_json(pointer)["version"])
    folder = lake.model(name) / version
    require_finished(folder, name)
    return ModelVersion(name, version, folder, read_json(folder / CONFIG))


def set_current_weights(lake: Lake, folder: Path, sha256: str) -> None:
    """Names the foundation weights in use, by a folder of their variant or of a version in it."""
    variant = folder.relative_to(lake.current_foundation.parent).parts[0]
    write_json(lake.current_foundation, {"variant": variant, "sha256": sha256})


def weights_in_use(lake: Lake) -> str | None:
    """The variant of the foundation weights in use, None where there are none."""
    return str(read_json(lake.current_foundation)["variant"]) if lake.current_foundation.exists() else None


class FoundationWeights(NamedTuple):
    """Weights of the foundation model.

    Args:
        folder: of the published version, which stays as it is.
        sha256: of the weights.
        variant: see :data:`mars_assets.prithvi.config.VARIANTS`.
    """

    folder: Path
    sha256: str
    variant: str


def current_weights(lake: Lake) -> FoundationWeights:
    """The foundation weights in use.

    Raises:
        MissingInputError: there are none.
    """
    variant = weights_in_use(lake)
    if variant is None:
        raise MissingInputError("prithvi_weights", lake.current_foundation)
    folder = version_in_use(lake.foundation(variant))
    return FoundationWeights(folder, open_weights(folder).sha256, variant)
