from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mars_assets.bands import (
    HLS_BANDS,
    IMPUTATION_METHODS,
    PRITHVI_V1,
    STATISTICS,
    BandStatistics,
    ImputationMethod,
    calibrated_reflectance,
    denormalize,
    impute,
    impute_spectral,
    model_input,
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


@pytest.mark.parametrize("method", IMPUTATION_METHODS)
@pytest.mark.parametrize("statistics", STATISTICS.values(), ids=STATISTICS)
def test_the_models_input_is_the_same_for_chips_arrays_and_tensors(
    rgb: np.ndarray, method: ImputationMethod, statistics: BandStatistics
) -> None:
    chip = normalize(impute(scale_to_reflectance(rgb, statistics), method, statistics), statistics)
    bgr = rgb[..., ::-1].transpose(2, 0, 1).astype(np.float32)
    array = model_input(bgr, method, statistics)
    np.testing.assert_allclose(array, chip, rtol=0, atol=0 if method != "post_norm" else 5e-7)
    batch = model_input(torch.from_numpy(np.stack([bgr, bgr])), method, statistics)
    assert batch.dtype == torch.float32
    np.testing.assert_array_equal(batch.numpy(), np.stack([array, array]))


def test_the_models_input_takes_values_between_whole_numbers() -> None:
    bgr = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(1)) * 255
    mean, std, white = (torch.from_numpy(v) for v in (PRITHVI_V1.mean, PRITHVI_V1.std, PRITHVI_V1.white))
    visible = (bgr * (white / 255) - mean[:3]) / std[:3]
    assert torch.equal(model_input(bgr, "post_norm", PRITHVI_V1), torch.cat([visible, visible], dim=1))


def test_denormalising_inverts_normalising(rgb: np.ndarray) -> None:
    chip = impute(scale_to_reflectance(rgb), "post_norm")
    for pixels in (chip, torch.from_numpy(chip)):
        again = denormalize(normalize(pixels, PRITHVI_V1), PRITHVI_V1)
        np.testing.assert_allclose(np.asarray(again), chip, atol=1e-3)


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


def test_calibrated_reflectance_by_hand() -> None:
    dn = np.array([[[500]], [[400]], [[300]]], np.uint16)  # NIR, RED, BLUE-GREEN
    found = calibrated_reflectance(dn, 2e-4, 0.03, 60.0)
    assert found.dtype == np.float32
    # I/F 0.13, 0.11, 0.09, on level ground twice that.
    np.testing.assert_allclose(found.ravel(), [1800, 2200, 2600], rtol=1e-6)
    assert calibrated_reflectance(dn, 2e-4, -0.5, 0.0).min() == 0


@pytest.mark.parametrize("incidence", [89.0, 95.0, -1.0, float("nan")])
def test_no_reflectance_where_the_sun_does_not_shine(incidence: float) -> None:
    with pytest.raises(MarsError, match="incidence"):
        calibrated_reflectance(np.zeros((3, 1, 1), np.uint16), 1, 0, incidence)


def test_calibration_of_real_products_lies_in_what_mars_reflects(shared: Path) -> None:
    """The darkest and brightest valid DN of 2000 real COLOR products: no band may leave what HLS stores."""
    table = pd.read_csv(shared / "data" / "hirise" / "color_products.csv")
    lit = table[table["INCIDENCE_ANGLE"] < 80]
    assert len(lit) > 1500
    for row in lit.to_dict("records"):
        dn = np.array([[[3, 512, 1021]]] * 3, np.uint16)
        chip = calibrated_reflectance(dn, row["SCALING_FACTOR"], row["OFFSET"], row["INCIDENCE_ANGLE"])
        assert 0 <= chip.min() < chip.max() < 20_000, row["FILE_NAME"]


def test_spectral_bands_by_hand() -> None:
    green, red, nir = np.float32(1000), np.float32(2000), np.float32(2400)
    chip = impute_spectral(np.array([green, red, nir], np.float32)[:, None, None])
    # The line from 500 to 700 nm rises by 5 a nanometre; 482 nm is 18 before.
    np.testing.assert_allclose(chip.ravel(), [910, 1000, 2000, 2400, 2400, 2400], rtol=1e-6)
    dark = impute_spectral(np.array([10, 2000, 2400], np.float32)[:, None, None])
    assert dark[0] == 0
    with pytest.raises(MarsError, match="float32"):
        impute_spectral(np.zeros((3, 2, 2)))
