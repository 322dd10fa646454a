"""A tiny encoder and a tiny set of chips: bright ones have a "crater", dark ones have none."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mars_assets.bands import HLS_BANDS, impute, scale_to_reflectance
from mars_assets.classification.data import load_chip
from mars_assets.classification.recipe import ClsRecipe
from mars_assets.classification.train import FineTuning
from mars_assets.prithvi.config import PrithviConfig
from mars_assets.prithvi.model import PrithviMAE
from mars_assets.prithvi.weights import save_weights
from mars_assets.tensors.geotiff import write_chip
from mars_assets.training.compute import Compute
from mars_assets.training.memory import InMemory

SIDE = 32
CONFIG = PrithviConfig(
    variant="test", img_size=SIDE, patch_size=(1, 8, 8), embed_dim=48, depth=2, num_heads=3,
    decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2,
)  # fmt: skip


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("foundation") / "test"
    save_weights(folder, PrithviMAE(CONFIG), {"source": "test"})
    return folder


@pytest.fixture(scope="session")
def make_images(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., pd.DataFrame]:
    """Writes chips of noise, brighter by 60 of 255 where the label is 1."""

    def make(train: int = 16, valid: int = 8, side: int = SIDE, seed: int = 0) -> pd.DataFrame:
        rng = np.random.default_rng(seed)
        folder = tmp_path_factory.mktemp("chips")
        rows = []
        for number in range(train + valid):
            label = number % 2
            rgb = rng.integers(60 + 60 * label, 160 + 60 * label, (side, side, 3)).astype(np.uint8)
            path = folder / f"tile-{number:02d}.tif"
            write_chip(path, impute(scale_to_reflectance(rgb), "post_norm"), HLS_BANDS)
            split = "train" if number < train else "valid"
            observation = f"ESP_{number // 4}"
            rows.append((path.stem, split, str(path), label, observation, f"sha-{number}"))
        return pd.DataFrame(rows, columns=["image_id", "split", "chip", "label", "observation", "chip_sha"])

    return make


@pytest.fixture(scope="session")
def images(make_images: Callable[..., pd.DataFrame]) -> pd.DataFrame:
    return make_images()


@pytest.fixture
def fine_tuning(images: pd.DataFrame) -> Callable[..., FineTuning]:
    """Builds a training on the images; its inputs are their chips or, given as a tensor, features."""

    def build(recipe: ClsRecipe, precision: str = "fp32", inputs: torch.Tensor | None = None) -> FineTuning:
        if inputs is None:
            read = partial(load_chip, config=CONFIG, image_size=recipe.image_size, by=recipe.normalize)
            inputs = InMemory(read, [Path(chip) for chip in images["chip"]])
        return FineTuning(recipe, Compute("cpu", precision, 1, 1), inputs, images)

    return build


@pytest.fixture
def compute() -> Compute:
    return Compute("cpu", "fp32", 1, seed=1)
