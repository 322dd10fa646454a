"""Tables of metrics that retain their history.

They have one row for each evaluation, which is replaced only if the same evaluation is repeated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mars_assets.storage.files import as_rows, read_table, write_json, write_table

KEYS = ("model_version", "label_version", "split")
"""The columns that identify an evaluation."""
CHANGE = ("change", "within_noise", "before_model", "before_labels")
"""The columns that :func:`with_change` adds."""


_FEWEST = 5
"""Minimum number of observations for comparisons; with fewer, intervals cover the true value too seldom."""


def with_change(path: Path, row: dict[str, Any], score: str, asset: str) -> dict[str, Any]:
    """Compare an evaluation with the previous one on the same split.

    Args:
        path: the table of earlier evaluations.
        row: ``KEYS``, the score, and its interval as ``SCORE_low`` and ``SCORE_high``.
        score: name of the score to compare.
        asset: the table's asset, for error messages.

    Returns:
        The row, with ``change`` (None for the first row, or if a score is undefined), ``within_noise``,
        ``before_model`` and ``before_labels``. ``within_noise`` says whether the change is within 1.96 standard errors,
        derived from the two intervals. Images in both evaluations are treated as independent, which overestimates the
        noise. With fewer than five observations, or an interval without width, the noise is unknown and
        ``within_noise`` is None.
    """
    nothing: dict[str, Any] = dict.fromkeys(CHANGE)
    if not path.exists():
        return row | nothing
    table = read_table(path, asset)
    others = (table[list(KEYS)] != [row[key] for key in KEYS]).any(axis=1)
    before = table[others & (table["split"] == row["split"])].to_dict("records")
    if not before:
        return row | nothing
    last = before[-1]
    nothing |= {"before_model": last["model_version"], "before_labels": last["label_version"]}
    numbers = [
        math.nan if side.get(name) is None else float(side[name])
        for side in (last, row)
        for name in (score, f"{score}_low", f"{score}_high")
    ]
    if not all(map(math.isfinite, numbers)):
        return row | nothing
    change = numbers[3] - numbers[0]
    widths = numbers[2] - numbers[1], numbers[5] - numbers[4]
    error = math.hypot(*widths) / (2 * 1.96)
    enough = min(widths) > 0 and min(_independent(last), _independent(row)) >= _FEWEST
    within = bool(abs(change) <= 1.96 * error) if enough else None
    return row | nothing | {"change": change, "within_noise": within}


def _independent(row: Mapping[Any, Any]) -> float:
    """Count the independent units of an evaluation.

    They are observations, or images if none is known.

    Infinite if the row contains neither.
    """
    counts = [row.get("n_observations"), row.get("n")]
    known = [count for count in counts if count is not None and not math.isnan(count) and count > 0]
    return known[0] if known else math.inf


def in_words(row: dict[str, Any], score: str) -> str:
    """Describe the change in a row of :func:`with_change` in words."""
    if row["before_model"] is None:
        return "the first evaluation on this split"
    what = ["another model"] if row["before_model"] != row["model_version"] else []
    what += ["other labels"] if row["before_labels"] != row["label_version"] else []
    if row["change"] is None:
        return f"no comparison with the previous evaluation: {score} is undefined in one of them"
    noise = {None: "the noise is unknown", True: "within noise", False: "more than noise"}[row["within_noise"]]
    return f"{score} {row['change']:+.3f} since the previous evaluation ({' and '.join(what)}): {noise}"


def as_records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Convert rows to plain values with every digit.

    Missing values and non-numbers become None.
    """
    table = table.replace([math.inf, -math.inf], math.nan)
    return as_rows(table.astype(object).where(table.notna(), None))


def record(path: Path, rows: Sequence[dict[str, Any]], keys: Sequence[str], asset: str) -> pd.DataFrame:
    """Add rows to a table, replacing those with the same keys.

    Args:
        path: the Parquet file; a JSON copy is written next to it, with the suffix ``.json``.
        rows: new rows.
        keys: the columns that identify a measurement.
        asset: the table's asset, for error messages.

    Returns:
        The whole table, oldest first.
    """
    table = new = pd.DataFrame(list(rows))
    if path.exists():
        old = read_table(path, asset)
        # Rows by an earlier version of this project may lack a key.
        repeated = pd.concat([old, new], ignore_index=True).duplicated(list(keys), keep="last")
        old = old[~repeated[: len(old)].to_numpy()]
        table = pd.concat([old, new], ignore_index=True) if len(old) else new
    write_table(path, table)
    write_json(path.with_suffix(".json"), as_records(table))
    return table
