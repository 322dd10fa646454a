from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mars_assets.storage.png import png_with_text, text_in_png


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pixels_and_text_come_back(tmp_path: Path, dtype: type) -> None:
    pixels = np.arange(256, dtype=dtype).reshape(8, 32) * (1 if dtype is np.uint8 else 257)
    path = tmp_path / "mask.png"
    path.write_bytes(png_with_text(pixels, "made from", "0123abcd"))
    np.testing.assert_array_equal(np.asarray(Image.open(path)), pixels)
    assert text_in_png(path, "made from") == "0123abcd"
    assert text_in_png(path, "another name") is None


def test_what_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG")
    assert text_in_png(tmp_path / "damaged.png", "made from") is None
    assert text_in_png(tmp_path / "missing.png", "made from") is None
