"""A run of a sweep with everything that it is computed from, so that what exists is found and not run again."""

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
from mars_assets.storage.files import read_json, write_json
from mars_assets.storage.hashing import fingerprint

KEYS = ("version", "label_version")
"""The columns that tell one row of a sweep's table from another."""
EVALUATED = ("valid", "test", HELD_BACK)
"""The splits that runs are evaluated on."""


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """A run and its inputs.

    Args:
        run: recipe, seed and part.
        version: name of the training, see :func:`mars_assets.models.versions.version_of`.
        folder: of the training, its scores and its evidence.
        label_version: of the labels in force.
        images: with their splits, as the run holds some back.
        start: what the training is initialised from.
        provenance: of the training.
        evaluation_version: names the ways of predicting and counting.
    """

    run: Run[Any]
    version: str
    folder: Path
    label_version: str
    images: pd.DataFrame
    start: Start
    provenance: dict[str, Any]
    evaluation_version: str

    @property
    def key(self) -> dict[str, str]:
        """What a row of the table must have in common with this run to be its result."""
        return {"version": self.version, "label_version": self.label_version, "judged": self.images_evaluated}

    @functools.cached_property
    def images_evaluated(self) -> str:
        """Fingerprint of the images that the run is evaluated on, and how: a version is named by train and valid alone."""
        return fingerprint(EVALUATION, self.evaluation_version, self._identity(EVALUATED))[:16]

    @functools.cached_property
    def images_held_back(self) -> str:
        """Fingerprint of the images held back, and of how they are predicted; their scores are computed from the evidence."""
        return fingerprint(self.evaluation_version, self._identity((HELD_BACK,)))[:16]

    def _identity(self, splits: Sequence[str]) -> dict[str, list[str]]:
        images = self.images[self.images["split"].isin(splits)].sort_values("image_id")
        columns = ["image_id", "split", "observation", "chip_sha", "labels_sha"]
        return images[columns].astype(str).to_dict("list")

    @property
    def evidence(self) -> Path:
        """File with the predictions of the images held back."""
        return self.folder / EVIDENCE

    def read_scores(self) -> dict[str, Any]:
        """Read the scores that an earlier run stored; empty if there are none."""
        path = self.folder / SCORES
        return read_json(path) if path.exists() else {}

    def write_scores(self, scores: dict[str, Any]) -> None:
        """Store scores, next to the training."""
        write_json(self.folder / SCORES, scores)

    def lacks_evidence(self) -> bool:
        """Whether a run that did not fail left no evidence of these images, or not of all."""
        scores = self.read_scores()
        complete = scores.get("evidence") == self.images_held_back and self.evidence.exists()
        return not scores.get("failed") and not complete

    def matches(self, table: pd.DataFrame) -> pd.Series:
        """The rows of a sweep's table that are of this training and these labels, as a mask."""
        return (table[list(KEYS)] == [self.version, self.label_version]).all(axis=1)

    def is_in(self, table: pd.DataFrame) -> bool:
        """Whether a sweep's table has this run, evaluated on today's images."""
        same = table[self.matches(table)]
        return "judged" in same and bool((same["judged"] == self.images_evaluated).any())


def plan_run(lake: Lake, task: Task, run: Run[Any], held_back: float, folds: int) -> PlannedRun:
    """Find a run's inputs.

    Args:
        lake: has the inputs.
        task: what is trained.
        run: from :func:`mars_assets.experiments.sweep.plan`.
        held_back: share of the training observations to hold back.
        folds: hold back the run's part of so many instead.

    Raises:
        MissingInputError: weights or labelled tensors have not been materialized.
        ProvenanceError: tensors and weights do not belong together.
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
