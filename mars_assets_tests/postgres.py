"""A real Postgres on loopback, for tests: a folder, a port and passwords of its own, and no root."""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psycopg2
from sqlalchemy import URL

HOST = "127.0.0.1"
ADMIN = "admin"
PATIENCE = 60.0
"""Seconds after which a server that does not answer has failed."""


class Database(NamedTuple):
    """An empty database, and the role that owns it."""

    port: int
    user: str
    password: str
    name: str

    @property
    def variables(self) -> dict[str, str]:
        """The environment of whoever uses it as Dagster's."""
        return {
            "DAGSTER_PG_HOST": HOST,
            "DAGSTER_PG_PORT": str(self.port),
            "DAGSTER_PG_USER": self.user,
            "DAGSTER_PG_PASSWORD": self.password,
            "DAGSTER_PG_DB": self.name,
        }

    @property
    def url(self) -> str:
        """The address with the password, for SQLAlchemy."""
        parts = ("postgresql+psycopg2", self.user, self.password, HOST, self.port, self.name)
        return URL.create(*parts).render_as_string(hide_password=False)

    def query(self, text: str, *parameters: object) -> list[tuple[Any, ...]]:
        with closing(_connect(self.port, self.user, self.password, self.name)) as connection:
            cursor = connection.cursor()
            cursor.execute(text, parameters or None)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows


class Postgres:
    """A server whose process is a child of the test's, so that it can be killed and started again.

    Args:
        folder: of its data and its log; its user owns it.
        programs: folder of ``initdb`` and ``postgres``.
        user: whom its processes belong to; None: whoever runs the test.
        network: further address that it listens at, and the network that it serves there, such as
            ``("10.77.1.1", "10.77.1.0/24")``.
    """

    def __init__(self, folder: Path, programs: Path, user: str | None, network: tuple[str, str] | None = None) -> None:
        self.folder, self.programs, self.user = folder, programs, user
        self._addresses = HOST if network is None else f"{HOST},{network[0]}"
        self.port = free_port()
        self.log = folder / "log"
        self._password = secrets.token_hex(12)
        self._process: subprocess.Popen[bytes] | None = None
        password_file = folder / "password"
        password_file.write_text(self._password)
        if user:
            shutil.chown(password_file, user)
        settings = ["--username", ADMIN, "--pwfile", str(password_file), "--auth", "scram-sha-256"]
        command: list[str | Path] = [programs / "initdb", "--pgdata", folder / "data", *settings]
        subprocess.run(
            [*command, "--encoding", "UTF8", "--no-sync"], user=user, check=True, capture_output=True, cwd=folder
        )
        password_file.unlink()
        if network is not None:
            with open(folder / "data" / "pg_hba.conf", "a") as rules:
                rules.write(f"host all all {network[1]} scram-sha-256\n")

    def start(self) -> None:
        """Start the server, also after a kill, and wait until it answers."""
        until = time.monotonic() + PATIENCE
        # Processes of a killed server hold its shared memory for a moment, and the next one refuses to start.
        while not self._starts():
            assert time.monotonic() < until, self.log.read_text()[-3000:]
            time.sleep(0.2)

    def _starts(self) -> bool:
        options = {
            "port": self.port,
            "listen_addresses": self._addresses,
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": 200,
        }
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        command: list[str | Path] = [self.programs / "postgres", "-D", self.folder / "data", *words]
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                command, user=self.user, stdout=log, stderr=log, cwd=self.folder, start_new_session=True
            )
        while self._process.poll() is None:
            try:
                _connect(self.port, ADMIN, self._password, "postgres").close()
                return True
            except psycopg2.OperationalError:
                time.sleep(0.1)
        return False

    def kill(self) -> None:
        """kill -9, as when the machine loses its power."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """Stop it without waiting for those who are connected."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()

    def database(self) -> Database:
        """Create an empty database and a role without further rights that owns it."""
        name = f"dagster_{secrets.token_hex(4)}"
        # With what an address of a database, a shell and YAML might take for their own.
        password = f"{secrets.token_hex(8)}@:/%41#$ {{x}}"
        self.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'", f"CREATE DATABASE {name} OWNER {name}")
        return Database(self.port, name, password, name)

    def execute(self, *statements: str, database: str = "postgres") -> None:
        """Run statements as the administrator."""
        with closing(_connect(self.port, ADMIN, self._password, database)) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement)

    def dump(self, database: Database) -> str:
        """What a back-up holds: every row of a database."""
        address = ["--host", HOST, "--port", str(self.port), "--username", database.user, database.name]
        environment = {**os.environ, "PGPASSWORD": database.password}
        command: list[str | Path] = [self.programs / "pg_dump", *address]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def installed() -> Path | None:
    """Find the folder of Postgres' programs: Debian's newest, or that on the PATH."""
    debians = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    found = str(debians[-1]) if debians else shutil.which("initdb")
    return Path(found).resolve().parent if found else None


@contextmanager
def serve_postgres(programs: Path, network: tuple[str, str] | None = None) -> Iterator[Postgres]:
    """A running server, of which nothing is left afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="mars-postgres-", dir="/var/tmp"))
    server = None
    try:
        user = _unprivileged() if os.geteuid() == 0 else None
        if user:
            shutil.chown(folder, user)
        server = Postgres(folder, programs, user, network)
        server.start()
        yield server
    finally:
        if server is not None:
            server.stop()
        shutil.rmtree(folder)


def _connect(port: int, user: str, password: str, database: str) -> Any:
    return psycopg2.connect(host=HOST, port=port, user=user, password=password, dbname=database, connect_timeout=5)


def _unprivileged() -> str:
    """Postgres refuses to be root."""
    users = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in users else "nobody"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port
