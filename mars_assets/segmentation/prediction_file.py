"""Predicted probabilities as 8-bit PNG files, with a fingerprint of their inputs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mars_assets.images import encode_png, png_text, read_stored

if TYPE_CHECKING:
    import numpy.typing as npt

    from mars_assets.bands import Float32


_KEY = "mars_assets"
"""Name of the PNG text that identifies the model and chip of a prediction."""


def read_mask(path: Path) -> npt.NDArray[np.bool_]:
    """Read which pixels of a prediction are more likely crater, bool (H, W).

    Raises:
        DamagedFileError: the file is missing or is no prediction.
    """
    return _read(path) >= 128


def read_probability(path: Path) -> Float32:
    """Read a prediction's probability of a crater, float32 (H, W).

    It has steps of 1/255.

    Raises:
        DamagedFileError: the file is missing or is no prediction.
    """
    return _read(path).astype(np.float32) / np.float32(255)


def _read(path: Path) -> npt.NDArray[np.uint8]:
    return read_stored(path, "delete it and predict again", f"the prediction {path}")


def prediction_key(path: Path) -> str | None:
    """Read the fingerprint of a prediction's inputs; None if unreadable."""
    return png_text(path, _KEY)


def _png(probability: Float32, key: str) -> bytes:
    return encode_png(np.rint(probability * 255).astype(np.uint8), _KEY, key)
