from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mars_assets.bands import HLS_BANDS
from mars_assets.errors import DamagedFileError
from mars_assets.segmentation.mmseg_setup import mmseg_ready

with mmseg_ready():
    from mars_assets.segmentation import transforms as pipeline

pytestmark = pytest.mark.usefixtures("ready")


RNG = np.random.default_rng(1)


def _results(shape: tuple[int, int] = (40, 30)) -> dict:
    mask = np.zeros(shape, np.uint8)
    mask[33:36, 5:8] = 1
    image = np.stack([mask * 10.0 + band for band in range(6)], axis=-1).astype(np.float32)
    return {"img": image, "gt_seg_map": mask, "img_shape": shape, "seg_fields": ["gt_seg_map"], "rng": RNG}


@pytest.mark.parametrize("jitter", [1.0, 2.0])
def test_image_and_mask_are_cropped_alike(jitter: float):
    crop = pipeline.CraterCrop(size=16, scale_jitter=jitter, crater_share=0.5)
    for _ in range(20):
        out = crop.transform(_results())
        assert out["gt_seg_map"].shape == out["img"].shape[:2] == out["img_shape"]
        if jitter == 1.0:
            assert out["gt_seg_map"].shape == (16, 16)
            np.testing.assert_array_equal(out["img"][..., 2], out["gt_seg_map"] * 10.0 + 2)
        else:
            # resampled values meet at edges only
            assert np.mean((out["img"][..., 0] > 5) == (out["gt_seg_map"] == 1)) > 0.9


def test_a_crop_at_half_scale_shows_twice_the_side():
    results = _results((64, 64))
    out = pipeline.CraterCrop(size=32, scale=0.5).transform(results)
    assert out["img"].shape == (32, 32, 6)
    np.testing.assert_allclose(out["img"].mean((0, 1)), results["img"].mean((0, 1)), rtol=1e-3)


def test_crater_crops_hold_a_crater_and_others_need_not():
    craters = [pipeline.CraterCrop(8, crater_share=1.0).transform(_results())["gt_seg_map"].any() for _ in range(40)]
    anywhere = [pipeline.CraterCrop(8, crater_share=0.0).transform(_results())["gt_seg_map"].any() for _ in range(40)]
    assert all(craters)
    assert not all(anywhere)


def test_other_light_changes_all_bands_alike_and_no_geometry():
    image = np.random.default_rng(0).random((30, 40, 6)).astype(np.float32) * np.arange(1, 7, dtype=np.float32)
    out = pipeline.RandomLight().transform({"img": image, "rng": RNG})["img"]
    assert out.dtype == np.float32
    correlation = [np.corrcoef(image[..., band].ravel(), out[..., band].ravel())[0, 1] for band in range(6)]
    assert min(correlation) > 0.98
    scaled = (out - image.mean((0, 1))) / image.std((0, 1))
    drift = scaled.mean((0, 1))
    np.testing.assert_allclose(drift, drift[0], atol=1e-4)
    assert not np.allclose(out, pipeline.RandomLight().transform({"img": image, "rng": RNG})["img"])


def test_small_craters_are_ignored_and_large_ones_kept():
    instances = np.zeros((30, 30), np.uint16)
    instances[2:5, 2:5], instances[10:20, 10:20] = 1, 2  # diameters 3.4 and 11.3
    mask = (instances > 0).astype(np.uint8)
    out = pipeline.without_small(mask, instances, 8.0)
    assert (out[2:5, 2:5] == 255).all()
    assert (out[10:20, 10:20] == 1).all()
    assert out.dtype == np.uint8
    assert (out == 0).sum() == (mask == 0).sum()
    np.testing.assert_array_equal(pipeline.without_small(mask, instances, 3.0), mask)


def test_an_image_smaller_than_the_crop_is_taken_whole():
    out = pipeline.CraterCrop(64).transform(_results())
    np.testing.assert_array_equal(out["img"], _results()["img"])


@pytest.mark.parametrize(("turn", "count"), [(True, 8), (False, 2)])
def test_orientations_are_those_of_a_square_each_as_often(turn: bool, count: int):
    results = _results((6, 6))
    results["img"] = np.random.default_rng(0).random((6, 6, 6), np.float32)
    results["gt_seg_map"] = (results["img"][..., 0] > 0.5).astype(np.uint8)
    seen: Counter[bytes] = Counter()
    for _ in range(400):
        out = pipeline.RandomOrientation(turn).transform(results)
        np.testing.assert_array_equal(out["img"][..., 0] > 0.5, out["gt_seg_map"] == 1)
        seen[out["img"].tobytes()] += 1
    assert len(seen) == count
    assert min(seen.values()) > 0.6 * 400 / count
    expected = results["img"] if turn else results["img"][:, ::-1]
    assert np.ascontiguousarray(expected).tobytes() in seen


def test_a_mask_of_unknown_values_or_another_size_is_refused(tmp_path: Path):
    path = tmp_path / "mask.png"
    results = {"seg_map_path": str(path), "img_shape": (4, 5)}
    with pytest.raises(DamagedFileError, match="cannot be decoded"):
        pipeline.LoadMask().transform(results)
    Image.fromarray(np.full((4, 5), 7, np.uint8)).save(path)
    with pytest.raises(DamagedFileError, match=r"\[7\]"):
        pipeline.LoadMask().transform(results)
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(path)
    with pytest.raises(DamagedFileError, match=r"\(5, 5\)"):
        pipeline.LoadMask().transform(results)
    Image.fromarray(np.array([[0, 1, 255, 0, 0]] * 4, np.uint8)).save(path)
    assert pipeline.LoadMask().transform(results)["gt_seg_map"].tolist() == [[0, 1, 255, 0, 0]] * 4


@pytest.mark.parametrize("scale", [0.5, 0.7, 1.3, 2.0])
def test_a_mask_stays_on_its_image_at_another_scale(scale: float):
    y, x = np.mgrid[:300, :300]
    mask = (np.hypot(y - 149.5, x - 149.5) <= 40).astype(np.uint8)
    results = {"img": np.repeat(mask[..., None], 6, axis=2).astype(np.float32), "gt_seg_map": mask, "rng": RNG}
    out = pipeline.CraterCrop(size=round(300 * scale), scale=scale).transform(results)
    weights = out["img"][..., 0], out["gt_seg_map"]
    centres = [[np.average(axis, weights=weight) for axis in np.indices(weight.shape)] for weight in weights]
    np.testing.assert_allclose(*centres, atol=0.1)
    np.testing.assert_allclose(weights[1].sum(), weights[0].sum(), rtol=0.03)


def test_a_pixel_that_is_half_ignored_is_ignored_at_half_the_scale():
    mask = np.repeat(np.array([[0, 0, 1, 1, 255, 255, 1, 255]], np.uint8), 8, axis=0)
    out = pipeline._resized(mask, (4, 4), smaller=True)
    assert out[0].tolist() == [0, 1, 255, 255]


def test_a_single_pixel_cannot_be_normalised_by_itself(tmp_path: Path) -> None:
    loaded = {"chip": np.ones((6, 1, 1), np.float32), "img_path": tmp_path / "one.png"}
    with pytest.raises(DamagedFileError, match=r"one\.png is a single pixel"):
        pipeline.LoadChip(HLS_BANDS, [[0.0] * 6, [1.0] * 6]).transform(loaded)
    assert pipeline.LoadChip(HLS_BANDS).transform(loaded)["img"].shape == (1, 1, 6)
