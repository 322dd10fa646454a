"""The probability that a person would mark a crater, from validation images.

What a network says is no probability of a crater: pixels know nothing of their crater, and training weighs its classes.
The craters that it finds in validation images, by the same windows and levels as in scenes, are compared with those
that were marked, and a logistic regression learns the share that is right from a crater's highest margin, its size,
its roundness and how much of its rim was seen. It is judged by cross-validation over observations. From that also
follows the probability from which craters are listed: that of the highest F1. Stored with it is which marked craters
are listed and which listed ones were marked, for recall and precision by size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from mars_assets.bands import HLS_BANDS, BandStatistics, reflectance_to_rgb
from mars_assets.code_versions import CALIBRATION_OF_CRATERS, SCENES
from mars_assets.craters.comparison import Circles, match_circles
from mars_assets.craters.geometry import craters_of_labels
from mars_assets.craters.instances import Instance
from mars_assets.craters.levels import Mask, Picture
from mars_assets.craters.mapping import find_craters
from mars_assets.craters.scan import Network, scan
from mars_assets.evaluation.statistics import independent_units
from mars_assets.images import read_label_image
from mars_assets.lake import CALIBRATION, CANDIDATES, MMSEG_CONFIG, SEGMENTER
from mars_assets.progress import SILENT, Progress
from mars_assets.storage.cache import Cache
from mars_assets.storage.files import read_json, write_json
from mars_assets.storage.hashing import sha256_file
from mars_assets.tensors.geotiff import read_chip

Float64 = npt.NDArray[np.float64]

_SMALLEST = 6.0
"""Smallest diameter in pixels of the craters that are compared."""
_LEAST = 20
"""Craters that were found, right and wrong ones each, from which a calibration is fitted."""
_FEATURES = ("peak", "size", "roundness", "rim_coverage")
_TRIAL = {"diameter_px": "float64", "success": "bool", "group": "str"}
_BINS = 5
_FOLDS = 5


@dataclass(frozen=True)
class Calibration:
    """A logistic regression on four properties of a crater.

    They are its highest margin, the logarithm of its diameter in pixels, its roundness and its rim coverage.

    Args:
        mean, deviation: of these four.
        weights: of the four, standardised.
        intercept: added to them.
        listed_from: probability from which craters are listed, that of the highest expected F1.
        candidates: number of craters that it was fitted on.
        right: how many of them were marked.
        marked: number of craters that were marked.
        brier: mean squared error of cross-validated probabilities.
        f1: of craters from ``listed_from`` on, with cross-validated probabilities.
        reliability: rows of cross-validated probabilities of similar size: ``probability`` (their mean), ``marked``
            (the share that was), ``low``, ``high`` (its 95 % interval), ``craters``.
    """

    mean: list[float]
    deviation: list[float]
    weights: list[float]
    intercept: float
    listed_from: float
    candidates: int
    right: int
    marked: int
    brier: float
    f1: float
    reliability: list[dict[str, float]]

    def probabilities(self, craters: Sequence[Instance]) -> Float64:
        """Compute the probability that a person would mark each crater."""
        standardised = (_features(craters) - self.mean) / self.deviation
        return np.asarray(1 / (1 + np.exp(-(standardised @ np.array(self.weights) + self.intercept))))


def read_calibration(folder: Path) -> Calibration | None:
    """Read a model's calibration; None if it was not fitted.

    Raises:
        DamagedFileError: the file is no JSON.
    """
    if not (folder / CALIBRATION).exists():
        return None
    stored = read_json(folder / CALIBRATION)
    return None if stored["calibration"] is None else Calibration(**stored["calibration"])


def label_trials(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Read how the craters that maps would list agree with marked ones.

    Both are of validation images.

    They are not part of the calibration, since the keys of maps contain that.

    Args:
        folder: of the model.

    Returns:
        For recall a row for each marked crater, with its diameter and whether it is listed; for precision a row for
        each listed one, with its diameter and whether it was marked. Both have ``diameter_px, success`` and ``group``,
        which names the observation. None if the model is not calibrated, or was by an earlier version.

    Raises:
        DamagedFileError: the file is no JSON.
    """
    if not (folder / CALIBRATION).exists():
        return None
    stored = read_json(folder / CALIBRATION).get("trials")
    if stored is None or "group" not in stored["recall"]:
        return None
    recall, precision = (pd.DataFrame(stored[name]).astype(_TRIAL) for name in ("recall", "precision"))
    return recall, precision


def calibrate(
    folder: Path, network: Network, statistics: BandStatistics, images: pd.DataFrame, progress: Progress = SILENT
) -> None:
    """Fit a model's calibration, and write it into its folder.

    Nothing is fitted where there are too few craters.

    Args:
        folder: of the model.
        network: the model.
        statistics: of the chips.
        images: of the validation set, with ``image_id, observation, chip, chip_sha, instances``.
        progress: reports the images.
    """
    model = [sha256_file(folder / name) for name in (SEGMENTER, MMSEG_CONFIG)]
    with Cache(folder / CANDIDATES, SCENES, progress=progress) as cache:
        rows = images.to_dict("records")
        found = cache.get_all(
            [[model, row["chip_sha"]] for row in rows],
            lambda places: (
                _found(network, Path(rows[place]["chip"]), statistics)
                for place in progress.track(places, "finding craters in validation images")
            ),
        )
    groups, _ = independent_units(images["observation"], images["image_id"])
    compared = [
        _compared([Instance(np.empty((0, 2)), spread=np.eye(2), **crater) for crater in craters], row)
        for craters, row in zip(found, rows, strict=True)
    ]
    fitted = _fit(compared, groups.tolist()) if compared else None
    calibration, trials = (None, None) if fitted is None else fitted
    write_json(
        folder / CALIBRATION,
        {
            "computation": CALIBRATION_OF_CRATERS,
            "calibration": None if calibration is None else asdict(calibration),
            "trials": trials,
        },
    )


class _Compared(NamedTuple):
    """The craters of an image.

    Args:
        found: the features of those found, whether they were marked (``right``), and as which (``number``, -1 if not).
        marked: the diameters of those marked, in pixels.
        observation: of the image, or the image's id if that is not known.
    """

    found: pd.DataFrame
    marked: Float64
    observation: str


def _found(network: Network, chip: Path, statistics: BandStatistics) -> list[dict[str, Any]]:
    """Find the craters of an image as in a scene."""
    rgb = reflectance_to_rgb(read_chip(chip, HLS_BANDS), statistics)
    with TemporaryDirectory() as folder:
        levels = scan(Picture(np.ascontiguousarray(rgb)), network, Path(folder))
        found = find_craters(levels, network.side, _SMALLEST)
    names = ("x", "y", "diameter", "roundness", "rim_coverage", "peak", "cut")
    return [{name: getattr(crater, name) for name in names} for crater in found.craters]


def _compared(craters: Sequence[Instance], row: Mapping[Any, Any]) -> _Compared:
    """Compare the craters found in an image with those that were marked.

    Craters that the image cuts are left out, and those found that are smaller than any marked one, since nobody says
    whether they are craters. What was found and marked counts in any case: one side may see it as a little smaller, or
    as cut.
    """
    marked, is_whole = _marked(Path(row["instances"]))
    smallest = min(marked.diameter[is_whole] if is_whole.any() else marked.diameter, default=0.0)
    whole = [crater for crater in craters if not crater.cut]
    ours, theirs = match_circles(_circles(whole), marked)
    is_whole[theirs] = True
    number = np.full(len(whole), -1)
    number[ours] = (np.cumsum(is_whole) - 1)[theirs]
    right = number >= 0
    counts = right | np.array([crater.diameter >= smallest for crater in whole], bool)
    table = pd.DataFrame(_features(whole), columns=list(_FEATURES))
    observation = row["image_id"] if pd.isna(row["observation"]) else row["observation"]
    return _Compared(table.assign(right=right, number=number)[counts], marked.diameter[is_whole], observation)


def _circles(craters: Sequence[Instance]) -> Circles:
    x, y, diameter = (
        np.array([getattr(crater, name) for crater in craters], np.float64) for name in ("x", "y", "diameter")
    )
    return Circles.in_plane(x, y, diameter)


def _marked(instances: Path) -> tuple[Circles, Mask]:
    """Read marked craters as circles, and whether the image shows them whole.

    The circles have the craters' areas and lie around their centres of mass.
    """
    labels = read_label_image(instances)
    rows, whole = [], []
    for crater in craters_of_labels(labels):
        y, x = np.nonzero(crater.pixels)
        top, left = (side.start for side in crater.box)
        rows.append((left + x.mean() + 0.5, top + y.mean() + 0.5, crater.diameter))
        whole.append(crater.is_whole(labels.shape))
    return Circles.in_plane(*np.array(rows, np.float64).reshape(-1, 3).T), np.array(whole, bool)


def _features(craters: Iterable[Instance]) -> Float64:
    rows = [(crater.peak, math.log(crater.diameter), crater.roundness, crater.rim_coverage) for crater in craters]
    return np.array(rows, np.float64).reshape(-1, len(_FEATURES))


def _fit(compared: Sequence[_Compared], groups: Sequence[Any]) -> tuple[Calibration, dict[str, Any]] | None:
    """Fit a calibration, and list the trials of :func:`label_trials`.

    Args:
        compared: each image's craters.
        groups: the group of each image; those of one are judged together.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    table = pd.concat([one.found.assign(group=group) for one, group in zip(compared, groups, strict=True)])
    marked = sum(len(one.marked) for one in compared)
    right = table["right"].to_numpy(bool)
    if min(right.sum(), (~right).sum()) < _LEAST or table["group"].nunique() < 2:
        return None
    features = table[list(_FEATURES)].to_numpy(np.float64)
    model = make_pipeline(StandardScaler(), LogisticRegression())
    splitter = GroupKFold(min(_FOLDS, table["group"].nunique()))
    folds = list(splitter.split(features, right, table["group"]))
    if any(len(np.unique(right[others])) < 2 for others, _ in folds):
        return None  # all right ones, or all others, are of one observation: there is nothing to judge them by
    judged = cross_val_predict(model, features, right, cv=folds, method="predict_proba")[:, 1]
    scaler, regression = model.fit(features, right).named_steps.values()
    thresholds = np.linspace(0.05, 0.95, 91)
    # The expected F1 (Lipton et al. 2014, arXiv:1402.1892): that of the marks themselves jumps with each of so few.
    expected = [2 * judged[judged >= at].sum() / ((judged >= at).sum() + marked) for at in thresholds]
    from_here = float(thresholds[int(np.argmax(expected))])
    listed = judged >= from_here
    calibration = Calibration(
        mean=scaler.mean_.tolist(),
        deviation=scaler.scale_.tolist(),
        weights=regression.coef_[0].tolist(),
        intercept=float(regression.intercept_[0]),
        listed_from=round(from_here, 2),
        candidates=len(table),
        right=int(right.sum()),
        marked=marked,
        brier=float(np.mean((judged - right) ** 2)),
        f1=float(2 * (right & listed).sum() / (listed.sum() + marked)),
        reliability=_reliability(judged, right),
    )
    return calibration, _trials(compared, listed)


def _trials(compared: Sequence[_Compared], listed: Mask) -> dict[str, Any]:
    """List which marked craters are listed, and which listed ones were marked."""
    starts = np.cumsum([0, *(len(one.found) for one in compared)])
    recall, precision = [], []
    for one, start in zip(compared, starts, strict=False):
        found = one.found[listed[start : start + len(one.found)]]
        is_listed = np.isin(np.arange(len(one.marked)), found["number"])
        recall.append(pd.DataFrame({"diameter_px": one.marked, "success": is_listed, "group": one.observation}))
        precision.append(
            pd.DataFrame({"diameter_px": np.exp(found["size"]), "success": found["right"], "group": one.observation})
        )
    tables = {"recall": pd.concat(recall), "precision": pd.concat(precision)}
    return {name: table.round({"diameter_px": 3}).to_dict("list") for name, table in tables.items()}


def _reliability(judged: Float64, right: Mask) -> list[dict[str, float]]:
    from scipy.stats import binomtest

    rows = []
    for part in np.array_split(np.argsort(judged, kind="stable"), _BINS):
        count, marked = len(part), int(right[part].sum())
        low, high = binomtest(marked, count).proportion_ci(method="wilson")
        rows.append(
            {
                "probability": float(judged[part].mean()),
                "marked": marked / count,
                "low": float(low),
                "high": float(high),
                "craters": count,
            }
        )
    return rows
