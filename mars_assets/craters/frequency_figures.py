"""Plots of size-frequency statistics, and of completeness and precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mars_assets.craters.figures import say_none
from mars_assets.craters.rates import COMPLETE
from mars_assets.plotting import make_logarithmic, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PRESENTATIONS = (
    ("at_least_per_km2", "cumulative", "craters of at least D per km²"),
    ("per_km2_km", "differential", "craters per km² and km"),
    ("r", "relative (R)", "R"),
    ("per_km2", "Hartmann", "craters per km² and √2 bin"),
)
# Okabe and Ito's colours, a marker, and a shift in ln D, so that intervals of the same bin lie beside each other.
_LOOKS = {
    "raw": ("black", "o", 0.0),
    "injection": ("#0072B2", "s", 0.05),
    "labels": ("#D55E00", "^", -0.05),
    "precision": ("#009E73", "D", 0.0),
}
_NAMES = {"raw": "as counted", "injection": "corrected (injection)", "labels": "corrected (labels)"}
_NAMES_OF_RATES = {
    "injection": "completeness by injection",
    "labels": "completeness by labels",
    "precision": "precision",
}


def frequency_figure(table: pd.DataFrame, complete_m: float | None) -> Figure:
    """Plot the four usual presentations, as counted and as corrected.

    Counts as they are have filled markers, in partial bins crosses; corrected ones have hollow markers. What is 0 or
    missing has none.

    Args:
        table: see :class:`mars_assets.craters.schema.SizeFrequency`.
        complete_m: diameter in metres below which the count is not complete, which is shaded.
    """
    figure, axes = new_figure(11, 8.5, rows=2, columns=2)
    raw = table[table["counts"] == "raw"]
    for axis, (column, title, label) in zip(figure.axes, _PRESENTATIONS, strict=True):
        axis.set(title=title, ylabel=label, xlabel="diameter D (m)")
        if raw.empty:
            say_none(axis)
            continue
        make_logarithmic(axis)
        for counts, rows in table.groupby("counts", sort=False):
            _draw(axis, rows, column, str(counts))
        start, end = raw["diameter_from_m"].min() / 1.1, raw["diameter_to_m"].max() * 1.1
        axis.set_xlim(start, end)
        if complete_m is not None and complete_m > start:
            axis.axvspan(start, complete_m, color="0.9", zorder=0, label="count not complete")
        axis.grid(alpha=0.25, which="both")
        axis.tick_params(axis="x", which="both", labelsize=8)
    if not raw.empty:
        axes[0, 0].legend(fontsize=9)
    figure.suptitle(f"{raw['craters'].sum():,} craters; bins from D to √2 D, 68 % intervals")
    return figure


def _draw(axis: Axes, rows: pd.DataFrame, column: str, counts: str) -> None:
    colour, marker, shift = _LOOKS[counts]
    start, end = rows["diameter_from_m"].to_numpy(np.float64), rows["diameter_to_m"].to_numpy(np.float64)
    at = (start if column.startswith("at_least") else np.sqrt(start * end)) * np.exp(shift)
    value, low, high = (rows[column + side].to_numpy(np.float64) for side in ("", "_low", "_high"))
    partial = rows["partial"].to_numpy(bool)
    for some, mark, name in ((~partial, marker, _NAMES[counts]), (partial, "x", "bin listed in part")):
        shown = some & (value > 0)
        if not shown.any() or (mark == "x" and counts != "raw"):
            continue
        _errorbar(
            axis,
            at[shown],
            (value[shown], low[shown], high[shown]),
            color=colour,
            marker=mark,
            label=name,
            fillstyle="full" if counts == "raw" else "none",
        )


def _errorbar(
    axis: Axes, at: npt.NDArray[np.float64], values: tuple[npt.NDArray[np.float64], ...], **look: Any
) -> None:
    value, low, high = values
    axis.errorbar(at, value, np.stack([value - low, high - value]).clip(0), linestyle="none", markersize=5, **look)


def rates_figure(rates: pd.DataFrame) -> Figure:
    """Plot completeness and precision against diameter in pixels.

    Args:
        rates: see :class:`mars_assets.craters.schema.RatesBySize`.
    """
    figure, axes = new_figure(7, 4.2)
    axis = axes[0, 0]
    for name, rows in rates.groupby("rate_of", sort=False):
        colour, marker, shift = _LOOKS[str(name)]
        middle = rows["middle_px"].to_numpy(np.float64)
        value, low, high = (rows[f"rate{side}"].to_numpy(np.float64) for side in ("", "_low", "_high"))
        axis.plot(middle, value, color=colour, alpha=0.4)
        _errorbar(
            axis,
            middle * np.exp(shift / 2),
            (value, low, high),
            color=colour,
            marker=marker,
            fillstyle="none",
            label=_NAMES_OF_RATES[str(name)],
        )
    axis.axhline(COMPLETE, color="0.4", linestyle="--", linewidth=1, label=f"complete: {COMPLETE:g}")
    make_logarithmic(axis)
    axis.set(yscale="linear", ylim=(0, 1.02), xlabel="diameter (pixels)", ylabel="share of craters")
    axis.set_title("Completeness and precision by size, 68 % intervals")
    axis.grid(alpha=0.25, which="both")
    axis.legend(fontsize=9)
    return figure
