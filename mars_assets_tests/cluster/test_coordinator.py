"""Tags that runs get by themselves, by every way in which a run is submitted."""

import json
import logging
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.events import DagsterEvent, DagsterEventType, StepSuccessData
from dagster._core.execution.plan.handle import StepHandle
from dagster._core.execution.plan.objects import StepFailureData
from dagster._core.storage.tags import BACKFILL_ID_TAG, MAX_RUNTIME_SECONDS_TAG, PRIORITY_TAG
from dagster._core.test_utils import create_test_daemon_workspace_context, freeze_time
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget
from dagster._daemon.asset_daemon import AssetDaemon
from dagster._daemon.auto_run_reexecution.auto_run_reexecution import retry_run
from dagster._daemon.backfill import execute_backfill_iteration
from dagster._time import get_current_datetime
from dagster_graphql.test.utils import execute_dagster_graphql

from mars_assets.cluster.coordinator import Cluster, steps_of, tags_of
from mars_assets.cluster.needs import OF_POOLS, OF_STEPS, Host, Needs
from mars_assets.cluster.tags import JOB_TAG, NEEDS_TAG, RAY_TAG, SLURM_TAG
from mars_assets.errors import MarsError
from mars_assets.executor import PROCESS_TAG
from mars_assets.resources.archive import ARCHIVE_POOL
from mars_assets.resources.lake import LAKE_POOL

TRAINING = Needs(8, 16, 24, gpu=True)
TWO_GPUS = Cluster(2, Host(64, 500, 1000), "--partition=main --account='mars lab'", "--partition=gpu")
NO_GPU = Cluster(0, Host(64, 500, 1000))


def test_what_slurm_and_ray_are_asked_for() -> None:
    tags = tags_of({}, TRAINING, TWO_GPUS)
    assert json.loads(tags[RAY_TAG]) == {"num_cpus": 8, "num_gpus": 1, "memory": 16 * 10**9}
    assert tags[SLURM_TAG] == (
        "--partition=main '--account=mars lab' --partition=gpu --cpus-per-task=8 --mem=16000M --gres=gpu:1 --time=1445"
    )
    assert tags[MAX_RUNTIME_SECONDS_TAG] == str(24 * 3600)


def test_without_gpus_nobody_waits_for_one() -> None:
    tags = tags_of({}, TRAINING, NO_GPU)
    assert json.loads(tags[RAY_TAG])["num_gpus"] == 0
    assert "gpu" not in tags[SLURM_TAG]


def test_a_limit_of_the_partition_holds_for_slurm_and_dagster_ends_the_run_before_it() -> None:
    tags = tags_of({}, Needs(1, 1, 2), Cluster(0, Host(64, 500, 2)))
    assert tags[SLURM_TAG].endswith("--time=120")
    assert tags[MAX_RUNTIME_SECONDS_TAG] == str(115 * 60)


def test_what_the_user_gave_has_precedence() -> None:
    given = {RAY_TAG: '{"num_cpus": 2}', SLURM_TAG: "--mem=90G --comment='a b'", MAX_RUNTIME_SECONDS_TAG: "600"}
    tags = tags_of(given, TRAINING, TWO_GPUS)
    assert json.loads(tags[RAY_TAG]) == {"num_cpus": 2, "num_gpus": 1, "memory": 16 * 10**9}
    assert tags[SLURM_TAG].endswith("--gres=gpu:1 --time=15 --mem=90G '--comment=a b'")
    assert tags[MAX_RUNTIME_SECONDS_TAG] == "600"


def test_a_run_that_repeats_another_asks_for_its_own_needs_and_keeps_what_the_user_gave() -> None:
    first = tags_of({SLURM_TAG: "--mem=90G"}, TRAINING, TWO_GPUS)
    again = tags_of(first, Needs(1, 4, 1), TWO_GPUS)
    assert json.loads(again[RAY_TAG]) == {"num_cpus": 1, "num_gpus": 0, "memory": 4 * 10**9}
    assert again[SLURM_TAG].endswith("--cpus-per-task=1 --mem=4000M --time=65 --mem=90G")
    assert again[MAX_RUNTIME_SECONDS_TAG] == "3600"
    changed = tags_of({**first, MAX_RUNTIME_SECONDS_TAG: "7"}, Needs(1, 4, 1), TWO_GPUS)
    assert changed[MAX_RUNTIME_SECONDS_TAG] == "7"


def test_single_runs_leave_the_queue_before_backfills_and_maps_before_crops() -> None:
    backfill, crops = {BACKFILL_ID_TAG: "x"}, OF_STEPS["crops"]
    runs = [(backfill, crops), (backfill, OF_STEPS["crater_maps"]), ({}, crops), ({}, TRAINING)]
    assert [tags_of(given, needs, NO_GPU)[PRIORITY_TAG] for given, needs in runs] == ["0", "1", "2", "3"]
    given = tags_of({**backfill, PRIORITY_TAG: "9"}, crops, NO_GPU)
    assert given[PRIORITY_TAG] == "9"
    assert tags_of({**given, **backfill}, TRAINING, NO_GPU)[PRIORITY_TAG] == "9"


@pytest.mark.parametrize(
    ("tag", "text"),
    [(RAY_TAG, "2 cpus"), (RAY_TAG, "[2]"), (SLURM_TAG, "--comment='a"), (MAX_RUNTIME_SECONDS_TAG, "a day")],
)
def test_a_tag_that_cannot_be_read_is_refused(tag: str, text: str) -> None:
    with pytest.raises(MarsError, match=tag):
        tags_of({tag: text}, TRAINING, TWO_GPUS)


SETTINGS = {
    "run_coordinator": {
        "module": "mars_assets.cluster.coordinator",
        "class": "NeedsRunCoordinator",
        "config": {"gpus": 2, "most_cpus": 64, "most_memory_gb": 500, "most_hours": 1000, "slurm": "--partition=main"},
    },
    "concurrency": {"runs": {"max_concurrent_runs": 25}, "pools": {"default_limit": 1, "granularity": "op"}},
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkspaceProcessContext]:
    """The project's code location, as the webserver and the daemon see it. Runs stay in the queue."""
    with pytest.MonkeyPatch.context() as patch, dg.instance_for_test(SETTINGS) as instance:
        patch.setenv("MARS_LAKE", str(tmp_path_factory.mktemp("lake")))
        target = ModuleTarget("mars_assets.definitions", None, str(Path.cwd()), "mars_assets.definitions")
        with create_test_daemon_workspace_context(target, instance) as context:
            yield context


@pytest.fixture
def instance(workspace: WorkspaceProcessContext) -> Iterator[dg.DagsterInstance]:
    instance = workspace.instance
    instance.add_dynamic_partitions("observation", [f"ESP_{number:06}_1000" for number in range(12)])
    yield instance
    instance.wipe()


LAUNCH = """mutation($p: ExecutionParams!) { launchPipelineExecution(executionParams: $p) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
  ... on RunConfigValidationInvalid { errors { message } } } }"""
REPEAT = """mutation($p: ReexecutionParams!) { launchPipelineReexecution(reexecutionParams: $p) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
BACKFILL = """mutation($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
IN_THE_PROJECT = {"repositoryLocationName": "mars_assets.definitions", "repositoryName": "__repository__"}


def ask(workspace: WorkspaceProcessContext, query: str, params: dict[str, Any]) -> dict[str, Any]:
    result = execute_dagster_graphql(workspace.create_request_context(), query, variables={"p": params})
    (answer,) = result.data.values()
    assert answer["__typename"] in {"LaunchRunSuccess", "LaunchBackfillSuccess"}, answer
    return answer


def launched(
    workspace: WorkspaceProcessContext,
    assets: tuple[str, ...] = (),
    job: str = "__ASSET_JOB",
    checks: tuple[tuple[str, str], ...] = (),
    tags: dict[str, str] | None = None,
    config: dict[str, Any] | None = None,
) -> dg.DagsterRun:
    """Launches a run as the UI does."""
    selector: dict[str, Any] = {**IN_THE_PROJECT, "pipelineName": job}
    if assets or checks:
        selector["assetSelection"] = [{"path": [name]} for name in assets]
    if checks:
        selector["assetCheckSelection"] = [{"assetKey": {"path": [name]}, "name": check} for name, check in checks]
    metadata = {"tags": [{"key": key, "value": value} for key, value in (tags or {}).items()]}
    params = {"selector": selector, "runConfigData": config or {}, "mode": "default", "executionMetadata": metadata}
    return run_of(workspace, ask(workspace, LAUNCH, params)["run"]["runId"])


def run_of(workspace: WorkspaceProcessContext, run_id: str) -> dg.DagsterRun:
    run = workspace.instance.get_run_by_id(run_id)
    assert run is not None
    assert run.status == dg.DagsterRunStatus.QUEUED
    assert NEEDS_TAG in run.tags
    return run


def asked(run: dg.DagsterRun) -> dict[str, Any]:
    return json.loads(run.tags[RAY_TAG])


def names(instance: dg.DagsterInstance, run: dg.DagsterRun) -> set[str]:
    return {step.name for step in steps_of(instance, run)}


@pytest.mark.process
def test_assets_from_the_ui(workspace: WorkspaceProcessContext, instance: dg.DagsterInstance) -> None:
    training = launched(workspace, ("cls_model",))
    assert asked(training)["num_gpus"] == 1
    assert "--gres=gpu:1" in training.tags[SLURM_TAG]
    assert training.tags[SLURM_TAG].startswith("--partition=main ")
    light = launched(workspace, ("observations",), tags={"slurm/options": "--qos=low"})
    assert asked(light) == {"num_cpus": 1, "num_gpus": 0, "memory": OF_STEPS["observations"].memory_gb * 10**9}
    assert light.tags[SLURM_TAG].endswith(" --qos=low")
    assert names(instance, launched(workspace, ("crops",), tags={"dagster/partition": "ESP_000001_1000"})) == {
        "crops",
        "crops_crops_are_whole",
    }


@pytest.mark.process
def test_checks_alone(workspace: WorkspaceProcessContext, instance: dg.DagsterInstance) -> None:
    run = launched(workspace, checks=(("seg_evaluation", "iou_crater_above_bound"),))
    assert names(instance, run) == {"seg_evaluation_iou_crater_above_bound"}
    assert asked(run)["num_gpus"] == 0


@pytest.mark.process
def test_jobs(workspace: WorkspaceProcessContext, instance: dg.DagsterInstance) -> None:
    assert asked(launched(workspace, job="reevaluate"))["num_gpus"] == 1
    part = launched(workspace, ("labelled_crops", "reflectance"), job="reevaluate")
    assert {"labelled_crops", "reflectance"} <= names(instance, part)
    assert "cls_evaluation" not in names(instance, part)
    assert asked(part)["num_gpus"] == 0
    config = {"ops": {"fetch_export": {"config": {"project": "mars/tiles", "version": 1}}}}
    fetch = launched(workspace, job="fetch_labels", config=config)
    assert names(instance, fetch) == {"fetch_export"}
    assert asked(fetch)["num_cpus"] == 1


@pytest.mark.process
def test_a_range_of_partitions_has_the_time_of_all(
    workspace: WorkspaceProcessContext, instance: dg.DagsterInstance
) -> None:
    keys = instance.get_dynamic_partitions("observation")
    params = {
        "selector": {"repositorySelector": IN_THE_PROJECT, "partitionSetName": "imagery_partition_set"},
        "partitionNames": list(keys[2:6]),
    }
    for backfill in (params, {"assetSelection": [{"path": ["hirise_images"]}], "partitionNames": list(keys[2:6])}):
        ask(workspace, BACKFILL, backfill)
        errors = [error for error in execute_backfill_iteration(workspace, logging.getLogger()) if error]
        assert errors == []
    by_assets, by_job = instance.get_runs()
    assert names(instance, by_job) == {"hirise_images", "crops", "crops_crops_are_whole"}
    assert names(instance, by_assets) == {"hirise_images"}
    assert [step.partitions for step in steps_of(instance, by_assets)] == [4]
    assert int(by_assets.tags[MAX_RUNTIME_SECONDS_TAG]) > 4 * OF_POOLS[ARCHIVE_POOL].hours * 3600
    assert asked(by_job)["num_cpus"] == OF_STEPS["crops"].cpus


def backfilled(workspace: WorkspaceProcessContext, assets: list[str], keys: Sequence[str]) -> list[set[str]]:
    """Launches a backfill of assets, and returns the observations of each run of the daemon's first look at it."""
    before = {run.run_id for run in workspace.instance.get_runs()}
    ask(workspace, BACKFILL, {"assetSelection": [{"path": [name]} for name in assets], "partitionNames": list(keys)})
    assert [error for error in execute_backfill_iteration(workspace, logging.getLogger()) if error] == []
    runs = [run for run in workspace.instance.get_runs() if run.run_id not in before]
    assert all(names(workspace.instance, run) >= {"hirise_images"} for run in runs)
    assert all("crater_maps" not in names(workspace.instance, run) for run in runs)
    every = workspace.instance.get_dynamic_partitions("observation")
    ranges = [
        (run.tags["dagster/asset_partition_range_start"], run.tags["dagster/asset_partition_range_end"])
        if "dagster/asset_partition_range_start" in run.tags
        else (run.tags["dagster/partition"],) * 2
        for run in runs
    ]
    return [{key for key in every if first <= key <= last} for first, last in ranges]


@pytest.mark.process
def test_a_backfill_is_divided_into_runs_and_maps_wait_for_their_images(
    workspace: WorkspaceProcessContext, instance: dg.DagsterInstance
) -> None:
    keys = instance.get_dynamic_partitions("observation")
    both = ["hirise_images", "crops"]
    assert sorted(map(len, backfilled(workspace, both, keys))) == [2, 10]
    assert set.union(*backfilled(workspace, [*both, "crater_maps"], keys)) == set(keys)
    assert backfilled(workspace, both, keys[3:4]) == [{keys[3]}], "one observation is one run"
    apart = backfilled(workspace, both, [*keys[:2], *keys[5:7]])
    assert sorted(map(sorted, apart)) == [list(keys[:2]), list(keys[5:7])]


def fails_after_training(workspace: WorkspaceProcessContext) -> dg.DagsterRun:
    """A run of a model and the check of its evaluation, of which the check is still to be done."""
    instance = workspace.instance
    run = launched(workspace, ("cls_evaluation",), checks=(("cls_evaluation", "balanced_accuracy_above_bound"),))
    assert asked(run)["num_gpus"] == 1
    instance.add_run_tags(run.run_id, {JOB_TAG: "7", PROCESS_TAG: "host 1 1.0"})
    for kind, step, data in (
        (DagsterEventType.STEP_SUCCESS, "cls_evaluation", StepSuccessData(1.0)),
        (DagsterEventType.STEP_FAILURE, "cls_evaluation_balanced_accuracy_above_bound", StepFailureData(None, None)),
    ):
        handle = StepHandle.parse_from_key(step)
        event = DagsterEvent(kind.value, run.job_name, handle, event_specific_data=data)
        instance.report_dagster_event(event, run.run_id)
    instance.report_run_failed(run)
    failed = instance.get_run_by_id(run.run_id)
    assert failed is not None
    return failed


@pytest.mark.process
def test_a_run_that_goes_on_from_a_failure_asks_for_what_is_left(
    workspace: WorkspaceProcessContext, instance: dg.DagsterInstance
) -> None:
    failed = fails_after_training(workspace)
    answer = ask(workspace, REPEAT, {"parentRunId": failed.run_id, "strategy": "FROM_FAILURE"})
    by_hand = run_of(workspace, answer["run"]["runId"])
    retry_run(failed, workspace)
    (by_itself,) = [run for run in instance.get_runs() if run.run_id not in {failed.run_id, by_hand.run_id}]
    for run in (by_hand, by_itself):
        assert names(instance, run) == {"cls_evaluation_balanced_accuracy_above_bound"}
        assert asked(run)["num_gpus"] == 0
        assert "gpu" not in run.tags[SLURM_TAG]
        assert (run.tags[JOB_TAG], run.tags[PROCESS_TAG]) == ("", ""), "those of the run before"
    answer = ask(workspace, REPEAT, {"parentRunId": failed.run_id, "strategy": "ALL_STEPS"})
    assert asked(run_of(workspace, answer["run"]["runId"]))["num_gpus"] == 1


@pytest.mark.process
def test_the_sensor_that_follows_labels(workspace: WorkspaceProcessContext, instance: dg.DagsterInstance) -> None:
    daemon = AssetDaemon(settings={}, pre_sensor_interval_seconds=0)
    now = get_current_datetime()
    for version in ("one", "two"):
        tags = {"dagster/data_version": version}
        instance.report_runless_asset_event(dg.AssetObservation("roboflow_exports", tags=tags))
        for _ in range(2):
            now += timedelta(seconds=60)
            with freeze_time(now):
                daemon._run_iteration_impl(workspace, None, {}, {})
    (run,) = instance.get_runs()
    assert run.tags["mars_assets/automatic"] == "true"
    assert {"labelled_crops", "labelled_crops_label_schema"} <= names(instance, run)
    assert asked(run)["num_cpus"] == OF_POOLS[LAKE_POOL].cpus


@pytest.mark.process
def test_a_run_with_a_tag_that_cannot_be_read_fails_with_the_reason(
    workspace: WorkspaceProcessContext, instance: dg.DagsterInstance
) -> None:
    with pytest.raises(AssertionError, match="the tag dagster-ray/config is"):
        launched(workspace, ("observations",), tags={RAY_TAG: "two"})
    (run,) = instance.get_runs()
    assert run.status == dg.DagsterRunStatus.FAILURE
