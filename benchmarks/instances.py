"""Dagster instances with the project's settings, on SQLite or on a Postgres that the benchmark starts and stops."""

from __future__ import annotations

import contextlib
import os
import secrets
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

MODULE = "mars_assets.definitions"
STORAGES = ("sqlite", "postgres")
UNPRIVILEGED = "postgres"
"""Whom Postgres runs as where root starts it, since it refuses root."""
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
        with postgres() as variables:
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


@contextmanager
def postgres() -> Iterator[dict[str, str]]:
    """Start a Postgres with its own data on a free port of loopback, with a password; stop and remove it afterwards.

    Yields:
        The variables with which an instance finds it.
    """
    programs = postgres_programs()
    if programs is None:
        raise SystemExit("there is no initdb: install Postgres, or choose --storages sqlite")
    data = Path(tempfile.mkdtemp(prefix="mars-bench-postgres-"))
    account: dict[str, Any] = {}
    if os.geteuid() == 0:
        shutil.chown(data, UNPRIVILEGED)
        account = {"user": UNPRIVILEGED, "group": UNPRIVILEGED, "extra_groups": []}
    password = secrets.token_hex(16)
    server = None
    try:
        secret = data / "password"
        secret.touch(mode=0o600)
        secret.write_text(password)
        if account:
            shutil.chown(secret, UNPRIVILEGED)
        cluster = data / "cluster"
        command = [str(programs / "initdb"), "-D", str(cluster), "-U", "dagster", f"--pwfile={secret}"]
        options = ["-A", "scram-sha-256", "-E", "UTF8", "--locale=C"]
        subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL, cwd=data, **account)  # noqa: S603
        secret.unlink()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        server = subprocess.Popen(  # noqa: S603 - our own command, no shell
            [programs / "postgres", "-D", cluster, "-h", "127.0.0.1", "-p", str(port), "-k", data],
            cwd=data,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **account,
        )
        variables = {
            "DAGSTER_PG_HOST": "127.0.0.1",
            "DAGSTER_PG_PORT": str(port),
            "DAGSTER_PG_USER": "dagster",
            "DAGSTER_PG_PASSWORD": password,
            "DAGSTER_PG_DB": "postgres",
        }
        _wait_until_ready(programs, port, server)
        yield variables
    finally:
        if server is not None:
            for stop in (signal.SIGINT, signal.SIGQUIT):  # the fast shutdown, and the immediate one
                server.send_signal(stop)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    server.wait(timeout=PATIENCE / 6)
        shutil.rmtree(data, ignore_errors=True)


def _wait_until_ready(programs: Path, port: int, server: subprocess.Popen[bytes]) -> None:
    command = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
    until = time.monotonic() + PATIENCE
    while subprocess.run(command, check=False).returncode:  # noqa: S603 - our own command, no shell
        if server.poll() is not None or time.monotonic() > until:
            raise SystemExit("Postgres does not start")
        time.sleep(0.1)


def postgres_programs() -> Path | None:
    """Find the folder of ``initdb`` and ``postgres``, which Debian leaves off the PATH; None if there is none."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)
