"""One row per labelled image: which pixels, which class or craters, which split, where it comes from.

Pixels: where the image's original name is a crop that this lake cut itself, and it still shows what that does, the lake's
lossless crop; otherwise the image of the export. An image is identified by its name and the bytes of its source, so that the
same image delivered again in a newer version of its project keeps its identity, its tensors and its predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mars_assets.labels.masks import ANNOTATIONS
from mars_assets.lake import Lake
from mars_assets.storage.files import read_provenance, read_table
from mars_assets.storage.schema import read_checked

ASSET = "labelled_crops"


def files_of(lake: Lake, rows: pd.DataFrame) -> list[Path]:
    """The files that go with the table in force: itself, images and masks."""
    masks = [lake.masks / kind / name for name in _mask_names(rows) for kind in (*ANNOTATIONS, "instances")]
    return [lake.labelled_crops, *(lake.inside(file) for file in rows["file"]), *masks]


def current_label_version(lake: Lake) -> str:
    """The label version of the table in force."""
    read_table(lake.labelled_crops, ASSET, ["image_id"])
    return str(read_provenance(lake.labelled_crops)["label_version"])


def read_labelled_crops(lake: Lake, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read the table in force, see :class:`mars_assets.labels.schema.LabelledCrops`.

    Args:
        lake: has the table.
        columns: the columns to read; all by default.

    Raises:
        MissingInputError: ``labelled_crops`` has not been materialized.
        DamagedFileError: it cannot be read, or does not fit its schema.
    """
    from mars_assets.labels.schema import LabelledCrops

    rows = read_checked(lake.labelled_crops, ASSET, LabelledCrops, columns)
    # The table of an earlier version of this code, whose masks were named by their images alone.
    return rows if columns is not None or "outlines_sha" in rows else rows.assign(outlines_sha=None)


def mask_path(lake: Lake, annotation: str, row: Any) -> Path:
    """A mask's address. Another outline has another, so that a training that is under way keeps the masks of its labels.

    Args:
        lake: where it lies.
        annotation: one of ``ANNOTATIONS``, or ``instances`` (crater numbers, uint16).
        row: of the table, of an outlined image: ``image_id`` and ``outlines_sha``.
    """
    return lake.masks / annotation / _mask_name(row.image_id, row.outlines_sha)


def _mask_name(image_id: str, outlines_sha: Any) -> str:
    return f"{image_id}-{outlines_sha[:8]}.png" if isinstance(outlines_sha, str) else f"{image_id}.png"


def _mask_names(rows: pd.DataFrame) -> set[str]:
    """The names of a table's masks, the same in each annotation's folder."""
    outlined = rows[rows["n_craters"].notna()]
    return {_mask_name(*names) for names in zip(outlined["image_id"], outlined["outlines_sha"], strict=True)}
