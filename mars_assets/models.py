"""Versions of models in the lake: named by what made them, so that the same settings on the same inputs are one version.

``models/NAME/VERSION/`` holds a version; ``models/NAME/current.json`` names the one in use. Training goes on in the
version's own folder, so a killed run is continued by running it again, and a finished one is found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from mars_assets.bands import BandStatistics
from mars_assets.classification.recipe import OUTLINES
from mars_assets.errors import MissingInputError
from mars_assets.lake import Lake, fingerprint, read_json, read_table, write_json, write_table
from mars_assets.prithvi import PRITHVI
from mars_assets.training import CONFIG, require_finished

if TYPE_CHECKING:
    import pandas as pd

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


@dataclass(frozen=True)
class Start:
    """What a training begins at.

    Args:
        folder: of an encoder's weights, or of a finished segmentation model.
        sha256: of the weights.
        name: for people.
        statistics: what its input is normalised with.
        provenance: what the new model's provenance says of it.
        seen: the observations that it has seen, with labels or without.
    """

    folder: Path
    sha256: str
    name: str
    statistics: BandStatistics
    provenance: dict[str, str]
    seen: frozenset[str]


def start_of_training(lake: Lake, encoder: str, architecture: str) -> Start:
    """What a recipe's ``architecture`` and ``encoder`` name.

    Raises:
        MissingInputError: it has not been made.
    """
    if architecture == OUTLINES:
        from mars_assets.segmentation.checkpoint import model_sha256

        model = current_model(lake, "seg_model")
        folder, sha256, name = model.folder, model_sha256(model.folder), f"seg_model {model.version}"
        statistics = BandStatistics.from_dict(model.config["statistics"])
        versions = {SEG_MODEL_VERSION: model.version}
    else:
        from mars_assets.prithvi.weights import open_weights

        folder, sha256, name = encoder_weights(lake, encoder)
        statistics = open_weights(folder).config.statistics
        of_mars = encoder == "mars_weights" and architecture == PRITHVI
        versions = {"mars_weights_version": folder.parent.name} if of_mars else {}
    seen = _seen_before(lake.model("seg_model").parent, versions)
    return Start(
        folder, sha256, name, statistics, {"weights": name, "weights_sha256": sha256, **versions}, frozenset(seen)
    )


def set_current_weights(lake: Lake, folder: Path, sha256: str) -> None:
    """Names the foundation weights in use."""
    write_json(lake.current_foundation, {"variant": folder.name, "sha256": sha256})


def encoder_weights(lake: Lake, encoder: str) -> tuple[Path, str, str]:
    """The weights that a recipe's ``encoder`` names.

    Args:
        lake: where they lie.
        encoder: ``prithvi_weights``, ``mars_weights``, or ``random``, whose architecture is that of ``prithvi_weights``.

    Returns:
        Their folder, their sha256, and a name for people.

    Raises:
        MissingInputError: they have not been made.
    """
    if encoder == "mars_weights":
        from mars_assets.prithvi.weights import open_weights

        version = current_model(lake, encoder)
        folder = version.folder / MARS_WEIGHTS
        return folder, open_weights(folder).sha256, f"mars_weights {version.version}"
    folder, sha256 = current_weights(lake)
    return folder, sha256, folder.name if encoder != "random" else f"random, of {folder.name}'s architecture"


def weights_in_use(lake: Lake) -> str | None:
    """The variant of the foundation weights in use, None where there are none."""
    return str(read_json(lake.current_foundation)["variant"]) if lake.current_foundation.exists() else None


def current_weights(lake: Lake) -> tuple[Path, str]:
    """Folder and sha256 of the foundation weights in use.

    Raises:
        MissingInputError: there are none.
    """
    if not lake.current_foundation.exists():
        raise MissingInputError("prithvi_weights", lake.current_foundation)
    pointer = read_json(lake.current_foundation)
    return lake.foundation(pointer["variant"]), str(pointer["sha256"])
