"""Tables for tests that state only the columns they need."""

from typing import Any

import pandas as pd
from pandera.pandas import Column, DataFrameModel


def complete(table: pd.DataFrame, schema: type[DataFrameModel]) -> pd.DataFrame:
    """Add a schema's missing columns, empty if allowed, otherwise with one allowed value."""
    columns = schema.to_schema().columns
    added = {name: [_value(column)] * len(table) for name, column in columns.items() if name not in table}
    return schema.validate(pd.concat([table, pd.DataFrame(added, index=table.index)], axis=1)[[*columns]])


def _value(column: Column) -> Any:
    if column.nullable:
        return None
    for check in column.checks:
        if "allowed_values" in check.statistics:
            return next(iter(check.statistics["allowed_values"]))
    match str(column.dtype):
        case "bool":
            return True
        case "int64" | "float64":
            return 1
        case "object":
            return [0.0, 0.0, 0.0]
        case _:
            return column.name
