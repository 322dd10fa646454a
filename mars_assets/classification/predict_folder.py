"""Classification of a folder of images, with the uncertainty of each prediction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.images import READABLE, pictures_below, refuse_tiny
from mars_assets.lake import CONFIG
from mars_assets.progress import SILENT, Progress
from mars_assets.storage.files import printable, read_json, shown
from mars_assets.tensors.geotiff import is_chip, read_reflectance, size_of
from mars_assets.training.run_folder import require_finished

if TYPE_CHECKING:
    from mars_assets.training.compute import Compute


MUCH_LARGER = 1.5
"""Ratio to the side of the training images above which images are reported as too large."""


def uncertainty(probabilities: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Compute the entropy of probabilities in bits; NaN stays NaN.

    It is 1 at one half, and 0 at 0 and 1.
    """
    p = np.asarray(probabilities, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
    return np.where(np.isnan(p), np.nan, np.nan_to_num(bits))


def scale_note(model_folder: Path, pictures: Sequence[Path]) -> str:
    """Describe a mismatch of scale if images are much larger than in training.

    Empty if they are not. All images are resampled to one size, so that craters in larger images become smaller than
    those in training.
    """
    from mars_assets.classification.data import median_side

    trained = read_json(model_folder / CONFIG)["report"].get("median_side")  # models of earlier versions have none
    side = median_side(pictures)
    if not (trained and side) or side <= MUCH_LARGER * trained:
        return ""
    return (
        f"the images are {side / trained:.1f} times as large as the training images ({side:.0f} and {trained:.0f} "
        f"pixels), so that craters appear smaller and may be missed: cut the images into tiles of about {trained:.0f} "
        "pixels"
    )


def predict_pictures(model_folder: Path, folder: Path, compute: Compute, progress: Progress = SILENT) -> pd.DataFrame:
    """Predict the probability of a crater for all images in a folder.

    Args:
        model_folder: folder of a finished classifier.
        folder: see :func:`mars_assets.images.pictures_below`.
        compute: device and precision.
        progress: shows how many images are done, and the warning of :func:`scale_note`.

    Returns:
        One row per image, the most uncertain first: ``image`` (relative path with forward slashes), ``probability`` and
        ``uncertainty`` (float64; NaN if the image is unreadable), ``problem`` (empty if there is none).

    Raises:
        MarsError: the folder does not exist or contains no image.
        MissingInputError: the model's folder holds no finished classifier.
    """
    from mars_assets.classification.predict import probabilities_of

    if not folder.is_dir():
        raise MarsError(f"{folder} is not a folder: give one with images")
    pictures = pictures_below(folder)
    if not pictures:
        raise MarsError(f"{folder} contains no {READABLE}: give another folder")
    require_finished(model_folder, "cls_model")
    if note := scale_note(model_folder, pictures):
        progress.say(note)
    results = progress.track(probabilities_of(model_folder, pictures, compute), "predicting images", len(pictures))
    rows = [
        (shown(picture.relative_to(folder).as_posix()), *_probability_or_problem(picture, result))
        for picture, result in zip(pictures, results, strict=True)
    ]
    table = pd.DataFrame(rows, columns=["image", "probability", "problem"])
    table.insert(2, "uncertainty", uncertainty(table["probability"].to_numpy()))
    return table.sort_values("uncertainty", ascending=False, kind="stable", ignore_index=True)


def _probability_or_problem(picture: Path, result: float | MarsError) -> tuple[float, str]:
    """Return a probability without a problem, or NaN and the image's problem."""
    try:
        if isinstance(result, MarsError):
            raise result
        refuse_tiny(picture, *size_of(picture))
        if is_chip(picture):
            read_reflectance(picture)
        if not np.isfinite(result):
            raise DamagedFileError(f"{picture} has no probability, as the model computes {result}: check its values")
    except MarsError as error:
        return np.nan, printable(str(error))
    return result, ""
