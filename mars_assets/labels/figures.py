"""Contact sheet of labelled images with their outlines and classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from mars_assets.images import read_label_image, read_rgb
from mars_assets.labels.table import mask_path
from mars_assets.lake import Lake

_TILE = 160
_CRATER = (255, 213, 74)
_NO_CRATER = (120, 200, 255)


def label_sheet(lake: Lake, rows: pd.DataFrame, each: int = 10, columns: int = 5) -> Image.Image:
    """Draw up to ``each`` outlined and ``each`` classified images, sampled evenly.

    Crater outlines and frames of images of class crater are yellow; frames of class no_crater are blue.
    """
    outlined = _evenly(rows[rows["n_craters"].fillna(0) > 0], each)
    classified = _evenly(rows[rows["label"].notna()], each)
    tiles = [_tile(lake, row) for row in [*outlined, *classified]]
    height = max(1, -(-len(tiles) // columns))
    sheet = Image.new("RGB", (columns * (_TILE + 6), height * (_TILE + 6)), "white")
    for index, tile in enumerate(tiles):
        sheet.paste(tile, (index % columns * (_TILE + 6) + 3, index // columns * (_TILE + 6) + 3))
    return sheet


def _evenly(rows: pd.DataFrame, count: int) -> list[Any]:
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int))
    return list(rows.iloc[chosen].itertuples())


def _tile(lake: Lake, row: Any) -> Image.Image:
    image = Image.fromarray(read_rgb(lake.inside(row.file))).resize((_TILE, _TILE), Image.Resampling.LANCZOS)
    if row.label is None or row.label != row.label:
        instances = Image.fromarray(read_label_image(mask_path(lake, "instances", row)))
        labels = np.asarray(instances.resize((_TILE, _TILE), Image.Resampling.NEAREST))
        edges = np.zeros(labels.shape, bool)
        edges[:-1] |= labels[:-1] != labels[1:]
        edges[:, :-1] |= labels[:, :-1] != labels[:, 1:]
        pixels = np.array(image)
        pixels[edges] = _CRATER
        return Image.fromarray(pixels)
    ImageDraw.Draw(image).rectangle(
        (0, 0, _TILE - 1, _TILE - 1), outline=_CRATER if row.label == "crater" else _NO_CRATER, width=4
    )
    return image
