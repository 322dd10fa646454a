"""Tables that cross a package's border, checked against a schema where they are written and where they are read.

A schema is a pandera model with the types, rules and descriptions of the columns. It stands in ``schema.py`` of the package that
owns the table, which is imported where it is used: pandera takes a fifth of a second.
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
    """Write a table with its provenance, as :func:`~mars_assets.storage.files.write_table` does.

    Raises:
        MarsError: it lacks a column of the schema, optional ones included, or breaks a rule. Nothing is written.
    """
    write_table(target, conformed(table, schema, str(target)), provenance)


def conformed(table: pd.DataFrame, schema: Schema, what: str) -> pd.DataFrame:
    """Return a new table with numbers in the schema's types.

    Raises:
        MarsError: it lacks a column of the schema, optional ones included, or breaks a rule.
    """
    fitted, problems = _fitted(table, schema)
    problems += [f"the column {name} is missing" for name in columns_of(schema) if name not in table]
    if problems:
        raise MarsError(f"{what} would not be what it should: {'; '.join(problems)}")
    return fitted


def read_checked(path: Path, asset: str, schema: Schema, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a table, as :func:`~mars_assets.storage.files.read_table` does.

    Args:
        path: the file.
        asset: that wrote it.
        schema: of the table; columns that it marks as optional may be missing.
        columns: the columns to read and check; all by default.

    Raises:
        MissingInputError: there is no such file.
        DamagedFileError: it cannot be read as Parquet, or breaks a rule.
    """
    table = read_table(path, asset, None if columns is None else list(columns))
    return checked(table, path, asset, schema, columns)


def checked(
    table: pd.DataFrame, where: Path, asset: str, schema: Schema, columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """Check a table that was read, see :func:`read_checked`, and return it with numbers in the schema's types."""
    fitted, problems = _fitted(table, schema, columns)
    if problems:
        raise DamagedFileError(f"{where} is not what it should be: {'; '.join(problems)}. Materialize '{asset}' again")
    return fitted


def violations(table: pd.DataFrame, schema: Schema) -> list[str]:
    """List the rules that a table breaks, one line for each column and rule; an optional column may be missing."""
    return _fitted(table, schema)[1]


def columns_of(schema: Schema) -> dict[str, str]:
    """Name the columns of a schema, in order, each with what it means."""
    return {name: column.description or "" for name, column in schema.to_schema().columns.items()}


def _fitted(
    table: pd.DataFrame, schema: Schema, columns: Sequence[str] | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """The table with numbers in the schema's types, and what is wrong with it."""
    from pandera.errors import SchemaErrors

    rules = schema.to_schema()
    # Selecting copies.
    rules = rules.select_columns([name for name in rules.columns if columns is None or name in columns])
    rules.coerce = table.empty  # where columns have no value they have no type of their own
    try:
        return rules.validate(table, lazy=True), []
    except SchemaErrors as error:
        cases = error.failure_cases.astype({"column": object})
        # What is of another type breaks all other rules of its column, too.
        of_type = cases["check"].str.startswith("coerce_dtype")
        cases = cases[of_type | ~cases["column"].isin(cases.loc[of_type, "column"])]
        groups = cases.groupby(["column", "check"], sort=False, dropna=False)
        return table, [_said(str(column), str(check), rows["failure_case"]) for (column, check), rows in groups]


def _said(column: str, check: str, cases: pd.Series[Any]) -> str:
    """One broken rule in words."""
    values = ", ".join(str(value) for value in cases.unique()[:5])
    match check:
        case "column_in_dataframe":
            return f"the column {values} is missing"
        case "not_nullable":
            return f"{column} is empty in {len(cases)} rows"
        case "field_uniqueness":
            return f"{column} has {values} more than once"
        case _:
            return f"{column} has {values}, against {check}"
