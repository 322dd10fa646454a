"""Metrics tables that keep their history: one row for each thing measured, replaced only when the same thing is measured again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mars_assets.lake import read_table, write_json, write_table

if TYPE_CHECKING:
    import pandas as pd


def record(path: Path, rows: Sequence[dict[str, Any]], keys: Sequence[str], asset: str) -> pd.DataFrame:
    """Adds rows to a table; rows of the same keys are replaced. Writes Parquet and its JSON twin.

    Args:
        path: the Parquet file; the twin has the suffix ``.json``.
        rows: new rows.
        keys: the columns that say what was measured.
        asset: the table's asset, for error messages.

    Returns:
        The whole table, oldest first.
    """
    import pandas as pd

    new = pd.DataFrame(list(rows))
    if path.exists():
        old = read_table(path, asset)
        # Rows of an earlier version of this project may lack a column that says what was measured.
        old = old.reindex(columns=[*old.columns, *(key for key in keys if key not in old)])
        measured = set(new[list(keys)].itertuples(index=False, name=None))
        kept = [row not in measured for row in old[list(keys)].itertuples(index=False, name=None)]
        old = old[kept]
        table = pd.concat([old, new], ignore_index=True) if len(old) else new
    else:
        table = new
    write_table(path, table)
    write_json(path.with_suffix(".json"), json.loads(table.to_json(orient="records", date_format="iso")))
    return table
