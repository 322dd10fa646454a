"""What ``labelled_crops`` would make of an export, not yet in the inbox."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from mars_assets.errors import MarsError
from mars_assets.labels.build import LabelReport, build_labelled_crops
from mars_assets.labels.class_names import how_to_state, read_class_names
from mars_assets.labels.inbox import rejections
from mars_assets.labels.zip_archive import open_export, why_no_zip
from mars_assets.lake import Lake
from mars_assets.progress import SILENT, Progress
from mars_assets.storage.files import write_bytes

_MOST = 20
"""Lines of a kind in a description; how many more there are is said."""


@dataclass(frozen=True)
class Preview:
    """What an export would give.

    Args:
        text: its description.
        is_complete: whether all of its labels would be used.
    """

    text: str
    is_complete: bool


def preview_export(lake: Lake, path: Path, progress: Progress = SILENT) -> Preview:
    """Read an export as ``labelled_crops`` would, without touching the lake.

    Args:
        lake: has the user's meanings of class names.
        path: the zip.
        progress: reports the images.

    Raises:
        MarsError: there is no such file, or the lake's ``class_names.csv`` has bad rows.
    """
    if not path.exists():
        raise MarsError(f"there is no file {path}: name the zip of an export")
    if why := why_no_zip(path):
        return Preview(f"{path.name} cannot be used: it {why}", False)
    read_class_names(lake.class_names_csv)  # bad rows are no fault of the zip
    with TemporaryDirectory() as folder:
        empty = Lake(Path(folder))
        empty.inbox.mkdir(parents=True)
        (empty.inbox / path.name).symlink_to(path.resolve())
        if lake.class_names_csv.exists():
            write_bytes(empty.class_names_csv, lake.class_names_csv.read_bytes())
        try:
            with open_export(path):  # an incomplete zip would count as still being copied
                _, report = build_labelled_crops(empty, progress)
        except MarsError as error:
            causes = [reason for _, reason in rejections(empty.inbox)] or [str(error)]
            # What names the temporary lake is said of the user's.
            return Preview(f"{path.name} cannot be used: {causes[0]}".replace(str(empty.root), str(lake.root)), False)
    lines = describe(lake, report)
    return Preview("\n".join(lines), not (report.unknown_classes or report.left_out or report.conflicts))


def describe(lake: Lake, report: LabelReport) -> list[str]:
    """Describe what exports gave, and what of them was left out and why."""
    lines = [
        f"{row['file']}: project {row['project']}, version {row['version']}, {row['format']}, {row['images']} images"
        for row in report.exports
    ]
    counts = pd.DataFrame(report.counts)
    if len(counts):
        lines += ["", counts.to_string(index=False), ""]
    path = lake.class_names_csv
    kinds = {
        "classes of unknown meaning": [
            how_to_state(path, row["project"], row["class"], row["images"]) for row in report.unknown_classes
        ],
        "left out": report.left_out,
        "left out, since labelled differently": report.conflicts,
        "exported in several splits, and put into one": [
            f"{row['group']}: {row['images']} images, exported in {row['exported']}, now in {row['now']}"
            for row in report.leaks
        ],
        "outlines beyond the image": report.outside,
        "images that look the same": [
            f"{row['image_a']} ({row['split_a']}) and {row['image_b']} ({row['split_b']})" for row in report.duplicates
        ],
        "to know": [f"{row['project']}: {row['warnings']}" for row in report.exports if row["warnings"]],
    }
    for kind, found in kinds.items():
        lines += [f"{kind}: {line}" for line in found[:_MOST]]
        if len(found) > _MOST:
            lines.append(f"{kind}: {len(found) - _MOST} more")
    return lines
