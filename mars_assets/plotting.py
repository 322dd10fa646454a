"""Figures as files and as thumbnails for the event log.

The figures themselves are drawn by the modules whose results they show.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from mars_assets.images import encode, read_rgb
from mars_assets.storage.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Picture: TypeAlias = Figure | Image.Image | npt.NDArray[np.uint8] | Path


# Longer sides in pixels, from best to worst. The first that is small enough is used, as a PNG of so many colours or
# else as a JPEG. Plots are best as PNG; images of terrain may be twice as wide as JPEG.
_SIDES = (960, 800, 640, 540, 480, 420, 360, 320, 280, 240, 160, 96, 48)
_COLOURS = (256, 64, 16)
_QUALITIES = (80, 60)


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, npt.NDArray[np.object_]]:
    """Create a figure without a window or global state.

    Any thread may draw it.

    Args:
        width: width in inches.
        height: height in inches.
        rows: rows of axes.
        columns: columns of axes.

    Returns:
        The figure and its axes, shape (rows, columns).
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def make_logarithmic(axis: Axes) -> None:
    """Make both axes logarithmic, the horizontal one with plain numbers."""
    from matplotlib.ticker import LogFormatter

    axis.set(xscale="log", yscale="log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.7)))


def to_png(picture: Picture, path: Path, dpi: int = 150) -> None:
    """Write a figure or picture as PNG, atomically.

    Args:
        picture: a matplotlib figure, a Pillow image, or uint8 (H, W) or (H, W, 3).
        path: the file to write.
        dpi: resolution of a matplotlib figure; a picture keeps its pixels.
    """
    write_bytes(path, encode(as_image(picture, dpi), "PNG"))


def thumbnail_data_uri(picture: Picture, max_bytes: int = 28_000) -> str:
    """Encode a picture as a data URI for Markdown metadata in the UI.

    It is a PNG or JPEG, as large and colourful as the limit allows.

    Args:
        picture: a matplotlib figure, a Pillow image, or uint8 (H, W) or (H, W, 3).
        max_bytes: maximum length of the URI. It is stored in the event log, so it must stay below 30 KB.

    Raises:
        ValueError: not even 48 pixels fit.
    """
    image = as_image(picture, dpi=100)
    for side in _SIDES:
        small = image.copy()
        small.thumbnail((side, side), Image.Resampling.LANCZOS)  # never enlarges
        for colours in _COLOURS:
            content = encode(small.quantize(colours, method=Image.Quantize.MEDIANCUT), "PNG")
            uri = "data:image/png;base64," + base64.b64encode(content).decode()
            if len(uri) <= max_bytes:
                return uri
            if len(uri) > 3 * max_bytes:  # fewer colours alone will not suffice
                break
        for quality in _QUALITIES:
            content = encode(small, "JPEG", quality=quality, optimize=True)
            uri = "data:image/jpeg;base64," + base64.b64encode(content).decode()
            if len(uri) <= max_bytes:
                return uri
    raise ValueError(f"no thumbnail of this {image.width} x {image.height} picture fits into {max_bytes} bytes")


def as_image(picture: Picture, dpi: int = 150) -> Image.Image:
    """Convert a figure, picture or image file to an RGB Pillow image."""
    if isinstance(picture, Path):
        picture = read_rgb(picture)
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    if isinstance(picture, np.ndarray):
        return Image.fromarray(picture).convert("RGB")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    picture.set_dpi(dpi)
    canvas: Any = FigureCanvasAgg(picture)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
