"""Figures of a transfer study: scores by number of labels, and by cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mars_assets.encoders.registry import RANDOM, SHUFFLED, base_name
from mars_assets.plotting import new_figure
from mars_assets.transfer.protocol import BASELINES, WAYS
from mars_assets.transfer.results import MAIN, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which people who do not tell red from green tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_GREYS = ("0.35", "0.6")


def _styles(results: Results) -> dict[str, dict[str, Any]]:
    """Choose the line of each encoder.

    An architecture has a colour. Weights that learnt nothing are dashed or dotted.
    """
    styles: dict[str, dict[str, Any]] = {}
    colours: dict[str, str] = {}
    for name in (contender.name for contender in results.contenders):
        if name in BASELINES:
            styles[name] = {"color": _GREYS[BASELINES.index(name)], "linestyle": "-."}
            continue
        base = base_name(name) if name != "random" else "prithvi_weights"
        colour = colours.setdefault(base, _COLOURS[len(colours) % len(_COLOURS)])
        shuffled, random = name.startswith(SHUFFLED), name == "random" or name.startswith(RANDOM)
        styles[name] = {"color": colour, "linestyle": "--" if shuffled else ":" if random else "-"}
    return styles


def draw_label_efficiency(results: Results) -> Figure:
    """Draw the first score by the number of labelled images, a plot for each way."""
    estimates, styles = results.estimates, _styles(results)
    ways = list(dict.fromkeys(estimates["way"]))
    figure, axes = new_figure(6.2 * len(ways), 4.6, 1, len(ways))
    for axis, way in zip(axes[0], ways, strict=True):
        for name, style in styles.items():
            curve = estimates[(estimates["encoder"] == name) & (estimates["way"] == way)].sort_values("n_train")
            axis.plot(curve["n_train"], curve[MAIN], marker=".", label=name, **style)
            if style["linestyle"] == "-":
                axis.fill_between(
                    curve["n_train"], curve[f"{MAIN}_low"], curve[f"{MAIN}_high"], color=style["color"], alpha=0.12
                )
        _label(axis, "labelled images", WAYS[way])
        axis.xaxis.set_major_formatter("{x:g}")
    axes[0, -1].legend(fontsize=7, loc="upper left")
    return figure


def draw_costs(results: Results) -> Figure:
    """Draw the first score by the operations for an image, with the most labels."""
    estimates, styles = results.estimates, _styles(results)
    way, most = estimates["way"].iloc[0], estimates["fraction"].max()
    shown = estimates[(estimates["way"] == way) & (estimates["fraction"] == most)].set_index("encoder")
    costs = results.runs.groupby("encoder")["gflop"].first()
    figure, axes = new_figure(6.2, 4.6)
    axis = axes[0, 0]
    for name, style in styles.items():
        if not costs[name]:
            axis.axhline(shown[MAIN][name], label=name, **style)
            continue
        low, high = ([abs(shown[MAIN][name] - shown[f"{MAIN}_{side}"][name])] for side in ("low", "high"))
        marker = {"-": "o", "--": "s", ":": "^"}[style["linestyle"]]
        axis.errorbar(
            [costs[name]], [shown[MAIN][name]], [low, high], fmt=marker, color=style["color"], label=name, capsize=2
        )
    _label(axis, "10⁹ operations for an image", WAYS[str(way)])
    axis.legend(fontsize=7)
    return figure


def _label(axis: Axes, xlabel: str, title: str) -> None:
    axis.set(xscale="log", xlabel=xlabel, ylabel=MAIN.replace("_", " "), title=title)
    axis.grid(alpha=0.3)
