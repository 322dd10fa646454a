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


@pytest.mark.parametrize("seed", range(5))
def test_the_pairs_are_those_that_comparing_all_with_all_finds(seed: int) -> None:
    """Of hashes around a few, which differ in up to six bits wherever they lie."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, 40, dtype=np.uint64)[rng.integers(0, 40, 400)]
    for _ in range(3):
        hashes ^= np.where(rng.random(400) < 0.7, np.uint64(1) << rng.integers(0, 64, 400, dtype=np.uint64), 0).astype(
            np.uint64
        )
    groups = rng.integers(0, 150, 400)
    table = _table(
        [
            (str(n), str(g), ("train", "valid")[g % 2], f"{h:016x}")
            for n, (g, h) in enumerate(zip(groups, hashes, strict=True))
        ]
    )
    expected = [
        (str(a), str(b), bits)
        for a in range(400)
        for b in range(a + 1, 400)
        if (bits := (int(hashes[a]) ^ int(hashes[b])).bit_count()) <= SAME and groups[a] != groups[b]
    ]
    found = near_duplicates(table)
    assert {bits for *_, bits in expected} == set(range(SAME + 1))
    assert sorted(expected) == sorted((row.image_a, row.image_b, row.bits) for row in found.itertuples())
    straddles = (found["split_a"] != found["split_b"]).tolist()
    assert straddles == sorted(straddles, reverse=True)


def test_the_work_grows_with_the_images_and_not_with_their_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """All with all would be two hundred million."""
    compared = []
    count = np.bitwise_count
    monkeypatch.setattr(np, "bitwise_count", lambda values: compared.append(np.size(values)) or count(values))
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 20_000, dtype=np.uint64)
    near_duplicates(_table([(str(n), str(n), "train", f"{value:016x}") for n, value in enumerate(hashes)]))
    assert sum(compared) < 10 * len(hashes)


def test_no_images_are_no_pairs() -> None:
    assert near_duplicates(_table([])).empty
