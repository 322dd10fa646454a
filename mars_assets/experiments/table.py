"""The table of a sweep, with a row for each run."""

from __future__ import annotations

import shutil
import time
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from mars_assets.evaluation.history import record
from mars_assets.experiments.hold_back import HELD_BACK
from mars_assets.experiments.planned_run import KEYS, PlannedRun
from mars_assets.lake import EVIDENCE, HISTORY, Lake
from mars_assets.models.task import Task
from mars_assets.storage.files import read_table

_WRITE_EVERY = 10.0  # seconds


class SweepTable:
    """The table of a task's runs.

    Of the runs with the same labels and the same held-out share, only the best retains its weights. As a context
    manager, the table is written every few seconds, since training a head takes less time than a write, and on exit,
    even after an error. Scores that a killed sweep did not write are in the folder of each run.

    Args:
        lake: contains the table.
        task: the task that the runs train.
        share: share of the training observations held out.
    """

    def __init__(self, lake: Lake, task: Task, share: float) -> None:
        self._lake, self._task, self._share = lake, task, share
        self._path = lake.metrics(task.experiments)
        self._table = read_table(self._path, task.experiments) if self._path.exists() else None
        self._new: list[dict[str, Any]] = []
        self._written = time.monotonic()

    def __enter__(self) -> SweepTable:
        return self

    def __exit__(self, *_: object) -> None:
        self._write()

    def has(self, planned: PlannedRun) -> bool:
        """Test whether the table contains a run, evaluated on the current images."""
        if self._table is None:
            return False
        same = self._table[planned.matches(self._table)]
        return "judged" in same and bool((same["judged"] == planned.images_evaluated).any())

    def add(self, planned: PlannedRun, scores: dict[str, Any]) -> None:
        """Add a run."""
        self._new.append(
            {
                "version": planned.version,
                "label_version": planned.label_version,
                "judged": planned.images_evaluated,
                "held_back": self._share,
                "fold": planned.run.fold,
                "name": planned.run.name,
                "seed": planned.run.seed,
                "encoder": planned.start.name,
                "recipe": planned.run.recipe.model_dump_json(),
                "measured": datetime.now(UTC).isoformat(timespec="seconds"),
                **scores,
            }
        )
        if time.monotonic() - self._written >= _WRITE_EVERY:
            self._write()

    def _write(self) -> None:
        if not self._new:
            return
        table = record(self._path, self._new, KEYS, self._task.experiments)
        models = self._lake.model(self._task.experiments)
        for labels in {row["label_version"] for row in self._new}:
            same = table[(table["label_version"] == labels) & (table["held_back"] == self._share)]
            best = ranked(same, self._task.score)["version"].tolist()[:1]
            for version in set(same["version"]) - set(best):
                (models / version / self._task.weights_file).unlink(missing_ok=True)
                shutil.rmtree(models / version / "predictions", ignore_errors=True)
        self._table, self._new, self._written = table, [], time.monotonic()


def ranked(table: pd.DataFrame, score: str) -> pd.DataFrame:
    """Select the rows that have the score on the validation set, the best first."""
    name = f"valid_{score}"
    if name not in table:
        return table.head(0)
    table = table.assign(**{name: pd.to_numeric(table[name])})
    done = table[(table["failed"] == "") & table[name].notna()]
    return done.sort_values(name, ascending=False, kind="stable")


def pooled(lake: Lake, task: Task, rows: pd.DataFrame) -> pd.DataFrame:
    """Compute the scores of each recipe and seed on all held-out parts.

    The best is first.

    Args:
        lake: contains the runs.
        task: the task that they train.
        rows: from :func:`mars_assets.experiments.run.run_sweep`.

    Returns:
        ``name, seed, recipe, parts, pretrained_on, missing`` and the task's scores. If the run of a part failed, there
        are no scores, and ``missing`` gives the reason.
    """
    found = []
    for (_, seed), runs in rows.groupby(["recipe", "seed"], sort=False):
        first, parts = runs.iloc[0], runs.to_dict("records")
        missing = [f"part {part['fold'] + 1}: {part['failed']}" for part in parts if part["failed"]]
        scores: dict[str, Any] = {"pretrained_on": float("nan")}
        if not missing:
            files = [lake.version(task.experiments, part["version"]) / EVIDENCE for part in parts]
            evidence = pd.concat([read_table(file, task.experiments) for file in files], ignore_index=True)
            scores = task.pool(evidence, HELD_BACK)
            scores["pretrained_on"] = sum(int(part[f"{HELD_BACK}_pretrained_on"]) for part in parts)
        found.append(
            {
                "name": first["name"],
                "seed": seed,
                "recipe": first["recipe"],
                "parts": len(parts),
                "missing": "; ".join(missing),
                **{name: value for name, value in scores.items() if name != "split"},
            }
        )
    table = pd.DataFrame(found)
    if task.score in table:
        table = table.sort_values(task.score, ascending=False, kind="stable", ignore_index=True)
    return table


def histories(lake: Lake, task: Task, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Read the training history of each row that has one, by version."""
    files = {version: lake.model(task.experiments) / version / HISTORY for version in table["version"]}
    return {version: read_table(file, task.experiments) for version, file in files.items() if file.exists()}
