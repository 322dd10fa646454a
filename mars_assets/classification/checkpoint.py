"""Initialisation of classifiers, and reading and writing of finished ones.

A finished classifier consists of ``model.safetensors``, ``history.parquet`` and ``config.json``, which is written last
and marks the folder as complete. If it was initialised from a segmentation model, ``network.json`` describes the
network.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mars_assets.classification.model import Classifier, CraterClassifier, OutlineClassifier, TimmClassifier
from mars_assets.classification.recipe import OUTLINES, ClsRecipe, recipe_of
from mars_assets.encoders.config import EncoderConfig, shown, trained_encoder
from mars_assets.encoders.weights import new_encoder, open_encoder
from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.lake import CONFIG, NETWORK, SEGMENTER, WEIGHTS
from mars_assets.prithvi import PRITHVI
from mars_assets.segmentation.checkpoint import open_segmenter
from mars_assets.segmentation.mmseg_setup import mmseg_ready
from mars_assets.segmentation.recipe import SegRecipe
from mars_assets.storage.files import atomic_path, read_json, write_json
from mars_assets.storage.hashing import sha256_file
from mars_assets.training.run_folder import require_finished

if TYPE_CHECKING:
    from mars_assets.encoders.weights import Encoder


def build_classifier(recipe: ClsRecipe, encoder: Encoder) -> CraterClassifier:
    """Build a recipe's classifier around an encoder, with a random linear unit."""
    return CraterClassifier(encoder, recipe.pooling, recipe.dropout, recipe.mask_ratio)


def build_baseline(recipe: ClsRecipe, config: EncoderConfig, imagenet: bool = False) -> TimmClassifier:
    """Build a recipe's timm model, for the bands and statistics of ``config``."""
    return TimmClassifier(recipe.architecture, config, recipe.dropout, recipe.image_size, imagenet)


def start_of(recipe: ClsRecipe, folder: Path) -> tuple[EncoderConfig, str]:
    """Read configuration and sha256 of the weights a training starts from.

    Args:
        recipe: the recipe to be trained.
        folder: folder of an encoder's weights or, for the architecture ``seg_model``, of a finished segmentation model.

    Raises:
        MissingInputError: the folder holds no finished segmentation model.
        MarsError: the segmentation model does not accept the recipe's image size or normalization.
    """
    if recipe.architecture != OUTLINES:
        published = open_encoder(folder)
        return shown(published.config, recipe.normalize), published.sha256

    require_finished(folder, "seg_model")
    trained = read_json(folder / CONFIG)
    config = trained_encoder(trained)
    try:
        outlining = SegRecipe.model_validate(trained["recipe"])
    except ValidationError as error:
        raise MarsError(
            f"the recipe in {folder} is from an earlier version: materialize 'seg_model' again ({error})"
        ) from error
    outlining.refuse_sizes(config, {"image_size": recipe.image_size})
    if outlining.normalize != recipe.normalize:
        raise MarsError(
            f"normalize is {recipe.normalize!r}, but seg_model was trained with {outlining.normalize!r}: set it to that"
        )
    return config, sha256_file(folder / SEGMENTER)


def begin_with_outlines(segmenter: Path, config: EncoderConfig, folder: Path) -> OutlineClassifier:
    """Build a classifier from a segmentation model; write ``network.json``."""
    network, _ = open_segmenter(segmenter)
    network.auxiliary_head = None  # used only to train the segmentation model
    write_json(folder / NETWORK, {**network.cfg.model.to_dict(), "auxiliary_head": None})
    return OutlineClassifier(network, config)


def save_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write tensors to a safetensors file, atomically."""
    with atomic_path(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, temporary)


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors in a safetensors file.

    Raises:
        DamagedFileError: the file is missing or is not a safetensors file.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise DamagedFileError(
            f"{path} cannot be read ({error}): delete its folder and materialize 'cls_model' again"
        ) from error


def open_classifier(folder: Path) -> tuple[Classifier, dict[str, Any]]:
    """Open a finished classifier, in evaluation mode on the CPU.

    Returns:
        The classifier and its ``config.json``: recipe, seed, classes, bands, statistics, encoder, provenance, compute,
        report.

    Raises:
        MissingInputError: the folder holds no finished classifier.
        DamagedFileError: its files do not fit together.
    """
    require_finished(folder, "cls_model")
    config = read_json(folder / CONFIG)
    recipe = recipe_of(config)
    encoder = trained_encoder(config)
    ours = recipe.architecture == PRITHVI
    if ours:
        with torch.device("meta"):  # initialising random weights would take as long as reading the file
            classifier: Classifier = build_classifier(recipe, new_encoder(encoder, meta=True))
    elif recipe.architecture == OUTLINES:
        classifier = OutlineClassifier(_network_of(folder), encoder)
    else:
        classifier = build_baseline(recipe, encoder)
    config["recipe"] = recipe.model_dump()
    weights = load_weights(folder / WEIGHTS)
    try:
        # Cloned, since tensors in a mapped file may be unaligned, see prithvi.weights.
        classifier.load_state_dict({name: value.clone() for name, value in weights.items()}, assign=ours)
    except RuntimeError as error:
        raise DamagedFileError(
            f"{folder / WEIGHTS} does not match {CONFIG} next to it ({error}): materialize 'cls_model' again"
        ) from error
    return classifier.eval(), config


def _network_of(folder: Path) -> nn.Module:
    """Build the network that ``network.json`` describes, with random weights."""
    try:
        parts = read_json(folder / NETWORK)
    except FileNotFoundError as error:
        raise DamagedFileError(f"{folder / NETWORK} is missing: materialize 'cls_model' again") from error
    with mmseg_ready():
        from mmseg.registry import MODELS  # noqa: PLC0415 - mmseg takes seconds to import

        return MODELS.build(parts)


def is_head_alone(folder: Path) -> bool:
    """Test whether a classifier was stored without its frozen encoder.

    Raises:
        DamagedFileError: its file is missing or is not a safetensors file.
    """
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            return all(name.startswith("head.") for name in file.keys())  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise DamagedFileError(
            f"{folder / WEIGHTS} cannot be read ({error}): delete its folder and materialize its asset again"
        ) from error
