"""Schema checks of tables that packages exchange, on writing and on reading.

A schema is a pandera model with the types, rules and descriptions of the columns. It is defined in ``schema.py`` of the
package that owns the table. These modules are imported inside functions, as importing pandera takes a fifth of a
second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pandas as pd

from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.storage.files import read_table, write_table

if TYPE_CHECKING:
    from pandera.pandas import DataFrameModel

    Schema: TypeAlias = type[DataFrameModel]


def write_checked(
    target: Path, table: pd.DataFrame, schema: Schema, provenance: Mapping[str, Any] | None = None
) -> None:
    """Check a table and write it with its provenance.

    Raises:
        MarsError: the table lacks a column, even an optional one, or breaks a rule. Nothing is written.
    """
    write_table(target, conformed(table, schema, str(target)), provenance)


def conformed(table: pd.DataFrame, schema: Schema, what: str) -> pd.DataFrame:
    """Check a table to be written, and return it with numbers in the schema's types.

    Raises:
        MarsError: the table lacks a column, even an optional one, or breaks a rule.
    """
    fitted, problems = _fitted(table, schema)
    problems += [f"the column {name} is missing" for name in columns_of(schema) if name not in table]
    if problems:
        raise MarsError(f"{what} was not written, since it does not match its schema: {'; '.join(problems)}")
    return fitted


def read_checked(path: Path, asset: str, schema: Schema, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a table and check it.

    Args:
        path: the file.
        asset: the asset that wrote it.
        schema: the table's schema; columns that it marks as optional may be missing.
        columns: the columns to read and check; all by default.

    Raises:
        MissingInputError: the file does not exist.
        DamagedFileError: it cannot be read as Parquet, or breaks a rule.
    """
    table = read_table(path, asset, None if columns is None else list(columns))
    return checked(table, path, asset, schema, columns)


def checked(
    table: pd.DataFrame, where: Path, asset: str, schema: Schema, columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """Check a table that was read, and return it with numbers in the schema's types.

    Raises:
        DamagedFileError: the table breaks a rule.
    """
    fitted, problems = _fitted(table, schema, columns)
    if problems:
        raise DamagedFileError(f"{where} does not match its schema: {'; '.join(problems)}. Materialize '{asset}' again")
    return fitted


def violations(table: pd.DataFrame, schema: Schema) -> list[str]:
    """List the rules that a table breaks, one line per column and rule."""
    return _fitted(table, schema)[1]


def columns_of(schema: Schema) -> dict[str, str]:
    """Map the names of a schema's columns, in order, to their descriptions."""
    return {name: column.description or "" for name, column in schema.to_schema().columns.items()}


def _fitted(
    table: pd.DataFrame, schema: Schema, columns: Sequence[str] | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """Convert numbers to the schema's types, and list the problems."""
    from pandera.errors import SchemaErrors

    rules = schema.to_schema()
    # A copy, whose coercion can be changed.
    rules = rules.select_columns([name for name in rules.columns if columns is None or name in columns])
    rules.coerce = table.empty  # empty columns have no type of their own
    try:
        return rules.validate(table, lazy=True), []
    except SchemaErrors as error:
        cases = error.failure_cases.astype({"column": object})
        # Values of a wrong type also break all other rules of the column: report the type alone.
        of_type = cases["check"].str.startswith("coerce_dtype")
        cases = cases[of_type | ~cases["column"].isin(cases.loc[of_type, "column"])]
        groups = cases.groupby(["column", "check"], sort=False, dropna=False)
        return table, [_said(str(column), str(check), rows["failure_case"]) for (column, check), rows in groups]


def _said(column: str, check: str, cases: pd.Series[Any]) -> str:
    """Describe a broken rule."""
    values = ", ".join(str(value) for value in cases.unique()[:5])
    match check:
        case "column_in_dataframe":
            return f"the column {values} is missing"
        case "not_nullable":
            return f"{column} is empty in {len(cases)} rows"
        case "field_uniqueness":
            return f"{column} has {values} more than once"
        case _:
            return f"{column} has {values}, which violates {check}"
