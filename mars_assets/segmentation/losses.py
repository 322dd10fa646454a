"""Losses of craters, which are few and small, in mmseg's form. None lets ignored pixels in.

Letters in shapes: B batch, C classes, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from mmseg.models.losses import CrossEntropyLoss
from mmseg.registry import MODELS
from torch import Tensor, nn

from mars_assets.errors import MarsError
from mars_assets.segmentation.recipe import IGNORE


def _counted(target: Tensor, weight: Tensor | None, ignore_index: int) -> Tensor:
    """How much each pixel counts, (B, H, W): its weight, 0 where it is ignored."""
    valid = target != ignore_index
    return valid.float() if weight is None else valid * weight


@MODELS.register_module()
class PixelMeanCrossEntropyLoss(CrossEntropyLoss):
    """Weighted cross entropy, its mean over the pixels that are not ignored: mmseg 0.x's, which the paper used.

    mmseg 1.x divides by the sum of the pixels' class weights instead, so that with a small weight of the background a batch
    without craters counts as much as one full of them.
    """

    def forward(
        self, cls_score: Tensor, label: Tensor, weight: Tensor | None = None, ignore_index: int = IGNORE, **kwargs: Any
    ) -> Tensor:
        """Logits (B, C, H, W) and labels (B, H, W) -> scalar. ``weight`` (B, H, W), if any, scales pixels' part."""
        counted = max(int((label != ignore_index).sum()), 1)
        return super().forward(cls_score, label, weight, avg_factor=counted, ignore_index=ignore_index, **kwargs)


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
        valid = _counted(target, weight, ignore_index)
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
class CraterwiseDiceLoss(nn.Module):
    """1 - Dice of each crater in its own surroundings, mean over the craters of the batch: every crater counts alike, so that
    those of ten pixels are not drowned by those of four hundred.

    A crater is a connected component of the labels; its surroundings are all pixels that are nearer to it than to any
    other, so that a false alarm is held against the crater next to it. Jaus et al. 2024 (arXiv:2410.18684); Dice with plain
    sums. An image without craters has no part in it.

    Args:
        smooth: added to both sides of Dice's fraction.
    """

    def __init__(self, smooth: float = 1.0, loss_weight: float = 1.0, loss_name: str = "loss_craterwise_dice") -> None:
        super().__init__()
        self.smooth = smooth
        self.loss_weight = loss_weight
        self.loss_name = loss_name

    def forward(
        self, pred: Tensor, target: Tensor, weight: Tensor | None = None, ignore_index: int = IGNORE, **_: Any
    ) -> Tensor:
        """Logits (B, 2, H, W) and labels (B, H, W) -> scalar; 0 without a crater. ``weight`` (B, H, W), if any, scales pixels'
        part.
        """
        used = _counted(target, weight, ignore_index)
        probability = pred.float().softmax(dim=1)[:, 1]
        crater = (target == 1).float()
        numbers, craters = surroundings(target.cpu().numpy() == 1)
        cells = torch.from_numpy(numbers).to(pred.device).flatten()
        parts = torch.stack([probability * crater * used, (probability + crater) * used]).flatten(1)
        overlap, size = parts.new_zeros((2, craters + 1)).index_add(1, cells, parts)[:, 1:]
        loss = 1 - (2 * overlap + self.smooth) / (size + self.smooth)
        return self.loss_weight * loss.sum() / max(craters, 1)


@MODELS.register_module(name=["MaskedTverskyLoss", "CraterBoundaryLoss"])
class RetiredLoss(nn.Module):
    """Stand-in for losses that no longer exist, so that models trained with them still open and predict."""

    def __init__(self, **_: Any) -> None:
        super().__init__()

    def forward(self, *_: Any, **__: Any) -> Tensor:
        """Refuse to train.

        Raises:
            MarsError: always.
        """
        raise MarsError(
            "the losses MaskedTverskyLoss and CraterBoundaryLoss no longer exist: name another to train with"
        )


def surroundings(craters: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], int]:
    """Which crater each pixel is nearest to.

    Args:
        craters: their pixels in each image, (B, H, W). Those that touch, if only at a corner, are one.

    Returns:
        The number of the crater, from 1 on through the batch, (B, H, W), 0 in images without; and how many craters there are.
    """
    numbers, count = np.zeros(craters.shape, np.int64), 0
    for image, mask in enumerate(craters):
        if mask.any():
            # OpenCV finds the nearest zero, and numbers the components of zeros from 1 on.
            _, nearest = cv2.distanceTransformWithLabels(
                (~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_CCOMP
            )
            numbers[image] = nearest + count
            count += int(nearest.max())
    return numbers, count
