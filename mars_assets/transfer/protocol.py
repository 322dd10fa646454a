"""Settings of a transfer study, and the encoders and controls that it compares.

This module does not import torch, so that definitions may import it.
"""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mars_assets.encoders.registry import ENCODERS, RANDOM, SHUFFLED, base_name, is_drawn, require_known
from mars_assets.encoders.weights import is_installed
from mars_assets.errors import MarsError, MissingInputError, all_problems
from mars_assets.lake import Lake
from mars_assets.models.versions import current_model, current_weights

WAYS = {"linear": "linear probe", "knn": "nearest neighbours"}
"""Ways of using an encoder, on its frozen features: the titles of their names."""

PIXELS, HOG = "pixels", "hog"
BASELINES = (PIXELS, HOG)
"""What is compared with encoders: pixels, and histograms of oriented gradients."""
UNTRAINED_CNN = f"{RANDOM}resnet18.a1_in1k"
"""The convolutional network that every study has."""


class TransferStudy(BaseModel):
    """Settings of a study of encoders on the labelled images of the lake."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoders: list[str] = Field(
        [],
        description="Encoders to study, as in a recipe's `encoder`. Empty: prithvi_weights, mars_weights, and what "
        "encoder_weights has installed, as far as they are in the lake. Each is compared with random weights of its "
        "architecture and with its own weights in a random order; pixels, histograms of gradients and an untrained "
        "ResNet-18 are studied, too.",
    )
    ways: list[str] = Field(
        list(WAYS),
        min_length=1,
        description="linear: logistic regression on frozen features. knn: their nearest neighbours.",
    )
    fractions: list[float] = Field(
        [0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 1.0],
        min_length=1,
        description="Shares of the training images that labels are used of. They are drawn by observation, and each "
        "contains the smaller ones.",
    )
    seeds: int = Field(7, ge=1, description="Number of repetitions: each draws its own labels and random weights.")
    folds: int = Field(
        5,
        ge=2,
        description="Parts of the training observations. Each is held out in turn, so that every training image is "
        "predicted by models that were trained on other observations.",
    )

    @field_validator("fractions")
    @classmethod
    def _are_shares(cls, value: list[float]) -> list[float]:
        if wrong := [share for share in value if not 0 < share <= 1]:
            raise ValueError(f"{wrong} are not shares: give numbers above 0 and at most 1")
        return sorted(set(value))

    @field_validator("ways")
    @classmethod
    def _are_ways(cls, value: list[str]) -> list[str]:
        if wrong := [way for way in value if way not in WAYS]:
            raise ValueError(f"{wrong} are not ways of using an encoder: choose from {', '.join(WAYS)}")
        return list(dict.fromkeys(value))

    @field_validator("encoders")
    @classmethod
    def _are_known(cls, value: list[str]) -> list[str]:
        try:
            for name in value:
                if name not in BASELINES:
                    require_known(name)
        except MarsError as error:
            raise ValueError(str(error)) from error
        return list(dict.fromkeys(value))


def study_of(path: Path) -> TransferStudy:
    """Read the settings of a study in a run configuration.

    Raises:
        MarsError: the file cannot be read, or its settings are invalid.
    """
    try:
        return TransferStudy(**yaml.safe_load(path.read_bytes())["ops"]["transfer_study"]["config"])
    except ValidationError as error:
        raise MarsError(f"{path}: the run configuration is invalid: {all_problems(error)}") from error
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise MarsError(
            f"{path} has no settings of transfer_study ({error}): write them below ops: transfer_study: config:"
        ) from error


def studied(lake: Lake, study: TransferStudy) -> list[str]:
    """List the encoders of a study with their controls, in the order of its tables.

    Raises:
        MissingInputError: there is no encoder in the lake.
    """
    trained = [name for name in study.encoders or available(lake) if name not in BASELINES]
    names = []
    for name in trained:
        names.append(name)
        if not is_drawn(name):
            names += [shuffled_of(name), random_of(name)]
    return list(dict.fromkeys([*names, UNTRAINED_CNN, *BASELINES]))


def available(lake: Lake) -> list[str]:
    """List the trained encoders that are in the lake.

    Raises:
        MissingInputError: there are none.
    """
    names = []
    for asset, find in (("prithvi_weights", current_weights), ("mars_weights", _mars_weights)):
        try:
            find(lake)
        except MissingInputError:
            continue
        names.append(asset)
    in_use = current_weights(lake)[2] if "prithvi_weights" in names else None
    names += [name for name in ENCODERS if name != in_use and is_installed(lake, name)]
    if not names:
        raise MissingInputError("prithvi_weights", lake.current_foundation)
    return names


def _mars_weights(lake: Lake) -> object:
    return current_model(lake, "mars_weights")


def random_of(encoder: str) -> str:
    """Name random weights of an encoder's architecture.

    That of Prithvi's assets is that of ``prithvi_weights``.
    """
    return f"{RANDOM}{encoder}" if encoder in ENCODERS else "random"


def shuffled_of(encoder: str) -> str:
    """Name an encoder's weights in a random order."""
    return f"{SHUFFLED}{encoder}"


def trained_on(lake: Lake, encoder: str) -> str:
    """Describe in a few words what an encoder was trained on."""
    name = base_name(encoder)
    if name == "mars_weights":
        return "images of this lake"
    return ENCODERS[current_weights(lake)[2] if name == "prithvi_weights" else name].trained_on
