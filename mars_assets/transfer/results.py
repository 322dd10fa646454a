"""Scores of a transfer study, with intervals, and what sets encoders apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mars_assets.classification.evaluate import scores, scores_of_groups
from mars_assets.encoders.registry import ENCODERS, RANDOM, base_name, is_drawn
from mars_assets.evaluation.crossed import Estimate, Resampled, holm, interquartile_estimate, resample_crossed
from mars_assets.evaluation.statistics import Statistic, independent_units
from mars_assets.progress import SILENT, Progress
from mars_assets.storage.files import read_table
from mars_assets.transfer.protocol import BASELINES, random_of, shuffled_of
from mars_assets.transfer.run import ASSET, Contender, Repetition

SCORES = ("balanced_accuracy", "auroc", "accuracy", "loss", "ece")
"""Scores of a run; the first is compared."""
MAIN, SECOND = SCORES[:2]
TASK = "cls"
RANDOM_WEIGHTS, SHUFFLED_WEIGHTS = "random weights", "shuffled weights"
RESAMPLES = 4000
"""Enough for p-values that are corrected for tens of differences."""

Cell = tuple[str, str, float]
"""Encoder, way, fraction of the labels."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """A finished study.

    Args:
        runs: a row a run, that is an encoder, a way, a fraction and a seed, over all parts: ``task, encoder, way,
            fraction, seed, n_train`` (mean over the parts), ``settings`` (chosen for each part), ``validation_loss,
            seconds, parameters, trained_parameters, gflop, n, n_observations, pretrained_on``, and the scores.
        estimates: a row for an encoder, a way and a fraction: ``n_train``, the scores with ``_low`` and ``_high``, over
            seeds and observations, and ``iqm``, the interquartile mean of the first score over seeds, with its own.
        comparisons: a row a difference of the first score with the most labels: ``encoder, way, to, what,
            difference, difference_low, difference_high, p_value`` (corrected for the number of rows), and
            ``auroc`` with its own interval.
        contenders: the encoders and baselines.
    """

    runs: pd.DataFrame
    estimates: pd.DataFrame
    comparisons: pd.DataFrame
    contenders: Sequence[Contender]


def results_of(repetitions: Sequence[Repetition], progress: Progress = SILENT) -> Results:
    """Compute the scores of a study from its predictions."""
    contenders = list({one.contender.name: one.contender for one in repetitions}.values())
    runs: list[dict[str, Any]] = []
    resampled: dict[Cell, Mapping[str, Resampled]] = {}
    for contender in progress.track(contenders, "computing intervals of encoders"):
        trainings: dict[Cell, list[Statistic]] = {}
        images = contender.images.set_index("image_id")
        observations = 0
        for _, seed, path in (one for one in repetitions if one.contender is contender):
            for _, run in read_table(path, ASSET).groupby(["way", "fraction"], sort=False):
                way, fraction = str(run["way"].iloc[0]), float(run["fraction"].iloc[0])
                held_out = images.loc[run["image_id"]].reset_index()
                names = independent_units(held_out["observation"], held_out["image_id"])[0]
                groups = np.unique(names, return_inverse=True)[1]
                observations = int(groups.max()) + 1
                labels, found = held_out["label"].to_numpy(np.int64), run["probability"].to_numpy(np.float64)
                about = {"task": TASK, "encoder": contender.name, "way": way, "fraction": fraction, "seed": seed}
                runs.append(about | _costs(run) | _held_out(contender, held_out) | _scores(scores(labels, found)))
                statistic = scores_of_groups(labels, found, groups)
                trainings.setdefault((contender.name, way, fraction), []).append(statistic)
        resampled |= {
            cell: resample_crossed(each, observations, resamples=RESAMPLES) for cell, each in trainings.items()
        }
    table = pd.DataFrame(runs)
    return Results(
        runs=table,
        estimates=_estimates(table, resampled),
        comparisons=_comparisons(table, resampled),
        contenders=contenders,
    )


def _scores(values: Mapping[str, float]) -> dict[str, float]:
    return {name: values[name] for name in SCORES}


def _costs(run: pd.DataFrame) -> dict[str, Any]:
    """Sum up what the parts of a run took."""
    parts = run.groupby("part").first()
    return {
        "n_train": float(parts["n_train"].mean()),
        "settings": ", ".join(f"{setting:g}" for setting in parts["setting"]),
        "validation_loss": float(parts["validation_loss"].mean()),
        "seconds": float(parts["seconds"].sum()),
        "parameters": int(parts["parameters"].iloc[0]),
        "trained_parameters": int(parts["trained_parameters"].iloc[0]),
        "gflop": float(parts["gflop"].iloc[0]),
    }


def _held_out(contender: Contender, images: pd.DataFrame) -> dict[str, int]:
    observations = images["observation"].dropna().unique()
    seen = contender.start.seen if contender.start else frozenset()
    return {
        "n": len(images),
        "n_observations": len(observations),
        "pretrained_on": sum(observation in seen for observation in observations),
    }


def _estimates(runs: pd.DataFrame, resampled: Mapping[Cell, Mapping[str, Resampled]]) -> pd.DataFrame:
    rows = []
    for (encoder, way, fraction), found in resampled.items():
        some = runs[(runs[["encoder", "way", "fraction"]] == [encoder, way, fraction]).all(axis=1)]
        row: dict[str, Any] = {"encoder": encoder, "way": way, "fraction": fraction, "n_train": some["n_train"].mean()}
        for name in (MAIN, SECOND):
            row |= _with_interval(name, found[name].estimate())
        row |= _with_interval("iqm", interquartile_estimate(some[MAIN].to_numpy(np.float64)[None]))
        rows.append(row)
    return pd.DataFrame(rows)


def _comparisons(runs: pd.DataFrame, resampled: Mapping[Cell, Mapping[str, Resampled]]) -> pd.DataFrame:
    """Compare each trained encoder with its controls and the best of the others."""
    most = runs["fraction"].max()
    names = list(dict.fromkeys(runs["encoder"]))
    learnt = [name for name in names if name not in BASELINES and not is_drawn(name)]
    rows = []
    for way in dict.fromkeys(runs["way"]):
        with_most = runs[(runs["way"] == way) & (runs["fraction"] == most)]
        losses = with_most.groupby("encoder")["validation_loss"].mean()
        best_cnn = losses[[name for name in names if _is_untrained_cnn(name)]].idxmin()
        best_baseline = losses[[name for name in names if name in BASELINES]].idxmin()
        for name in learnt:
            against = [(random_of(name), RANDOM_WEIGHTS), (shuffled_of(name), SHUFFLED_WEIGHTS)]
            if best_cnn != random_of(name):
                against.append((best_cnn, "the best untrained CNN"))
            for other, what in (*against, (best_baseline, "the best baseline")):
                ours, theirs = resampled[name, way, most], resampled[other, way, most]
                difference = ours[MAIN] - theirs[MAIN]
                rows.append(
                    {"encoder": name, "way": way, "to": other, "what": what}
                    | _with_interval("difference", difference.estimate())
                    | {"p_value": difference.p_value()}
                    | _with_interval(SECOND, (ours[SECOND] - theirs[SECOND]).estimate())
                )
    table = pd.DataFrame(rows)
    return table.assign(p_value=holm(table["p_value"].tolist())) if rows else table


def _is_untrained_cnn(name: str) -> bool:
    return name.startswith(RANDOM) and not ENCODERS[base_name(name)].config.is_transformer


def _with_interval(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def interval(row: Mapping[Any, Any], name: str, signed: bool = False) -> str:
    """Format a value of a row with its interval, or a difference with its sign."""
    estimate = Estimate(row[name], row[f"{name}_low"], row[f"{name}_high"])
    return estimate.signed() if signed else str(estimate)
