"""One row per labelled image: which pixels, which class or craters, which split, where it comes from.

Pixels: where the image's original name is a crop that this lake cut itself, and it still shows what that does, the lake's
lossless crop; otherwise the image of the export. An image is identified by its name and the bytes of its source, so that the
same image delivered again in a newer version of its project keeps its identity, its tensors and its predictions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from mars_assets.labels.masks import (
    ANNOTATIONS,
)
from mars_assets.lake import Lake
from mars_assets.storage.files import read_provenance, read_table

ASSET = "labelled_crops"
COLUMNS = {
    "image_id": "name and content of the source: the same image keeps it across label versions",
    "project": "the Roboflow project, or those that labelled the same image, joined by '+'",
    "split": "train, valid or test: as exported, but all of a group in one",
    "exported_split": "as exported",
    "observation": "the HiRISE observation that the image's name begins with, if any",
    "group": "what must not straddle splits: the observation, else the original name",
    "original": "the name it was uploaded under",
    "origin": "'crop': the lake's own lossless crop; 'export': the image in the zip",
    "file": "the pixels, relative to the lake",
    "height": "pixels",
    "width": "pixels",
    "label": "crater or no_crater where the image was classified",
    "n_craters": "outlined craters where the image was segmented (0 is a labelled negative)",
    "crater_fraction": "share of pixels inside craters",
    "labels_sha": "of the label itself: changes when somebody corrects it",
    "outlines_sha": "of the outlines alone, which the masks show; None where there are none",
    "pixels_sha": "sha256 of the file",
    "phash": "perceptual hash: images that look the same differ in few of its 64 bits",
}


def files_of(lake: Lake, rows: pd.DataFrame) -> list[Path]:
    """The files that go with the table in force: itself, images and masks."""
    masks = [lake.masks / kind / name for name in _mask_names(rows) for kind in (*ANNOTATIONS, "instances")]
    return [lake.labelled_crops, *(lake.inside(file) for file in rows["file"]), *masks]


def current_label_version(lake: Lake) -> str:
    """The label version of the table in force."""
    read_table(lake.labelled_crops, ASSET, ["image_id"])
    return str(read_provenance(lake.labelled_crops)["label_version"])


def read_labelled_crops(lake: Lake) -> pd.DataFrame:
    """The table in force.

    Raises:
        MissingInputError: ``labelled_crops`` has not been made.
    """
    rows = read_table(lake.labelled_crops, ASSET)
    # The table of an earlier version of this code, whose masks were named by their images alone.
    return rows if "outlines_sha" in rows else rows.assign(outlines_sha=None)


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
