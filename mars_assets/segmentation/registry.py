"""What this project adds to MMSegmentation's registries. Import it (a config's ``custom_imports`` does) and any mmseg
config can name these parts beside mmseg's own heads and losses.

Letters in shapes: B batch, C classes or channels, D embedding width, H x W pixels, p patch side.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from mmcv.cnn import ConvModule
from mmcv.transforms import BaseTransform
from mmengine.fileio.backends import LocalBackend, register_backend
from mmengine.hooks import Hook
from mmengine.model import BaseModule
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS
from mmengine.runner import Runner
from mmseg.datasets import BaseSegDataset
from mmseg.evaluation import IoUMetric
from mmseg.models import EncoderDecoder, FCNHead, SegDataPreProcessor
from mmseg.registry import DATASETS, METRICS, MODELS, TRANSFORMS
from torch import Tensor, nn

from mars_assets.chips import read_chip
from mars_assets.errors import DamagedFileError, DivergedError
from mars_assets.lake import write_bytes
from mars_assets.prithvi.config import PrithviConfig
from mars_assets.prithvi.model import PrithviEncoder
from mars_assets.progress import Progress
from mars_assets.segmentation.evaluate import read_label_image
from mars_assets.segmentation.fusion import deconvolve_and_convolve
from mars_assets.segmentation.recipe import CLASSES, IGNORE
from mars_assets.views import BRIGHTNESS, CONTRAST, NOISE, bands_by_themselves, oriented, oriented_back


@MODELS.register_module()
class PrithviBackbone(BaseModule):
    """Prithvi's encoder as an mmseg backbone.

    Args:
        encoder: a ``PrithviConfig`` as a dict; the architecture only, weights are loaded by whoever trains.
        layers: blocks after which to take a map, counted from 0.
        frozen: the encoder's weights take no gradient.
        with_image: put the normalised input itself in front of the maps, for necks with a branch of their own on it.
        magnify: the encoder sees the input magnified so much, and its maps are as much larger.
    """

    def __init__(
        self,
        encoder: dict[str, Any],
        layers: Sequence[int],
        frozen: bool = False,
        with_image: bool = False,
        magnify: int = 1,
    ) -> None:
        super().__init__()
        self.encoder = PrithviEncoder(PrithviConfig.from_dict(encoder))
        self.layers = list(layers)
        self.with_image = with_image
        self.magnify = magnify
        self.encoder.requires_grad_(not frozen)

    def init_weights(self) -> None:
        """Nothing: the encoder initialises itself, and mmengine calls this after pretrained weights were loaded."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, bands, H, W) -> the image itself if asked for, then a map (B, D, H/p, W/p) for each layer."""
        seen = x
        if self.magnify > 1:
            seen = F.interpolate(x, scale_factor=self.magnify, mode="bilinear", align_corners=False)
        maps = self.encoder.features(seen, self.layers)
        return (x, *maps) if self.with_image else tuple(maps)


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@MODELS.register_module()
class ConvTransposeNeck(BaseModule):
    """The paper's neck: four transposed convolutions take the last map to 16 times its size.

    Two blocks of [ConvTranspose2d k2 s2, LayerNorm2d (eps 1e-6), GELU, ConvTranspose2d k2 s2], as in NASA-IMPACT's
    hls-foundation-os.

    Args:
        in_channels: the map's.
        channels: of every layer and of the output.
        deferred: leave the last transposed convolution to the heads, see :class:`DeconvolvingFCNHead`.
    """

    def __init__(self, in_channels: int, channels: int, deferred: bool = False) -> None:
        super().__init__()
        self.deferred = deferred
        self.blocks = nn.Sequential(self._block(in_channels, channels), self._block(channels, channels))

    @staticmethod
    def _block(in_channels: int, channels: int) -> nn.Sequential:
        return nn.Sequential(
            nn.ConvTranspose2d(in_channels, channels, kernel_size=2, stride=2),
            LayerNorm2d(channels, eps=1e-6),
            nn.GELU(),
            nn.ConvTranspose2d(channels, channels, kernel_size=2, stride=2),
        )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """[..., (B, D, h, w)] -> ((B, channels, 16h, 16w),).

        Deferred: (the map before the last transposed convolution (B, channels, 8h, 8w), its weight, its bias).
        """
        if not self.deferred:
            return (self.blocks(inputs[-1]),)
        first, second = cast("list[nn.Sequential]", list(self.blocks))
        last = cast(nn.ConvTranspose2d, second[-1])
        assert last.bias is not None
        return second[:-1](first(inputs[-1])), last.weight, last.bias


@MODELS.register_module()
class DeconvolvingFCNHead(FCNHead):
    """mmseg's FCN head on a deferred :class:`ConvTransposeNeck`: the neck's last layer and the head's first are one.

    With the paper's widths those two are three quarters of the network's arithmetic, and this way takes a third of theirs.
    The parameters, their names and the result are those of neck and ``FCNHead``.
    """

    def _forward_feature(self, inputs: Sequence[Tensor]) -> Tensor:
        x, deconvolution, bias = inputs
        first, *others = self.convs
        feature = deconvolve_and_convolve(x, deconvolution, bias, first.conv.weight, first.conv.bias)
        feature = first.activate(first.norm(feature) if first.with_norm else feature)
        for layer in others:
            feature = layer(feature)
        return feature


def _convolution(in_channels: int, channels: int, stride: int = 1) -> ConvModule:
    return ConvModule(in_channels, channels, 3, stride, 1, norm_cfg={"type": "BN"})


@MODELS.register_module()
class DetailNeck(BaseModule):
    """Puts back what patches of 16 pixels blur: encoder maps for context, a shallow branch on the image for edges.

    The maps of several blocks are projected and summed at the patch's resolution, then upsampled step by step to half
    resolution, each step joined with the branch's map of the same size: a U-Net whose deep end is the ViT (after UNETR,
    Hatamizadeh et al. 2022, arXiv:2103.10504, with the input's branch at a fraction of its width).

    Args:
        in_channels: D of each encoder map.
        channels: of the deep end; halved at half resolution.
        image_channels: bands of the input.
        detail_channels: of the branch at half resolution; doubled at each halving.
    """

    def __init__(self, in_channels: Sequence[int], channels: int, image_channels: int, detail_channels: int) -> None:
        super().__init__()
        widths = [detail_channels, 2 * detail_channels, 4 * detail_channels]
        outputs = [max(channels // 2, 1), channels, channels]
        self.out_channels = outputs[0]
        self.norms = nn.ModuleList(LayerNorm2d(width) for width in in_channels)
        self.projections = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in in_channels)
        self.down = nn.ModuleList(
            nn.Sequential(_convolution(before, width, stride=2), _convolution(width, width))
            for before, width in zip([image_channels, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(
            _convolution(below + width, output)
            for below, width, output in zip([*outputs[1:], channels], widths, outputs, strict=True)
        )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor]:
        """[image (B, bands, H, W), (B, D, h, w), ...] -> ((B, out_channels, H/2, W/2),)."""
        image, *maps = inputs
        details = []
        for down in self.down:
            image = down(image)
            details.append(image)
        x = torch.stack(
            [project(norm(level)) for norm, project, level in zip(self.norms, self.projections, maps, strict=True)]
        ).sum(0)
        for up, detail in zip(reversed(self.up), reversed(details), strict=True):
            x = F.interpolate(x, size=detail.shape[2:], mode="bilinear", align_corners=False)
            x = up(torch.cat([x, detail], dim=1))
        return (x,)


@MODELS.register_module()
class MaskedDiceLoss(nn.Module):
    """1 - Dice of the softmax, per class, with ignored pixels left out of every sum.

    ``(2 * sum(p * t) + smooth) / (sum(p ** exponent) + sum(t ** exponent) + smooth)``, Milletari et al. 2016
    (arXiv:1606.04797). The defaults are those of mmseg 0.x, which the paper used. mmseg 1.x's ``DiceLoss`` pools the
    classes, so that background drowns craters, and lets ignored pixels into the denominator.

    Args:
        class_weight: weights of the classes in the mean; equal if None.
        batch: sum over the whole batch rather than per image: a crop without craters then does not ask for the
            impossible.
        smooth: added to both sides of the fraction; 1 for classes that are absent and not predicted.
        exponent: of probabilities and targets in the denominator.
    """

    def __init__(
        self,
        class_weight: Sequence[float] | None = None,
        batch: bool = False,
        smooth: float = 1.0,
        exponent: int = 2,
        loss_weight: float = 1.0,
        loss_name: str = "loss_dice",
    ) -> None:
        super().__init__()
        self.class_weight = class_weight
        self.batch = batch
        self.smooth = smooth
        self.exponent = exponent
        self.loss_weight = loss_weight
        self.loss_name = loss_name

    def forward(
        self, pred: Tensor, target: Tensor, weight: Tensor | None = None, ignore_index: int = IGNORE, **_: Any
    ) -> Tensor:
        """Logits (B, C, H, W) and labels (B, H, W) -> scalar. ``weight`` (B, H, W), if any, scales pixels' part."""
        classes = pred.shape[1]
        valid = (target != ignore_index).float() if weight is None else (target != ignore_index) * weight
        one_hot = F.one_hot(target.where(target != ignore_index, 0), classes).movedim(-1, 1)
        probability = pred.float().softmax(dim=1)
        sums = (0, 2, 3) if self.batch else (2, 3)
        valid = valid[:, None]
        overlap = (probability * one_hot * valid).sum(sums)
        size = ((probability**self.exponent + one_hot) * valid).sum(sums)
        loss = 1 - (2 * overlap + self.smooth) / (size + self.smooth)
        weights = loss.new_tensor(self.class_weight or [1.0] * classes)
        return self.loss_weight * (loss * weights).sum(-1).mean() / weights.sum()


@MODELS.register_module()
class MaskedTverskyLoss(nn.Module):
    """1 - Tversky index of the craters, over the whole batch, with ignored pixels left out.

    ``(TP + smooth) / (TP + alpha * FP + (1 - alpha) * FN + smooth)`` of the softmax, Salehi et al. 2017
    (arXiv:1706.05721), and that loss to the power ``gamma``, Abraham and Khan 2018 (arXiv:1810.07842), who take 0.75.

    Args:
        alpha: weight of false pixels; missed ones have the rest.
        gamma: below 1: what is nearly right counts for more of the loss.
    """

    def __init__(
        self,
        alpha: float = 0.3,
        gamma: float = 1.0,
        smooth: float = 1.0,
        loss_weight: float = 1.0,
        loss_name: str = "loss_tversky",
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.gamma = gamma
        self.smooth = smooth
        self.loss_weight = loss_weight
        self.loss_name = loss_name

    def forward(
        self, pred: Tensor, target: Tensor, weight: Tensor | None = None, ignore_index: int = IGNORE, **_: Any
    ) -> Tensor:
        """Logits (B, 2, H, W) and labels (B, H, W) -> scalar. ``weight`` (B, H, W), if any, scales pixels' part."""
        valid = (target != ignore_index).float() if weight is None else (target != ignore_index) * weight
        crater = (target == 1).float()
        probability = pred.float().softmax(dim=1)[:, 1]
        found = (probability * crater * valid).sum()
        false = (probability * (1 - crater) * valid).sum()
        missed = ((1 - probability) * crater * valid).sum()
        index = (found + self.smooth) / (found + self.alpha * false + (1 - self.alpha) * missed + self.smooth)
        # The power's slope is infinite at 0.
        return self.loss_weight * (1 - index).clamp_min(1e-6) ** self.gamma


@MODELS.register_module()
class MaskedFocalLoss(nn.Module):
    """Focal loss of the softmax, mean over the pixels that are not ignored.

    ``-w * (1 - p) ** gamma * log p`` of the true class's probability p and weight w, Lin et al. 2017 (arXiv:1708.02002).
    mmseg's ``FocalLoss`` takes every pixel for background on a CPU when there are two classes.

    Args:
        gamma: how much less pixels count that are right already.
        class_weight: weights of the classes; equal if None.
    """

    def __init__(
        self,
        gamma: float = 2.0,
        class_weight: Sequence[float] | None = None,
        loss_weight: float = 1.0,
        loss_name: str = "loss_focal",
    ) -> None:
        super().__init__()
        self.gamma = gamma
        self.class_weight = class_weight
        self.loss_weight = loss_weight
        self.loss_name = loss_name

    def forward(
        self, pred: Tensor, target: Tensor, weight: Tensor | None = None, ignore_index: int = IGNORE, **_: Any
    ) -> Tensor:
        """Logits (B, C, H, W) and labels (B, H, W) -> scalar. ``weight`` (B, H, W), if any, scales pixels' part."""
        valid = (target != ignore_index).float()
        surprise = F.cross_entropy(pred.float(), target, ignore_index=ignore_index, reduction="none")
        loss = (1 - (-surprise).exp()) ** self.gamma * surprise
        if self.class_weight is not None:
            loss = loss * loss.new_tensor(self.class_weight)[target.where(target != ignore_index, 0)]
        if weight is not None:
            loss = loss * weight
        return self.loss_weight * (loss * valid).sum() / valid.sum().clamp_min(1)


@MODELS.register_module()
class CraterBoundaryLoss(nn.Module):
    """Cross entropy, mean over the pixels near the border of a crater; those of an image without one add nothing.

    Args:
        width: how far from the border a pixel may lie, in pixels along rows, columns and diagonals.
    """

    def __init__(self, width: int = 3, loss_weight: float = 1.0, loss_name: str = "loss_boundary") -> None:
        super().__init__()
        self.width = width
        self.loss_weight = loss_weight
        self.loss_name = loss_name

    def forward(
        self, pred: Tensor, target: Tensor, weight: Tensor | None = None, ignore_index: int = IGNORE, **_: Any
    ) -> Tensor:
        """Logits (B, 2, H, W) and labels (B, H, W) -> scalar. ``weight`` (B, H, W), if any, scales pixels' part."""
        crater = (target == 1).float()
        side = 2 * self.width + 1
        grown = F.max_pool2d(crater[:, None], side, 1, self.width)[:, 0]
        shrunk = 1 - F.max_pool2d(1 - crater[:, None], side, 1, self.width)[:, 0]
        near = (grown > shrunk) & (target != ignore_index)
        loss = F.cross_entropy(pred.float(), target, ignore_index=ignore_index, reduction="none")
        if weight is not None:
            loss = loss * weight
        return self.loss_weight * (loss * near).sum() / near.sum().clamp_min(1)


@MODELS.register_module()
class BandDataPreProcessor(SegDataPreProcessor):
    """mmseg's preprocessor for any number of bands: normalises on the model's device, then pads and stacks.

    Args:
        mean, std: one value a band.
        kwargs: mmseg's.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], **kwargs: Any) -> None:
        super().__init__(**kwargs)  # which takes 1 or 3 means
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32)[:, None, None], persistent=False)
        self._enable_normalize = True


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows that cover ``length`` >= ``window`` pixels; the last one is moved back to fit."""
    steps = math.ceil((length - window) / stride)
    return [min(step * stride, length - window) for step in range(steps + 1)]


@MODELS.register_module()
class WindowedEncoderDecoder(EncoderDecoder):
    """mmseg's segmentor, with its sliding window in batches and over images of any size.

    Windows and the mean of their logits are mmseg's. An image smaller than the window is mirrored to its size, where
    mmseg would hand the encoder a size that it does not know. The result may be the mean over several scales and
    orientations of the image.

    Args:
        window_batch: windows computed at once.
        scales: the image is magnified by each.
        orientations: of a square, 1 or 8, at each scale.
        crater_prior: what the heads give for the probability of a crater before they are trained.
        crater_threshold: the probability that inference moves to 0.5, where craters begin.
        kwargs: mmseg's.
    """

    def __init__(
        self,
        window_batch: int = 16,
        scales: Sequence[float] = (1.0,),
        orientations: int = 1,
        crater_prior: float = 0.5,
        crater_threshold: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.window_batch = window_batch
        self.scales = tuple(scales)
        self.orientations = orientations
        self.crater_prior = crater_prior
        self.crater_threshold = crater_threshold

    def init_weights(self) -> None:
        """mmseg's, and the heads' prior."""
        super().init_weights()
        prior = _logit(self.crater_prior)
        for head in (self.decode_head, *([self.auxiliary_head] if self.with_auxiliary_head else [])):
            if hasattr(head, "conv_seg"):  # not every head of mmseg's ends in one
                nn.init.constant_(head.conv_seg.bias[1:], prior)

    def slide_inference(self, inputs: Tensor, batch_img_metas: list[dict[str, Any]]) -> Tensor:
        """(B, bands, H, W) -> logits (B, C, H, W), float32."""
        size = inputs.shape[2:]
        logits: list[Tensor] = []
        for scale in self.scales:
            scaled = [max(round(length * scale), 1) for length in size]
            image = inputs
            if scale != 1:
                image = F.interpolate(inputs, scaled, mode="bilinear", align_corners=False, antialias=scale < 1)
            views = [
                oriented_back(self._slide(oriented(image, orientation)), orientation)
                for orientation in range(self.orientations)
            ]
            found = torch.stack(views).mean(dim=0)
            if scale != 1:
                found = F.interpolate(found, size, mode="bilinear", align_corners=False)
            logits.append(found)
        mean = torch.stack(logits).mean(dim=0)
        mean[:, 1:] -= _logit(self.crater_threshold)
        return mean

    def _slide(self, inputs: Tensor) -> Tensor:
        """(B, bands, H, W) -> logits (B, C, H, W), float32, at this scale and in this orientation."""
        size = inputs.shape[2:]
        for axis, (length, window) in enumerate(zip(size, self.test_cfg.crop_size, strict=True), start=2):
            if length < window:
                mirrored = np.pad(np.arange(length), (0, window - length), mode="symmetric")
                inputs = inputs.index_select(axis, torch.from_numpy(mirrored).to(inputs.device))
        rows, columns = self.test_cfg.crop_size
        boxes = [
            (top, left)
            for top in window_starts(inputs.shape[2], rows, self.test_cfg.stride[0])
            for left in window_starts(inputs.shape[3], columns, self.test_cfg.stride[1])
        ]
        logits = inputs.new_zeros((len(inputs), self.out_channels, *inputs.shape[2:]), dtype=torch.float32)
        count = inputs.new_zeros((1, 1, *inputs.shape[2:]), dtype=torch.float32)
        together = max(self.window_batch // len(inputs), 1)
        for start in range(0, len(boxes), together):
            some = boxes[start : start + together]
            crops = torch.cat([inputs[:, :, top : top + rows, left : left + columns] for top, left in some])
            # A torch.Size tells mmseg's heads that this is the size to return.
            windows = self.encode_decode(crops, [{"img_shape": crops.shape[2:]}])
            for (top, left), window in zip(some, windows.float().split(len(inputs)), strict=True):
                logits[:, :, top : top + rows, left : left + columns] += window
                count[:, :, top : top + rows, left : left + columns] += 1
        return (logits / count)[:, :, : size[0], : size[1]]


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


@DATASETS.register_module()
class CraterDataset(BaseSegDataset):
    """Chips and masks from an explicit list.

    Args:
        items: dicts with ``img_path`` and ``seg_map_path``.
        kwargs: mmseg's.
    """

    METAINFO = {"classes": CLASSES, "palette": [[160, 120, 90], [255, 200, 40]]}  # noqa: RUF012 - mmseg's interface

    def __init__(self, items: Sequence[dict[str, str]], **kwargs: Any) -> None:
        self.items = list(items)
        super().__init__(serialize_data=False, **kwargs)  # a list this short needs no compact copy

    def load_data_list(self) -> list[dict[str, Any]]:
        """What mmseg's pipeline starts from, an entry an image."""
        shared = {"label_map": self.label_map, "reduce_zero_label": self.reduce_zero_label}
        return [{**item, **shared, "seg_fields": []} for item in self.items]


@TRANSFORMS.register_module()
class LoadChip(BaseTransform):
    """Reads ``img_path``, a GeoTIFF of float32 reflectance, as ``img`` (H, W, bands).

    Args:
        bands: the names that the file's bands must have, in order.
        statistics: means and deviations of the bands; where they are given, each band is moved and scaled so that the
            preprocessor, which normalises with them, gives the image's own mean 0 and deviation 1.
    """

    def __init__(self, bands: Sequence[str], statistics: Sequence[Sequence[float]] | None = None) -> None:
        self.bands = tuple(bands)
        self.statistics = None if statistics is None else [tuple(values) for values in statistics]

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        # A transposed view: crops are cut from it and turned back, so that the whole chip is never rearranged.
        bands = read_chip(Path(results["img_path"]), self.bands)
        if self.statistics is not None:
            bands = bands_by_themselves(bands, *self.statistics)
        image = bands.transpose(1, 2, 0)
        return {**results, "img": image, "img_shape": image.shape[:2], "ori_shape": image.shape[:2]}


@TRANSFORMS.register_module()
class LoadMask(BaseTransform):
    """Reads ``seg_map_path``, an 8-bit PNG of 0 background, 1 crater, 255 ignored, as ``gt_seg_map`` (H, W).

    Args:
        smallest_crater: craters of ``instances_path`` of a smaller diameter in pixels become ignored.

    Raises:
        DamagedFileError: it is missing, unreadable, of another size than the chip, or has other values.
    """

    def __init__(self, smallest_crater: float = 0.0) -> None:
        self.smallest_crater = smallest_crater

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        path = results["seg_map_path"]
        mask = cv2.imread(path, cv2.IMREAD_UNCHANGED)
        if mask is None or mask.dtype != np.uint8 or mask.shape != tuple(results["img_shape"]):
            found = "cannot be read as an image" if mask is None else f"is {mask.dtype} {mask.shape}"
            raise DamagedFileError(
                f"the mask {path} {found}, where its chip needs 8 bits and {tuple(results['img_shape'])}: "
                "make 'labelled_crops' again"
            )
        counts = np.bincount(mask.ravel(), minlength=256)
        counts[[0, 1, IGNORE]] = 0
        if counts.any():
            unknown = np.flatnonzero(counts).tolist()
            raise DamagedFileError(f"the mask {path} has values {unknown}: a mask has 0, 1 and {IGNORE} for ignored")
        if self.smallest_crater:
            mask = without_small(mask, read_label_image(Path(results["instances_path"])), self.smallest_crater)
        return {**results, "gt_seg_map": mask, "seg_fields": [*results.get("seg_fields", ()), "gt_seg_map"]}


def without_small(mask: npt.NDArray[Any], instances: npt.NDArray[Any], smallest: float) -> npt.NDArray[Any]:
    """A mask, (H, W), whose craters below a diameter (of the disc of equal area, in pixels) are ignored."""
    diameters = 2 * np.sqrt(np.bincount(instances.ravel()) / np.pi)
    small = diameters < smallest
    small[0] = False
    return np.where(small[instances], np.uint8(IGNORE), mask)


@TRANSFORMS.register_module()
class CraterCrop(BaseTransform):
    """A random square crop of image and mask, at a random scale, now and then placed where craters are.

    Args:
        size: side in pixels of the result; smaller where the image is.
        scale: the crop is magnified by this.
        scale_jitter: and by a factor between 1 / this and this, log-uniform.
        crater_share: share of the crops that hold a random crater pixel, where the image has one.
    """

    def __init__(self, size: int, scale_jitter: float = 1.0, crater_share: float = 0.0, scale: float = 1.0) -> None:
        self.size = size
        self.scale = scale
        self.scale_jitter = scale_jitter
        self.crater_share = crater_share

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        image, mask = results["img"], results["gt_seg_map"]
        side = max(round(self.size / self.scale * self.scale_jitter ** np.random.uniform(-1, 1)), 1)
        height, width = min(side, mask.shape[0]), min(side, mask.shape[1])
        craters = np.flatnonzero(mask == 1) if np.random.random() < self.crater_share else ()
        pixel = divmod(int(craters[np.random.randint(len(craters))]), mask.shape[1]) if len(craters) else (None, None)
        top = _start(mask.shape[0], height, pixel[0])
        left = _start(mask.shape[1], width, pixel[1])
        image = image[top : top + height, left : left + width]
        mask = mask[top : top + height, left : left + width]
        if side != self.size:
            target = tuple(max(round(length * self.size / side), 1) for length in (width, height))
            interpolation = cv2.INTER_AREA if side > self.size else cv2.INTER_LINEAR
            # Band by band: OpenCV resizes at most four channels.
            bands = [cv2.resize(band, target, interpolation=interpolation) for band in image.transpose(2, 0, 1)]
            image = np.stack(bands).transpose(1, 2, 0)
            mask = cv2.resize(mask, target, interpolation=cv2.INTER_NEAREST)
        return {**results, "img": image, "gt_seg_map": mask, "img_shape": mask.shape}


def _start(length: int, window: int, inside: int | None) -> int:
    """A random first pixel of a window within ``length`` pixels, and around the pixel ``inside`` if given."""
    lowest = 0 if inside is None else max(inside - window + 1, 0)
    highest = length - window if inside is None else min(inside, length - window)
    return int(np.random.randint(lowest, highest + 1))


@TRANSFORMS.register_module()
class RandomQuarterTurn(BaseTransform):
    """One of the eight mirrorings and quarter turns of the square, each as likely: the sun may stand anywhere."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        turns, mirror = np.random.randint(4), np.random.randint(2)

        def turned(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
            array = np.rot90(array, turns)
            return np.flipud(array) if mirror else array

        image, mask = turned(results["img"]), turned(results["gt_seg_map"])
        return {**results, "img": image, "gt_seg_map": np.ascontiguousarray(mask), "img_shape": mask.shape}


@TRANSFORMS.register_module()
class RandomLight(BaseTransform):
    """Other brightness and contrast, the same in all bands, and grain; in units of each band's own deviation."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        image = results["img"]
        mean, deviation = image.mean((0, 1)), image.std((0, 1))
        contrast = CONTRAST ** np.random.uniform(-1, 1)
        brightness = BRIGHTNESS * np.random.uniform(-1, 1)
        grain = NOISE * np.random.random() * np.random.standard_normal((*image.shape[:2], 1))
        changed = (image - mean) * contrast + mean + deviation * (brightness + grain)
        return {**results, "img": changed.astype(np.float32)}


@METRICS.register_module()
class CraterMetric(IoUMetric):
    """mmseg's IoU from summed counts, unrounded, as plain numbers that a safe checkpoint may hold."""

    def compute_metrics(self, results: list[tuple[Tensor, ...]]) -> dict[str, float]:
        """``miou`` and ``iou_<class>``; NaN for a class that is neither there nor predicted."""
        intersection, union = (
            torch.stack([result[index] for result in results]).double().sum(0).numpy() for index in (0, 1)
        )
        iou = np.divide(intersection, union, out=np.full(len(union), np.nan), where=union > 0)
        metrics = {f"iou_{name}": float(value) for name, value in zip(CLASSES, iou, strict=True)}
        present = iou[~np.isnan(iou)]
        return {"miou": float(present.mean()) if present.size else math.nan, **metrics}


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """Forward passes in bf16 autocast, on CPU as on CUDA; bf16 has float32's range, so no loss scaling.

    Args:
        device_type: "cpu" or "cuda".
        kwargs: mmengine's.
    """

    def __init__(self, device_type: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.device_type = device_type

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        with super().optim_context(model), torch.autocast(self.device_type, dtype=torch.bfloat16):
            yield


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class EncoderDecayConstructor(DefaultOptimWrapperConstructor):
    """Learning rates that fall from the encoder's last block to its first; no weight decay for biases and norms.

    ``paramwise_cfg``: ``depth`` blocks of the encoder, ``encoder_lr`` the last block's rate as a factor of lr,
    ``layer_decay`` the factor from each block to the one below. Patches and class token count as the block below the
    first, the final norm as the last block.
    """

    def add_params(self, params: list[dict[str, Any]], module: nn.Module, **_: Any) -> None:
        """Adds a group for each learning rate and weight decay, in mmengine's form."""
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                decay = 0.0 if parameter.ndim <= 1 or name.endswith("cls_token") else self.base_wd
                groups.setdefault((self.base_lr * self._factor(name), decay), []).append(parameter)
        params += [{"params": some, "lr": lr, "weight_decay": decay} for (lr, decay), some in groups.items()]

    def _factor(self, name: str) -> float:
        prefix = "backbone.encoder."
        if not name.startswith(prefix):
            return 1.0
        part, *rest = name.removeprefix(prefix).split(".")
        depth = self.paramwise_cfg["depth"]
        block = int(rest[0]) if part == "blocks" else depth - 1 if part == "norm" else -1
        return self.paramwise_cfg["encoder_lr"] * self.paramwise_cfg["layer_decay"] ** (depth - 1 - block)


class AtomicBackend(LocalBackend):
    """mmengine's local files, whole or absent: a checkpoint that is there can be read."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        write_bytes(Path(filepath), obj)


register_backend("mars_assets.atomic", AtomicBackend, force=True)


class TrainingState(Hook):
    """Keeps the best and the last checkpoint and the history, so that a killed run goes on where it stopped.

    Both checkpoints hold plain values and tensors only. ``best.pth`` carries its own score: whichever of the two was
    written last before a kill, the pair is consistent. With data loaded in this process (no workers) a continued run
    draws the same random numbers as one that was never stopped.

    Args:
        folder: where ``last.pth`` and ``best.pth`` go.
        progress: takes lines.
        log_every: iterations over which the loss is averaged.
        save_every: seconds between two checkpoints, beside the one of each validation.
    """

    priority = "VERY_LOW"  # after the schedulers have stepped: the checkpoint then holds the next iteration's rate

    def __init__(self, folder: Path, progress: Progress, log_every: int, save_every: float = 120.0) -> None:
        self.folder = folder
        self.progress = progress
        self.log_every = log_every
        self.save_every = save_every
        self.history: list[dict[str, float]] = []
        self.best = -math.inf
        self.seconds = 0.0
        self._metrics: dict[str, float] = {}
        self._lr = math.nan
        self._note = ""
        self._losses: list[Tensor] = []
        self._random: dict[str, Any] | None = None
        self._since = self._saved = time.monotonic()

    def before_train(self, runner: Runner) -> None:
        self._since = self._saved = time.monotonic()
        remaining = runner.max_iters - runner.iter
        self._trained = self.progress.counter("training segmentation", remaining, "iterations")
        if self._random is not None:
            self.progress.say(f"going on from iteration {runner.iter}")
            version, words, gauss = self._random["python"]
            random.setstate((version, tuple(words), gauss))
            numpy_state = self._random["numpy"]
            numpy_state["state"]["key"] = np.array(numpy_state["state"]["key"], np.uint32)
            np.random.set_state(numpy_state)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self._lr = max(runner.optim_wrapper.get_lr()["lr"])
        if self._random is not None:
            # Only now: the loader's iterator, made in between, drew from torch's generator.
            torch.set_rng_state(self._random["torch"].cpu())
            if _device(runner).type == "cuda" and self._random["cuda"] is not None:
                torch.cuda.set_rng_state(self._random["cuda"].cpu())
            self._random = None

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Tensor] | None = None
    ) -> None:
        assert outputs is not None
        iteration = runner.iter + 1
        self._losses.append(outputs["loss"].detach())
        if iteration % self.log_every == 0 or iteration == runner.max_iters:
            loss = torch.stack(self._losses).mean().item()
            self._losses.clear()
            if not math.isfinite(loss):
                raise DivergedError(
                    f"the segmentation loss is {loss} at iteration {iteration}: lower the recipe's lr, or set clip_grad"
                )
            self._record(iteration, {"loss": loss, "lr": self._lr})
            self._note = f"loss {loss:.4f}"
        self._trained.advance(note=self._note)
        validation_follows = iteration % runner.train_loop.val_interval == 0 or iteration == runner.max_iters
        if time.monotonic() - self._saved >= self.save_every and not validation_follows:
            self._save(runner, "last.pth", iteration)

    def before_val_epoch(self, runner: Runner) -> None:
        self._validated = self.progress.counter(
            f"validating iteration {runner.iter}", len(runner.val_dataloader), "images"
        )

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self._validated.advance()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        assert metrics is not None
        self._validated.close(", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
        self._metrics = metrics
        self._record(runner.iter, metrics)
        if metrics["miou"] > self.best:
            self.best = metrics["miou"]
            self._save(runner, "best.pth", runner.iter)
        self._save(runner, "last.pth", runner.iter)

    def after_train(self, runner: Runner) -> None:
        self.seconds += time.monotonic() - self._since
        self._trained.close(f"best mIoU {self.best:.4f}")

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        # mmengine's running means are objects; what is worth keeping of them is in the history.
        checkpoint["message_hub"] = {"log_scalars": {}, "runtime_info": {}, "resumed_keys": {}}
        if "optimizer" not in checkpoint:
            checkpoint["meta"]["metrics"] = dict(self._metrics)
            return
        numpy_state = np.random.get_state(legacy=False)
        numpy_state["state"]["key"] = numpy_state["state"]["key"].tolist()
        checkpoint["meta"]["training"] = {
            "history": self.history,
            "losses": [loss.item() for loss in self._losses],
            "seconds": self.seconds + time.monotonic() - self._since,
            "random": {
                "python": random.getstate(),
                "numpy": numpy_state,
                "torch": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
            },
        }

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["meta"]["training"]
        self.history, self.seconds = list(state["history"]), state["seconds"]
        self._losses = [torch.tensor(loss, device=_device(runner)) for loss in state["losses"]]
        self._random = state["random"]
        best = self.folder / "best.pth"
        if best.exists():
            self.best = torch.load(best, map_location="cpu", weights_only=True)["meta"]["metrics"]["miou"]

    def _record(self, iteration: int, values: dict[str, float]) -> None:
        if not self.history or self.history[-1]["iteration"] != iteration:
            self.history.append({"iteration": iteration})
        self.history[-1].update(values)

    def _save(self, runner: Runner, name: str, iteration: int) -> None:
        resumable = name == "last.pth"
        runner.save_checkpoint(
            str(self.folder),
            name,
            save_optimizer=resumable,
            save_param_scheduler=resumable,
            meta={"epoch": 0, "iter": iteration},
            by_epoch=False,
            backend_args={"backend": "mars_assets.atomic"},
        )
        self._saved = time.monotonic()


def _device(runner: Runner) -> torch.device:
    return next(runner.model.parameters()).device
