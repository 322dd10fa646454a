"""Evaluation: how well the untouched model reconstructs Mars, and how good the fine-tuned models are on the present labels."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import dagster as dg
import pandas as pd
from pydantic import Field

from mars_assets.assets.automation_conditions import follows
from mars_assets.assets.foundation import prithvi_weights
from mars_assets.assets.labels import labelled_crops
from mars_assets.assets.metadata import drawn_path, kept, mendable, picture, progress_of, save_pictures, table, where
from mars_assets.assets.models import CLS_SCORE, SEG_SCORE, STAGE, cls_model, current_with_statistics, seg_model
from mars_assets.assets.tensors import imputed_assets
from mars_assets.bands import IMPUTATION_METHODS, SPECTRAL, BandStatistics
from mars_assets.classification import recipe as classification_recipe
from mars_assets.errors import MarsError
from mars_assets.evaluation import COMPUTATION
from mars_assets.resources import ComputeResource, LakeResource
from mars_assets.resources.compute import GPU_POOL
from mars_assets.segmentation import recipe as segmentation_recipe
from mars_assets.storage.files import read_table
from mars_assets.storage.hashing import fingerprint

if TYPE_CHECKING:
    from mars_assets.datasets import Dataset
    from mars_assets.lake import Lake
    from mars_assets.models.versions import ModelVersion
    from mars_assets.progress import Progress
    from mars_assets.training.compute import Compute


GROUP = "evaluation"

JUDGING = {
    "cls_evaluation": (COMPUTATION, classification_recipe.PREDICTION),
    "seg_evaluation": (COMPUTATION, segmentation_recipe.PREDICTION, segmentation_recipe.COUNTING),
}
"""Names of all that a judgement rests on, beside model and images."""
_PICTURES = {"cls_evaluation": ("plots", "mistakes"), "seg_evaluation": ("plots", "images", "worst")}


# Those that fit into the table that the UI shows at once; the file has all.
_RECONSTRUCTION_COLUMNS = [
    *("method", "mask_ratio", "model_loss", "rgb_loss", "rgb_loss_low", "rgb_loss_high"),
    *("psnr", "ssim", "p_value", "n_images"),
]


class ReconstructionConfig(dg.Config):
    """How reconstruction is measured."""

    n_images: int = Field(259, ge=1, description="Images to reconstruct, chosen by their ids; all, if there are fewer.")
    mask_ratios: list[float] = Field(
        [0.5], description="Shares of the patches that are removed, e.g. [0.25, 0.5, 0.75]; figures show the first."
    )
    masks: int = Field(1, ge=1, description="Masks an image, from as many seeds; an image counts with their mean.")
    anchor: str = Field(
        "",
        description="A GeoTIFF of Earth in HLS units, as a row of its own: what the model can do where it comes from.",
    )
    anchor_bands: list[int] = Field(
        [2, 3, 4, 5, 6, 7], description="Numbers of the anchor's blue, green, red, NIR and two SWIR bands, from 1."
    )
    batch_size: int = Field(32, ge=1, description="Images a batch.")


@dg.asset(
    group_name=GROUP,
    kinds={"pytorch", "parquet"},
    code_version="1",
    deps=[*imputed_assets, prithvi_weights],
    pool=GPU_POOL,
)
def reconstruction_metrics(
    context: dg.AssetExecutionContext, config: ReconstructionConfig, lake: LakeResource, compute: ComputeResource
) -> dg.MaterializeResult:
    """Masked reconstruction of Mars by the untouched model, for each imputation method: the paper's Figure 2 as a table.

    Every image is masked with one noise for all methods, so that the comparison is paired. `model_loss` is the mean
    squared error of the removed patches over all six channels, `rgb_loss` over the first three, in normalised units;
    `psnr` (dB) and `ssim` are of the removed pixels in natural colour. Intervals are 95 % paired bootstraps over whole
    observations; `p_value` is Wilcoxon's signed-rank test of the RGB loss against the best method, over observations.

    The paper's numbers, of Prithvi-100M on 259 images that are not to be had, as `model_loss` / `rgb_loss`: means 0.0174 /
    0.0610, pre_norm 0.0298 / 0.1040, post_norm 0.0190 / 0.0493.

    `spectral`, beyond the paper, is measured on the crops of calibrated products alone. Its pixels are other values than
    the stretched ones of the other methods, so its losses stand beside theirs and do not rank among them.
    """
    from mars_assets.reconstruction.summary import statement
    from mars_assets.reconstruction.table import anchor_chip, reconstruction_table

    with mendable():
        here, chosen = lake.open(), compute.choose()
        if not config.mask_ratios:
            raise MarsError("mask_ratios names no ratio: give at least one, such as [0.5]")
        anchor = anchor_chip(here, Path(config.anchor), config.anchor_bands) if config.anchor else None
        result = reconstruction_table(
            here,
            [*IMPUTATION_METHODS, SPECTRAL],
            n_images=config.n_images,
            mask_ratios=config.mask_ratios,
            masks=config.masks,
            anchor=anchor,
            batch_size=config.batch_size,
            compute=chosen,
            progress=progress_of(context),
        )
    best = result.summary.iloc[0]
    said = statement(result.summary[result.summary["mask_ratio"] == best["mask_ratio"]])
    return dg.MaterializeResult(
        metadata={
            "losses": picture(result.bars, "losses of each method"),
            "reconstructions": picture(result.examples, "originals, masked, and each method's reconstruction"),
            "table": table(result.summary[_RECONSTRUCTION_COLUMNS]),
            "dagster/row_count": len(result.summary),
            "in words": dg.MetadataValue.md("\n".join(f"- {sentence}" for sentence in said)),
            "images": int(best["n_images"]),
            "computed in this run": result.computed,
            "best method on RGB": str(best["method"]),
            "rgb_loss of the best": float(best["rgb_loss"]),
            "psnr of the best": float(best["psnr"]),
            "ssim of the best": float(best["ssim"]),
            "device": str(chosen),
            "file": where(here.metrics("reconstruction")),
            "per image": where(here.metrics("reconstruction_images")),
            "figures": where(here.metrics("reconstruction").parent),
        },
        data_version=dg.DataVersion(fingerprint(result.summary.to_dict("records"))[:16]),
    )


@dg.asset(
    group_name=GROUP,
    kinds={"parquet", "scikitlearn"},
    code_version="1",
    deps=[cls_model, labelled_crops, dg.AssetKey(STAGE)],
    pool=GPU_POOL,
    automation_condition=follows(),
)
def cls_evaluation(
    context: dg.AssetExecutionContext, lake: LakeResource, compute: ComputeResource
) -> dg.MaterializeResult:
    """The current classifier on the current labels: one row for each checkpoint, label version and split, history kept, each
    with its change against the row before and whether that is more than noise.

    Judged on the valid and test images whose observation the model was not trained on. Intervals are 95 % bootstraps over
    observations. Predictions are kept, so that new labels cost only their own images. It trains nothing. Suspected label
    errors are found by confident learning; look at them before believing the scores.
    """
    from mars_assets.datasets import classification_dataset

    with mendable():
        here = lake.open()
        model, statistics = current_with_statistics(here, "cls_model")
        judged = _judged(model, classification_dataset(here, STAGE, statistics))
        return _evaluated(
            here,
            "cls_evaluation",
            judged,
            compute,
            lambda: _judge_classifier(here, judged, compute.choose(), progress_of(context)),
        )


@dg.asset(
    group_name=GROUP,
    kinds={"parquet", "mmsegmentation"},
    code_version="1",
    deps=[seg_model, labelled_crops, dg.AssetKey(STAGE)],
    pool=GPU_POOL,
    automation_condition=follows(),
)
def seg_evaluation(
    context: dg.AssetExecutionContext, lake: LakeResource, compute: ComputeResource
) -> dg.MaterializeResult:
    """The current segmentation model on the current labels: pixels, and craters one by one; history kept.

    Pixel scores come from summed confusion counts. A predicted crater is found if it overlaps a true one with IoU of at
    least 0.5, each counted once; nothing smaller than the smallest labelled crater counts as a false alarm, since the labels
    do not say whether there are any. The craters seen are a catalogue: centre, diameter, and place on Mars where the image
    is map projected. Judged on images whose observation the model was not trained on, with 95 % bootstrap
    intervals over observations. Predictions are kept. It trains nothing.
    """
    from mars_assets.datasets import segmentation_dataset

    with mendable():
        here = lake.open()
        model, statistics = current_with_statistics(here, "seg_model")
        annotation = model.config["recipe"]["annotation"]
        judged = _judged(model, segmentation_dataset(here, STAGE, annotation, statistics))
        return _evaluated(
            here,
            "seg_evaluation",
            judged,
            compute,
            lambda: _judge_segmenter(here, judged, statistics, compute.choose(), progress_of(context)),
        )


class _Judged(NamedTuple):
    """A model and what it may be judged on.

    Args:
        model: the one in use.
        label_version: of the labels in force.
        images: those of the dataset that it may be judged on.
        left_out: how many it may not, because it saw their observation.
    """

    model: "ModelVersion"
    label_version: str
    images: pd.DataFrame
    left_out: int


def _evaluated(
    lake: "Lake", name: str, judged: _Judged, compute: ComputeResource, judge: Callable[[], dict[str, Any]]
) -> dg.MaterializeResult:
    """What a judgement shows; the last one, where it was of the same model and images."""
    images = judged.images[["image_id", "split", "observation", "labels_sha", "chip_sha"]].sort_values("image_id")
    key = fingerprint(
        JUDGING[name],
        judged.model.version,
        judged.model.config,  # with its report: a training made again may come out otherwise
        judged.label_version,
        images.to_dict("list"),
        judged.left_out,
        compute.device,  # as asked for: what that comes to takes torch to tell
        compute.precision,
    )
    files = [lake.metrics(name), lake.metrics(name).with_suffix(".json")]
    files += [drawn_path(lake, name, what) for what in _PICTURES[name]]
    if name == "seg_evaluation":
        files += [lake.metrics("seg_craters"), lake.metrics("seg_craters").with_suffix(".csv")]
    metadata = kept(lake, name, key, judge, files)
    return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(key[:16]))


def _judge_classifier(lake: "Lake", judged: _Judged, compute: "Compute", progress: "Progress") -> dict[str, Any]:
    from mars_assets.classification.evaluate import by_crater_size, by_observation, evaluate, suspected_label_errors
    from mars_assets.classification.figures import evaluation_figure, mistakes_sheet
    from mars_assets.classification.predict import predict

    model, images = judged.model, judged.images
    predictions = predict(model.folder, images, model.folder / "predictions.parquet", compute, progress)
    results = {split: evaluate(predictions, images, split) for split in _splits(images)}
    shown = results["test"] if "test" in results else results["valid"]
    suspected, sizes = suspected_label_errors(shown.images), by_crater_size(shown.images)
    rows, history = _record(
        lake, "cls_evaluation", [_row(judged, result.row) for result in results.values()], CLS_SCORE
    )
    drawn = {"plots": evaluation_figure(shown), "mistakes": mistakes_sheet(shown.images)}
    pictures = save_pictures(lake, "cls_evaluation", drawn)
    more = {
        "by observation": table(by_observation(shown.images)),
        "by crater size": table(sizes) if len(sizes) else "not known: no classified image has outlines",
        "suspected label errors": table(suspected[["image_id", "observation", "label", "probability"]])
        if len(suspected)
        else "none",
    }
    names = ["split", "n", "accuracy", "balanced_accuracy", "precision", "recall", "f1", "auroc", "ece", "loss"]
    return _shown(lake, "cls_evaluation", CLS_SCORE, judged, rows, history, names, compute, pictures, more)


def _judge_segmenter(
    lake: "Lake", judged: _Judged, statistics: "BandStatistics", compute: "Compute", progress: "Progress"
) -> dict[str, Any]:
    from mars_assets.craters.catalogue import COLUMNS
    from mars_assets.labels.masks import RIM_WIDTHS
    from mars_assets.segmentation.catalogue import crater_catalogue
    from mars_assets.segmentation.evaluate import evaluate
    from mars_assets.segmentation.figures import evaluation_figure, overlay_sheet, worst
    from mars_assets.segmentation.predict import predict_masks
    from mars_assets.segmentation.recipe import COUNTING
    from mars_assets.storage.cache import Remembered
    from mars_assets.storage.files import write_csv, write_table

    model, images = judged.model, judged.images
    masks = predict_masks(model.folder, images, model.folder / "predictions", compute, progress)
    rim = RIM_WIDTHS[model.config["recipe"]["annotation"]]
    with Remembered(model.folder / "counts.json", COUNTING) as remembered:
        results = {split: evaluate(masks, images, split, rim=rim, remembered=remembered) for split in _splits(images)}
        known = [result.row["smallest_px"] for result in results.values() if result.row["smallest_px"] > 0]
        smallest = min(known, default=0.0)
        craters = crater_catalogue(masks, images, rim=rim, smallest_px=smallest, remembered=remembered)
    rows, history = _record(
        lake, "seg_evaluation", [_row(judged, result.row) for result in results.values()], SEG_SCORE
    )
    shown = results["test"] if "test" in results else results["valid"]
    craters = craters.assign(model_version=model.version)
    write_table(lake.metrics("seg_craters"), craters)
    write_csv(lake.metrics("seg_craters").with_suffix(".csv"), craters)
    drawn = {
        "plots": evaluation_figure(shown, read_table(model.folder / "history.parquet", "seg_model")),
        "images": overlay_sheet(shown.images.sample(min(3, len(shown.images)), random_state=0), statistics),
        "worst": overlay_sheet(worst(shown, 3), statistics),
    }
    pictures = save_pictures(lake, "seg_evaluation", drawn)
    more = {
        "by crater size": table(shown.sizes),
        "smallest crater that counts (pixels)": round(float(shown.row["smallest_px"]), 1),
        "craters seen": len(craters),
        "largest craters seen": table(craters.nlargest(10, "diameter_px")[list(COLUMNS)]),
        "catalogue of craters": where(lake.metrics("seg_craters").with_suffix(".csv")),
    }
    names = ["split", "n", "iou_crater", "iou_background", "miou", "dice_crater"]
    names += ["crater_precision", "crater_recall", "crater_f1"]
    return _shown(lake, "seg_evaluation", SEG_SCORE, judged, rows, history, names, compute, pictures, more)


def _judged(model: "ModelVersion", dataset: "Dataset") -> _Judged:
    """What the model may be judged on."""
    from mars_assets.errors import MarsError
    from mars_assets.models.seen import held_out

    images, left_out = held_out(model, dataset.images)
    if images.empty:
        raise MarsError(
            f"no image is left to judge {model.name} {model.version} on: all valid and test images are of observations "
            "that it was trained on. Label crops of other observations"
        )
    return _Judged(model, dataset.provenance["label_version"], images, left_out)


def _splits(images: pd.DataFrame) -> list[str]:
    return [split for split in ("valid", "test") if (images["split"] == split).any()]


def _row(judged: _Judged, scores: dict[str, Any]) -> dict[str, Any]:
    return {"model_version": judged.model.version, "label_version": judged.label_version, **scores}


def _record(
    lake: "Lake", name: str, rows: list[dict[str, Any]], score: str
) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """Adds rows to the history, each with its change against the one before. Returns them, and the history."""
    from datetime import UTC, datetime

    from mars_assets.evaluation.history import KEYS, record, with_change

    now = datetime.now(UTC).isoformat(timespec="seconds")
    rows = [{**with_change(lake.metrics(name), row, score, name), "measured": now} for row in rows]
    return rows, record(lake.metrics(name), rows, KEYS, name)


def _shown(
    lake: "Lake",
    name: str,
    score: str,
    judged: _Judged,
    rows: list[dict[str, Any]],
    history: pd.DataFrame,
    names: list[str],
    compute: "Compute",
    pictures: dict[str, Any],
    more: dict[str, Any],
) -> dict[str, Any]:
    from mars_assets.evaluation.history import in_words
    from mars_assets.evaluation.statistics import with_interval

    last = rows[-1]
    numbers = {key: float(last[key]) for key in names if isinstance(last.get(key), float) and math.isfinite(last[key])}
    short = history.assign(
        model_version=history["model_version"].str[:12], label_version=history["label_version"].str[:12]
    )
    return {
        **{what: picture(image, f"{name}: {what}") for what, image in pictures.items()},
        "scores": table(
            pd.DataFrame(
                [
                    {key: with_interval(row, key) if f"{key}_low" in row else row.get(key) for key in names}
                    for row in rows
                ]
            )
        ),
        **more,
        "against the row before": in_words(last, score),
        "history": table(
            short[["measured", "model_version", "label_version", "change", "within_noise", *names]].iloc[::-1]
        ),
        "judged on": str(last["split"]),
        "images left out because the model saw their observation": judged.left_out,
        "model version": judged.model.version,
        "label version": judged.label_version,
        "device": str(compute),
        "dagster/row_count": len(history),
        "file": where(lake.metrics(name)),
        **numbers,
    }
