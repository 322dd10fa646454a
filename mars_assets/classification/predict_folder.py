"""What a classifier says of pictures that nobody has labelled, and which of them a labeller should look at first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from mars_assets.errors import MarsError
from mars_assets.images import pictures_below
from mars_assets.lake import CONFIG
from mars_assets.progress import SILENT, Progress
from mars_assets.storage.files import read_json
from mars_assets.training.run_folder import require_finished

if TYPE_CHECKING:
    from mars_assets.training.compute import Compute


MUCH_LARGER = 1.5
"""From how many times the trained images' side on pictures are said to be too large."""


def uncertainty(probabilities: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Entropy of a probability in bits: 1 at a half, 0 where the model is sure. NaN stays."""
    p = np.asarray(probabilities, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
    return np.where(np.isnan(p), np.nan, np.nan_to_num(bits))


def scale_note(model_folder: Path, pictures: Sequence[Path]) -> str:
    """What a person should know where pictures are much larger than those that a classifier was trained on; else empty.

    All are brought to one size, so that craters in larger pictures are smaller than those it knows.
    """
    from mars_assets.classification.data import median_side

    trained = read_json(model_folder / CONFIG)["report"].get("median_side")  # models of before have none
    side = median_side(pictures)
    if not (trained and side) or side <= MUCH_LARGER * trained:
        return ""
    return (
        f"the pictures are {side / trained:.1f} times as large as those that the model was trained on ({side:.0f} and "
        f"{trained:.0f} pixels): it sees their craters so much smaller, and may miss them. Cut them into tiles of about "
        f"{trained:.0f} pixels"
    )


def predict_pictures(model_folder: Path, folder: Path, compute: Compute, progress: Progress = SILENT) -> pd.DataFrame:
    """Probabilities for the picture files of a folder; one that cannot be read is a row that says so.

    Args:
        model_folder: of a finished classifier.
        folder: see :func:`mars_assets.images.pictures_below`.
        compute: where to compute.
        progress: of the pictures; is told of :func:`scale_note`.

    Returns:
        ``image`` (relative, forward slashes), ``probability`` and ``uncertainty`` (float64; NaN where it could not be
        read), ``problem`` (empty where there is none), the most uncertain first.

    Raises:
        MarsError: there is no such folder, or no picture in it.
        MissingInputError: the folder of the model holds no finished classifier.
    """
    from mars_assets.classification.predict import probabilities_of

    if not folder.is_dir():
        raise MarsError(f"{folder} is not a folder: name one with JPEG or PNG images")
    pictures = pictures_below(folder)
    if not pictures:
        raise MarsError(f"there is no JPEG or PNG in {folder}")
    require_finished(model_folder, "cls_model")
    if note := scale_note(model_folder, pictures):
        progress.say(note)
    results = progress.track(probabilities_of(model_folder, pictures, compute), "predicting images", len(pictures))
    rows = [
        (picture.relative_to(folder).as_posix(), np.nan, str(result))
        if isinstance(result, MarsError)
        else (picture.relative_to(folder).as_posix(), result, "")
        for picture, result in zip(pictures, results, strict=True)
    ]
    table = pd.DataFrame(rows, columns=["image", "probability", "problem"])
    table.insert(2, "uncertainty", uncertainty(table["probability"].to_numpy()))
    return table.sort_values("uncertainty", ascending=False, kind="stable", ignore_index=True)
