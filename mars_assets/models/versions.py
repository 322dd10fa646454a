"""Versions of models in the lake.

Each is named by everything that it was computed from.

``models/NAME/VERSION/`` holds a version; ``models/NAME/current.json`` names the one in use. Training happens in the
version's own folder, so that a killed run continues when it is started again, and a finished one is found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from mars_assets.bands import BandStatistics
from mars_assets.errors import MissingInputError
from mars_assets.lake import CONFIG, IMAGES, Lake
from mars_assets.prithvi.weights import open_weights
from mars_assets.storage.files import read_json, write_json, write_table
from mars_assets.storage.hashing import fingerprint
from mars_assets.storage.published import version_in_use
from mars_assets.training.run_folder import require_finished


@dataclass(frozen=True)
class ModelVersion:
    """A finished version of a model.

    Args:
        name: the asset, such as ``cls_model`` or ``mars_weights``.
        version: see :func:`version_of`.
        folder: with its files.
        config: its ``config.json``.
    """

    name: str
    version: str
    folder: Path
    config: dict[str, Any]

    @property
    def statistics(self) -> BandStatistics:
        """The statistics that the model's input is normalised with."""
        return BandStatistics.from_dict(self.config["statistics"])


def version_of(
    recipe: Mapping[str, Any], images: pd.DataFrame, weights_sha256: str, seed: int, computation: str = ""
) -> str:
    """Name the version that these settings give: twelve hexadecimal digits.

    Args:
        recipe: the recipe's values.
        images: of a dataset. The identity, split, chips and labels of training and validation images count; paths do
            not, and neither do test images.
        weights_sha256: of the starting point.
        seed: of the training.
        computation: version of the way of training, see :mod:`mars_assets.code_versions`.
    """
    images = images[images["split"].isin(["train", "valid"])]
    rows = images[["image_id", "split", "chip_sha", "labels_sha"]].sort_values("image_id").to_dict("list")
    return fingerprint(dict(recipe), rows, weights_sha256, seed, *filter(None, [computation]))[:12]


def find_version(lake: Lake, name: str, computations: Sequence[str], name_of: Callable[[str], str]) -> str:
    """Name a version, or find a finished one that an equivalent way of training gave.

    Args:
        lake: has the versions.
        name: the asset.
        computations: versions of the way of training, the present one first; the others give as good a model.
        name_of: the version's name with one of them, see :func:`version_of`.
    """
    versions = [name_of(computation) for computation in computations]
    finished = (version for version in versions if (lake.version(name, version) / CONFIG).exists())
    return next(finished, versions[0])


def start_version(lake: Lake, name: str, version: str, images: pd.DataFrame) -> Path:
    """Create a version's folder.

    It has the list of all labelled images at the time and their splits.
    """
    folder = lake.version(name, version)
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / IMAGES, images[["image_id", "split", "observation"]])
    return folder


def make_current(lake: Lake, name: str, version: str, metrics: Mapping[str, Any]) -> None:
    """Put a finished version into use."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(lake.current_model(name), {"version": version, "since": since, "metrics": dict(metrics)})


def in_use(lake: Lake, name: str) -> bool:
    """Tell whether a version of the model is in use."""
    return lake.current_model(name).exists()


def current_model(lake: Lake, name: str) -> ModelVersion:
    """Open the version in use.

    Raises:
        MissingInputError: there is none.
    """
    pointer = lake.current_model(name)
    if not pointer.exists():
        raise MissingInputError(name, pointer)
    version = str(read_json(pointer)["version"])
    folder = lake.version(name, version)
    require_finished(folder, name)
    return ModelVersion(name, version, folder, read_json(folder / CONFIG))


def set_current_weights(lake: Lake, folder: Path, sha256: str) -> None:
    """Put foundation weights into use.

    They are named by the folder of their variant or of a version in it.
    """
    variant = folder.relative_to(lake.current_foundation.parent).parts[0]
    write_json(lake.current_foundation, {"variant": variant, "sha256": sha256})


def weights_in_use(lake: Lake) -> str | None:
    """Look up the variant of the foundation weights in use; None if there are none."""
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
    """Look up the foundation weights in use.

    Raises:
        MissingInputError: there are none.
    """
    variant = weights_in_use(lake)
    if variant is None:
        raise MissingInputError("prithvi_weights", lake.current_foundation)
    folder = version_in_use(lake.foundation(variant))
    return FoundationWeights(folder, open_weights(folder).sha256, variant)
