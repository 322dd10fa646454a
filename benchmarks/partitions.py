"""Observations as partitions by the thousand: what the UI's pages and the sensor ``follow_labels`` then cost.

An instance with the project's definitions gets N observations, each with an image, crops and a map from runs of 30, and
one materialization of everything else. Chromium opens the overview and the partitions tab of ``crops``; what it asks of
the server until the page rests is recorded, and asked again by a client that opens as many connections as a browser and
does nothing with the answers: the seconds of the page's data. Ticks are those of the daemon. Both on SQLite and on a
Postgres that is started for it.

    python benchmarks/partitions.py --counts 1000 36000 --storages sqlite postgres
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from instances import MODULE, STORAGES, Instance, Server, instance_on, started, webserver
from measure import record, verdict
from pages import Request, data_seconds, recorded

if TYPE_CHECKING:
    import dagster as dg

ASSET = "crops"
"""Whose page is opened. The three assets with partitions differ in no query."""
PARTITIONED = ("hirise_images", "crops", "crater_maps")
RUN_SIZE = 30
"""Observations of a run, whose table each of their events has."""
PAGES = {"overview": f"/assets/{ASSET}?view=overview", "partitions": f"/assets/{ASSET}?view=partitions"}
TICKS = 5
MOST_SECONDS = 1.0
"""For the data of a page, and for a tick."""
PATIENCE = 600.0


def observation_ids(count: int) -> list[str]:
    return [f"ESP_{number:06d}_{number * 7 % 3600:04d}" for number in range(1, count + 1)]


# History


def fill(instance: dg.DagsterInstance, names: Sequence[str]) -> None:
    """Write the events of a lake in which everything was computed once."""
    import dagster as dg

    from mars_assets.definitions import defs

    graph = defs.resolve_asset_graph()
    for key in sorted(graph.get_all_asset_keys()):
        name = key.to_user_string()
        if name == "roboflow_exports":
            instance.report_runless_asset_event(dg.AssetObservation(key, tags={"dagster/data_version": "1"}))
        elif name not in PARTITIONED:
            instance.report_runless_asset_event(dg.AssetMaterialization(key, tags={"dagster/data_version": "1"}))
        for check in graph.get(key).check_keys:
            passed = dg.AssetCheckEvaluation(asset_key=key, check_name=check.name, passed=True)
            instance.report_runless_asset_event(passed)
    for name in PARTITIONED:
        runs = [names[start : start + RUN_SIZE] for start in range(0, len(names), RUN_SIZE)]
        _materialize(instance, name, runs)


def _materialize(instance: dg.DagsterInstance, name: str, runs: Sequence[Sequence[str]]) -> None:
    """Write what the runs of one asset leave in the history.

    One event is written by Dagster and copied for the others with their run, partition and table, since Dagster would
    take a quarter of an hour.
    """
    import dagster as dg
    from dagster._core.storage.event_log.schema import SqlEventLogStorageTable as Events
    from sqlalchemy import select

    from mars_assets.assets.metadata import table

    key, first = dg.AssetKey(name), runs[0][0]
    rows = pd.DataFrame({"observation": runs[0], "crops": 200, "skipped": 100, "reasons": "100 dark", "latitude": 1.5})
    made = dg.AssetMaterialization(
        key, partition=first, metadata={"partitions": table(rows)}, tags={"dagster/data_version": "1"}
    )
    instance.report_runless_asset_event(made)
    storage: Any = instance.event_log_storage
    storage = getattr(storage, "event_log_storage", storage)
    with storage.index_connection() as connection:
        template = connection.execute(
            select(Events).where(Events.c.asset_key == key.to_string()).order_by(Events.c.id.desc()).limit(1)
        ).one()
        for run in runs:
            run_id = str(uuid.uuid4())
            text = template.event.replace('"run_id": ""', f'"run_id": "{run_id}"').replace(runs[0][1], run[-1])
            values = [
                {
                    **{column: value for column, value in template._mapping.items() if column != "id"},
                    "run_id": run_id,
                    "partition": one,
                    "event": text.replace(first, one),
                }
                for one in run
            ]
            connection.execute(Events.insert(), values)
    # Dagster's own is the latest, as in a history that it wrote alone.
    instance.report_runless_asset_event(made)


def page_seconds(server: Server, page: str, asked: Sequence[Request], repeats: int) -> tuple[float, float]:
    """Ask for a page's data several times after a first one.

    Returns:
        The median seconds, and those that the server takes a core.
    """
    data_seconds(server.url, asked)
    before = server.core_seconds()
    rounds = [data_seconds(server.url, asked) for _ in range(repeats)]
    taken = (server.core_seconds() - before) / repeats
    each = {name: statistics.median(part[name] for _, part in rounds) for name in rounds[0][1]}
    longest = ", ".join(f"{name} {each[name]:.2f}" for name in sorted(each, key=lambda name: each[name])[:-4:-1])
    listed = ", ".join(f"{whole:.2f}" for whole, _ in rounds)
    print(f"  {page}: {listed} s, of which the server takes a core for {taken:.2f} s; {longest}", flush=True)
    return statistics.median(whole for whole, _ in rounds), taken


# The daemon


def tick_seconds(instance: Instance, storage: dg.DagsterInstance, name: str) -> list[float]:
    """Let the daemon evaluate the conditions some times, with other crops of an observation each time.

    Returns:
        The seconds of each evaluation; the first knows of none before.
    """
    import dagster as dg
    from dagster._core.scheduler.instigation import TickStatus

    with started(instance, "dagster-daemon", "run", "-m", MODULE):
        until, seen = time.monotonic() + PATIENCE, 0
        while seen < TICKS:
            states = [state for state in storage.all_instigator_state() if state.instigator_name == "follow_labels"]
            found = storage.get_ticks(states[0].instigator_origin_id, states[0].selector_id) if states else []
            ended = [tick for tick in found if tick.status != TickStatus.STARTED]
            if len(ended) > seen:
                seen = len(ended)
                tags = {"dagster/data_version": f"after tick {seen}"}
                storage.report_runless_asset_event(dg.AssetMaterialization(ASSET, partition=name, tags=tags))
            if time.monotonic() > until:
                sys.exit(f"the daemon does not tick: {instance.folder / 'dagster-daemon.log'}")
            time.sleep(0.5)
    if failed := [tick.error for tick in ended if tick.status == TickStatus.FAILURE]:
        sys.exit(f"a tick failed: {failed[0]}")
    ended.sort(key=lambda tick: tick.timestamp)
    return [tick.end_timestamp - tick.timestamp for tick in ended if tick.end_timestamp]


def evaluation_seconds(storage: dg.DagsterInstance) -> float:
    """Evaluate the conditions as the daemon does, with nothing else in the process; the median of some times."""
    import dagster as dg

    from mars_assets.definitions import defs

    cursor, seconds = None, []
    for _ in range(TICKS):
        start = time.perf_counter()
        cursor = dg.evaluate_automation_conditions(defs, storage, dg.AssetSelection.all(), cursor=cursor).cursor
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


# All of it


def measured(storage: str, count: int, repeats: int) -> list[bool]:
    """Fill an instance and time it.

    Returns:
        Whether each bound holds; none of them is for more observations than are allowed.
    """
    import dagster as dg

    from mars_assets.partitions import MOST_OBSERVATIONS, register_observations

    names = observation_ids(count)
    values: dict[str, float] = {}
    with instance_on(storage) as instance:
        os.environ |= instance.environment
        with dg.DagsterInstance.from_config(str(instance.folder / "dagster")) as history:
            if count <= MOST_OBSERVATIONS:
                register_observations(history, names[1:])
                start = time.perf_counter()
                register_observations(history, names)  # the first is before all others
                values["register, all anew"] = time.perf_counter() - start
            else:
                history.add_dynamic_partitions("observation", names)
            fill(history, names)
            with webserver(instance) as server:
                for page, asked in recorded(server.url, PAGES).items():
                    values[page], values[f"{page}, core-seconds"] = page_seconds(server, page, asked, repeats)
            first, *later = tick_seconds(instance, history, names[0])
            print(f"  ticks: {first:.2f} s, then {', '.join(f'{seconds:.2f}' for seconds in later)} s", flush=True)
            values["tick of the daemon"] = statistics.median(later)
            values["the same conditions alone"] = evaluation_seconds(history)
        if storage == "sqlite":
            values["megabytes"] = sum(path.stat().st_size for path in instance.folder.rglob("*.db")) / 1e6
    record(Path(__file__), {f"{storage} {count}": values})
    label = f"{storage}, {count} observations"
    if count > MOST_OBSERVATIONS:
        print(f"{label}, more than are allowed: {values}")
        return []
    bounded = (*PAGES, "tick of the daemon", "the same conditions alone")
    return [verdict(f"{label}, {name}: seconds", values[name], MOST_SECONDS, at_least=False) for name in bounded]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 36_000, 100_000])
    parser.add_argument("--storages", nargs="+", choices=STORAGES, default=STORAGES)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    for name in [name for name in os.environ if name.startswith(("DAGSTER_", "MARS_", "ROBOFLOW_"))]:
        del os.environ[name]  # somebody's own lake and projects
    holds = []
    for count in options.counts:
        for storage in options.storages:
            print(f"{count} observations on {storage}", flush=True)
            holds += measured(storage, count, options.repeats)
    return 0 if all(holds) else 1


if __name__ == "__main__":
    sys.exit(main())
