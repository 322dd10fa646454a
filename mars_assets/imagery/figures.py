"""Pictures of a scene and its crops for the UI."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from mars_assets.imagery.crops import rgb_composite, to_8bit
from mars_assets.imagery.scene import open_scene
from mars_assets.images import read_rgb
from mars_assets.plotting import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_KEPT = (64, 220, 120)
_SKIPPED = {"no data": (255, 80, 80), "band missing": (255, 0, 255), "saturated": (255, 200, 0)}
_MARGIN = 2


def contact_sheet(
    manifest: pd.DataFrame, folder: Path, columns: int = 6, thumbnail: int = 128, most: int = 24
) -> Image.Image:
    """Draw thumbnails of the crops in the order of the manifest.

    If there are more than ``most``, evenly spaced ones are drawn.

    Args:
        manifest: the crops' manifest.
        folder: folder of the crops.
        columns: thumbnails per row.
        thumbnail: edge of a thumbnail in pixels.
        most: maximum number of thumbnails.

    Raises:
        DamagedFileError: a crop does not decode.
    """
    names = manifest.loc[manifest["kept"].astype(bool), "file"].tolist()
    if not names:
        sheet = Image.new("RGB", (2 * thumbnail, thumbnail // 2), "white")
        ImageDraw.Draw(sheet).text((8, 8), "no crop was cut", fill="black")
        return sheet
    if len(names) > most:
        names = [names[i] for i in np.linspace(0, len(names) - 1, most).round().astype(int)]
    columns = min(columns, len(names))
    step = thumbnail + _MARGIN
    rows = math.ceil(len(names) / columns)
    sheet = Image.new("RGB", (columns * step + _MARGIN, rows * step + _MARGIN), "white")
    for i, name in enumerate(names):
        crop = read_rgb(folder / name, f"delete it, and materialize 'crops' of {folder.name} again")
        small = Image.fromarray(crop).resize((thumbnail, thumbnail), Image.Resampling.BOX)
        sheet.paste(small, (i % columns * step + _MARGIN, i // columns * step + _MARGIN))
    return sheet


def map_of_observations(index: pd.DataFrame) -> Figure:
    """Draw a map of the number of observations in the index.

    The projection is simple cylindrical.

    Args:
        index: HiRISE's cumulative index.
    """
    from matplotlib.colors import LogNorm

    rows = index.drop_duplicates("OBSERVATION_ID")
    rows = rows.dropna(subset=["MINIMUM_LATITUDE", "MAXIMUM_LATITUDE", "MINIMUM_LONGITUDE"])
    latitude = (rows["MINIMUM_LATITUDE"] + rows["MAXIMUM_LATITUDE"]) / 2
    figure, axes = new_figure(7.5, 3.8)
    plot = axes[0, 0]
    drawn = plot.hexbin(
        rows["MINIMUM_LONGITUDE"] % 360,
        latitude,
        gridsize=(72, 36),
        extent=(0, 360, -90, 90),
        mincnt=1,
        norm=LogNorm(vmin=1, vmax=max(2, len(rows) / 50)),
    )
    figure.colorbar(drawn, label="observations")
    plot.set(xlabel="longitude, degrees east", ylabel="latitude, degrees", xlim=(0, 360), ylim=(-90, 90))
    return figure


def overview_with_grid(image: Path, manifest: pd.DataFrame, longest: int = 1200) -> Image.Image:
    """Draw the grid over the whole scene, with a legend.

    Cells that were cut are green; skipped cells have a colour for each reason.

    Args:
        image: the product that the crops were cut from.
        manifest: the crops' manifest.
        longest: maximum length of the picture's longer edge in pixels.

    Raises:
        DamagedFileError: the image does not open.
    """
    first = manifest.iloc[0]
    with open_scene(image) as scene:
        lines, samples = scene.info.lines, scene.info.samples
        rgb = rgb_composite(first["product"], scene.overview(scene.info.overview_factor))
    scale = min(1.0, longest / max(lines, samples))
    size = (max(1, round(samples * scale)), max(1, round(lines * scale)))
    picture = Image.fromarray(to_8bit(rgb, first["stretch_low"], first["stretch_high"]))
    picture = picture.resize(size, Image.Resampling.BOX)

    draw = ImageDraw.Draw(picture)
    # Cells that were cut come last, so that no skipped neighbour covers their outline.
    for cell in manifest.sort_values("kept").to_dict("records"):
        left, top = cell["col"] * scale, cell["row"] * scale
        box = (left, top, left + cell["width"] * scale - 1, top + cell["height"] * scale - 1)
        draw.rectangle(box, outline=_KEPT if cell["kept"] else _SKIPPED[cell["reason"]])
    return _with_legend(picture, manifest)


def _with_legend(picture: Image.Image, manifest: pd.DataFrame) -> Image.Image:
    counts = manifest.loc[~manifest["kept"], "reason"].value_counts()
    entries = [(_KEPT, f"cut: {int(manifest['kept'].sum())}")]
    entries += [(_SKIPPED[str(reason)], f"{reason}: {count}") for reason, count in counts.items()]
    line = 16
    result = Image.new("RGB", (max(picture.width, 140), picture.height + line * len(entries) + 4), "white")
    result.paste(picture, (0, 0))
    draw = ImageDraw.Draw(result)
    for i, (colour, text) in enumerate(entries):
        top = picture.height + 4 + i * line
        draw.rectangle([4, top, 14, top + 10], fill=colour)
        draw.text((20, top - 1), text, fill="black")
    return result
