"""The verdict of a transfer study in words that follow from its intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mars_assets.encoders.registry import is_drawn
from mars_assets.transfer.protocol import BASELINES, WAYS
from mars_assets.transfer.results import MAIN, RANDOM_WEIGHTS, SHUFFLED_WEIGHTS, Results, interval

ALPHA = 0.05
"""Corrected p-values below it count as a difference."""


def verdicts(results: Results, descriptions: Mapping[str, str]) -> Iterator[str]:
    """Say of each trained encoder what its training added, way by way.

    Args:
        results: of the study.
        descriptions: what each encoder was trained on.
    """
    most = results.estimates["fraction"].max()
    with_most = results.estimates[results.estimates["fraction"] == most].set_index(["encoder", "way"])
    for name in (contender.name for contender in results.contenders):
        if name in BASELINES or is_drawn(name):
            continue
        for way in dict.fromkeys(results.estimates["way"]):
            row = with_most.loc[name, way]
            compared = results.comparisons[
                (results.comparisons["encoder"] == name) & (results.comparisons["way"] == way)
            ].to_dict("records")
            found = {row["what"]: row for row in compared}
            yield (
                f"**{name}** ({descriptions[name]}), {WAYS[way]}: {MAIN.replace('_', ' ')} "
                f"{interval(row, MAIN)} with {row['n_train']:.0f} labelled images. "
                f"{_conclusion(found)} Differences to " + "; to ".join(_difference(row) for row in compared) + "."
            )


def _conclusion(found: Mapping[str, Mapping[Any, Any]]) -> str:
    over_random, over_shuffled = (_sign(found[what]) for what in (RANDOM_WEIGHTS, SHUFFLED_WEIGHTS))
    if over_random > 0 and over_shuffled > 0:
        return "What it has learnt helps here, beyond the scale of its weights."
    if over_random < 0 or (not over_random and over_shuffled < 0):
        return "Its training does harm here."
    if over_random > 0:
        return "Its weights help here, but the same values in a random order may help as much."
    if over_shuffled > 0:
        return "Its weights beat their own values in a random order, but are not shown to beat random ones."
    return "No gain from its training is shown."


def _sign(row: Mapping[Any, Any]) -> int:
    """Return 1 for a gain, -1 for a loss, and 0 where neither is shown."""
    if not row["p_value"] < ALPHA:
        return 0
    return 1 if row["difference"] > 0 else -1


def _difference(row: Mapping[Any, Any]) -> str:
    return f"{row['what']}: {interval(row, 'difference', signed=True)}, p = {row['p_value']:.2g}"
