"""A lab: Postgres, hosts of its own that Ray or Slurm sends runs to, and the sample's lake on a shared folder."""

import contextlib
import os
import platform
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import psutil
import requests
import yaml

from mars_assets.sample.make import make_sample
from mars_assets.sample.products import write_products
from mars_assets.sample.server import serve
from mars_assets.sample.terrain import SceneSpec, render_scene
from mars_assets_tests.cluster.hosts import Network, network
from mars_assets_tests.cluster.slurm_cluster import Node, SlurmCluster, command, program, slurm_cluster
from mars_assets_tests.deployed import LABELS, SMALL, Deployed, Services, materialize, services
from mars_assets_tests.history import History, wait_until
from mars_assets_tests.postgres import Postgres, free_port, serve_postgres

RAY = str(Path(sys.executable).with_name("ray"))
HEAD = 10
OPTIONS = ("--disable-usage-stats", "--object-store-memory=80000000")


class Lab(ABC):
    """The lab's machines, and what somebody at its UI does.

    Args:
        folder: which all machines share.
        postgres: which they reach.
        address: of Postgres.
    """

    LEVEL: ClassVar[str]

    def __init__(self, folder: Path, postgres: Postgres, address: str) -> None:
        self.folder, self.postgres = folder, postgres
        self.deployed = Deployed(folder, postgres.database())
        self.deployed.environment |= {
            "DAGSTER_PG_HOST": address,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        self.history = History(self.deployed.database)
        self.services: Services | None = None

    @abstractmethod
    def process_of(self, run: str) -> psutil.Process:
        """The process of a run."""

    def add_scene(self, observation: str, height: int, width: int) -> None:
        """Add a synthetic scene to the lake, and download its product."""
        lake = self.deployed.lake
        write_products(lake.sample, render_scene(SceneSpec(observation, height, width, seed=1)), longitude=100.0)
        with open(lake.observations_csv, "a") as listed:
            listed.write(f"{observation},COLOR,\n")
        self.deployed.materialize("observations")
        code, output = self.deployed.run("dagster", *materialize("hirise_images"), "--partition", observation)
        assert code == 0, output

    def launch(self, asset: str, tags: Mapping[str, str] | None = None, **config: object) -> str:
        assert self.services is not None
        return self.services.launch(asset, config, tags)

    def wait(self, reached: Callable[[], object], seconds: float = 240.0) -> float:
        """Wait until something is so, and return the seconds."""
        waited = wait_until(reached, seconds)
        assert waited is not None, self.logs()
        return waited

    def logs(self) -> str:
        return "\n".join(f"{path.name}: {path.read_text()[-2500:]}" for path in sorted(self.folder.glob("*.log")))


class Workstation(Lab):
    """One machine, whose runs are processes beside Dagster's daemon."""

    LEVEL = "workstation"

    def process_of(self, run: str) -> psutil.Process:
        _, number = self.history.process_of(run)
        return psutil.Process(number)


class Hosts(Lab):
    """Machines that runs are sent to, as namespaces of this one.

    Args:
        folder: which all hosts share.
        postgres: which they reach.
        net: the hosts.
        workers: how many of them runs are sent to.
    """

    def __init__(self, folder: Path, postgres: Postgres, net: Network, workers: int = 2) -> None:
        super().__init__(folder, postgres, net.address)
        self.net = net
        self.workers = {f"w{number}": HEAD + number for number in range(1, workers + 1)}

    @abstractmethod
    def start(self) -> None:
        """Start what sends runs to the workers."""

    @abstractmethod
    def start_worker(self, name: str) -> None:
        """Start a worker, and wait until it takes runs."""

    def begin(self, name: str, number: int, words: list[str], variables: Mapping[str, str]) -> None:
        """Start a host, which outlives what it starts: that may end where the host is cut off."""
        held = ["bash", "-c", '"$@"; exec sleep infinity', "host", *words]
        self.net.start(name, number, held, {**self.deployed.environment, **variables}, self.folder / f"{name}.log")

    def process_of(self, run: str) -> psutil.Process:
        host, number = self.history.process_of(run)
        (found,) = (process for process in self.net.processes(host, "execute_run") if _inner_id(process) == number)
        return found


class RayLab(Hosts):
    """With a head and workers of Ray, each a host."""

    LEVEL = "ray"
    # As deploy/ray_head.sh and ray_worker.sh set them. The last is of the tests: two cores are busy with others.
    VARIABLES: ClassVar = {
        "RAY_JOB_START_TIMEOUT_SECONDS": "31536000",
        "RAY_JOB_STOP_WAIT_TIME_S": "30",
        "RAY_raylet_start_wait_time_s": "180",
    }

    def __init__(self, folder: Path, postgres: Postgres, net: Network, workers: int = 2) -> None:
        super().__init__(folder, postgres, net, workers)
        self.dashboard = f"http://{net.address_of(HEAD)}:8265"
        self.deployed.environment["MARS_RAY_DASHBOARD"] = self.dashboard

    def start(self) -> None:
        address = self.net.address_of(HEAD)
        words = ["--head", f"--node-ip-address={address}", f"--dashboard-host={address}", "--num-cpus=0"]
        self.begin("head", HEAD, [RAY, "start", *words, f"--temp-dir={self.folder / 'ray'}", *OPTIONS], self.VARIABLES)
        self.wait(lambda: self.address_of("head") in self._alive())

    def start_worker(self, name: str) -> None:
        words = [f"--address={self.net.address_of(HEAD)}:6379", f"--node-ip-address={self.address_of(name)}"]
        self.begin(name, self.workers[name], [RAY, "start", *words, "--num-cpus=1", *OPTIONS], self.VARIABLES)
        self.wait(lambda: self.address_of(name) in self._alive())

    def address_of(self, name: str) -> str:
        return self.net.address_of({"head": HEAD, **self.workers}[name])

    def _alive(self) -> list[str]:
        answer = requests.get(f"{self.dashboard}/api/v0/nodes", timeout=10).json()
        return [node["node_ip"] for node in answer["data"]["result"]["result"] if node["state"] == "ALIVE"]


class SlurmLab(Hosts):
    """With a controller of Slurm beside Dagster, and hosts as its nodes."""

    LEVEL = "slurm"
    cluster: SlurmCluster

    def start(self) -> None:
        self.deployed.environment["SLURM_CONF"] = os.environ["SLURM_CONF"]

    def start_worker(self, name: str) -> None:
        self.begin(name, self.workers[name], [program("slurmd"), "-D", "-N", name], {})
        self.wait(lambda: command("sinfo", "--noheader", f"--nodes={name}", "--format=%T").startswith(("idle", "mix")))


def _inner_id(process: psutil.Process) -> int:
    """The id of a process in its own namespace."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"^NSpid:.*\s(\d+)$", status, re.MULTILINE)[1])  # type: ignore[index]


@contextlib.contextmanager
def workstation(folder: Path, programs: Path) -> Iterator[Workstation]:
    """A workstation that is ready for trainings, of which nothing is left afterwards."""
    with serve_postgres(programs) as postgres:
        made = Workstation(folder, postgres, "127.0.0.1")
        with _archive(made, "127.0.0.1"):
            made.deployed.deploy("workstation")
            with _serving(made):
                yield made


@contextlib.contextmanager
def ray_lab(folder: Path, programs: Path, workers: int = 2) -> Iterator[RayLab]:
    """A lab with Ray that is ready for trainings, of which nothing is left afterwards."""
    with network() as net, serve_postgres(programs, (net.address, net.served)) as postgres:
        made = RayLab(folder, postgres, net, workers)
        with _at_work(made):
            yield made


@contextlib.contextmanager
def slurm_lab(folder: Path, programs: Path) -> Iterator[SlurmLab]:
    """A lab with Slurm that is ready for trainings, of which nothing is left afterwards."""
    with network() as net, serve_postgres(programs, (net.address, net.served)) as postgres:
        made = SlurmLab(folder, postgres, net)
        nodes = [Node(name, name, net.address_of(number), cpus=1) for name, number in made.workers.items()]
        own = folder / "slurm"
        own.mkdir()
        with slurm_cluster(own, f"{platform.node()}({net.address})", nodes) as made.cluster, _at_work(made):
            yield made


@contextlib.contextmanager
def _archive(lab: Lab, address: str) -> Iterator[None]:
    """Serve the sample's archive, as long as the lab is used."""
    make_sample(lab.deployed.lake, plan=SMALL)
    with serve(lab.deployed.lake.sample, host=address) as url:
        lab.deployed.environment["MARS_HIRISE_ARCHIVE"] = url
        yield


@contextlib.contextmanager
def _at_work(lab: Hosts) -> Iterator[None]:
    """Start a lab's hosts."""
    lab.deployed.home.mkdir()
    own = {
        "run_coordinator": {"config": {"most_cpus": 1, "most_memory_gb": 1}},
        # The daemon asks the database about each run that waits for a host, and here takes the hosts' cores for it.
        "concurrency": {"runs": {"max_concurrent_runs": 2 * len(lab.workers)}},
    }
    (lab.deployed.home / "own.yaml").write_text(yaml.safe_dump(own))
    with _archive(lab, lab.net.address):
        lab.start()
        lab.deployed.deploy(lab.LEVEL, "--gpus", "0")
        for name in lab.workers:
            lab.start_worker(name)
        with _serving(lab):
            yield


@contextlib.contextmanager
def _serving(lab: Lab) -> Iterator[None]:
    """Make what a training needs, and start Dagster's webserver and daemon."""
    lab.deployed.materialize("prithvi_weights", prithvi_weights={"source": "sample"})
    lab.deployed.materialize(LABELS)
    with services(lab.deployed, free_port(), "webserver", "daemon") as running:
        lab.services = running
        yield
