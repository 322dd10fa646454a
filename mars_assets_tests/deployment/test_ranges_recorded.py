"""How the events of a range of partitions reach a real Postgres."""

import dagster as dg
import pytest
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG

from mars_assets.executor import one_process_executor
from mars_assets_tests.postgres import Database

pytestmark = pytest.mark.process

KEYS = [f"ESP_{number:06d}_1800" for number in range(12)]
MADE = "ASSET_MATERIALIZATION"


@dg.asset(partitions_def=dg.StaticPartitionsDefinition(KEYS), backfill_policy=dg.BackfillPolicy.single_run())
def images(context: dg.AssetExecutionContext) -> None:
    if "given up" in context.run.tags:
        context.instance.report_run_failed(context.run)


def transactions(database: Database) -> dict[str, tuple[int, int]]:
    """How many events of a kind there are, and in how many transactions they were written."""
    kinds = "SELECT dagster_event_type, count(*), count(DISTINCT xmin::text) FROM event_logs GROUP BY 1"
    return {kind: (events, times) for kind, events, times in database.query(kinds)}


def materialize_range(database: Database, *further_tags: str) -> None:
    definitions = dg.Definitions([images], executor=one_process_executor)
    job = definitions.get_implicit_global_asset_job_def()
    tags = {ASSET_PARTITION_RANGE_START_TAG: KEYS[0], ASSET_PARTITION_RANGE_END_TAG: KEYS[-1]}
    tags |= dict.fromkeys(further_tags, "yes")
    with dg.instance_for_test(overrides={"storage": {"postgres": {"postgres_url": database.url}}}) as instance:
        execute_run(InMemoryJob(job), instance.create_run_for_job(job, tags=tags), instance)


def test_a_range_is_recorded_at_once(database: Database) -> None:
    """Else a backfill finds half of it, and divides what follows into runs of an observation or two."""
    materialize_range(database)
    assert transactions(database)[MADE] == (len(KEYS), 1)


def test_of_a_run_that_was_given_up_nothing_is_recorded(database: Database) -> None:
    materialize_range(database, "given up")
    assert MADE not in transactions(database)


def test_dagster_alone_records_it_bit_by_bit(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_EVENT_BATCH_SIZE")
    materialize_range(database)
    assert transactions(database)[MADE] == (len(KEYS), len(KEYS)), "Dagster does it by itself now: ours can go"
