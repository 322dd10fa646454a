"""The run coordinator: every run is queued with what it needs of a host.

``dagster.yaml`` names it at the levels Ray and Slurm (``deploy/dagster.ray.yaml``, ``deploy/dagster.slurm.yaml``). Runs
come from the UI, a schedule, a sensor or a backfill; whoever starts one need not think of hosts. The tags that it adds
are read by the launchers and by Dagster's monitoring.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster._config.config_schema import UserConfigSchema
from dagster._core.run_coordinator.base import SubmitRunContext
from dagster._core.run_coordinator.queued_run_coordinator import QueuedRunCoordinator
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    BACKFILL_ID_TAG,
    MAX_RUNTIME_SECONDS_TAG,
    PRIORITY_TAG,
)
from dagster._serdes import ConfigurableClassData

from mars_assets.cluster.needs import Host, Needs, Step, needs_of_run
from mars_assets.cluster.tags import JOB_TAG, NEEDS_TAG, RAY_TAG, SLURM_TAG
from mars_assets.errors import MarsError
from mars_assets.executor import PROCESS_TAG
from mars_assets.partitions import observation_partitions

GRACE_SECONDS = 300
"""Slurm ends a run this much later than Dagster's monitoring does, whose message says more."""


@dataclasses.dataclass(frozen=True)
class Cluster:
    """What the hosts offer, as ``dagster.yaml`` describes them.

    Args:
        gpus: number of GPUs of all hosts together.
        most: the most that a run may ask for.
        slurm: options of ``sbatch`` for every run, such as its partition and account.
        slurm_gpu: further options for runs that take a GPU.
    """

    gpus: int
    most: Host
    slurm: str = ""
    slurm_gpu: str = ""


class NeedsRunCoordinator(QueuedRunCoordinator):
    """Dagster's queue, which also notes what each run needs.

    Args:
        cluster: what the hosts offer.
        options: options of Dagster's own class.
    """

    def __init__(self, cluster: Cluster, **options: Any) -> None:
        super().__init__(**options)
        self.cluster = cluster

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """Describe the settings in ``dagster.yaml``."""
        return {
            "gpus": dg.Field(dg.IntSource, default_value=0, description="Number of GPUs of all hosts together."),
            "most_cpus": dg.Field(dg.IntSource, description="CPUs of the smallest host that runs are sent to."),
            "most_memory_gb": dg.Field(dg.IntSource, description="Memory of that host, in units of 10^9 bytes."),
            "most_hours": dg.Field(dg.IntSource, description="The longest that a run may take."),
            "slurm": dg.Field(dg.StringSource, default_value="", description="Options of sbatch for every run."),
            "slurm_gpu": dg.Field(
                dg.StringSource, default_value="", description="Further options of sbatch for runs that take a GPU."
            ),
        }

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]
    ) -> NeedsRunCoordinator:
        """Create the coordinator that ``dagster.yaml`` describes."""
        most = Host(config_value["most_cpus"], config_value["most_memory_gb"], config_value["most_hours"])
        cluster = Cluster(config_value["gpus"], most, config_value["slurm"], config_value["slurm_gpu"])
        return cls(cluster, inst_data=inst_data)

    def submit_run(self, context: SubmitRunContext) -> dg.DagsterRun:
        """Add the tags of what a run needs, and queue it.

        Raises:
            MarsError: a tag that the user gave cannot be read.
        """
        run = context.dagster_run
        if run.status == dg.DagsterRunStatus.NOT_STARTED:
            needs = needs_of_run(steps_of(self._instance, run), self.cluster.most)
            tags = tags_of(run.tags, needs, self.cluster)
            # A run that repeats another one has its tags, but is not yet a job or a process of its own.
            tags |= {tag: "" for tag in (JOB_TAG, PROCESS_TAG) if tag in run.tags}
            self._instance.add_run_tags(run.run_id, tags)
        return super().submit_run(context)


def steps_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> list[Step]:
    """List the steps that a run executes.

    They are in its plan however it was started: by assets, checks, a job, or again from where another run failed.
    """
    if run.execution_plan_snapshot_id is None:
        return []
    plan = instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id)
    executed = set(run.step_keys_to_execute or plan.step_keys_to_execute)
    partitions = _partitions(instance, run)
    return [Step(step.key, step.pool, partitions) for step in plan.steps if step.key in executed]


def _partitions(instance: dg.DagsterInstance, run: dg.DagsterRun) -> int:
    first, last = (run.tags.get(tag) for tag in (ASSET_PARTITION_RANGE_START_TAG, ASSET_PARTITION_RANGE_END_TAG))
    if first is None or last is None:
        return 1
    return max(
        1, sum(first <= key <= last for key in instance.get_dynamic_partitions(observation_partitions.name or ""))
    )


def tags_of(given: Mapping[str, str], needs: Needs, cluster: Cluster) -> dict[str, str]:
    """Write what a run needs as tags, in which what the user gave has precedence.

    Args:
        given: the run's tags, given by the user or taken over from a run that it repeats.
        needs: what it needs.
        cluster: what the hosts offer.

    Raises:
        MarsError: a tag that the user gave cannot be read.
    """
    users = _users(given)
    gpus = min(cluster.gpus, int(needs.gpu))
    ray = {"num_cpus": needs.cpus, "num_gpus": gpus, "memory": needs.memory_gb * 10**9}
    seconds = _seconds(users[MAX_RUNTIME_SECONDS_TAG]) if MAX_RUNTIME_SECONDS_TAG in users else needs.hours * 3600
    slurm_minutes = math.ceil(min(seconds + GRACE_SECONDS, max(seconds, cluster.most.hours * 3600)) / 60)
    slurm = [
        *_words(cluster.slurm),
        *(_words(cluster.slurm_gpu) if gpus else []),
        f"--cpus-per-task={needs.cpus}",
        f"--mem={needs.memory_gb * 1000}M",
        *(["--gres=gpu:1"] if gpus else []),
        f"--time={slurm_minutes}",
        *_words(users.get(SLURM_TAG, "")),  # sbatch takes the last of several
    ]
    written = {
        RAY_TAG: json.dumps({**ray, **_settings(users.get(RAY_TAG, "{}"))}),
        SLURM_TAG: shlex.join(slurm),
        MAX_RUNTIME_SECONDS_TAG: users.get(
            MAX_RUNTIME_SECONDS_TAG, str(min(math.ceil(seconds), max(slurm_minutes * 60 - GRACE_SECONDS, 60)))
        ),
        PRIORITY_TAG: users.get(PRIORITY_TAG, str(_priority(needs, of_backfill=BACKFILL_ID_TAG in given))),
    }
    return {**written, NEEDS_TAG: json.dumps({"written": written, "given": users})}


def _priority(needs: Needs, *, of_backfill: bool) -> int:
    """Rank a run in Dagster's queue.

    The highest leave it first, and 0 is Dagster's default. Whoever starts a single run does not wait for the hundreds
    of a backfill, and in a backfill of scenes maps come before crops: GPUs are the scarcest, and would wait until the
    last scene is cut.
    """
    return 2 * (not of_backfill) + needs.gpu


def _users(given: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that the user gave, without what this module wrote before."""
    before = json.loads(given.get(NEEDS_TAG, '{"written": {}, "given": {}}'))
    users = dict(before["given"])
    for tag in (RAY_TAG, SLURM_TAG, MAX_RUNTIME_SECONDS_TAG, PRIORITY_TAG):
        if tag in given and given[tag] != before["written"].get(tag):
            users[tag] = given[tag]
    return users


def _settings(text: str) -> dict[str, Any]:
    try:
        settings = json.loads(text)
    except json.JSONDecodeError:
        settings = None
    if not isinstance(settings, dict):
        raise MarsError(f'the tag {RAY_TAG} is {text!r}: write JSON, such as {{"num_cpus": 2}}')
    return settings


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise MarsError(f"the tag {MAX_RUNTIME_SECONDS_TAG} is {text!r}: write a number of seconds") from error


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise MarsError(
            f"{text!r} are no options of sbatch ({error}): write them as in a shell, in the tag {SLURM_TAG} or in "
            "dagster.yaml"
        ) from error
