"""What a training is initialised from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from mars_assets.bands import BandStatistics
from mars_assets.lake import MARS_WEIGHTS, Lake
from mars_assets.models.seen import seen_through
from mars_assets.models.versions import ModelVersion, current_model, current_weights
from mars_assets.prithvi.weights import open_weights


@dataclass(frozen=True, kw_only=True)
class Start:
    """The starting point of a training.

    Args:
        folder: of an encoder's weights, or of a finished model.
        sha256: of the weights.
        name: for people.
        statistics: the input is normalised with.
        provenance: goes into the new model's provenance.
        seen: observations that it has seen, with labels or without.
    """

    folder: Path
    sha256: str
    name: str
    statistics: BandStatistics
    provenance: dict[str, str]
    seen: frozenset[str] = frozenset()

    def of_architecture(self, architecture: str) -> Start:
        """The same for a network that takes only the statistics from these weights, and is called by its own name."""
        return replace(self, name=architecture)


def start_from_weights(lake: Lake, encoder: str) -> Start:
    """Find the weights that a recipe's ``encoder`` names.

    Args:
        lake: has the weights.
        encoder: ``prithvi_weights``, ``mars_weights``, or ``random``, whose architecture is that of
            ``prithvi_weights``.

    Raises:
        MissingInputError: they have not been materialized.
    """
    if encoder == "mars_weights":
        version = current_model(lake, encoder)
        folder, name, versions = version.folder / MARS_WEIGHTS, f"mars_weights {version.version}", [version]
    else:
        folder, _, variant = current_weights(lake)
        name, versions = variant if encoder != "random" else f"random, of {variant}'s architecture", []
    weights = open_weights(folder)
    return _start(lake, folder, weights.sha256, name, weights.config.statistics, versions)


def start_from_model(lake: Lake, model: ModelVersion, weights_sha256: str) -> Start:
    """Start from a finished model of the lake.

    Args:
        lake: has the model.
        model: what the training is initialised from.
        weights_sha256: of its weights.

    Raises:
        MissingInputError: what the model itself was initialised from no longer exists.
    """
    statistics = BandStatistics.from_dict(model.config["statistics"])
    return _start(lake, model.folder, weights_sha256, f"{model.name} {model.version}", statistics, [model])


def _start(
    lake: Lake, folder: Path, sha256: str, name: str, statistics: BandStatistics, models: list[ModelVersion]
) -> Start:
    versions = {f"{model.name}_version": model.version for model in models}
    return Start(
        folder=folder,
        sha256=sha256,
        name=name,
        statistics=statistics,
        provenance={"weights": name, "weights_sha256": sha256, **versions},
        seen=frozenset(seen_through(lake, versions)),
    )
