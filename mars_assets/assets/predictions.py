"""Assets of group predictions: predictions for unlabelled crops."""

import dagster as dg

from mars_assets.assets.imagery import crops
from mars_assets.assets.labels import labelled_crops
from mars_assets.assets.metadata import mendable, progress_of, reported, where
from mars_assets.code_versions import code_version
from mars_assets.models.predict import predict_unlabelled
from mars_assets.models.task import Task
from mars_assets.resources import ComputeResource, LakeResource
from mars_assets.resources.compute import GPU_POOL
from mars_assets.tasks import TASKS

GROUP = "predictions"


def predictions_asset(task: Task) -> dg.AssetsDefinition:
    """Build the asset of a task's predictions for unlabelled crops."""
    evaluation = [dg.AssetKey(task.evaluation)] if task.predictions_read_evaluation else []

    @dg.asset(
        name=task.predictions,
        description=task.descriptions.predictions,
        group_name=GROUP,
        kinds={*task.libraries, "parquet"},
        code_version=code_version(*task.evaluation_versions),
        deps=[dg.AssetKey(task.model), crops, labelled_crops, *evaluation],
        pool=GPU_POOL,
    )
    def predictions(
        context: dg.AssetExecutionContext, lake: LakeResource, compute: ComputeResource
    ) -> dg.MaterializeResult:
        with mendable():
            here = lake.open()
            found = predict_unlabelled(here, task, compute.choose, progress_of(context))
        listing, path = found.listing, here.metrics(task.predictions)
        if listing.warning:
            context.log.warning(listing.warning)
        return dg.MaterializeResult(
            metadata={
                **reported(task.predictions, listing.report),
                **({"warning": listing.warning} if listing.warning else {}),
                "dagster/row_count": len(listing.rows),
                "model version": found.model.version,
                "file": where(path),
                "for a spreadsheet": where(path.with_suffix(".csv")),
            },
            data_version=dg.DataVersion(found.key[:16]),
        )

    return predictions


prediction_assets = [predictions_asset(task) for task in TASKS]
