"""A finished classifier on disk: ``model.safetensors``, ``history.parquet`` and, written last, ``config.json``.

``config.json`` says all that opening the model takes, and marks the folder as complete.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mars_assets.classification.model import Classifier, CraterClassifier, TimmClassifier
from mars_assets.classification.recipe import PRITHVI, ClsRecipe, recipe_of
from mars_assets.errors import DamagedFileError
from mars_assets.lake import atomic_path, read_json, sha256_file
from mars_assets.prithvi.config import PrithviConfig
from mars_assets.prithvi.model import PrithviEncoder
from mars_assets.training import CONFIG, require_finished

MODEL = "model.safetensors"
HISTORY = "history.parquet"


def build_classifier(recipe: ClsRecipe, encoder: PrithviEncoder) -> CraterClassifier:
    """A recipe's classifier around an encoder, its linear unit random."""
    return CraterClassifier(encoder, recipe.pooling, recipe.dropout, recipe.mask_ratio)


def build_baseline(recipe: ClsRecipe, config: PrithviConfig, imagenet: bool = False) -> TimmClassifier:
    """A recipe's model of timm's, for the bands and statistics of ``config``."""
    return TimmClassifier(recipe.architecture, config, recipe.dropout, recipe.image_size, imagenet)


def save_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    with atomic_path(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, temporary)


def load_weights(path: Path) -> dict[str, Tensor]:
    """
    Raises:
        DamagedFileError: the file is missing or is no safetensors file.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise DamagedFileError(
            f"{path} cannot be read ({error}): delete its folder and make 'cls_model' again"
        ) from error


def open_classifier(folder: Path) -> tuple[Classifier, dict[str, Any]]:
    """Opens a finished classifier, in evaluation mode on the CPU.

    Returns:
        The classifier and its ``config.json``: recipe, seed, classes, bands, statistics, prithvi, provenance, compute,
        report.

    Raises:
        MissingInputError: the folder holds no finished classifier.
        DamagedFileError: its files do not fit together.
    """
    require_finished(folder, "cls_model")
    config = read_json(folder / CONFIG)
    recipe = recipe_of(config)
    prithvi = PrithviConfig.from_dict(config["prithvi"])
    ours = recipe.architecture == PRITHVI
    if ours:
        with torch.device("meta"):  # drawing random weights first would take as long as reading those of the file
            classifier: Classifier = build_classifier(recipe, PrithviEncoder(prithvi))
    else:
        classifier = build_baseline(recipe, prithvi)
    config["recipe"] = recipe.model_dump()
    weights = load_weights(folder / MODEL)
    try:
        # Cloned: tensors in a mapped file lie at any address, see prithvi.weights.
        classifier.load_state_dict({name: value.clone() for name, value in weights.items()}, assign=ours)
    except RuntimeError as error:
        raise DamagedFileError(
            f"{folder / MODEL} does not fit {CONFIG} beside it ({error}): make 'cls_model' again"
        ) from error
    return classifier.eval(), config


def model_sha256(folder: Path) -> str:
    """What tells one finished classifier from another.

    Raises:
        MissingInputError: the folder holds no finished classifier.
    """
    require_finished(folder, "cls_model")
    return sha256_file(folder / MODEL)
