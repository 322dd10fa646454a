import numpy as np
import pytest

from mars_assets.bands import (
    HLS_BANDS,
    IMPUTATION_METHODS,
    PRITHVI_V1,
    STATISTICS,
    BandStatistics,
    impute,
    normalize,
    reflectance_to_rgb,
    scale_to_reflectance,
)
from mars_assets.errors import MarsError


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (17, 23, 3), dtype=np.uint8)


def test_scaling_by_hand() -> None:
    red, green, blue = 255, 100, 0
    scaled = scale_to_reflectance(np.array([[[red, green, blue]]], np.uint8))
    # (mean + 2 std) / 255 times the value, worked out with the published statistics.
    expected = [
        0.0,
        (1080.992780391705 + 2 * 1270.0297974547493) / 255 * 100,
        1228.5855250417867 + 2 * 1399.4802505642526,
    ]
    np.testing.assert_allclose(scaled[:, 0, 0], expected, rtol=3e-7)
    assert scaled.dtype == np.float32


def test_channels_are_reversed(rgb: np.ndarray) -> None:
    scaled = scale_to_reflectance(rgb)
    for band, channel in enumerate((2, 1, 0)):
        factor = (PRITHVI_V1.means[band] + 2 * PRITHVI_V1.stds[band]) / 255
        np.testing.assert_allclose(scaled[band], rgb[..., channel] * factor, rtol=3e-7)


def test_truncation_is_that_of_the_published_code(rgb: np.ndarray) -> None:
    truncated = scale_to_reflectance(rgb, truncate=True)
    for band, channel in enumerate((2, 1, 0)):
        factor = (PRITHVI_V1.means[band] + 2 * PRITHVI_V1.stds[band]) / 255
        assigned = np.zeros(rgb.shape[:2], np.uint16)
        assigned[:] = rgb[..., channel] * factor
        np.testing.assert_array_equal(truncated[band], assigned)


@pytest.mark.parametrize("statistics", STATISTICS.values(), ids=STATISTICS)
def test_display_inverts_scaling(rgb: np.ndarray, statistics: BandStatistics) -> None:
    np.testing.assert_array_equal(reflectance_to_rgb(scale_to_reflectance(rgb, statistics), statistics), rgb)


@pytest.mark.parametrize("statistics", STATISTICS.values(), ids=STATISTICS)
def test_imputed_bands_after_normalisation(rgb: np.ndarray, statistics: BandStatistics) -> None:
    bgr = scale_to_reflectance(rgb, statistics)
    mean, std = (np.array(v, np.float64)[:, None, None] for v in (statistics.means, statistics.stds))
    expected = {
        "means": np.zeros_like(bgr, np.float64),
        "pre_norm": (bgr - mean[3:]) / std[3:],
        "post_norm": (bgr - mean[:3]) / std[:3],
    }
    for method in IMPUTATION_METHODS:
        tensor = normalize(impute(bgr, method, statistics), statistics)
        assert tensor.shape == (len(HLS_BANDS), *rgb.shape[:2])
        assert tensor.dtype == np.float32
        np.testing.assert_allclose(tensor[:3], (bgr - mean[:3]) / std[:3], atol=3e-7)
        np.testing.assert_allclose(tensor[3:], expected[method], atol=5e-7)


def test_normalised_chip_is_the_methods_tensor_for_every_8_bit_value() -> None:
    values = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    bgr = scale_to_reflectance(values)
    assert not normalize(impute(bgr, "means"), PRITHVI_V1)[3:].any()
    pre_norm = normalize(impute(bgr, "pre_norm"), PRITHVI_V1)
    np.testing.assert_array_equal(pre_norm[3:], (bgr - PRITHVI_V1.mean[3:]) / PRITHVI_V1.std[3:])
    post_norm = normalize(impute(bgr, "post_norm"), PRITHVI_V1)
    # A stored float32 near 2500 is known to 1.2e-4, which is 1e-7 standard deviations.
    assert np.abs(post_norm[3:].astype(np.float64) - post_norm[:3]).max() < 2.5e-7


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((4, 4, 3), np.uint16), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)],
)
def test_only_8_bit_rgb_is_scaled(wrong: np.ndarray) -> None:
    with pytest.raises(MarsError, match="8-bit RGB"):
        scale_to_reflectance(wrong)


def test_unknown_method_names_the_known() -> None:
    with pytest.raises(MarsError, match="means, pre_norm, post_norm"):
        impute(np.zeros((3, 2, 2), np.float32), "mean")  # type: ignore[arg-type]


def test_statistics_are_checked() -> None:
    with pytest.raises(MarsError, match="6 means"):
        BandStatistics("short", (1.0,), (1.0,))
    with pytest.raises(MarsError, match="positive"):
        BandStatistics("flat", (0.0,) * 6, (1.0,) * 5 + (0.0,))
