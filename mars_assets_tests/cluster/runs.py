"""Runs of the project's assets, launched as Dagster's daemon does, on an instance of the test's own."""

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn

import dagster as dg
import pytest
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget
from dagster._daemon.monitoring.run_monitoring import execute_run_monitoring_iteration
from dagster_graphql.test.utils import execute_dagster_graphql

OBSERVATION = "ESP_011472_1225"
QUEUE = {
    "module": "mars_assets.cluster.coordinator",
    "class": "NeedsRunCoordinator",
    "config": {"gpus": 1, "most_cpus": 1, "most_memory_gb": 2, "most_hours": 2},
}
IN_THE_PROJECT = {"repositoryLocationName": "mars_assets.definitions", "repositoryName": "__repository__"}
LAUNCH = """mutation($p: ExecutionParams!) { launchPipelineExecution(executionParams: $p) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
  ... on RunConfigValidationInvalid { errors { message } } } }"""
TERMINATE = """mutation($p: String!, $policy: TerminateRunPolicy) { terminateRun(runId: $p, terminatePolicy: $policy) {
  __typename ... on TerminateRunFailure { message } ... on PythonError { message } } }"""


def ask(workspace: WorkspaceProcessContext, query: str, params: Any, **others: Any) -> dict[str, Any]:
    """Sends a request as the UI does."""
    result = execute_dagster_graphql(workspace.create_request_context(), query, variables={"p": params, **others})
    (answer,) = result.data.values()
    return dict(answer)


def missing_program(name: str) -> NoReturn:
    """In CI a missing program is a failure, not a skip."""
    message = f"{name} is not installed"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def slow_archive() -> Iterator[str]:
    """An archive that sends a byte a second, so that a download takes long."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(10**9))
            self.end_headers()
            with contextlib.suppress(OSError):
                while not ended.wait(1):
                    self.wfile.write(b"x")
                    self.wfile.flush()

        def log_message(self, *_: object) -> None:
            pass

    ended = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        ended.set()
        server.shutdown()
        server.server_close()


class Runs:
    """A lake with one observation, and an instance whose runs a launcher starts elsewhere."""

    def __init__(self, workspace: WorkspaceProcessContext) -> None:
        self.workspace, self.instance = workspace, workspace.instance

    def launch(self, asset: str, partition: str = "", tags: dict[str, str] | None = None) -> str:
        """Launches a run as the UI and then the daemon do."""
        tags = {**(tags or {}), **({"dagster/partition": partition} if partition else {})}
        params = {
            "selector": {**IN_THE_PROJECT, "pipelineName": "__ASSET_JOB", "assetSelection": [{"path": [asset]}]},
            "runConfigData": {},
            "mode": "default",
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
        }
        answer = ask(self.workspace, LAUNCH, params)
        assert answer["__typename"] == "LaunchRunSuccess", answer
        run_id = str(answer["run"]["runId"])
        self.instance.launch_run(run_id, self.workspace.create_request_context())
        return run_id

    def launch_a_long_one(self) -> str:
        """Launches a download that hangs, and waits until it does."""
        self.instance.add_dynamic_partitions("observation", [OBSERVATION])
        run_id = self.launch("hirise_images", OBSERVATION)
        self.wait(run_id, lambda: self.has(run_id, "STEP_START"))
        return run_id

    def run(self, run_id: str) -> dg.DagsterRun:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run

    def status(self, run_id: str) -> str:
        return self.run(run_id).status.value

    def has(self, run_id: str, event: str) -> bool:
        return any(
            e.dagster_event and e.dagster_event.event_type_value == event for e in self.instance.all_logs(run_id)
        )

    def messages(self, run_id: str) -> str:
        """All that the run's page shows."""
        return "\n".join(
            str((e.dagster_event.message if e.dagster_event else "") or e.user_message)
            for e in self.instance.all_logs(run_id)
        )

    def terminate(self, run_id: str, policy: str = "SAFE_TERMINATE") -> dict[str, Any]:
        return ask(self.workspace, TERMINATE, run_id, policy=policy)

    def monitor(self) -> None:
        """Looks at all runs once, as the daemon does every few seconds."""
        errors = [e for e in execute_run_monitoring_iteration(self.workspace, logging.getLogger("monitor")) if e]
        assert errors == []

    def kill(self, run_id: str) -> None:
        """Kills the process of a run, and waits until Dagster's monitoring finds that it has failed."""
        self.monitor()
        assert self.status(run_id) == "STARTED"
        os.kill(self.process(run_id), signal.SIGKILL)
        end = time.monotonic() + 60
        while self.status(run_id) == "STARTED" and time.monotonic() < end:
            time.sleep(0.5)
            self.monitor()
        assert self.status(run_id) == "FAILURE"

    def process(self, run_id: str) -> int:
        return int(self.run(run_id).tags["mars_assets/process"].split()[1])

    def wait_until(self, done: Callable[[], bool], seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end
            time.sleep(0.5)

    def wait(self, run_id: str, done: Callable[[], bool], seconds: float = 120) -> None:
        """Waits until something is true of a run that goes on."""
        end = time.monotonic() + seconds
        while not done():
            finished = self.run(run_id).is_finished
            if time.monotonic() > end or (finished and not done()):
                info = self.instance.run_launcher.get_run_worker_debug_info(self.run(run_id))
                pytest.fail(f"{self.status(run_id)}\n{self.messages(run_id)}\n{info}")
            time.sleep(0.3)

    def wait_for(self, run_id: str, status: str, seconds: float = 120) -> None:
        self.wait(run_id, lambda: self.status(run_id) == status, seconds)


@contextlib.contextmanager
def runs_by(launcher: dict[str, Any], folder: Path) -> Iterator[Runs]:
    """Starts the project's code location on an instance with this launcher."""
    home = folder / "home"
    home.mkdir()
    settings = {
        "run_launcher": launcher,
        "run_coordinator": QUEUE,
        "run_monitoring": {"enabled": True, "start_timeout_seconds": 10**8},
        "concurrency": {"pools": {"default_limit": 1, "granularity": "op"}},
    }
    with dg.instance_for_test(settings, temp_dir=str(home)) as instance:
        target = ModuleTarget("mars_assets.definitions", None, str(Path.cwd()), "mars_assets.definitions")
        with create_test_daemon_workspace_context(target, instance) as workspace:
            yield Runs(workspace)


def small_lake(folder: Path) -> Path:
    """A lake that lists one observation."""
    lake = folder / "lake"
    lake.mkdir()
    (lake / "observations.csv").write_text(f"id,product\n{OBSERVATION},RGB.NOMAP.browse\n")
    return lake
