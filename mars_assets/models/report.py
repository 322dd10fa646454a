"""Reports on disk.

A result can be shown again without being computed again.
"""

from __future__ import annotations

import pandas as pd

from mars_assets.errors import DamagedFileError
from mars_assets.evaluation.history import as_records
from mars_assets.lake import Lake
from mars_assets.models.task import Report
from mars_assets.plotting import to_png
from mars_assets.storage.files import read_json, write_json


def write_report(lake: Lake, table: str, key: str, report: Report) -> Report:
    """Write a report next to its table.

    Each figure is a PNG; last comes the JSON file that names what the report is of.

    Args:
        lake: has the table.
        table: the table's name.
        key: fingerprint of everything that the result was computed from.
        report: what is shown.

    Returns:
        The report as :func:`read_report` gives it, so that what is shown now is what will be shown later.
    """
    for title, figure in report.figures.items():
        to_png(figure, lake.figure(table, title))
    content = {
        "key": key,
        "figures": list(report.figures),
        "tables": {
            title: {"columns": list(map(str, rows.columns)), "data": [[*row.values()] for row in as_records(rows)]}
            for title, rows in report.tables.items()
        },
        "facts": dict(report.facts),
        "files": {title: lake.relative(path) for title, path in report.files.items()},
    }
    write_json(lake.report(table), content)
    written = read_report(lake, table, key)
    assert written is not None
    return written


def read_report(lake: Lake, table: str, key: str) -> Report | None:
    """Read the report of a result, its figures as the paths of their files.

    Returns:
        None if the report on disk is of something else, is damaged, or lacks a file.
    """
    try:
        content = read_json(lake.report(table))
        if content["key"] != key:
            return None
        figures = {title: lake.figure(table, title) for title in content["figures"]}
        files = {title: lake.inside(path) for title, path in content["files"].items()}
        tables = {title: pd.DataFrame(**rows) for title, rows in content["tables"].items()}
        report = Report(figures, tables, content["facts"], files)
    except (FileNotFoundError, DamagedFileError, KeyError, TypeError, AttributeError):
        return None
    return report if all(path.exists() for path in [*figures.values(), *files.values()]) else None
