"""Tables and figures of a sweep.

They show runs, learning curves and the effects of settings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mars_assets.evaluation.statistics import with_interval
from mars_assets.experiments.hold_back import HELD_BACK
from mars_assets.experiments.table import ranked
from mars_assets.plotting import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_MOST_VALUES = 6
"""Settings with more distinct numbers than this, or than half of the runs, are compared by terciles."""


def readable(table: pd.DataFrame, settings: Sequence[str], scores: Sequence[str]) -> pd.DataFrame:
    """Format the rows of a sweep, with intervals of the scores.

    The best is first, failed runs are last.

    Args:
        table: rows of :func:`mars_assets.experiments.run.run_sweep`.
        settings: names of the settings that vary.
        scores: names of the scores without the split; the first has intervals.
    """
    rows = []
    failed = table.loc[table["failed"] != "", "version"]
    order = list(dict.fromkeys([*ranked(table, scores[0])["version"], *failed, *table["version"]]))
    for row in table.set_index("version").loc[order].reset_index().to_dict("records"):
        shown = _described(row, row["name"] or row["version"][:8], settings)
        if table["fold"].any():
            shown["part held back"] = row["fold"] + 1
        for split in ("valid", HELD_BACK, "test"):
            if f"{split}_{scores[0]}" in table and table[f"{split}_{scores[0]}"].notna().any():
                if table.get(f"{split}_pretrained_on", pd.Series(dtype=float)).gt(0).any():
                    shown[f"{split} pretrained on"] = _number(row[f"{split}_pretrained_on"], 0)
                shown[f"{split} {scores[0].replace('_', ' ')}"] = with_interval(row, f"{split}_{scores[0]}")
                for score in scores[1:]:
                    shown[f"{split} {score.replace('_', ' ')}"] = _number(row.get(f"{split}_{score}"))
        seconds = row.get("seconds")
        shown["minutes"] = _number(None if seconds is None else seconds / 60, 1)
        if (table["failed"] != "").any():
            shown["failed"] = row["failed"]
        rows.append(shown)
    return pd.DataFrame(rows)


def readable_together(pooled: pd.DataFrame, settings: Sequence[str], scores: Sequence[str]) -> pd.DataFrame:
    """Format a table of :func:`mars_assets.experiments.table.pooled`.

    Args:
        pooled: the table.
        settings: names of the settings that vary.
        scores: as for :func:`readable`.
    """
    rows = []
    for row in pooled.to_dict("records"):
        shown = {**_described(row, row["name"] or "–", settings), "parts": row["parts"]}
        if pooled["pretrained_on"].gt(0).any():
            shown["pretrained on"] = _number(row["pretrained_on"], 0)
        if scores[0] in pooled:
            shown |= {"images": _number(row["n"], 0), "observations": _number(row["n_observations"], 0)}
            shown[scores[0].replace("_", " ")] = with_interval(row, scores[0])
            shown |= {score.replace("_", " "): _number(row.get(score)) for score in scores[1:]}
        if (pooled["missing"] != "").any():
            shown["missing"] = row["missing"]
        rows.append(shown)
    return pd.DataFrame(rows)


def _described(row: Mapping[Any, Any], name: str, settings: Sequence[str]) -> dict[str, Any]:
    """Describe the run of a row by name, settings and seed."""
    recipe = json.loads(row["recipe"])
    return {"run": name, **{setting: recipe[setting] for setting in settings}, "seed": row["seed"]}


def effects(table: pd.DataFrame, settings: Sequence[str], score: str) -> pd.DataFrame:
    """Compute the share of the score's variance that each setting explains.

    Args:
        table: rows of a sweep, of which some have the score.
        settings: names of the settings that vary.
        score: name of the score, compared on the validation set.

    Returns:
        One row per setting, the strongest first: setting, share (omega squared, Hays 1963, whose expected value is 0
        for noise; 1 if the setting explains everything, NaN if no value has two runs), best (the value with the highest
        mean score), mean (that mean), runs (their number).
    """
    columns = ["setting", "share", "best", "mean", "runs"]
    done = ranked(table, score)
    values = done[f"valid_{score}"].to_numpy(np.float64)
    rows = []
    for setting in settings:
        levels, _ = _levels(done, setting)
        means = pd.Series(values).groupby(levels).mean()
        total = float(((values - values.mean()) ** 2).sum())
        between = float(((means.loc[list(levels)].to_numpy() - values.mean()) ** 2).sum())
        left, share = len(values) - len(means), float("nan")
        if left and total:
            within = (total - between) / left
            share = max((between - (len(means) - 1) * within) / (total + within), 0.0)
        best = str(means.idxmax())
        rows.append((setting, share, best, float(means.max()), len(done)))
    return pd.DataFrame(rows, columns=columns).sort_values("share", ascending=False, kind="stable", ignore_index=True)


def _levels(table: pd.DataFrame, setting: str) -> tuple[np.ndarray[Any, np.dtype[np.str_]], list[str]]:
    """Group the rows by a setting, and by terciles if it has many distinct numbers.

    Returns:
        The group of each row, as text, and all groups in order.
    """
    values = [json.loads(recipe)[setting] for recipe in table["recipe"]]
    distinct = {json.dumps(value) for value in values}
    several = len(distinct) > max(min(_MOST_VALUES, len(values) // 2), 3)
    if several and all(isinstance(value, int | float) for value in values):
        edges = np.quantile(values, [1 / 3, 2 / 3])
        names = [f"below {edges[0]:.3g}", f"{edges[0]:.3g} to {edges[1]:.3g}", f"above {edges[1]:.3g}"]
        return np.array([names[int(np.searchsorted(edges, value, side="right"))] for value in values]), names
    texts = [str(value) for value in values]
    return np.array(texts), sorted(set(texts), key=lambda text: (_as_number(text), text))


def draw_effects(table: pd.DataFrame, settings: Sequence[str], score: str) -> Figure:
    """Draw the score of every run by the value of each setting.

    Bars are at the means.

    Args:
        table: rows of a sweep.
        settings: names of the settings that vary; the strongest is drawn first.
        score: name of the score on the validation set.
    """
    strongest = effects(table, settings, score)
    done = ranked(table, score)
    values = done[f"valid_{score}"].to_numpy(np.float64)
    columns = min(3, len(strongest))
    rows = -(-len(strongest) // columns)
    figure, axes = new_figure(3.6 * columns, 3.2 * rows + 0.3, rows, columns)
    places = axes.ravel().tolist()
    for axis in places[len(strongest) :]:
        axis.set_axis_off()
    for axis, row in zip(places, strongest.to_dict("records"), strict=False):
        levels, names = _levels(done, row["setting"])
        for place, name in enumerate(names):
            of_name = values[levels == name]
            axis.plot(np.full(len(of_name), place), of_name, "o", alpha=0.5, color="C0")
            axis.hlines(of_name.mean(), place - 0.3, place + 0.3, color="C1")
        axis.set_xticks(range(len(names)), names, rotation=20, fontsize=9)
        share = "too few runs" if np.isnan(row["share"]) else f"{row['share']:.0%} of the variance"
        axis.set_title(f"{row['setting']}: {share}", fontsize=9)
        axis.grid(alpha=0.3, axis="y")
    figure.suptitle(f"{score.replace('_', ' ')} on the validation set, {len(done)} runs")
    return figure


def draw_curves(
    table: pd.DataFrame, histories: Mapping[str, pd.DataFrame], score: str, curve: tuple[str, str]
) -> Figure:
    """Draw the validation curve of every run, the best runs in colour.

    Args:
        table: rows of a sweep.
        histories: training history of each version.
        score: name of the score that ranks the runs.
        curve: columns of a history for the x and y axes.
    """
    figure, axes = new_figure(8, 4)
    axis = axes[0, 0]
    order = [version for version in ranked(table, score)["version"] if version in histories]
    names = {row["version"]: row["name"] or row["version"][:8] for row in table.to_dict("records")}
    if table["fold"].any():
        names = {row["version"]: f"{names[row['version']]}, part {row['fold'] + 1}" for row in table.to_dict("records")}
    for place, version in reversed(list(enumerate(order))):
        history = histories[version].dropna(subset=[curve[1]])
        style = {"color": f"C{place}", "zorder": 3} if place < 5 else {"color": "0.8", "linewidth": 0.8}
        label = f"{place + 1}. {names[version]}" if place < 5 else None
        axis.plot(history[curve[0]], history[curve[1]], label=label, **style)
    axis.set(xlabel=curve[0], ylabel=curve[1].replace("_", " "))
    axis.grid(alpha=0.3)
    if order:
        axis.legend(fontsize=8, title="best on the validation set", reverse=True)
    return figure


def _as_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("inf")


def _number(value: Any, digits: int = 3) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:.{digits}f}"
