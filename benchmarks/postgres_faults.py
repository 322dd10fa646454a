"""What a run, the daemon and the webserver make of Postgres going away.

On a small lake of the synthetic sample with ``mars-assets deploy workstation``, and with the commands of its units.
Postgres is killed (kill -9) in the middle of a training or as its step ends, and comes back after some seconds. A run
is launched as the UI does. Stated are, in seconds after the kill: when the run ended and how, when a run that took its
place ended and what it had to do again, when the pool was free, and when a run could be launched again.

``processes`` kills the run's process, the daemon or the webserver instead.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

PROJECT = Path(__file__).parent.parent
sys.path.insert(0, str(PROJECT))  # the tests' Postgres and lake

if TYPE_CHECKING:
    from mars_assets_tests.deployed import Services
    from mars_assets_tests.postgres import Database, Postgres

PATIENCE = 400.0
FINISHED = ("SUCCESS", "FAILURE", "CANCELED")
NUMBER = count(1)
"""Of a training: each has settings that no other had, so that it is one."""


def wait(reached: Callable[[], bool], patience: float = PATIENCE) -> float:
    """Wait for something that may not even be asked for at the moment; returns the seconds, infinite if it never is."""
    import psycopg2

    start = time.monotonic()
    while time.monotonic() - start < patience:
        try:
            if reached():
                return time.monotonic() - start
        except (psycopg2.Error, requests.RequestException, ConnectionError):
            pass
        time.sleep(0.25)
    return float("inf")


def status(database: Database, run: str) -> str:
    return str(database.query("SELECT status FROM runs WHERE run_id = %s", run)[0][0])


def retry_of(database: Database, run: str) -> str | None:
    """The run that Dagster started in another's place."""
    rows = database.query("SELECT run_id FROM run_tags WHERE key = 'dagster/parent_run_id' AND value = %s", run)
    return str(rows[0][0]) if rows else None


def logged(database: Database, run: str, pattern: str) -> list[str]:
    rows = database.query("SELECT event FROM event_logs WHERE run_id = %s ORDER BY id", run)
    return [found[0] for (event,) in rows for found in [re.search(pattern, event)] if found]


def materializations(database: Database, run: str) -> int:
    events = "SELECT count(*) FROM event_logs WHERE run_id = %s AND dagster_event_type = 'ASSET_MATERIALIZATION'"
    return int(database.query(events, run)[0][0])


def places_taken(database: Database) -> int:
    return int(database.query("SELECT count(*) FROM concurrency_slots WHERE run_id IS NOT NULL")[0][0])


def training(steps: int) -> dict[str, Any]:
    lr = 1e-4 * (1 + next(NUMBER) / 1000)
    return {"steps": steps, "batch_size": 2, "warmup_steps": 2, "evaluate_every": 5, "image_size": 224, "lr": lr}


def report(name: str, found: dict[str, object]) -> None:
    said = {key: f"{value:.0f} s" if isinstance(value, float) else value for key, value in found.items()}
    print(f"| {name} | " + " | ".join(f"{key}: {value}" for key, value in said.items()) + " |", flush=True)


def outcome(running: Services, database: Database, run: str, start: float) -> dict[str, object]:
    """How a run ended and what came after it."""
    found: dict[str, object] = {}

    def since() -> float:
        return time.monotonic() - start

    wait(lambda: status(database, run) in FINISHED)
    found["status"], found["after"] = status(database, run), since()
    found["materialized"] = materializations(database, run)
    if found["status"] == "FAILURE" and wait(lambda: retry_of(database, run) is not None, 60) < 60:
        again = retry_of(database, run)
        assert again is not None
        wait(lambda: status(database, again) in FINISHED)
        found["retry"], found["retry ended after"] = status(database, again), since()
        repeated = logged(database, again, "continuing the training after step \\d+|nothing to train")
        found["retry"] = f"{found['retry']} ({', '.join(repeated) or 'from the start'})"
    wait(lambda: places_taken(database) == 0, 120)
    found["pool free after"] = since()
    found["alive"] = ", ".join(name for name, process in running.processes.items() if process.poll() is None)
    return found


def postgres_away(running: Services, postgres: Postgres, database: Database, seconds: float, at_end: bool) -> None:
    steps = 60 if at_end else 200
    run = running.launch("cls_model", training(steps))
    until = f"step {steps - 5}/" if at_end else "step 20/"
    wait(lambda: bool(logged(database, run, until)))
    postgres.kill()
    start = time.monotonic()
    time.sleep(seconds)
    postgres.start()
    back = time.monotonic() - start
    failed = 0
    while True:  # as a person who clicks again
        try:
            other = running.launch("prithvi_weights", {"source": "sample"})
            break
        except (ConnectionError, requests.RequestException):
            failed += 1
            time.sleep(1)
    launched = time.monotonic() - start
    found: dict[str, object] = {"back": back, "launches that failed": failed, "launched": launched}
    found |= outcome(running, database, run, start)
    wait(lambda: status(database, other) in FINISHED)
    found["other run"] = status(database, other)
    report(f"Postgres away {seconds:.0f} s, {'as a step ends' if at_end else 'mid-step'}", found)


def process_of(database: Database, run: str) -> int:
    rows = database.query("SELECT value FROM run_tags WHERE run_id = %s AND key = 'mars_assets/process'", run)
    return int(str(rows[0][0]).rsplit(" ", 2)[1])


def process_killed(running: Services, database: Database, name: str) -> None:
    run = running.launch("cls_model", training(200))
    wait(lambda: bool(logged(database, run, "step 20/")))
    target = process_of(database, run) if name == "run" else running.processes[name].pid
    os.kill(target, signal.SIGKILL)
    start = time.monotonic()
    if name != "run":
        running.processes[name].wait()
        time.sleep(10)  # RestartSec of its unit
        running.start(name)
    report(f"kill -9 of the {name}", outcome(running, database, run, start))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["postgres", "processes"]
    options.add_argument("--parts", nargs="+", default=parts, choices=parts, help="what is killed")
    options.add_argument("--seconds", type=float, nargs="+", default=[8, 60], help="that Postgres is away")
    chosen = options.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and stop what was started
    from mars_assets_tests.deployed import deployed_sample, services
    from mars_assets_tests.postgres import free_port, installed, serve_postgres

    programs = installed()
    if programs is None:
        sys.exit("there is no initdb: install Postgres (Debian: postgresql)")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres = stack.enter_context(serve_postgres(programs))
        database = postgres.database()
        deployed = deployed_sample(folder, database)
        deployed.materialize("labelled_crops,reflectance,imputed_post_norm")
        running = stack.enter_context(services(deployed, free_port(), "webserver", "daemon"))
        cases: list[Callable[[], None]] = []
        if "postgres" in chosen.parts:
            for seconds in chosen.seconds:
                for at_end in (False, True):
                    cases.append(functools.partial(postgres_away, running, postgres, database, seconds, at_end))
        if "processes" in chosen.parts:
            cases += [
                functools.partial(process_killed, running, database, name) for name in ("run", "daemon", "webserver")
            ]
        for case in cases:
            case()


if __name__ == "__main__":
    main()
