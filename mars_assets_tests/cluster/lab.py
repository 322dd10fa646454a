"""A lab: Postgres, a head and two workers of Ray on hosts of their own, and the sample's lake on a shared folder."""

import contextlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import requests
import yaml

from mars_assets.sample.make import make_sample
from mars_assets_tests.cluster.hosts import Network, network
from mars_assets_tests.deployed import LABELS, SMALL, Deployed, Services, services
from mars_assets_tests.postgres import Postgres, free_port, serve_postgres

RAY = str(Path(sys.executable).with_name("ray"))
WORKERS = {"w1": 11, "w2": 12}
HEAD = 10
FINISHED = ("SUCCESS", "FAILURE", "CANCELED")
OPTIONS = ("--disable-usage-stats", "--object-store-memory=80000000")


class Lab:
    """The lab's hosts, and what somebody at its UI does.

    Args:
        folder: which all hosts share.
        net: the hosts.
        deployed: the lake and the instance, with the environment of every host.
    """

    def __init__(self, folder: Path, net: Network, deployed: Deployed) -> None:
        self.folder, self.net, self.deployed = folder, net, deployed
        self.services: Services | None = None

    def start_head(self) -> None:
        address = self.net.address_of(HEAD)
        words = ["--head", f"--node-ip-address={address}", f"--dashboard-host={address}", "--num-cpus=0"]
        self._start("head", HEAD, [*words, f"--temp-dir={self.folder / 'ray'}"])

    def start_worker(self, name: str) -> None:
        words = [
            f"--address={self.net.address_of(HEAD)}:6379",
            f"--node-ip-address={self.net.address_of(WORKERS[name])}",
        ]
        self._start(name, WORKERS[name], [*words, "--num-cpus=1"])

    def _start(self, name: str, number: int, words: list[str]) -> None:
        # As deploy/ray_head.sh and ray_worker.sh set them.
        ray = {"RAY_JOB_START_TIMEOUT_SECONDS": "31536000", "RAY_JOB_STOP_WAIT_TIME_S": "30"}
        ray["RAY_raylet_start_wait_time_s"] = "180"  # two cores may be busy with other tests
        # The host outlives Ray, whose processes end where it is cut off from its head.
        command = ["bash", "-c", '"$@"; exec sleep infinity', "host", RAY, "start", *words, *OPTIONS]
        self.net.start(name, number, command, self.deployed.environment | ray, self.folder / f"{name}.log")

    def nodes(self) -> int:
        answer = requests.get(f"{self.dashboard}/api/v0/nodes", timeout=10).json()
        return sum(node["state"] == "ALIVE" for node in answer["data"]["result"]["result"])

    @property
    def dashboard(self) -> str:
        return self.deployed.environment["MARS_RAY_DASHBOARD"]

    def launch(self, asset: str, **config: object) -> str:
        assert self.services is not None
        return self.services.launch(asset, dict(config))

    def status(self, run: str) -> str:
        return str(self.deployed.database.query("SELECT status FROM runs WHERE run_id = %s", run)[0][0])

    def logged(self, run: str, pattern: str) -> list[str]:
        rows = self.deployed.database.query("SELECT event FROM event_logs WHERE run_id = %s ORDER BY id", run)
        return [found[0] for (event,) in rows for found in [re.search(pattern, event)] if found]

    def host_of(self, run: str) -> str:
        return self._tag(run).split()[0]

    def process_of(self, run: str) -> psutil.Process:
        """The process of a run, whose id is another one outside of its host."""
        number = int(self._tag(run).split()[1])
        (found,) = (
            process for process in self.net.processes(self.host_of(run), "execute_run") if _inner_id(process) == number
        )
        return found

    def _tag(self, run: str) -> str:
        query = "SELECT value FROM run_tags WHERE run_id = %s AND key = 'mars_assets/process'"
        return str(self.deployed.database.query(query, run)[0][0])

    def retry_of(self, run: str) -> str | None:
        query = "SELECT run_id FROM run_tags WHERE key = 'dagster/parent_run_id' AND value = %s"
        rows = self.deployed.database.query(query, run)
        return str(rows[0][0]) if rows else None

    def materializations(self, asset: str) -> int:
        query = "SELECT count(*) FROM event_logs WHERE dagster_event_type = 'ASSET_MATERIALIZATION' AND asset_key = %s"
        return int(self.deployed.database.query(query, f'["{asset}"]')[0][0])

    def places_taken(self) -> int:
        query = "SELECT count(*) FROM concurrency_slots WHERE run_id IS NOT NULL"
        return int(self.deployed.database.query(query)[0][0])

    def wait(self, reached: Callable[[], object], seconds: float = 240.0) -> float:
        """Wait until something is so, and return the seconds."""
        start = time.monotonic()
        while True:
            with contextlib.suppress(requests.RequestException, KeyError, TypeError):
                if reached():
                    return time.monotonic() - start
            assert time.monotonic() - start < seconds, self.logs()
            time.sleep(0.3)

    def logs(self) -> str:
        return "\n".join(f"{path.name}: {path.read_text()[-2500:]}" for path in sorted(self.folder.glob("*.log")))


def _inner_id(process: psutil.Process) -> int:
    """The id of a process in its own namespace."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"^NSpid:.*\s(\d+)$", status, re.MULTILINE)[1])  # type: ignore[index]


@contextlib.contextmanager
def lab(folder: Path, programs: Path) -> Iterator[Lab]:
    """A lab that is ready for trainings, of which nothing is left afterwards."""
    with network() as net, serve_postgres(programs, (net.address, net.served)) as postgres:
        yield from _ready(folder, net, postgres)


def _ready(folder: Path, net: Network, postgres: Postgres) -> Iterator[Lab]:
    deployed = Deployed(folder, postgres.database())
    deployed.environment |= {
        "DAGSTER_PG_HOST": net.address,
        "MARS_RAY_DASHBOARD": f"http://{net.address_of(HEAD)}:8265",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    make_sample(deployed.lake, plan=SMALL)
    deployed.home.mkdir()
    own = {"run_coordinator": {"config": {"most_cpus": 1, "most_memory_gb": 1}}}
    (deployed.home / "own.yaml").write_text(yaml.safe_dump(own))
    made = Lab(folder, net, deployed)
    made.start_head()
    made.wait(lambda: made.nodes() == 1)
    deployed.deploy("ray", "--gpus", "0")
    for number, name in enumerate(WORKERS):
        made.start_worker(name)
        made.wait(lambda: made.nodes() == 2 + number)  # noqa: B023 - called before the next one
    deployed.materialize("prithvi_weights", prithvi_weights={"source": "sample"})
    deployed.materialize(LABELS)
    with services(deployed, free_port(), "webserver", "daemon") as running:
        made.services = running
        yield made
