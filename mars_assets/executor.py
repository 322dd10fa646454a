"""How runs are executed: all steps of a run in one process, which clears up after processes that were killed.

A killed run keeps its places in concurrency pools. Dagster's daemon frees them after a while; at the command line there is
no daemon, and the next run would wait for the pool ``gpu`` for ever. So every run notes its process, and begins by
freeing the places of runs whose process is gone. And a run that waits for a place leaves the cores to the one that has it.
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
    """Dagster's in-process executor, after :func:`clear_up`."""

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


@dg.executor(name="in_process", config_schema=dg.in_process_executor.config_schema)  # type: ignore[call-overload]
def one_process_executor(init_context: dg.InitExecutorContext) -> dg.Executor:
    """All steps of a run in one process: torch is imported once, not by every step."""
    create = dg.in_process_executor.executor_creation_fn
    assert create is not None
    return ClearingExecutor(create(init_context))


def _seconds_to_next_claim(claims: InstanceConcurrencyContext) -> float:
    """How long a run may sleep before one of its steps is to ask again for a place in a pool: 1 s, later up to 15 s."""
    asked_again = claims._pending_timeouts.values()
    return max(min(asked_again, default=0.0) - time.time(), 0.0)


# Dagster 1.13's own takes the minimum with 0, so that a waiting run asks without a pause and takes a core from the training
# that it waits for (dagster-io/dagster#20367, closed unmerged). To be removed when a test says that Dagster's own sleeps.
DAGSTERS_INTERVAL = InstanceConcurrencyContext.interval_to_next_pending_claim_check
InstanceConcurrencyContext.interval_to_next_pending_claim_check = _seconds_to_next_claim  # type: ignore[method-assign, assignment]


def this_process() -> str:
    """A process's host, number and start, which no other process shares."""
    process = psutil.Process()
    return f"{platform.node()} {process.pid} {_start(process.pid)}"


def _start(number: int) -> str:
    """When a process began, by a clock that nobody sets: on Linux the boot and the ticks since then.

    Raises:
        psutil.NoSuchProcess: there is none of this number.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        status = Path(f"/proc/{number}/stat").read_text()
    except OSError:
        return f"{psutil.Process(number).create_time():.0f}"
    return f"{boot}:{status.rpartition(')')[2].split()[19]}"


def is_gone(process: str) -> bool:
    """Whether a process of this host has ended. Of another host nothing is known, and it counts as running."""
    host, number, started = process.rsplit(" ", 2)
    if host != platform.node():
        return False
    try:
        return _start(int(number)) != started
    except psutil.NoSuchProcess:
        return True


def clear_up(instance: dg.DagsterInstance) -> list[str]:
    """Marks runs failed whose process is gone, and frees what they hold in concurrency pools. Returns their ids."""
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
