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
    lake: Lake, task: Task, current: ModelVersion, candidate: ModelVersion, images: pd.DataFrame, compute: Compute
) -> Comparison:
    """Evaluate two models on the test images that neither was trained on, or on validation images if these say nothing.

    The validation images have selected the new model's best state, so that a comparison on them favours it.

    Args:
        lake: has the models.
        task: theirs.
        current: the model in use.
        candidate: the new one.
        images: of the present labels, as a dataset gives them.
        compute: where to compute.
    """
    unseen, comparison = images, Comparison("", 0, None, None, task.score)
    for model in (current, candidate):
        unseen, _ = held_out(lake, model, unseen)
    for split in ("test", "valid"):
        chosen = unseen.loc[unseen["split"] == split, "image_id"]
        if len(chosen):
            before, after = (_score(lake, task, model, set(chosen), split, compute) for model in (current, candidate))
            comparison = Comparison(split, len(chosen), before, after, task.score)
            if before is not None and after is not None:
                return comparison
    return comparison


def _score(
    lake: Lake, task: Task, model: ModelVersion, image_ids: set[str], split: str, compute: Compute
) -> float | None:
    """A model's score, against labels in the form that it was trained on."""
    images = task.dataset(lake, model.config["recipe"], None).images
    images = images[images["image_id"].isin(image_ids)]
    predictions = task.predict(lake, model, images, compute, SILENT)
    return task.evaluate(model, predictions, images, [split], 1)[split].row[task.score]
