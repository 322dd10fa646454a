"""The decision whether a newly trained model replaces the one in use.

Both are evaluated on the same images, which neither has seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from mars_assets.lake import Lake
from mars_assets.models.seen import held_out
from mars_assets.models.task import Task
from mars_assets.models.versions import ModelVersion
from mars_assets.progress import SILENT
from mars_assets.training.compute import Compute


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images.

    Args:
        split: of the images; empty if there are none that neither model was trained on.
        n: how many images.
        current: score of the model in use; None where it is undefined.
        candidate: score of the new model.
        score: the score's name.
    """

    split: str
    n: int
    current: float | None
    candidate: float | None
    score: str

    @property
    def is_not_worse(self) -> bool:
        """Whether the new model may replace the one in use. Without evidence it may not."""
        return self.current is not None and self.candidate is not None and self.candidate >= self.current

    def __str__(self) -> str:
        if not self.split:
            return "there is no image that neither model was trained on: the one in use stays"
        if self.current is None or self.candidate is None:
            return f"{self.score} is undefined on the {self.n} {self.split} images: the model in use stays"
        verdict = "replaces it" if self.is_not_worse else "is stored, but not put into use"
        return (
            f"on the {self.n} {self.split} images that neither was trained on, the new model has {self.score} "
            f"{self.candidate:.3f} and the one in use {self.current:.3f}: the new one {verdict}"
        )


def compare(
    lake: Lake, task: Task, models: tuple[ModelVersion, ModelVersion], images: pd.DataFrame, compute: Compute
) -> Comparison:
    """Evaluate two models on test images that neither was trained on.

    If these say nothing, it is on validation images.

    The validation images have selected the new model's best state, so that a comparison on them favours it. Each model
    is evaluated against labels in the form that it was trained on.

    Args:
        lake: has the models.
        task: theirs.
        models: the model in use, and the new one.
        images: of the present labels, as a dataset gives them.
        compute: where to compute.
    """
    unseen, comparison = images, Comparison("", 0, None, None, task.score)
    for model in models:
        unseen, _ = held_out(lake, model, unseen)
    for split in ("test", "valid"):
        chosen = unseen.loc[unseen["split"] == split, "image_id"]
        if chosen.empty:
            continue
        scores: list[float | None] = []
        for model in models:
            own = task.dataset(lake, model.config["recipe"], None).images
            own = own[own["image_id"].isin(chosen)]
            predictions = task.predict(lake, model, own, compute, SILENT)
            scores.append(task.evaluate(model, predictions, own, [split], 1)[split].row[task.score])
        comparison = Comparison(split, len(chosen), scores[0], scores[1], task.score)
        if None not in scores:
            break
    return comparison
