"""The six HLS bands that Prithvi takes.

They are computed from 8-bit RGB or from calibrated colour.

The formulas for RGB are those of Patel et al. 2024 (and, for ``means``, Blumenstiel et al. 2024). They work on NumPy
arrays and torch tensors alike. All arithmetic is float32 unless ``truncate`` selects the integer truncation of the
published code. Images are channel-first; "B, G, R" is the order of the first three HLS bands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from mars_assets.errors import MarsError

if TYPE_CHECKING:
    from torch import Tensor

HLS_BANDS = ("BLUE", "GREEN", "RED", "NIR_NARROW", "SWIR_1", "SWIR_2")
"""Prithvi's bands in order: HLS B02, B03, B04, B05 (Landsat) or B8A (Sentinel-2), B06 / B11, B07 / B12."""

VALID = (-2000.0, 16_000.0)
"""The valid range of HLS's reflectance, -0.2 to 1.6, in its units. Its fill value is -9999."""
WANTED = "HLS surface reflectance x 10000 (land about 100 to 6000, snow and clouds up to 16000)"

ImputationMethod = Literal["means", "pre_norm", "post_norm"]
IMPUTATION_METHODS: tuple[ImputationMethod, ...] = get_args(ImputationMethod)
EVALUATED: ImputationMethod = "post_norm"
"""The imputation that reconstructs Mars best: models use it, and automation keeps it up to date with the labels."""
SPECTRAL = "spectral"
"""The method for calibrated products, which have three measured bands: :func:`impute_spectral`."""

CALIBRATED_BANDS = ("GREEN", "RED", "NIR_NARROW")
"""The HLS bands that correspond to HiRISE's BLUE-GREEN, RED and NEAR-INFRARED."""

HIRISE_NM = {"BLUE-GREEN": 500.0, "RED": 700.0, "NEAR-INFRARED": 900.0}
"""Central wavelengths of HiRISE's filters in nanometres, as in the products' labels."""

_HLS_BLUE_NM = 482.0
_REFLECTANCE_UNITS = 10_000.0

Float32 = npt.NDArray[np.float32]
Pixels = TypeVar("Pixels", Float32, "Tensor")
"""An image or a batch of images: an array, or a tensor on any device."""


@dataclass(frozen=True)
class BandStatistics:
    """Normalisation statistics of bands, in reflectance units.

    These are HLS's: reflectance x 10000.

    Args:
        name: name in provenance, e.g. ``v1``.
        means, stds: one value per band, in ``HLS_BANDS`` order.
    """

    name: str
    means: tuple[float, ...]
    stds: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.means) != len(HLS_BANDS) or len(self.stds) != len(HLS_BANDS):
            raise MarsError(
                f"statistics {self.name!r} need {len(HLS_BANDS)} means and stds, one for each of {HLS_BANDS}"
            )
        if not (np.isfinite(self.means).all() and np.isfinite(self.stds).all() and min(self.stds) > 0):
            raise MarsError(f"statistics {self.name!r}: means must be finite and stds positive")

    @classmethod
    def from_dict(cls, stated: Mapping[str, Any]) -> BandStatistics:
        """Build statistics from the JSON fields ``name``, ``means`` and ``stds``."""
        return cls(str(stated["name"]), tuple(stated["means"]), tuple(stated["stds"]))

    @property
    def mean(self) -> Float32:
        """Means, float32, shape (6, 1, 1)."""
        return np.asarray(self.means, np.float32)[:, None, None]

    @property
    def std(self) -> Float32:
        """Standard deviations, float32, shape (6, 1, 1)."""
        return np.asarray(self.stds, np.float32)[:, None, None]

    @property
    def white(self) -> Float32:
        """The reflectance of 8-bit 255, for B, G, R.

        It is ``mean + 2 * std``, float32 of shape (3, 1, 1).
        """
        values = [mean + 2 * std for mean, std in zip(self.means[:3], self.stds[:3], strict=True)]
        return np.asarray(values, np.float32)[:, None, None]


PRITHVI_V1 = BandStatistics(
    "v1",
    (
        775.2290211032589,
        1080.992780391705,
        1228.5855250417867,
        2497.2022620507532,
        2204.2139147975554,
        1610.8324823273745,
    ),
    (
        1281.526139861424,
        1270.0297974547493,
        1399.4802505642526,
        1368.3446143747644,
        1291.6764008585435,
        1154.505683480695,
    ),
)
"""Published with Prithvi-EO-1.0-100M."""

PRITHVI_V2 = BandStatistics(
    "v2",
    (1087.0, 1342.0, 1433.0, 2734.0, 1958.0, 1363.0),
    (2248.0, 2179.0, 2178.0, 1850.0, 1242.0, 1049.0),
)
"""Published with Prithvi-EO-2.0."""

STATISTICS = {statistics.name: statistics for statistics in (PRITHVI_V1, PRITHVI_V2)}


def scale_to_reflectance(
    rgb: npt.NDArray[np.uint8], statistics: BandStatistics = PRITHVI_V1, truncate: bool = False
) -> Float32:
    """Scale 8-bit RGB to B, G, R in HLS reflectance units.

    Channel i is multiplied by ``(mean_i + 2 * std_i) / 255``.

    Args:
        rgb: uint8, shape (H, W, 3), in R, G, B order as in image files.
        statistics: statistics of the weights that the chip is for.
        truncate: drop the fraction, as the published code did by computing in uint16.

    Returns:
        float32, shape (3, H, W), in B, G, R order.

    Raises:
        MarsError: the array is not 8-bit RGB.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise MarsError(f"an 8-bit RGB image has dtype uint8 and shape (H, W, 3); this one is {rgb.dtype} {rgb.shape}")
    scaled = _scaled(rgb[..., ::-1].transpose(2, 0, 1).astype(np.float32), statistics)
    return np.floor(scaled) if truncate else scaled


def reflectance_to_rgb(bgr: Float32, statistics: BandStatistics = PRITHVI_V1) -> npt.NDArray[np.uint8]:
    """Invert :func:`scale_to_reflectance` for display.

    Args:
        bgr: shape (3 or more, H, W), B, G, R first.
        statistics: statistics that it was scaled with.

    Returns:
        uint8, shape (H, W, 3), in R, G, B order.
    """
    rgb: Float32 = bgr[2::-1] / statistics.white[::-1] * 255
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8).transpose(1, 2, 0)


def normalize(chip: Pixels, statistics: BandStatistics, bands: slice = slice(None)) -> Pixels:
    """Normalise each band to ``(chip - mean) / std``, the model's input.

    Args:
        chip: float, shape (..., C, H, W), reflectance units.
        statistics: statistics of the weights.
        bands: the chip's C bands, as a slice of ``HLS_BANDS``.
    """
    return (chip - _like(chip, statistics.mean[bands])) / _like(chip, statistics.std[bands])


def denormalize(chip: Pixels, statistics: BandStatistics, bands: slice = slice(None)) -> Pixels:
    """Invert :func:`normalize`."""
    return chip * _like(chip, statistics.std[bands]) + _like(chip, statistics.mean[bands])


def impute(bgr: Float32, method: ImputationMethod, statistics: BandStatistics = PRITHVI_V1) -> Float32:
    """Fill NIR_NARROW, SWIR_1 and SWIR_2 from B, G, R.

    ``means``: the means of these bands, which become 0 after normalisation.
    ``pre_norm``: B, G, R repeated in reflectance units.
    ``post_norm``: B, G, R repeated after normalisation: ``(x_j - mean_j) / std_j * std_{j+3} + mean_{j+3}``.

    Args:
        bgr: float32, shape (3, H, W), reflectance units.
        method: one of ``IMPUTATION_METHODS``.
        statistics: the statistics that ``bgr`` was scaled with and that normalise the model's input.

    Returns:
        float32, shape (6, H, W), reflectance units, bands as ``HLS_BANDS``. Normalised with ``statistics`` it equals
        :func:`model_input`: exactly for ``means`` and ``pre_norm``, and for ``post_norm`` to within the float32
        resolution of the stored reflectance.

    Raises:
        MarsError: an unknown method, or an array of the wrong shape or type.
    """
    if bgr.dtype != np.float32 or bgr.ndim != 3 or bgr.shape[0] != 3:
        raise MarsError(f"B, G, R reflectance must be float32 of shape (3, H, W), not {bgr.dtype} {bgr.shape}")
    if method == "pre_norm":
        return np.concatenate([bgr, bgr])
    # In double precision, so that only the stored value is rounded.
    double: Any = bgr.astype(np.float64)
    rest = denormalize(_normalized_rest(double, method, statistics), statistics, slice(3, 6))
    return np.concatenate([bgr, rest.astype(np.float32)])


def model_input(bgr: Pixels, method: ImputationMethod, statistics: BandStatistics) -> Pixels:
    """Scale, impute and normalise 8-bit values to the model's input.

    Args:
        bgr: float32, shape (..., 3, H, W), B, G, R, from 0 to 255, not necessarily whole numbers.
        method: one of ``IMPUTATION_METHODS``.
        statistics: statistics of the weights.

    Returns:
        float32, shape (..., 6, H, W), bands as ``HLS_BANDS``.
    """
    scaled = _scaled(bgr, statistics)
    parts = [normalize(scaled, statistics, slice(3)), _normalized_rest(scaled, method, statistics)]
    if isinstance(bgr, np.ndarray):
        return np.concatenate(parts, axis=-3)
    import torch

    return torch.cat(parts, dim=-3)


def _scaled(bgr: Pixels, statistics: BandStatistics) -> Pixels:
    """Scale B, G, R, float, shape (..., 3, H, W), from 0..255 to reflectance units."""
    return bgr * _like(bgr, statistics.white / np.float32(255))


def _normalized_rest(bgr: Pixels, method: ImputationMethod, statistics: BandStatistics) -> Pixels:
    """Compute the normalised NIR_NARROW, SWIR_1 and SWIR_2 from B, G, R.

    These are in reflectance units.
    """
    match method:
        case "means":
            return bgr * 0
        case "pre_norm":
            return normalize(bgr, statistics, slice(3, 6))
        case "post_norm":
            return normalize(bgr, statistics, slice(3))
    raise MarsError(f"unknown imputation method {method!r}: choose from {', '.join(IMPUTATION_METHODS)}")


def _like(pixels: Pixels, constants: Float32) -> Pixels:
    """Convert constants to match the pixels.

    The result is an array, or a tensor of the same type and device.
    """
    return constants if isinstance(pixels, np.ndarray) else pixels.new_tensor(constants)


def calibrated_reflectance(
    dn: npt.NDArray[np.integer], scaling_factor: float, offset: float, incidence_angle: float
) -> Float32:
    """Convert a COLOR product's DN to HLS reflectance units.

    Reflectance is ``(DN * scaling_factor + offset) / cos(incidence_angle) * 10000``. ``DN * scaling_factor + offset``
    is I/F, the radiance relative to a white surface facing the sun. Dividing by the cosine gives the reflectance of a
    level Lambertian surface, which is the surface reflectance of HLS. Slopes and the atmosphere are not corrected for.

    Args:
        dn: shape (3, H, W), NEAR-INFRARED, RED, BLUE-GREEN as in the product, without special values.
        scaling_factor: scaling factor in the label.
        offset: offset in the label.
        incidence_angle: angle of the sun from the vertical, degrees.

    Returns:
        float32, shape (3, H, W), bands as ``CALIBRATED_BANDS``, at least 0.

    Raises:
        MarsError: the shape is wrong, or the sun is so low that the cosine is meaningless.
    """
    if dn.ndim != 3 or dn.shape[0] != 3:
        raise MarsError(f"a COLOR product's DN must have shape (3, H, W), not {dn.shape}")
    if not 0 <= incidence_angle < 89:
        raise MarsError(f"an incidence angle of {incidence_angle} degrees is not between 0 and 89: check the label")
    reflectance = (dn[::-1] * scaling_factor + offset) / np.cos(np.radians(incidence_angle)) * _REFLECTANCE_UNITS
    return np.asarray(np.maximum(reflectance, 0), np.float32)


def impute_spectral(calibrated: Float32) -> Float32:
    """Extrapolate six bands from the three that are measured.

    BLUE is extrapolated to 482 nm along the line through BLUE-GREEN (500 nm) and RED (700 nm), since Mars's spectra
    rise steadily through the visible range. SWIR_1 and SWIR_2 equal NIR_NARROW, since the spectra change little beyond
    0.9 micrometres. None of these three is a measurement.

    Args:
        calibrated: float32, shape (3, H, W), bands as ``CALIBRATED_BANDS``.

    Returns:
        float32, shape (6, H, W), bands as ``HLS_BANDS``, at least 0.

    Raises:
        MarsError: an array of the wrong shape or type.
    """
    if calibrated.dtype != np.float32 or calibrated.ndim != 3 or calibrated.shape[0] != 3:
        raise MarsError(
            f"calibrated reflectance must be float32 of shape (3, H, W), not {calibrated.dtype} {calibrated.shape}"
        )
    green, red, nir = calibrated
    step = (HIRISE_NM["BLUE-GREEN"] - _HLS_BLUE_NM) / (HIRISE_NM["RED"] - HIRISE_NM["BLUE-GREEN"])
    blue = np.maximum(green - np.float32(step) * (red - green), 0)
    return np.stack([blue, green, red, nir, nir, nir]).astype(np.float32)
