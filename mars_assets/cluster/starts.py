"""Runs whose process died before it could report that it started.

Dagster's monitoring looks at the health of started runs alone, and fails the others after a time. On Ray and Slurm a
run may wait for a host for days, so that time is long there, and a job that cannot start would take it all.
"""

from __future__ import annotations

import contextlib
import time

import dagster as dg
from dagster._core.launcher.base import WorkerStatus
from dagster._core.storage.tags import MAX_RETRIES_TAG

SUBMITTED_SECONDS = 120
"""Seconds after which a launched run is a job, which is later than any command of Slurm or Ray ends."""
LOOK_SECONDS = 20
"""The longest that a look at all jobs may take, since a sensor waits for it."""
MOST_RETRIES = 5
"""The most retries of a run, with those of starts that failed: some jobs can never start."""


def fail_dead_starts(instance: dg.DagsterInstance, submitted: float = SUBMITTED_SECONDS) -> list[str]:
    """Mark runs as failed whose job has ended without starting them.

    Where Dagster retries runs, such a failure does not count: Ray lets many runs wait at one host, and ends them all
    when that host dies.

    Args:
        instance: Dagster's instance. Only launchers with ``STARTS_LATE`` are asked.
        submitted: seconds after which a launched run is a job.

    Returns:
        The ids of these runs.
    """
    launcher, now, failed = instance.run_launcher, time.time(), []
    if not getattr(launcher, "STARTS_LATE", False):
        return []
    for record in instance.get_run_records(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTING])):
        run = record.dagster_run
        if now - record.update_timestamp.timestamp() < submitted or time.time() - now > LOOK_SECONDS:
            continue
        health = launcher.check_run_worker_health(run)
        if health.status in {WorkerStatus.RUNNING, WorkerStatus.UNKNOWN}:
            continue
        current = instance.get_run_by_id(run.run_id)
        if current is not None and current.status == dg.DagsterRunStatus.STARTING:
            reason = f"The run did not start. {health.msg or health.status.value}"
            with contextlib.suppress(OSError):
                reason += f"\n{launcher.get_run_worker_debug_info(run) or ''}"
            _grant_another_retry(instance, run)
            instance.report_run_failed(run, reason)
            failed.append(run.run_id)
    return failed


def _grant_another_retry(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    stated = run.tags.get(MAX_RETRIES_TAG, "")
    retries = int(stated) if stated.isdecimal() else instance.run_retries_max_retries
    if instance.run_retries_enabled and 0 < retries < MOST_RETRIES:
        instance.add_run_tags(run.run_id, {MAX_RETRIES_TAG: str(retries + 1)})
