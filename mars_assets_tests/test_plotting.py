"""Figures: written whole, and small enough for the event log."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mars_assets.plotting import new_figure, thumbnail_data_uri, to_png


def _decode(uri: str) -> Image.Image:
    prefix, _, content = uri.partition(",")
    assert prefix in ("data:image/png;base64", "data:image/jpeg;base64")
    return Image.open(io.BytesIO(base64.b64decode(content, validate=True)))


@pytest.mark.slow
@pytest.mark.parametrize("limit", [28_000, 4_000])
@pytest.mark.parametrize("size", [(40, 30), (300, 900), (700, 250)])
def test_the_least_compressible_picture_fits(size: tuple[int, int], limit: int) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    uri = thumbnail_data_uri(noise, limit)
    assert len(uri) <= limit
    image = _decode(uri)
    assert image.width / image.height == pytest.approx(size[1] / size[0], rel=0.05)


def test_a_photograph_is_wider_than_a_png_would_be() -> None:
    y, x = np.mgrid[:600, :900]
    rng = np.random.default_rng(0)
    terrain = 128 + 50 * np.sin(x / 40) * np.cos(y / 60) + rng.normal(0, 6, x.shape)
    picture = np.repeat(terrain.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
    uri = thumbnail_data_uri(picture)
    assert uri.startswith("data:image/jpeg")
    assert len(uri) <= 28_000
    assert _decode(uri).width >= 420


def test_a_flat_picture_keeps_its_size_and_colours() -> None:
    picture = np.zeros((50, 80, 3), np.uint8)
    picture[:, 40:] = (200, 90, 10)
    image = _decode(thumbnail_data_uri(picture))
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), picture)


def test_nothing_fits_is_said() -> None:
    with pytest.raises(ValueError, match="fits into 100 bytes"):
        thumbnail_data_uri(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8), 100)


def test_figure_and_picture_to_png(tmp_path: Path) -> None:
    figure, axes = new_figure(4, 2, columns=2)
    assert axes.shape == (1, 2)
    axes[0, 0].plot([0, 1], [1, 0])
    to_png(figure, tmp_path / "new" / "figure.png", dpi=50)
    assert Image.open(tmp_path / "new" / "figure.png").size == (200, 100)
    mask = np.eye(16, dtype=np.uint8) * 255
    to_png(mask, tmp_path / "mask.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "mask.png"))[..., 0], mask)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["figure.png", "mask.png", "new"]
    assert thumbnail_data_uri(figure).startswith("data:image/png;base64,")
