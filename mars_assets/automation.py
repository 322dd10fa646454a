"""Jobs, and the schedules and sensors that start them.

``imagery`` downloads and cuts observations. ``experiment`` computes everything from labels to evaluations.
``reevaluate`` evaluates the models in use on the current labels and trains nothing. The sensor ``new_labels`` observes
the exports in the inbox, and ``follow_labels`` materializes what depends on them, by each asset's automation condition
(``assets/automation_conditions.py``). The schedule ``nightly_evaluation`` runs ``reevaluate`` every night, for changes
that no condition follows.

``retrain`` retrains the models; the schedule ``weekly_retraining`` and the sensor ``scores_below_bound`` start it, once
they are switched on. ``fetch_labels`` downloads a version of a Roboflow project into the inbox, and the sensor
``new_roboflow_versions`` starts it.
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
from mars_assets.checks import last_below_bound
from mars_assets.cluster.starts import fail_dead_starts
from mars_assets.datasets import STAGE
from mars_assets.errors import MarsError
from mars_assets.executor import clear_up
from mars_assets.labels.inbox import being_copied, current_exports, has_had, passed_over, unsettled
from mars_assets.labels.roboflow_api import Project
from mars_assets.labels.table import current_label_version
from mars_assets.models.versions import in_use
from mars_assets.progress import Progress
from mars_assets.resources import LakeResource, RoboflowResource
from mars_assets.resources.roboflow import ROBOFLOW_POOL
from mars_assets.tasks import TASKS

LOOK_EVERY = 10
"""Seconds between two looks at the inbox, and at the assets that follow it."""

ONE_AT_A_TIME = {"mars_assets/automatic": "true"}
"""Tags of automatic runs. dagster.yaml lets one of them run at a time, so that none recomputes tensors for other labels
while another one evaluates models on them.
"""

DATA_VERSION = "dagster/data_version"
"""The tag in which Dagster keeps an event's data version."""


def _sensor(**options: Any) -> Callable[[Callable[..., Any]], dg.SensorDefinition]:
    """Decorate as Dagster's sensor does.

    The UI shows the docstring as the description, as it does for assets.
    """
    return lambda function: dg.sensor(description=inspect.getdoc(function), **options)(function)


imagery_job = dg.define_asset_job(
    "imagery",
    dg.AssetSelection.assets("hirise_images", "crops"),
    description="Download an observation and cut it into crops.",
)

experiment_job = dg.define_asset_job(
    "experiment",
    dg.AssetSelection.groups("tensors", "models", "evaluation")
    | dg.AssetSelection.assets("labelled_crops", "prithvi_weights"),
    description="From labels to evaluations: tensors, reconstruction table, models. Existing results are not "
    "recomputed.",
)

reevaluate_job = dg.define_asset_job(
    "reevaluate",
    dg.AssetSelection.assets("labelled_crops", "reflectance", STAGE, *(task.evaluation for task in TASKS)),
    description="Evaluate the models in use on the current labels. Trains nothing.",
)

retrain_job = dg.define_asset_job(
    "retrain",
    dg.AssetSelection.assets(
        *("labelled_crops", "reflectance", STAGE), *(name for task in TASKS for name in (task.model, task.evaluation))
    ),
    config={"ops": {task.model: {"config": {"retrain": True}} for task in TASKS}},
    description="Retrain the models on the current labels with the recipes of those in use. A new model replaces the "
    "one in use only if it is not worse.",
)


@_sensor(minimum_interval_seconds=LOOK_EVERY, default_status=dg.DefaultSensorStatus.RUNNING)
def new_labels(context: dg.SensorEvaluationContext, lake: LakeResource) -> dg.SensorResult | dg.SkipReason:
    """Observe `roboflow_exports` when exports or meanings of classes have changed.

    A zip that is still being copied is ignored until it is complete. The same file under another name is not a change.
    """
    # A run whose machine went down with it would block everything that follows.
    if cleared := [*clear_up(context.instance), *fail_dead_starts(context.instance)]:
        context.log.warning(
            f"the processes of these runs no longer exist, so they count as failed: {', '.join(cleared)}"
        )
    here = lake.open()
    waiting = [path.name for path in being_copied(here.inbox)]
    paths = current_exports(here.inbox)
    if not paths:
        return dg.SkipReason(f"no usable export in {here.inbox}{_waiting(waiting)}{_not_read(passed_over(here.inbox))}")
    if fresh := [path.name for path in unsettled(paths)]:
        return dg.SkipReason(f"just arrived, to be read next time: {', '.join(fresh)}")
    version, metadata = observe_inbox(here)
    if version == context.cursor:
        return dg.SkipReason(f"the exports have not changed{_waiting(waiting)}{_not_read(passed_over(here.inbox))}")
    observation = dg.AssetObservation(roboflow_exports.key, metadata=metadata, tags={DATA_VERSION: version})
    return dg.SensorResult(asset_events=[observation], cursor=version)


follow_labels = dg.AutomationConditionSensorDefinition(
    "follow_labels",
    target=dg.AssetSelection.all(),
    minimum_interval_seconds=LOOK_EVERY,
    default_status=dg.DefaultSensorStatus.RUNNING,
    run_tags=ONE_AT_A_TIME,
    description="Materialize what depends on changed inputs, by each asset's automation condition: the table of "
    "labels, the tensors and the evaluations when labels change, the evaluations when a model changes. Trains "
    "nothing.",
)


class FetchConfig(dg.Config):
    """The export to download."""

    project: str = Field(description="WORKSPACE/PROJECT, as in the project's address.")
    version: int = Field(ge=1, description="The version's number.")
    format: str = Field(
        default="",
        description="Export format: coco-segmentation, yolo or png-mask-semantic; folder or multi-label for a "
        "classification project. Empty: the format that the resource has for the project.",
    )


@dg.op(tags={"dagster/kind/roboflow": ""}, pool=ROBOFLOW_POOL)
def fetch_export(
    context: dg.OpExecutionContext, config: FetchConfig, lake: LakeResource, roboflow: RoboflowResource
) -> None:
    """Have Roboflow export a version, and download it into the inbox.

    A download that fails leaves nothing there.
    """
    with mendable():
        project = Project(config.project)
        export_format = config.format or roboflow.format_of(project)
        path = roboflow.open().fetch(
            project, config.version, export_format, lake.open().inbox, Progress(context.log.info)
        )
    context.log.info(f"{path.name} is in the inbox")


@dg.job(description="Download a version of a Roboflow project into the inbox.")
def fetch_labels() -> None:
    fetch_export()


@_sensor(job=fetch_labels, minimum_interval_seconds=60, default_status=dg.DefaultSensorStatus.RUNNING)
def new_roboflow_versions(
    context: dg.SensorEvaluationContext, lake: LakeResource, roboflow: RoboflowResource
) -> dg.SensorResult | dg.SkipReason:
    """Download new versions of the watched Roboflow projects.

    That is each project's newest version, unless the inbox has had it.

    ROBOFLOW_PROJECTS lists the projects, separated by commas: `WORKSPACE/PROJECT` for outlines and
    `WORKSPACE/PROJECT=folder` for classes, or any other format that the resource accepts. ROBOFLOW_API_KEY holds the
    key.

    A download that fails is tried again at the next full hour. A project that does not answer does not stop the others.
    """
    try:
        projects = roboflow.watched()
        if not projects:
            return dg.SkipReason(
                "no Roboflow project is watched: set ROBOFLOW_PROJECTS and ROBOFLOW_API_KEY to watch some"
            )
        # The next tick asks again a minute later: no waiting within a tick.
        api = dataclasses.replace(roboflow.open(), attempts=1, timeouts=(5.0, 10.0))
    except MarsError as error:
        return dg.SkipReason(str(error))
    requests, problems = [], []
    inbox, hour = lake.open().inbox, int(time.time() // 3600)
    for project, export_format in projects.items():
        try:
            version = max(api.versions(project), default=0)
        except MarsError as error:
            problems.append(f"{project}: {error}")
            context.log.warning(problems[-1])
            continue
        if version and not has_had(inbox, project.name, version):
            config = {"project": str(project), "version": version, "format": export_format}
            run_config = {"ops": {"fetch_export": {"config": config}}}
            key = f"{project} {version} {export_format} {hour}"
            requests.append(dg.RunRequest(run_key=key, run_config=run_config))
    if not requests:
        return dg.SkipReason("; ".join(problems) or "the inbox has, or has had, the newest version of each project")
    return dg.SensorResult(run_requests=requests)


def _waiting(names: list[str]) -> str:
    return f"; still being copied: {', '.join(names)}" if names else ""


def _not_read(others: list[str]) -> str:
    return f"; not read: {'; '.join(others)}" if others else ""


@dg.schedule(
    job=reevaluate_job,
    cron_schedule="0 3 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Evaluate the models in use on the current labels every night, for changes that no condition follows, "
    "such as new crops that are the originals of labelled images. Existing results are not recomputed.",
)
def nightly_evaluation(lake: LakeResource) -> dg.RunRequest | dg.SkipReason:
    """Evaluate the models in use."""
    here = lake.open()
    if not here.labelled_crops.exists():
        return dg.SkipReason("labelled_crops has not been materialized yet: do it once")
    evaluations = [task.evaluation for task in TASKS if in_use(here, task.model)]
    if not evaluations:
        return dg.SkipReason("there is no model to evaluate yet")
    names = ["reflectance", STAGE, *evaluations]
    if current_exports(here.inbox):  # otherwise the present labels remain
        names.append("labelled_crops")
    return dg.RunRequest(asset_selection=[dg.AssetKey(name) for name in names], tags=ONE_AT_A_TIME)


weekly_retraining = dg.ScheduleDefinition(
    name="weekly_retraining",
    job=retrain_job,
    cron_schedule="0 4 * * 0",
    tags=ONE_AT_A_TIME,
    description="Retrain the models every Sunday. Off until it is switched on.",
)


@_sensor(job=retrain_job, minimum_interval_seconds=300, default_status=dg.DefaultSensorStatus.STOPPED)
def scores_below_bound(context: dg.SensorEvaluationContext, lake: LakeResource) -> dg.SensorResult | dg.SkipReason:
    """Retrain the models when a score falls below the bound of its check.

    This happens once for each label version.

    Off until it is switched on.
    """
    here = lake.open()
    low = last_below_bound(here)
    if not low:
        return dg.SkipReason("no score is below its bound")
    version = current_label_version(here)
    if context.cursor == version:
        return dg.SkipReason(f"training on these labels has already been requested: {'; '.join(low)}")
    tags = {"label_version": version[:16], **ONE_AT_A_TIME}
    return dg.SensorResult(run_requests=[dg.RunRequest(tags=tags)], cursor=version)


jobs: list[Any] = [imagery_job, experiment_job, reevaluate_job, retrain_job, fetch_labels]
sensors = [new_labels, follow_labels, new_roboflow_versions, scores_below_bound]
schedules = [nightly_evaluation, weekly_retraining]
