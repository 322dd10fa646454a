"""Running a sweep: one row a run, written as soon as it is there, and nothing that is there is run again."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mars_assets.compute import Compute
from mars_assets.datasets import Dataset
from mars_assets.errors import MarsError
from mars_assets.evaluation.history import record
from mars_assets.experiments.sweep import Run
from mars_assets.lake import Lake, read_table
from mars_assets.models import encoder_weights, start_version, version_of
from mars_assets.progress import SILENT, Progress
from mars_assets.provenance import software

if TYPE_CHECKING:
    import pandas as pd

HELD_BACK = "held_back"
"""The split of training observations that a sweep holds back."""

_KEYS = ("version", "label_version")


@dataclass(frozen=True)
class Task:
    """What a sweep's runs have in common.

    Args:
        name: of the asset and its table.
        score: what runs are ranked by, on valid; the higher the better.
        dataset: the images of a recipe.
        train: trains into a folder: (recipe, images, weights, folder, compute, provenance, progress) -> report.
        judge: scores of a finished folder on a split: (folder, images, split, compute) -> row.
        model: name of the file with a finished training's weights; only the best run's is kept.
    """

    name: str
    score: str
    dataset: Callable[[Any], Dataset]
    train: Callable[..., dict[str, Any]]
    judge: Callable[[Path, pd.DataFrame, str, Compute], dict[str, Any]]
    model: str


def hold_back(images: pd.DataFrame, share: float) -> pd.DataFrame:
    """Moves a share of the training observations into the split ``held_back``: the same ones for every sweep.

    An observation's own hash decides, so that new observations move no others.
    """
    if not share:
        return images

    def is_held(observation: str) -> bool:
        return int.from_bytes(hashlib.sha256(f"hold back {observation}".encode()).digest()[:8], "big") < share * 2**64

    held = (images["split"] == "train") & images["observation"].astype(str).map(is_held)
    return images.assign(split=images["split"].mask(held, HELD_BACK))


def run_sweep(
    lake: Lake,
    task: Task,
    runs: Sequence[Run[Any]],
    *,
    held_back: float,
    compute: Compute,
    progress: Progress = SILENT,
) -> tuple[pd.DataFrame, int]:
    """Trains and judges what is not in the table yet.

    A run that fails on its own account, as by diverging, is a row that says so. A killed sweep goes on where it stopped,
    in the middle of a training too. Of finished trainings the history stays, and the weights of the best.

    Args:
        lake: holds the inputs, the runs (``models/TASK/VERSION``) and the table (``metrics/TASK.parquet``).
        task: what is trained, and how it is judged.
        runs: from :func:`mars_assets.experiments.sweep.plan`.
        held_back: see :func:`hold_back`.
        compute: device and precision; the seed is each run's.
        progress: takes lines.

    Returns:
        The rows of these runs, in their order, and how many were run now.

    Raises:
        MissingInputError: weights or labelled tensors have not been made.
        MarsError: nothing can be trained on these labels.
    """
    import pandas as pd

    path = lake.metrics(task.name)
    versions, ran = [], 0
    for number, run in enumerate(runs, start=1):
        weights, sha256, encoder = encoder_weights(lake, run.recipe.encoder)
        dataset = task.dataset(run.recipe)
        images = hold_back(dataset.images, held_back)
        version = version_of(run.recipe.model_dump(), images, sha256, run.seed)
        versions.append(version)
        label_version = dataset.provenance["label_version"]
        if path.exists() and (read_table(path, task.name)[list(_KEYS)] == [version, label_version]).all(axis=1).any():
            continue
        progress.say(f"run {number} of {len(runs)}: {run.name or version}, seed {run.seed}")
        ran += 1
        row: dict[str, Any] = {
            "version": version,
            "label_version": label_version,
            "name": run.name,
            "seed": run.seed,
            "encoder": encoder,
            "recipe": run.recipe.model_dump_json(),
            "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        folder = start_version(lake, task.name, version, images)
        provenance = {**dataset.provenance, "weights": encoder, "weights_sha256": sha256, "software": software()}
        of_run = replace(compute, seed=run.seed)
        start = time.monotonic()
        try:
            report = task.train(run.recipe, images, weights, folder, of_run, provenance, progress)
        except MarsError as error:
            if ran == 1 and number == 1:
                raise  # nothing has run yet: what is wrong is more likely the data than the recipe
            progress.say(f"run {number} failed: {error}")
            row["failed"] = str(error)
        else:
            row |= {"failed": "", "seconds": time.monotonic() - start, "report": json.dumps(report)}
            for split in ("valid", "test", HELD_BACK):
                if (images["split"] == split).any():
                    scores = task.judge(folder, images, split, of_run)
                    row |= {f"{split}_{name}": value for name, value in scores.items() if name not in ("split",)}
        table = record(path, [row], _KEYS, task.name)
        _keep_the_best(lake, task, table)
    table = read_table(path, task.name).drop_duplicates("version", keep="last").set_index("version")
    rows = pd.DataFrame(table.loc[versions].reset_index())
    return rows.assign(name=[run.name for run in runs]), ran


def ranked(table: pd.DataFrame, score: str) -> pd.DataFrame:
    """Rows that did not fail, the best on valid first."""
    return table[table["failed"] == ""].sort_values(f"valid_{score}", ascending=False, kind="stable")


def _keep_the_best(lake: Lake, task: Task, table: pd.DataFrame) -> None:
    order = ranked(table, task.score)["version"].tolist()
    for version in order[1:]:
        (lake.model(task.name) / version / task.model).unlink(missing_ok=True)


def histories(lake: Lake, name: str, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The training history of each row that has one, by version."""
    files = {version: lake.model(name) / version / "history.parquet" for version in table["version"]}
    return {version: read_table(file, name) for version, file in files.items() if file.exists()}
