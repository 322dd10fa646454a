"""Table ``labelled_crops``: one row per labelled image.

If an image's original name is that of a crop in this lake and it still shows the same as the crop, its pixels are those
of the lake's lossless crop; otherwise those of the exported image. An image is identified by its name and the bytes of
its source, so that the same image in a newer version of its project keeps its identity, tensors and predictions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from mars_assets.labels.masks import ANNOTATIONS
from mars_assets.lake import Lake
from mars_assets.storage.files import read_provenance, read_table

ASSET = "labelled_crops"
COLUMNS = {
    "image_id": "identifier from the source's name and content; the same across label versions",
    "project": "the Roboflow project; several that labelled the same image are joined by '+'",
    "split": "train, valid or test: as exported, but one split for each group",
    "exported_split": "train, valid or test, as exported",
    "observation": "the HiRISE observation that the image's name starts with, if any",
    "group": "images that must share a split: the observation, otherwise the original name",
    "original": "the name under which the image was uploaded",
    "origin": "'crop': the lake's own lossless crop; 'export': the image in the zip",
    "file": "path of the image file, relative to the lake",
    "height": "pixels",
    "width": "pixels",
    "label": "crater or no_crater, if the image was classified",
    "n_craters": "number of outlined craters, if the image was segmented (0: labelled as having none)",
    "crater_fraction": "share of pixels inside craters",
    "labels_sha": "fingerprint of the label, which changes when it is corrected",
    "outlines_sha": "fingerprint of the outlines that the masks show; None without outlines",
    "pixels_sha": "sha256 of the image file",
    "phash": "perceptual hash: images that look the same differ in few of its 64 bits",
}


def files_of(lake: Lake, rows: pd.DataFrame) -> list[Path]:
    """List the files that the table consists of: itself, images and masks."""
    masks = [lake.masks / kind / name for name in _mask_names(rows) for kind in (*ANNOTATIONS, "instances")]
    return [lake.labelled_crops, *(lake.inside(file) for file in rows["file"]), *masks]


def current_label_version(lake: Lake) -> str:
    """Read the label version of the current table."""
    read_table(lake.labelled_crops, ASSET, ["image_id"])
    return str(read_provenance(lake.labelled_crops)["label_version"])


def read_labelled_crops(lake: Lake) -> pd.DataFrame:
    """Read the current table.

    Raises:
        MissingInputError: ``labelled_crops`` has not been materialized.
    """
    rows = read_table(lake.labelled_crops, ASSET)
    # Earlier versions of this code named masks by the image alone.
    return rows if "outlines_sha" in rows else rows.assign(outlines_sha=None)


def mask_path(lake: Lake, annotation: str, row: Any) -> Path:
    """Return a mask's path.

    It depends on the outlines, so that a running training keeps the masks of the labels that it started with.

    Args:
        lake: the lake.
        annotation: one of ``ANNOTATIONS``, or ``instances`` (crater numbers, uint16).
        row: the table's row of an outlined image: ``image_id`` and ``outlines_sha``.
    """
    return lake.masks / annotation / _mask_name(row.image_id, row.outlines_sha)


def _mask_name(image_id: str, outlines_sha: Any) -> str:
    return f"{image_id}-{outlines_sha[:8]}.png" if isinstance(outlines_sha, str) else f"{image_id}.png"


def _mask_names(rows: pd.DataFrame) -> set[str]:
    """List the names of a table's masks, which are the same for each annotation."""
    outlined = rows[rows["n_craters"].notna()]
    return {_mask_name(*names) for names in zip(outlined["image_id"], outlined["outlines_sha"], strict=True)}
