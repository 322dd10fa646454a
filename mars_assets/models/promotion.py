"""Whether a newly trained model takes the place of the one in use: judged on the same images, which neither has seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mars_assets.models.seen import held_out
from mars_assets.models.versions import ModelVersion

Judge = Callable[[ModelVersion, "pd.DataFrame", str], float | None]
"""A model's score on the images of a split, the higher the better; None where it is undefined."""


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images.

    Args:
        split: of the images; empty where there are none that neither was trained on.
        n: how many there are.
        current: the score of the model in use; None where it is undefined.
        candidate: of the new one.
        score: the score's name.
    """

    split: str
    n: int
    current: float | None
    candidate: float | None
    score: str

    @property
    def is_not_worse(self) -> bool:
        """Whether the new model may take the place of the one in use. Where nothing can be said it may not."""
        return self.current is not None and self.candidate is not None and self.candidate >= self.current

    def __str__(self) -> str:
        if not self.split:
            return "there is no image that neither model was trained on: the one in use stays"
        if self.current is None or self.candidate is None:
            return f"{self.score} is undefined on the {self.n} images of {self.split}: the one in use stays"
        verdict = "takes its place" if self.is_not_worse else "is kept, and not in use"
        return (
            f"on the {self.n} images of {self.split} that neither was trained on the new model has {self.score} "
            f"{self.candidate:.3f}, the one in use {self.current:.3f}: the new one {verdict}"
        )


def compare(
    current: ModelVersion, candidate: ModelVersion, images: pd.DataFrame, score: str, judge: Judge
) -> Comparison:
    """Judges two models on the test images that neither was trained on, or on those of valid if these say nothing.

    Valid has chosen the new model's best state, so that a comparison there is kind to it.

    Args:
        current: the model in use.
        candidate: the new one.
        images: of the present labels, as a dataset gives them.
        score: the name of what ``judge`` gives.
        judge: see :data:`Judge`.
    """
    unseen, comparison = images, Comparison("", 0, None, None, score)
    for model in (current, candidate):
        unseen, _ = held_out(model, unseen)
    for split in ("test", "valid"):
        chosen = unseen[unseen["split"] == split]
        if len(chosen):
            before, after = judge(current, chosen, split), judge(candidate, chosen, split)
            comparison = Comparison(split, len(chosen), before, after, score)
            if before is not None and after is not None:
                return comparison
    return comparison


def judge_classifier(compute: Any) -> Judge:
    """By balanced accuracy."""

    def judge(model: ModelVersion, images: pd.DataFrame, split: str) -> float | None:
        from mars_assets.classification.evaluate import evaluate
        from mars_assets.classification.predict import predict

        predictions = predict(model.folder, images, model.folder / "predictions.parquet", compute)
        return evaluate(predictions, images, split, resamples=1).row["balanced_accuracy"]

    return judge


def judge_segmenter(lake_images: Callable[[str], pd.DataFrame], compute: Any) -> Judge:
    """By the IoU of craters, each model against the masks that it was trained for.

    Args:
        lake_images: the images with the masks of an annotation.
        compute: where to compute.
    """

    def judge(model: ModelVersion, images: pd.DataFrame, split: str) -> float | None:
        from mars_assets.labels.masks import RIM_WIDTHS
        from mars_assets.segmentation.evaluate import evaluate
        from mars_assets.segmentation.predict import predict_masks

        annotation = model.config["recipe"]["annotation"]
        own = lake_images(annotation)
        own = own[own["image_id"].isin(images["image_id"])]
        masks = predict_masks(model.folder, own, model.folder / "predictions", compute)
        return evaluate(masks, own, split, rim=RIM_WIDTHS[annotation], resamples=1).row["iou_crater"]

    return judge
