"""What a training is initialised from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mars_assets.bands import BandStatistics
from mars_assets.classification.recipe import OUTLINES
from mars_assets.lake import Lake
from mars_assets.models.seen import _seen_before
from mars_assets.models.versions import MARS_WEIGHTS, SEG_MODEL_VERSION, current_model, current_weights
from mars_assets.prithvi import PRITHVI


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
    folder, sha256, variant = current_weights(lake)
    return folder, sha256, variant if encoder != "random" else f"random, of {variant}'s architecture"
