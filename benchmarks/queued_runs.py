"""Runs queued by the thousand: whether they slow the daemon, the UI and the start of another run.

An instance with the project's settings and definitions has one run in progress that holds the only place for automatic
runs, and N queued ones that want it. Measured with none and with N of them: the load of the daemon with its code server
while it looks at the queue and the sensors; the seconds from a launch, of a run that wants no such place, until its
process reports its start; and the data of the UI's page of runs, as Chromium asks for it. Both on SQLite and on a
Postgres that is started for it.

    python benchmarks/queued_runs.py --counts 1000 10000 --storages sqlite postgres
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import requests
from instances import MODULE, STORAGES, Instance, instance_on, started, webserver
from measure import record, verdict
from pages import data_seconds, recorded

if TYPE_CHECKING:
    import dagster as dg

PAGES = {"runs": "/runs", "queued runs": "/runs?q[0]=status:QUEUED"}
LAUNCHES = 3
SECONDS, PERIODS = 20.0, 3
"""For which the daemon's load is observed, four looks at the queue, and how often."""
PATIENCE = 120.0
LAUNCH = """
mutation ($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
} }
"""


@dataclass(frozen=True)
class Found:
    """What was measured with so many runs queued.

    Args:
        load: share of a core that the daemon with its code server takes.
        taken: median seconds from launch until the daemon takes the run from the queue.
        start: the same until the run's process reports its start.
        pages: median seconds of the data of each page.
    """

    load: float
    taken: float
    start: float
    pages: dict[str, float]


def launch(url: str) -> str:
    """Launch a run that ends at once; return its id."""
    params = {
        "selector": {
            "repositoryLocationName": MODULE,
            "repositoryName": "__repository__",
            "pipelineName": "__ASSET_JOB",
            "assetSelection": [{"path": ["observations"]}],
        },
        "runConfigData": {},
        "mode": "default",
    }
    body = {"query": LAUNCH, "variables": {"params": params}}
    answer = requests.post(f"{url}/graphql", json=body, timeout=PATIENCE).json()["data"]["launchPipelineExecution"]
    if answer["__typename"] != "LaunchRunSuccess":
        sys.exit(f"a run is not launched: {answer}")
    return str(answer["run"]["runId"])


def start_seconds(history: dg.DagsterInstance, url: str) -> tuple[float, float]:
    """Launch a run and wait for its end.

    Returns:
        The seconds until the daemon took it from the queue, and until it started.
    """
    from dagster._core.events import DagsterEventType

    run_id = launch(url)
    until = time.monotonic() + PATIENCE
    while True:
        (record,) = history.get_run_records(filters=_only(run_id))
        if record.dagster_run.is_finished:
            break
        if time.monotonic() > until:
            sys.exit(f"run {run_id} does not end")
        time.sleep(0.2)
    if not record.dagster_run.is_success or record.start_time is None:
        sys.exit(f"run {run_id} failed")
    queued, taken = (
        history.all_logs(run_id, of_type={kind})[0].timestamp
        for kind in (DagsterEventType.RUN_ENQUEUED, DagsterEventType.RUN_STARTING)
    )
    return taken - queued, record.start_time - queued


def _only(run_id: str) -> Any:
    import dagster as dg

    return dg.RunsFilter(run_ids=[run_id])


@contextlib.contextmanager
def queued(history: dg.DagsterInstance, count: int) -> Iterator[None]:
    """Queue copies of the last run behind one that holds the place for automatic runs; remove them afterwards."""
    import dagster as dg
    from dagster._core.utils import make_new_run_id
    from dagster_shared.record import copy

    from mars_assets.automation import ONE_AT_A_TIME

    (last,) = history.get_runs(limit=1)
    statuses = [dg.DagsterRunStatus.STARTED, *[dg.DagsterRunStatus.QUEUED] * count] if count else []
    added = [
        copy(last, run_id=make_new_run_id(), status=status, tags={**last.tags, **ONE_AT_A_TIME}) for status in statuses
    ]
    for run in added:
        history.run_storage.add_run(run)
    try:
        yield
    finally:
        for run in added:
            history.run_storage.delete_run(run.run_id)


def load(process: int, seconds: float) -> float:
    """Observe the share of a core that a process and its children take; those that end meanwhile do not count."""

    def used() -> dict[int, float]:
        found = {}
        for one in (psutil.Process(process), *psutil.Process(process).children(recursive=True)):
            times = one.cpu_times()
            found[one.pid] = times.user + times.system
        return found

    before, start = used(), time.monotonic()
    time.sleep(seconds)
    after = used()
    return sum(after[one] - before.get(one, 0.0) for one in after) / (time.monotonic() - start)


def observed(history: dg.DagsterInstance, url: str, daemon: int) -> Found:
    """Measure with what is queued at present."""
    share = statistics.median(load(daemon, SECONDS) for _ in range(PERIODS))
    starts = [start_seconds(history, url) for _ in range(LAUNCHES)]
    data = {}
    for page, asked in recorded(url, PAGES).items():
        data[page] = statistics.median(data_seconds(url, asked)[0] for _ in range(LAUNCHES))
    taken, start = (statistics.median(one) for one in zip(*starts, strict=True))
    return Found(share, taken, start, data)


def _median(rounds: Sequence[Found]) -> Found:
    return Found(
        statistics.median(one.load for one in rounds),
        statistics.median(one.taken for one in rounds),
        statistics.median(one.start for one in rounds),
        {page: statistics.median(one.pages[page] for one in rounds) for page in PAGES},
    )


def measured(storage: str, counts: list[int], repeats: int) -> list[bool]:
    """Measure with none and with so many in turns; print medians."""
    import dagster as dg

    rounds: dict[int, list[Found]] = {count: [] for count in (0, *counts)}
    with instance_on(storage) as instance:
        os.environ |= instance.environment
        _prepare(instance)
        with (
            dg.DagsterInstance.from_config(str(instance.folder / "dagster")) as history,
            webserver(instance) as server,
            started(instance, "dagster-daemon", "run", "-m", MODULE) as daemon,
        ):
            start_seconds(history, server.url)  # the first loads the definitions
            for _ in range(repeats):
                for count, found in rounds.items():
                    with queued(history, count):
                        found.append(observed(history, server.url, daemon.pid))
                    print(f"  {storage}, {count} queued: {found[-1]}", flush=True)
    none, *others = map(_median, rounds.values())
    for count, one in zip(rounds, (none, *others), strict=True):
        record(Path(__file__), {f"{storage} {count}": dataclasses.asdict(one)})
    holds = []
    for count, one in zip(counts, others, strict=True):
        label = f"{storage}, {count} queued,"
        holds += [
            verdict(f"{label} load of the daemon over none", one.load - none.load, 0.1, at_least=False),
            verdict(f"{label} seconds in the queue over none", one.taken - none.taken, 5, at_least=False),
            verdict(f"{label} seconds to start over none", one.start - none.start, 5, at_least=False),
            verdict(f"{label} seconds of a page", max(one.pages.values()), 1, at_least=False),
        ]
    print(f"{storage}, none queued: {none}")
    return holds


def _prepare(instance: Instance) -> None:
    """Give the lake one observation, so that ``observations`` has something to list."""
    from mars_assets.lake import Lake

    lake = Lake.at(instance.folder / "lake")
    lake.root.mkdir()
    lake.observations_csv.write_text("id\nESP_011472_1225\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[1000], help="queued runs")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--storages", nargs="+", choices=STORAGES, default=STORAGES)
    options = parser.parse_args()
    for name in [name for name in os.environ if name.startswith(("DAGSTER_", "MARS_", "ROBOFLOW_"))]:
        del os.environ[name]  # somebody's own lake and projects
    holds = [held for storage in options.storages for held in measured(storage, options.counts, options.repeats)]
    return 0 if all(holds) else 1


if __name__ == "__main__":
    sys.exit(main())
