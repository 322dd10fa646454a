"""A shell in a fresh clone's folder, and ``dagster dev`` started from it."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
import requests

from mars_assets.lake import Lake

PROJECT = Path(__file__).parent.parent
DAGSTER = str(Path(sys.executable).with_name("dagster"))
DG = str(Path(sys.executable).with_name("dg"))


def clean_environment() -> dict[str, str]:
    """As if none of the project's variables were set."""
    unset = ("DAGSTER_HOME", "DAGSTER_MODULE_NAME", "MARS_LAKE", "MARS_CONTACT", "MARS_HIRISE_ARCHIVE")
    return {name: value for name, value in os.environ.items() if name not in unset}


class Shell:
    """A shell in a fresh clone's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for name in ("workspace.yaml", "dagster.yaml", "pyproject.toml"):
            shutil.copy(PROJECT / name, folder)
        (folder / "mars_assets").symlink_to(PROJECT / "mars_assets")
        shutil.copytree(PROJECT / "recipes", folder / "recipes")
        self.lake = Lake.at(folder / "data_lake")
        self.clean = clean_environment()
        self.variables = {**self.clean, "DAGSTER_MODULE_NAME": "mars_assets.definitions"}

    def start(
        self, *arguments: str, module: bool = True, program: str = DAGSTER, **variables: str
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [program, *arguments],
            cwd=self.folder,
            env={**(self.variables if module else self.clean), **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, module: bool = True, program: str = DAGSTER, **variables: str) -> tuple[int, str]:
        process = self.start(*arguments, module=module, program=program, **variables)
        try:
            output, _ = process.communicate(timeout=400)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        return process.returncode, output

    def materialize(self, select: str, *options: str, **variables: str) -> str:
        code, output = self.run("asset", "materialize", "--select", select, *options, module=True, **variables)
        assert code == 0, output[-4000:]
        return output


def kill_when(process: subprocess.Popen[str], reached: Callable[[], bool], seconds: float = 300) -> None:
    """kill -9, of the command and all its children, as soon as something is reached."""
    until = time.monotonic() + seconds
    while not reached():
        assert process.poll() is None, f"ended by itself: {process.communicate()[0][-3000:]}"
        assert time.monotonic() < until, "never got there"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@contextmanager
def dagster_dev(folder: Path, variables: Mapping[str, str], daemon: bool = True) -> Iterator[str]:
    """The UI of the clone in a folder, with the daemon or without; gives its address once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [DAGSTER, "dev"] if daemon else [DAGSTER + "-webserver"]
    with tempfile.NamedTemporaryFile("w", suffix=".log") as output:
        process = subprocess.Popen(
            [*command, "-w", "workspace.yaml", "-h", "127.0.0.1", "-p", str(port)],
            cwd=folder,
            env=dict(variables),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            for _ in range(360):
                assert process.poll() is None, Path(output.name).read_text()[-3000:]
                if _answers(url):
                    break
                time.sleep(0.5)
            else:
                raise AssertionError(f"never answered: {Path(output.name).read_text()[-3000:]}")
            yield url
        finally:
            family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            # Signalling the parent alone lets it stop its children in order; a busy machine may take too long for that.
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            for left in family:  # a run goes on without those that launched it
                with contextlib.suppress(psutil.NoSuchProcess):
                    left.kill()


def _answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/server_info", timeout=10).ok
    except requests.RequestException:
        return False
