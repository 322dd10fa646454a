"""Evaluation of predicted masks, by pixel and by crater of each size."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from mars_assets.code_versions import COUNTING, LABELS
from mars_assets.craters.geometry import Mask, craters_of_labels, craters_of_mask, match
from mars_assets.craters.sizes import SIZE_CLASSES, size_class
from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.evaluation.statistics import Floats, estimates, ratio, undefined
from mars_assets.images import read_label_image
from mars_assets.segmentation.prediction_file import prediction_key, read_mask
from mars_assets.segmentation.recipe import IGNORE
from mars_assets.storage.cache import Cache

Counts = npt.NDArray[np.int64]

Diameters = npt.NDArray[np.float64]


class Evaluation(NamedTuple):
    """Evaluation of a model on one split.

    Args:
        row: the scores, each with ``_low`` and ``_high``; None where a score is undefined on the split, and
            ``undefined`` names those.
        images: one row per image: the columns of the input, ``prediction`` (path), ``iou_background, iou_crater, miou,
            dice_crater, pixel_accuracy``, and ``found, missed, false_alarms, too_small`` (numbers of craters).
        sizes: one row per size class: ``diameter_px, craters, found, missed, false_alarms``, and ``precision, recall,
            f1`` with intervals.
        evidence: the input of :func:`evaluate_together`: ``image_id, observation, counts`` (JSON).
    """

    row: dict[str, Any]
    images: pd.DataFrame
    sizes: pd.DataFrame
    evidence: pd.DataFrame


class _Counted(NamedTuple):
    """Counts of one image.

    Args:
        confusion: see :func:`confusion`.
        found, missed: diameters of the true craters.
        false: diameters of the predicted craters that match none.
        whole: diameters of the true craters that the image's border does not cut.
    """

    confusion: Counts
    found: Diameters
    missed: Diameters
    false: Diameters
    whole: Diameters


def evaluate(
    images: pd.DataFrame, split: str, *, rim: int = 0, resamples: int = 1000, cache: Cache | None = None
) -> Evaluation:
    """Evaluate predictions on a split.

    Pixels: confusion counts are summed over the images before any ratio is computed; ignored pixels (255) are left out.
    ``miou`` is the mean over the classes that are labelled or predicted, as in mmseg.

    Craters: a predicted crater is a 4-connected component of the predicted mask, or what a rim encloses; a true crater
    is a number in ``instances`` or, without them, a component of the true mask. Pairs with an intersection over union
    of at least 0.5 are matched one to one, the best overlap first. Found and missed craters count in the size class of
    the true crater, false alarms in that of the predicted one. An unmatched prediction smaller than the smallest
    labelled crater is not a false alarm, since the labels do not say whether there are craters of that size. A diameter
    is that of the disc with the same area.

    Intervals are 95 % bootstrap intervals. If the split has several observations, whole observations are resampled,
    since images of one observation resemble each other; otherwise images are. ``resampled`` says which.

    Args:
        images: ``image_id, split, mask (path), observation, prediction`` (path of a PNG of
            :func:`~mars_assets.segmentation.predict.predict_masks`), and optionally ``instances`` (path of a label
            image with background 0).
        split: name of the split.
        rim: width in pixels of the rims that masks show, see :func:`mars_assets.craters.geometry.craters_of_mask`.
        resamples: number of bootstrap draws.
        cache: counts of images that were processed before, used where ``images`` has ``labels_sha``.

    Raises:
        MarsError: the split is empty, or one of its images has no prediction.
        DamagedFileError: a mask or a prediction cannot be read, or their sizes differ.
    """
    chosen = images[images["split"] == split].reset_index(drop=True)
    if chosen.empty:
        raise MarsError(f"no image is in the split {split!r}: the splits are {sorted(images['split'].unique())}")
    missing = chosen.loc[chosen["prediction"].isna(), "image_id"]
    if len(missing):
        raise MarsError(
            f"{len(missing)} images of {split!r} have no prediction, such as {missing.iloc[0]}: predict them"
        )
    cache = cache or Cache(None, COUNTING)
    counts = [_counted(row, rim, cache) for row in chosen.to_dict("records")]
    evidence = chosen[["image_id", "observation"]].assign(counts=[json.dumps(image) for image in counts])
    row, sizes, by_image = _summed(counts, chosen, split, resamples)
    return Evaluation(row, by_image, sizes, evidence)


def evaluate_together(evidence: pd.DataFrame, split: str, resamples: int = 1000) -> dict[str, Any]:
    """Evaluate images that were each predicted by one of several models.

    Returns the row of :func:`evaluate`.

    Args:
        evidence: of their :class:`Evaluation`, concatenated.
        split: name of the images.
        resamples: number of bootstrap draws.
    """
    counts = [json.loads(image) for image in evidence["counts"]]
    return _summed(counts, evidence.drop(columns="counts"), split, resamples)[0]


def _summed(
    counts: list[list[Any]], chosen: pd.DataFrame, split: str, resamples: int
) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]:
    """Compute the row, the sizes, and the images with their own scores."""
    counted = [
        _Counted(np.array(pixels, np.int64), *(np.array(some, np.float64) for some in diameters))
        for pixels, *diameters in counts
    ]
    smallest_px = min((float(image.whole.min()) for image in counted if len(image.whole)), default=0.0)
    confusions: Counts = np.stack([image.confusion for image in counted])
    too_small = np.array([(image.false < smallest_px).sum() for image in counted])
    # Found, missed and false ones by size class, (images, 3, classes).
    craters: Counts = np.array(
        [
            [
                np.bincount(size_class(diameters), minlength=len(SIZE_CLASSES))
                for diameters in (image.found, image.missed, image.false[image.false >= smallest_px])
            ]
            for image in counted
        ]
    )

    def scores_of(samples: Floats) -> dict[str, Floats]:
        return _scores(samples @ confusions, np.tensordot(samples, craters, axes=1))

    scores, resampled = estimates(scores_of, chosen, resamples)
    overall = {name: value for name, value in scores.items() if not name.startswith(SIZE_CLASSES)}
    found, missed, false_alarms = craters.sum((0, 2)).tolist()
    row: dict[str, Any] = {
        "split": split,
        "n": len(chosen),
        "n_observations": int(chosen["observation"].nunique()),
        "n_craters": found + missed,
        "n_false_alarms": false_alarms,
        "n_too_small": int(too_small.sum()),
        "smallest_px": smallest_px,
        **overall,
        "resampled": resampled,
        "undefined": ", ".join(undefined(overall)),
    }
    by_image = chosen.assign(too_small=too_small, **_pixel_scores(confusions.astype(np.float64)))
    by_image[["found", "missed", "false_alarms"]] = craters.sum(2)
    sizes = [
        {
            "diameter_px": size,
            "craters": hits + misses,
            "found": hits,
            "missed": misses,
            "false_alarms": wrong,
            **{name.removeprefix(f"{size} "): value for name, value in scores.items() if name.startswith(f"{size} ")},
        }
        for size, (hits, misses, wrong) in zip(SIZE_CLASSES, craters.sum(0).T.tolist(), strict=True)
    ]
    return row, pd.DataFrame(sizes), by_image


def confusion(truth: npt.NDArray[np.uint8], predicted: Mask) -> Counts:
    """Count pixels by label and prediction, int64 (4,).

    They are true background, false crater, missed crater and found crater.

    Args:
        truth: 0, 1 or 255 for ignored, shape (H, W).
        predicted: shape (H, W).
    """
    valid = truth != IGNORE
    return np.bincount(2 * (truth[valid] == 1) + predicted[valid], minlength=4)


def _counted(row: Mapping[Any, Any], rim: int, cache: Cache) -> list[Any]:
    """Count an image, or read its counts from the cache.

    They are the values of :class:`_Counted` as JSON can hold them.
    """
    prediction = Path(row["prediction"])
    key = prediction_key(prediction) if "labels_sha" in row else None
    # A column that lacks some has NaN there.
    instances = Path(row["instances"]) if isinstance(row.get("instances"), str | Path) else None
    made_from = None if key is None else ["counts", LABELS, key, row["labels_sha"], rim, instances is not None]
    return cache.get(made_from, lambda: _count(Path(row["mask"]), prediction, instances, rim))


def _count(mask: Path, prediction: Path, instances: Path | None, rim: int) -> list[Any]:
    truth, predicted = read_label_image(mask), read_mask(prediction)
    if predicted.shape != truth.shape:
        raise DamagedFileError(
            f"{prediction} is {predicted.shape}, its mask {truth.shape}: delete it and predict again"
        )
    true = craters_of_labels(read_label_image(instances)) if instances else craters_of_mask(truth == 1, rim)
    predicted_craters = craters_of_mask(predicted & (truth != IGNORE), rim)
    matching = match(true, predicted_craters)
    diameters = np.array([crater.diameter for crater in true])
    counted = _Counted(
        confusion=confusion(truth, predicted),
        found=diameters[matching.found],
        missed=diameters[~matching.found],
        false=np.array([crater.diameter for crater in predicted_craters])[matching.false],
        whole=diameters[[crater.is_whole(truth.shape) for crater in true]],
    )
    return [values.tolist() for values in counted]


def _scores(pixels: Floats, craters: Floats) -> dict[str, Floats]:
    """Compute all metrics from summed counts, NaN where undefined.

    The counts are (R, 4) pixels and (R, 3, classes) craters.

    Those of a size class are named ``CLASS metric``.
    """
    scores = _pixel_scores(pixels)
    scores |= {f"crater_{name}": value for name, value in _detection_scores(craters.sum(-1)).items()}
    for size, counts in zip(SIZE_CLASSES, np.moveaxis(craters, -1, 0), strict=True):
        scores |= {f"{size} {name}": value for name, value in _detection_scores(counts).items()}
    return scores


def _pixel_scores(pixels: Floats) -> dict[str, Floats]:
    tn, fp, fn, tp = np.moveaxis(pixels, -1, 0)
    classes = np.stack([ratio(tn, tn + fp + fn), ratio(tp, tp + fp + fn)])
    return {
        "iou_background": classes[0],
        "iou_crater": classes[1],
        "miou": ratio(np.nansum(classes, axis=0), (~np.isnan(classes)).sum(0).astype(np.float64)),
        "dice_crater": ratio(2 * tp, 2 * tp + fp + fn),
        "pixel_accuracy": ratio(tp + tn, tp + tn + fp + fn),
    }


def _detection_scores(craters: Floats) -> dict[str, Floats]:
    found, missed, false = np.moveaxis(craters, -1, 0)
    return {
        "precision": ratio(found, found + false),
        "recall": ratio(found, found + missed),
        "f1": ratio(2 * found, 2 * found + missed + false),
    }
