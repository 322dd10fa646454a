"""A micro encoder and a handful of images with square "craters"."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mars_assets.bands import HLS_BANDS, impute, scale_to_reflectance
from mars_assets.chips import write_chip
from mars_assets.compute import Compute
from mars_assets.prithvi.config import PrithviConfig
from mars_assets.segmentation.recipe import SegRecipe


@pytest.fixture(scope="session")
def micro() -> PrithviConfig:
    return PrithviConfig(
        variant="micro",
        img_size=32,
        embed_dim=16,
        depth=4,
        num_heads=2,
        decoder_embed_dim=16,
        decoder_depth=1,
        decoder_num_heads=2,
    )


@pytest.fixture(scope="session")
def micro_weights(micro: PrithviConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    from mars_assets.prithvi.model import PrithviMAE
    from mars_assets.prithvi.weights import save_weights

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("foundation") / "micro"
    save_weights(folder, PrithviMAE(micro), {})
    return folder


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Ten images of 64 x 48 pixels: bright squares on dark noise, a corner of ignored pixels."""
    folder = tmp_path_factory.mktemp("squares")
    rng = np.random.default_rng(3)
    rows = []
    for number in range(10):
        image = rng.integers(40, 80, (64, 48, 3), dtype=np.uint8)
        mask = np.zeros((64, 48), np.uint8)
        for _ in range(2):
            top, left = rng.integers(0, [48, 32])
            image[top : top + 14, left : left + 14] += 120
            mask[top : top + 14, left : left + 14] = 1
            image = np.minimum(image, 200)
        mask[:4, :4] = 255
        name = f"image_{number}"
        write_chip(folder / f"{name}.tif", impute(scale_to_reflectance(image), "post_norm"), HLS_BANDS)
        Image.fromarray(mask).save(folder / f"{name}.png")
        rows.append(
            {
                "image_id": name,
                "split": "train" if number < 6 else "valid",
                "chip": folder / f"{name}.tif",
                "mask": folder / f"{name}.png",
                "chip_sha": f"sha-{number}",
                "observation": f"ESP_{number % 4}",
            }
        )
    return pd.DataFrame(rows)


@pytest.fixture
def micro_recipe() -> SegRecipe:
    return SegRecipe(
        neck_channels=8,
        detail_channels=4,
        head_channels=8,
        layers=2,
        crop_size=32,
        window=32,
        stride=16,
        batch_size=2,
        iterations=6,
        evaluate_every=2,
        warmup_iterations=2,
        lr=1e-2,
    )


@pytest.fixture
def cpu() -> Compute:
    return Compute("cpu", "fp32", 1, seed=5)


@pytest.fixture
def ready() -> Iterator[None]:
    """mmseg made ready, and the same random numbers in every test."""
    import torch

    from mars_assets.segmentation.mmseg import mmseg_ready

    torch.manual_seed(0)
    np.random.seed(0)
    with mmseg_ready():
        yield
