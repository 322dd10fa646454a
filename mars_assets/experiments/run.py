"""Running a sweep: nothing that exists is run again."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from mars_assets.errors import DivergedError
from mars_assets.experiments.hold_back import HELD_BACK
from mars_assets.experiments.planned_run import EVALUATED, PlannedRun, plan_run
from mars_assets.experiments.sweep import Run
from mars_assets.experiments.table import SweepTable
from mars_assets.lake import CONFIG, SCRATCH, Lake
from mars_assets.models.evaluate import RESAMPLES
from mars_assets.models.task import Task, TrainingJob
from mars_assets.models.versions import ModelVersion, start_version
from mars_assets.progress import SILENT, Progress
from mars_assets.storage.files import read_json, read_table, write_table
from mars_assets.training.compute import Compute

_NOT_KEPT = "the weights were not kept: validation scores are the earlier ones, test scores are unknown"


def run_sweep(
    lake: Lake,
    task: Task,
    runs: Sequence[Run[Any]],
    *,
    held_back: float = 0.0,
    folds: int = 0,
    compute: Compute,
    write_every: float = 10.0,
    progress: Progress = SILENT,
) -> tuple[pd.DataFrame, int]:
    """Train and evaluate the runs that are not in the table yet.

    A run that diverges is a row that says so; any other error stops the sweep, which continues there when it is started
    again, in the middle of a training too. Finished trainings keep their history, their scores and their predictions of
    the images held back; the best one keeps its weights too. If the evaluated images have changed, runs that still have
    their weights are evaluated again; the row of any other run keeps its validation scores, and those on the images
    held back if these are the same, and ``not_judged`` says so. With folds, such a run is trained again if what it held
    back has changed.

    Args:
        lake: holds the inputs, the runs (``models/TASK_experiments/VERSION``) and the table
            (``metrics/TASK_experiments.parquet``).
        task: what is trained, and how it is evaluated.
        runs: from :func:`mars_assets.experiments.sweep.plan`.
        held_back: see :func:`mars_assets.experiments.hold_back.hold_back`.
        folds: hold back each run's part instead, see :func:`mars_assets.experiments.hold_back.hold_back_part`; runs
            whose part is empty are left out.
        compute: device and precision; each run has its own seed.
        write_every: seconds between two writes of the table.
        progress: takes lines.

    Returns:
        The rows of these runs, in their order, and how many were run now.

    Raises:
        MissingInputError: weights or labelled tensors have not been materialized.
        ProvenanceError: tensors and weights do not belong together.
        MarsError: nothing can be trained on these labels.
    """
    # All inputs are checked before the first training.
    planned = [plan_run(lake, task, run, held_back, folds) for run in runs]
    if folds:
        planned = [one for one in planned if (one.images["split"] == HELD_BACK).any()]
    ran = 0
    with SweepTable(lake, task, 1 / folds if folds else held_back, write_every) as table:
        for number, one in enumerate(planned, start=1):
            if table.has(one) and not (folds and one.lacks_evidence()):
                continue
            run = one.run
            part = f", part {run.fold + 1} of {folds}" if folds else ""
            progress.say(f"run {number} of {len(planned)}: {run.name or one.version}, seed {run.seed}{part}")
            ran += 1
            scores = _scores_of(lake, task, one, replace(compute, seed=run.seed), bool(folds), progress)
            if scores["failed"]:
                progress.say(f"run {number} failed: {scores['failed']}")
            table.add(one, scores)
    written = read_table(lake.metrics(task.experiments), task.experiments)
    rows = pd.concat([written[one.matches(written)] for one in planned], ignore_index=True)
    # Rows of earlier versions have recipes with the field names of their time.
    stated = {name: [getattr(one.run, name) for one in planned] for name in ("name", "fold")}
    return rows.assign(**stated, recipe=[one.run.recipe.model_dump_json() for one in planned]), ran


def _scores_of(
    lake: Lake, task: Task, planned: PlannedRun, compute: Compute, with_evidence: bool, progress: Progress
) -> dict[str, Any]:
    """Look up or compute a run's scores by split.

    With evidence, the run is trained again if its evidence is missing and cannot be had otherwise.
    """
    start_version(lake, task.experiments, planned.version, planned.images)
    before, lacking = planned.read_scores(), planned.lacks_evidence()
    up_to_date = before.get("judged") == planned.images_evaluated and not (with_evidence and lacking)
    if before and (before.get("failed") or up_to_date):
        return {**before, "judged": planned.images_evaluated}
    has_weights = (planned.folder / task.weights_file).exists()
    if before and with_evidence and lacking and not has_weights:
        progress.say("trained again: neither its predictions of the images held back nor its weights were kept")
        shutil.rmtree(planned.folder)
        start_version(lake, task.experiments, planned.version, planned.images)
        before = {}
    if before and not has_weights:
        progress.say(f"scores updated, since other images are evaluated now, or in another way: {_NOT_KEPT}")
        scores = _scores_without_weights(task, planned, before, lacking)
    else:
        scores = _train_and_evaluate(lake, task, planned, before, compute, progress)
    scores["judged"] = planned.images_evaluated
    planned.write_scores(scores)
    return scores


def _scores_without_weights(
    task: Task, planned: PlannedRun, before: dict[str, Any], lacking_evidence: bool
) -> dict[str, Any]:
    """Read the validation scores of a run whose weights are gone.

    And those on the images held back, if its evidence exists.
    """
    scores = {name: value for name, value in before.items() if not name.startswith(("test_", f"{HELD_BACK}_"))}
    scores["not_judged"] = _NOT_KEPT
    if not lacking_evidence:
        evidence = read_table(planned.evidence, task.experiments)
        scores |= _of_split(HELD_BACK, task.pool(evidence, HELD_BACK), evidence["observation"], planned)
    return scores


def _train_and_evaluate(
    lake: Lake, task: Task, planned: PlannedRun, before: dict[str, Any], compute: Compute, progress: Progress
) -> dict[str, Any]:
    folder = planned.folder
    # How long a training took that another process began is not known.
    continued, start = (folder / SCRATCH).exists() or (folder / CONFIG).exists(), time.monotonic()
    job = TrainingJob(
        recipe=planned.run.recipe,
        images=planned.images,
        start=planned.start,
        folder=folder,
        compute=compute,
        provenance=planned.provenance,
        cache=lake.features,
        whole=False,
        progress=progress,
    )
    try:
        report = task.train(job)
    except DivergedError as error:
        shutil.rmtree(folder / SCRATCH, ignore_errors=True)
        return {"failed": str(error)}
    seconds = before.get("seconds") if before else None if continued else time.monotonic() - start
    scores: dict[str, Any] = {"failed": "", "not_judged": "", "seconds": seconds, "report": json.dumps(report)}
    model = ModelVersion(task.experiments, planned.version, folder, read_json(folder / CONFIG))
    images = planned.images[planned.images["split"].isin(EVALUATED)]
    splits = [split for split in EVALUATED if (images["split"] == split).any()]
    predictions = task.predict(lake, model, images, compute, SILENT)
    for split, evaluation in task.evaluate(model, predictions, images, splits, RESAMPLES).items():
        observations = images.loc[images["split"] == split, "observation"]
        scores |= _of_split(split, evaluation.row, observations, planned)
        if split == HELD_BACK:
            write_table(planned.evidence, evaluation.evidence)
            scores["evidence"] = planned.images_held_back
    return scores


def _of_split(split: str, row: dict[str, Any], observations: pd.Series, planned: PlannedRun) -> dict[str, Any]:
    """A split's part of a run's row."""
    scores = {f"{split}_{name}": value for name, value in row.items() if name != "split"}
    return scores | {f"{split}_pretrained_on": int(observations.isin(planned.start.seen).sum())}
