"""What a training is initialised from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mars_assets.bands import BandStatistics
from mars_assets.encoders.config import shown
from mars_assets.encoders.registry import ENCODERS, RANDOM, SHUFFLED, base_name
from mars_assets.encoders.weights import architecture_of, installed, new_encoder, open_encoder, shuffle
from mars_assets.lake import MARS_WEIGHTS, Lake
from mars_assets.models.seen import seen_through
from mars_assets.models.versions import ModelVersion, current_model, current_weights
from mars_assets.training.compute import Compute
from mars_assets.training.recipe import FineTuningRecipe

if TYPE_CHECKING:
    from mars_assets.encoders.weights import Encoder


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
            ``prithvi_weights``; or a published one by its name. ``shuffled:`` may precede any with weights, ``random:``
            a published one, see :mod:`mars_assets.encoders.registry`.

    Raises:
        MissingInputError: they have not been materialized.
    """
    shuffled = SHUFFLED if encoder.startswith(SHUFFLED) else ""
    if encoder.removeprefix(SHUFFLED) == "mars_weights":
        model = current_model(lake, "mars_weights")
        folder = model.folder / MARS_WEIGHTS
        weights = open_encoder(folder)
        start = start_from_model(lake, model, folder, weights.sha256, weights.config.statistics)
        return replace(start, name=shuffled + start.name)
    if (name := base_name(encoder)) in ENCODERS:
        folder = architecture_of(lake, name) if encoder.startswith(RANDOM) else installed(lake, name)
        opened = open_encoder(folder)
        return Start(
            folder=folder,
            sha256=opened.sha256,
            name=encoder,
            statistics=opened.config.statistics,
            provenance={"weights": encoder, "weights_sha256": opened.sha256},
        )
    folder, sha256, variant = current_weights(lake)
    name = shuffled + variant if encoder != "random" else f"random, of {variant}'s architecture"
    return Start(
        folder=folder,
        sha256=sha256,
        name=name,
        statistics=open_encoder(folder).config.statistics,
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


def initial_encoder(recipe: FineTuningRecipe, weights: Path, compute: Compute) -> Encoder:
    """Build the encoder that a training starts from.

    Random weights are those of the seed, and so is the order of shuffled ones.
    """
    opened = open_encoder(weights)
    if recipe.encoder == "random" or recipe.encoder.startswith(RANDOM):
        compute.seed_everything()
        encoder = new_encoder(opened.config)
    else:
        encoder = opened.load()
        if recipe.encoder.startswith(SHUFFLED):
            encoder = shuffle(encoder, compute.seed)
    encoder.config = shown(opened.config, recipe.normalize)
    return encoder
