"""The Ray launcher with a head that answers as Ray's does, and as it should not."""

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import dagster as dg
import pytest
from dagster._core.launcher.base import LaunchRunContext, WorkerStatus
from dagster._core.storage.tags import MAX_RETRIES_TAG, PARENT_RUN_ID_TAG, ROOT_RUN_ID_TAG, WILL_RETRY_TAG

from mars_assets.cluster import ray, starts
from mars_assets.cluster.ray import RayLauncher
from mars_assets.cluster.starts import fail_dead_starts
from mars_assets.cluster.tags import RAY_JOB_TAG
from mars_assets.errors import MarsError
from mars_assets_tests.cluster.test_slurm import run_with

VERSION = '{"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": ""}'


class Head:
    """A dashboard that answers every question about a job in the same way."""

    def __init__(self) -> None:
        self.answer = (200, '{"type": "SUBMISSION", "status": "RUNNING", "entrypoint": "x"}')
        head = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                others = {"/api/version": (200, VERSION), "/api/jobs/": (200, "[]")}
                code, text = others.get(self.path, head.answer)
                self.send_response(code)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def head() -> Iterator[Head]:
    head = Head()
    yield head
    head.stop()


@pytest.fixture
def instance(head: Head) -> Iterator[dg.DagsterInstance]:
    config = {"ray": {"address": head.address, "num_cpus": 1}}
    launcher = {"module": "mars_assets.cluster.ray", "class": "RayLauncher", "config": config}
    retries = {"enabled": True, "max_retries": 1, "retry_on_asset_or_op_failure": False}
    with dg.instance_for_test({"run_launcher": launcher, "run_retries": retries}) as instance:
        yield instance


@pytest.fixture
def launcher(instance: dg.DagsterInstance) -> RayLauncher:
    launcher = instance.run_launcher
    assert isinstance(launcher, RayLauncher)
    return launcher


def job_with(instance: dg.DagsterInstance, status: str, **tags: str) -> dg.DagsterRun:
    """A run that was submitted to Ray."""
    run = run_with(instance, status, **tags)
    instance.add_run_tags(run.run_id, {RAY_JOB_TAG: f"dagster-run-{run.run_id}"})
    return instance.get_run_by_id(run.run_id) or run


@pytest.mark.slow
def test_only_what_the_head_says_of_the_job_ends_a_run(
    head: Head, launcher: RayLauncher, instance: dg.DagsterInstance
) -> None:
    run = job_with(instance, "STARTED")
    assert launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING
    head.answer = (200, '{"type": "SUBMISSION", "status": "FAILED", "entrypoint": "x", "message": "exit code 1"}')
    assert launcher.check_run_worker_health(run).status == WorkerStatus.FAILED
    head.answer = (500, "Internal Server Error")
    health = launcher.check_run_worker_health(run)
    assert (health.status, health.transient) == (WorkerStatus.RUNNING, True)
    head.answer = (404, "Job dagster-run does not exist")
    health = launcher.check_run_worker_health(run)
    assert health.status == WorkerStatus.FAILED
    assert "was started anew" in (health.msg or "")
    head.stop()
    health = launcher.check_run_worker_health(run)
    assert (health.status, health.transient) == (WorkerStatus.RUNNING, True)
    with pytest.raises(MarsError, match="the run goes on"):
        launcher.terminate(run.run_id)
    with pytest.raises(MarsError, match="did not accept the run"):
        launcher.launch_run(LaunchRunContext(run, None))


@pytest.mark.slow
def test_a_head_whose_host_is_gone_is_given_up_soon(
    launcher: RayLauncher, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "TIMEOUT", 0.2)
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.create_connection(full.getsockname(), 1)]  # the queue is full: further ones get no answer
        launcher.address = f"http://127.0.0.1:{full.getsockname()[1]}"
        begun = time.monotonic()
        assert launcher.check_run_worker_health(job_with(instance, "STARTED")).transient
        assert time.monotonic() - begun < 5
        waiting[0].close()


@pytest.mark.slow
def test_a_start_that_ray_gave_up_fails(head: Head, instance: dg.DagsterInstance) -> None:
    run = job_with(instance, "STARTING")
    assert fail_dead_starts(instance, submitted=0) == []
    head.answer = (200, '{"type": "SUBMISSION", "status": "FAILED", "entrypoint": "x", "message": "no such file"}')
    assert fail_dead_starts(instance, submitted=0) == [run.run_id]


@pytest.mark.slow
def test_starts_that_fail_leave_the_retries_of_a_run(head: Head, instance: dg.DagsterInstance) -> None:
    """Starts that a dead host ends, one after the other, and a job that can never start."""
    head.answer = (200, '{"type": "SUBMISSION", "status": "FAILED", "entrypoint": "x", "message": "its node has died"}')
    tags, group = {}, {}
    for _ in range(starts.MOST_RETRIES + 1):
        run = job_with(instance, "STARTING", **tags, **group)
        assert fail_dead_starts(instance, submitted=0) == [run.run_id]
        failed = instance.get_run_by_id(run.run_id)
        assert failed is not None
        group = group or {PARENT_RUN_ID_TAG: run.run_id, ROOT_RUN_ID_TAG: run.run_id}
        tags = {MAX_RETRIES_TAG: failed.tags[MAX_RETRIES_TAG]}
        retried = failed.tags[WILL_RETRY_TAG]
        if retried == "false":
            break
    assert retried == "false"
    assert len(instance.get_runs()) == starts.MOST_RETRIES + 1
    assert tags == {MAX_RETRIES_TAG: str(starts.MOST_RETRIES)}


@pytest.mark.slow
def test_a_run_that_shall_not_be_retried_is_not(head: Head, instance: dg.DagsterInstance) -> None:
    head.answer = (200, '{"type": "SUBMISSION", "status": "FAILED", "entrypoint": "x", "message": "its node has died"}')
    run = job_with(instance, "STARTING", **{MAX_RETRIES_TAG: "0"})
    assert fail_dead_starts(instance, submitted=0) == [run.run_id]
    failed = instance.get_run_by_id(run.run_id)
    assert failed is not None
    assert (failed.tags[MAX_RETRIES_TAG], failed.tags[WILL_RETRY_TAG]) == ("0", "false")


@pytest.mark.slow
def test_a_host_that_takes_no_jobs_yet_is_awaited(
    launcher: RayLauncher, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(["500: No available agent to submit job, please try again later.", None, "500: something else"])
    submitted = []

    def submit(submission: str, *_: object) -> None:
        if answer := next(answers):
            raise RuntimeError(f"Request failed with status code {answer}")
        submitted.append(submission)

    monkeypatch.setattr(launcher, "_launch_ray_job", submit)
    run = run_with(instance, "STARTING")
    launcher.launch_run(LaunchRunContext(run, None))
    assert submitted == [f"dagster-run-{run.run_id}"]
    assert instance.get_run_by_id(run.run_id).tags[RAY_JOB_TAG] == submitted[0]  # type: ignore[union-attr]
    with pytest.raises(RuntimeError, match="something else"):
        launcher.launch_run(LaunchRunContext(run, None))


@pytest.mark.slow
def test_a_run_of_the_command_line_is_left_alone(
    head: Head, launcher: RayLauncher, instance: dg.DagsterInstance
) -> None:
    head.answer = (404, "Job dagster-run does not exist")
    run = run_with(instance, "STARTED")
    assert launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING
    assert not launcher.terminate(run.run_id)
    repeats = run_with(instance, "STARTED", **{RAY_JOB_TAG: f"dagster-run-{run.run_id}"})
    assert launcher.check_run_worker_health(repeats).status == WorkerStatus.RUNNING
