"""A small lake of the sample whose history is in a real Postgres, set up as a lab does: ``mars-assets deploy``."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import requests

from mars_assets.deployment.services import COMMANDS
from mars_assets.lake import Lake
from mars_assets.sample.make import Plan, make_sample
from mars_assets_tests.postgres import Database
from mars_assets_tests.shell import PROJECT, clean_environment

SMALL = Plan(train=1, valid=1, test=1, unlabelled=0, height=1664, width=1664)
LAUNCH = """mutation($p: ExecutionParams!) { launchRun(executionParams: $p) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
  ... on RunConfigValidationInvalid { errors { message } } } }"""
PATIENCE = 120.0
"""Seconds that the webserver has to answer."""
LABELS = "labelled_crops,reflectance,imputed_post_norm"


class Deployed:
    """The lake, the instance, and the commands of somebody who uses them.

    Args:
        folder: of both.
        database: Dagster's.
    """

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder, self.database = folder, database
        self.lake = Lake.at(folder / "lake")
        self.home = folder / "home"
        self.environment = {
            **clean_environment(),
            **database.variables,
            "DAGSTER_HOME": str(self.home),
            "MARS_LAKE": str(self.lake.root),
            "MARS_CONTACT": "tests",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")])),
        }

    def start(self, program: str, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Start a command of the environment that the tests run in."""
        if program == "mars-assets":
            command = [sys.executable, "-m", "mars_assets.cli", *arguments]
        else:
            command = [str(Path(sys.executable).with_name(program)), *arguments]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, program: str, *arguments: str, **variables: str) -> tuple[int, str]:
        process = self.start(program, *arguments, **variables)
        try:
            output, _ = process.communicate(timeout=400)
        finally:
            process.kill()
        return process.returncode, output

    def deploy(self, level: str = "workstation", *options: str) -> str:
        code, output = self.run("mars-assets", "deploy", level, *options)
        assert code == 0, output
        return output

    def materialize(self, select: str, **config: Any) -> str:
        code, output = self.run("dagster", *materialize(select, **config))
        assert code == 0, output[-4000:]
        return output


def materialize(select: str, **config: Any) -> list[str]:
    """The words of ``dagster asset materialize`` for the project, with configurations by asset."""
    words = ["asset", "materialize", "--select", select, "-m", "mars_assets.definitions"]
    if config:
        words += ["--config-json", json.dumps({"ops": {name: {"config": own} for name, own in config.items()}})]
    return words


def deployed_sample(folder: Path, database: Database) -> Deployed:
    """Put the sample's labels and weights into a lake of its own, after ``mars-assets deploy``."""
    deployed = Deployed(folder, database)
    make_sample(deployed.lake, plan=SMALL)
    deployed.deploy()
    deployed.materialize("prithvi_weights", prithvi_weights={"source": "sample"})
    return deployed


@dataclass
class Services:
    """Webserver and daemon, by the commands of their units."""

    deployed: Deployed
    port: int
    processes: dict[str, subprocess.Popen[bytes]]

    def start(self, name: str) -> None:
        """Start a service as its unit does, but for the port."""
        program, *words = COMMANDS[name]
        words = [str(self.port) if word == "3000" else word for word in words]
        with open(self.deployed.folder / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(
                [str(Path(sys.executable).with_name(program)), *words],
                cwd=PROJECT,
                env=self.deployed.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Wait until the webserver answers."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                self.ask("{ version }")
                return
            except requests.RequestException:
                assert time.monotonic() < until, (self.deployed.folder / "webserver.log").read_text()[-3000:]
                time.sleep(0.5)

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        body = {"query": query, "variables": variables}
        answer = requests.post(f"http://127.0.0.1:{self.port}/graphql", json=body, timeout=60).json()
        if answer.get("errors"):
            raise ConnectionError(str(answer["errors"])[:300])
        return dict(answer["data"])

    def launch(self, asset: str, config: dict[str, Any], tags: Mapping[str, str] | None = None) -> str:
        selector = {
            "repositoryLocationName": "mars_assets.definitions",
            "repositoryName": "__repository__",
            "jobName": "__ASSET_JOB",
            "assetSelection": [{"path": [asset]}],
        }
        settings = {
            "selector": selector,
            "runConfigData": {"ops": {asset: {"config": config}}} if config else {},
            "mode": "default",
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in (tags or {}).items()]},
        }
        answer = self.ask(LAUNCH, p=settings)["launchRun"]
        if answer["__typename"] != "LaunchRunSuccess":
            raise ConnectionError(str(answer)[:300])
        return str(answer["run"]["runId"])


@contextmanager
def services(deployed: Deployed, port: int, *names: str) -> Iterator[Services]:
    """Services that run, of which nothing is left afterwards."""
    running = Services(deployed, port, {})
    try:
        for name in names:
            running.start(name)
        running.wait()
        yield running
    finally:
        family = [psutil.Process(process.pid) for process in running.processes.values() if process.poll() is None]
        family += [child for process in family for child in process.children(recursive=True)]
        for process in family:
            process.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs(family, timeout=20)
        for process in alive:
            process.kill()
