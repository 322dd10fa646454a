"""Crater segmentation, as a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mars_assets.code_versions import CALIBRATION_OF_CRATERS, COUNTING, SCENES, SEGMENTER_PREDICTION
from mars_assets.code_versions import SEGMENTATION as SEGMENTATION_VERSIONS
from mars_assets.craters.sizes import shares_by_size
from mars_assets.datasets import segmentation_dataset, unlabelled_crops
from mars_assets.errors import MarsError
from mars_assets.labels.masks import RIM_WIDTHS
from mars_assets.lake import COUNTS, CRATERS, CRATERS_OF_CROPS, HISTORY, MASKS, MASKS_OF_CROPS, SEGMENTER, Lake
from mars_assets.models.starting_point import start_from_weights
from mars_assets.models.task import Descriptions, Evaluation, Listing, Report, Task
from mars_assets.models.versions import ModelVersion
from mars_assets.progress import Progress
from mars_assets.segmentation.calibration import calibrate, label_trials, read_calibration
from mars_assets.segmentation.catalogue import crater_catalogue
from mars_assets.segmentation.checkpoint import open_segmenter
from mars_assets.segmentation.evaluate import evaluate, evaluate_together
from mars_assets.segmentation.figures import (
    evaluation_figure,
    outlined_sheet,
    overlay_sheet,
    sizes_figure,
    training_figure,
    worst,
)
from mars_assets.segmentation.maps import LEAST_MAPPED, SMALLEST_MAPPED
from mars_assets.segmentation.predict import predict_masks
from mars_assets.segmentation.recipe import SegRecipe
from mars_assets.segmentation.scenes import SceneNetwork
from mars_assets.segmentation.train import train_segmentation
from mars_assets.storage.cache import Cache
from mars_assets.storage.files import read_json, read_table, write_csv
from mars_assets.storage.schema import columns_of, write_checked
from mars_assets.training.compute import Compute

if TYPE_CHECKING:
    from mars_assets.prithvi.model import PrithviEncoder

DESCRIPTIONS = Descriptions(
    model="""Crater segmentation, fine-tuned on the outlined crops.

The network is Prithvi's encoder with a neck and a head, through MMSegmentation. The configuration is a recipe.
`model.pth` and `config.py` of a version are an ordinary MMSegmentation checkpoint and configuration. Versions and
resumption are as in `cls_model`; the state with the highest validation mIoU is selected.""",
    evaluation="""The segmentation model in use on the current labels, by pixel and by crater. The history stays.

Pixel scores come from summed confusion counts. A predicted crater counts as found if it overlaps a labelled one with
an IoU of at least 0.5, each counted once. A prediction smaller than the smallest labelled crater is no false alarm,
since the labels do not say whether there are craters of that size. The predicted craters are listed as a catalogue:
centre, diameter, and position on Mars where the image is map projected. Only images from observations that the model
was not trained on are used, with 95 % bootstrap intervals over observations. On those of the validation split, the
probability that `crater_maps` states for each crater is fitted, and its reliability shown, with recall and precision of
maps by size. Predictions are cached.
Nothing else is trained.""",
    predictions="""The craters that the segmentation model in use finds in every crop without outlines.

Centre, diameter and mean probability of each crater in pixels, and in metres, longitude and latitude where the product
is map projected (COLOR and RED). Craters smaller than the smallest labelled one are left out, since the model was not
evaluated on them. A crater on the border between two crops is listed in both, cut; `crater_maps` lists those of whole
scenes, each once. Crops are predicted once for each model.""",
    experiments="""Segmentation recipes compared on the same images.

As `cls_experiments`, ranked by the crater IoU on the validation set.""",
)


def rim_of(model: ModelVersion) -> int:
    """Look up the width in pixels of the rims that a model predicts.

    It is 0 if the model predicts filled craters.
    """
    return RIM_WIDTHS[model.config["recipe"]["annotation"]]


def smallest_evaluated(lake: Lake, model: ModelVersion) -> float:
    """Look up the diameter in pixels from which craters are evaluated.

    Below it the labels do not say whether a model is right; it is 0 if the model was not evaluated.
    """
    path = lake.metrics(SEGMENTATION.evaluation, ".json")
    rows = [row for row in read_json(path) if row["model_version"] == model.version] if path.exists() else []
    newest = [row for row in rows if row["label_version"] == rows[-1]["label_version"]]
    return float(min((row["smallest_px"] for row in newest if row.get("smallest_px")), default=0.0))


def smallest_mapped(lake: Lake, model: ModelVersion) -> float:
    """Choose the diameter in pixels from which a model maps craters.

    It is that from which it was evaluated, if it was.
    """
    return max(smallest_evaluated(lake, model) or SMALLEST_MAPPED, LEAST_MAPPED)


def _encoder(model: ModelVersion) -> PrithviEncoder:
    from mars_assets.prithvi.model import PrithviEncoder

    encoder = getattr(open_segmenter(model.folder)[0].backbone, "encoder", None)
    if not isinstance(encoder, PrithviEncoder):
        raise MarsError(f"{model.name} {model.version} has no encoder of Prithvi's, and only these can be exported")
    return encoder


def _calibrate(model: ModelVersion, images: pd.DataFrame, compute: Compute, progress: Progress) -> None:
    """Fit the probabilities of craters in maps; a model of rims makes none."""
    if rim_of(model) == 0:
        calibrate(model.folder, SceneNetwork(model.folder, compute, progress), model.statistics, images, progress)


def _evaluate(
    model: ModelVersion, predictions: Mapping[str, Path], images: pd.DataFrame, splits: Sequence[str], resamples: int
) -> dict[str, Evaluation]:
    images, rim = images.assign(prediction=images["image_id"].map(predictions)), rim_of(model)
    with Cache(model.folder / COUNTS, COUNTING, keep_all=True) as counts:
        return {split: evaluate(images, split, rim=rim, resamples=resamples, cache=counts) for split in splits}


def _report(lake: Lake, model: ModelVersion, predictions: Mapping[str, Path], evaluations: Mapping[str, Any]) -> Report:
    from mars_assets.craters.schema import CraterCatalogue

    shown = evaluations["test"] if "test" in evaluations else evaluations["valid"]
    labelled = [evaluation.row["smallest_px"] for evaluation in evaluations.values()]
    smallest = min((diameter for diameter in labelled if diameter > 0), default=0.0)
    images = pd.concat([evaluation.images for evaluation in evaluations.values()]).sort_values("image_id")
    with Cache(model.folder / CRATERS, COUNTING) as cached:
        craters = crater_catalogue(images, rim=rim_of(model), smallest_px=smallest, cache=cached)
    craters = craters.assign(model_version=model.version)
    path = lake.metrics("seg_craters")
    write_checked(path, craters, CraterCatalogue)
    write_csv(path.with_suffix(".csv"), craters)
    history = read_table(model.folder / HISTORY, SEGMENTATION.model)
    return Report(
        {
            "plots": evaluation_figure(shown, history),
            "images": overlay_sheet(shown.images.sample(min(3, len(shown.images)), random_state=0), model.statistics),
            "worst": overlay_sheet(worst(shown, 3), model.statistics),
        },
        {
            "by crater size": shown.sizes,
            **_reliability(model),
            "largest predicted craters": craters.nlargest(10, "diameter_px")[list(columns_of(CraterCatalogue))],
        },
        {
            "smallest crater that counts (pixels)": round(float(shown.row["smallest_px"]), 1),
            "predicted craters": len(craters),
            **_calibrated(model),
        },
        {"catalogue of craters": path.with_suffix(".csv"), "catalogue of craters, typed": path},
    )


def _reliability(model: ModelVersion) -> dict[str, pd.DataFrame]:
    """Tabulate how far probabilities in maps hold, and recall and precision by size."""
    calibration, trials = read_calibration(model.folder), label_trials(model.folder)
    tables = {} if calibration is None else {"reliability in crater maps": pd.DataFrame(calibration.reliability)}
    for name, of_each in zip(("recall", "precision"), trials or (), strict=False):
        tables[f"{name} of crater maps by size, in validation images"] = shares_by_size(of_each).round(3)
    return tables


def _calibrated(model: ModelVersion) -> dict[str, str | float]:
    calibration = read_calibration(model.folder)
    if calibration is None:
        return {"crater maps": "without probabilities: too few craters were found in validation images"}
    return {
        "probability from which crater maps list craters": calibration.listed_from,
        "Brier score of that probability": round(calibration.brier, 3),
        "F1 of crater maps in validation images": round(calibration.f1, 3),
    }


def _list_unlabelled(lake: Lake, model: ModelVersion, compute: Compute, progress: Progress) -> Listing:
    from mars_assets.craters.schema import CraterCatalogue

    images = unlabelled_crops(lake, "n_craters", ["crs", "transform"])
    folder = model.folder / MASKS_OF_CROPS
    masks = predict_masks(model.folder, images, folder, compute, progress)
    images = images.assign(prediction=images["image_id"].map(masks))
    smallest = smallest_evaluated(lake, model)
    warning = (
        "" if smallest else "the model was not evaluated, so craters of every size are listed: make 'seg_evaluation'"
    )
    with Cache(model.folder / CRATERS_OF_CROPS, COUNTING) as cached:
        craters = crater_catalogue(images, rim=rim_of(model), smallest_px=smallest, cache=cached)
    report = Report(
        {"outlines": outlined_sheet(images, craters), "sizes": sizes_figure(craters)},
        {
            "largest predicted craters": craters.nlargest(20, "diameter_px")[list(columns_of(CraterCatalogue))],
            "columns": pd.DataFrame(columns_of(CraterCatalogue).items(), columns=["column", "meaning"]),
        },
        {
            "predicted craters": len(craters),
            "crops": len(images),
            "smallest crater that is listed (pixels)": round(smallest, 1),
        },
        {"masks": folder},
    )
    return Listing(craters, list(craters.columns), warning, report)


SEGMENTATION = Task(
    name="seg",
    descriptions=DESCRIPTIONS,
    libraries=frozenset({"pytorch", "mmsegmentation"}),
    recipe=SegRecipe,
    recipe_of=lambda config: SegRecipe(**config["recipe"]),
    score="iou_crater",
    lowest_score=0.3,
    scores=(
        *("iou_crater", "iou_background", "miou", "dice_crater"),
        *("crater_precision", "crater_recall", "crater_f1"),
    ),
    sweep_scores=("iou_crater", "miou", "crater_f1"),
    curve=("iteration", "iou_crater"),
    weights_file=SEGMENTER,
    training_versions=SEGMENTATION_VERSIONS,
    evaluation_versions=(SEGMENTER_PREDICTION, COUNTING, SCENES, CALIBRATION_OF_CRATERS),
    predictions_read_evaluation=True,
    dataset=lambda lake, recipe, statistics: segmentation_dataset(lake, recipe["annotation"], statistics),
    start=lambda lake, recipe: start_from_weights(lake, recipe.encoder),
    train=train_segmentation,
    best=lambda report: {
        name: report[name] for name in ("best_iteration", "miou", "iou_crater", "iou_background", "train_loss")
    },
    curves=lambda folder: training_figure(read_table(folder / HISTORY, "seg_model")),
    encoder=_encoder,
    predict=lambda lake, model, images, compute, progress: predict_masks(
        model.folder, images, model.folder / MASKS, compute, progress
    ),
    calibrate=_calibrate,
    evaluate=_evaluate,
    pool=evaluate_together,
    report=_report,
    list_unlabelled=_list_unlabelled,
)
