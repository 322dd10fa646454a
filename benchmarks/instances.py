"""Dagster instances with the project's settings, on SQLite or on a Postgres that the benchmark starts and stops."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import requests
import yaml

from mars_assets.instance import PROJECT_SETTINGS, SETTINGS_FILE

sys.path.insert(0, str(Path(__file__).parent.parent))  # the tests' Postgres

from mars_assets_tests.postgres import installed, serve_postgres

MODULE = "mars_assets.definitions"
STORAGES = ("sqlite", "postgres")
PATIENCE = 60.0
"""Seconds for a server to start or stop."""


@dataclass(frozen=True)
class Instance:
    """A lake's folder with a Dagster instance of the project's settings.

    Args:
        folder: of the lake and the instance.
        storage: block ``storage`` of its settings.
        variables: what its processes need in their environment.
        changes: settings that differ from the project's, by block.
    """

    folder: Path
    storage: Mapping[str, Any]
    variables: Mapping[str, str] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            **self.variables,
            "DAGSTER_HOME": str(self.folder / "dagster"),
            "MARS_LAKE": str(self.folder / "lake"),
            "MARS_CONTACT": "benchmark",
        }

    def write(self) -> None:
        """Write its settings: the project's own but for where the history is and what is changed."""
        home = self.folder / "dagster"
        home.mkdir(parents=True)
        settings = yaml.safe_load(PROJECT_SETTINGS.read_bytes())
        (home / SETTINGS_FILE).write_text(yaml.safe_dump({**settings, "storage": self.storage, **self.changes}))


@contextmanager
def instance_on(storage: str, changes: Mapping[str, Any] | None = None) -> Iterator[Instance]:
    """Make an empty instance, and remove it and its Postgres afterwards.

    Args:
        storage: one of ``STORAGES``.
        changes: settings that differ from the project's, by block.
    """
    work = Path(tempfile.mkdtemp(prefix="mars-bench-"))
    try:
        if storage == "sqlite":
            made = Instance(work, {"sqlite": {"base_dir": str(work / "dagster")}}, changes=changes or {})
            made.write()
            yield made
            return
        programs = installed()
        if programs is None:
            raise SystemExit("there is no initdb: install Postgres, or choose --storages sqlite")
        with serve_postgres(programs) as server:
            variables = server.database().variables
            # SQLAlchemy 2.1 takes psycopg 3 for "postgresql" alone, which dagster-postgres does not bring.
            database = {
                "hostname": {"env": "DAGSTER_PG_HOST"},
                "port": int(variables["DAGSTER_PG_PORT"]),
                "username": {"env": "DAGSTER_PG_USER"},
                "password": {"env": "DAGSTER_PG_PASSWORD"},
                "db_name": {"env": "DAGSTER_PG_DB"},
                "scheme": "postgresql+psycopg2",
            }
            made = Instance(work, {"postgres": {"postgres_db": database}}, variables, changes or {})
            made.write()
            yield made
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def started(instance: Instance, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command of Dagster's; stop it, with its children, in the end."""
    with open(instance.folder / f"{command[0]}.log", "w") as output:
        process = subprocess.Popen(  # noqa: S603 - our own command, no shell
            [str(Path(sys.executable).with_name(command[0])), *command[1:]],
            env=instance.environment,
            cwd=instance.folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)  # to the parent alone, which stops its children in order
        try:
            process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@dataclass(frozen=True)
class Server:
    """A webserver that answers.

    Args:
        url: its address.
        pid: of its process.
    """

    url: str
    pid: int

    def core_seconds(self) -> float:
        """Seconds of a core that it has taken so far, with the code server that it started."""
        process = psutil.Process(self.pid)
        times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
        return sum(one.user + one.system for one in times)


@contextmanager
def webserver(instance: Instance) -> Iterator[Server]:
    """Serve the project's UI; give the server once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with started(instance, "dagster-webserver", "-m", MODULE, "-h", "127.0.0.1", "-p", str(port)) as process:
        until = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(requests.ConnectionError):
                if requests.get(f"{url}/server_info", timeout=5).ok:
                    break
            if process.poll() is not None or time.monotonic() > until:
                sys.exit(f"the webserver does not answer: {instance.folder / 'dagster-webserver.log'}")
            time.sleep(0.2)
        yield Server(url, process.pid)
