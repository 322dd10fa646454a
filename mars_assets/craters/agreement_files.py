"""Tables, a figure and sentences of a comparison of crater lists."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mars_assets.craters.agreement import BAND, BINS, FOUND, RESAMPLES, SEED, Agreement
from mars_assets.evaluation.history import as_records
from mars_assets.evaluation.statistics import with_interval
from mars_assets.lake import COMPARISON_FIGURE, COMPARISON_ROWS, COMPARISON_SUMMARY, MATCHES
from mars_assets.plotting import new_figure, to_png
from mars_assets.storage.files import write_csv, write_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = {
    "group": "group",
    "value": "value",
    "ours": "ours",
    "theirs": "theirs",
    "found": "found",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "average_precision": "average precision",
}
"""Columns of the table that people see."""
_FEWEST = 5
"""Number of craters from which on the scores of a size are drawn."""


def write_comparison(agreement: Agreement, folder: Path, key: str = "") -> list[Path]:
    """Write tables, figure and summary into a folder, the summary last.

    Args:
        agreement: a comparison.
        folder: of the files.
        key: fingerprint of what was compared, for the summary.

    Raises:
        MarsError: the disk is full, or the folder is not writable.
    """
    summary, rows, figure, matches = (
        folder / name for name in (COMPARISON_SUMMARY, COMPARISON_ROWS, COMPARISON_FIGURE, MATCHES)
    )
    summary.unlink(missing_ok=True)
    write_csv(rows, agreement.rows)
    write_csv(matches, agreement.matches)
    to_png(comparison_figure(agreement), figure)
    write_json(summary, summary_of(agreement) | ({"key": key} if key else {}))
    return [summary, rows, figure, matches]


def summary_of(agreement: Agreement) -> dict[str, Any]:
    """Summarise a comparison as JSON."""
    return {
        "ours": agreement.ours,
        "theirs": agreement.theirs,
        "unit": agreement.unit,
        "smallest": _number(agreement.smallest),
        "intervals": {
            "precision, recall": "Wilson, 95 %",
            "others": f"bootstrap over {agreement.resampled}, 95 %",
            "resamples": RESAMPLES,
            "seed": SEED,
        },
        "rows": [{k: v for k, v in row.items() if v is not None} for row in as_records(agreement.rows)],
        "in words": list(in_words(agreement)),
        "notes": list(agreement.notes),
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def in_words(agreement: Agreement) -> Iterator[str]:
    """State the main results in sentences."""
    row, unit = agreement.row("all"), "m" if agreement.unit == "m" else "pixels"
    yield (
        f"{row['ours']} craters of {agreement.ours} and {row['theirs']} of {agreement.theirs} count, from "
        f"{_length(agreement.smallest, unit)} on; {row['found']} are the same"
    )
    if row["ours"]:
        yield f"precision {with_interval(row, 'precision')}: the share of {agreement.ours} that {agreement.theirs} has"
    if row["theirs"]:
        yield f"recall {with_interval(row, 'recall')}: the share of {agreement.theirs} that {agreement.ours} has"
    if row["ours"] and row["theirs"]:
        looser = agreement.row("all", "looser")
        yield f"F1 {with_interval(row, 'f1')}; {looser['f1']:.3f} if an overlap of {looser['iou']:g} is enough"
    if not math.isnan(row["average_precision"]):
        yield f"average precision {with_interval(row, 'average_precision')}"
    if row["found"] > 1:
        yield (
            f"diameters are {_percent(row['ln_d'])} on average ({_percent(row['ln_d_low'])} to "
            f"{_percent(row['ln_d_high'])}) against {agreement.theirs}, with a spread of {100 * row['ln_d_sd']:.1f} %"
        )
        right, up = ("east", "north") if agreement.unit == "m" else ("to the right", "up")
        yield (
            f"centres are {_length(row['east'], unit)} {right} and {_length(row['north'], unit)} {up} on average, and "
            f"a median of {row['off']:.3f} diameters away"
        )
    if not math.isnan(row["brier"]):
        yield f"the mean squared error of probabilities (Brier score) is {with_interval(row, 'brier')}"
    yield from _people_in_words(agreement)


def _people_in_words(agreement: Agreement) -> Iterator[str]:
    people = agreement.rows[agreement.rows["group"] == "annotator"]
    if people.empty:
        return
    reference = people["against"].iloc[0]
    for image, rows in people[people["against"] == reference].groupby("image"):
        others = rows.loc[rows["value"] != agreement.ours, "f1"]
        mine = rows.loc[rows["value"] == agreement.ours, "f1"]
        own = f"{mine.iloc[0]:.2f}" if len(mine) else "not known"
        yield (
            f"{f'{image}: ' if image else ''}F1 against {reference} is {own} for {agreement.ours}, and for "
            f"{len(others)} others {others.min():.2f} to {others.max():.2f}, with a median of {others.median():.2f}"
        )


def _length(value: float, unit: str) -> str:
    return f"{value / 1000:.4g} km" if unit == "m" and abs(value) >= 1000 else f"{value:.4g} {unit}"


def _percent(ln: float) -> str:
    return f"{100 * math.expm1(ln):+.1f} %"


def main_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Select what people see of several comparisons: a row for each."""
    first = rows[(rows["group"] == "all") & (rows["value"] == "")]
    table = _as_text(first).drop(columns=["group", "value"])
    table.insert(0, "catalogue", first["catalogue"])
    return table


def shown_rows(rows: pd.DataFrame, unit: str) -> pd.DataFrame:
    """Select what people see of a comparison's scores, with intervals as text."""
    table = _as_text(rows)
    table["value"] = [_in_place(group, value, unit) for group, value in zip(rows["group"], rows["value"], strict=True)]
    people = rows["group"] == "annotator"
    if people.any():
        table.loc[people, "group"] = "by " + (rows["against"] + " " + rows["image"])[people].str.strip()
    return table


def _as_text(rows: pd.DataFrame) -> pd.DataFrame:
    table = rows.reindex(columns=list(SHOWN)).astype(object)
    for name in ("precision", "recall", "f1", "average_precision"):
        table[name] = [with_interval(row, name) for row in rows.to_dict("records")]
    for name in ("ours", "theirs", "found"):
        table[name] = ["–" if pd.isna(number) else int(number) for number in rows[name]]
    return table.rename(columns=SHOWN)


def _in_place(group: str, value: str, unit: str) -> str:
    """Write what a group's value stands for."""
    match group:
        case "diameter":
            return f"{float(value):.4g} to {float(value) * math.sqrt(2):.4g} {unit}"
        case "latitude":
            return f"{value} to {int(value) + BAND}°"
        case "probability":
            return f"{float(value):.1f} to {float(value) + 1 / BINS:.1f}"
        case "all":
            return "at an overlap of 0.3" if value else ""
    return value


def comparison_figure(agreement: Agreement) -> Figure:
    """Draw scores by size, differences of size, and reliability."""
    from matplotlib.ticker import LogFormatter

    figure, axes = new_figure(14, 4.4, columns=3)
    unit = "m" if agreement.unit == "m" else "pixels"
    for axis, draw in zip(axes[0], (_draw_scores, _draw_sizes), strict=False):
        axis.set_xlabel(f"diameter D ({unit})")
        if draw(axis, agreement):
            axis.set_xscale("log")
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.7)))
        else:
            _say_none(axis, "no craters to compare")
    _draw_reliability(axes[0, 2], agreement)
    for axis in axes[0]:
        axis.grid(alpha=0.25, which="both")
    figure.suptitle(f"{agreement.ours} against {agreement.theirs}; 95 % intervals", parse_math=False)
    return figure


def _say_none(axis: Axes, what: str) -> None:
    axis.text(0.5, 0.5, what, ha="center", va="center", transform=axis.transAxes, color="0.4")


def _draw_scores(axis: Axes, agreement: Agreement) -> bool:
    """Draw precision and recall by size; False if there are too few craters."""
    drawn = False
    rows = agreement.rows[agreement.rows["group"] == "diameter"]
    for number, (name, whole) in enumerate((("precision", "ours"), ("recall", "theirs"))):
        some = rows[rows[whole] >= _FEWEST]
        middle = some["value"].astype(float) * 2 ** (0.23 + 0.04 * number)
        drawn |= len(some) > 0
        errors = np.abs(np.stack([some[name] - some[f"{name}_low"], some[f"{name}_high"] - some[name]]))
        axis.errorbar(middle, some[name], errors.astype(np.float64), fmt="o-", label=name)
    axis.set(ylim=(-0.02, 1.02), ylabel="share of craters")
    axis.legend()
    return drawn


def _draw_sizes(axis: Axes, agreement: Agreement) -> bool:
    """Draw differences of size; False if no crater was found."""
    found = agreement.matches[agreement.matches["kind"] == FOUND]
    diameter = found["diameter_m" if agreement.unit == "m" else "diameter_px"]
    axis.scatter(
        diameter, found["ln_d"], s=6, alpha=max(0.05, min(1, 200 / max(len(found), 1))), linewidths=0, rasterized=True
    )
    row = agreement.row("all")
    if row["found"]:
        axis.axhline(row["ln_d"], color="C1")
        axis.axhspan(row["ln_d"] - row["ln_d_sd"], row["ln_d"] + row["ln_d_sd"], color="C1", alpha=0.15)
    axis.axhline(0, color="0.4", linewidth=0.8)
    axis.set_ylabel("ln(D / true D)")
    axis.set_title("line and band: mean ± standard deviation", fontsize="medium")
    return len(found) > 0


def _draw_reliability(axis: Axes, agreement: Agreement) -> None:
    rows = agreement.rows[agreement.rows["group"] == "probability"]
    axis.plot([0, 1], [0, 1], color="0.4", linewidth=0.8)
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="probability", ylabel="share of craters that are true")
    if rows.empty:
        _say_none(axis, "no probabilities")
        return
    errors = np.stack([rows["precision"] - rows["precision_low"], rows["precision_high"] - rows["precision"]])
    axis.errorbar(rows["probability"], rows["precision"], np.abs(errors.astype(np.float64)), fmt="o")
