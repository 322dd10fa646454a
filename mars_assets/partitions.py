"""Dagster partitions: one per HiRISE observation, registered by ``observations``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import dagster as dg
from dagster._core.storage.event_log.schema import DynamicPartitionsTable as Partitions
from sqlalchemy.exc import IntegrityError

from mars_assets.errors import MarsError

observation_partitions = dg.DynamicPartitionsDefinition(name="observation")

MOST_OBSERVATIONS = 36_000
"""Of a lake. With so many, the data of an asset's page take about a second on either storage, and every further one
takes as much again (``benchmarks/partitions.py``).
"""


def register_observations(instance: dg.DagsterInstance, observations: Iterable[str]) -> list[str]:
    """Make these observations the partitions, in the order of their ids.

    In a range of partitions Dagster takes those that were added between its ends. What has been materialized of
    partitions stays known.

    Returns:
        The observations that no longer have a partition.

    Raises:
        MarsError: there are more than ``MOST_OBSERVATIONS``, or another process registers some; the partitions are as
            before.
    """
    wanted = sorted(observations)
    if len(wanted) > MOST_OBSERVATIONS:
        raise MarsError(
            f"{len(wanted)} observations are more than the {MOST_OBSERVATIONS} that a lake can have as partitions: "
            "select fewer by a narrower query, or give each region a lake of its own (MARS_LAKE and DAGSTER_HOME). "
            "Crops need no partitions: they are rows of a table"
        )
    before = list(instance.get_dynamic_partitions("observation"))
    if before != wanted:
        _replace_partitions(instance, wanted)
    return sorted(set(before) - set(wanted))


def _replace_partitions(instance: dg.DagsterInstance, keys: Sequence[str]) -> None:
    """Write the table of partitions anew, in one transaction.

    Dagster's own methods remove one partition a transaction: 36,000 take minutes, in which everybody sees the rest.
    They also add no more at a time than SQLite takes variables, which is 32,766 as it comes.

    Raises:
        MarsError: another process writes it at the same time.
    """
    storage: Any = instance.event_log_storage
    rows = [{"partitions_def_name": "observation", "partition": key} for key in keys]
    try:
        with storage.index_transaction() as connection:
            connection.execute(Partitions.delete().where(Partitions.c.partitions_def_name == "observation"))
            if rows:
                connection.execute(Partitions.insert(), rows)
    except IntegrityError as error:
        raise MarsError(
            "another run registered observations at the same time, and its partitions are in use: materialize "
            "'observations' again"
        ) from error


def observations_of(context: dg.AssetExecutionContext, selected: Iterable[str]) -> list[str]:
    """List the observations of a run.

    Args:
        context: the run's context.
        selected: the observations in the lake's list.

    Raises:
        MarsError: the run's range is reversed, or Dagster, whose partitions were registered in another order, would
            leave out some of it.
    """
    span, keys = context.partition_key_range, list(context.partition_keys)
    if span.start > span.end:
        raise MarsError(f"the range {span.start}...{span.end} is reversed: choose {span.end}...{span.start}")
    left_out = sorted({key for key in selected if span.start <= key <= span.end} - set(keys))
    beyond = [key for key in keys if not span.start <= key <= span.end]
    if left_out or beyond:
        wrong = f"leave out {left_out[0]}" if left_out else f"add {beyond[0]}"
        raise MarsError(
            f"Dagster's partitions are not in the order of the observations, so that {span.start}...{span.end} would "
            f"{wrong}: materialize 'observations', which puts them in order, and run again"
        )
    return keys
