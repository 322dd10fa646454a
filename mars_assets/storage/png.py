"""PNG files that people open, with a text in them that names what they were made from."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo


def png_with_text(pixels: npt.NDArray[Any], name: str, text: str) -> bytes:
    """Encode grey pixels, uint8 or uint16 (H, W), as a PNG with a text under a name."""
    info = PngInfo()
    info.add_text(name, text)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def text_in_png(path: Path, name: str) -> str | None:
    """Read a PNG's text under a name; None if there is no such file or text, or it cannot be read."""
    try:
        with Image.open(path) as image:
            return image.info.get(name)
    except OSError:
        return None
