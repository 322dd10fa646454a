"""Fixtures of all tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import settings
from PIL import Image

from mars_assets.bands import HLS_BANDS, impute, scale_to_reflectance
from mars_assets.lake import Lake
from mars_assets.prithvi.config import PrithviConfig
from mars_assets.tensors.geotiff import write_chip
from mars_assets_tests.postgres import Database, Postgres, installed, serve_postgres

settings.register_profile("long", max_examples=30_000)  # --hypothesis-profile=long


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files that start processes first: they take minutes, and would end long after all others."""
    early = {item.path for item in items if any(item.iter_markers("process")) or any(item.iter_markers("ui"))}
    items.sort(key=lambda item: item.path not in early)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real Mars data and numerical references, found by MARS_SHARED. In CI its absence is a failure, not a skip."""
    path = Path(os.environ.get("MARS_SHARED", "../shared")).resolve()
    if not (path / "parity" / "reference.npz").exists():
        message = f"no reference data at {path}: set MARS_SHARED"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path


@pytest.fixture(scope="session")
def postgres_programs() -> Path:
    """The folder of Postgres' programs. In CI their absence is a failure, not a skip."""
    programs = installed()
    if programs is None:
        message = "there is no initdb: install Postgres (Debian: postgresql)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return programs


@pytest.fixture(scope="session")
def postgres(postgres_programs: Path) -> Iterator[Postgres]:
    """A real server."""
    with serve_postgres(postgres_programs) as server:
        yield server


@pytest.fixture
def database(postgres: Postgres) -> Database:
    """An empty database, as a lab's administrator hands it out."""
    return postgres.database()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.at(tmp_path / "lake")


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
