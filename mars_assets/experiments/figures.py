"""What a sweep shows: its table, the curves of its runs, and which setting matters."""

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
"""Beyond as many distinct numbers, or half as many as runs, a setting is compared by its thirds."""


def readable(table: pd.DataFrame, settings: Sequence[str], scores: Sequence[str]) -> pd.DataFrame:
    """The table as a person reads it: best first, failed runs last, scores with their intervals.

    Args:
        table: rows of :func:`mars_assets.experiments.run.run_sweep`.
        settings: those that vary.
        scores: names without their split; the first has intervals.
    """
    rows = []
    order = [*ranked(table, scores[0])["version"], *table.loc[table["failed"] != "", "version"]]
    order += [version for version in table["version"] if version not in set(order)]
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
    """The table of :func:`mars_assets.experiments.table.pooled` as a person reads it.

    Args:
        pooled: that table.
        settings: those that vary.
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
    """Which run a row is of."""
    recipe = json.loads(row["recipe"])
    return {"run": name, **{setting: recipe[setting] for setting in settings}, "seed": row["seed"]}


def effects(table: pd.DataFrame, settings: Sequence[str], score: str) -> pd.DataFrame:
    """How much of the differences between runs goes with each setting.

    Args:
        table: rows of a sweep.
        settings: those that vary.
        score: compared on valid.

    Returns:
        One row a setting, the strongest first: setting, share (of the score's variance that goes with the setting's
        values: omega squared, Hays 1963, which expects 0 of noise; 1 is all, NaN where no value has two runs), best
        (the value of the highest mean), mean (that mean), runs.
    """
    columns = ["setting", "share", "best", "mean", "runs"]
    done = ranked(table, score)
    if done.empty:
        return pd.DataFrame(columns=columns)
    values = done[f"valid_{score}"].to_numpy(np.float64)
    rows = []
    for setting in settings:
        levels, _ = _levels(done, setting)
        means = pd.Series(values).groupby(levels).mean()
        total = float(((values - values.mean()) ** 2).sum())
        between = float(((means.loc[levels].to_numpy() - values.mean()) ** 2).sum())
        left, share = len(values) - len(means), float("nan")
        if left and total:
            within = (total - between) / left
            share = max((between - (len(means) - 1) * within) / (total + within), 0.0)
        best = str(means.idxmax())
        rows.append((setting, share, best, float(means.max()), len(done)))
    return pd.DataFrame(rows, columns=columns).sort_values("share", ascending=False, kind="stable", ignore_index=True)


def _levels(table: pd.DataFrame, setting: str) -> tuple[np.ndarray[Any, np.dtype[np.str_]], list[str]]:
    """Format a setting's value in each row, and list the values in order.

    Numbers that hardly any two runs share are grouped by thirds.
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
    """The score of every run by the value of each setting, the strongest setting first; a bar at each value's mean."""
    strongest = effects(table, settings, score)
    done = ranked(table, score)
    values = done[f"valid_{score}"].to_numpy(np.float64)
    count = max(1, len(strongest))
    columns = min(3, count)
    figure, axes = new_figure(3.6 * columns, 3.2 * -(-count // columns) + 0.3, -(-count // columns), columns)
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
    figure.suptitle(f"{score.replace('_', ' ')} on valid, {len(done)} runs")
    return figure


def draw_curves(
    table: pd.DataFrame, histories: Mapping[str, pd.DataFrame], score: str, curve: tuple[str, str]
) -> Figure:
    """The validation of every run as it trained; the best runs in colour.

    Args:
        table: rows of a sweep.
        histories: by version.
        score: that runs are ranked by.
        curve: columns of a history: steps, and what is drawn over them.
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
        axis.legend(fontsize=8, title="best on valid", reverse=True)
    return figure


def _as_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("inf")


def _number(value: Any, digits: int = 3) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:.{digits}f}"
