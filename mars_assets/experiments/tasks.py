"""The two tasks that sweeps are run for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mars_assets.classification.recipe import recipe_of
from mars_assets.datasets import classification_dataset, segmentation_dataset
from mars_assets.errors import ProvenanceError
from mars_assets.experiments.run import HELD_BACK, Judged, Task
from mars_assets.lake import Lake
from mars_assets.models.starting_point import encoder_weights
from mars_assets.prithvi.weights import open_weights
from mars_assets.storage.files import read_json
from mars_assets.training.run_folder import CONFIG

if TYPE_CHECKING:
    from mars_assets.prithvi.model import PrithviEncoder
    from mars_assets.training.compute import Compute


def classification_task(lake: Lake, stage: str) -> Task:
    """Runs of :func:`mars_assets.classification.train.train_classifier`, ranked by balanced accuracy.

    Args:
        lake: where everything is.
        stage: the tensor stage that is read.
    """
    from mars_assets.classification.checkpoint import MODEL
    from mars_assets.classification.evaluate import evaluate
    from mars_assets.classification.predict import predict, predict_from_features
    from mars_assets.classification.recipe import COMPUTATION, PREDICTION
    from mars_assets.classification.train import new_encoder, train_classifier

    evidence = ["image_id", "observation", "label", "probability"]

    def train(*arguments: Any) -> dict[str, Any]:
        return train_classifier(*arguments, features=lake.features, whole=False)

    def judge(folder: Path, images: pd.DataFrame, split: str, compute: Compute) -> Judged:
        config = read_json(folder / CONFIG)
        recipe = recipe_of(config)

        def load() -> PrithviEncoder:
            weights, sha256, name = encoder_weights(lake, recipe.encoder)
            if sha256 != config["settings"]["weights"]:
                raise ProvenanceError(
                    f"{folder} was trained on the features of other weights than {name}, which are in use now: put those "
                    f"into use again, or run the sweep again, which trains with the present ones"
                )
            return new_encoder(recipe, open_weights(weights).config, weights, compute)

        predictions = predict_from_features(folder, images, lake.features, load, compute)
        if predictions is None:
            predictions = predict(folder, images, folder / "predictions.parquet", compute)
        evaluation = evaluate(predictions, images, split)
        return Judged(evaluation.row, evaluation.images[evidence])

    def together(evidence: pd.DataFrame) -> dict[str, Any]:
        return evaluate(evidence, evidence.drop(columns="probability").assign(split=HELD_BACK), HELD_BACK).row

    return Task(
        "cls_experiments",
        "balanced_accuracy",
        lambda recipe, statistics: classification_dataset(lake, stage, statistics),
        train,
        judge,
        together,
        MODEL,
        COMPUTATION,
        PREDICTION,
    )


def segmentation_task(lake: Lake, stage: str) -> Task:
    """Runs of :func:`mars_assets.segmentation.train.train_segmentation`, ranked by the IoU of craters."""
    from mars_assets.labels.masks import RIM_WIDTHS
    from mars_assets.segmentation.checkpoint import MODEL
    from mars_assets.segmentation.evaluate import evaluate, evaluate_together
    from mars_assets.segmentation.predict import predict_masks
    from mars_assets.segmentation.recipe import COMPUTATION, COUNTING, PREDICTION
    from mars_assets.segmentation.train import train_segmentation

    def judge(folder: Path, images: pd.DataFrame, split: str, compute: Compute) -> Judged:
        masks = predict_masks(folder, images, folder / "predictions", compute)
        rim = RIM_WIDTHS[read_json(folder / CONFIG)["recipe"]["annotation"]]
        evaluation = evaluate(masks, images, split, rim=rim)
        return Judged(evaluation.row, evaluation.evidence)

    return Task(
        "seg_experiments",
        "iou_crater",
        lambda recipe, statistics: segmentation_dataset(lake, stage, recipe.annotation, statistics),
        train_segmentation,
        judge,
        lambda evidence: evaluate_together(evidence, HELD_BACK),
        MODEL,
        COMPUTATION,
        f"{PREDICTION}, {COUNTING}",
    )
