"""Figures of trainings, predictions and evaluations."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from mars_assets.bands import HLS_BANDS, BandStatistics, reflectance_to_rgb
from mars_assets.images import read_label_image, read_rgb
from mars_assets.plotting import new_figure
from mars_assets.segmentation.prediction_file import read_mask, read_probability
from mars_assets.segmentation.recipe import IGNORE
from mars_assets.tensors.geotiff import read_chip

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mars_assets.segmentation.evaluate import Evaluation


# Okabe and Ito's colours, which colour-blind readers can distinguish.
_FOUND, _FALSE, _MISSED, _OUTLINE = (0, 158, 115), (213, 94, 0), (0, 114, 178), "#f0e442"


def evaluation_figure(evaluation: Evaluation, history: pd.DataFrame) -> Figure:
    """Plot training curves, scores by crater size, and IoUs by image.

    Args:
        evaluation: of one split.
        history: of the model's training, ``history.parquet``.
    """
    figure, axes = new_figure(11, 7.5, rows=2, columns=2)
    row = evaluation.row
    figure.suptitle(f"{row['split']}: {row['n']} images, {row['n_craters']} craters")
    _loss(axes[0, 0], history)
    _validation(axes[0, 1], history)
    _sizes(axes[1, 0], evaluation)
    _images(axes[1, 1], evaluation)
    return figure


def training_figure(history: pd.DataFrame) -> Figure:
    """Plot loss and validation.

    Args:
        history: ``history.parquet`` of a training.
    """
    figure, axes = new_figure(11, 4, columns=2)
    _loss(axes[0, 0], history)
    _validation(axes[0, 1], history)
    return figure


def worst(evaluation: Evaluation, most: int = 6) -> pd.DataFrame:
    """Select the images with the largest share of wrong pixels, the worst first.

    Returns:
        Rows of ``evaluation.images``.
    """
    return evaluation.images.sort_values("pixel_accuracy", kind="stable", na_position="last").head(most)


def overlay_sheet(images: pd.DataFrame, statistics: BandStatistics) -> Figure:
    """Draw images next to their labels, predicted probabilities and errors.

    Args:
        images: rows of ``Evaluation.images``, with ``chip``.
        statistics: of the chips, to undo their scaling to reflectance.
    """
    figure, axes = new_figure(12, 3.5 * len(images) + 0.4, rows=max(len(images), 1), columns=4)
    figure.suptitle("pixels of craters: found (green), false (orange), missed (blue)", fontsize=13)
    for axis in figure.axes:
        axis.set_axis_off()
    for row, image in zip(axes, images.to_dict("records"), strict=False):
        rgb = reflectance_to_rgb(read_chip(Path(image["chip"]), HLS_BANDS), statistics)
        truth, probability = read_label_image(Path(image["mask"])), read_probability(Path(image["prediction"]))
        for axis in row[:3]:
            axis.imshow(rgb)
        _outline(row[1], truth == 1)
        row[2].imshow(probability, cmap="magma", vmin=0, vmax=1, alpha=0.6)
        row[3].imshow(error_overlay(rgb, truth, probability >= 0.5))
        titles = (
            "\n".join(textwrap.wrap(image["image_id"], 26, break_on_hyphens=False)),
            "labels",
            "probability",
            f"IoU {image['iou_crater']:.2f}; {image['found']} craters found,\n"
            f"{image['missed']} missed, {image['false_alarms']} false",
        )
        for axis, title in zip(row, titles, strict=True):
            axis.set_title(title, fontsize=12)  # the UI shows the sheet half as large
    return figure


def error_overlay(
    rgb: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8], predicted: npt.NDArray[np.bool_]
) -> npt.NDArray[np.uint8]:
    """Colour the crater pixels of an image.

    Found ones become green, false ones orange and missed ones blue; ignored pixels keep their colour.

    Args:
        rgb: uint8, shape (H, W, 3).
        truth: 0, 1 or 255 for ignored, shape (H, W).
        predicted: shape (H, W).
    """
    overlay = rgb.astype(np.float32)
    valid = truth != IGNORE
    for where, colour in (
        (valid & (truth == 1) & predicted, _FOUND),
        (valid & (truth == 0) & predicted, _FALSE),
        (valid & (truth == 1) & ~predicted, _MISSED),
    ):
        overlay[where] = 0.45 * overlay[where] + 0.55 * np.array(colour, np.float32)
    return overlay.astype(np.uint8)


def _outline(axis: Axes, mask: npt.NDArray[np.bool_]) -> None:
    if mask.any() and not mask.all():
        axis.contour(mask, levels=[0.5], colors=[_OUTLINE], linewidths=0.8)


def _loss(axis: Axes, history: pd.DataFrame) -> None:
    losses = history.dropna(subset="loss")
    axis.plot(losses["iteration"], losses["loss"], linewidth=1)
    axis.set(xlabel="iteration")
    axis.set_title("training loss", fontsize=10)
    axis.grid(alpha=0.3)


def _validation(axis: Axes, history: pd.DataFrame) -> None:
    validated = history.dropna(subset="miou")
    for name, label in (("iou_background", "background"), ("iou_crater", "crater"), ("miou", "mean")):
        axis.plot(validated["iteration"], validated[name], marker=".", label=label)
    best = validated["iteration"].to_numpy()[validated["miou"].to_numpy().argmax()]
    axis.axvline(best, color="0.7", linestyle="--", linewidth=1)
    axis.set(xlabel="iteration", ylim=(0, 1))
    axis.set_title("IoU on the validation set; dashed: selected checkpoint", fontsize=10)
    axis.legend(fontsize=8, loc="lower right")
    axis.grid(alpha=0.3)


def _sizes(axis: Axes, evaluation: Evaluation) -> None:
    sizes = evaluation.sizes
    places = np.arange(len(sizes))
    for shift, name in enumerate(("precision", "recall", "f1")):
        value, low, high = (sizes[f"{name}{suffix}"].to_numpy(np.float64) for suffix in ("", "_low", "_high"))
        errors = np.maximum(np.stack([value - low, high - value]), 0)
        axis.bar(
            places + 0.26 * (shift - 1), value, 0.24, yerr=errors, label=name, capsize=2, error_kw={"linewidth": 0.8}
        )
    names = [f"{size}\n{n} craters" for size, n in zip(sizes["diameter_px"], sizes["craters"], strict=True)]
    axis.set(xticks=places, xticklabels=names, xlabel="crater diameter in pixels", ylim=(0, 1))
    axis.set_title("craters at IoU 0.5, 95 % intervals", fontsize=10)
    axis.legend(fontsize=8, loc="lower right")


def _images(axis: Axes, evaluation: Evaluation) -> None:
    row = evaluation.row
    axis.hist(evaluation.images["iou_crater"].dropna(), bins=20, range=(0, 1))
    summary = "undefined" if row["iou_crater"] is None else f"{row['iou_crater']:.3f}"
    axis.set(xlabel="crater IoU of an image", ylabel="images")
    axis.set_title(f"crater IoU over all pixels {summary}", fontsize=10)


def outlined_sheet(images: pd.DataFrame, craters: pd.DataFrame, most: int = 6) -> Figure:
    """Draw the images with most craters, with their outlines.

    Args:
        images: ``image_id, chip`` (path of a picture), ``prediction`` (path of the mask).
        craters: a catalogue, see :class:`mars_assets.craters.schema.CraterCatalogue`.
        most: largest number of images.

    Raises:
        DamagedFileError: an image or a mask cannot be read.
    """
    counts = craters["image_id"].value_counts()
    shown = images.assign(craters=images["image_id"].map(counts).fillna(0).astype(int)).nlargest(most, "craters")
    columns = min(max(len(shown), 1), 3)
    rows = max(-(-len(shown) // columns), 1)
    figure, _ = new_figure(4 * columns, 4.5 * rows, rows, columns)
    for axis in figure.axes:
        axis.set_axis_off()
    for axis, row in zip(figure.axes, shown.to_dict("records"), strict=False):
        axis.imshow(read_rgb(Path(row["chip"])))
        _outline(axis, read_mask(Path(row["prediction"])))
        name = "\n".join(textwrap.wrap(row["image_id"], 30, break_on_hyphens=False))
        axis.set_title(f"{name}\n{row['craters']} craters", fontsize=12)
    return figure


def sizes_figure(craters: pd.DataFrame) -> Figure:
    """Plot the number of craters with at least a given diameter.

    Diameters are in metres if they are known for all craters, otherwise in pixels.

    Args:
        craters: a catalogue, see :class:`mars_assets.craters.schema.CraterCatalogue`. Craters cut by the image border
            are left out, since only their visible part was measured.
    """
    from matplotlib.ticker import LogFormatter

    figure, axes = new_figure(6, 4)
    axis = axes[0, 0]
    whole = craters[~craters["cut"].astype(bool)]
    on_the_ground = len(whole) > 0 and whole["diameter_m"].notna().all()
    diameters = np.sort(whole["diameter_m" if on_the_ground else "diameter_px"].to_numpy(np.float64))
    if len(diameters):
        axis.step(diameters, np.arange(len(diameters), 0, -1), where="pre")
        axis.set(xscale="log", yscale="log")
        for scale in (axis.xaxis, axis.yaxis):
            scale.set_major_formatter("{x:g}")
            scale.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.7)))
    axis.set(xlabel=f"diameter D ({'m' if on_the_ground else 'pixels'})", ylabel="craters with diameter ≥ D")
    axis.set_title(f"{len(whole)} craters not cut by the image border")
    axis.grid(alpha=0.3, which="both")
    return figure
