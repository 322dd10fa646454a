"""A Ray of a head without CPUs and one worker, on this host's loopback address."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import requests

from mars_assets_tests.cluster.runs import free_port

RAY = Path(sys.executable).parent / "ray"
START = ("start", "--block", "--node-ip-address=127.0.0.1", "--disable-usage-stats", "--object-store-memory=80000000")


class RayCluster:
    """The processes of a small Ray, each of whose nodes is a process group."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._nodes = folder, dict[str, subprocess.Popen[bytes]]()
        self.port, self.dashboard_port = free_port(), free_port()
        self.address = f"http://127.0.0.1:{self.dashboard_port}"

    def start_head(self) -> None:
        self._start(
            "head",
            *("--head", "--num-cpus=0", "--num-gpus=0", f"--port={self.port}", f"--temp-dir={self._folder / 'ray'}"),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard_port}"),
        )
        self._wait_for_nodes(1)

    def start_worker(self) -> None:
        # A pretended GPU: nothing here computes on it.
        self._start("worker", f"--address=127.0.0.1:{self.port}", "--num-cpus=2", "--num-gpus=1")
        self._wait_for_nodes(2)

    def _start(self, name: str, *arguments: str) -> None:
        # As deploy/ray_head.sh and ray_worker.sh set them.
        environment = os.environ | {"RAY_JOB_START_TIMEOUT_SECONDS": "31536000", "RAY_JOB_STOP_WAIT_TIME_S": "30"}
        with (self._folder / f"{name}.log").open("ab") as log:
            self._nodes[name] = subprocess.Popen(
                [RAY, *START, *arguments], stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def nodes(self) -> list[Mapping[str, Any]]:
        answer = requests.get(f"{self.address}/api/v0/nodes", timeout=10).json()
        return [node for node in answer["data"]["result"]["result"] if node["state"] == "ALIVE"]

    def _wait_for_nodes(self, number: int) -> None:
        end = time.monotonic() + 180
        while True:
            with contextlib.suppress(requests.RequestException, KeyError, TypeError):
                if len(self.nodes()) == number:
                    return
            logs = "\n".join(path.read_text()[-2000:] for path in self._folder.glob("*.log"))
            assert time.monotonic() < end, logs
            assert all(node.poll() is None for node in self._nodes.values()), logs
            time.sleep(0.5)

    def stop(self, name: str) -> None:
        """Ends a node and all its processes."""
        node = self._nodes.pop(name)
        node.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            node.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(node.pid, signal.SIGKILL)
        node.wait()

    def stop_all(self) -> None:
        for name in ("worker", "head"):
            if name in self._nodes:
                self.stop(name)


@contextlib.contextmanager
def ray_cluster(folder: Path) -> Iterator[RayCluster]:
    """Starts a Ray and stops it again."""
    cluster = RayCluster(folder)
    try:
        cluster.start_head()
        cluster.start_worker()
        yield cluster
    finally:
        cluster.stop_all()
