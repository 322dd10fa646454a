"""Running a sweep: one row a run, written as soon as it is there, and nothing that is there is run again."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mars_assets.bands import BandStatistics
from mars_assets.compute import Compute
from mars_assets.datasets import Dataset
from mars_assets.errors import DivergedError, MarsError
from mars_assets.evaluation import COMPUTATION
from mars_assets.evaluation.history import record
from mars_assets.experiments.sweep import Run
from mars_assets.lake import Lake, fingerprint, lot, read_json, read_table, write_json
from mars_assets.models import encoder_weights, pretrained_groups, start_version, version_of
from mars_assets.prithvi import PRITHVI
from mars_assets.prithvi.weights import open_weights
from mars_assets.progress import SILENT, Progress
from mars_assets.provenance import software
from mars_assets.training import CONFIG, SCRATCH

if TYPE_CHECKING:
    import pandas as pd

HELD_BACK = "held_back"
"""The split of training observations that a sweep holds back."""

_KEYS = ("version", "label_version")
_SCORES = "scores.json"
_JUDGING = ("valid", "test", HELD_BACK)
"""The splits that runs are judged on."""
_NOT_KEPT = "the weights were not kept: scores on valid are those of before, others are unknown"


@dataclass(frozen=True)
class Task:
    """What a sweep's runs have in common.

    Args:
        name: of the asset and its table.
        score: what runs are ranked by, on valid; the higher the better.
        dataset: the images of a recipe, for weights of these statistics.
        train: trains into a folder: (recipe, images, weights, folder, compute, provenance, progress) -> report.
        judge: scores of a finished folder on the images of a split: (folder, images, split, compute) -> row.
        model: name of the file with a finished training's weights; only the best run's is kept. Of a frozen encoder's run it
            holds the linear unit alone.
        computation: names the way of training, see :func:`mars_assets.models.version_of`.
        judging: names the way of predicting and counting that ``judge`` rests on.
    """

    name: str
    score: str
    dataset: Callable[[Any, BandStatistics], Dataset]
    train: Callable[..., dict[str, Any]]
    judge: Callable[[Path, pd.DataFrame, str, Compute], dict[str, Any]]
    model: str
    computation: str = ""
    judging: str = ""


def hold_back(images: pd.DataFrame, share: float) -> pd.DataFrame:
    """Moves a share of the training observations into the split ``held_back``: the same ones for every sweep.

    An observation's own hash decides, so that new observations move no others; but one is held back at least, and one is
    left to train on.

    Raises:
        MarsError: there are not two training observations.
    """
    if not share:
        return images
    trained = images.loc[images["split"] == "train", "observation"].astype(str)
    draws = {name: lot(f"hold back {name}") for name in trained}
    if len(draws) < 2:
        raise MarsError("hold_back needs two training observations at least: label crops of others, or set it to 0")
    ordered = sorted(draws, key=lambda name: draws[name])
    held = {name for name in ordered[:-1] if draws[name] < share} or {ordered[0]}
    moved = (images["split"] == "train") & images["observation"].astype(str).isin(held)
    return images.assign(split=images["split"].mask(moved, HELD_BACK))


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

    A run that diverges is a row that says so; any other error stops the sweep, which goes on from there when it is asked
    again, in the middle of a training too. Of finished trainings the history and the scores stay, and the weights of the
    best. Where other images judge than before, the weights that are there are judged again; the row of a run without them
    keeps its scores on valid, and ``not_judged`` says so.

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
        ProvenanceError: tensors and weights were not made for each other.
        MarsError: nothing can be trained on these labels.
    """
    import pandas as pd

    path = lake.metrics(task.name)
    # All inputs are looked at before the first training.
    planned = [_planned(lake, task, run, held_back) for run in runs]
    ran = 0
    for number, (run, inputs) in enumerate(zip(runs, planned, strict=True), start=1):
        if path.exists() and inputs.is_in(read_table(path, task.name)):
            continue
        progress.say(f"run {number} of {len(runs)}: {run.name or inputs.version}, seed {run.seed}")
        ran += 1
        found = _trained_and_judged(lake, task, run, inputs, replace(compute, seed=run.seed), progress)
        if found["failed"]:
            progress.say(f"run {number} failed: {found['failed']}")
        row = {
            **inputs.key(),
            "held_back": held_back,
            "name": run.name,
            "seed": run.seed,
            "encoder": inputs.encoder,
            "recipe": run.recipe.model_dump_json(),
            "measured": datetime.now(UTC).isoformat(timespec="seconds"),
            **found,
        }
        table = record(path, [row], _KEYS, task.name)
        same = table[(table["label_version"] == inputs.label_version) & (table["held_back"] == held_back)]
        best = ranked(same, task.score)["version"].tolist()[:1]
        for version in set(same["version"]) - set(best):
            (lake.model(task.name) / version / task.model).unlink(missing_ok=True)
            shutil.rmtree(lake.model(task.name) / version / "predictions", ignore_errors=True)
    table = read_table(path, task.name)
    rows = pd.concat([table[inputs.matches(table)] for inputs in planned], ignore_index=True)
    return rows.assign(name=[run.name for run in runs]), ran


@dataclass(frozen=True)
class _Inputs:
    """What a run is made from."""

    version: str
    label_version: str
    images: pd.DataFrame
    provenance: dict[str, Any]
    weights: Path
    encoder: str
    judging: str
    seen: frozenset[str]
    """Observations that the encoder was pretrained on, unlabelled."""

    def key(self) -> dict[str, str]:
        return {"version": self.version, "label_version": self.label_version, "judged": self.judged}

    @property
    def judged(self) -> str:
        """Names the images that judge, and how: a version is named by those of train and valid alone."""
        images = self.images[self.images["split"].isin(_JUDGING)].sort_values("image_id")
        columns = ["image_id", "split", "observation", "chip_sha", "labels_sha"]
        return fingerprint(COMPUTATION, self.judging, images[columns].astype(str).to_dict("list"))[:16]

    def matches(self, table: pd.DataFrame) -> pd.Series:
        return (table[list(_KEYS)] == [self.version, self.label_version]).all(axis=1)

    def is_in(self, table: pd.DataFrame) -> bool:
        same = table[self.matches(table)]
        return "judged" in same and bool((same["judged"] == self.judged).any())


def _planned(lake: Lake, task: Task, run: Run[Any], held_back: float) -> _Inputs:
    weights, sha256, encoder = encoder_weights(lake, run.recipe.encoder)
    dataset = task.dataset(run.recipe, open_weights(weights).config.statistics)
    images = hold_back(dataset.images, held_back)
    version = version_of(run.recipe.model_dump(), images, sha256, run.seed, task.computation)
    provenance = {**dataset.provenance, "weights": encoder, "weights_sha256": sha256, "software": software()}
    seen: frozenset[str] = frozenset()
    architecture = getattr(run.recipe, "architecture", PRITHVI)
    if run.recipe.encoder == "mars_weights" and architecture == PRITHVI:
        provenance["mars_weights_version"] = weights.parent.name
        seen = frozenset(pretrained_groups(weights.parent))
    return _Inputs(
        version,
        dataset.provenance["label_version"],
        images,
        provenance,
        weights,
        encoder if architecture == PRITHVI else architecture,
        task.judging,
        seen,
    )


def _trained_and_judged(
    lake: Lake, task: Task, run: Run[Any], inputs: _Inputs, compute: Compute, progress: Progress
) -> dict[str, Any]:
    """A run's scores by split, kept beside it with the name of what judged."""
    folder = start_version(lake, task.name, inputs.version, inputs.images)
    before: dict[str, Any] = read_json(folder / _SCORES) if (folder / _SCORES).exists() else {}
    if before and (before.get("failed") or before.get("judged") == inputs.judged):
        return {**before, "judged": inputs.judged}
    if before and not (folder / task.model).exists():
        progress.say(f"judged anew, since other images judge now or in another way: {_NOT_KEPT}")
        own = {name: value for name, value in before.items() if not name.startswith(("test_", f"{HELD_BACK}_"))}
        found: dict[str, Any] = own | {"judged": inputs.judged, "not_judged": _NOT_KEPT}
        write_json(folder / _SCORES, found)
        return found
    # Begun by a run that was killed, while it trained or afterwards: how long it took is not known.
    resumed, start = (folder / SCRATCH).exists() or (folder / CONFIG).exists(), time.monotonic()
    try:
        report = task.train(run.recipe, inputs.images, inputs.weights, folder, compute, inputs.provenance, progress)
    except DivergedError as error:
        found = {"failed": str(error)}
        shutil.rmtree(folder / SCRATCH, ignore_errors=True)
    else:
        seconds = before.get("seconds") if before else None if resumed else time.monotonic() - start
        found = {"failed": "", "not_judged": "", "seconds": seconds, "report": json.dumps(report)}
        for split in _JUDGING:
            chosen = inputs.images[inputs.images["split"] == split]
            if len(chosen):
                scores = task.judge(folder, chosen, split, compute)
                found |= {f"{split}_{name}": value for name, value in scores.items() if name != "split"}
                found[f"{split}_pretrained_on"] = int(chosen["observation"].isin(inputs.seen).sum())
    found["judged"] = inputs.judged
    write_json(folder / _SCORES, found)
    return found


def ranked(table: pd.DataFrame, score: str) -> pd.DataFrame:
    """Rows that have the score on valid, the best first."""
    import pandas as pd

    name = f"valid_{score}"
    if name not in table:
        return table.head(0)
    table = table.assign(**{name: pd.to_numeric(table[name])})
    done = table[(table["failed"] == "") & table[name].notna()]
    return done.sort_values(name, ascending=False, kind="stable")


def histories(lake: Lake, name: str, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The training history of each row that has one, by version."""
    files = {version: lake.model(name) / version / "history.parquet" for version in table["version"]}
    return {version: read_table(file, name) for version, file in files.items() if file.exists()}
