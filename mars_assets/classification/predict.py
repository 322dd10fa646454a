"""Probabilities of a finished classifier for images, each computed once."""

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

from mars_assets.classification.checkpoint import load_weights, model_sha256, open_classifier
from mars_assets.classification.data import load_chip
from mars_assets.classification.features import FeatureCache, FeatureHead
from mars_assets.classification.model import Classifier
from mars_assets.classification.recipe import PREDICTION, ClsRecipe, recipe_of
from mars_assets.errors import MarsError
from mars_assets.lake import CONFIG, WEIGHTS
from mars_assets.progress import SILENT, Progress
from mars_assets.storage.files import read_json, read_provenance, read_table, write_table
from mars_assets.training.prefetch import read_ahead
from mars_assets.training.run_folder import require_finished

if TYPE_CHECKING:
    from mars_assets.prithvi.model import PrithviEncoder
    from mars_assets.training.compute import Compute


_BATCH = 32
_SAVE_EVERY = 32
"""Batches after which what is predicted so far is written, so that a killed run loses no more than these."""


def predict(
    model_folder: Path, images: pd.DataFrame, cache: Path, compute: Compute, progress: Progress = SILENT
) -> pd.DataFrame:
    """The probability of a crater on each image.

    Args:
        model_folder: of a finished classifier.
        images: ``image_id, chip (path)``, and ``chip_sha`` if the chips have one: another one is another image.
        cache: Parquet file of earlier predictions; grows by what is new, and starts anew with another model or precision.
        compute: where to compute.
        progress: of the new images.

    Returns:
        ``image_id, probability`` (float64), in the order of ``images``.

    Raises:
        MissingInputError: the folder holds no finished classifier.
        DamagedFileError: a chip or the model cannot be read.
    """
    keys = ["image_id", *(["chip_sha"] if "chip_sha" in images else [])]
    model = {
        "model_sha256": model_sha256(model_folder),
        "precision": compute.precision,
        "computation": PREDICTION,
    }
    known = _cached(cache, keys, model)
    new = images.merge(known, on=keys, how="left")
    new = new[new["probability"].isna()]
    if len(new):
        known = _predict_new(model_folder, new, known, keys, cache, model, compute, progress)
    return images[keys].merge(known, on=keys, how="left", validate="one_to_one")[["image_id", "probability"]]


def predict_from_features(
    model_folder: Path, images: pd.DataFrame, features: Path, load: Callable[[], PrithviEncoder], compute: Compute
) -> pd.DataFrame:
    """:func:`predict` for a linear unit on a frozen encoder whose features are cached.

    Args:
        model_folder: of a finished classifier, which may lack its encoder.
        images: ``image_id, chip (path), chip_sha``.
        features: the folder that the training kept them in.
        load: gives the encoder, for images whose features are not kept.
        compute: where these are computed.
    """
    require_finished(model_folder, "cls_model")
    config = read_json(model_folder / CONFIG)
    recipe, settings = recipe_of(config), config["settings"]
    cache = FeatureCache(features, settings["weights"], recipe, replace(compute, seed=settings["seed"]))
    head = FeatureHead(config["prithvi"]["embed_dim"], recipe).eval()
    weights = load_weights(model_folder / WEIGHTS)
    head.load_state_dict({name: value for name, value in weights.items() if name.startswith("head.")})
    with torch.inference_mode():
        probability = head.mean_logits(cache.of(load, images)).double().sigmoid().numpy()
    return images[["image_id"]].assign(probability=probability).reset_index(drop=True)


def _cached(cache: Path, keys: list[str], model: dict[str, str]) -> pd.DataFrame:
    """Predictions of the same model under the same keys; an empty table where there are none."""
    if cache.exists() and read_provenance(cache) == model:
        known = read_table(cache, "cls_evaluation")
        if [*keys, "probability"] == list(known.columns):
            return known
    return pd.DataFrame({key: pd.Series(dtype="str") for key in keys} | {"probability": pd.Series(dtype="float64")})


def _predict_new(
    model_folder: Path,
    new: pd.DataFrame,
    known: pd.DataFrame,
    keys: list[str],
    cache: Path,
    model: dict[str, str],
    compute: Compute,
    progress: Progress,
) -> pd.DataFrame:
    """Predicts, and writes the cache with the new rows. Returns all rows."""
    counter = progress.counter("predicting images", len(new), "images")
    results = probabilities_of(model_folder, [Path(chip) for chip in new["chip"]], compute)
    for number, start in enumerate(range(0, len(new), _BATCH), start=1):
        rows = new.iloc[start : start + _BATCH]
        found = list(itertools.islice(results, len(rows)))
        if errors := [result for result in found if isinstance(result, MarsError)]:
            results.close()
            raise errors[0]
        rows = rows[keys].assign(probability=np.array(found, np.float64))
        known = pd.concat([known, rows], ignore_index=True) if len(known) else rows
        if number % _SAVE_EVERY == 0 or start + _BATCH >= len(new):
            write_table(cache, known, model)
        counter.advance(len(rows))
    counter.close()
    return known


def probabilities_of(model_folder: Path, chips: Sequence[Path], compute: Compute) -> Generator[float | MarsError]:
    """The probability of a crater on each chip, in order; in the place of one that cannot be read, why.

    Args:
        model_folder: of a finished classifier.
        chips: as :func:`mars_assets.classification.data.load_chip` takes them.
        compute: where to compute.

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

    loaded = read_ahead(read, chips, 2 * _BATCH)
    with contextlib.closing(loaded):
        yield from _judged(loaded, classifier, recipe, compute)


def _judged(
    loaded: Iterator[torch.Tensor | MarsError], classifier: Classifier, recipe: ClsRecipe, compute: Compute
) -> Iterator[float | MarsError]:
    while batch := list(itertools.islice(loaded, _BATCH)):
        results: list[float | MarsError] = [chip if isinstance(chip, MarsError) else 0.0 for chip in batch]
        places = [place for place, chip in enumerate(batch) if isinstance(chip, torch.Tensor)]
        if places:
            stacked = torch.stack([chip for chip in batch if isinstance(chip, torch.Tensor)]).to(compute.device)
            with torch.inference_mode(), compute.autocast():
                logits = classifier.mean_logits(stacked, recipe.orientations)
            for place, probability in zip(places, logits.double().sigmoid().tolist(), strict=True):
                results[place] = probability
        yield from results
