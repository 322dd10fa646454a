"""Jobs, and what starts them by itself.

``imagery`` fetches and cuts observations, ``experiment`` makes everything from labels to evaluations, ``reevaluate`` judges
the current checkpoints on the current labels and trains nothing. The sensor ``new_labels`` runs ``reevaluate`` when the
inbox holds other labels than the table; the schedule ``nightly_evaluation`` does every night.
"""

import time

import dagster as dg

from mars_assets.assets.models import STAGE
from mars_assets.errors import MissingInputError
from mars_assets.resources import LakeResource

SETTLED_SECONDS = 10
"""How long a zip must not have changed before it counts: a copy in progress is left alone."""

imagery_job = dg.define_asset_job(
    "imagery",
    dg.AssetSelection.assets("hirise_images", "crops"),
    description="Downloads an observation and cuts it into crops.",
)

experiment_job = dg.define_asset_job(
    "experiment",
    dg.AssetSelection.groups("tensors", "models", "evaluation")
    | dg.AssetSelection.assets("labelled_crops", "prithvi_weights"),
    description="From labels to evaluations: tensors, reconstruction table, both models. What is there is not made again.",
)

reevaluate_job = dg.define_asset_job(
    "reevaluate",
    dg.AssetSelection.assets("labelled_crops", "reflectance", STAGE, "cls_evaluation", "seg_evaluation"),
    description="The current checkpoints on the current labels. Trains nothing.",
)


@dg.sensor(job=reevaluate_job, minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.RUNNING)
def new_labels(context: dg.SensorEvaluationContext, lake: LakeResource) -> dg.SensorResult | dg.SkipReason:
    """Re-evaluates the current models when the exports in the inbox are others than those of `labelled_crops`."""
    from mars_assets.labels.exports import exports_in_force, label_version
    from mars_assets.labels.table import current_label_version
    from mars_assets.lake import sha256_file
    from mars_assets.models import current_model

    here = lake.open()
    if not here.labelled_crops.exists():
        return dg.SkipReason("labelled_crops has not been made yet: materialize it once")
    paths = exports_in_force(here.inbox)
    if not paths:
        return dg.SkipReason(f"no export in {here.inbox}")
    unsettled = [path.name for path in paths if time.time() - path.stat().st_mtime < SETTLED_SECONDS]
    if unsettled:
        return dg.SkipReason(f"still being copied: {', '.join(unsettled)}")
    version = label_version([sha256_file(path) for path in paths])
    if version in (current_label_version(here), context.cursor):
        return dg.SkipReason("the labels are those of the table, or their evaluation has been requested")
    try:
        for name in ("cls_model", "seg_model"):
            current_model(here, name)
    except MissingInputError as error:
        return dg.SkipReason(f"there is nothing to evaluate yet: {error}")
    return dg.SensorResult(run_requests=[dg.RunRequest(tags={"label_version": version[:16]})], cursor=version)


nightly_evaluation = dg.ScheduleDefinition(
    name="nightly_evaluation",
    job=reevaluate_job,
    cron_schedule="0 3 * * *",
    description="Every night the current checkpoints on the current labels. Off until it is switched on.",
)

jobs = [imagery_job, experiment_job, reevaluate_job]
sensors = [new_labels]
schedules = [nightly_evaluation]
