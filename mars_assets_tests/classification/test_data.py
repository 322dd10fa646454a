"""Chips as tensors, the batches of steps, and augmentations."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from mars_assets.bands import HLS_BANDS, PRITHVI_V1, impute, normalize, scale_to_reflectance
from mars_assets.classification.data import augment, flip, grain, light, load_chip, move, shares_of
from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.prithvi.config import PrithviConfig
from mars_assets.tensors.geotiff import write_chip
from mars_assets.training.augmentation import bands_by_themselves, by_itself, oriented

CONFIG = PrithviConfig(variant="test")


def _write(path, rgb):
    write_chip(path, impute(scale_to_reflectance(rgb), "post_norm"), HLS_BANDS)
    return path


def test_a_chip_of_the_right_size_is_only_normalised(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    chip = load_chip(_write(tmp_path / "chip.tif", rgb), CONFIG, 32)
    bgr = (rgb[..., ::-1].transpose(2, 0, 1) / 255.0) * PRITHVI_V1.white
    expected = (bgr - PRITHVI_V1.mean[:3]) / PRITHVI_V1.std[:3]
    assert chip.dtype == torch.float32
    np.testing.assert_allclose(chip[:3], expected, atol=1e-5)
    np.testing.assert_allclose(chip[3:], expected, atol=1e-3)


@pytest.mark.parametrize("side", [31, 45, 64])
def test_another_size_is_resampled_antialiased_as_pillow_does(tmp_path, side):
    rgb = np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)
    chip = load_chip(_write(tmp_path / "chip.tif", rgb), CONFIG, 32)
    full = normalize(impute(scale_to_reflectance(rgb), "post_norm"), PRITHVI_V1)
    for band, source in zip(chip, full, strict=True):
        expected = Image.fromarray(source).resize((32, 32), Image.Resampling.BILINEAR)
        np.testing.assert_allclose(band, np.asarray(expected), atol=1e-4)


def test_missing_chips_and_other_bands_are_told(tmp_path):
    with pytest.raises(DamagedFileError, match=r"gone\.tif"):
        load_chip(tmp_path / "gone.tif", CONFIG, 32)
    three = PrithviConfig(variant="test", in_chans=3, bands=("BLUE", "GREEN", "RED"))
    with pytest.raises(MarsError, match=r"the weights take BLUE, GREEN, RED.*: choose weights"):
        load_chip(tmp_path / "gone.tif", three, 32)


def test_flips_only_move_pixels_and_reach_all_eight_orientations():
    torch.manual_seed(0)
    chip = torch.rand(2, 5, 5)
    turned = flip(chip.expand(200, -1, -1, -1))
    square = [torch.rot90(chip, k, (1, 2)) for k in range(4)]
    orientations = square + [one.flip(2) for one in square]
    found = {next(i for i, one in enumerate(orientations) if torch.equal(one, got)) for got in turned}
    assert found == set(range(8))


def test_turning_and_scaling_keep_a_constant_chip_and_a_central_disc():
    torch.manual_seed(0)
    constant = torch.full((8, 6, 32, 32), 0.7)
    torch.testing.assert_close(move(constant), constant)  # no dark corners
    y, x = torch.meshgrid(torch.arange(64) - 31.5, torch.arange(64) - 31.5, indexing="ij")
    disc = (x.hypot(y) < 16).float().expand(50, 1, -1, -1)
    turned = move(disc)
    area = turned.mean(dim=(1, 2, 3)) / disc[0].mean()
    # The side of the disc scales by 0.8 to 1.25, its area by the square.
    assert (area > 0.8**2 * 0.95).all()
    assert (area < 1.25**2 * 1.05).all()
    assert area.std() > 0.1
    # The centre shifts by a tenth of the side at most, as the zoom has it.
    column = (turned * x).sum((1, 2, 3)) / turned.sum((1, 2, 3))
    assert 3 < column.abs().max() < 6.4 * 1.25 * 1.42 + 0.5


def test_grain_is_the_same_for_all_bands_and_weak():
    torch.manual_seed(0)
    chips = torch.randn(1, 1, 64, 64).expand(20, 6, -1, -1)
    added = grain(chips) - chips
    torch.testing.assert_close(added, added[:, :1].expand_as(added))
    strengths = added[:, 0].std(dim=(1, 2)) / chips.std()
    assert strengths.min() >= 0
    assert 0.08 < strengths.max() < 0.17


def test_light_is_the_same_for_all_bands_and_differs_between_chips():
    torch.manual_seed(0)
    chips = torch.rand(1, 1, 8, 8).expand(2, 6, -1, -1)
    lit = light(chips)
    torch.testing.assert_close(lit, lit[:, :1].expand_as(lit))
    assert not torch.allclose(lit[0], lit[1])
    # an increasing affine map of the values
    for chip in lit[:, 0]:
        slope, offset = np.polyfit(chips[0, 0].flatten().numpy(), chip.flatten().numpy(), 1)
        assert 1 / 1.4 <= slope <= 1.4
        np.testing.assert_allclose(chip, slope * chips[0, 0] + offset, atol=1e-5)


@pytest.mark.parametrize("how", ["none", "flips", "full"])
def test_augmentation_follows_from_the_seed(how):
    chips = torch.rand(4, 6, 16, 16)
    torch.manual_seed(5)
    first = augment(chips, how)
    torch.manual_seed(5)
    assert torch.equal(first, augment(chips, how))
    assert first.shape == chips.shape
    assert torch.equal(first, chips) == (how == "none")


def test_an_image_normalised_by_itself_does_not_know_its_light(tmp_path):
    rng = np.random.default_rng(0)
    dark = rng.integers(20, 80, (32, 32, 3), dtype=np.uint8)
    loaded = []
    for name, rgb in {"dark": dark, "bright": 2 * dark + 40}.items():
        path = _write(tmp_path / f"{name}.tif", rgb)
        loaded.append(load_chip(path, CONFIG, 32, "image"))
        plain = load_chip(path, CONFIG, 32)
        deviation = plain.std(dim=(1, 2), keepdim=True)
        torch.testing.assert_close(loaded[-1], (plain - plain.mean(dim=(1, 2), keepdim=True)) / (deviation + 0.05))
        loaded[-1] *= (deviation + 0.05) / deviation
    torch.testing.assert_close(*loaded, atol=1e-4, rtol=0)
    flat = _write(tmp_path / "flat.tif", np.full((32, 32, 3), 90, np.uint8))
    assert load_chip(flat, CONFIG, 32, "image").abs().max() < 1e-3


def test_bands_by_themselves_become_what_their_image_by_itself_is():
    rng = np.random.default_rng(1)
    bands = (rng.random((6, 24, 20)) * rng.random((6, 1, 1)) * 3000).astype(np.float32)
    means, stds = rng.random(6) * 1000, rng.random(6) * 700 + 100
    mean, std = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (means, stds))
    wanted = by_itself((torch.from_numpy(bands) - mean) / std)
    found = (torch.from_numpy(bands_by_themselves(bands, means, stds)) - mean) / std
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


def test_eight_orientations_are_all_of_a_square():
    chip = torch.arange(9.0).reshape(1, 3, 3)
    turned = [oriented(chip, orientation) for orientation in range(8)]
    assert torch.equal(turned[0], chip)
    assert len({tuple(view.flatten().tolist()) for view in turned}) == 8


def test_shares_balance_classes_and_hold_large_observations_back() -> None:
    images = pd.DataFrame({"label": [1, 1, 1, 1, 1, 0, 0], "observation": ["A", "A", "A", "A", "B", "A", "C"]})
    assert shares_of(images, "images") is None
    classes = shares_of(images, "classes")
    assert classes is not None
    np.testing.assert_allclose(classes, [0.2] * 5 + [0.5] * 2)
    observations = shares_of(images, "observations")
    assert observations is not None
    # Of the craters observation A has 4, root 2, and B has 1, root 1: two thirds to one.
    np.testing.assert_allclose(observations, [1 / 6] * 4 + [1 / 3] + [0.5] * 2)
