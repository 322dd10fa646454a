"""A recipe for a micro encoder, and mmseg made ready."""

from collections.abc import Iterator

import numpy as np
import pytest

from mars_assets.segmentation.recipe import SegRecipe
from mars_assets.training.compute import Compute


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
        steps=6,
        evaluate_every=2,
        warmup_steps=2,
        lr=1e-2,
    )


@pytest.fixture
def cpu() -> Compute:
    return Compute("cpu", "fp32", 1, seed=5)


@pytest.fixture
def ready() -> Iterator[None]:
    """mmseg made ready, and the same random numbers in every test."""
    import torch

    from mars_assets.segmentation.mmseg_setup import mmseg_ready

    torch.manual_seed(0)
    np.random.seed(0)
    with mmseg_ready():
        yield
