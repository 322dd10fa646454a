"""What becomes of a run when something dies: the tables of ``docs/how-to/cluster.md``.

On a small lake of the synthetic sample, set up with ``mars-assets deploy`` and served by the commands of its units: on
this machine, or on hosts that are namespaces of it, with addresses of their own and one folder that they share. A run
of the project's own assets is launched as the UI does (a training, the cutting of a scene, or its map), something dies
while it computes, and what follows is read from Postgres. Seconds are counted from the death.

    python benchmarks/faults.py workstation
    python benchmarks/faults.py ray --cases cut killed --works map
    python benchmarks/faults.py slurm
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

from dagster._core.storage.tags import PARTITION_NAME_TAG

PROJECT = Path(__file__).parent.parent
sys.path.insert(0, str(PROJECT))  # the tests' lab

from mars_assets.lake import SCAN_STATE, SCRATCH  # noqa: E402
from mars_assets.storage.claims import has_work  # noqa: E402
from mars_assets.storage.files import read_json  # noqa: E402
from mars_assets_tests.cluster.lab import Hosts, Lab, RayLab, SlurmLab, ray_lab, slurm_lab, workstation  # noqa: E402
from mars_assets_tests.cluster.slurm_cluster import command  # noqa: E402
from mars_assets_tests.history import wait_until  # noqa: E402
from mars_assets_tests.postgres import installed  # noqa: E402

PATIENCE = 600.0
OBSERVATION = "ESP_990001_1800"
NUMBER = count(1)
"""Of a work: each has settings that no other had, so that nothing of it exists."""


@dataclass
class Work(ABC):
    """What a run makes.

    Args:
        lab: where.
        run: that is to die.
    """

    lab: Lab
    run: str = ""
    ASSET: ClassVar[str]
    UNIT: ClassVar[str]
    DELAY: ClassVar[float] = 3.0
    """Seconds that a run computes before something dies."""

    def launch(self, **tags: str) -> None:
        self.run = self.start(tags)

    @abstractmethod
    def start(self, tags: dict[str, str]) -> str:
        """Launch a run; return its id."""

    @abstractmethod
    def place(self) -> Path:
        """The folder of the claims on the result."""

    @abstractmethod
    def done_in(self, folder: Path) -> int:
        """How far unfinished work in a folder is."""

    def taken_over(self, again: str) -> int:
        """How far the work was that a run took over."""
        history = self.lab.history
        wait_until(lambda: self.holder().get("run") == again or history.finished(again), PATIENCE)
        return self.done()

    def done(self) -> int:
        """How far the unfinished work is that the claim names."""
        holder = self.holder()
        return self.done_in(self.place() / holder["token"]) if holder else 0

    def holder(self) -> dict[str, Any]:
        claim = self.place() / "claim.json"
        return dict(read_json(claim)) if claim.exists() else {}

    def underway(self) -> bool:
        return self.holder().get("run") == self.run and self.done() > 0


class Training(Work):
    ASSET, UNIT = "cls_model", "steps"
    STEPS = 300

    def start(self, tags: dict[str, str]) -> str:
        lr = 1e-4 * (1 + next(NUMBER) / 1000)
        return self.lab.launch(
            "cls_model", tags, steps=self.STEPS, batch_size=2, warmup_steps=2, evaluate_every=5, image_size=224, lr=lr
        )

    def place(self) -> Path:
        found = self.lab.deployed.lake.model("cls_model").glob(f"*/{SCRATCH}/claim.json")
        ours = [path.parent for path in found if read_json(path).get("run") in (self.run, self.retry())]
        return ours[0] if ours else self.lab.deployed.lake.model("cls_model") / "none"

    def retry(self) -> str | None:
        return self.lab.history.retry_of(self.run)

    def taken_over(self, again: str) -> int:
        going_on, history = r"continuing the training after step \d+", self.lab.history
        wait_until(lambda: history.logged(again, going_on) or history.finished(again), PATIENCE)
        said = history.logged(again, going_on)
        return int(said[0].rsplit(maxsplit=1)[1]) if said else 0

    def done_in(self, folder: Path) -> int:
        said = self.lab.history.logged(self.run, r"step \d+/")
        return int(said[-1][5:-1]) if said else 0


class Cutting(Work):
    ASSET, UNIT = "crops", "strips"

    def start(self, tags: dict[str, str]) -> str:
        shutil.rmtree(self.lab.deployed.lake.crops(OBSERVATION), ignore_errors=True)
        return self.lab.launch("crops", {**tags, PARTITION_NAME_TAG: OBSERVATION})

    def place(self) -> Path:
        crops = self.lab.deployed.lake.crops(OBSERVATION)
        return crops.parent / ".cutting" / crops.name

    def done_in(self, folder: Path) -> int:
        return len(list(folder.glob("*/.strip-*.json")))


class Mapping(Work):
    ASSET, UNIT = "crater_maps", "lines"

    def start(self, tags: dict[str, str]) -> str:
        smallest = 10 + next(NUMBER) / 100
        return self.lab.launch("crater_maps", {**tags, PARTITION_NAME_TAG: OBSERVATION}, smallest_px=smallest)

    def place(self) -> Path:
        return self.lab.deployed.lake.crater_map(OBSERVATION) / ".mapping"

    def done_in(self, folder: Path) -> int:
        states = [read_json(path) for path in folder.rglob(SCAN_STATE)]
        return max((complete for level, complete in states), default=0)


WORKS: dict[str, type[Work]] = {"training": Training, "cutting": Cutting, "map": Mapping}


@dataclass
class Trial:
    """Something that dies while a run computes, and what follows."""

    lab: Lab
    work: Work
    found: dict[str, object] = field(default_factory=dict)
    start: float = 0.0

    def begin(self, **tags: str) -> None:
        self.work.launch(**tags)
        self.lab.wait(self.work.underway, PATIENCE)
        time.sleep(self.work.DELAY)

    def died(self) -> None:
        self.start = time.monotonic()
        self.found["done before"] = f"{self.work.done()} {self.work.UNIT}"

    def since(self) -> float:
        return time.monotonic() - self.start

    def status(self, run: str) -> str:
        """How a run ends, and when."""
        history = self.lab.history
        if wait_until(lambda: history.finished(run), PATIENCE) is None:
            return f"{history.status(run)} still after {self.since():.0f} s"
        return f"{history.status(run)} {self.since():.0f} s"

    def follow(self) -> None:
        """Watch the run and the one that takes its place until both have ended and all places are free."""
        history, run = self.lab.history, self.work.run
        self.found["run"] = self.status(run)
        if history.status(run) == "FAILURE" and wait_until(lambda: history.retry_of(run), 90) is not None:
            again = history.retry_of(run)
            assert again is not None
            self.found["goes on after"] = f"{self.work.taken_over(again)} {self.work.UNIT}"
            self.found["retry"] = self.status(again)
        wait_until(lambda: history.places_taken() == 0, 120)
        self.found["places free"] = f"{self.since():.0f} s"
        self.conclude()

    def conclude(self) -> None:
        """Read what is left at last."""
        history, run = self.lab.history, self.work.run
        self.found["run at last"] = history.status(run)
        if said := history.logged(run, r"was given up while its process went on|took it over"):
            self.found["the first process"] = said[0]
        runs = [run, *filter(None, [history.retry_of(run)])]
        self.found["materialized"] = sum(history.materializations(self.work.ASSET, each) for each in runs)
        self.found["left over"] = "work" if has_work(self.work.place()) else "nothing"


def killed(trial: Trial) -> None:
    """Kill (-9) of the run's process."""
    trial.begin()
    trial.died()
    trial.lab.process_of(trial.work.run).kill()
    trial.follow()


def cut(trial: Trial) -> None:
    """The host's network fails, and is back once the run has ended and what took its place, too."""
    assert isinstance(trial.lab, Hosts)
    trial.begin()
    host, process = trial.lab.history.process_of(trial.work.run)[0], trial.lab.process_of(trial.work.run)
    trial.died()
    trial.lab.net.cut(host)
    trial.follow()
    trial.found["cut process"] = "computes on" if process.is_running() else "has ended"
    trial.lab.net.mend(host)
    ended = wait_until(lambda: not process.is_running(), 300)
    trial.found["cut process ends"] = "never" if ended is None else f"{ended:.0f} s after its return"
    trial.conclude()
    trial.lab.net.stop(host)
    trial.lab.start_worker(host)


def off(trial: Trial) -> None:
    """The host's power fails."""
    assert isinstance(trial.lab, Hosts)
    trial.begin()
    host, _ = trial.lab.history.process_of(trial.work.run)
    trial.died()
    trial.lab.net.stop(host)
    trial.follow()
    trial.lab.start_worker(host)


def new_head(lab: RayLab) -> None:
    """Start a head that knows of nothing, and the workers anew, which an earlier one had."""
    lab.start()
    for name in lab.workers:
        lab.net.stop(name)
        lab.start_worker(name)


def head(trial: Trial) -> None:
    """Kill (-9) of all processes of Ray's head; a new one is started after 20 s."""
    assert isinstance(trial.lab, RayLab)
    trial.begin()
    trial.died()
    trial.lab.net.stop("head")
    time.sleep(20)
    new_head(trial.lab)
    trial.found["head back"] = f"{trial.since():.0f} s"
    trial.follow()


def head_gone(trial: Trial) -> None:
    """The head's host is gone, and stays so."""
    assert isinstance(trial.lab, RayLab)
    trial.begin()
    trial.died()
    trial.lab.net.stop("head")
    trial.follow()
    new_head(trial.lab)


def postgres_away(seconds: float, *, at_end: bool) -> Callable[[Trial], None]:
    def away(trial: Trial) -> None:
        trial.begin()
        if at_end:
            assert isinstance(trial.work, Training)
            trial.lab.wait(lambda: trial.work.done() >= Training.STEPS - 5, PATIENCE)
        trial.died()
        trial.lab.postgres.kill()
        time.sleep(seconds)
        trial.lab.postgres.start()
        running, failed = trial.lab.services, 0
        assert running is not None
        other = None
        while other is None:  # as a person who clicks again
            try:
                other = running.launch("prithvi_weights", {"source": "sample"})
            except OSError:
                failed += 1
                time.sleep(1)
        trial.found["launches refused"] = failed
        trial.follow()
        trial.found["another run"] = trial.status(other)

    away.__doc__ = f"Postgres, kill -9, back after {seconds:.0f} s, {'as a step ends' if at_end else 'in a step'}."
    return away


def service(name: str) -> Callable[[Trial], None]:
    def dies(trial: Trial) -> None:
        running = trial.lab.services
        assert running is not None
        trial.begin()
        trial.died()
        os.kill(running.processes[name].pid, signal.SIGKILL)
        running.processes[name].wait()
        time.sleep(10)  # RestartSec of its unit
        running.start(name)
        trial.follow()

    dies.__doc__ = f"kill -9 of the {name}, started again after 10 s."
    return dies


def controller_away(trial: Trial) -> None:
    """Slurm's controller is stopped, and back after 60 s."""
    assert isinstance(trial.lab, SlurmLab)
    trial.begin()
    trial.died()
    trial.lab.cluster.stop("slurmctld")
    time.sleep(60)
    trial.lab.cluster.start_controller()
    trial.follow()


def preempted(trial: Trial) -> None:
    """A job of a higher priority takes the run's node for 30 s."""
    trial.begin()
    host, _ = trial.lab.history.process_of(trial.work.run)
    trial.died()
    command("sbatch", "--partition=high", f"--nodelist={host}", "--exclusive", "--output=/dev/null", "--wrap=sleep 30")
    trial.follow()


def requeued(trial: Trial) -> None:
    """An administrator has Slurm start the job again (scontrol requeue)."""
    trial.begin()
    job = trial.lab.history.tag(trial.work.run, "slurm/job_id")
    trial.died()
    trial.found["Slurm says"] = command("scontrol", "requeue", str(job), errors=True) or "nothing"
    trial.follow()


def out_of_time(trial: Trial) -> None:
    """The job reaches its limit of one minute; seconds count from the middle of its work."""
    trial.begin(**{"slurm/options": "--time=1"})
    trial.died()
    trial.follow()


def cancelled(trial: Trial) -> None:
    """The run's job is cancelled (scancel)."""
    trial.begin()
    trial.died()
    command("scancel", str(trial.lab.history.tag(trial.work.run, "slurm/job_id")))
    trial.follow()


OF_POSTGRES: dict[str, Callable[[Trial], None]] = {
    "postgres-8": postgres_away(8, at_end=False),
    "postgres-8-end": postgres_away(8, at_end=True),
    "postgres-60": postgres_away(60, at_end=False),
    "postgres-60-end": postgres_away(60, at_end=True),
}
OF_SERVICES = {"daemon": service("daemon"), "webserver": service("webserver")}
OF_HOSTS: dict[str, Callable[[Trial], None]] = {"killed": killed, "cut": cut, "off": off}
CASES: dict[str, dict[str, Callable[[Trial], None]]] = {
    "workstation": {"killed": killed, **OF_POSTGRES, **OF_SERVICES},
    "ray": {**OF_HOSTS, "head": head, "head-gone": head_gone, **OF_POSTGRES, **OF_SERVICES},
    "slurm": {
        **OF_HOSTS,
        "preempted": preempted,
        "out-of-time": out_of_time,
        "requeued": requeued,
        "cancelled": cancelled,
        "controller": controller_away,
        **OF_POSTGRES,
        **OF_SERVICES,
    },
}
LABS: dict[str, Callable[..., AbstractContextManager[Lab]]] = {
    "workstation": workstation,
    "ray": ray_lab,
    "slurm": slurm_lab,
}
ONLY_TRAINING = {*OF_POSTGRES, *OF_SERVICES, "head", "head-gone", "controller", "requeued", "cancelled", "out-of-time"}
"""Where the death has nothing to do with what a run makes."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("level", choices=list(CASES))
    options.add_argument("--cases", nargs="+", choices=sorted({name for cases in CASES.values() for name in cases}))
    options.add_argument("--works", nargs="+", choices=list(WORKS), default=list(WORKS), help="what runs make")
    chosen = options.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and stop what was started
    programs = installed()
    if programs is None:
        sys.exit("there is no initdb: install Postgres (Debian: postgresql)")
    # A path of a socket must be short, and no folder above munge's may be writable by others without the sticky bit.
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp", prefix="lab") as folder,
        LABS[chosen.level](Path(folder), programs) as lab,
    ):
        if {"cutting", "map"} & {*chosen.works}:
            lab.add_scene(OBSERVATION, 6144, 4096)
            lab.deployed.materialize("seg_model", seg_model={"steps": 4, "batch_size": 2, "warmup_steps": 1})
        for name, case in CASES[chosen.level].items():
            if chosen.cases and name not in chosen.cases:
                continue
            for work in chosen.works:
                if work != "training" and name in ONLY_TRAINING:
                    continue
                trial = Trial(lab, WORKS[work](lab))
                try:
                    case(trial)
                finally:
                    words = "; ".join(f"{key}: {value}" for key, value in trial.found.items())
                    print(f"{work}: {case.__doc__} {words}", flush=True)


if __name__ == "__main__":
    main()
