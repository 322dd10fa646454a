"""Evaluation of the model in use on the current labels, with its history."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from mars_assets.code_versions import EVALUATION
from mars_assets.errors import MarsError
from mars_assets.evaluation.history import KEYS, as_records, record, with_change
from mars_assets.lake import Lake
from mars_assets.models.report import read_report, write_report
from mars_assets.models.seen import held_out
from mars_assets.models.task import Report, Task
from mars_assets.models.versions import ModelVersion, current_model
from mars_assets.progress import SILENT, Progress
from mars_assets.storage.files import read_table
from mars_assets.storage.hashing import fingerprint
from mars_assets.training.compute import Compute

RESAMPLES = 1000
"""Bootstrap draws behind an interval."""


@dataclass(frozen=True, kw_only=True)
class CurrentEvaluation:
    """How good the model in use is on the current labels.

    Args:
        model: the model in use.
        label_version: of the current labels.
        key: fingerprint of everything that the evaluation rests on.
        rows: a row for each split, the one to show last.
        history: all rows of the table, oldest first.
        report: what is shown beyond the scores.
        left_out: how many images were left out because the model has seen their observation.
        computed: whether it was computed now.
    """

    model: ModelVersion
    label_version: str
    key: str
    rows: list[dict[str, Any]]
    history: pd.DataFrame
    report: Report
    left_out: int
    computed: bool


def evaluate_current(
    lake: Lake,
    task: Task,
    *,
    compute: Callable[[], Compute],
    asked_for: tuple[str, str],
    progress: Progress = SILENT,
) -> CurrentEvaluation:
    """Evaluate the model in use, unless that has been done.

    Validation and test images are those that it has not seen.

    Writes ``metrics/NAME_evaluation.parquet`` with its JSON twin, a row for each model, label version and split, and
    the report next to it. Nothing is computed, and torch is not imported, where the last evaluation was of the same
    model, images and ways of computing.

    Args:
        lake: has the model and the labels.
        task: whose model.
        compute: gives the device; asked only where something is computed.
        asked_for: device and precision as they were asked for; what "auto" resolves to needs torch to find out.
        progress: takes lines.

    Raises:
        MissingInputError: a model or labelled tensors have not been materialized.
        ProvenanceError: they contradict each other.
        MarsError: the model has seen the observations of all validation and test images.
    """
    model = current_model(lake, task.model)
    dataset = task.dataset(lake, model.config["recipe"], model.statistics)
    label_version = dataset.provenance["label_version"]
    images, left_out = held_out(lake, model, dataset.images)
    if images.empty:
        raise MarsError(
            f"no image is left to evaluate {model.name} {model.version} on: all validation and test images are from "
            "observations that it was trained on. Label crops of other observations"
        )
    identity = images[["image_id", "split", "observation", "labels_sha", "chip_sha"]].sort_values("image_id")
    # The config has the training's report: the same version trained again may come out differently.
    versions = (EVALUATION, *task.evaluation_versions)
    key = fingerprint(
        versions, model.version, model.config, label_version, identity.to_dict("list"), left_out, *asked_for
    )
    about, splits = (
        (model.version, label_version),
        [name for name in ("valid", "test") if (images["split"] == name).any()],
    )
    complete = len(_rows(lake, task, about, splits)) == len(splits)
    report = read_report(lake, task.evaluation, key) if complete else None
    computed = report is None
    if report is None:
        # What fails halfway must not leave old pictures with new rows.
        lake.report(task.evaluation).unlink(missing_ok=True)
        device = compute()
        predictions = task.predict(lake, model, images, device, progress)
        if task.calibrate is not None:
            task.calibrate(model, images[images["split"] == "valid"], device, progress)
        evaluations = task.evaluate(model, predictions, images, splits, RESAMPLES)
        _record(lake, task, model, label_version, [evaluations[split].row for split in splits])
        report = task.report(lake, model, predictions, evaluations)
        report = replace(report, facts={**report.facts, "device": str(device)})
        report = write_report(lake, task.evaluation, key, report)
    return CurrentEvaluation(
        model=model,
        label_version=label_version,
        key=key,
        rows=_rows(lake, task, about, splits),
        history=read_table(lake.metrics(task.evaluation), task.evaluation),
        report=report,
        left_out=left_out,
        computed=computed,
    )


def _rows(lake: Lake, task: Task, about: tuple[str, str], splits: list[str]) -> list[dict[str, Any]]:
    """Read the rows of a model and label version, if the table has them."""
    path = lake.metrics(task.evaluation)
    if not path.exists():
        return []
    history = read_table(path, task.evaluation)
    same = (history[["model_version", "label_version"]] == list(about)).all(axis=1) & history["split"].isin(splits)
    return as_records(history[same])


def _record(lake: Lake, task: Task, model: ModelVersion, label_version: str, scores: list[dict[str, Any]]) -> None:
    """Add rows to the history, each with its change against the one before."""
    path, now = lake.metrics(task.evaluation), datetime.now(UTC).isoformat(timespec="seconds")
    of_model = {"model_version": model.version, "label_version": label_version}
    rows = [with_change(path, of_model | row, task.score, task.evaluation) | {"measured": now} for row in scores]
    record(path, rows, KEYS, task.evaluation)
