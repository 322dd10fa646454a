"""Running a sweep: one row a run, written as soon as it is there, and nothing that is there is run again."""

from __future__ import annotations

import functools
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from mars_assets.bands import BandStatistics
from mars_assets.classification.recipe import OUTLINES
from mars_assets.datasets import Dataset
from mars_assets.errors import DivergedError, MarsError
from mars_assets.evaluation import COMPUTATION
from mars_assets.evaluation.history import record
from mars_assets.experiments.sweep import Run
from mars_assets.lake import Lake
from mars_assets.models.starting_point import start_of_training
from mars_assets.models.versions import start_version, version_of
from mars_assets.prithvi import PRITHVI
from mars_assets.progress import SILENT, Progress
from mars_assets.provenance import software
from mars_assets.storage.files import read_json, read_table, write_json, write_table
from mars_assets.storage.hashing import fingerprint, lot
from mars_assets.training.compute import Compute
from mars_assets.training.run_folder import CONFIG, SCRATCH

HELD_BACK = "held_back"
"""The split of training observations that a sweep holds back."""

_KEYS = ("version", "label_version")
_SCORES = "scores.json"
_EVIDENCE = "held_back.parquet"
_JUDGING = ("valid", "test", HELD_BACK)
"""The splits that runs are judged on."""
_WRITE_EVERY = 10.0
"""Seconds between two writes of the table."""
_NOT_KEPT = "the weights were not kept: scores on valid are those of before, those on test are unknown"


class Judged(NamedTuple):
    """A training on one split.

    Args:
        row: its scores.
        evidence: what they are computed from, a row an image, ``image_id`` and ``observation`` among it.
    """

    row: dict[str, Any]
    evidence: pd.DataFrame


@dataclass(frozen=True)
class Task:
    """What a sweep's runs have in common.

    Args:
        name: of the asset and its table.
        score: what runs are ranked by, on valid; the higher the better.
        dataset: the images of a recipe, for weights of these statistics.
        train: trains into a folder: (recipe, images, weights, folder, compute, provenance, progress) -> report.
        judge: a finished folder on the images of a split: (folder, images, split, compute) -> scores and evidence.
        together: the scores of evidence from several folders, each of its own images.
        model: name of the file with a finished training's weights; only the best run's is kept. Of a frozen encoder's run it
            holds the linear unit alone.
        computation: names the way of training, see :func:`mars_assets.models.versions.version_of`.
        judging: names the way of predicting and counting that ``judge`` rests on.
    """

    name: str
    score: str
    dataset: Callable[[Any, BandStatistics], Dataset]
    train: Callable[..., dict[str, Any]]
    judge: Callable[[Path, pd.DataFrame, str, Compute], Judged]
    together: Callable[[pd.DataFrame], dict[str, Any]]
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
    return _held_back(images, {name for name in ordered[:-1] if draws[name] < share} or {ordered[0]})


def hold_back_part(images: pd.DataFrame, folds: int, fold: int) -> pd.DataFrame:
    """Moves one of ``folds`` parts of the training observations into the split ``held_back``.

    By the lots of :func:`hold_back`, so that each observation is in one part, whatever others there are, and the first
    part of five is what a fifth held back is. With few observations a part may be empty.

    Raises:
        MarsError: all training observations are in this part.
    """
    trained = set(images.loc[images["split"] == "train", "observation"].astype(str))
    held = {name for name in trained if int(lot(f"hold back {name}") * folds) == fold}
    if held == trained:
        raise MarsError(
            f"folds: all {len(trained)} training observations fall into the same of {folds} parts: label crops of others, or take "
            "more parts"
        )
    return _held_back(images, held)


def _held_back(images: pd.DataFrame, observations: set[str]) -> pd.DataFrame:
    moved = (images["split"] == "train") & images["observation"].astype(str).isin(observations)
    return images.assign(split=images["split"].mask(moved, HELD_BACK))


def run_sweep(
    lake: Lake,
    task: Task,
    runs: Sequence[Run[Any]],
    *,
    held_back: float = 0.0,
    folds: int = 0,
    compute: Compute,
    progress: Progress = SILENT,
) -> tuple[pd.DataFrame, int]:
    """Trains and judges what is not in the table yet.

    A run that diverges is a row that says so; any other error stops the sweep, which goes on from there when it is asked
    again, in the middle of a training too. Of finished trainings the history and the scores stay, what was said of the images
    held back, and the weights of the best. Where other images judge than before, the weights that are there are judged
    again; the row of a run without them keeps its scores on valid, and on what is held back if that is the same, and
    ``not_judged`` says so. With folds such a run is trained again where what it held back is not the same.

    Args:
        lake: holds the inputs, the runs (``models/TASK/VERSION``) and the table (``metrics/TASK.parquet``).
        task: what is trained, and how it is judged.
        runs: from :func:`mars_assets.experiments.sweep.plan`.
        held_back: see :func:`hold_back`.
        folds: the runs' parts are held back instead, see :func:`hold_back_part`; those of an empty part are left out.
        compute: device and precision; the seed is each run's.
        progress: takes lines.

    Returns:
        The rows of these runs, in their order, and how many were run now.

    Raises:
        MissingInputError: weights or labelled tensors have not been made.
        ProvenanceError: tensors and weights were not made for each other.
        MarsError: nothing can be trained on these labels.
    """
    share = 1 / folds if folds else held_back
    # All inputs are looked at before the first training.
    planned = [(run, _planned(lake, task, run, held_back, folds)) for run in runs]
    if folds:
        planned = [(run, inputs) for run, inputs in planned if (inputs.images["split"] == HELD_BACK).any()]
    table = _Table(lake, task, share)
    ran = 0
    with table:
        for number, (run, inputs) in enumerate(planned, start=1):
            known = table.has(inputs)
            if known and not (folds and inputs.lacks_evidence(lake.model(task.name) / inputs.version)):
                continue
            part = f", part {run.fold + 1} of {folds}" if folds else ""
            progress.say(f"run {number} of {len(planned)}: {run.name or inputs.version}, seed {run.seed}{part}")
            ran += 1
            seeded = replace(compute, seed=run.seed)
            found = _trained_and_judged(lake, task, run, inputs, seeded, progress, with_evidence=bool(folds))
            if found["failed"]:
                progress.say(f"run {number} failed: {found['failed']}")
            table.add(run, inputs, found)
    written = read_table(lake.metrics(task.name), task.name)
    rows = pd.concat([written[inputs.matches(written)] for _, inputs in planned], ignore_index=True)
    return rows.assign(name=[run.name for run, _ in planned], fold=[run.fold for run, _ in planned]), ran


class _Table:
    """A task's table, to which runs are added; of those with the same labels and share only the best keeps its weights.

    As a context it is written at its end, after an error too, and before that every ten seconds: a head trains in less than
    the table takes. What a killed sweep did not write is in the scores beside each run.

    Args:
        lake: has the table.
        task: whose it is.
        share: of the training observations, held back.
    """

    def __init__(self, lake: Lake, task: Task, share: float) -> None:
        self._lake, self._task, self._share = lake, task, share
        self._path = lake.metrics(task.name)
        self._table = read_table(self._path, task.name) if self._path.exists() else None
        self._new: list[dict[str, Any]] = []
        self._written = time.monotonic()

    def __enter__(self) -> _Table:
        return self

    def __exit__(self, *_: object) -> None:
        self._write()

    def has(self, inputs: _Inputs) -> bool:
        """Whether a run is there, judged by today's images."""
        key = inputs.key()
        if any(all(row[name] == value for name, value in key.items()) for row in self._new):
            return True
        return self._table is not None and inputs.is_in(self._table)

    def add(self, run: Run[Any], inputs: _Inputs, found: dict[str, Any]) -> None:
        self._new.append(
            {
                **inputs.key(),
                "held_back": self._share,
                "fold": run.fold,
                "name": run.name,
                "seed": run.seed,
                "encoder": inputs.encoder,
                "recipe": run.recipe.model_dump_json(),
                "measured": datetime.now(UTC).isoformat(timespec="seconds"),
                **found,
            }
        )
        if time.monotonic() - self._written >= _WRITE_EVERY:
            self._write()

    def _write(self) -> None:
        if not self._new:
            return
        table, models = record(self._path, self._new, _KEYS, self._task.name), self._lake.model(self._task.name)
        for labels in {row["label_version"] for row in self._new}:
            same = table[(table["label_version"] == labels) & (table["held_back"] == self._share)]
            best = ranked(same, self._task.score)["version"].tolist()[:1]
            for version in set(same["version"]) - set(best):
                (models / version / self._task.model).unlink(missing_ok=True)
                shutil.rmtree(models / version / "predictions", ignore_errors=True)
        self._table, self._new, self._written = table, [], time.monotonic()


def together(lake: Lake, task: Task, rows: pd.DataFrame) -> pd.DataFrame:
    """The scores of each recipe and seed on all the parts that its runs held back, the best first.

    Args:
        lake: has the runs.
        task: theirs.
        rows: of :func:`run_sweep`.

    Returns:
        ``name, seed, recipe, parts, pretrained_on, missing``, and the task's scores; where the run of a part failed, there are
        none, and ``missing`` says why.
    """
    found = []
    for (_, seed), runs in rows.groupby(["recipe", "seed"], sort=False):
        first, parts = runs.iloc[0], runs.to_dict("records")
        missing = [f"part {part['fold'] + 1}: {part['failed']}" for part in parts if part["failed"]]
        scores: dict[str, Any] = {"pretrained_on": float("nan")}
        if not missing:
            files = [lake.model(task.name) / part["version"] / _EVIDENCE for part in parts]
            scores = task.together(pd.concat([read_table(file, task.name) for file in files], ignore_index=True))
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
    """Observations that the network had seen before: the encoder without labels, a segmentation model with outlines."""

    def key(self) -> dict[str, str]:
        return {"version": self.version, "label_version": self.label_version, "judged": self.judged}

    @functools.cached_property
    def judged(self) -> str:
        """Names the images that judge, and how: a version is named by those of train and valid alone."""
        return fingerprint(COMPUTATION, self.judging, self._identity(_JUDGING))[:16]

    @functools.cached_property
    def evidence(self) -> str:
        """Names what is said of the images held back, and how; scores are made of it anew."""
        return fingerprint(self.judging, self._identity((HELD_BACK,)))[:16]

    def _identity(self, splits: Sequence[str]) -> dict[str, list[str]]:
        images = self.images[self.images["split"].isin(splits)].sort_values("image_id")
        columns = ["image_id", "split", "observation", "chip_sha", "labels_sha"]
        return images[columns].astype(str).to_dict("list")

    def lacks_evidence(self, folder: Path) -> bool:
        """Whether a run that did not fail left no evidence of these images, or not all."""
        scores = read_json(folder / _SCORES) if (folder / _SCORES).exists() else {}
        there = scores.get("evidence") == self.evidence and (folder / _EVIDENCE).exists()
        return not scores.get("failed") and not there

    def matches(self, table: pd.DataFrame) -> pd.Series:
        return (table[list(_KEYS)] == [self.version, self.label_version]).all(axis=1)

    def is_in(self, table: pd.DataFrame) -> bool:
        same = table[self.matches(table)]
        return "judged" in same and bool((same["judged"] == self.judged).any())


def _planned(lake: Lake, task: Task, run: Run[Any], held_back: float, folds: int) -> _Inputs:
    start = start_of_training(lake, run.recipe.encoder, run.recipe.architecture)
    dataset = task.dataset(run.recipe, start.statistics)
    images = hold_back_part(dataset.images, folds, run.fold) if folds else hold_back(dataset.images, held_back)
    version = version_of(run.recipe.model_dump(), images, start.sha256, run.seed, task.computation)
    return _Inputs(
        version,
        dataset.provenance["label_version"],
        images,
        {**dataset.provenance, **start.provenance, "software": software()},
        start.folder,
        start.name if run.recipe.architecture in (PRITHVI, OUTLINES) else run.recipe.architecture,
        task.judging,
        start.seen,
    )


def _trained_and_judged(
    lake: Lake,
    task: Task,
    run: Run[Any],
    inputs: _Inputs,
    compute: Compute,
    progress: Progress,
    with_evidence: bool,
) -> dict[str, Any]:
    """A run's scores by split, kept beside it with the name of what judged.

    With evidence, it is trained again where that is not there and cannot be had otherwise.
    """
    folder = start_version(lake, task.name, inputs.version, inputs.images)
    before: dict[str, Any] = read_json(folder / _SCORES) if (folder / _SCORES).exists() else {}
    lacking = inputs.lacks_evidence(folder)
    current = before.get("judged") == inputs.judged and not (with_evidence and lacking)
    if before and (before.get("failed") or current):
        return {**before, "judged": inputs.judged}
    if before and with_evidence and lacking and not (folder / task.model).exists():
        progress.say("trained again: what it said of each image that it holds back was not kept, nor were its weights")
        shutil.rmtree(folder)
        folder, before = start_version(lake, task.name, inputs.version, inputs.images), {}
    if before and not (folder / task.model).exists():
        progress.say(f"judged anew, since other images judge now or in another way: {_NOT_KEPT}")
        own = {name: value for name, value in before.items() if not name.startswith(("test_", f"{HELD_BACK}_"))}
        found: dict[str, Any] = own | {"judged": inputs.judged, "not_judged": _NOT_KEPT}
        if not lacking:
            evidence = read_table(folder / _EVIDENCE, task.name)
            found |= _of_split(HELD_BACK, task.together(evidence), evidence["observation"], inputs)
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
                judged = task.judge(folder, chosen, split, compute)
                found |= _of_split(split, judged.row, chosen["observation"], inputs)
                if split == HELD_BACK:
                    write_table(folder / _EVIDENCE, judged.evidence)
                    found["evidence"] = inputs.evidence
    found["judged"] = inputs.judged
    write_json(folder / _SCORES, found)
    return found


def _of_split(split: str, row: dict[str, Any], observations: pd.Series, inputs: _Inputs) -> dict[str, Any]:
    """A split's part of a run's row."""
    scores = {f"{split}_{name}": value for name, value in row.items() if name != "split"}
    return scores | {f"{split}_pretrained_on": int(observations.isin(inputs.seen).sum())}


def ranked(table: pd.DataFrame, score: str) -> pd.DataFrame:
    """Rows that have the score on valid, the best first."""
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
