"""The executor: all steps of a run in one process.

It cleans up after killed runs.

A killed run keeps its slots in concurrency pools. Dagster's daemon frees them after a while, but at the command line
there is no daemon, and the next run would wait for the pool ``gpu`` forever. So every run records its process, and
starts by freeing the slots of runs whose process is gone. A run that waits for a slot sleeps, so that it takes no CPU
time from the run that holds it.
"""

import os
import platform
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import sqlalchemy
from dagster._core.events import DagsterEventType
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext
from dagster._core.executor.in_process import InProcessExecutor
from dagster._core.storage.event_log.schema import ConcurrencySlotsTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.runs import SqliteRunStorage
from dagster._utils.concurrency import ConcurrencySlotStatus

from mars_assets.outages import outlast_outages
from mars_assets.storage.runs import Run, State, current_run, refuse_given_up, working_for

PROCESS_TAG = "mars_assets/process"

# Dagster writes the events of a range of partitions one by one, in no order, unless this variable has how many it may
# write at once. A backfill that looks meanwhile finds some of a range materialized, and divides what follows into as
# many runs as these have gaps: 41 for 100 observations, of which a run may take 21. The daemon and the webserver import
# this, too, at the levels with ranges. A test fails once Dagster writes a range at once by itself; then remove this.
os.environ["DAGSTER_EVENT_BATCH_SIZE"] = "1000"


class ClearingExecutor(InProcessExecutor):
    """Dagster's in-process executor, preceded by :func:`clear_up`."""

    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[dg.DagsterEvent]:
        outlast_outages()
        instance = plan_context.instance
        instance.add_run_tags(plan_context.dagster_run.run_id, {PROCESS_TAG: this_process()})
        clear_up(instance)
        run = Run(plan_context.dagster_run.run_id, partial(state_of_run, instance))
        with working_for(run):
            yield from super().execute(plan_context, execution_plan)
            run.refuse_if_over()  # else Dagster would record the success of a run that it took for failed


@dg.executor(name="in_process", config_schema=dg.in_process_executor.config_schema)  # type: ignore[call-overload, untyped-decorator]
def one_process_executor(init_context: dg.InitExecutorContext) -> dg.Executor:
    """Run all steps in one process.

    Torch is then imported once instead of in every step.
    """
    create = dg.in_process_executor.executor_creation_fn
    assert create is not None
    executor = create(init_context)
    return ClearingExecutor(executor.retries, executor.step_dependency_config)


def state_of_run(instance: dg.DagsterInstance, run_id: str) -> State:
    """Ask Dagster for the state of a run.

    One that is being cancelled is in force while it ends, and one that was deleted is over.
    """
    try:
        run = instance.get_run_by_id(run_id)
    except Exception:  # each database has errors of its own for that it is away
        return "unknown"
    return "over" if run is None or run.is_finished else "in force"


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


def _claim_slot(self: Any, concurrency_key: str, run_id: str, step_key: str) -> ConcurrencySlotStatus:
    """Claim a free slot of a pool for a step, in one statement."""
    slots = ConcurrencySlotsTable.c
    is_free = sqlalchemy.and_(
        slots.concurrency_key == concurrency_key, slots.step_key.is_(None), slots.deleted.is_(False)
    )
    with self.index_connection() as connection:
        row = connection.execute(sqlalchemy.select(slots.id).where(is_free).limit(1)).fetchone()
        if row is None:
            return ConcurrencySlotStatus.BLOCKED
        claimed = connection.execute(
            ConcurrencySlotsTable.update().values(run_id=run_id, step_key=step_key).where(is_free, slots.id == row[0])
        )
    return ConcurrencySlotStatus.CLAIMED if claimed.rowcount else ConcurrencySlotStatus.BLOCKED


# Dagster 1.13 locks the row of a slot and then takes it, but on Postgres each statement is a transaction of its own:
# two steps that claim at the same moment both get it. A test fails once Dagster gives it to one; then remove this.
DAGSTERS_CLAIM = SqlEventLogStorage._claim_concurrency_slot
SqlEventLogStorage._claim_concurrency_slot = _claim_slot  # type: ignore[method-assign]


_RESULTS = {
    DagsterEventType.ASSET_MATERIALIZATION,
    DagsterEventType.ASSET_OBSERVATION,
    DagsterEventType.ASSET_CHECK_EVALUATION,
    DagsterEventType.STEP_SUCCESS,
}


def _record(self: dg.DagsterInstance, event: dg.EventLogEntry, **options: Any) -> None:
    """Record an event, but no result of a run that was given up."""
    run = current_run()
    if run is not None and event.run_id == run.id and event.is_dagster_event and event.dagster_event_type in _RESULTS:
        batch = options.get("batch_metadata")
        if batch is None or batch.is_end:
            run.refuse_if_over()
        else:
            refuse_given_up()  # of the partitions of a range, which are written at once, not each asks the database
    DAGSTERS_RECORD(self, event, **options)


# Dagster 1.13 records whatever a process reports: one that was cut off while Dagster took its run for failed would end
# as a success, its materialization the latest. A test fails once Dagster refuses that; then remove this.
DAGSTERS_RECORD = dg.DagsterInstance.handle_new_event
dg.DagsterInstance.handle_new_event = _record  # type: ignore[method-assign, assignment]


def this_process() -> str:
    """Identify this process uniquely.

    By host, process id, and where and when it started.
    """
    process = psutil.Process()
    return f"{platform.node()} {process.pid} {_start(process.pid)}"


def _start(number: int) -> str:
    """Read where and when a process of this host or container started.

    On Linux these are the boot's id, the namespace of process ids, which each container has of its own, and the ticks
    from the boot to the start, whatever the system clock is set to. Elsewhere it is the time of the start.

    Raises:
        psutil.NoSuchProcess: no process has this id.
    """
    where = _boot_and_namespace()
    if not where:
        return f"{psutil.Process(number).create_time():.0f}"
    try:
        status = Path(f"/proc/{number}/stat").read_text()
    except OSError as error:
        raise psutil.NoSuchProcess(number) from error
    state, *fields = status.rpartition(")")[2].split()
    if state == "Z":  # it has ended, and its parent does not ask how
        raise psutil.NoSuchProcess(number)
    return f"{where}:{fields[18]}"


def _boot_and_namespace() -> str:
    """Identify boot and namespace of process ids; empty if not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())  # such as pid:[4026531836]
    except OSError:
        return ""
    return f"{boot}:{namespace.removeprefix('pid:')}"


def is_gone(process: str, *, one_host: bool = False) -> bool:
    """Test whether a process has ended.

    Only one of the same boot and the same namespace of process ids can be looked for. Others count as running: hosts
    and containers may have the same name.

    Args:
        process: see :func:`this_process`.
        one_host: no other host uses the instance, so that a process of another boot ended with that.
    """
    host, number, started = process.rsplit(" ", 2)
    here = _boot_and_namespace()
    *there, _ = started.split(":")
    if not here or not there:  # not Linux, where names are all that is known
        known = host == platform.node()
    elif there[0] != here.split(":")[0]:
        return one_host
    else:
        known = ":".join(there) == here
    if not known:
        return False
    try:
        return _start(int(number)) != started
    except psutil.NoSuchProcess:
        return True


def process_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    """Read which process a run is in; empty if that is not known.

    Dagster copies the tags of a run to the one that repeats it, which has no process of its own until it executes.
    """
    process = run.tags.get(PROCESS_TAG, "")
    parent = instance.get_run_by_id(run.parent_run_id) if process and run.parent_run_id else None
    return "" if parent is not None and parent.tags.get(PROCESS_TAG) == process else process


def clear_up(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs whose process is gone as failed and free their slots in pools.

    A run of another host or container is left alone.

    Returns:
        The ids of these runs.
    """
    storage = instance.event_log_storage
    holding = storage.get_concurrency_run_ids() if storage.supports_global_concurrency_limits else set()
    active = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    started = {run.run_id for run in instance.get_runs(dg.RunsFilter(statuses=active))}
    one_host = isinstance(instance.run_storage, SqliteRunStorage)  # SQLite's files cannot be shared between hosts
    cleared = []
    for run_id in sorted(holding | started):
        run = instance.get_run_by_id(run_id)
        process = process_of(instance, run) if run else ""
        if run is None or (process and is_gone(process, one_host=one_host)):
            if run_id in holding:
                storage.free_concurrency_slots_for_run(run_id)
            cleared.append(run_id)
            if run is not None and not run.is_finished:
                instance.report_run_failed(run, "The process of this run was killed; its slots in pools were freed.")
    return cleared
