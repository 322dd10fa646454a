"""Losses for craters, which are few and small, in mmseg's form.

Ignored pixels enter none of them.

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
from mmseg.registry import MODELS
from torch import Tensor, nn

from mars_assets.errors import MarsError
from mars_assets.segmentation.recipe import IGNORE


class CraterLoss(nn.Module):
    """Base of the losses: a subclass implements :meth:`loss`.

    Args:
        loss_weight: factor of the loss.
        loss_name: its name in mmseg's logs, ``loss_...``; empty for the class's own.
    """

    loss_name = "loss_crater"

    def __init__(self, loss_weight: float = 1.0, loss_name: str = "") -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.loss_name = loss_name or self.loss_name

    def forward(
        self, logits: Tensor, labels: Tensor, weight: Tensor | None = None, ignore_index: int = IGNORE, **_: Any
    ) -> Tensor:
        """Compute the loss as mmseg's heads ask for it.

        Args:
            logits: (B, C, H, W).
            labels: (B, H, W), int64.
            weight: of the pixels, (B, H, W); 1 if None.
            ignore_index: label of the pixels to ignore.

        Returns:
            A scalar.
        """
        known = labels != ignore_index
        weights = known.float() if weight is None else known * weight
        return self.loss_weight * self.loss(logits.float(), labels.where(known, 0), known, weights)

    def loss(self, logits: Tensor, labels: Tensor, known: Tensor, weights: Tensor) -> Tensor:
        """Compute the unweighted loss.

        Args:
            logits: (B, C, H, W), float32.
            labels: (B, H, W), 0 where ignored.
            known: the pixels that are not ignored, bool (B, H, W).
            weights: of the pixels, (B, H, W), 0 where ignored.

        Returns:
            A scalar.
        """
        raise NotImplementedError


@MODELS.register_module()
class PixelMeanCrossEntropyLoss(CraterLoss):
    """Weighted cross entropy, averaged over the pixels that are not ignored.

    This is the mean of mmseg 0.x, which the paper used.

    mmseg 1.x divides by the sum of the pixels' class weights instead, so that with a small weight of the background a
    batch without craters counts as much as one full of them.

    Args:
        class_weight: weights of the classes; equal if None.
        named: see :class:`CraterLoss`.
    """

    loss_name = "loss_ce"

    def __init__(self, class_weight: Sequence[float] | None = None, **named: Any) -> None:
        super().__init__(**named)
        self.class_weight = class_weight

    def loss(self, logits: Tensor, labels: Tensor, known: Tensor, weights: Tensor) -> Tensor:
        """Compute the mean of :meth:`of_pixels`."""
        loss = self.of_pixels(F.cross_entropy(logits, labels, reduction="none"))
        if self.class_weight is not None:
            loss = loss * loss.new_tensor(self.class_weight)[labels]
        return (loss * weights).sum() / known.sum().clamp_min(1)

    def of_pixels(self, surprise: Tensor) -> Tensor:
        """Compute the loss of each pixel, (B, H, W), from -log p of its class."""
        return surprise


@MODELS.register_module()
class MaskedFocalLoss(PixelMeanCrossEntropyLoss):
    """Focal loss of the softmax, averaged over the pixels that are not ignored.

    ``-w * (1 - p) ** gamma * log p`` with the true class's probability p and weight w, Lin et al. 2017
    (arXiv:1708.02002). With two classes, mmseg's ``FocalLoss`` on a CPU takes every pixel for background.

    Args:
        gamma: the higher, the less a pixel counts that is already right.
        named: see :class:`PixelMeanCrossEntropyLoss`.
    """

    loss_name = "loss_focal"

    def __init__(self, gamma: float = 2.0, **named: Any) -> None:
        super().__init__(**named)
        self.gamma = gamma

    def of_pixels(self, surprise: Tensor) -> Tensor:
        """Scale each pixel's cross entropy by its error."""
        return (1 - (-surprise).exp()) ** self.gamma * surprise


@MODELS.register_module()
class MaskedDiceLoss(CraterLoss):
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
        named: see :class:`CraterLoss`.
    """

    loss_name = "loss_dice"

    def __init__(
        self,
        class_weight: Sequence[float] | None = None,
        batch: bool = False,
        smooth: float = 1.0,
        exponent: int = 2,
        **named: Any,
    ) -> None:
        super().__init__(**named)
        self.class_weight = class_weight
        self.batch = batch
        self.smooth = smooth
        self.exponent = exponent

    def loss(self, logits: Tensor, labels: Tensor, known: Tensor, weights: Tensor) -> Tensor:
        """Compute the mean over classes and, unless ``batch``, over images."""
        classes = logits.shape[1]
        truth = F.one_hot(labels, classes).movedim(-1, 1)
        probability = logits.softmax(dim=1)
        sums = (0, 2, 3) if self.batch else (2, 3)
        weights = weights[:, None]
        overlap = (probability * truth * weights).sum(sums)
        size = ((probability**self.exponent + truth) * weights).sum(sums)
        loss = 1 - (2 * overlap + self.smooth) / (size + self.smooth)
        of_classes = loss.new_tensor(self.class_weight or [1.0] * classes)
        return (loss * of_classes).sum(-1).mean() / of_classes.sum()


@MODELS.register_module()
class CraterwiseDiceLoss(CraterLoss):
    """1 - Dice of each crater in its surroundings, averaged over a batch's craters.

    Every crater counts alike, so that those of ten pixels are not drowned by those of four hundred. A crater is a
    connected component of the labels; its surroundings are all pixels nearer to it than to any other, so that a false
    alarm counts against the nearest crater. Jaus et al. 2024 (arXiv:2410.18684); Dice with plain sums. An image without
    craters contributes nothing.

    Args:
        smooth: added to both sides of Dice's fraction.
        named: see :class:`CraterLoss`.
    """

    loss_name = "loss_craterwise_dice"

    def __init__(self, smooth: float = 1.0, **named: Any) -> None:
        super().__init__(**named)
        self.smooth = smooth

    def loss(self, logits: Tensor, labels: Tensor, known: Tensor, weights: Tensor) -> Tensor:
        """Compute the mean over the craters; 0 without any."""
        probability = logits.softmax(dim=1)[:, 1]
        crater = (labels == 1).float()
        numbers, craters = surroundings(labels.cpu().numpy() == 1)
        cells = torch.from_numpy(numbers).to(logits.device).flatten()
        parts = torch.stack([probability * crater * weights, (probability + crater) * weights]).flatten(1)
        overlap, size = parts.new_zeros((2, craters + 1)).index_add(1, cells, parts)[:, 1:]
        loss = 1 - (2 * overlap + self.smooth) / (size + self.smooth)
        return loss.sum() / max(craters, 1)


@MODELS.register_module(name=["MaskedTverskyLoss", "CraterBoundaryLoss"])
class RetiredLoss(CraterLoss):
    """Stand-in for losses that no longer exist.

    With it, models that were trained with them still open and predict.
    """

    def __init__(self, **_: Any) -> None:
        super().__init__()

    def loss(self, logits: Tensor, labels: Tensor, known: Tensor, weights: Tensor) -> Tensor:
        """Refuse to train.

        Raises:
            MarsError: always.
        """
        raise MarsError(
            "the losses MaskedTverskyLoss and CraterBoundaryLoss no longer exist: name another to train with"
        )


def surroundings(craters: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], int]:
    """Find the nearest crater of each pixel.

    Args:
        craters: their pixels in each image, (B, H, W). Craters that touch, if only at a corner, count as one.

    Returns:
        The number of the crater, counted from 1 through the batch, (B, H, W), 0 in images without any; and the number
        of craters.
    """
    numbers, count = np.zeros(craters.shape, np.int64), 0
    for image, mask in enumerate(craters):
        if mask.any():
            # OpenCV finds the nearest zero, and numbers the components of zeros from 1.
            _, nearest = cv2.distanceTransformWithLabels(
                (~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_CCOMP
            )
            numbers[image] = nearest + count
            count += int(nearest.max())
    return numbers, count
