"""Validation metric of a segmentation training."""

from __future__ import annotations

import math

import numpy as np
import torch
from mmseg.evaluation import IoUMetric
from mmseg.registry import METRICS
from torch import Tensor

from mars_assets.evaluation.statistics import ratio
from mars_assets.segmentation.recipe import CLASSES


@METRICS.register_module()
class CraterMetric(IoUMetric):
    """mmseg's IoU, unrounded and as plain numbers.

    Intersections and unions are summed over the images first. A safe checkpoint may contain plain numbers only.
    """

    def compute_metrics(self, results: list[tuple[Tensor, ...]]) -> dict[str, float]:
        """Compute ``miou`` and ``iou_<class>``.

        They are NaN for a class that is neither labelled nor predicted, which ``miou`` leaves out.
        """
        intersection, union = (
            torch.stack([result[index] for result in results]).double().sum(0).numpy() for index in (0, 1)
        )
        iou = ratio(intersection, union)
        metrics = {f"iou_{name}": float(value) for name, value in zip(CLASSES, iou, strict=True)}
        present = iou[~np.isnan(iou)]
        return {"miou": float(present.mean()) if present.size else math.nan, **metrics}
