"""Predictions: what the models in use say of crops that nobody has labelled."""

from pathlib import Path

import dagster as dg
import pandas as pd

from mars_assets.assets.evaluation import seg_evaluation
from mars_assets.assets.imagery import crops
from mars_assets.assets.labels import labelled_crops
from mars_assets.assets.metadata import mendable, picture, progress_of, save_pictures, table, where
from mars_assets.assets.models import cls_model, current_with_statistics, seg_model
from mars_assets.resources import ComputeResource, LakeResource
from mars_assets.resources.compute import GPU_POOL
from mars_assets.storage.hashing import fingerprint

GROUP = "predictions"


@dg.asset(
    group_name=GROUP,
    kinds={"pytorch", "parquet"},
    code_version="2",
    deps=[cls_model, crops, labelled_crops],
    pool=GPU_POOL,
)
def cls_predictions(
    context: dg.AssetExecutionContext, lake: LakeResource, compute: ComputeResource
) -> dg.MaterializeResult:
    """What the current classifier says of every crop that has no class yet, the least certain first.

    For choosing what to label next: sort by `uncertainty` (entropy in bits, 1 where the probability is a half). Crops are
    predicted once for each model; new ones cost their own time alone.
    """
    from mars_assets.classification.figures import probability_histogram, uncertain_sheet
    from mars_assets.classification.predict import predict
    from mars_assets.classification.predict_folder import scale_note, uncertainty
    from mars_assets.datasets import unlabelled_crops
    from mars_assets.storage.files import write_csv, write_table

    with mendable():
        here, chosen = lake.open(), compute.choose()
        model, _ = current_with_statistics(here, "cls_model")
        images = unlabelled_crops(here, "label", ["position_kind", "longitude", "latitude"])
        note = scale_note(model.folder, [Path(chip) for chip in images["chip"]])
        if note:
            context.log.warning(note)
        cache = model.folder / "predictions_of_crops.parquet"
        probabilities = predict(model.folder, images, cache, chosen, progress_of(context))["probability"].to_numpy()
        every = images.assign(probability=probabilities, uncertainty=uncertainty(probabilities))
        every = every.sort_values("uncertainty", ascending=False, kind="stable", ignore_index=True)
        pictures = save_pictures(
            here, "cls_predictions", {"uncertain": uncertain_sheet(every), "all": probability_histogram(every)}
        )
        kept = every.assign(file=[here.relative(Path(chip)) for chip in every["chip"]], model_version=model.version)
        kept = kept.drop(columns=["chip", "chip_sha"])
        write_table(here.metrics("cls_predictions"), kept)
        write_csv(here.metrics("cls_predictions").with_suffix(".csv"), kept)
    return dg.MaterializeResult(
        metadata={
            **{what: picture(image, f"cls_predictions: {what}") for what, image in pictures.items()},
            **({"scale": note} if note else {}),
            "least certain crops": table(kept[["image_id", "probability", "uncertainty"]].head(20)),
            "crops": len(kept),
            "said to have a crater": int((kept["probability"] >= 0.5).sum()),
            "dagster/row_count": len(kept),
            "model version": model.version,
            "file": where(here.metrics("cls_predictions")),
            "for a spreadsheet": where(here.metrics("cls_predictions").with_suffix(".csv")),
        },
        data_version=dg.DataVersion(fingerprint(kept[["image_id", "probability"]].to_numpy().tolist())[:16]),
    )


@dg.asset(
    group_name=GROUP,
    kinds={"mmsegmentation", "parquet"},
    code_version="1",
    deps=[seg_model, crops, labelled_crops, seg_evaluation],
    pool=GPU_POOL,
)
def seg_predictions(
    context: dg.AssetExecutionContext, lake: LakeResource, compute: ComputeResource
) -> dg.MaterializeResult:
    """The craters that the current segmentation model sees in every crop without outlines: a catalogue of whole scenes.

    Centre, diameter and mean probability of each, in pixels, and in metres, longitude and latitude where the product is map
    projected (COLOR and RED ones). What is smaller than the smallest labelled crater is left out, since the model was not
    judged on it; a crater on the border between two crops is in both, cut. Crops are predicted once for each model.
    """
    from mars_assets.craters.catalogue import COLUMNS
    from mars_assets.craters.size_frequency import size_frequency
    from mars_assets.datasets import unlabelled_crops
    from mars_assets.labels.masks import RIM_WIDTHS
    from mars_assets.segmentation.catalogue import crater_catalogue
    from mars_assets.segmentation.figures import outlined_sheet
    from mars_assets.segmentation.predict import predict_masks
    from mars_assets.segmentation.predict_folder import smallest_judged
    from mars_assets.segmentation.recipe import COUNTING
    from mars_assets.storage.cache import Remembered
    from mars_assets.storage.files import write_csv, write_table

    with mendable():
        here, chosen = lake.open(), compute.choose()
        model, _ = current_with_statistics(here, "seg_model")
        images = unlabelled_crops(here, "n_craters", ["crs", "transform"])
        masks = predict_masks(model.folder, images, model.folder / "predictions_of_crops", chosen, progress_of(context))
        smallest = smallest_judged(here, model)
        if not smallest:
            context.log.warning(
                "the model was not evaluated, so craters of every size are listed: make 'seg_evaluation'"
            )
        rim = RIM_WIDTHS[model.config["recipe"]["annotation"]]
        with Remembered(model.folder / "craters_of_crops.json", COUNTING) as remembered:
            craters = crater_catalogue(masks, images, rim=rim, smallest_px=smallest, remembered=remembered)
        craters = craters.assign(model_version=model.version)
        images = images.assign(prediction=[str(masks[image]) for image in images["image_id"]])
        pictures = save_pictures(
            here, "seg_predictions", {"outlines": outlined_sheet(images, craters), "sizes": size_frequency(craters)}
        )
        write_table(here.metrics("seg_predictions"), craters)
        write_csv(here.metrics("seg_predictions").with_suffix(".csv"), craters)
    return dg.MaterializeResult(
        metadata={
            **{what: picture(image, f"seg_predictions: {what}") for what, image in pictures.items()},
            "largest craters seen": table(craters.nlargest(20, "diameter_px")[list(COLUMNS)]),
            "columns": table(pd.DataFrame({"column": COLUMNS.keys(), "meaning": COLUMNS.values()})),
            "craters": len(craters),
            "crops": len(images),
            "smallest crater that is listed (pixels)": round(smallest, 1),
            "dagster/row_count": len(craters),
            "model version": model.version,
            "masks": where(model.folder / "predictions_of_crops"),
            "file": where(here.metrics("seg_predictions")),
            "for a spreadsheet": where(here.metrics("seg_predictions").with_suffix(".csv")),
        },
        data_version=dg.DataVersion(fingerprint(craters.astype(str).to_numpy().tolist())[:16]),
    )
