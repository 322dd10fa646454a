"""Assets of group evaluation: reconstruction, and scores of the models."""

import math
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
from pydantic import Field

from mars_assets.assets.automation_conditions import follows
from mars_assets.assets.foundation import prithvi_weights
from mars_assets.assets.labels import labelled_crops
from mars_assets.assets.metadata import cached_metadata, mendable, picture, progress_of, reported, table, where
from mars_assets.assets.tensors import imputed_assets
from mars_assets.bands import IMPUTATION_METHODS, SPECTRAL
from mars_assets.code_versions import EVALUATION, RECONSTRUCTION, code_version
from mars_assets.datasets import STAGE
from mars_assets.errors import MarsError
from mars_assets.evaluation.history import in_words
from mars_assets.evaluation.statistics import with_interval
from mars_assets.lake import Lake
from mars_assets.models.evaluate import CurrentEvaluation, evaluate_current
from mars_assets.models.task import Task
from mars_assets.resources import ComputeResource, LakeResource
from mars_assets.resources.compute import GPU_POOL
from mars_assets.storage.hashing import fingerprint
from mars_assets.tasks import TASKS

GROUP = "evaluation"

# Few enough for the UI to show without scrolling; the file has all columns.
_RECONSTRUCTION_COLUMNS = [
    *("method", "mask_ratio", "model_loss", "rgb_loss", "rgb_loss_low", "rgb_loss_high"),
    *("psnr", "ssim", "p_value", "n_images"),
]


class ReconstructionConfig(dg.Config):
    """Settings for measuring reconstruction."""

    n_images: int = Field(
        259, ge=1, description="Number of images to reconstruct, selected by id; all if there are fewer."
    )
    mask_ratios: list[float] = Field(
        [0.5], description="Shares of patches to remove, e.g. [0.25, 0.5, 0.75]; figures show the first."
    )
    masks: int = Field(1, ge=1, description="Number of random masks per image, whose losses are averaged.")
    anchor: str = Field(
        "",
        description="A GeoTIFF of Earth, HLS surface reflectance x 10000, reported as a row of its own: the model's "
        "performance on its own domain, for reference.",
    )
    anchor_bands: list[int] = Field(
        [2, 3, 4, 5, 6, 7],
        description="Band numbers, from 1, of the anchor's blue, green, red, NIR and two SWIR bands.",
    )
    batch_size: int = Field(32, ge=1, description="Images per batch.")


@dg.asset(
    group_name=GROUP,
    kinds={"pytorch", "parquet"},
    code_version=RECONSTRUCTION,
    deps=[*imputed_assets, prithvi_weights],
    pool=GPU_POOL,
)
def reconstruction_metrics(
    context: dg.AssetExecutionContext, config: ReconstructionConfig, lake: LakeResource, compute: ComputeResource
) -> dg.MaterializeResult:
    """Masked reconstruction of Mars by the pretrained model, by imputation.

    This is the paper's Figure 2 as a table. Each image is masked in the same way for all methods, so that the
    comparison is paired. `model_loss` is the mean squared error of the removed patches over all six channels,
    `rgb_loss` over the first three, in normalised units; `psnr` (dB) and `ssim` are computed on the removed pixels in
    natural colour. Intervals are 95 % paired bootstraps over whole observations; `p_value` is from Wilcoxon's
    signed-rank test of the RGB loss against the best method, over observations.

    The paper's values for Prithvi-100M on 259 images, which are not available, as `model_loss` / `rgb_loss`: means
    0.0174 / 0.0610, pre_norm 0.0298 / 0.1040, post_norm 0.0190 / 0.0493.

    `spectral`, which is not in the paper, is measured only on crops of calibrated products. Their pixel values differ
    from the stretched ones that the other methods use, so its losses are listed but not ranked with theirs.
    """
    from mars_assets.reconstruction.summary import statement
    from mars_assets.reconstruction.table import ReconstructionPlan, anchor_chip, reconstruction_table

    with mendable():
        here, chosen = lake.open(), compute.choose()
        if not config.mask_ratios:
            raise MarsError("mask_ratios is empty: give at least one ratio, such as [0.5]")
        anchor = (
            anchor_chip(here, Path(config.anchor), config.anchor_bands, context.log.warning) if config.anchor else None
        )
        plan = ReconstructionPlan(
            [*IMPUTATION_METHODS, SPECTRAL],
            n_images=config.n_images,
            mask_ratios=config.mask_ratios,
            masks=config.masks,
            anchor=anchor,
            batch_size=config.batch_size,
        )
        result = reconstruction_table(here, plan, chosen, progress_of(context))
    best = result.summary.iloc[0]
    said = statement(result.summary[result.summary["mask_ratio"] == best["mask_ratio"]])
    return dg.MaterializeResult(
        metadata={
            "losses": picture(result.bars, "losses by method"),
            "reconstructions": picture(result.examples, "originals, masked images, and reconstructions by method"),
            "table": table(result.summary[_RECONSTRUCTION_COLUMNS]),
            "dagster/row_count": len(result.summary),
            "in words": dg.MetadataValue.md("\n".join(f"- {sentence}" for sentence in said)),
            "images": int(best["n_images"]),
            "computed in this run": result.computed,
            "best method by RGB loss": str(best["method"]),
            "rgb_loss of the best method": float(best["rgb_loss"]),
            "psnr of the best method": float(best["psnr"]),
            "ssim of the best method": float(best["ssim"]),
            "device": str(chosen),
            "file": where(here.metrics("reconstruction")),
            "per image": where(here.metrics("reconstruction_images")),
            "figures": where(here.metrics("reconstruction").parent),
        },
        data_version=dg.DataVersion(fingerprint(result.summary.to_dict("records"))[:16]),
    )


def evaluation_asset(task: Task) -> dg.AssetsDefinition:
    """Build the asset that evaluates a task's model in use."""

    @dg.asset(
        name=task.evaluation,
        description=task.descriptions.evaluation,
        group_name=GROUP,
        kinds={*task.libraries, "parquet"},
        code_version=code_version(EVALUATION, *task.evaluation_versions),
        deps=[dg.AssetKey(task.model), labelled_crops, dg.AssetKey(STAGE)],
        pool=GPU_POOL,
        automation_condition=follows(),
    )
    def evaluation(
        context: dg.AssetExecutionContext, lake: LakeResource, compute: ComputeResource
    ) -> dg.MaterializeResult:
        with mendable():
            here = lake.open()
            found = evaluate_current(
                here,
                task,
                compute=compute.choose,
                asked_for=(compute.device, compute.precision),
                progress=progress_of(context),
            )
            shown = cached_metadata(here, task.evaluation, found.key, lambda: _described(here, task, found))
        return dg.MaterializeResult(
            metadata={**shown, "computed in this run": found.computed}, data_version=dg.DataVersion(found.key[:16])
        )

    return evaluation


def _described(lake: Lake, task: Task, found: CurrentEvaluation) -> dict[str, Any]:
    last, history = found.rows[-1], found.history
    names = ["split", "n", *task.scores]
    scores = [
        {name: with_interval(row, name) if f"{name}_low" in row else row.get(name) for name in names}
        for row in found.rows
    ]
    short = history.assign(**{name: history[name].str[:12] for name in ("model_version", "label_version")})
    return {
        **reported(task.evaluation, found.report),
        "scores": table(pd.DataFrame(scores)),
        "change since the previous row": in_words(last, task.score),
        "history": table(
            short[["measured", "model_version", "label_version", "change", "within_noise", *names]].iloc[::-1]
        ),
        "evaluated on": str(last["split"]),
        "images left out because the model was trained on their observation": found.left_out,
        "model version": found.model.version,
        "label version": found.label_version,
        "dagster/row_count": len(history),
        "file": where(lake.metrics(task.evaluation)),
        # The UI plots numbers over time.
        **{name: last[name] for name in names if isinstance(last.get(name), float) and math.isfinite(last[name])},
    }


evaluation_assets = [evaluation_asset(task) for task in TASKS]
