"""Images that look the same are told from those that do not."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from mars_assets.labels.duplicates import SAME, near_duplicates, perceptual_hash


def _scene(seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (24, 24), dtype=np.uint8)
    return Image.fromarray(noise).resize((300, 300), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(3))


def _jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue()))


def _apart(a: Image.Image, b: Image.Image) -> int:
    return (int(perceptual_hash(a), 16) ^ int(perceptual_hash(b), 16)).bit_count()


@pytest.mark.parametrize("seed", range(5))
def test_compression_size_and_light_change_little_and_other_scenes_much(seed: int) -> None:
    scene = _scene(seed)
    for same in (
        _jpeg(scene, 30),
        scene.resize((227, 227)),
        ImageEnhance.Contrast(scene).enhance(0.7),
        scene.point(lambda v: v * 0.8),
        scene.convert("RGB"),
    ):
        assert _apart(scene, same) <= SAME
    assert _apart(scene, _scene(seed + 100)) > 10
    assert _apart(scene, scene.rotate(90)) > 10


def _table(images: list[tuple[str, str, str, str]]) -> pd.DataFrame:
    return pd.DataFrame(images, columns=["image_id", "group", "split", "phash"])


def test_pairs_of_other_groups_are_found_and_those_in_two_splits_come_first() -> None:
    one, other = perceptual_hash(_scene(1)), perceptual_hash(_scene(2))
    bit = f"{int(one, 16) ^ 1:016x}"
    flat = "0" * 16
    table = _table(
        [
            ("a", "A", "train", one),
            ("b", "B", "train", one),
            ("c", "C", "valid", bit),
            ("d", "A", "train", one),  # of a's group: another crop of its observation, or an augmented copy
            ("e", "E", "valid", other),
            ("f", "F", "train", flat),
            ("g", "G", "valid", flat),
        ]
    )
    pairs = near_duplicates(table)
    assert [(row.image_a, row.image_b, row.bits) for row in pairs.itertuples()] == [
        ("a", "c", 1),
        ("b", "c", 1),
        ("c", "d", 1),
        ("a", "b", 0),
        ("b", "d", 0),
    ]


def test_many_images_are_all_compared() -> None:
    rng = np.random.default_rng(0)
    hashes = [f"{value:016x}" for value in rng.integers(0, 2**63, 3000)]
    hashes[2999] = hashes[5]
    table = _table([(str(n), f"group {n}", "train", value) for n, value in enumerate(hashes)])
    assert near_duplicates(table)[["image_a", "image_b"]].to_numpy().tolist() == [["5", "2999"]]


def test_no_images_are_no_pairs() -> None:
    assert near_duplicates(_table([])).empty
