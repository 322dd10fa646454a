"""Assets of group labels: the exports, and the table of labelled crops."""

from dataclasses import asdict, replace
from typing import Any

import dagster as dg
import pandas as pd

from mars_assets.assets.automation_conditions import follows
from mars_assets.assets.imagery import crops
from mars_assets.assets.metadata import cached_metadata, columns, listing, mendable, picture, progress_of, where
from mars_assets.code_versions import LABELS
from mars_assets.labels.build import LabelReport, update_labelled_crops
from mars_assets.labels.class_names import read_class_names
from mars_assets.labels.exports import export_identity, label_version
from mars_assets.labels.figures import label_sheet
from mars_assets.labels.inbox import being_copied, current_exports, digest, passed_over, rejections, unused
from mars_assets.labels.preview import describe
from mars_assets.lake import Lake
from mars_assets.resources import LakeResource
from mars_assets.resources.lake import LAKE_POOL
from mars_assets.storage.files import printable
from mars_assets.storage.hashing import fingerprint
from mars_assets.storage.schema import columns_of

GROUP = "labels"
_DECIDES = ["image_id", "split", "labels_sha", "pixels_sha"]


@dg.observable_source_asset(
    group_name=GROUP,
    tags={"dagster/kind/roboflow": "", "dagster/kind/zip": ""},
    description="Roboflow exports, as zips in the lake's `inbox/`: COCO segmentation, YOLO polygons, semantic masks, "
    "folder or multi-label classification, recognised by content.\n\n"
    "The newest version of each project is used, and whatever is no zip is named as not read. The data version is a "
    "sha256 of the set of zips in use, so that renaming a zip changes nothing.",
)
def roboflow_exports(lake: LakeResource) -> dg.ObserveResult:
    """Observe the inbox."""
    with mendable():
        version, metadata = observe_inbox(lake.open())
    return dg.ObserveResult(data_version=dg.DataVersion(version), metadata=metadata)


def observe_inbox(lake: Lake) -> tuple[str, dict[str, Any]]:
    """Compute data version and metadata of the exports in use."""
    shas = {path: digest(path) for path in current_exports(lake.inbox)}
    class_names = read_class_names(lake.class_names_csv)
    rows = [(path.name, *export_identity(path), sha[:16]) for path, sha in shas.items()]
    aside = rejections(lake.inbox)
    return label_version(shas.values(), class_names.key)[:16], {
        "exports": listing(rows, ["file", "project", "version", "sha256"]),
        "count": len(rows),
        "still being copied": printable(", ".join(path.name for path in being_copied(lake.inbox))) or "none",
        "older versions and copies, not read": printable(", ".join(path.name for path in unused(lake.inbox))) or "none",
        "not read": "; ".join(passed_over(lake.inbox)) or "none",
        "rejected": listing(aside, ["zip", "why"]) if aside else "none",
        "inbox": where(lake.inbox),
    }


@dg.asset(
    group_name=GROUP,
    kinds={"parquet", "png"},
    code_version=LABELS,
    deps=[roboflow_exports, crops],
    pool=LAKE_POOL,
    # New crops, which may replace pixels of labelled images, are picked up by the nightly schedule or by hand.
    automation_condition=follows("crops"),
)
def labelled_crops(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    """One row per labelled image: class or craters, split, and image file.

    If an image's original name is that of a crop in the lake and it still shows the same, its pixels come from the
    lake's lossless crop; otherwise from the export. Images that projects label differently are left out. Masks are
    written filled and as rims of 5 and 15 pixels. Splits never divide an observation: one that the exports divide is
    assigned to a single split. Images with a class whose meaning is not known are left out and fail a check, until the
    lake's `class_names.csv` states it; images with an annotation that cannot be used are left out. A damaged or hostile
    export is moved to `inbox/rejected` with a text that says why, and the previous labels remain in use.
    """
    from mars_assets.labels.schema import LabelledCrops

    with mendable():
        here = lake.open()
        rows, report = update_labelled_crops(here, progress_of(context))
        # The label version would not do: the same labels with other pixels are another table.
        version = fingerprint(rows[_DECIDES].sort_values("image_id").to_dict("list"))
        shown = fingerprint(version, asdict(replace(report, new=0, changed=0, removed=0)))
        metadata = cached_metadata(here, "labelled_crops", shown, lambda: _describe(here, rows, report))
    schema = columns(columns_of(LabelledCrops), rows)
    changes = {"new": report.new, "changed": report.changed, "removed": report.removed}
    return dg.MaterializeResult(
        metadata={**metadata, **changes, "dagster/column_schema": schema, "file": where(here.labelled_crops)},
        data_version=dg.DataVersion(version[:16]),
    )


def _describe(lake: Lake, rows: pd.DataFrame, report: LabelReport) -> dict[str, Any]:
    return {
        "dagster/row_count": len(rows),
        "in words": dg.MetadataValue.md(printable("```text\n" + "\n".join(describe(lake, report)) + "\n```")),
        "labelled": picture(label_sheet(lake, rows), "labelled crops with their outlines"),
        "counts": listing(report.counts),
        "exports": listing(report.exports),
        "label version": report.version,
        "groups divided by the exported splits": listing(report.leaks) if report.leaks else "none",
        "images leaked by the exported splits": report.leaked,
        "pairs that look the same": listing(report.duplicates) if report.duplicates else "none",
        "outlines that extend beyond their image": "; ".join(report.outside[:20]) or "none",
        "rejected": listing(report.rejected) if report.rejected else "none",
        "still being copied": ", ".join(report.left_alone) or "none",
        "classes of unknown meaning": listing(report.unknown_classes) if report.unknown_classes else "none",
        "images left out": "; ".join(report.left_out[:20]) or "none",
        "older versions and copies, not read": ", ".join(report.unused) or "none",
        "not read": "; ".join(report.passed_over) or "none",
        "conflicts": "; ".join(report.conflicts) or "none",
    }
