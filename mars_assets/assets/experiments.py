"""Experiments: sweeps of recipes as tables. What the paper tried by hand."""

import json
from typing import TYPE_CHECKING, Any

import dagster as dg

from mars_assets.assets.metadata import mendable, picture, progress_of, table, where
from mars_assets.assets.models import INPUTS, STAGE
from mars_assets.assets.run_config import recipe_from
from mars_assets.classification.recipe import ClsRecipe
from mars_assets.experiments.sweep import Sweep
from mars_assets.resources import ComputeResource, LakeResource
from mars_assets.resources.compute import GPU_POOL
from mars_assets.segmentation.recipe import SegRecipe
from mars_assets.storage.files import write_bytes
from mars_assets.storage.hashing import fingerprint

if TYPE_CHECKING:
    from mars_assets.experiments.run import Task
    from mars_assets.lake import Lake
    from mars_assets.training.compute import Compute


GROUP = "experiments"

_HEADS: dict[str, Any] = {
    "base": {
        "frozen": True,
        "image_size": 224,
        "draw": "images",
        "augment": "none",
        "mask_ratio": 0.0,
        "all_orientations": False,
        "label_smoothing": 0.0,
        "average_weights": 0.0,
        "batch_size": 32,
        "steps": 200,
        "warmup_steps": 10,
        "evaluate_every": 20,
    },
    "grid": {
        "pooling": ["class_token", "mean"],
        "lr": [1e-3, 1e-2],
        "weight_decay": [0.0, 0.05],
        "dropout": [0.0, 0.3],
    },
}


class ClsExperimentsConfig(dg.Config, Sweep):
    """A sweep of classification recipes; without any settings 16 heads on the frozen encoder, which is quick."""


class SegExperimentsConfig(dg.Config, Sweep):
    """A sweep of segmentation recipes; without a configuration the default recipe alone."""


@dg.asset(group_name=GROUP, kinds={"pytorch", "parquet"}, code_version="1", deps=INPUTS, pool=GPU_POOL)
def cls_experiments(
    context: dg.AssetExecutionContext, config: ClsExperimentsConfig, lake: LakeResource, compute: ComputeResource
) -> dg.MaterializeResult:
    """Classification recipes compared on the same images: a row a training, kept, and none trained twice.

    The configuration is a sweep, see `recipes/sweeps/cls_*.yaml`: variants, a grid, random draws, seeds. A killed sweep
    goes on where it stopped. A frozen encoder passes over the images once, however many heads are tried, where nothing
    before the head is random: `mask_ratio` 0 and `augment` none or flips. Runs are ranked by balanced accuracy on valid, so
    the best one's score there is optimistic: `hold_back` gives one that is not, and `folds`, cross-validation by
    observation, one on all training images. The weights of the best run are kept; of a frozen encoder's, the head.
    """
    from mars_assets.experiments.tasks import classification_task

    with mendable():
        here, sweep = lake.open(), recipe_from(config, Sweep)
        if not (sweep.base or sweep.variants or sweep.grid or sweep.random):
            sweep = sweep.model_copy(update=_HEADS)
        curve = ("step", "valid_loss")
        scores = ["balanced_accuracy", "auroc", "loss"]
        return _sweep(
            context, here, classification_task(here, STAGE), sweep, ClsRecipe, compute.choose(), scores, curve
        )


@dg.asset(
    group_name=GROUP, kinds={"pytorch", "mmsegmentation", "parquet"}, code_version="1", deps=INPUTS, pool=GPU_POOL
)
def seg_experiments(
    context: dg.AssetExecutionContext, config: SegExperimentsConfig, lake: LakeResource, compute: ComputeResource
) -> dg.MaterializeResult:
    """Segmentation recipes compared on the same images: as `cls_experiments`, ranked by the IoU of craters on valid."""
    from mars_assets.experiments.tasks import segmentation_task

    with mendable():
        here, sweep = lake.open(), recipe_from(config, Sweep)
        curve = ("iteration", "iou_crater")
        scores = ["iou_crater", "miou", "crater_f1"]
        return _sweep(context, here, segmentation_task(here, STAGE), sweep, SegRecipe, compute.choose(), scores, curve)


def _sweep(
    context: dg.AssetExecutionContext,
    lake: "Lake",
    task: "Task",
    sweep: Sweep,
    recipe: type[ClsRecipe] | type[SegRecipe],
    compute: "Compute",
    scores: list[str],
    curve: tuple[str, str],
) -> dg.MaterializeResult:
    """Runs what of a sweep is not there, and shows all of it."""
    from mars_assets.experiments.figures import draw_curves, draw_effects, effects, readable, readable_together
    from mars_assets.experiments.run import histories, ranked, run_sweep, together
    from mars_assets.experiments.sweep import plan, varied
    from mars_assets.plotting import as_image, to_png

    runs = plan(sweep, recipe)
    rows, ran = run_sweep(
        lake,
        task,
        runs,
        held_back=sweep.hold_back,
        folds=sweep.folds,
        compute=compute,
        progress=progress_of(context),
    )
    settings = [name for name in varied(runs) if not sweep.variants or name in {*sweep.grid, *sweep.random}]
    shown = readable(rows, settings, scores)
    pages = [shown]
    metadata: dict[str, Any] = {}
    if sweep.folds:
        pages.insert(0, readable_together(together(lake, task, rows), settings, scores))
        metadata["all parts together"] = table(pages[0])
    text = "\n\n".join(page.to_markdown(index=False) for page in pages) + "\n"
    write_bytes(lake.metrics(task.name, ".md"), text.encode())
    drawn = {"curves": as_image(draw_curves(rows, histories(lake, task.name, rows), task.score, curve))}
    order = ranked(rows, task.score)
    if settings and len(order) > 1:
        drawn["settings"] = as_image(draw_effects(rows, settings, task.score))
        metadata["which setting matters"] = table(effects(rows, settings, task.score))
    for what, image in drawn.items():
        to_png(image, lake.figure(task.name, what))
    if len(order):
        best = order.iloc[0]
        metadata |= {
            "best": str(best["name"] or best["version"]),
            f"{task.score} of the best on valid": float(best[f"valid_{task.score}"]),
            "recipe of the best": dg.MetadataValue.json(json.loads(best["recipe"])),
        }
    return dg.MaterializeResult(
        metadata={
            **{what: picture(image, f"{task.name}: {what}") for what, image in drawn.items()},
            **metadata,
            "runs": table(shown),
            "run now": ran,
            "dagster/row_count": len(rows),
            "file": where(lake.metrics(task.name)),
        },
        data_version=dg.DataVersion(fingerprint(*(page.astype(str).to_numpy().tolist() for page in pages))[:16]),
    )
