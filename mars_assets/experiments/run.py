"""Execution of a sweep: existing results are reused."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

import pandas as pd

from mars_assets.errors import DivergedError
from mars_assets.experiments.hold_back import HELD_BACK
from mars_assets.experiments.planned_run import EVALUATED, PlannedRun, plan_run
from mars_assets.experiments.sweep import Run
from mars_assets.experiments.table import SweepTable
from mars_assets.lake import CONFIG, SCORES, SCRATCH, Lake
from mars_assets.models.evaluate import RESAMPLES
from mars_assets.models.task import Task
from mars_assets.models.versions import ModelVersion, start_version
from mars_assets.progress import SILENT, Progress
from mars_assets.storage.claims import has_work
from mars_assets.storage.files import read_json, read_table, write_json, write_table
from mars_assets.training.compute import Compute
from mars_assets.training.run_folder import TrainingJob

_NO_WEIGHTS = "the weights were deleted: validation scores are the earlier ones, test scores are unknown"


@dataclass(frozen=True)
class SweepJob:
    """A sweep to run.

    Args:
        lake: contains the inputs, the runs (``models/TASK_experiments/VERSION``) and the table
            (``metrics/TASK_experiments.parquet``).
        task: the task to train and evaluate.
        runs: from :func:`mars_assets.experiments.sweep.plan`.
        compute: device and precision; each run has its own seed.
        held_back: share of the training observations to hold out, see
            :func:`mars_assets.experiments.hold_back.hold_back`.
        folds: number of parts for cross-validation, in which each run holds out its own part instead, see
            :func:`mars_assets.experiments.hold_back.hold_back_part`. Runs whose part is empty are skipped.
        progress: reports the runs.
    """

    lake: Lake
    task: Task
    runs: Sequence[Run[Any]]
    _: KW_ONLY
    compute: Compute
    held_back: float = 0.0
    folds: int = 0
    progress: Progress = SILENT


def run_sweep(job: SweepJob) -> tuple[pd.DataFrame, int]:
    """Train and evaluate the runs that are not in the table yet.

    A run that diverges is recorded as failed. Any other error stops the sweep, which continues from there when it is
    started again, even in the middle of a training. Finished runs retain their history, their scores and their
    predictions for the held-out images, and the best one also its weights. If the evaluated images have changed, runs
    that still have their weights are evaluated again. Other runs retain their validation scores, and their scores on
    the held-out images if these are the same, as recorded in ``not_judged``; with folds, such a run is trained again
    if its held-out images have changed.

    Returns:
        The rows of these runs, in their order, and the number of runs executed now.

    Raises:
        MissingInputError: weights or labelled tensors have not been materialized.
        ProvenanceError: tensors and weights do not match.
        MarsError: the labels leave nothing to train on.
    """
    lake, task, folds = job.lake, job.task, job.folds
    # All inputs are checked before the first training.
    planned = [plan_run(lake, task, run, job.held_back, folds) for run in job.runs]
    if folds:
        planned = [one for one in planned if (one.images["split"] == HELD_BACK).any()]
    ran = 0
    with SweepTable(lake, task, 1 / folds if folds else job.held_back) as table:
        for number, one in enumerate(planned, start=1):
            if table.has(one) and not (folds and one.lacks_evidence()):
                continue
            run = one.run
            part = f", part {run.fold + 1} of {folds}" if folds else ""
            job.progress.say(f"run {number} of {len(planned)}: {run.name or one.version}, seed {run.seed}{part}")
            ran += 1
            scores = _scores_of(job, one)
            if scores["failed"]:
                job.progress.say(f"run {number} failed: {scores['failed']}")
            table.add(one, scores)
    written = read_table(lake.metrics(task.experiments), task.experiments)
    rows = pd.concat([written[one.matches(written)] for one in planned], ignore_index=True)
    # Rows by earlier versions of this project have recipes with the field names of their time.
    stated = {name: [getattr(one.run, name) for one in planned] for name in ("name", "fold")}
    return rows.assign(**stated, recipe=[one.run.recipe.model_dump_json() for one in planned]), ran


def _scores_of(job: SweepJob, planned: PlannedRun) -> dict[str, Any]:
    """Look up or compute a run's scores by split.

    With folds, the run is trained again if its predictions for the held-out images are missing and its weights too.
    """
    lake, task = job.lake, job.task
    start_version(lake, task.experiments, planned.version, planned.images)
    before, lacking = planned.read_scores(), planned.lacks_evidence()
    up_to_date = before.get("judged") == planned.images_evaluated and not (job.folds and lacking)
    if before and (before.get("failed") or up_to_date):
        return {**before, "judged": planned.images_evaluated}
    has_weights = (planned.folder / task.weights_file).exists()
    if before and job.folds and lacking and not has_weights:
        job.progress.say("training again: the predictions for the held-out images and the weights are missing")
        shutil.rmtree(planned.folder)
        start_version(lake, task.experiments, planned.version, planned.images)
        before = {}
    if before and not has_weights:
        job.progress.say(f"scores updated for other images or another evaluation: {_NO_WEIGHTS}")
        scores = _scores_without_weights(task, planned, before)
    else:
        scores = _train_and_evaluate(job, planned, before)
    scores["judged"] = planned.images_evaluated
    write_json(planned.folder / SCORES, scores)
    return scores


def _scores_without_weights(task: Task, planned: PlannedRun, before: dict[str, Any]) -> dict[str, Any]:
    """Select the scores that remain valid for a run whose weights were deleted.

    These are the validation scores, and those on the held-out images if their predictions exist.
    """
    scores = {name: value for name, value in before.items() if not name.startswith(("test_", f"{HELD_BACK}_"))}
    scores["not_judged"] = _NO_WEIGHTS
    if not planned.lacks_evidence():
        evidence = read_table(planned.evidence, task.experiments)
        scores |= _of_split(HELD_BACK, task.pool(evidence, HELD_BACK), evidence["observation"], planned)
    return scores


def _train_and_evaluate(job: SweepJob, planned: PlannedRun, before: dict[str, Any]) -> dict[str, Any]:
    task, folder = job.task, planned.folder
    compute = replace(job.compute, seed=planned.run.seed)
    # The duration of a training that another process started is unknown.
    continued, start = has_work(folder / SCRATCH) or (folder / CONFIG).exists(), time.monotonic()
    training = TrainingJob(
        planned.run.recipe,
        planned.images,
        planned.start.folder,
        folder,
        compute,
        planned.provenance,
        job.progress,
        cache=job.lake.features,
        whole=False,
    )
    try:
        report = task.train(training)
    except DivergedError as error:
        return {"failed": str(error)}
    seconds = before.get("seconds") if before else None if continued else time.monotonic() - start
    scores: dict[str, Any] = {"failed": "", "not_judged": "", "seconds": seconds, "report": json.dumps(report)}
    model = ModelVersion(task.experiments, planned.version, folder, read_json(folder / CONFIG))
    images = planned.images[planned.images["split"].isin(EVALUATED)]
    splits = [split for split in EVALUATED if (images["split"] == split).any()]
    predictions = task.predict(job.lake, model, images, compute, SILENT)
    for split, evaluation in task.evaluate(model, predictions, images, splits, RESAMPLES).items():
        observations = images.loc[images["split"] == split, "observation"]
        scores |= _of_split(split, evaluation.row, observations, planned)
        if split == HELD_BACK:
            write_table(planned.evidence, evaluation.evidence)
            scores["evidence"] = planned.images_held_back
    return scores


def _of_split(split: str, row: dict[str, Any], observations: pd.Series, planned: PlannedRun) -> dict[str, Any]:
    """Prefix a split's scores with its name.

    Its observations seen in pretraining are counted.
    """
    scores = {f"{split}_{name}": value for name, value in row.items() if name != "split"}
    return scores | {f"{split}_pretrained_on": int(observations.isin(planned.start.seen).sum())}
