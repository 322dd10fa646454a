"""Evaluation of classifiers: scores, curves, calibration, label errors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mars_assets.classification.recipe import CLASSES
from mars_assets.craters.geometry import craters_of_labels
from mars_assets.craters.sizes import SIZE_CLASSES, size_class
from mars_assets.errors import MarsError
from mars_assets.evaluation.statistics import Floats, Statistic, estimates, once, ratio, undefined
from mars_assets.images import read_label_image

BINS = 15
"""Number of equal-width probability bins for the calibration error and the reliability diagram."""

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Evaluation:
    """Evaluation of a classifier on one split.

    Args:
        row: the scores, each with ``_low`` and ``_high``; those undefined on the split are None, and ``undefined``
            states which and why.
        images: one row per image in the split: the columns of the input.
    """

    row: dict[str, Any]
    images: pd.DataFrame

    @property
    def evidence(self) -> pd.DataFrame:
        """The scores' input: ``image_id, observation, label, probability``."""
        return self.images[["image_id", "observation", "label", "probability"]]

    @property
    def _labels(self) -> Labels:
        return self.images["label"].to_numpy(np.int64)

    @property
    def _probabilities(self) -> Floats:
        return self.images["probability"].to_numpy(np.float64)

    # Computed on demand: sweeps need only the row, and importing scikit-learn takes longer than training a head.
    @cached_property
    def roc(self) -> pd.DataFrame:
        """ROC curve: ``threshold, false_positive_rate, true_positive_rate``.

        Empty if a class is absent.
        """
        from sklearn.metrics import roc_curve

        columns = ["false_positive_rate", "true_positive_rate", "threshold"]
        if len(np.unique(self._labels)) < 2:
            return pd.DataFrame(columns=columns, dtype=np.float64)
        return pd.DataFrame(dict(zip(columns, roc_curve(self._labels, self._probabilities), strict=True)))

    @cached_property
    def precision_recall(self) -> pd.DataFrame:
        """Precision-recall curve: ``threshold, recall, precision``.

        Empty without craters.
        """
        from sklearn.metrics import precision_recall_curve

        if not self._labels.any():
            return pd.DataFrame(columns=["precision", "recall", "threshold"], dtype=np.float64)
        precision, recall, threshold = precision_recall_curve(self._labels, self._probabilities)
        # The curve's last point, at recall 0, has no threshold.
        return pd.DataFrame({"precision": precision, "recall": recall, "threshold": np.append(threshold, np.inf)})

    @cached_property
    def calibration(self) -> pd.DataFrame:
        """Calibration by bin: ``low, high, n, mean_probability, crater_fraction``."""
        binned = self.images.groupby(_bins(self._probabilities)).agg(
            n=("label", "size"), mean_probability=("probability", "mean"), crater_fraction=("label", "mean")
        )
        low = binned.index.to_numpy() / BINS
        return binned.reset_index(drop=True).assign(low=low, high=low + 1 / BINS)


def scores(labels: Labels, probabilities: Floats) -> dict[str, float]:
    """Compute all metrics at threshold 0.5.

    The definitions are scikit-learn's; ``ece`` is the expected calibration error of the crater's probability (Naeini et
    al. 2015). Undefined metrics, such as AUROC with one class, are NaN.

    Args:
        labels: 0 or 1, shape (n,).
        probabilities: of label 1, shape (n,).
    """
    return {
        name: float(value[0]) for name, value in scores_of_samples(labels, probabilities, once(len(labels))).items()
    }


def scores_of_samples(labels: Labels, probabilities: Floats, counts: Floats) -> dict[str, Floats]:
    """Compute :func:`scores` for R samples of the images, each of shape (R,).

    Uses numpy, since a bootstrap has a thousand samples and scikit-learn takes 9 ms per sample for all scores.

    Args:
        labels: 0 or 1, shape (n,).
        probabilities: of label 1, shape (n,).
        counts: how often each sample contains each image, shape (R, n); no sample is empty.
    """
    n, said = counts.sum(1), probabilities >= 0.5
    positives = counts @ labels
    negatives = n - positives
    tp = counts @ (said & (labels == 1))
    fp = counts @ said - tp
    recall, specificity = ratio(tp, positives), ratio(negatives - fp, negatives)
    true_positives, false_positives = _operating_points(labels, probabilities, counts)
    steps = np.diff(true_positives, prepend=0.0)
    # Above the highest probability in a sample precision is undefined, but recall does not change there.
    precisions = np.nan_to_num(ratio(true_positives, true_positives + false_positives))
    start = np.zeros((len(counts), 1))
    area = np.trapezoid(np.hstack([start, true_positives]), np.hstack([start, false_positives]))
    bins = np.eye(BINS)[_bins(probabilities)]
    gaps = counts @ ((probabilities - labels)[:, None] * bins)
    right = np.where(labels == 1, probabilities, 1 - probabilities)
    return {
        "accuracy": (tp + negatives - fp) / n,
        "balanced_accuracy": (recall + specificity) / 2,
        "precision": ratio(tp, tp + fp),
        "recall": recall,
        "f1": ratio(2 * tp, tp + fp + positives),
        "auroc": ratio(area, positives * negatives),
        "average_precision": ratio((steps * precisions).sum(1), positives),
        "ece": np.abs(gaps).sum(1) / n,
        "loss": counts @ -np.log(right.clip(min=np.finfo(np.float64).eps)) / n,
    }


def scores_of_groups(labels: Labels, probabilities: Floats, groups: npt.NDArray[np.intp]) -> Statistic:
    """Return balanced accuracy and AUROC as a function of counts of groups.

    They are those of :func:`scores_of_samples`, in a fraction of the time for many samples: AUROC is the share of pairs
    of an image of each class that are in order (Mann and Whitney 1947), which are counted once for each pair of groups.

    Args:
        labels: 0 or 1, shape (n,).
        probabilities: of label 1, shape (n,).
        groups: of each image, from 0, shape (n,).
    """
    member = np.eye(int(groups.max()) + 1)[groups]
    positive, said = labels == 1, probabilities >= 0.5
    positives, negatives, hits, rejections = (
        chosen.astype(np.float64) @ member for chosen in (positive, ~positive, positive & said, ~(positive | said))
    )
    above = np.sign(probabilities[positive][:, None] - probabilities[~positive]) / 2 + 0.5
    in_order = member[positive].T @ above @ member[~positive]

    def scores(counts: Floats) -> dict[str, Floats]:
        of_positives, of_negatives = counts @ positives, counts @ negatives
        recall, specificity = ratio(counts @ hits, of_positives), ratio(counts @ rejections, of_negatives)
        pairs = ((counts @ in_order) * counts).sum(1)
        return {"balanced_accuracy": (recall + specificity) / 2, "auroc": ratio(pairs, of_positives * of_negatives)}

    return scores


def evaluate(images: pd.DataFrame, split: str, resamples: int = 1000) -> Evaluation:
    """Evaluate predictions on a split.

    Intervals are 95 % bootstraps. If the split has several observations, whole observations are resampled, since images
    of the same observation are similar; otherwise images. ``resampled`` states which.

    Args:
        images: ``image_id, split, label, observation, probability`` and any further columns.
        split: the split to evaluate on.
        resamples: number of bootstrap samples.

    Raises:
        MarsError: the split is empty, or an image of it has no prediction.
    """
    chosen = images[images["split"] == split].reset_index(drop=True)
    if chosen.empty:
        raise MarsError(f"no image is in the split {split!r}: choose one of {sorted(images['split'].unique())}")
    missing = chosen.loc[chosen["probability"].isna(), "image_id"]
    if len(missing):
        raise MarsError(
            f"{len(missing)} images of {split!r} have no prediction, such as {missing.iloc[0]}: predict them first"
        )
    labels = chosen["label"].to_numpy(np.int64)
    probabilities = chosen["probability"].to_numpy(np.float64)
    values, resampled = estimates(partial(scores_of_samples, labels, probabilities), chosen, resamples)
    row: dict[str, Any] = {
        "split": split,
        "n": len(chosen),
        "n_craters": int(labels.sum()),
        "n_observations": int(chosen["observation"].nunique()),
        **values,
        "resampled": resampled,
        "undefined": _undefined(values, labels, split),
    }
    return Evaluation(row, chosen)


def by_observation(images: pd.DataFrame) -> pd.DataFrame:
    """Compute the accuracy in each observation.

    Args:
        images: ``observation, label, probability``, as in :class:`Evaluation`.

    Returns:
        One row per observation, the worst first: observation (``–`` for images without one), images, craters, right
        (share), right_low, right_high (95 % Wilson interval), mean_probability.
    """
    rows = []
    for observation, group in images.groupby(images["observation"].fillna("–")):
        right = (group["probability"] >= 0.5) == group["label"].astype(bool)
        counts = len(group), int(group["label"].sum())
        rows.append((observation, *counts, *_share(right.to_numpy(bool)), group["probability"].mean()))
    columns = ["observation", "images", "craters", "right", "right_low", "right_high", "mean_probability"]
    return pd.DataFrame(rows, columns=columns).sort_values(
        ["right", "images"], ascending=[True, False], kind="stable", ignore_index=True
    )


def by_crater_size(images: pd.DataFrame) -> pd.DataFrame:
    """Compute the recall by the diameter of an image's largest crater.

    Args:
        images: ``label, probability, instances`` (path of the numbered craters, None for images without outlines).

    Returns:
        One row per size class: diameter_px, images, found (share), found_low, found_high (95 % Wilson interval); empty
        if no image has outlines.

    Raises:
        DamagedFileError: a mask cannot be read.
    """
    known = images[(images["label"] == 1) & images["instances"].notna()]
    craters = [craters_of_labels(read_label_image(Path(path))) for path in known["instances"]]
    largest = np.array([max((crater.diameter for crater in some), default=0.0) for some in craters])
    hits = (known["probability"] >= 0.5).to_numpy(bool)
    groups = {name: hits[(largest > 0) & (size_class(largest) == size)] for size, name in enumerate(SIZE_CLASSES)}
    rows = [(name, len(group), *_share(group)) for name, group in groups.items() if len(group)]
    return pd.DataFrame(rows, columns=["diameter_px", "images", "found", "found_low", "found_high"])


def _share(hits: npt.NDArray[np.bool_]) -> tuple[float, float, float]:
    """Compute a share with its 95 % Wilson interval."""
    from scipy.stats import binomtest

    test = binomtest(int(hits.sum()), len(hits))
    interval = test.proportion_ci(0.95, method="wilson")
    return float(hits.mean()), interval.low, interval.high


def suspected_label_errors(images: pd.DataFrame) -> pd.DataFrame:
    """Select images whose labels are probably wrong, by confident learning.

    A label is suspected if the probability of the other class is at least as high as it is on average for images of
    that class (Northcutt et al. 2021, Confident learning, J. Artif. Intell. Res. 70). The model must not have been
    trained on the images.

    Args:
        images: ``label, probability`` and any further columns.

    Returns:
        Rows of ``images``, the least credible label first; empty if a class is absent.
    """
    labels = images["label"].to_numpy(np.int64)
    if len(np.unique(labels)) < len(CLASSES):
        return images.head(0)
    from cleanlab.filter import find_label_issues

    probabilities = images["probability"].to_numpy(np.float64)
    issues: npt.NDArray[np.intp] = find_label_issues(
        labels,
        np.stack([1 - probabilities, probabilities], axis=1),
        filter_by="confident_learning",
        return_indices_ranked_by="self_confidence",
        n_jobs=1,
    )
    return images.iloc[issues].reset_index(drop=True)


def _undefined(values: dict[str, float | None], labels: Labels, split: str) -> str:
    """State which metrics are undefined and why; empty if none is."""
    names = undefined(values)
    if not names:
        return ""
    absent = [name for label, name in enumerate(CLASSES) if not (labels == label).any()]
    reason = f"no image of class {absent[0]} in {split}" if absent else "no image is predicted to be a crater"
    return f"{', '.join(names)}: {reason}"


def _operating_points(labels: Labels, probabilities: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """Count true and false positives by threshold, from the highest down.

    Returns:
        Two arrays of shape (R, thresholds).
    """
    order = np.argsort(-probabilities, kind="stable")
    last_of_tie = np.append(np.flatnonzero(np.diff(probabilities[order])), len(order) - 1)
    counts = counts[:, order]
    said = np.cumsum(counts, axis=1)[:, last_of_tie]
    true_positives = np.cumsum(counts * labels[order], axis=1)[:, last_of_tie]
    return true_positives, said - true_positives


def _bins(probabilities: Floats) -> npt.NDArray[np.intp]:
    return np.minimum((probabilities * BINS).astype(np.intp), BINS - 1)
