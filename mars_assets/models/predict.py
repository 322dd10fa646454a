"""What the model in use says about crops without labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from mars_assets.lake import Lake
from mars_assets.models.report import write_report
from mars_assets.models.task import Listing, Task
from mars_assets.models.versions import ModelVersion, current_model
from mars_assets.progress import SILENT, Progress
from mars_assets.storage.files import write_csv, write_table
from mars_assets.storage.hashing import fingerprint
from mars_assets.training.compute import Compute


@dataclass(frozen=True, kw_only=True)
class CurrentPredictions:
    """Predictions of the model in use.

    Args:
        model: the model in use.
        key: fingerprint of the predictions.
        listing: the predictions.
    """

    model: ModelVersion
    key: str
    listing: Listing


def predict_unlabelled(
    lake: Lake, task: Task, compute: Callable[[], Compute], progress: Progress = SILENT
) -> CurrentPredictions:
    """List what the model in use says about unlabelled crops.

    These are the crops that have no label of this task.

    Writes ``metrics/NAME_predictions.parquet``, the same as ``.csv``, and the report next to them. Crops are predicted
    once for each model.

    Raises:
        MissingInputError: there is no model.
        MarsError: there are no crops, or all have labels.
    """
    model = current_model(lake, task.model)
    listing = task.list_unlabelled(lake, model, compute(), progress)
    rows = listing.rows.assign(model_version=model.version)
    path = lake.metrics(task.predictions)
    write_table(path, rows)
    write_csv(path.with_suffix(".csv"), rows)
    key = fingerprint(rows[[*listing.key]].astype(str).to_numpy().tolist())
    report = write_report(lake, task.predictions, key, listing.report)
    return CurrentPredictions(model=model, key=key, listing=replace(listing, rows=rows, report=report))
