"""Image files are read in one place, by one rule for each kind of pixel."""

import ast
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mars_assets
from mars_assets.errors import DamagedFileError
from mars_assets.images import (
    encode_png,
    image_size,
    pictures_below,
    png_text,
    read_grey_or_rgb,
    read_label_image,
    read_rgb,
    read_stored,
)
from mars_assets.labels.duplicates import perceptual_hash

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 9, 3), np.uint8)
GREY = RNG.integers(0, 256, (6, 9), np.uint8)


def _encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_image_files_are_opened_in_one_module() -> None:
    package = Path(mars_assets.__file__).parent
    opened = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Attribute) and node.attr == "open" and ast.unparse(node.value).endswith("Image"))
        or (isinstance(node, ast.ImportFrom) and node.module == "PIL.Image" and "open" in {a.name for a in node.names})
        or (isinstance(node, ast.Attribute) and node.attr in ("imread", "imdecode"))
    }
    assert opened == {"images.py"}


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_every_mode_of_8_bits_is_read_as_rgb_or_grey_without_its_transparency(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(RGB).convert(mode)
    path = tmp_path / "a"
    path.write_bytes(_encoded(image, "JPEG" if mode == "CMYK" else "PNG"))
    with Image.open(path) as stored:
        expected, hashed = np.asarray(stored.convert("RGB")), perceptual_hash(stored)
    np.testing.assert_array_equal(read_rgb(path), expected)
    np.testing.assert_array_equal(read_rgb(path.read_bytes(), name="a"), expected)
    # How the hashes of a table written before were computed.
    assert perceptual_hash(Image.fromarray(read_rgb(path))) == hashed
    grey = read_grey_or_rgb(path)
    assert grey.shape == (6, 9, 1 if mode in ("1", "L") else 3)
    np.testing.assert_array_equal(np.broadcast_to(grey, expected.shape), expected)


def test_grey_of_16_bits_is_refused_scaled_or_stored(tmp_path: Path) -> None:
    deep = np.array([[0, 255, 256, 65535]], np.uint16)
    path = tmp_path / "deep.png"
    path.write_bytes(encode_png(deep, "key", "text"))
    with pytest.raises(DamagedFileError, match=r"deep\.png has more than 8 bits .*: stretch it to 8 bits, or wait"):
        read_rgb(path, "wait")
    with pytest.raises(DamagedFileError, match="more than 8 bits"):
        read_grey_or_rgb(path)
    assert read_grey_or_rgb(path, sixteen_bits="scale").tolist() == [[[0], [0], [1], [255]]]
    np.testing.assert_array_equal(read_stored(path, ""), deep)
    np.testing.assert_array_equal(read_label_image(path), deep)
    assert read_stored(path, "").dtype == np.uint16


def test_stored_numbers_of_a_palette_are_its_indices() -> None:
    image = Image.fromarray(np.array([[0, 1, 1]], np.uint8))
    image.putpalette([9, 9, 9, 200, 0, 0])
    content = _encoded(image)
    assert read_stored(content, "", "a").tolist() == [[0, 1, 1]]
    assert read_rgb(content, name="a").tolist() == [[[9, 9, 9], [200, 0, 0], [200, 0, 0]]]


def test_an_orientation_in_exif_is_not_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = _encoded(Image.fromarray(RGB), exif=exif)
    np.testing.assert_array_equal(read_rgb(content, name="a"), RGB)
    assert image_size(content, "", "a") == (6, 9)


def test_the_text_of_a_png(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode_png(GREY, "label", "sha"))
    assert png_text(path, "label") == "sha"
    assert png_text(path, "other") is None
    assert png_text(tmp_path / "none.png", "label") is None
    path.write_bytes(b"GIF89a")
    assert png_text(path, "label") is None


def test_what_is_damaged_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = _encoded(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)))
    path = tmp_path / "a.png"
    half = content[: len(content) // 2]
    for damaged, said in ((b"GIF89a", "is not a JPEG or PNG file"), (half, "cannot be decoded")):
        path.write_bytes(damaged)
        with pytest.raises(DamagedFileError, match=rf"a\.png {said}.*: fetch it again"):
            read_rgb(path, "fetch it again")
        with pytest.raises(DamagedFileError, match=rf"^entry b {said}"):
            read_stored(damaged, "export it again", "entry b")
    assert image_size(path, "") == (64, 64)
    with pytest.raises(DamagedFileError, match="is not a JPEG file: "):
        read_stored(content, "", "a", formats=("JPEG",))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DamagedFileError, match="is too large"):
        image_size(path, "")


def test_pictures_are_found_in_subfolders_and_hidden_ones_are_not(tmp_path: Path) -> None:
    for name in ("b.PNG", "a/c.jpeg", ".x.png", "a/__MACOSX/d.png", "e.tif", "f.png/g.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [path.relative_to(tmp_path).as_posix() for path in pictures_below(tmp_path)] == [
        *("a/c.jpeg", "b.PNG", "f.png/g.jpg")
    ]
