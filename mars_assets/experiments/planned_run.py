"""A run of a sweep with all of its inputs, so that existing results can be found."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mars_assets.code_versions import EVALUATION, code_version
from mars_assets.experiments.hold_back import HELD_BACK, hold_back, hold_back_part
from mars_assets.experiments.sweep import Run
from mars_assets.lake import EVIDENCE, SCORES, Lake
from mars_assets.models.starting_point import Start
from mars_assets.models.task import Task
from mars_assets.models.versions import find_version, version_of
from mars_assets.provenance import software
from mars_assets.storage.files import read_json
from mars_assets.storage.hashing import fingerprint

KEYS = ("version", "label_version")
"""The columns that identify a row of a sweep's table."""
EVALUATED = ("valid", "test", HELD_BACK)
"""The splits that runs are evaluated on."""


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """A run and its inputs.

    Args:
        run: recipe, seed and part.
        version: version of the model, see :func:`mars_assets.models.versions.version_of`.
        folder: folder of the model, its scores and its evidence.
        label_version: version of the current labels.
        images: all images with their splits, including the run's held-out ones.
        start: starting point of the training.
        provenance: provenance of the model.
        evaluation_version: version of the code that predicts and evaluates.
    """

    run: Run[Any]
    version: str
    folder: Path
    label_version: str
    images: pd.DataFrame
    start: Start
    provenance: dict[str, Any]
    evaluation_version: str

    @functools.cached_property
    def images_evaluated(self) -> str:
        """Fingerprint the evaluation by its code and images.

        A version depends on train and valid alone.
        """
        return fingerprint(EVALUATION, self.evaluation_version, self._identity(EVALUATED))[:16]

    @functools.cached_property
    def images_held_back(self) -> str:
        """Fingerprint the held-out images and the code that predicts them.

        Scores are computed from the evidence.
        """
        return fingerprint(self.evaluation_version, self._identity((HELD_BACK,)))[:16]

    def _identity(self, splits: Sequence[str]) -> dict[str, list[str]]:
        images = self.images[self.images["split"].isin(splits)].sort_values("image_id")
        columns = ["image_id", "split", "observation", "chip_sha", "labels_sha"]
        return {column: images[column].astype(str).tolist() for column in columns}

    @property
    def evidence(self) -> Path:
        """Return the path of the predictions for the held-out images."""
        return self.folder / EVIDENCE

    def read_scores(self) -> dict[str, Any]:
        """Read the scores that an earlier run stored; empty if there are none."""
        path = self.folder / SCORES
        return read_json(path) if path.exists() else {}

    def lacks_evidence(self) -> bool:
        """Test whether evidence is missing or outdated, in a run that has not failed."""
        scores = self.read_scores()
        complete = scores.get("evidence") == self.images_held_back and self.evidence.exists()
        return not scores.get("failed") and not complete

    def matches(self, table: pd.DataFrame) -> pd.Series:
        """Select the rows of a sweep's table with this run's model and labels, as a mask."""
        return (table[list(KEYS)] == [self.version, self.label_version]).all(axis=1)


def plan_run(lake: Lake, task: Task, run: Run[Any], held_back: float, folds: int) -> PlannedRun:
    """Collect a run's inputs.

    Args:
        lake: contains the inputs.
        task: the task to train.
        run: from :func:`mars_assets.experiments.sweep.plan`.
        held_back: share of the training observations to hold out.
        folds: number of parts, of which the run's own is held out instead; 0 for none.

    Raises:
        MissingInputError: weights or labelled tensors have not been materialized.
        ProvenanceError: tensors and weights do not match.
        MarsError: nothing is left to train on.
    """
    start = task.start(lake, run.recipe)
    dataset = task.dataset(lake, run.recipe.model_dump(), start.statistics)
    images = hold_back_part(dataset.images, folds, run.fold) if folds else hold_back(dataset.images, held_back)
    name_of = functools.partial(version_of, run.recipe.identity(), images, start.sha256, run.seed)
    version = find_version(lake, task.experiments, task.training_versions, name_of)
    return PlannedRun(
        run=run,
        version=version,
        folder=lake.model(task.experiments) / version,
        label_version=dataset.provenance["label_version"],
        images=images,
        start=start,
        provenance={**dataset.provenance, **start.provenance, "software": software()},
        evaluation_version=code_version(*task.evaluation_versions),
    )
