"""Nested subsets of training images, drawn by observation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd


def drawn_order(images: pd.DataFrame, seed: int) -> npt.NDArray[np.intp]:
    """Order training images so that the first of them are a subset of any size.

    Observations are in random order, and so are the images of each: few labels are those of few observations, as when
    somebody has only begun. The first images have one of each class, from the earliest observations that have it, since
    nothing can be learnt from one class.

    Args:
        images: ``image_id, observation, label`` of the training images. Their order does not matter.
        seed: of the draw.

    Returns:
        Positions of rows, (n,).
    """
    rng = np.random.default_rng(seed)
    by_id = np.argsort(images["image_id"].to_numpy(str), kind="stable")
    labels = images["label"].to_numpy()[by_id]
    names, observations = np.unique(images["observation"].to_numpy(str)[by_id], return_inverse=True)
    order = np.lexsort((rng.random(len(by_id)), rng.permutation(len(names))[observations]))
    _, first = np.unique(labels[order], return_index=True)
    is_first = np.isin(np.arange(len(order)), first)
    return np.asarray(by_id[np.concatenate([order[is_first], order[~is_first]])], np.intp)


def sizes(images: int, classes: int, fractions: Sequence[float]) -> list[int]:
    """Count the images of each fraction, rounded up, at least one of each class."""
    return [min(images, max(classes, math.ceil(round(fraction * images, 9)))) for fraction in fractions]
