"""Predicted probabilities as 8-bit PNG files, with the fingerprint of what they were computed from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mars_assets.images import encode_png, png_text, read_stored

if TYPE_CHECKING:
    import numpy.typing as npt

    from mars_assets.bands import Float32


_KEY = "mars_assets"
"""Name of the PNG text that says from which model and chip a prediction is."""


def read_mask(path: Path) -> npt.NDArray[np.bool_]:
    """The pixels of a prediction that are more likely crater than background, shape (H, W).

    Raises:
        DamagedFileError: the file is missing or is no prediction.
    """
    return _read(path) >= 128


def read_probability(path: Path) -> Float32:
    """A prediction's probability of a crater, 0 to 1 in steps of 1/255, shape (H, W).

    Raises:
        DamagedFileError: the file is missing or is no prediction.
    """
    return _read(path).astype(np.float32) / np.float32(255)


def _read(path: Path) -> npt.NDArray[np.uint8]:
    return read_stored(path, "delete it and predict again", f"the prediction {path}")


def prediction_key(path: Path) -> str | None:
    """What a cached prediction was made from; None where there is none that can be read."""
    return png_text(path, _KEY)


def _png(probability: Float32, key: str) -> bytes:
    return encode_png(np.rint(probability * 255).astype(np.uint8), _KEY, key)
