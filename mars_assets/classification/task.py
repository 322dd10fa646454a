"""The task of classifying images as crater or no crater."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mars_assets.classification.evaluate import by_crater_size, by_observation, evaluate, suspected_label_errors
from mars_assets.classification.figures import (
    evaluation_figure,
    mistakes_sheet,
    probability_histogram,
    training_curves,
    uncertain_sheet,
)
from mars_assets.classification.model_card import model_card
from mars_assets.classification.predict_folder import scale_note, uncertainty
from mars_assets.classification.recipe import OUTLINES, ClsRecipe, recipe_of, stated_recipe_of
from mars_assets.code_versions import CLASSIFICATION as CLASSIFICATION_VERSION
from mars_assets.code_versions import CLASSIFIER_PREDICTION
from mars_assets.datasets import classification_dataset, unlabelled_crops
from mars_assets.errors import MarsError, ProvenanceError
from mars_assets.lake import PREDICTIONS, PREDICTIONS_OF_CROPS, SEGMENTER, WEIGHTS, Lake
from mars_assets.models.starting_point import Start, initial_encoder, start_from_model, start_from_weights
from mars_assets.models.task import Descriptions, Evaluation, Listing, Report, Task
from mars_assets.models.versions import ModelVersion, current_model
from mars_assets.prithvi import PRITHVI
from mars_assets.progress import Progress
from mars_assets.storage.hashing import sha256_file
from mars_assets.training.compute import Compute
from mars_assets.training.run_folder import TrainingJob

if TYPE_CHECKING:
    from mars_assets.encoders.weights import Encoder
    from mars_assets.prithvi.model import PrithviEncoder

HEADS: dict[str, Any] = {
    "base": {
        "frozen": True,
        "image_size": 224,
        "draw": "images",
        "augment": "none",
        "mask_ratio": 0.0,
        "all_orientations": False,
        "label_smoothing": 0.0,
        "average_weights": 0.0,
        "batch_size": 32,
        "steps": 200,
        "warmup_steps": 10,
        "evaluate_every": 20,
    },
    "grid": {
        "pooling": ["class_token", "mean"],
        "lr": [1e-3, 1e-2],
        "weight_decay": [0.0, 0.05],
        "dropout": [0.0, 0.3],
    },
}
"""Default sweep: sixteen heads on the frozen encoder, which is quick."""

DESCRIPTIONS = Descriptions(
    model="""Classifier of crater or no crater: Prithvi's encoder with one linear unit, fine-tuned.

The configuration is a recipe; `recipes/cls_paper.yaml` is the paper's. With `architecture: seg_model` training starts
from the segmentation model in use; any other value names a timm model for comparison.

A model version is identified by its recipe, training and validation images, initial weights and seed; an existing
version is never retrained, and a killed training continues. The state with the lowest validation loss is selected.
`mars_weights` and `seg_model` are needed only for recipes that start from them.""",
    evaluation="""Scores of the classifier in use on the current labels.

There is one row per model version, label version and split. Earlier rows are retained; each row states its change from
the previous one and whether the change exceeds the noise.

Only validation and test images from observations that the model was not trained on are used. Intervals are 95 %
bootstraps over observations. Predictions are cached, so that new labels cost only their own images. Nothing is trained.
Confident learning finds suspected label errors: inspect them before you trust the scores.""",
    predictions="""Predictions of the classifier in use for every crop without a class, the least certain first.

Use them to choose what to label next: sort by `uncertainty` (entropy in bits, 1 at a probability of one half). Each
crop is predicted once per model.""",
    experiments="""Comparison of classification recipes on the same images, with one row per training.

The configuration is a sweep, see `recipes/sweeps/cls_*.yaml`: variants, a grid, random draws, seeds. Finished runs are
not repeated, and a killed sweep continues where it stopped. With a frozen encoder, each image is encoded only once for
all heads if nothing before the head is random: `mask_ratio` 0 and `augment` none or flips. Runs are ranked by balanced
accuracy on the validation set, so that the best run's score there is optimistic: `hold_back` adds an unbiased score,
and `folds`, cross-validation by observation, adds one on all training images. Weights are retained only for the best
run; with a frozen encoder, only its head.""",
)


def _start(lake: Lake, recipe: ClsRecipe) -> Start:
    if recipe.architecture == OUTLINES:
        model = current_model(lake, "seg_model")
        sha256 = sha256_file(model.folder / SEGMENTER)
        return start_from_model(lake, model, model.folder, sha256, model.statistics)
    start = start_from_weights(lake, recipe.encoder)
    # A timm model uses only the statistics of the weights, and is called by its own name.
    return start if recipe.architecture == PRITHVI else replace(start, name=recipe.architecture)


def _train(job: TrainingJob[ClsRecipe, pd.DataFrame]) -> dict[str, Any]:
    from mars_assets.classification.train import train_classifier

    return train_classifier(job)


def _encoder(model: ModelVersion) -> PrithviEncoder:
    from mars_assets.classification.checkpoint import open_classifier
    from mars_assets.prithvi.model import PrithviEncoder

    encoder = getattr(open_classifier(model.folder)[0], "encoder", None)
    if not isinstance(encoder, PrithviEncoder):
        raise MarsError(
            f"{model.name} {model.version} has no encoder of Prithvi's, and only these can be exported: choose a model "
            "that has one"
        )
    return encoder


def _predict(
    lake: Lake, model: ModelVersion, images: pd.DataFrame, compute: Compute, progress: Progress
) -> pd.DataFrame:
    """Predict images, from cached features if only the head was stored."""
    from mars_assets.classification.checkpoint import is_head_alone
    from mars_assets.classification.predict import predict, predict_from_features

    if not is_head_alone(model.folder):
        return predict(model.folder, images, model.folder / PREDICTIONS, compute, progress)
    recipe = recipe_of(model.config)

    @cache
    def load() -> Encoder:
        start = start_from_weights(lake, recipe.encoder)
        if start.sha256 != model.config["settings"]["weights"]:
            raise ProvenanceError(
                f"{model.folder} was trained on features of other weights than {start.name}, which are now in use: "
                "materialize the former weights again, or repeat the sweep with the current ones"
            )
        return initial_encoder(recipe, start.folder, compute)

    return predict_from_features(model.folder, images, lake.features, load, compute)


def _evaluate(
    model: ModelVersion, predictions: pd.DataFrame, images: pd.DataFrame, splits: Sequence[str], resamples: int
) -> dict[str, Evaluation]:
    images = images.merge(predictions, how="left", on="image_id", validate="one_to_one")
    return {split: evaluate(images, split, resamples) for split in splits}


def _report(lake: Lake, model: ModelVersion, predictions: pd.DataFrame, evaluations: Mapping[str, Any]) -> Report:
    shown = evaluations["test"] if "test" in evaluations else evaluations["valid"]
    suspected, sizes = suspected_label_errors(shown.images), by_crater_size(shown.images)
    tables, facts = {"by observation": by_observation(shown.images)}, {}
    if len(sizes):
        tables["by crater size"] = sizes
    else:
        facts["by crater size"] = "unknown: no classified image has outlines"
    if len(suspected):
        tables["suspected label errors"] = suspected[["image_id", "observation", "label", "probability"]]
    else:
        facts["suspected label errors"] = "none"
    return Report({"plots": evaluation_figure(shown), "mistakes": mistakes_sheet(shown.images)}, tables, facts)


def _list_unlabelled(lake: Lake, model: ModelVersion, compute: Compute, progress: Progress) -> Listing:
    from mars_assets.classification.predict import predict

    images = unlabelled_crops(lake, "label", ["position_kind", "longitude", "latitude"])
    note = scale_note(model.folder, [Path(chip) for chip in images["chip"]])
    cached = model.folder / PREDICTIONS_OF_CROPS
    probabilities = predict(model.folder, images, cached, compute, progress)["probability"].to_numpy(np.float64)
    every = images.assign(probability=probabilities, uncertainty=uncertainty(probabilities))
    every = every.sort_values("uncertainty", ascending=False, kind="stable", ignore_index=True)
    rows = every.assign(file=[lake.relative(Path(chip)) for chip in every["chip"]]).drop(columns=["chip", "chip_sha"])
    report = Report(
        {"uncertain": uncertain_sheet(every), "all": probability_histogram(every)},
        {"least certain crops": rows[["image_id", "probability", "uncertainty"]].head(20)},
        {"crops": len(rows), "predicted to have a crater": int((rows["probability"] >= 0.5).sum())},
    )
    return Listing(rows, ["image_id", "probability"], note, report)


CLASSIFICATION = Task(
    name="cls",
    descriptions=DESCRIPTIONS,
    libraries=frozenset({"pytorch"}),
    recipe=ClsRecipe,
    recipe_of=stated_recipe_of,
    score="balanced_accuracy",
    lowest_score=0.8,
    scores=("accuracy", "balanced_accuracy", "precision", "recall", "f1", "auroc", "ece", "loss"),
    sweep_scores=("balanced_accuracy", "auroc", "loss"),
    curve=("step", "valid_loss"),
    default_sweep=HEADS,
    weights_file=WEIGHTS,
    training_versions=(CLASSIFICATION_VERSION,),
    evaluation_versions=(CLASSIFIER_PREDICTION,),
    dataset=lambda lake, recipe, statistics: classification_dataset(lake, statistics),
    start=_start,
    train=_train,
    best=lambda report: dict(report["best"]),
    curves=training_curves,
    card=lambda model, images: model_card(model.version, model.config, images),
    encoder=_encoder,
    predict=_predict,
    evaluate=_evaluate,
    pool=lambda evidence, split: evaluate(evidence.assign(split=split), split).row,
    report=_report,
    list_unlabelled=_list_unlabelled,
)
