"""mmseg transforms that load chips and masks and augment them for training.

The random ones draw from ``results["rng"]``, a numpy generator that
:class:`~mars_assets.segmentation.dataset.CraterDataset` puts there, so that an image's draws do not depend on the
process that loads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

from mars_assets.errors import DamagedFileError
from mars_assets.images import read_label_image
from mars_assets.segmentation.recipe import IGNORE
from mars_assets.tensors.geotiff import read_chip
from mars_assets.training.augmentation import BRIGHTNESS, CONTRAST, NOISE, bands_by_themselves, relit


@TRANSFORMS.register_module()
class LoadChip(BaseTransform):
    """Reader of ``img_path``, a chip, as ``img``, float32 (H, W, bands).

    If the results have ``chip`` (bands, H, W), that is used instead of the file.

    Args:
        bands: the names that the file's bands must have, in order.
        statistics: means and deviations of the bands. If given, each band is shifted and scaled so that the
            preprocessor, which normalises with them, returns the image with its own mean at 0 and its own deviation at
            1.
    """

    def __init__(self, bands: Sequence[str], statistics: Sequence[Sequence[float]] | None = None) -> None:
        self.bands = tuple(bands)
        self.statistics = None if statistics is None else [tuple(values) for values in statistics]

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        # A transposed view: crops are cut from it and turned back, so that the whole chip is never rearranged.
        bands = results["chip"] if "chip" in results else read_chip(Path(results["img_path"]), self.bands)
        if self.statistics is not None:
            if bands[0].size == 1:
                raise DamagedFileError(
                    f"{results['img_path']} is a single pixel, which has no contrast to normalise by: remove it"
                )
            bands = bands_by_themselves(bands, *self.statistics)
        image = bands.transpose(1, 2, 0)
        return {**results, "img": image, "img_shape": image.shape[:2], "ori_shape": image.shape[:2]}


@TRANSFORMS.register_module()
class LoadMask(BaseTransform):
    """Reader of ``seg_map_path``, an 8-bit PNG, as ``gt_seg_map`` (H, W).

    Its values are 0 for background, 1 for crater and 255 for ignored pixels.

    Args:
        smallest_crater: craters of ``instances_path`` with a smaller diameter in pixels become ignored.

    Raises:
        DamagedFileError: the mask is missing, unreadable, of another size than the chip, or has other values.
    """

    def __init__(self, smallest_crater: float = 0.0) -> None:
        self.smallest_crater = smallest_crater

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        path, shape = Path(results["seg_map_path"]), tuple(results["img_shape"])
        mask = read_label_image(path)
        if mask.dtype != np.uint8 or mask.shape != shape:
            raise DamagedFileError(
                f"the mask {path} is {mask.dtype} {mask.shape}, and its chip needs uint8 {shape}: materialize "
                "'labelled_crops' again"
            )
        counts = np.bincount(mask.ravel(), minlength=256)
        counts[[0, 1, IGNORE]] = 0
        if counts.any():
            raise DamagedFileError(
                f"the mask {path} contains {np.flatnonzero(counts).tolist()}, and only 0, 1 and {IGNORE} (ignored) are "
                "allowed: materialize 'labelled_crops' again"
            )
        if self.smallest_crater:
            mask = without_small(mask, read_label_image(Path(results["instances_path"])), self.smallest_crater)
        return {**results, "gt_seg_map": mask, "seg_fields": [*results.get("seg_fields", ()), "gt_seg_map"]}


def without_small(mask: npt.NDArray[Any], instances: npt.NDArray[Any], smallest: float) -> npt.NDArray[Any]:
    """Ignore the craters of a mask, (H, W), below a diameter in pixels.

    The diameter is that of the disc with the same area.
    """
    diameters = 2 * np.sqrt(np.bincount(instances.ravel()) / np.pi)
    small = diameters < smallest
    small[0] = False
    return np.where(small[instances], np.uint8(IGNORE), mask)


@TRANSFORMS.register_module()
class CraterCrop(BaseTransform):
    """Random square crop of image and mask, at a random scale.

    Args:
        size: side in pixels of the result; smaller where the image is.
        scale: factor by which the crop is magnified.
        scale_jitter: the scale is multiplied by a random factor between 1 / this and this, uniform in its logarithm.
        crater_share: share of the crops that contain a random crater pixel, where the image has one.
    """

    def __init__(self, size: int, scale_jitter: float = 1.0, crater_share: float = 0.0, scale: float = 1.0) -> None:
        self.size = size
        self.scale = scale
        self.scale_jitter = scale_jitter
        self.crater_share = crater_share

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        image, mask, rng = results["img"], results["gt_seg_map"], results["rng"]
        side = max(round(self.size / self.scale * self.scale_jitter ** rng.uniform(-1, 1)), 1)
        height, width = min(side, mask.shape[0]), min(side, mask.shape[1])
        craters = np.flatnonzero(mask == 1) if rng.random() < self.crater_share else ()
        pixel = divmod(int(rng.choice(craters)), mask.shape[1]) if len(craters) else (None, None)
        top = _start(mask.shape[0], height, pixel[0], rng)
        left = _start(mask.shape[1], width, pixel[1], rng)
        image = image[top : top + height, left : left + width]
        mask = mask[top : top + height, left : left + width]
        if side != self.size:
            target = tuple(max(round(length * self.size / side), 1) for length in (width, height))
            interpolation = cv2.INTER_AREA if side > self.size else cv2.INTER_LINEAR
            # Band by band: OpenCV resizes at most four channels.
            bands = [cv2.resize(band, target, interpolation=interpolation) for band in image.transpose(2, 0, 1)]
            image = np.stack(bands).transpose(1, 2, 0)
            mask = _resized(mask, target, smaller=side > self.size)
        return {**results, "img": image, "gt_seg_map": mask, "img_shape": mask.shape}


def _resized(mask: npt.NDArray[np.uint8], target: tuple[int, ...], smaller: bool) -> npt.NDArray[np.uint8]:
    """Resize labels to (width, height), aligned with the resized image.

    OpenCV's plain nearest neighbour is off by up to half a pixel. A smaller image's pixel takes the label that covers
    half of it.
    """
    if not smaller:
        return cv2.resize(mask, target, interpolation=cv2.INTER_NEAREST_EXACT).astype(np.uint8, copy=False)
    crater, ignored = (
        cv2.resize((mask == label).astype(np.float32), target, interpolation=cv2.INTER_AREA) >= 0.5
        for label in (1, IGNORE)
    )
    return np.where(ignored, IGNORE, crater).astype(np.uint8)


def _start(length: int, window: int, inside: int | None, rng: np.random.Generator) -> int:
    """Draw the first pixel of a window within ``length`` pixels.

    It contains the pixel ``inside``, if given.
    """
    lowest = 0 if inside is None else max(inside - window + 1, 0)
    highest = length - window if inside is None else min(inside, length - window)
    return int(rng.integers(lowest, highest + 1))


@TRANSFORMS.register_module()
class RandomOrientation(BaseTransform):
    """Random orientation, each as likely: the sun may stand anywhere.

    Args:
        turn: draw from all eight orientations of a square; else from the image and its left-right mirror image.
    """

    def __init__(self, turn: bool = True) -> None:
        self.turn = turn

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        rng: np.random.Generator = results["rng"]
        turns = int(rng.integers(4)) if self.turn else 0
        mirror = rng.integers(2)

        def oriented(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
            array = np.rot90(array, turns)
            return np.fliplr(array) if mirror else array

        image, mask = oriented(results["img"]), oriented(results["gt_seg_map"])
        return {**results, "img": image, "gt_seg_map": np.ascontiguousarray(mask), "img_shape": mask.shape}


@TRANSFORMS.register_module()
class RandomLight(BaseTransform):
    """Random brightness, contrast and grain, the same in all bands.

    Brightness and grain are in units of each band's own deviation.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        rng: np.random.Generator = results["rng"]
        bands = np.ascontiguousarray(results["img"].transpose(2, 0, 1))
        contrast = CONTRAST ** rng.uniform(-1, 1)
        brightness = BRIGHTNESS * rng.uniform(-1, 1)
        grain = NOISE * rng.random() * rng.standard_normal(bands.shape[1:], np.float32)
        mean, deviation = bands.mean((1, 2), keepdims=True), bands.std((1, 2), keepdims=True)
        changed = relit(bands, contrast, deviation * (brightness + grain), mean)
        return {**results, "img": changed.transpose(1, 2, 0)}
