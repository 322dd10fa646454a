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
from mmseg.registry import MODELS
from torch import Tensor, nn

from mars_assets.segmentation.recipe import IGNORE


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
class CraterwiseLoss(nn.Module):
    """Every crater counts alike, and every false alarm as much as a crater: those of ten pixels are not drowned by those of
    four hundred.

    The mean over the batch's craters and false alarms of 1 - Dice, where

    - a crater is a connected component of the labels, and its Dice that of the softmax within its surroundings: the pixels
      that are nearer to it than to any other, no farther than its own radius or ``margin``;
    - a false alarm is a connected component of what is predicted (probability above 0.5) that touches no crater and lies out
      of all surroundings; for its 1 - Dice, which is 1 whatever is said, stands its mean probability.

    Components weighted alike are the idea of Kofler et al. 2022 (arXiv:2205.08209), cells of the nearest component that of
    Jaus et al. 2024 (arXiv:2410.18684); neither counts false components.

    Args:
        margin: how far surroundings reach at least, in pixels.
        smooth: added to both sides of Dice's fraction.
    """

    def __init__(
        self, margin: float = 8.0, smooth: float = 1.0, loss_weight: float = 1.0, loss_name: str = "loss_craterwise"
    ) -> None:
        super().__init__()
        self.margin = margin
        self.smooth = smooth
        self.loss_weight = loss_weight
        self.loss_name = loss_name

    def forward(
        self, pred: Tensor, target: Tensor, weight: Tensor | None = None, ignore_index: int = IGNORE, **_: Any
    ) -> Tensor:
        """Logits (B, 2, H, W) and labels (B, H, W) -> scalar; 0 with neither craters nor false alarms. ``weight`` (B, H, W), if
        any, scales pixels' part.
        """
        used = (target != ignore_index).float() if weight is None else (target != ignore_index) * weight
        probability = pred.float().softmax(dim=1)[:, 1]
        crater = (target == 1).float()
        numbers, craters = cells_of(target.cpu().numpy(), self.margin)
        said = ((probability > 0.5) & (target != ignore_index)).cpu().numpy()
        alarms, false = _false_alarms(said, numbers > 0)

        def summed(values: Tensor, groups: npt.NDArray[np.int64], count: int) -> Tensor:
            index = torch.from_numpy(groups).to(values.device).flatten()
            return values.new_zeros((len(values), count + 1)).index_add(1, index, values.flatten(1))[:, 1:]

        overlap, size = summed(
            torch.stack([probability * crater * used, (probability + crater) * used]), numbers, craters
        )
        missed = 1 - (2 * overlap + self.smooth) / (size + self.smooth)
        heard, pixels = summed(torch.stack([probability * used, used]), alarms, false)
        wrong = heard / pixels.clamp_min(1e-6)
        return self.loss_weight * (missed.sum() + wrong.sum()) / max(craters + false, 1)


def _false_alarms(said: npt.NDArray[np.bool_], near: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], int]:
    """Numbers the components of ``said``, (B, H, W), that hold no pixel of ``near``, from 1 on; 0 elsewhere; and their count."""
    numbers, count = np.zeros(said.shape, np.int64), 0
    for image, mask in enumerate(said):
        found, components = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
        false = np.ones(found, bool)
        false[0] = False
        false[np.unique(components[near[image]])] = False
        renumbered = np.cumsum(false) * false
        numbers[image] = (renumbered + count * false)[components]
        count += int(false.sum())
    return numbers, count


def cells_of(labels: npt.NDArray[Any], margin: float) -> tuple[npt.NDArray[np.int64], int]:
    """The surroundings of each crater, see :class:`CraterwiseLoss`.

    Args:
        labels: (B, H, W), 1 for craters.
        margin: how far surroundings reach at least, in pixels.

    Returns:
        (B, H, W): the number of the crater whose surroundings a pixel is in, from 1 on through the batch, 0 for none; and how
        many craters there are.
    """
    cells, craters = np.zeros(labels.shape, np.int64), 0
    for image, mask in enumerate(labels == 1):
        if not mask.any():
            continue
        # OpenCV measures the distance to the nearest zero, and numbers the components of zeros from 1 on.
        distance, nearest = cv2.distanceTransformWithLabels(
            (~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_CCOMP
        )
        areas = np.bincount(nearest[mask], minlength=nearest.max() + 1)
        reach = np.maximum(np.sqrt(areas / np.pi), margin)
        cells[image] = np.where(distance <= reach[nearest], nearest + craters, 0)
        craters += len(areas) - 1
    return cells, craters
