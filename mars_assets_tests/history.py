"""What Dagster has recorded of runs, read from Postgres itself, also where no process of Dagster answers."""

import contextlib
import re
import time
from collections.abc import Callable

import psycopg2
import requests

from mars_assets_tests.postgres import Database

FINISHED = ("SUCCESS", "FAILURE", "CANCELED")


class History:
    """The runs of an instance.

    Args:
        database: Dagster's.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    def status(self, run: str) -> str:
        return str(self.database.query("SELECT status FROM runs WHERE run_id = %s", run)[0][0])

    def finished(self, run: str) -> bool:
        return self.status(run) in FINISHED

    def logged(self, run: str, pattern: str) -> list[str]:
        """What matches a pattern in each event of a run."""
        rows = self.database.query("SELECT event FROM event_logs WHERE run_id = %s ORDER BY id", run)
        return [found[0] for (event,) in rows for found in [re.search(pattern, event)] if found]

    def tag(self, run: str, key: str) -> str | None:
        rows = self.database.query("SELECT value FROM run_tags WHERE run_id = %s AND key = %s", run, key)
        return str(rows[0][0]) if rows else None

    def process_of(self, run: str) -> tuple[str, int]:
        """The host of a run, and the id that its process has there."""
        host, number, *_ = (self.tag(run, "mars_assets/process") or "").split()
        return host, int(number)

    def retry_of(self, run: str) -> str | None:
        """The run that Dagster started in another's place."""
        query = "SELECT run_id FROM run_tags WHERE key = 'dagster/parent_run_id' AND value = %s"
        rows = self.database.query(query, run)
        return str(rows[0][0]) if rows else None

    def materializations(self, asset: str, run: str = "%") -> int:
        query = (
            "SELECT count(*) FROM event_logs WHERE dagster_event_type = 'ASSET_MATERIALIZATION' AND asset_key = %s"
            " AND run_id LIKE %s"
        )
        return int(self.database.query(query, f'["{asset}"]', run)[0][0])

    def places_taken(self) -> int:
        """How many places of pools are taken."""
        query = "SELECT count(*) FROM concurrency_slots WHERE run_id IS NOT NULL"
        return int(self.database.query(query)[0][0])


def wait_until(reached: Callable[[], object], seconds: float) -> float | None:
    """Wait for something that may not even be asked for at the moment; the seconds, or None where it never came."""
    start = time.monotonic()
    while True:
        with contextlib.suppress(psycopg2.Error, requests.RequestException, ConnectionError, KeyError, TypeError):
            if reached():
                return time.monotonic() - start
        if time.monotonic() - start > seconds:
            return None
        time.sleep(0.25)
