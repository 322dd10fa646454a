"""The executor: all steps of a run in one process, which clears up after killed runs.

A killed run keeps its places in concurrency pools. Dagster's daemon frees them after a while; at the command line there
is no daemon, and the next run would wait for the pool ``gpu`` for ever. So every run records its process, and starts by
freeing the places of runs whose process is gone. A run that waits for a place also leaves the cores to the one that has
it.
"""

import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext

PROCESS_TAG = "mars_assets/process"


class ClearingExecutor(dg.Executor):
    """Dagster's in-process executor, preceded by :func:`clear_up`."""

    def __init__(self, inner: dg.Executor) -> None:
        self._inner = inner

    @property
    def retries(self) -> Any:
        return self._inner.retries

    @property
    def step_dependency_config(self) -> Any:
        return self._inner.step_dependency_config

    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[dg.DagsterEvent]:
        instance = plan_context.instance
        instance.add_run_tags(plan_context.dagster_run.run_id, {PROCESS_TAG: this_process()})
        clear_up(instance)
        yield from self._inner.execute(plan_context, execution_plan)


@dg.executor(name="in_process", config_schema=dg.in_process_executor.config_schema)  # type: ignore[call-overload, untyped-decorator]
def one_process_executor(init_context: dg.InitExecutorContext) -> dg.Executor:
    """Runs all steps of a run in one process, so that torch is imported once and not by every step."""
    create = dg.in_process_executor.executor_creation_fn
    assert create is not None
    return ClearingExecutor(create(init_context))


def _seconds_to_next_claim(claims: InstanceConcurrencyContext) -> float:
    """Compute how long a run may sleep before a step asks for a place in a pool again.

    In seconds: 1 at first, later up to 15.
    """
    asked_again = claims._pending_timeouts.values()
    return max(min(asked_again, default=0.0) - time.time(), 0.0)


# Dagster 1.13's own takes the minimum with 0, so that a waiting run asks without a pause and takes a core from the
# training that it waits for (dagster-io/dagster#20367, closed unmerged). Goes when a test says that Dagster's sleeps.
DAGSTERS_INTERVAL = InstanceConcurrencyContext.interval_to_next_pending_claim_check
InstanceConcurrencyContext.interval_to_next_pending_claim_check = _seconds_to_next_claim  # type: ignore[method-assign, assignment]


def this_process() -> str:
    """Name this process by host, number and start, which no other process shares."""
    process = psutil.Process()
    return f"{platform.node()} {process.pid} {_start(process.pid)}"


def _start(number: int) -> str:
    """Read when a process started, by a clock that nobody sets.

    On Linux that is the boot and the ticks since then.

    Raises:
        psutil.NoSuchProcess: no process has this number.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        status = Path(f"/proc/{number}/stat").read_text()
    except OSError:
        return f"{psutil.Process(number).create_time():.0f}"
    return f"{boot}:{status.rpartition(')')[2].split()[19]}"


def is_gone(process: str) -> bool:
    """Test whether a process of this host has ended.

    Nothing is known of processes on other hosts, which count as running.
    """
    host, number, started = process.rsplit(" ", 2)
    if host != platform.node():
        return False
    try:
        return _start(int(number)) != started
    except psutil.NoSuchProcess:
        return True


def clear_up(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs as failed whose process is gone, and free their places in pools. Returns their ids."""
    storage = instance.event_log_storage
    holding = storage.get_concurrency_run_ids() if storage.supports_global_concurrency_limits else set()
    going_on = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    started = {run.run_id for run in instance.get_runs(dg.RunsFilter(statuses=going_on))}
    cleared = []
    for run_id in sorted(holding | started):
        run = instance.get_run_by_id(run_id)
        process = run.tags.get(PROCESS_TAG) if run else None
        if run is None or (process and is_gone(process)):
            if run_id in holding:
                storage.free_concurrency_slots_for_run(run_id)
            cleared.append(run_id)
            if run is not None and not run.is_finished:
                instance.report_run_failed(run, "The process of this run was killed; its places in pools were freed.")
    return cleared
