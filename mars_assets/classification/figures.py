"""Figures of classifiers: evaluation, training, mistakes, uncertainty."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from mars_assets.bands import HLS_BANDS
from mars_assets.classification.recipe import CLASSES
from mars_assets.evaluation.statistics import with_interval
from mars_assets.images import read_rgb
from mars_assets.lake import HISTORY
from mars_assets.plotting import new_figure
from mars_assets.storage.files import read_table
from mars_assets.tensors.geotiff import read_chip

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mars_assets.classification.evaluate import Evaluation


def evaluation_figure(evaluation: Evaluation) -> Figure:
    """Plot ROC, precision-recall, confusion matrix and reliability."""
    figure, axes = new_figure(9, 8.5, rows=2, columns=2)
    row = evaluation.row
    figure.suptitle(f"{row['split']}: {row['n']} images, {row['n_craters']} with a crater")
    _roc(axes[0, 0], evaluation)
    _precision_recall(axes[0, 1], evaluation)
    _confusion(axes[1, 0], evaluation)
    _reliability(axes[1, 1], evaluation)
    return figure


def training_curves(folder: Path) -> Figure:
    """Plot a training's loss and accuracy, with a line at the selected step.

    Raises:
        MissingInputError: the folder holds no finished classifier.
    """
    history = read_table(folder / HISTORY, "cls_model")
    figure, axes = new_figure(9, 3.8, columns=2)
    _curves(axes[0, 0], history, {"train_loss": "train", "valid_loss": "validation"}, "cross entropy")
    accuracies = {"valid_accuracy": "accuracy", "valid_balanced_accuracy": "balanced accuracy"}
    _curves(axes[0, 1], history, accuracies, "validation")
    return figure


def confident_mistakes(images: pd.DataFrame, most: int = 12) -> pd.DataFrame:
    """Select misclassified images, the most confident first.

    Often it is the label that is wrong.

    Args:
        images: ``label, probability`` and any further columns.
        most: the maximum number of images.

    Returns:
        Rows of ``images`` with ``confidence``, the probability of the predicted class.
    """
    said = images["probability"] >= 0.5
    confidence = np.where(said, images["probability"], 1 - images["probability"])
    wrong = images.assign(confidence=confidence)[said != images["label"].astype(bool)]
    return wrong.sort_values("confidence", ascending=False, kind="stable").head(most).reset_index(drop=True)


def mistakes_sheet(images: pd.DataFrame, most: int = 12) -> Figure:
    """Draw the most confident mistakes with their ids, labels and probabilities.

    Args:
        images: ``image_id, chip (path), label, probability``.
        most: the maximum number of images.

    Raises:
        DamagedFileError: a chip cannot be read.
    """
    shown = confident_mistakes(images, most)
    labels = zip(shown["label"], shown["probability"], strict=True)
    captions = [f"label {CLASSES[label]}, p(crater) {probability:.3f}" for label, probability in labels]
    return _sheet(shown, captions, "most confident mistakes, contrast stretched" if len(shown) else "no mistakes")


def uncertain_sheet(images: pd.DataFrame, most: int = 6) -> Figure:
    """Draw the least certain images, which are most worth labelling.

    Args:
        images: ``image_id, chip (path), probability, uncertainty``.
        most: the maximum number of images.

    Raises:
        DamagedFileError: an image cannot be read.
    """
    shown = images.nlargest(most, "uncertainty")
    captions = [f"p(crater) {probability:.3f}" for probability in shown["probability"]]
    return _sheet(shown, captions, "least certain, contrast stretched")


def probability_histogram(images: pd.DataFrame) -> Figure:
    """Plot the distribution of ``probability`` over unlabelled images."""
    figure, axes = new_figure(6, 3.2)
    axis = axes[0, 0]
    axis.hist(images["probability"], bins=np.linspace(0, 1, 21).tolist(), color="C0", edgecolor="white")
    axis.set(xlabel="probability of a crater", ylabel="crops", xlim=(0, 1))
    axis.set_title(
        f"{len(images)} crops, {(images['probability'] >= 0.5).sum()} predicted to have a crater", fontsize=10
    )
    return figure


def _sheet(shown: pd.DataFrame, captions: Sequence[str], title: str) -> Figure:
    columns = 3 if len(shown) <= 6 else 4  # larger if there are few
    rows = max(1, -(-len(shown) // columns))
    figure, _ = new_figure(2.9 * columns, 3.5 * rows + 0.4, rows, columns)
    figure.suptitle(title)
    for axis in figure.axes:
        axis.set_axis_off()
    for axis, row, caption in zip(figure.axes, shown.to_dict("records"), captions, strict=False):
        axis.imshow(_stretched(Path(row["chip"])))
        axis.set_title("\n".join([*textwrap.wrap(row["image_id"], 26), caption]), fontsize=10)
    return figure


def _stretched(chip: Path) -> npt.NDArray[np.float32]:
    """Read RGB as float32 (H, W, 3), percentiles 1 to 99 stretched to [0, 1]."""
    if chip.suffix == ".tif":
        rgb = read_chip(chip, HLS_BANDS)[2::-1].transpose(1, 2, 0)
    else:
        rgb = read_rgb(chip).astype(np.float32)
    low, high = np.percentile(rgb, [1, 99], axis=(0, 1)).astype(np.float32)
    return np.asarray(np.clip((rgb - low) / np.maximum(high - low, np.float32(1e-6)), 0, 1))


def _score(evaluation: Evaluation, name: str, label: str) -> str:
    """Format a score with its interval, for a title."""
    return f"{label} {'undefined' if evaluation.row[name] is None else with_interval(evaluation.row, name)}"


def _unit_square(axis: Axes, x: str, y: str, title: str) -> None:
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=x, ylabel=y, aspect="equal")
    axis.set_title(title, fontsize=10)
    axis.grid(alpha=0.3)


def _roc(axis: Axes, evaluation: Evaluation) -> None:
    axis.plot([0, 1], [0, 1], color="0.7", linestyle="--", linewidth=1)
    axis.plot(evaluation.roc["false_positive_rate"], evaluation.roc["true_positive_rate"])
    _unit_square(axis, "false positive rate", "true positive rate", _score(evaluation, "auroc", "AUROC"))


def _precision_recall(axis: Axes, evaluation: Evaluation) -> None:
    row = evaluation.row
    axis.axhline(row["n_craters"] / row["n"], color="0.7", linestyle="--", linewidth=1)
    curve = evaluation.precision_recall
    axis.plot(curve["recall"], curve["precision"], drawstyle="steps-pre")
    _unit_square(axis, "recall", "precision", _score(evaluation, "average_precision", "average precision"))


def _confusion(axis: Axes, evaluation: Evaluation) -> None:
    from sklearn.metrics import confusion_matrix

    images = evaluation.images
    counts = confusion_matrix(images["label"], images["probability"] >= 0.5, labels=[0, 1])
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (label, said), count in np.ndenumerate(counts):
        text = f"{count}\n{shares[label, said]:.0%}"
        axis.text(said, label, text, ha="center", va="center", color="white" if shares[label, said] > 0.5 else "black")
    axis.set(
        xticks=[0, 1], yticks=[0, 1], xticklabels=CLASSES, yticklabels=CLASSES, xlabel="prediction", ylabel="label"
    )
    axis.set_title(_score(evaluation, "balanced_accuracy", "balanced accuracy"), fontsize=10)


def _reliability(axis: Axes, evaluation: Evaluation) -> None:
    bins = evaluation.calibration
    axis.plot([0, 1], [0, 1], color="0.7", linestyle="--", linewidth=1)
    size = 20 + 180 * bins["n"] / bins["n"].max()
    axis.scatter(bins["mean_probability"], bins["crater_fraction"], s=size, alpha=0.7)
    _unit_square(
        axis, "predicted probability", "fraction with a crater", _score(evaluation, "ece", "calibration error")
    )


def _curves(axis: Axes, history: pd.DataFrame, names: dict[str, str], title: str) -> None:
    for name, label in names.items():
        axis.plot(history["step"], history[name], marker=".", label=label)
    selected = history["step"].to_numpy()[history["valid_loss"].argmin()]
    axis.axvline(float(selected), color="0.7", linestyle="--", linewidth=1)
    axis.set(xlabel="step")
    axis.set_title(title, fontsize=10)
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)
