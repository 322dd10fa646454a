"""Features without an encoder: pixels, and histograms of oriented gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from mars_assets.transfer.protocol import HOG, PIXELS

Float32 = npt.NDArray[np.float32]
SIDE = 16
"""Side to which pixels are averaged."""


def pixels(grey: Float32) -> Float32:
    """Average a square picture to 16 x 16 pixels.

    Args:
        grey: (H, W).

    Returns:
        (256,).
    """
    from skimage.transform import resize

    return np.asarray(resize(grey, (SIDE, SIDE), order=1, anti_aliasing=True), np.float32).ravel()


def histograms(grey: Float32) -> Float32:
    """Compute histograms of oriented gradients, nine directions in 7 x 7 cells.

    Source: Dalal and Triggs 2005 (CVPR).

    Args:
        grey: (H, W), at least 7 pixels a side.

    Returns:
        float32 (1296,): blocks of 2 x 2 cells.
    """
    from skimage.feature import hog

    cell = (grey.shape[0] // 7, grey.shape[1] // 7)
    square = grey[: 7 * cell[0], : 7 * cell[1]]
    return np.asarray(hog(square, orientations=9, pixels_per_cell=cell, cells_per_block=(2, 2)), np.float32)


FEATURES: Mapping[str, Callable[[Float32], Float32]] = {PIXELS: pixels, HOG: histograms}
