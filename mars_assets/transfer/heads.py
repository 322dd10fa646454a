"""Heads on frozen features, each with one setting that validation images choose.

A head is tuned over seven values, whatever the features and the number of labels: an equal budget. Both classes weigh
the same, as in the default recipe of ``cls_model``, which draws them equally often.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mars_assets.evaluation.statistics import Floats

Labels = npt.NDArray[np.int64]
Features = npt.NDArray[np.float32]
Head = Callable[[Features, Labels, Features], Iterator[tuple[float, Floats]]]
"""Features and labels to fit, further features (n, D) -> each setting with the probabilities of a crater, (n,)."""

REGULARISATION = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2)
"""Values of C, the inverse strength of the logistic regression's penalty, on standardised features."""
NEIGHBOURS = (1, 3, 5, 9, 15, 25, 45)


class Predicted(NamedTuple):
    """What a tuned head predicts.

    Args:
        setting: the chosen one.
        validation_loss: cross entropy on the validation images, the lowest of all settings.
        probabilities: of the held-out images.
        seconds: of all fits and predictions.
    """

    setting: float
    validation_loss: float
    probabilities: Floats
    seconds: float


def tuned(
    way: str, labelled: tuple[Features, Labels], validation: tuple[Features, Labels], held_out: Features
) -> Predicted:
    """Fit a head with each setting, and predict held-out images with the best.

    The lowest validation loss chooses; of equals the first, which is the stronger penalty or fewer neighbours.

    Args:
        way: kind of head.
        labelled: features (n, D) and labels, 0 or 1, of the training images, of both classes.
        validation: of the validation images.
        held_out: features of the held-out images, which take no part in the choice.
    """
    start = time.perf_counter()
    features, labels = validation
    others = np.concatenate([features, held_out])
    setting, probabilities = min(
        HEADS[way](*labelled, others), key=lambda fitted: cross_entropy(labels, fitted[1][: len(labels)])
    )
    loss = cross_entropy(labels, probabilities[: len(labels)])
    return Predicted(setting, loss, probabilities[len(labels) :], time.perf_counter() - start)


def cross_entropy(labels: Labels, probabilities: Floats) -> float:
    """Compute the cross entropy of probabilities of label 1, classes weighing alike."""
    right = np.where(labels == 1, probabilities, 1 - probabilities).clip(min=np.finfo(np.float64).eps)
    return float(np.average(-np.log(right), weights=_balanced(labels)))


def _balanced(labels: Labels) -> Floats:
    """Weigh images so that the classes that are present have equal sums."""
    counts = np.bincount(labels, minlength=2)
    return 1 / counts[labels]


def _linear(features: Features, labels: Labels, others: Features) -> Iterator[tuple[float, Floats]]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(features.astype(np.float64))
    fitted, predicted = (scaler.transform(some.astype(np.float64)) for some in (features, others))
    for strength in REGULARISATION:
        model = LogisticRegression(C=strength, class_weight="balanced", max_iter=5000, tol=1e-6).fit(fitted, labels)
        yield strength, model.predict_proba(predicted)[:, 1]


def _neighbours(features: Features, labels: Labels, others: Features) -> Iterator[tuple[float, Floats]]:
    """Vote by the angle between features.

    A vote of the rarer class counts more, and each class has one vote in advance.
    """
    from sklearn.neighbors import NearestNeighbors

    numbers = [number for number in NEIGHBOURS if number <= len(labels)]
    index = NearestNeighbors(n_neighbors=numbers[-1], metric="cosine", algorithm="brute").fit(features)
    nearest = index.kneighbors(others, return_distance=False)
    weights = _balanced(labels) * len(labels) / 2
    craters, votes = (weights * labels)[nearest].cumsum(1), weights[nearest].cumsum(1)
    for number in numbers:
        yield float(number), (craters[:, number - 1] + 1) / (votes[:, number - 1] + 2)


HEADS: Mapping[str, Head] = {"linear": _linear, "knn": _neighbours}
