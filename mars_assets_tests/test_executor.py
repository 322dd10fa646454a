import os
import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import psutil
import pytest
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext

from mars_assets.errors import SupersededError
from mars_assets.executor import (
    DAGSTERS_INTERVAL,
    DAGSTERS_RECORD,
    PROCESS_TAG,
    clear_up,
    is_gone,
    one_process_executor,
    state_of_run,
    this_process,
)
from mars_assets.storage.claims import claim
from mars_assets.storage.files import read_json, write_json
from mars_assets.storage.runs import Run
from mars_assets_tests.jobs import job

pytestmark = pytest.mark.slow


def ended_process() -> str:
    script = "from mars_assets.executor import this_process; print(this_process(), flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    text = process.stdout.readline().strip()
    assert not is_gone(text)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert is_gone(text), "it is still listed, as nobody has asked how it ended"
    process.communicate()
    return text


def test_who_is_gone() -> None:
    assert not is_gone(this_process())
    assert is_gone(ended_process())
    host, number, started = this_process().rsplit(" ", 2)
    assert is_gone(f"{host} {number} {started}1"), "the number was given to another process"
    boot, namespace, ticks = started.split(":")
    for one_host in (False, True):
        assert not is_gone(f"{host} {number} {boot}:1:{ticks}", one_host=one_host), "of a container nothing is known"
        assert is_gone(f"elsewhere {number} {started}1", one_host=one_host), "the host was renamed"
    assert not is_gone(f"{host} {number} other-boot:{namespace}:{ticks}"), "of another host nothing is known"
    assert is_gone(f"{host} {number} other-boot:{namespace}:{ticks}", one_host=True), "this host was restarted"


def test_runs_of_earlier_versions_are_judged_where_nothing_else_can_be_meant() -> None:
    """They state the boot and the ticks, or the time."""
    host, number, started = this_process().rsplit(" ", 2)
    boot, _, ticks = started.split(":")
    assert not is_gone(f"{host} {number} {boot}:{ticks}"), "which container it is in is not known"
    assert not is_gone(f"elsewhere {number} 1.0")
    assert is_gone(f"{host} {number} 1.0")


@pytest.mark.process
@pytest.mark.skipif(shutil.which("unshare") is None or os.geteuid() != 0, reason="needs unshare and root")
def test_a_living_run_in_a_container_of_the_same_name_is_left_alone(tmp_path: Path) -> None:
    """Two namespaces of process ids, as containers are, with one host name and one instance."""
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c"]
    ours = f"""
import dagster as dg
from mars_assets.executor import PROCESS_TAG, this_process
from mars_assets_tests.jobs import job
with dg.DagsterInstance.local_temp({str(tmp_path)!r}) as instance:
    tags = {{PROCESS_TAG: this_process()}}
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags=tags)
    print(run.run_id, flush=True)
    input()
"""
    theirs = f"""
import dagster as dg
from mars_assets.executor import clear_up
with dg.DagsterInstance.local_temp({str(tmp_path)!r}) as instance:
    print(clear_up(instance))
"""
    holder = subprocess.Popen([*command, ours], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert len(holder.stdout.readline().strip()) == 36
        seen = subprocess.run([*command, theirs], capture_output=True, text=True, check=True)
        assert seen.stdout.strip() == "[]"
    finally:
        holder.communicate("\n")


def test_setting_the_clock_kills_nobody(monkeypatch) -> None:
    here = this_process()
    monkeypatch.setattr(psutil, "boot_time", lambda: 1.0)
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: 2.0)
    assert not is_gone(here)


def test_a_run_that_held_nothing_and_died_counts_as_failed() -> None:
    with dg.instance_for_test() as instance:
        runs = [
            instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags={PROCESS_TAG: process})
            for process in (ended_process(), this_process())
        ]
        assert clear_up(instance) == [runs[0].run_id]
        statuses = [instance.get_run_by_id(run.run_id).status for run in runs]
        assert statuses == [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.STARTED]


def test_a_repeated_run_is_not_judged_by_the_process_of_the_first() -> None:
    """Dagster copies the tags."""
    with dg.instance_for_test() as instance:
        tags = {PROCESS_TAG: ended_process()}
        first = instance.create_run_for_job(job, status=dg.DagsterRunStatus.FAILURE, tags=tags)
        again = instance.create_run_for_job(
            job,
            status=dg.DagsterRunStatus.STARTED,
            tags=tags,
            parent_run_id=first.run_id,
            root_run_id=first.run_id,
        )
        assert clear_up(instance) == []
        assert instance.get_run_by_id(again.run_id).status == dg.DagsterRunStatus.STARTED
        instance.add_run_tags(again.run_id, {PROCESS_TAG: ended_process()})
        assert clear_up(instance) == [again.run_id]


def test_only_the_dead_lose_their_places() -> None:
    with dg.instance_for_test() as instance:
        storage = instance.event_log_storage
        storage.set_concurrency_slots("gpu", 3)
        runs = {}
        for name, process in (("dead", ended_process()), ("alive", this_process()), ("elsewhere", "host 1 1.0")):
            run = instance.create_run_for_job(job, tags={PROCESS_TAG: process})
            assert storage.claim_concurrency_slot("gpu", run.run_id, "step").is_claimed
            runs[name] = run.run_id
        assert clear_up(instance) == [runs["dead"]]
        assert storage.get_concurrency_run_ids() == {runs["alive"], runs["elsewhere"]}
        assert instance.get_run_by_id(runs["dead"]).status == dg.DagsterRunStatus.FAILURE
        assert clear_up(instance) == []


def test_a_run_that_was_given_up_writes_nothing_more(tmp_path: Path) -> None:
    """As on a host that was cut off: Dagster took the run for failed, and its step goes on."""
    result, refused = tmp_path / "result", []

    @dg.asset
    def cut_off(context: dg.AssetExecutionContext) -> None:
        with claim(result, tmp_path / "work") as mine:
            context.instance.report_run_failed(context.run)
            try:
                with mine.publishing():
                    write_json(result, 1)
            except SupersededError as error:
                refused.append(str(error))

    @dg.asset
    def in_force() -> None:
        with claim(result, tmp_path / "work") as mine, mine.publishing():
            write_json(result, 2)

    with dg.instance_for_test() as instance:
        for asset in (cut_off, in_force):
            job = dg.Definitions([asset], executor=one_process_executor).get_implicit_global_asset_job_def()
            execute_run(InMemoryJob(job), instance.create_run_for_job(job), instance)
    assert len(refused) == 1
    assert "was given up while its process went on" in refused[0]
    assert read_json(result) == 2


RESULTS = {"ASSET_MATERIALIZATION", "ASSET_CHECK_EVALUATION", "STEP_SUCCESS", "PIPELINE_SUCCESS"}


@dg.asset
def given_up(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """As on a host that is cut off once the result is there, and that is back before it is recorded."""
    context.instance.report_run_failed(context.run)
    return dg.MaterializeResult()


@dg.asset_check(asset=given_up)
def looked_at(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    context.instance.report_run_failed(context.run)
    return dg.AssetCheckResult(passed=True)


def statuses_and_results(instance: dg.DagsterInstance) -> tuple[str, set[str]]:
    """The status of a run that is given up in its step, and the results that are recorded."""
    definitions = dg.Definitions([given_up], asset_checks=[looked_at], executor=one_process_executor)
    job = definitions.get_implicit_global_asset_job_def()
    run = instance.create_run_for_job(job)
    execute_run(InMemoryJob(job), run, instance)
    events = {entry.dagster_event.event_type_value for entry in instance.all_logs(run.run_id) if entry.dagster_event}
    return instance.get_run_by_id(run.run_id).status.value, events & RESULTS  # type: ignore[union-attr]


def test_a_run_that_was_given_up_has_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    with dg.instance_for_test() as instance:
        assert statuses_and_results(instance) == ("FAILURE", set())
        monkeypatch.setattr(dg.DagsterInstance, "handle_new_event", DAGSTERS_RECORD)
        monkeypatch.setattr(Run, "refuse_if_over", lambda _: None)
        assert statuses_and_results(instance) == ("SUCCESS", RESULTS), "Dagster itself refuses it"


def test_the_state_of_a_run() -> None:
    with dg.instance_for_test() as instance:
        states = {}
        for status in ("STARTED", "CANCELING", "SUCCESS", "FAILURE", "CANCELED"):
            run = instance.create_run_for_job(job, status=dg.DagsterRunStatus(status))
            states[status] = state_of_run(instance, run.run_id)
        assert states == dict.fromkeys(("STARTED", "CANCELING"), "in force") | dict.fromkeys(
            ("SUCCESS", "FAILURE", "CANCELED"), "over"
        )
        assert state_of_run(instance, "deleted") == "over"
    assert state_of_run(None, "x") == "unknown", "the database is away"  # type: ignore[arg-type]


def test_a_run_that_waits_for_a_place_sleeps() -> None:
    with dg.instance_for_test() as instance:
        instance.event_log_storage.set_concurrency_slots("gpu", 1)
        runs = [instance.create_run_for_job(job) for _ in range(2)]
        with (
            InstanceConcurrencyContext(instance, runs[0]) as first,
            InstanceConcurrencyContext(instance, runs[1]) as next,
        ):
            assert next.interval_to_next_pending_claim_check() == 0
            assert first.claim("gpu", "step")
            assert not next.claim("gpu", "step")
            assert 0 < next.interval_to_next_pending_claim_check() <= 15
            assert DAGSTERS_INTERVAL(next) <= 0, "Dagster's own sleeps now: ours can go"
