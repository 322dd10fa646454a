"""Cached predictions of finished classifiers."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from mars_assets.classification.checkpoint import load_weights, open_classifier
from mars_assets.classification.data import load_chip
from mars_assets.classification.features import FeatureCache, FeatureHead
from mars_assets.classification.recipe import recipe_of
from mars_assets.code_versions import CLASSIFIER_PREDICTION
from mars_assets.encoders.config import trained_encoder
from mars_assets.errors import MarsError
from mars_assets.lake import CONFIG, WEIGHTS
from mars_assets.progress import SILENT, Progress
from mars_assets.storage.cache import Cache
from mars_assets.storage.files import read_json
from mars_assets.storage.hashing import sha256_file
from mars_assets.threads import in_threads
from mars_assets.training.run_folder import require_finished

if TYPE_CHECKING:
    from mars_assets.encoders.weights import Encoder
    from mars_assets.training.compute import Compute


_BATCH = 32


def predict(
    model_folder: Path, images: pd.DataFrame, cache: Path, compute: Compute, progress: Progress = SILENT
) -> pd.DataFrame:
    """Predict the probability of a crater for each image.

    Args:
        model_folder: folder of a finished classifier.
        images: ``image_id, chip (path)``, and ``chip_sha`` if the chips have one, which then identifies the pixels.
        cache: JSON file of cached predictions.
        compute: device and precision.
        progress: shows how many new images are done.

    Returns:
        ``image_id, probability`` (float64), in the order of ``images``.

    Raises:
        MissingInputError: the folder holds no finished classifier.
        DamagedFileError: a chip or the model cannot be read.
    """
    chips = [Path(chip) for chip in images["chip"]]

    def predict_new(places: list[int]) -> Iterator[float]:
        counter = progress.counter("predicting images", len(places), "images")
        with contextlib.closing(probabilities_of(model_folder, [chips[place] for place in places], compute)) as results:
            for result in results:
                if isinstance(result, MarsError):
                    raise result
                yield result
                counter.advance()
        counter.close()

    require_finished(model_folder, "cls_model")
    model = [sha256_file(model_folder / WEIGHTS), compute.precision]
    keys = images[["image_id", *(["chip_sha"] if "chip_sha" in images else [])]].to_numpy().tolist()
    with Cache(cache, CLASSIFIER_PREDICTION, keep_all=True, progress=progress) as known:
        probabilities = known.get_all([[*model, *key] for key in keys], predict_new)
    table = images[["image_id"]].assign(probability=np.array(probabilities, np.float64))
    return table.reset_index(drop=True)


def predict_from_features(
    model_folder: Path, images: pd.DataFrame, features: Path, load: Callable[[], Encoder], compute: Compute
) -> pd.DataFrame:
    """Predict from the cached features of a frozen encoder.

    Args:
        model_folder: folder of a finished classifier, which may lack its encoder.
        images: ``image_id, chip (path), chip_sha``.
        features: the folder in which training cached the features.
        load: returns the encoder, for images whose features are not cached.
        compute: device and precision for these.

    Returns:
        As :func:`predict`.
    """
    require_finished(model_folder, "cls_model")
    config = read_json(model_folder / CONFIG)
    recipe, settings = recipe_of(config), config["settings"]
    cache = FeatureCache(features, settings["weights"], recipe, replace(compute, seed=settings["seed"]))
    head = FeatureHead(trained_encoder(config).embed_dim, recipe).eval()
    weights = load_weights(model_folder / WEIGHTS)
    head.load_state_dict({name: value for name, value in weights.items() if name.startswith("head.")})
    with torch.inference_mode():
        probability = head.mean_logits(cache.of(load, images)).double().sigmoid().numpy()
    return images[["image_id"]].assign(probability=probability).reset_index(drop=True)


def probabilities_of(model_folder: Path, chips: Sequence[Path], compute: Compute) -> Generator[float | MarsError]:
    """Predict the probability of a crater for each chip, in order.

    Args:
        model_folder: folder of a finished classifier.
        chips: files that :func:`mars_assets.classification.data.load_chip` accepts.
        compute: device and precision.

    Yields:
        The probability, or the error if the chip cannot be read.

    Raises:
        MissingInputError: the folder holds no finished classifier.
        DamagedFileError: the model cannot be read.
    """
    classifier, config = open_classifier(model_folder)
    classifier.to(compute.device)
    recipe = recipe_of(config)

    def read(chip: Path) -> torch.Tensor | MarsError:
        try:
            return load_chip(chip, classifier.config, recipe.image_size, recipe.normalize)
        except MarsError as error:
            return error

    with contextlib.closing(in_threads(read, chips, 2 * _BATCH)) as loaded:
        while batch := list(itertools.islice(loaded, _BATCH)):
            probabilities: Iterator[float] = iter(())
            if readable := [chip for chip in batch if isinstance(chip, torch.Tensor)]:
                with torch.inference_mode(), compute.autocast():
                    logits = classifier.mean_logits(torch.stack(readable).to(compute.device), recipe.orientations)
                probabilities = iter(logits.double().sigmoid().tolist())
            yield from (chip if isinstance(chip, MarsError) else next(probabilities) for chip in batch)
