"""Error handling, progress and metadata shared by all assets."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pandas as pd

from mars_assets.code_versions import DISPLAY
from mars_assets.errors import MarsError
from mars_assets.models.task import Report
from mars_assets.plotting import thumbnail_data_uri
from mars_assets.progress import Progress
from mars_assets.storage.cache import Cache
from mars_assets.storage.files import printable

if TYPE_CHECKING:
    from mars_assets.lake import Lake

MAX_ROWS = 50


def progress_of(context: dg.AssetExecutionContext) -> Progress:
    """Build the progress that reports to the terminal and the event log."""
    return Progress(lambda line: context.log.info(printable(line)))


@contextmanager
def mendable() -> Iterator[None]:
    """Fail the step without retries on errors that a retry cannot fix."""
    try:
        yield
    except MarsError as error:
        raise dg.Failure(printable(str(error)), allow_retries=False) from error
    except RuntimeError as error:
        # By name, since importing torch would slow down loading the definitions.
        if type(error).__name__ != "OutOfMemoryError":
            raise
        raise dg.Failure(
            f"the device ran out of memory: {str(error).splitlines()[0]} Lower batch_size in the asset's "
            "configuration, or set the compute resource's precision to bf16 or its device to cpu. Finished work is "
            "retained, and the next run continues from it",
            allow_retries=False,
        ) from error


def table(rows: pd.DataFrame, limit: int = MAX_ROWS) -> dg.MetadataValue:
    """Format a table as Markdown, with rounded numbers."""
    shown = rows.head(limit)
    header = "| " + " | ".join(str(column) for column in shown.columns) + " |"
    rule = "|" + "|".join("---" for _ in shown.columns) + "|"
    lines = [header, rule]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in shown.itertuples(index=False)]
    if len(rows) > limit:
        lines.append(f"\n{len(rows) - limit} more rows.")
    return dg.MetadataValue.md(printable("\n".join(lines)))


def listing(rows: Sequence[Any], columns: list[str] | None = None) -> dg.MetadataValue:
    """Format rows as Markdown; names of files in them need not be UTF-8."""
    return table(pd.DataFrame(rows, columns=columns, dtype=object))


def _cell(value: Any) -> str:
    if value is None or value != value:  # NaN
        return "–"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def picture(image: Any, alt: str) -> dg.MetadataValue:
    """Embed a figure or image as a thumbnail."""
    return dg.MetadataValue.md(f"![{alt}]({thumbnail_data_uri(image)})")


def cached_metadata(lake: "Lake", asset: str, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return an asset's cached metadata, drawing it only if its content changed.

    Args:
        lake: where the cache is.
        asset: the asset's name.
        key: a fingerprint of everything that the metadata shows.
        make: draws the metadata: Markdown, paths, texts and numbers.
    """
    path = lake.shown(asset)

    def describe() -> dict[str, Any]:
        # If drawing fails half way, new files must not remain next to old metadata.
        path.unlink(missing_ok=True)
        return {name: _storable(value) for name, value in make().items()}

    with Cache(path, DISPLAY, progress=Progress(dg.get_dagster_logger().warning)) as cache:
        return {name: _restored(value) for name, value in cache.get([key], describe).items()}


def _storable(value: Any) -> Any:
    match value:
        case dg.MarkdownMetadataValue():
            return {"md": value.md_str}
        case dg.PathMetadataValue():
            return {"path": value.path}
        case str():
            return printable(value)
        case int() | float():
            return value
    raise TypeError(f"{type(value).__name__} cannot be cached")


def _restored(value: Any) -> Any:
    match value:
        case {"md": text}:
            return dg.MetadataValue.md(text)
        case {"path": path}:
            return dg.MetadataValue.path(path)
    return value


def columns(descriptions: Mapping[str, str], rows: pd.DataFrame) -> dg.MetadataValue:
    """Build a table's column schema with descriptions."""
    return dg.MetadataValue.table_schema(
        dg.TableSchema(
            columns=[
                dg.TableColumn(str(name), str(dtype), descriptions.get(str(name)))
                for name, dtype in rows.dtypes.items()
            ]
        )
    )


def where(path: Path) -> dg.MetadataValue:
    """Build metadata that shows a path."""
    return dg.MetadataValue.path(printable(str(path)))


def reported(name: str, report: Report) -> dict[str, Any]:
    """Convert a report to metadata."""
    return {
        **{title: picture(figure, f"{name}: {title}") for title, figure in report.figures.items()},
        **{title: table(rows) for title, rows in report.tables.items()},
        **report.facts,
        **{title: where(path) for title, path in report.files.items()},
    }
