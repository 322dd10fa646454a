"""Dagster partitions: one per HiRISE observation, registered by ``observations``."""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg

from mars_assets.errors import MarsError

observation_partitions = dg.DynamicPartitionsDefinition(name="observation")


def register_observations(instance: dg.DagsterInstance, observations: Iterable[str]) -> list[str]:
    """Make these observations the partitions, in the order of their ids.

    In a range of partitions Dagster takes those that were added between its ends. Where an observation belongs before
    others, these are therefore removed and added again; what has been materialized of them stays known.

    Returns:
        The observations that no longer have a partition.
    """
    wanted = sorted(observations)
    before = list(instance.get_dynamic_partitions("observation"))
    gone = sorted(set(before) - set(wanted))
    remaining = [key for key in before if key not in set(gone)]
    in_place = 0
    while in_place < len(remaining) and remaining[in_place] == wanted[in_place]:
        in_place += 1
    for key in [*gone, *remaining[in_place:]]:
        instance.delete_dynamic_partition("observation", key)
    instance.add_dynamic_partitions("observation", wanted[in_place:])
    return gone


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
