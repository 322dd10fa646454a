"""Jobs, and the sensors and schedules that start them.

The job ``imagery`` fetches and cuts observations. ``experiment`` computes everything from labels to evaluations.
``reevaluate`` evaluates the current checkpoints on the current labels and trains nothing. The sensor ``new_labels``
observes the exports in the inbox; ``follow_labels`` updates what depends on them, by each asset's automation condition
(``assets/automation_conditions.py``). The schedule ``nightly_evaluation`` runs ``reevaluate`` every night, for inputs
that no automation condition covers.

``retrain`` retrains both models; the schedule ``weekly_retraining`` and the sensor ``scores_below_bound`` run it, once
switched on. ``fetch_labels`` downloads a version of a Roboflow project into the inbox; the sensor
``new_roboflow_versions`` runs it.
"""

import dataclasses
import inspect
import time
from collections.abc import Callable
from typing import Any

import dagster as dg
from pydantic import Field

from mars_assets.assets.labels import observe_inbox, roboflow_exports
from mars_assets.assets.metadata import mendable
from mars_assets.assets.models import STAGE
from mars_assets.checks import last_below_bound
from mars_assets.errors import MarsError
from mars_assets.executor import clear_up
from mars_assets.labels.inbox import being_copied, exports_in_force, has_had, unsettled
from mars_assets.labels.roboflow_api import Project
from mars_assets.labels.table import current_label_version
from mars_assets.progress import Progress
from mars_assets.resources import LakeResource, RoboflowResource

LOOK_EVERY = 10
"""Seconds between two checks of the inbox, and of the automation conditions."""

ONE_AT_A_TIME = {"mars_assets/automatic": "true"}
"""Tags of runs that nobody started by hand.

dagster.yaml lets one of them run at a time, so that none computes tensors for newer labels while another one evaluates
models.
"""

DATA_VERSION = "dagster/data_version"
"""The tag in which Dagster records the data version of an event."""


def _sensor(**options: Any) -> Callable[[Callable[..., Any]], dg.SensorDefinition]:
    """Create a Dagster sensor whose description in the UI is its docstring, as for assets."""
    return lambda function: dg.sensor(description=inspect.getdoc(function), **options)(function)


imagery_job = dg.define_asset_job(
    "imagery",
    dg.AssetSelection.assets("hirise_images", "crops"),
    description="Downloads an observation and cuts it into crops.",
)

experiment_job = dg.define_asset_job(
    "experiment",
    dg.AssetSelection.groups("tensors", "models", "evaluation")
    | dg.AssetSelection.assets("labelled_crops", "prithvi_weights"),
    description="From labels to evaluations: tensors, reconstruction table, both models. Existing results are reused.",
)

reevaluate_job = dg.define_asset_job(
    "reevaluate",
    dg.AssetSelection.assets("labelled_crops", "reflectance", STAGE, "cls_evaluation", "seg_evaluation"),
    description="Evaluates the current checkpoints on the current labels. Trains nothing.",
)

retrain_job = dg.define_asset_job(
    "retrain",
    dg.AssetSelection.assets(
        "labelled_crops", "reflectance", STAGE, "cls_model", "seg_model", "cls_evaluation", "seg_evaluation"
    ),
    config={"ops": {name: {"config": {"retrain": True}} for name in ("cls_model", "seg_model")}},
    description="Retrains both models on the current labels, with the recipes of those in use. A new model replaces "
    "the one in use only if it is not worse.",
)


@_sensor(minimum_interval_seconds=LOOK_EVERY, default_status=dg.DefaultSensorStatus.RUNNING)
def new_labels(context: dg.SensorEvaluationContext, lake: LakeResource) -> dg.SensorResult | dg.SkipReason:
    """Observes `roboflow_exports` when the contents of the inbox have changed.

    A zip that is still being copied waits until it is whole. The same file under another name is nothing new.
    """
    # A run whose machine went down with it would hold up everything that follows.
    if cleared := clear_up(context.instance):
        context.log.warning(f"the process of these runs is gone, they count as failed: {', '.join(cleared)}")
    here = lake.open()
    waiting = [path.name for path in being_copied(here.inbox)]
    paths = exports_in_force(here.inbox)
    if not paths:
        return dg.SkipReason(f"no export in {here.inbox}{_waiting(waiting)}")
    if fresh := [path.name for path in unsettled(paths)]:
        return dg.SkipReason(f"just arrived, looked at next time: {', '.join(fresh)}")
    version, metadata = observe_inbox(here)
    if version == context.cursor:
        return dg.SkipReason(f"the exports are those of the last time{_waiting(waiting)}")
    observation = dg.AssetObservation(roboflow_exports.key, metadata=metadata, tags={DATA_VERSION: version})
    return dg.SensorResult(asset_events=[observation], cursor=version)


follow_labels = dg.AutomationConditionSensorDefinition(
    "follow_labels",
    target=dg.AssetSelection.all(),
    minimum_interval_seconds=LOOK_EVERY,
    default_status=dg.DefaultSensorStatus.RUNNING,
    run_tags=ONE_AT_A_TIME,
    description="Updates assets when their inputs change (see each asset's automation condition): the table of labels, "
    "the tensors and the evaluations for new labels, the evaluations for a new model. It trains nothing.",
)


class FetchConfig(dg.Config):
    """The export to fetch."""

    project: str = Field(description="WORKSPACE/PROJECT, as in its address.")
    version: int = Field(ge=1, description="The version's number.")
    format: str = Field(
        default="",
        description="The format to export: coco-segmentation, yolo or png-mask-semantic; folder or multi-label for a "
        "classification project. Empty: the project's format in the resource.",
    )


@dg.op(tags={"dagster/kind/roboflow": ""}, pool="roboflow")
def fetch_export(
    context: dg.OpExecutionContext, config: FetchConfig, lake: LakeResource, roboflow: RoboflowResource
) -> None:
    """Exports a version from Roboflow and downloads it into the inbox, whole or not at all."""
    with mendable():
        project = Project.named(config.project)
        path = roboflow.open().fetch(
            project,
            config.version,
            config.format or roboflow.format_of(project),
            lake.open().inbox,
            Progress(context.log.info),
        )
    context.log.info(f"{path.name} is in the inbox")


@dg.job(description="Downloads a version of a Roboflow project into the inbox.")
def fetch_labels() -> None:
    fetch_export()


@_sensor(job=fetch_labels, minimum_interval_seconds=60, default_status=dg.DefaultSensorStatus.RUNNING)
def new_roboflow_versions(
    context: dg.SensorEvaluationContext, lake: LakeResource, roboflow: RoboflowResource
) -> dg.SensorResult | dg.SkipReason:
    """Fetches the newest version of each watched Roboflow project that the inbox has not had yet.

    ROBOFLOW_PROJECTS lists the projects, separated by commas: `WORKSPACE/PROJECT` for outlines,
    `WORKSPACE/PROJECT=folder` for classes, or any other format of the resource after `=`. ROBOFLOW_API_KEY holds the
    key.

    A failed download is tried again at the next full hour. A project that cannot be reached does not stop the others.
    """
    try:
        projects = roboflow.watched()
        if not projects:
            return dg.SkipReason(
                "no Roboflow project is watched: set ROBOFLOW_PROJECTS and ROBOFLOW_API_KEY to have some"
            )
        # Asked a minute later again: no waiting within a tick.
        api = dataclasses.replace(roboflow.open(), attempts=1, timeouts=(5.0, 10.0))
    except MarsError as error:
        return dg.SkipReason(str(error))
    newest, problems = {}, []
    for project in projects:
        try:
            newest[project] = max(api.versions(project), default=0)
        except MarsError as error:
            problems.append(f"{project}: {error}")
            context.log.warning(problems[-1])
    inbox = lake.open().inbox
    wanted = {
        project: version for project, version in newest.items() if version and not has_had(inbox, project.name, version)
    }
    hour = int(time.time() // 3600)
    requests = [
        dg.RunRequest(
            run_key=f"{project} {version} {projects[project]} {hour}",
            run_config={
                "ops": {
                    "fetch_export": {
                        "config": {"project": str(project), "version": version, "format": projects[project]}
                    }
                }
            },
        )
        for project, version in wanted.items()
    ]
    if not requests:
        return dg.SkipReason("; ".join(problems) or "the inbox has, or had, the newest version of each project")
    return dg.SensorResult(run_requests=requests)


def _waiting(names: list[str]) -> str:
    return f"; still being copied: {', '.join(names)}" if names else ""


@dg.schedule(
    job=reevaluate_job,
    cron_schedule="0 3 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Evaluates the current checkpoints on the current labels every night, for changes that no automation "
    "condition covers, such as new crops that turn out to be the originals of labelled images. Existing results "
    "are reused.",
)
def nightly_evaluation(lake: LakeResource) -> dg.RunRequest | dg.SkipReason:
    """Evaluates the models that exist."""
    here = lake.open()
    if not here.labelled_crops.exists():
        return dg.SkipReason("labelled_crops has not been made yet: materialize it once")
    models = [name for name in ("cls", "seg") if (here.model(f"{name}_model") / "current.json").exists()]
    if not models:
        return dg.SkipReason("there is no model to evaluate yet")
    names = ["reflectance", STAGE, *(f"{name}_evaluation" for name in models)]
    if exports_in_force(here.inbox):  # else the labels that are there stay in force
        names.append("labelled_crops")
    return dg.RunRequest(asset_selection=[dg.AssetKey(name) for name in names], tags=ONE_AT_A_TIME)


weekly_retraining = dg.ScheduleDefinition(
    name="weekly_retraining",
    job=retrain_job,
    cron_schedule="0 4 * * 0",
    tags=ONE_AT_A_TIME,
    description="Retrains both models every Sunday. Off until it is switched on.",
)


@_sensor(job=retrain_job, minimum_interval_seconds=300, default_status=dg.DefaultSensorStatus.STOPPED)
def scores_below_bound(context: dg.SensorEvaluationContext, lake: LakeResource) -> dg.SensorResult | dg.SkipReason:
    """Retrains both models when a score has fallen below the bound of its check.

    At most once for each label version. Off until it is switched on.
    """
    here = lake.open()
    low = last_below_bound(here)
    if not low:
        return dg.SkipReason("no score is below its bound")
    version = current_label_version(here)
    if context.cursor == version:
        return dg.SkipReason(f"training for these labels has been requested: {'; '.join(low)}")
    tags = {"label_version": version[:16], **ONE_AT_A_TIME}
    return dg.SensorResult(run_requests=[dg.RunRequest(tags=tags)], cursor=version)


jobs: list[Any] = [imagery_job, experiment_job, reevaluate_job, retrain_job, fetch_labels]
sensors = [new_labels, follow_labels, new_roboflow_versions, scores_below_bound]
schedules = [nightly_evaluation, weekly_retraining]
