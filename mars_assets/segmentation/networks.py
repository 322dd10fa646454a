"""Networks as parts of mmseg: backbone, necks, head and segmentor.

Letters in shapes: B batch, C classes or channels, D embedding width, H x W pixels, p patch side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import cv2
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from mmseg.models import EncoderDecoder, FCNHead, SegDataPreProcessor
from mmseg.registry import MODELS
from timm.layers import LayerNorm2d  # type: ignore[attr-defined]
from torch import Tensor, nn

from mars_assets.encoders.config import encoder_config
from mars_assets.encoders.weights import new_encoder
from mars_assets.segmentation.fusion import channels_together, deconvolve_and_convolve
from mars_assets.training.augmentation import FLAT, oriented, oriented_back


@MODELS.register_module()
class PrithviBackbone(BaseModule):
    """An encoder as an mmseg backbone, in files of Prithvi's and of any other family.

    Args:
        encoder: its configuration as a dict: the architecture only, since the training loads the weights.
        layers: blocks after which to return a map, counted from 0.
        frozen: keep the encoder's weights, without gradients.
        with_image: return the normalised input in front of the maps, for necks with a branch on it.
        magnify: factor by which the input is magnified for the encoder; its maps are as much larger or smaller.
    """

    def __init__(
        self,
        encoder: dict[str, Any],
        layers: Sequence[int],
        frozen: bool = False,
        with_image: bool = False,
        magnify: float = 1,
    ) -> None:
        super().__init__()
        self.encoder = new_encoder(encoder_config(encoder))
        self.layers = list(layers)
        self.with_image = with_image
        self.magnify = magnify
        self.encoder.requires_grad_(not frozen)

    def init_weights(self) -> None:
        """Do nothing: mmengine calls this after the pretrained weights were loaded."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Encode (B, bands, H, W) to a map (B, D, H/p, W/p) for each layer.

        H and W are those after magnification.

        ``with_image`` puts the image in front.
        """
        seen = x
        if self.magnify != 1:
            size = [round(length * self.magnify) for length in x.shape[2:]]
            seen = F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=self.magnify < 1)
        maps = self.encoder.features(seen, self.layers)
        return (x, *maps) if self.with_image else tuple(maps)


@MODELS.register_module()
class ConvTransposeNeck(BaseModule):
    """The paper's neck, from the last map to 16 times its size.

    Two blocks of [ConvTranspose2d k2 s2, LayerNorm2d (eps 1e-6), GELU, ConvTranspose2d k2 s2], as in NASA-IMPACT's
    hls-foundation-os.

    Args:
        in_channels: of the map.
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
        """Upsample [..., (B, D, h, w)] to ((B, channels, 16h, 16w),).

        If deferred, return the input of the last transposed convolution (B, channels, 8h, 8w), its weight and its bias.
        """
        if not self.deferred:
            return (self.blocks(inputs[-1]),)
        first, second = cast("list[nn.Sequential]", list(self.blocks))
        last = cast(nn.ConvTranspose2d, second[-1])
        assert last.bias is not None
        return second[:-1](first(inputs[-1])), last.weight, last.bias


@MODELS.register_module()
class DeconvolvingFCNHead(FCNHead):
    """mmseg's FCN head on a deferred :class:`ConvTransposeNeck`.

    The neck's last layer and the head's first are computed at once, see :mod:`mars_assets.segmentation.fusion`: with
    the paper's widths they are three quarters of the network's arithmetic. The parameters, their names and the result
    are those of neck and ``FCNHead``.
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
    """Neck that restores detail finer than a patch.

    Encoder maps provide context, and a shallow branch on the image provides edges.

    The maps of several blocks are projected and summed at the resolution of the patches, then upsampled step by step to
    half resolution and joined at each step with the branch's map of the same size: a U-Net whose deep end is the ViT
    (after UNETR, Hatamizadeh et al. 2022, arXiv:2103.10504, with a fraction of its width in the branch on the input).

    Args:
        in_channels: D of each encoder map.
        channels: of the deep end; halved at half resolution.
        image_channels: number of bands of the input.
        detail_channels: of the branch at half resolution; doubled at each halving.
        local_contrast: side of the square for which the branch also gets :func:`contrast_to_surroundings` of the bands'
            mean; 0: off.
        stages: number of times that the branch halves the image.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - mmengine calls it by the names in a configuration
        self,
        in_channels: Sequence[int],
        channels: int,
        image_channels: int,
        detail_channels: int,
        local_contrast: int = 0,
        stages: int = 3,
    ) -> None:
        super().__init__()
        self.local_contrast = local_contrast
        image_channels += bool(local_contrast)
        widths = [2**stage * detail_channels for stage in range(stages)]
        outputs = [max(channels // 2, 1), *[channels] * (stages - 1)]
        self.out_channels = outputs[0]
        self.norms = nn.ModuleList(LayerNorm2d(width, eps=1e-5) for width in in_channels)
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
        """Join image (B, bands, H, W) and maps (B, D, h, w) at half resolution.

        Returns ((B, out_channels, H/2, W/2),).
        """
        image, *maps = inputs
        details = []
        if self.local_contrast:
            image = torch.cat(
                [image, contrast_to_surroundings(image.mean(1, keepdim=True), self.local_contrast)], dim=1
            )
        image = channels_together(image)
        for down in self.down:
            image = down(image)
            details.append(image)
        x = torch.stack(
            [project(norm(level)) for norm, project, level in zip(self.norms, self.projections, maps, strict=True)]
        ).sum(0)
        x = channels_together(x)
        for up, detail in zip(reversed(self.up), reversed(details), strict=True):
            x = F.interpolate(x, size=detail.shape[2:], mode="bilinear", align_corners=False)
            x = up(torch.cat([x, detail], dim=1))
        return (x,)


def contrast_to_surroundings(image: Tensor, side: int) -> Tensor:
    """Normalise each pixel by mean and deviation around it.

    The surroundings are a square of ``side`` pixels (odd) in (B, C, H, W).
    """

    def mean(x: Tensor) -> Tensor:
        # Along one axis, then the other: torch's pooling would add up every pixel of the square.
        for window in ((side, 1), (1, side)):
            padding = (window[0] // 2, window[1] // 2)
            x = F.avg_pool2d(x, window, 1, padding, count_include_pad=False)
        return x

    image = image.float()
    centred = image - mean(image)
    return centred / (mean(centred**2).sqrt() + FLAT)


@MODELS.register_module()
class BandDataPreProcessor(SegDataPreProcessor):
    """mmseg's preprocessor for any number of bands.

    It normalises on the model's device, pads and stacks.

    Args:
        mean, std: one value per band.
        kwargs: arguments of mmseg's preprocessor.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], **kwargs: Any) -> None:
        super().__init__(**kwargs)  # which takes 1 or 3 means
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32)[:, None, None], persistent=False)
        self._enable_normalize = True

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Prepare inputs, in :func:`channels_together`, and labels as mmseg does."""
        out = super().forward(data, training)
        return {**out, "inputs": channels_together(out["inputs"])}


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Compute the first pixels of windows that cover ``length`` pixels.

    The last window is moved back to fit; ``length`` is at least ``window``.
    """
    steps = math.ceil((length - window) / stride)
    return [min(step * stride, length - window) for step in range(steps + 1)]


@MODELS.register_module()
class WindowedEncoderDecoder(EncoderDecoder):
    """mmseg's segmentor with a sliding window in batches, for images of any size.

    Windows and the mean of their logits are mmseg's. An image smaller than the window is mirrored to its size; mmseg
    would give the encoder a size that it does not accept. The result may be the mean over several scales and
    orientations.

    Args:
        window_batch: number of windows computed at once.
        scales: factors by which the image is magnified.
        orientations: number of orientations at each scale, 1 or 8.
        crater_prior: probability of a crater that untrained heads predict.
        crater_threshold: probability that inference moves to 0.5, from which a pixel counts as crater.
        crater_peak: probability that a crater must reach somewhere; inference lowers those that do not to below 0.5.
        kwargs: arguments of mmseg's segmentor.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - mmengine calls it by the names in a configuration
        self,
        window_batch: int = 16,
        scales: Sequence[float] = (1.0,),
        orientations: int = 1,
        crater_prior: float = 0.5,
        crater_threshold: float = 0.5,
        crater_peak: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.window_batch = window_batch
        self.scales = tuple(scales)
        self.orientations = orientations
        self.crater_prior = crater_prior
        self.crater_threshold = crater_threshold
        self.crater_peak = crater_peak

    def init_weights(self) -> None:
        """Initialise as mmseg does, then set the heads' prior."""
        super().init_weights()
        prior = _logit(self.crater_prior)
        for head in (self.decode_head, *([self.auxiliary_head] if self.with_auxiliary_head else [])):
            if hasattr(head, "conv_seg"):  # not every head of mmseg's ends in one
                nn.init.constant_(head.conv_seg.bias[1:], prior)

    def slide_inference(self, inputs: Tensor, batch_img_metas: list[dict[str, Any]]) -> Tensor:
        """Compute logits (B, C, H, W), float32, for (B, bands, H, W)."""
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
        if self.crater_peak > self.crater_threshold:
            mean[:, 1] -= excess_of_faint(
                mean[:, 1] - mean[:, 0], _logit(self.crater_peak) - _logit(self.crater_threshold)
            )
        return mean

    def _slide(self, inputs: Tensor) -> Tensor:
        """Compute logits (B, C, H, W), float32, at one scale and orientation."""
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
            # mmseg's heads return the size that img_shape has, if it is a torch.Size.
            windows = self.encode_decode(crops, [{"img_shape": crops.shape[2:]}])
            for (top, left), window in zip(some, windows.float().split(len(inputs)), strict=True):
                logits[:, :, top : top + rows, left : left + columns] += window
                count[:, :, top : top + rows, left : left + columns] += 1
        return (logits / count)[:, :, : size[0], : size[1]]


_CLEARLY = 0.05
"""A logit whose sign an 8-bit probability still shows."""


def excess_of_faint(margins: Tensor, peak: float) -> Tensor:
    """Compute what to subtract from the logits of faint craters.

    A crater that is certain nowhere becomes background.

    This is thresholding with hysteresis, as Canny 1986 applies to edges: a low threshold defines the outline, a high
    one decides whether there is a crater.

    Args:
        margins: logits of crater minus those of background, (B, H, W).
        peak: the margin that a 4-connected component of positive margins must reach somewhere.

    Returns:
        float32 (B, H, W): in components that do not reach it, their highest margin and a little more, which takes them
        below 0 even after rounding to 8 bits; 0 elsewhere.
    """
    excess = np.zeros(margins.shape, np.float32)
    for image, values in enumerate(margins.float().cpu().numpy()):
        count, components = cv2.connectedComponents((values > 0).astype(np.uint8), connectivity=4)
        highest = np.zeros(count, np.float32)
        np.maximum.at(highest, components, values)
        faint = highest < peak
        faint[0] = False
        excess[image] = np.where(faint, highest + _CLEARLY, 0)[components]
    return torch.from_numpy(excess).to(margins.device)


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))
