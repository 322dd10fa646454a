"""Table ``labelled_crops``: one row per labelled image.

If an image's original name is that of a crop in this lake and it still shows the same as the crop, its pixels are those
of the lake's lossless crop; otherwise those of the exported image. An image is identified by its name and the bytes of
its source, so that the same image in a newer version of its project keeps its identity, tensors and predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mars_assets.labels.masks import MASK_KINDS
from mars_assets.lake import Lake
from mars_assets.storage.files import read_provenance, read_table
from mars_assets.storage.schema import read_checked

ASSET = "labelled_crops"


def files_of(lake: Lake, rows: pd.DataFrame) -> list[Path]:
    """List the files that the table consists of: itself, images and masks."""
    masks = [lake.masks / kind / name for name in mask_names(rows) for kind in MASK_KINDS]
    return [lake.labelled_crops, *(lake.inside(file) for file in rows["file"]), *masks]


def current_label_version(lake: Lake) -> str:
    """Read the label version of the current table."""
    read_table(lake.labelled_crops, ASSET, ["image_id"])
    return str(read_provenance(lake.labelled_crops)["label_version"])


def read_labelled_crops(lake: Lake, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read the current table, see :class:`mars_assets.labels.schema.LabelledCrops`.

    Args:
        lake: the lake.
        columns: the columns to read; all by default.

    Raises:
        MissingInputError: ``labelled_crops`` has not been materialized.
        DamagedFileError: the table cannot be read or does not match its schema.
    """
    from mars_assets.labels.schema import LabelledCrops

    rows = read_checked(lake.labelled_crops, ASSET, LabelledCrops, columns)
    # Earlier versions of this code named masks by the image alone.
    return rows if columns is not None or "outlines_sha" in rows else rows.assign(outlines_sha=None)


def mask_path(lake: Lake, annotation: str, row: Any) -> Path:
    """Return a mask's path.

    It depends on the outlines, so that a running training keeps the masks of the labels that it started with.

    Args:
        lake: the lake.
        annotation: one of ``MASK_KINDS``; ``instances`` are crater numbers, uint16.
        row: the table's row of an outlined image: ``image_id`` and ``outlines_sha``.
    """
    return lake.masks / annotation / mask_name(row.image_id, row.outlines_sha)


def mask_name(image_id: str, outlines_sha: Any) -> str:
    """Name an image's masks; earlier versions named them by the image alone."""
    return f"{image_id}-{outlines_sha[:8]}.png" if isinstance(outlines_sha, str) else f"{image_id}.png"


def mask_names(rows: pd.DataFrame) -> set[str]:
    """List the names of a table's masks, which are the same for each annotation."""
    outlined = rows[rows["n_craters"].notna()]
    return {mask_name(*names) for names in zip(outlined["image_id"], outlined["outlines_sha"], strict=True)}
