"""The executor: all steps of a run in one process.

It cleans up after killed runs.

A killed run keeps its slots in concurrency pools. Dagster's daemon frees them after a while, but at the command line
there is no daemon, and the next run would wait for the pool ``gpu`` forever. So every run records its process, and
starts by freeing the slots of runs whose process is gone. A run that waits for a slot sleeps, so that it takes no CPU
time from the run that holds it.
"""

import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext
from dagster._core.executor.in_process import InProcessExecutor

from mars_assets.outages import outlast_outages

PROCESS_TAG = "mars_assets/process"


class ClearingExecutor(InProcessExecutor):
    """Dagster's in-process executor, preceded by :func:`clear_up`."""

    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[dg.DagsterEvent]:
        outlast_outages()
        instance = plan_context.instance
        instance.add_run_tags(plan_context.dagster_run.run_id, {PROCESS_TAG: this_process()})
        clear_up(instance)
        yield from super().execute(plan_context, execution_plan)


@dg.executor(name="in_process", config_schema=dg.in_process_executor.config_schema)  # type: ignore[call-overload, untyped-decorator]
def one_process_executor(init_context: dg.InitExecutorContext) -> dg.Executor:
    """Run all steps in one process.

    Torch is then imported once instead of in every step.
    """
    create = dg.in_process_executor.executor_creation_fn
    assert create is not None
    executor = create(init_context)
    return ClearingExecutor(executor.retries, executor.step_dependency_config)


def _seconds_to_next_claim(claims: InstanceConcurrencyContext) -> float:
    """Compute the seconds until a step may request a slot in a pool again.

    They are 1 at first, later up to 15.
    """
    next_requests = claims._pending_timeouts.values()
    return max(min(next_requests, default=0.0) - time.time(), 0.0)


# Dagster 1.13's own function takes the minimum with 0, so that a waiting run polls without a pause and takes a core
# from the training that it waits for (dagster-io/dagster#20367, closed unmerged). A test fails once Dagster's function
# sleeps; then remove this.
DAGSTERS_INTERVAL = InstanceConcurrencyContext.interval_to_next_pending_claim_check
InstanceConcurrencyContext.interval_to_next_pending_claim_check = _seconds_to_next_claim  # type: ignore[method-assign, assignment]


def this_process() -> str:
    """Identify this process uniquely by host, process id and start."""
    process = psutil.Process()
    return f"{platform.node()} {process.pid} {_start(process.pid)}"


def _start(number: int) -> str:
    """Read when a process started, independently of the system clock where possible.

    On Linux this is the boot's id and the ticks since then.

    Raises:
        psutil.NoSuchProcess: no process has this id.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        status = Path(f"/proc/{number}/stat").read_text()
    except OSError:
        return f"{psutil.Process(number).create_time():.0f}"
    return f"{boot}:{status.rpartition(')')[2].split()[19]}"


def is_gone(process: str) -> bool:
    """Test whether a process on this host has ended.

    Processes on other hosts count as running.
    """
    host, number, started = process.rsplit(" ", 2)
    if host != platform.node():
        return False
    try:
        return _start(int(number)) != started
    except psutil.NoSuchProcess:
        return True


def clear_up(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs whose process is gone as failed and free their slots in pools.

    Returns:
        The ids of these runs.
    """
    storage = instance.event_log_storage
    holding = storage.get_concurrency_run_ids() if storage.supports_global_concurrency_limits else set()
    active = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    started = {run.run_id for run in instance.get_runs(dg.RunsFilter(statuses=active))}
    cleared = []
    for run_id in sorted(holding | started):
        run = instance.get_run_by_id(run_id)
        process = run.tags.get(PROCESS_TAG) if run else None
        if run is None or (process and is_gone(process)):
            if run_id in holding:
                storage.free_concurrency_slots_for_run(run_id)
            cleared.append(run_id)
            if run is not None and not run.is_finished:
                instance.report_run_failed(run, "The process of this run was killed; its slots in pools were freed.")
    return cleared
