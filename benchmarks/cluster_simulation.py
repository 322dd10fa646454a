"""A simulation of scenes on a cluster by this project's scheduling: download, cut and map, event by event.

What is modelled, with where it comes from:

- Sizes of scenes: log-normal, fitted to 2,000 COLOR products of HiRISE's archive.
- Durations: core-seconds for each scene and megapixel, measured (``scene_costs.json``), times a log-normal factor of
  spread 0.15 (assumed). Runs use their cores half as well as a single one (assumed). A GPU computes the default
  recipe's network in the operations counted there at a sustained rate that is assumed, since none was measured.
- Downloads: two at a time for the whole cluster (pool ``archive``), each at a rate that is assumed: the archive
  publishes none.
- Runs: a range of scenes that takes about five minutes, at least one scene, plus 8 core-seconds (measured: a run on
  Ray). Cores and GPUs of a run are those that the project asks for. Maps and crops follow the download.
- Queue: the daemon looks every 5 s, and launches in order, one after another, while fewer than ``max_concurrent_runs``
  are in progress and the pool has a place. Backfills look every 30 s for ranges that have become ready.
- Placing: the first run that waits and fits on some host, on that with the most free cores.
- Deaths: each host dies after an exponential time and returns after another. Its runs are noticed after 90 s (measured
  on Ray: 78 to 94), and launched once more by ``run_retries``; after a second death the next backfill takes the range,
  once a day. What a scene had finished stays; the scene in progress is lost as a whole, which is less than what the
  project keeps. The control plane does not die.

Printed are medians over seeds with their range: the time until everything is mapped over the ideal time, which is that
of the scarcest resource at full use without runs, queues and deaths; the tail, from 99 % of the maps to all; what
deaths cost; and how busy each resource was.

    python benchmarks/cluster_simulation.py --scenes 100000 --seeds 5 --record
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
import statistics
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from measure import record

COSTS = Path(__file__).with_name("scene_costs.json")
FIGURE = Path(__file__).parent.parent / "docs" / "images" / "scale_progress.png"
Seconds = npt.NDArray[np.float64]
HOUR, DAY = 3600.0, 86_400.0

LOG_MEGAPIXELS, SPREAD_OF_SIZES = math.log(347.9), 0.880
SMALLEST, LARGEST = 3.4, 7151.0
"""Megapixels of 2,000 COLOR products, from the sizes that HiRISE's index gives: the median, the standard deviation of
the logarithm, and the extremes."""
SPREAD = 0.15
PARALLEL = 0.5
OVERHEAD = 8.0


@dataclass(frozen=True)
class Stage:
    """A kind of run.

    Args:
        name: for tables.
        seconds: that each scene takes in a run.
        cores: of a run.
        gpus: of a run.
        after: index of the stage that a scene must have passed, or None.
        places: in the stage's pool, or None for no pool.
        per_run: scenes of a run.
        overhead: seconds of a run before its first scene.
        priority: runs of a higher one leave the queue first.
    """

    name: str
    seconds: Seconds
    cores: int = 1
    gpus: int = 0
    after: int | None = None
    places: int | None = None
    per_run: int = 1
    overhead: float = 0.0
    priority: int = 0


@dataclass(frozen=True)
class Cluster:
    """Hosts that are all alike.

    Args:
        hosts: number of hosts.
        cores: of each.
        gpus: of each.
        between_failures: mean seconds from a host's return to its next death.
        away: mean seconds until it returns.
    """

    hosts: int
    cores: int
    gpus: int = 0
    between_failures: float = math.inf
    away: float = HOUR


@dataclass(frozen=True)
class Scheduling:
    """What Dagster and the project do.

    Args:
        most_runs: ``max_concurrent_runs``.
        look: seconds between two looks at the queue; 0 for at once.
        launch: seconds of the daemon for each launch.
        ready: seconds between two looks of a backfill for ranges that have become ready; 0 for at once.
        noticed: seconds until a run whose host died is marked as failed.
        retries: of a run by ``run_retries``.
        backfill: seconds between two backfills of what has failed.
    """

    most_runs: int = 10
    look: float = 5.0
    launch: float = 0.5
    ready: float = 30.0
    noticed: float = 90.0
    retries: int = 1
    backfill: float = DAY


@dataclass
class Run:
    """A run that waits or is in progress."""

    stage: int
    index: int
    order: int
    queued: float
    attempt: int = 0
    host: int = -1
    started: float = 0.0
    todo: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    alive: bool = True


@dataclass
class Outcome:
    """What a simulation found.

    Args:
        end: seconds until the last scene has passed the last stage.
        finished: by stage, when each scene's run ended.
        computed: by stage, how often each scene was computed to its end.
        runs: number of runs.
        deaths: number of hosts' deaths that hit a run.
        retried: runs launched again by ``run_retries``.
        failed: ranges left to the next backfill.
        lost: core- and GPU-seconds of runs that died, but for those of scenes that stay.
        busy: core-, GPU- and place-seconds used, by resource.
        waits: of each start of a run, the seconds since it was queued.
        most: the most runs at once, by stage, and the most in progress.
    """

    end: float
    finished: list[Seconds]
    computed: list[npt.NDArray[np.int64]]
    runs: int = 0
    deaths: int = 0
    retried: int = 0
    failed: int = 0
    lost: dict[str, float] = field(default_factory=lambda: {"cores": 0.0, "gpus": 0.0})
    busy: dict[str, float] = field(default_factory=dict)
    waits: list[list[float]] = field(default_factory=list)
    most: dict[str, int] = field(default_factory=dict)


Death = tuple[float, int, float]
"""When, which host, and for how long."""


class Simulation:
    """The events of one cluster; see the module.

    Args:
        stages: in the order in which scenes pass them.
        cluster: its hosts.
        scheduling: what the daemon does.
        seed: of the deaths.
        deaths: instead of random ones.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        cluster: Cluster,
        scheduling: Scheduling,
        seed: int = 0,
        deaths: Iterable[Death] | None = None,
    ) -> None:
        for stage in stages:
            if stage.cores > cluster.cores or stage.gpus > cluster.gpus:
                raise ValueError(f"no host has what a run of {stage.name} needs, so it would wait for ever")
        self._stages, self._cluster, self._scheduling = stages, cluster, scheduling
        self._scenes = len(stages[0].seconds)
        self._rng = np.random.default_rng(seed)
        self._now, self._numbers = 0.0, itertools.count()
        self._events: list[tuple[float, int, Any, tuple[Any, ...]]] = []
        self._queue: list[deque[Run]] = [deque() for _ in stages]
        self._waiting: list[deque[Run]] = [deque() for _ in stages]
        self._admitted = [0] * len(stages)
        self._cores = np.full(cluster.hosts, cluster.cores)
        self._gpus = np.full(cluster.hosts, cluster.gpus)
        self._up = np.ones(cluster.hosts, bool)
        self._running: list[list[Run]] = [[] for _ in range(cluster.hosts)]
        self._looks, self._launcher = False, 0.0
        self._left = self._scenes * len(stages)
        self._missing = [self._counts(stage) for stage in stages]
        self.outcome = Outcome(
            0.0,
            [np.full(self._scenes, np.nan) for _ in stages],
            [np.zeros(self._scenes, np.int64) for _ in stages],
            busy=dict.fromkeys(("cores", "gpus", *(stage.name for stage in stages)), 0.0),
            waits=[[] for _ in stages],
            most=dict.fromkeys(("in progress", *(stage.name for stage in stages)), 0),
        )
        self._deaths(deaths)

    def run(self, longest: float = 1000 * 365 * DAY) -> Outcome:
        """Simulate until every scene has passed every stage.

        Args:
            longest: seconds after which the scheduling counts as one that does not end.

        Raises:
            RuntimeError: it does not end.
        """
        for stage, counts in enumerate(self._missing):
            if self._stages[stage].after is None:
                for index in range(len(counts)):
                    self._enqueue(stage, index)
        while self._left:
            if not self._events:
                raise RuntimeError(f"nothing happens any more, with {self._left} computations left")
            self._now, _, action, arguments = heapq.heappop(self._events)
            if self._now > longest:
                raise RuntimeError(f"no end after {longest / DAY:.0f} days, with {self._left} computations left")
            action(*arguments)
        self.outcome.end = self._now
        return self.outcome

    # Events

    def _at(self, when: float, action: Any, *arguments: Any) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), action, arguments))

    def _grid(self, step: float) -> float:
        """The next multiple of a step, at which the daemon looks; now if it looks at once."""
        return math.ceil(self._now / step - 1e-9) * step if step else self._now

    def _counts(self, stage: Stage) -> list[int]:
        ranges = range(0, self._scenes, stage.per_run)
        return [min(start + stage.per_run, self._scenes) - start for start in ranges]

    def _enqueue(self, stage: int, index: int, attempt: int = 0) -> None:
        self._queue[stage].append(Run(stage, index, next(self._numbers), self._now, attempt))
        self._look_soon()

    def _look_soon(self) -> None:
        if not self._looks and any(self._queue):
            self._looks = True
            self._at(self._grid(self._scheduling.look), self._look)

    def _look(self) -> None:
        """Take runs from the queue, as the daemon does."""
        self._looks = False
        self._launcher = max(self._launcher, self._now)
        while sum(self._admitted) < self._scheduling.most_runs:
            heads = [
                (-stage.priority, queue[0].order, number)
                for number, (stage, queue) in enumerate(zip(self._stages, self._queue, strict=True))
                if queue and (stage.places is None or self._admitted[number] < stage.places)
            ]
            if not heads:
                return
            number = min(heads)[-1]
            run = self._queue[number].popleft()
            self._admitted[number] += 1
            most = self.outcome.most
            most["in progress"] = max(most["in progress"], sum(self._admitted))
            self._launcher += self._scheduling.launch
            self._at(self._launcher, self._launched, run)

    def _launched(self, run: Run) -> None:
        self.outcome.runs += 1
        self._waiting[run.stage].append(run)
        self._place()

    def _place(self) -> None:
        """Start what waits and fits somewhere, the first of it first."""
        heads = sorted((queue[0].order, number) for number, queue in enumerate(self._waiting) if queue)
        while heads:
            _, number = heads.pop(0)
            stage = self._stages[number]
            fits = self._up & (self._cores >= stage.cores) & (self._gpus >= stage.gpus)
            if fits.any():
                self._start(self._waiting[number].popleft(), int(np.argmax(np.where(fits, self._cores, -1))))
                if self._waiting[number]:
                    heads = sorted([*heads, (self._waiting[number][0].order, number)])

    def _start(self, run: Run, host: int) -> None:
        stage = self._stages[run.stage]
        self._cores[host] -= stage.cores
        self._gpus[host] -= stage.gpus
        self._running[host].append(run)
        first = run.index * stage.per_run
        scenes = np.arange(first, min(first + stage.per_run, self._scenes))
        run.host, run.started = host, self._now
        run.todo = scenes[self.outcome.computed[run.stage][scenes] == 0]
        most = self.outcome.most
        running = sum(one.stage == run.stage for runs in self._running for one in runs) if stage.places else 0
        most[stage.name] = max(most[stage.name], running)
        self.outcome.waits[run.stage].append(self._now - run.queued)
        self._at(self._now + stage.overhead + stage.seconds[run.todo].sum(), self._ended, run)

    def _ended(self, run: Run) -> None:
        if not run.alive:
            return
        stage = self._stages[run.stage]
        self._account(run)
        self._running[run.host].remove(run)
        self._cores[run.host] += stage.cores
        self._gpus[run.host] += stage.gpus
        self.outcome.computed[run.stage][run.todo] += 1
        first = run.index * stage.per_run
        scenes = slice(first, min(first + stage.per_run, self._scenes))
        self.outcome.finished[run.stage][scenes] = self._now
        self._left -= scenes.stop - scenes.start
        self._freed(run)
        if self._left:
            self._at(self._grid(self._scheduling.ready), self._backfill_looks, run.stage, scenes)
        self._place()

    def _backfill_looks(self, stage: int, scenes: slice) -> None:
        """Queue the ranges of later stages that became ready by these scenes."""
        for number, later in enumerate(self._stages):
            if later.after != stage:
                continue
            indices, counts = np.unique(np.arange(scenes.start, scenes.stop) // later.per_run, return_counts=True)
            for index, count in zip(indices.tolist(), counts.tolist(), strict=True):
                self._missing[number][index] -= count
                if not self._missing[number][index]:
                    self._enqueue(number, index)

    def _freed(self, run: Run) -> None:
        """Free a run's places in the queue's limits."""
        self._admitted[run.stage] -= 1
        self._look_soon()

    def _account(self, run: Run) -> None:
        stage, seconds = self._stages[run.stage], self._now - run.started
        self.outcome.busy["cores"] += stage.cores * seconds
        self.outcome.busy["gpus"] += stage.gpus * seconds
        self.outcome.busy[stage.name] += seconds

    # Deaths

    def _deaths(self, given: Iterable[Death] | None) -> None:
        if given is not None:
            for when, host, away in given:
                self._at(when, self._die, host, away)
        elif math.isfinite(self._cluster.between_failures):
            for host in range(self._cluster.hosts):
                self._next_death(host)

    def _next_death(self, host: int) -> None:
        lives, away = self._rng.exponential((self._cluster.between_failures, self._cluster.away))
        self._at(self._now + lives, self._die, host, away)

    def _die(self, host: int, away: float) -> None:
        self._up[host] = False
        self.outcome.deaths += bool(self._running[host])
        for run in self._running[host]:
            self._lose(run)
        self._running[host] = []
        self._cores[host], self._gpus[host] = self._cluster.cores, self._cluster.gpus
        self._at(self._now + away, self._return, host)

    def _return(self, host: int) -> None:
        self._up[host] = True
        if math.isfinite(self._cluster.between_failures):
            self._next_death(host)
        self._place()

    def _lose(self, run: Run) -> None:
        """End a run with its host: finished scenes stay, the one in progress is lost."""
        stage = self._stages[run.stage]
        run.alive = False
        self._account(run)
        computing = self._now - run.started - stage.overhead
        ends = stage.seconds[run.todo].cumsum()
        whole = int((ends <= computing).sum())
        self.outcome.computed[run.stage][run.todo[:whole]] += 1
        lost = self._now - run.started - (ends[whole - 1] if whole else 0.0)
        self.outcome.lost["cores"] += stage.cores * lost
        self.outcome.lost["gpus"] += stage.gpus * lost
        self._at(self._now + self._scheduling.noticed, self._noticed, run)

    def _noticed(self, run: Run) -> None:
        self._freed(run)
        if run.attempt < self._scheduling.retries:
            self.outcome.retried += 1
            self._enqueue(run.stage, run.index, run.attempt + 1)
        else:
            self.outcome.failed += 1
            when = (math.floor(self._now / self._scheduling.backfill) + 1) * self._scheduling.backfill
            self._at(when, self._enqueue, run.stage, run.index)


# The project's scenes


@dataclass(frozen=True)
class Assumptions:
    """What was not measured.

    Args:
        download_mb_s: megabytes a second of one download; two are made at a time.
        gpu_operations: floating-point operations a second that a GPU sustains in the network.
        network: key of the network in ``scene_costs.json``.
        mean_days: days from a host's return to its next death.
        hours_away: hours until it returns.
        cores: of a host, which has one GPU.
        run_seconds: that a run is to take.
    """

    download_mb_s: float = 10.0
    gpu_operations: float = 1e14
    network: str = "default"
    mean_days: float = 30.0
    hours_away: float = 1.0
    cores: int = 16
    run_seconds: float = 300.0


def gpu_seconds_per_megapixel(costs: dict[str, Any], assumed: Assumptions) -> float:
    """Derive the network's time on a GPU from its operations; see the module."""
    network = costs["networks"][assumed.network]
    windows = network["windows_per_megapixel"] * network["orientations"]
    return float(windows * network["operations"] / assumed.gpu_operations)


def other_core_seconds(costs: dict[str, Any]) -> dict[str, float]:
    """Compute the core-seconds of a map that are not the network's, by scene and by megapixel.

    The network was measured on full windows, and the scenes have ground on a part of their pixels alone.
    """
    network, whole = costs["networks"]["measured"], costs["core_seconds"]["map"]
    alone = network["windows_per_megapixel"] * network["orientations"] * network["seconds"] * costs["good"]
    return {"scene": whole["scene"], "megapixel": max(0.0, whole["megapixel"] - alone)}


def draw_megapixels(scenes: int, rng: np.random.Generator) -> Seconds:
    """Draw sizes of scenes."""
    return np.asarray(rng.lognormal(LOG_MEGAPIXELS, SPREAD_OF_SIZES, scenes).clip(SMALLEST, LARGEST))


@dataclass(frozen=True)
class Scenario:
    """A cluster of hosts of one GPU each, and how its runs are scheduled.

    Args:
        gpus: number of hosts.
        here: the products are on the lake already, as from a disk.
        most_runs: ``max_concurrent_runs``.
        maps_first: maps have a higher priority in the queue than crops.
    """

    gpus: int
    here: bool = False
    most_runs: int = 10
    maps_first: bool = False

    @property
    def name(self) -> str:
        queue = f"{self.most_runs} runs at once" + (", maps first" if self.maps_first else "")
        return f"{self.gpus} GPU{'s' * (self.gpus > 1)}, {'products here' if self.here else 'downloads'}, {queue}"


def project_stages(
    scenario: Scenario, megapixels: Seconds, assumed: Assumptions, rng: np.random.Generator
) -> list[Stage]:
    """Build the stages of the project.

    Args:
        scenario: what differs between clusters.
        megapixels: of each scene.
        assumed: what was not measured.
        rng: draws how scenes of a size differ.
    """
    costs = json.loads(COSTS.read_text())

    def linear(of: dict[str, float], per: float = 1.0) -> Seconds:
        factor = rng.lognormal(-(SPREAD**2) / 2, SPREAD, len(megapixels))
        return np.asarray((of["scene"] + of["megapixel"] * megapixels) * factor / per)

    def stage(name: str, seconds: Seconds, cores: int, **more: Any) -> Stage:
        per_run = max(1, round(assumed.run_seconds / seconds.mean()))
        return Stage(name, seconds, cores, per_run=per_run, overhead=OVERHEAD, **more)

    product = costs["bytes"]["product"]
    fetched = linear(product, assumed.download_mb_s * 1e6) + linear(costs["core_seconds"]["download"])
    cut = linear(costs["core_seconds"]["cut"], 4 * PARALLEL)
    on_gpu = gpu_seconds_per_megapixel(costs, assumed) * megapixels
    mapped = on_gpu + linear(other_core_seconds(costs), 8 * PARALLEL)
    after = None if scenario.here else 0
    later = [
        stage("cut", cut, 4, after=after),
        stage("map", mapped, 8, gpus=1, places=scenario.gpus, after=after, priority=int(scenario.maps_first)),
    ]
    return later if scenario.here else [stage("download", fetched, 1, places=2), *later]


def ideal(stages: Sequence[Stage], cluster: Cluster) -> dict[str, float]:
    """Compute the seconds for which each resource is needed at full use, without runs, queues and deaths."""
    found = {
        "cores": sum(stage.cores * stage.seconds.sum() for stage in stages) / (cluster.hosts * cluster.cores),
        "GPUs": sum(stage.gpus * stage.seconds.sum() for stage in stages) / max(1, cluster.hosts * cluster.gpus),
    }
    found |= {f"{one.name}s": one.seconds.sum() / one.places for one in stages if one.places and not one.gpus}
    return {name: float(seconds) for name, seconds in found.items()}


# Scenarios


@dataclass(frozen=True)
class Row:
    """A scenario's medians, with the least and the most of the seeds."""

    scenario: Scenario
    bound: str
    values: dict[str, tuple[float, float, float]]

    def cell(self, name: str, form: str = ".1f") -> str:
        median, least, most = self.values[name]
        low, high = format(least, form), format(most, form)
        return format(median, form) + (f" ({low}-{high})" if low != high else "")


def simulate(scenario: Scenario, scenes: int, seed: int, assumed: Assumptions) -> tuple[dict[str, float], str, Outcome]:
    """Simulate a scenario once; return its figures, the scarcest resource, and the outcome."""
    rng = np.random.default_rng(seed)
    stages = project_stages(scenario, draw_megapixels(scenes, rng), assumed, rng)
    cluster = Cluster(scenario.gpus, assumed.cores, 1, assumed.mean_days * DAY, assumed.hours_away * HOUR)
    outcome = Simulation(stages, cluster, Scheduling(most_runs=scenario.most_runs), seed).run()
    for finished, computed in zip(outcome.finished, outcome.computed, strict=True):
        if np.isnan(finished).any() or (computed != 1).any():
            raise RuntimeError("a scene was not computed exactly once")
    needed = ideal(stages, cluster)
    bound = max(needed, key=lambda name: needed[name])
    maps = outcome.finished[-1]
    capacity = outcome.end * cluster.hosts
    values = {
        "days": outcome.end / DAY,
        "ideal": needed[bound] / DAY,
        "ratio": outcome.end / needed[bound],
        "tail": (maps.max() - np.quantile(maps, 0.99)) / HOUR,
        "runs": outcome.runs,
        "deaths": outcome.deaths,
        "retried": outcome.retried,
        "failed": outcome.failed,
        "lost": outcome.lost["cores"] / outcome.busy["cores"],
        "GPUs busy": outcome.busy["gpus"] / capacity,
        "cores busy": outcome.busy["cores"] / capacity / cluster.cores,
        "downloads busy": outcome.busy.get("download", 0.0) / outcome.end / 2,
    }
    return values, bound, outcome


def row(scenario: Scenario, scenes: int, seeds: int, assumed: Assumptions) -> tuple[Row, Outcome]:
    """Simulate a scenario with several seeds; the outcome is the first one's."""
    found = [simulate(scenario, scenes, seed, assumed) for seed in range(seeds)]
    values = {}
    for name in found[0][0]:
        each = [one[0][name] for one in found]
        values[name] = (statistics.median(each), min(each), max(each))
    return Row(scenario, found[0][1], values), found[0][2]


# With three runs for each host, a map and two cuts fill its 16 cores, and none waits on the host's side.
SCENARIOS = (
    *(Scenario(gpus) for gpus in (1, 8, 64)),
    *(Scenario(gpus, here=True) for gpus in (1, 8, 64)),
    *(Scenario(gpus, here=True, most_runs=3 * gpus, maps_first=True) for gpus in (1, 8, 64)),
)


def table(rows: Sequence[Row]) -> str:
    """Write the rows as Markdown."""
    lines = [
        "| cluster and queue | days | over ideal | set by | tail (h) | runs | deaths | retried, left over | lost (%) "
        "| GPUs, cores, downloads busy (%) |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in rows:
        percent = {name: replace(one, values={name: _times(one.values[name], 100)}) for name in one.values}
        busy = ", ".join(f"{percent[f'{name} busy'].values[f'{name} busy'][0]:.0f}" for name in BUSY)
        lines.append(
            f"| {one.scenario.name} | {one.cell('days')} | {one.cell('ratio', '.2f')} | {one.bound} "
            f"| {one.cell('tail')} | {one.cell('runs', ',.0f')} | {one.cell('deaths', '.0f')} "
            f"| {one.cell('retried', '.0f')}, {one.cell('failed', '.0f')} | {percent['lost'].cell('lost', '.2f')} "
            f"| {busy} |"
        )
    return "\n".join(lines)


BUSY = ("GPUs", "cores", "downloads")


def _times(values: tuple[float, float, float], factor: float) -> tuple[float, float, float]:
    median, least, most = values
    return median * factor, least * factor, most * factor


def variations(scenes: int, seeds: int) -> str:
    """Write what lengths of runs and deaths change, on 8 GPUs, as Markdown."""
    scenario = SCENARIOS[-2]
    lines = [
        "| runs of | a host dies every | over ideal | tail (h) | runs | deaths | retried, left over | lost (%) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for minutes, days in itertools.product((1, 5, 30), (30.0, 3.0, 0.3)):
        one, _ = row(scenario, scenes, seeds, Assumptions(mean_days=days, run_seconds=60.0 * minutes))
        lost = replace(one, values={"lost": _times(one.values["lost"], 100)})
        lines.append(
            f"| {minutes} min | {days:g} days | {one.cell('ratio', '.2f')} | {one.cell('tail')} "
            f"| {one.cell('runs', ',.0f')} | {one.cell('deaths', '.0f')} "
            f"| {one.cell('retried', '.0f')}, {one.cell('failed', '.0f')} | {lost.cell('lost', '.2f')} |"
        )
    return "\n".join(lines)


def draw_progress(outcomes: Sequence[tuple[Scenario, Outcome]], path: Path) -> None:
    """Draw the share of scenes mapped over time: a colour for each number of GPUs, a line for each way of queuing."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 3.8), dpi=90, layout="constrained")
    for scenario, outcome in outcomes:
        days = np.sort(outcome.finished[-1]) / DAY
        shown = np.unique(np.linspace(0, len(days) - 1, 400).astype(int))
        style = ":" if not scenario.here else "-" if scenario.maps_first else "--"
        colour = {1: "tab:blue", 8: "tab:orange", 64: "tab:green"}[scenario.gpus]
        axes.plot(days[shown], (shown + 1) / len(days), style, color=colour, label=scenario.name, linewidth=1.5)
    axes.set(xscale="log", xlabel="days", ylabel="share of scenes mapped", xlim=(0.1, None), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path)
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=100_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--download-mb-s", type=float, default=Assumptions.download_mb_s, help="of each download")
    parser.add_argument("--gpu-operations", type=float, default=Assumptions.gpu_operations, help="sustained a second")
    parser.add_argument("--mean-days", type=float, default=Assumptions.mean_days, help="between deaths of a host")
    parser.add_argument("--record", action="store_true", help="keep tables and picture for the page on scale")
    options = parser.parse_args()
    assumed = Assumptions(options.download_mb_s, options.gpu_operations, mean_days=options.mean_days)
    rows, outcomes = [], []
    for scenario in SCENARIOS:
        start = time.monotonic()
        found, outcome = row(scenario, options.scenes, options.seeds, assumed)
        rows.append(found)
        outcomes.append((scenario, outcome))
        print(f"  {scenario.name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    found_tables = {"table": table(rows), "variations": variations(options.scenes, options.seeds)}
    print(*found_tables.values(), sep="\n\n")
    if options.record:
        record(Path(__file__), found_tables)
        draw_progress(outcomes, FIGURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
