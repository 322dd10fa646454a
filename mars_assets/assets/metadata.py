"""What every asset does around its domain call.

Errors that people can mend, progress, and metadata worth looking at.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pandas as pd

from mars_assets.code_versions import DISPLAY
from mars_assets.errors import MarsError
from mars_assets.progress import Progress

if TYPE_CHECKING:
    from mars_assets.lake import Lake
from mars_assets.models.task import Report
from mars_assets.plotting import markdown_image
from mars_assets.storage.cache import Cache

MAX_ROWS = 50


def progress_of(context: dg.AssetExecutionContext) -> Progress:
    """Progress in the terminal and in the event log."""
    return Progress(context.log.info)


@contextmanager
def mendable() -> Iterator[None]:
    """Errors that a retry cannot mend fail the step once, with their message and advice."""
    try:
        yield
    except MarsError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    except RuntimeError as error:
        # torch is imported by then, or this is not its error: no import on the definitions' path.
        if type(error).__name__ != "OutOfMemoryError":
            raise
        raise dg.Failure(
            f"the device ran out of memory: {str(error).splitlines()[0]} Lower batch_size in the asset's "
            "configuration, or set the compute resource's precision to bf16 or its device to cpu. Nothing is lost: "
            "what was finished stays, and the next run continues",
            allow_retries=False,
        ) from error


def table(rows: pd.DataFrame, limit: int = MAX_ROWS) -> dg.MetadataValue:
    """A table as Markdown, numbers rounded for reading."""
    shown = rows.head(limit)
    header = "| " + " | ".join(str(column) for column in shown.columns) + " |"
    rule = "|" + "|".join("---" for _ in shown.columns) + "|"
    lines = [header, rule]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in shown.itertuples(index=False)]
    if len(rows) > limit:
        lines.append(f"\n{len(rows) - limit} more rows.")
    return dg.MetadataValue.md("\n".join(lines))


def _cell(value: Any) -> str:
    if value is None or value != value:  # NaN
        return "–"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def picture(image: Any, alt: str) -> dg.MetadataValue:
    """A figure or image as an inline thumbnail."""
    return dg.MetadataValue.md(markdown_image(image, alt))


def kept(
    lake: "Lake", asset: str, key: str, make: Callable[[], dict[str, Any]], files: Sequence[Path] = ()
) -> dict[str, Any]:
    """What an asset shows, drawn again only if it changed: deleting the cache changes nothing but the time that takes.

    Args:
        lake: caches it.
        asset: whose metadata it is.
        key: a fingerprint of all that the metadata shows.
        make: draws metadata of Markdown, paths, texts and numbers; computes nothing that is not shown.
        files: what ``make`` writes; if one is missing, it is called again.
    """
    path = lake.shown(asset)

    def describe() -> dict[str, Any]:
        # What fails half way must not leave the files of now with what was shown before.
        path.unlink(missing_ok=True)
        return {name: _storable(value) for name, value in make().items()}

    if not all(file.exists() for file in files):
        path.unlink(missing_ok=True)
    with Cache(path, DISPLAY, progress=Progress(dg.get_dagster_logger().warning)) as cache:
        return {name: _restored(value) for name, value in cache.get([key], describe).items()}


def _storable(value: Any) -> Any:
    match value:
        case dg.MarkdownMetadataValue():
            return {"md": value.md_str}
        case dg.PathMetadataValue():
            return {"path": value.path}
        case str() | int() | float():
            return value
    raise TypeError(f"{type(value).__name__} cannot be kept")


def _restored(value: Any) -> Any:
    match value:
        case {"md": text}:
            return dg.MetadataValue.md(text)
        case {"path": path}:
            return dg.MetadataValue.path(path)
    return value


def columns(descriptions: Mapping[str, str], rows: pd.DataFrame) -> dg.MetadataValue:
    """The column schema of a table, with what each column means."""
    return dg.MetadataValue.table_schema(
        dg.TableSchema(
            columns=[
                dg.TableColumn(str(name), str(dtype), descriptions.get(str(name)))
                for name, dtype in rows.dtypes.items()
            ]
        )
    )


def where(path: Path) -> dg.MetadataValue:
    """Where files lie."""
    return dg.MetadataValue.path(str(path))


def reported(name: str, report: Report) -> dict[str, Any]:
    """Describe a result by its report."""
    return {
        **{title: picture(figure, f"{name}: {title}") for title, figure in report.figures.items()},
        **{title: table(rows) for title, rows in report.tables.items()},
        **report.facts,
        **{title: where(path) for title, path in report.files.items()},
    }
