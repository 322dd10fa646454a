"""Steps that claim the same place of a pool at the same moment, on a real Postgres."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._utils.concurrency import ConcurrencySlotStatus
from dagster_postgres.event_log import PostgresEventLogStorage

from mars_assets.executor import DAGSTERS_CLAIM
from mars_assets_tests.postgres import Database

pytestmark = pytest.mark.process

STEPS, ROUNDS = 6, 60


def most_at_once(database: Database, claim: Callable[..., ConcurrencySlotStatus]) -> int:
    """The most steps that got the one place of a pool."""
    storages = [PostgresEventLogStorage(database.url, should_autocreate_tables=number == 0) for number in range(STEPS)]
    storages[0].set_concurrency_slots("gpu", 1)
    barrier, most = threading.Barrier(STEPS), 0

    def claims(storage: Any, number: int, step: int) -> bool:
        barrier.wait(60)
        return claim(storage, "gpu", f"run {step}", f"step {number}") == ConcurrencySlotStatus.CLAIMED

    with ThreadPoolExecutor(STEPS) as threads:
        for number in range(ROUNDS):
            got = sum(threads.map(claims, storages, [number] * STEPS, range(STEPS)))
            most = max(most, got)
            for step in range(STEPS):
                storages[0].free_concurrency_slots_for_run(f"run {step}")
    for storage in storages:
        storage.dispose()
    return most


def test_one_step_alone_gets_a_place(database: Database) -> None:
    assert most_at_once(database, SqlEventLogStorage._claim_concurrency_slot) == 1


def test_dagsters_own_claim_gives_it_to_several(database: Database) -> None:
    assert most_at_once(database, DAGSTERS_CLAIM) > 1, "Dagster gives a place to one step now: ours can go"
