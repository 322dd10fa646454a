import numpy as np
import pytest
from pycocotools import mask as coco

from mars_assets.errors import DamagedFileError
from mars_assets.labels.masks import annotation_mask, instance_mask, instance_masks, label_image, rim


def random_rings(rng: np.random.Generator, rings: int) -> list[list[float]]:
    """Rings of which some points lie outside a 60 x 80 image."""
    return [rng.uniform(-20, 100, 2 * int(rng.integers(3, 9))).tolist() for _ in range(rings)]


@pytest.mark.parametrize("seed", range(10))
def test_all_rings_count_as_in_pycocotools(seed: int) -> None:
    rings = random_rings(np.random.default_rng(seed), 3)
    expected = np.zeros((60, 80), bool)
    for ring in rings:
        expected |= coco.decode(coco.frPyObjects([ring], 60, 80)[0]).astype(bool)
    np.testing.assert_array_equal(instance_mask({"polygons": rings}, 60, 80), expected)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("compressed", [True, False])
def test_run_lengths_as_in_pycocotools(seed: int, compressed: bool) -> None:
    rng = np.random.default_rng(seed)
    mask = (rng.random((37, 53)) < rng.choice([0.02, 0.5, 0.98])).astype(np.uint8)
    if compressed:
        counts = coco.encode(np.asfortranarray(mask))["counts"].decode()
    else:
        flat = mask.T.ravel()
        edges = np.flatnonzero(np.diff(flat)) + 1
        counts = np.diff([0, *edges, flat.size]).tolist()
        counts = [0, *counts] if flat[0] else counts
    np.testing.assert_array_equal(instance_mask({"rle": {"size": [37, 53], "counts": counts}}, 37, 53), mask)


@pytest.mark.parametrize("counts", ["~~~~", "zzzzzzzzzzzzzzzzz", "5", [5, 5], [-1, 101], [10, "x"], [10**12]])
def test_hostile_run_lengths_are_refused(counts: object) -> None:
    with pytest.raises(DamagedFileError, match="run-length"):
        instance_mask({"rle": {"size": [10, 10], "counts": counts}}, 10, 10)


def disc(x: float, y: float, radius: float, side: int = 200) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side]
    return ((columns - x) ** 2 + (rows - y) ** 2 <= radius**2).astype(np.uint8)


@pytest.mark.parametrize("width", [5, 15])
def test_a_rim_is_as_wide_as_it_says(width: int) -> None:
    radius = 60
    line = rim(disc(100, 100, radius), width)
    # A ring of that width has the area circumference times width; the line is centred on the outline.
    assert line.sum() == pytest.approx(2 * np.pi * radius * width, rel=0.08)
    distance = np.hypot(*(np.argwhere(line).T - 100.0))
    assert abs(distance.mean() - radius) < 1
    assert distance.min() > radius - width / 2 - 2
    assert distance.max() < radius + width / 2 + 2


def test_a_crater_cut_by_the_border_has_no_rim_along_it() -> None:
    line = rim(disc(0, 100, 60), 5)
    assert not line[60:140, :3].any(), "the image's border is no crater rim"
    assert line[36:44, 0].any(), "the rim itself reaches the border"


def test_masks_of_no_crater_are_empty_and_of_the_right_size() -> None:
    instances = instance_masks([], 20, 30)
    for annotation in ("filled", "outline_5", "outline_15"):
        assert annotation_mask(instances, annotation).shape == (20, 30)
        assert not annotation_mask(instances, annotation).any()
    assert label_image(instances).max() == 0


def test_smaller_craters_lie_on_top() -> None:
    labels = label_image(np.stack([disc(100, 100, 20), disc(100, 100, 60), disc(20, 20, 10)]))
    sizes = np.bincount(labels.ravel())[1:]
    assert len(sizes) == 3
    assert labels[100, 100] != labels[100, 150] != 0
    assert sizes.tolist() == sorted(sizes.tolist(), reverse=True)


def test_an_outline_that_covers_no_pixel_is_dropped() -> None:
    outside = {"polygons": [[200.0, 200.0, 210.0, 200.0, 205.0, 210.0]]}
    assert len(instance_masks([outside], 50, 50)) == 0


def test_outlines_that_wind_endlessly_are_refused_before_they_are_drawn() -> None:
    zigzag = [value for n in range(8000) for value in (65536.0 * (n % 2), float(n % 40))]
    with pytest.raises(DamagedFileError, match="is far too long"):
        instance_masks([{"polygons": [zigzag]}], 48, 48)


def test_more_craters_than_can_be_are_refused() -> None:
    with pytest.raises(DamagedFileError, match="are implausible"):
        instance_masks([{"polygons": [[0.0, 0.0, 9.0, 0.0, 9.0, 9.0]]}] * 10_000, 512, 512)
