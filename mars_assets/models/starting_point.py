"""What a training is initialised from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mars_assets.bands import BandStatistics
from mars_assets.lake import MARS_WEIGHTS, Lake
from mars_assets.models.seen import seen_through
from mars_assets.models.versions import ModelVersion, current_model, current_weights
from mars_assets.prithvi.weights import load_encoder, open_weights
from mars_assets.training.compute import Compute
from mars_assets.training.recipe import FineTuningRecipe

if TYPE_CHECKING:
    from mars_assets.prithvi.model import PrithviEncoder


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
        model = current_model(lake, encoder)
        folder = model.folder / MARS_WEIGHTS
        weights = open_weights(folder)
        return start_from_model(lake, model, folder, weights.sha256, weights.config.statistics)
    folder, sha256, variant = current_weights(lake)
    name = variant if encoder != "random" else f"random, of {variant}'s architecture"
    return Start(
        folder=folder,
        sha256=sha256,
        name=name,
        statistics=open_weights(folder).config.statistics,
        provenance={"weights": name, "weights_sha256": sha256},
    )


def start_from_model(lake: Lake, model: ModelVersion, folder: Path, sha256: str, statistics: BandStatistics) -> Start:
    """Start from a finished model of the lake.

    Args:
        lake: has the model.
        model: what the training is initialised from.
        folder: of its weights.
        sha256: of these.
        statistics: of its input.

    Raises:
        MissingInputError: what the model itself was initialised from no longer exists.
    """
    name, version = f"{model.name} {model.version}", {f"{model.name}_version": model.version}
    return Start(
        folder=folder,
        sha256=sha256,
        name=name,
        statistics=statistics,
        provenance={"weights": name, "weights_sha256": sha256, **version},
        seen=frozenset(seen_through(lake, version)),
    )


def initial_encoder(recipe: FineTuningRecipe, weights: Path, compute: Compute) -> PrithviEncoder:
    """Build the encoder that a training starts from.

    Random weights are those of the seed.
    """
    from mars_assets.prithvi.model import PrithviEncoder

    if recipe.encoder != "random":
        return load_encoder(weights)
    compute.seed_everything()
    return PrithviEncoder(open_weights(weights).config)
