"""Quality of the pixels of a HiRISE image: no data, missing bands, saturation.

The label of a product gives its special values; without a label they are inferred. In a lossless file, 0 is no data; in
a JPEG, whose compression smears exact values, only dark areas of at least a JPEG block are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mars_assets.imagery.pds_label import ProductLabel
from mars_assets.imagery.scene import Pixels, SceneInfo

GOOD, NO_DATA, BAND_MISSING, SATURATED = range(4)
REASONS = {NO_DATA: "no data", BAND_MISSING: "band missing", SATURATED: "saturated"}

Quality = npt.NDArray[np.uint8]

_BLOCK = 8  # width of a JPEG block
_BLACK = 4  # of 255: JPEG turns 0 next to brighter pixels into up to this value
_BRIGHT_PIXEL, _MISSING_PIXEL = 48, 0.1  # a band is missing below this fraction of the brightest, if that is so bright
# Noise averages out over a row, so darker and less pure rows can be recognised. In real scenes the mean of the darkest
# band is at least 0.4 times that of the brightest.
_BRIGHT_ROW, _MISSING_ROW = 16, 0.15


@dataclass(frozen=True)
class QualityRules:
    """The rules that distinguish good pixels from others in a product.

    Args:
        bits: significant bits per sample.
        lossy: whether the image is a JPEG.
        null: the DN for no data.
        saturated: the DN for values out of range.
    """

    bits: int
    lossy: bool
    null: int
    saturated: tuple[int, ...]

    @classmethod
    def of(cls, info: SceneInfo, label: ProductLabel | None) -> QualityRules:
        """Derive the rules of a product, from its label if it has one."""
        if label is None:
            return cls(info.bits, info.lossy, 0, (2**info.bits - 1,))
        return cls(info.bits, info.lossy, label.core_null, label.low_saturation + label.high_saturation)


def assess(pixels: Pixels, rules: QualityRules) -> Quality:
    """Classify every pixel: ``GOOD``, ``NO_DATA``, ``BAND_MISSING`` or ``SATURATED``.

    Args:
        pixels: shape (rows, columns, bands). A JPEG needs whole rows, since the test includes their means.
        rules: the rules of the product.

    Returns:
        uint8, shape (rows, columns); a pixel is saturated if any of its bands is.
    """
    quality = np.full(pixels.shape[:2], GOOD, np.uint8)
    special = np.asarray([*rules.saturated, *([] if rules.lossy else [rules.null])])
    middle = 2 ** (rules.bits - 1)
    low, high = int(special[special < middle].max(initial=-1)), int(special[special >= middle].min(initial=1 << 16))
    if pixels.min() <= low or pixels.max() >= high:
        # These comparisons are cheap; most rows contain no special value.
        rows = ((pixels <= low) | (pixels >= high)).any(axis=(1, 2))
        quality[rows] = _by_special_values(pixels[rows], rules)
    if rules.lossy:
        brightest, darkest = pixels.max(axis=2), pixels.min(axis=2)
        quality[_areas((brightest >= _BRIGHT_PIXEL) & (darkest < _MISSING_PIXEL * brightest))] = BAND_MISSING
        quality[_areas(brightest <= _BLACK)] = NO_DATA
        quality[_rows_without_a_band(pixels)] = BAND_MISSING
    return quality


def _by_special_values(pixels: Pixels, rules: QualityRules) -> Quality:
    null = np.zeros(pixels.shape, bool) if rules.lossy else pixels == rules.null
    quality = np.full(pixels.shape[:2], GOOD, np.uint8)
    if rules.saturated:  # may be empty, which NumPy's table lookup rejects
        quality[np.isin(pixels, rules.saturated, kind="table").any(axis=2)] = SATURATED
    quality[null.any(axis=2)] = BAND_MISSING
    quality[null.all(axis=2)] = NO_DATA
    return quality


def _areas(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Keep the parts of a mask that are at least a JPEG block wide.

    A single dark pixel is a shadow.
    """
    from scipy.ndimage import binary_opening

    return np.asarray(binary_opening(mask, np.ones((_BLOCK, _BLOCK), bool)))


def _rows_without_a_band(pixels: Pixels) -> npt.NDArray[np.bool_]:
    means = pixels.mean(axis=1, dtype=np.float32)
    brightest = means.max(axis=1)
    missing: npt.NDArray[np.bool_] = (brightest >= _BRIGHT_ROW) & (means.min(axis=1) < _MISSING_ROW * brightest)
    # Downscaling to a browse product has blended the last missing row with the first good one.
    missing[1:] |= missing[:-1]
    missing[:-1] |= missing[1:]
    return missing
