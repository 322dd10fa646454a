"""Figures as files and as thumbnails for the event log.

What a figure shows is decided by the module whose numbers it plots.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from mars_assets.images import read_rgb
from mars_assets.storage.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    Picture: TypeAlias = Figure | Image.Image | npt.NDArray[np.uint8] | Path


# Longer sides in pixels, from best to worst: the first at which a PNG of so many colours, or else a JPEG, is small
# enough is taken. Plots stay PNG; pictures of terrain are twice as wide as JPEG.
_SIDES = (960, 800, 640, 540, 480, 420, 360, 320, 280, 240, 160, 96, 48)
_COLOURS = (256, 64, 16)
_QUALITIES = (80, 60)


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, npt.NDArray[np.object_]]:
    """Create a figure that belongs to no window and no global state, so any thread may draw it.

    Args:
        width: inches.
        height: inches.
        rows: rows of axes.
        columns: columns of axes.

    Returns:
        The figure and its axes, shape (rows, columns).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def to_png(picture: Picture, path: Path, dpi: int = 150) -> None:
    """Write a figure or picture as PNG, whole or not at all.

    Args:
        picture: a matplotlib figure, a Pillow image, or uint8 (H, W) or (H, W, 3).
        path: where to.
        dpi: of a matplotlib figure; a picture keeps its pixels.
    """
    buffer = io.BytesIO()
    as_image(picture, dpi).save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())


def thumbnail_data_uri(picture: Picture, max_bytes: int = 28_000) -> str:
    """Encode a picture as a data URI for Markdown metadata in the UI.

    A PNG or JPEG, as large and colourful as the limit allows.

    Args:
        picture: a matplotlib figure, a Pillow image, or uint8 (H, W) or (H, W, 3).
        max_bytes: of the whole URI. It lives in the event log, so it must stay below 30 KB.

    Raises:
        ValueError: not even 48 pixels fit.
    """
    image = as_image(picture, dpi=100)
    for side in _SIDES:
        small = image.copy()
        small.thumbnail((side, side), Image.Resampling.LANCZOS)  # never enlarges
        for colours in _COLOURS:
            buffer = io.BytesIO()
            small.quantize(colours, method=Image.Quantize.MEDIANCUT).save(buffer, "PNG")
            uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
            if len(uri) <= max_bytes:
                return uri
            if len(uri) > 3 * max_bytes:  # fewer colours alone will not do
                break
        for quality in _QUALITIES:
            buffer = io.BytesIO()
            small.save(buffer, "JPEG", quality=quality, optimize=True)
            uri = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
            if len(uri) <= max_bytes:
                return uri
    raise ValueError(f"no thumbnail of this {image.width} x {image.height} picture fits into {max_bytes} bytes")


def markdown_image(picture: Picture, alt: str, max_bytes: int = 28_000) -> str:
    """Format the thumbnail as a Markdown image."""
    return f"![{alt}]({thumbnail_data_uri(picture, max_bytes)})"


def as_image(picture: Picture, dpi: int = 150) -> Image.Image:
    """Draw a figure, or read a picture's file, as an RGB Pillow image."""
    if isinstance(picture, Path):
        picture = read_rgb(picture)
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    if isinstance(picture, np.ndarray):
        return Image.fromarray(picture).convert("RGB")
    buffer = io.BytesIO()
    picture.savefig(buffer, format="png", dpi=dpi)
    return Image.fromarray(read_rgb(buffer.getvalue(), name="the figure"))
