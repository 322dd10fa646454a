"""Checks of Dagster's instance: pools, runs that hang, the queue and the daemon."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping

import dagster as dg
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.launcher import WorkerStatus
from dagster._core.scheduler.instigation import InstigatorStatus, TickStatus
from dagster._core.storage.dagster_run import RunRecord
from dagster._core.storage.tags import MAX_RUNTIME_SECONDS_TAG

from mars_assets.definitions import defs
from mars_assets.deployment.pools import ON_CPUS, pool_limits
from mars_assets.doctor.findings import Check, Finding, Surroundings, first_line, note, ok, problem
from mars_assets.doctor.hosts import read_records
from mars_assets.doctor.settings import database, home_folder, home_of, is_deployed, monitoring, sqlite
from mars_assets.doctor.wording import duration
from mars_assets.executor import is_gone, process_of

_MOST_LISTED = 10
_QUIET = 24 * 3600.0
"""Seconds without an event after which a run is noted, where no bound is set."""
_STUCK = 600.0
"""Seconds in which a run of a healthy instance is queued, and the first of a queue starts."""
_SUBMITTED = 180.0
"""Seconds after which a run that starts is a job of Ray or Slurm."""
_COORDINATOR = "QUEUED_RUN_COORDINATOR"
_TERMINATE = "terminate it in the UI (Force termination), or by dagster-graphql (docs/how-to/doctor.md)"
_DAEMON = "start dagster-daemon run, or make ui"
Status = dg.DagsterRunStatus


@functools.cache
def open_instance(surroundings: Surroundings) -> dg.DagsterInstance | Exception | None:
    """Open the instance once for all checks.

    Returns:
        The instance, the error that prevents it, or None if there is none that could be opened.
    """
    home = home_of(surroundings)
    if home is None:
        return None
    if is_deployed(surroundings) and any(finding.level == "problem" for finding in database(surroundings)):
        return None
    try:
        return dg.DagsterInstance.from_config(str(home))
    except Exception as error:
        return error


def opened_instance(surroundings: Surroundings) -> dg.DagsterInstance | None:
    """Return the instance if it could be opened."""
    instance = open_instance(surroundings)
    return instance if isinstance(instance, dg.DagsterInstance) else None


def instance(surroundings: Surroundings) -> Iterator[Finding]:
    """Check that Dagster opens its instance."""
    opened = open_instance(surroundings)
    if isinstance(opened, Exception):
        cause = surroundings.concealed(first_line(opened))
        yield problem(f"Dagster cannot open it ({type(opened).__name__}: {cause})", "correct its dagster.yaml")
    elif opened is not None:
        storages = (opened.run_storage, opened.event_log_storage, opened.schedule_storage)
        versions = {storage.alembic_version() for storage in storages if storage}
        if any(version and version[0] != version[1] for version in versions):
            advice = "stop all that use it, and run dagster instance migrate"
            yield problem("its tables are those of another version of Dagster", advice)
        else:
            yield ok(f"Dagster opens it; {opened.get_runs_count()} runs")


def pools(surroundings: Surroundings) -> Iterator[Finding]:
    """Check that every pool has a limit of its own.

    On Postgres a pool that is made from the default limit fails when several processes use it first.
    """
    if (opened := opened_instance(surroundings)) is None:
        return
    limits = {limit.name: limit.limit for limit in opened.event_log_storage.get_pool_limits() if not limit.from_default}
    wanted = pool_limits(defs, gpus=1)
    without = [name for name in wanted if name not in limits]
    if not without:
        yield ok(", ".join(f"{name} {limit}" for name, limit in sorted(limits.items())))
        return
    says = f"no limit of their own: {', '.join(without)}"
    if is_deployed(surroundings):
        advice = "; ".join(f"dagster instance concurrency set {name} {wanted[name]}" for name in without)
        yield problem(
            f"pools with {says}: their first use by two runs fails",
            f"{advice} (for gpu the number of GPUs; {ON_CPUS} where hosts have none)",
        )
    else:
        yield note(f"pools with {says}: the default holds, which is enough on one machine")


def held_slots(surroundings: Surroundings) -> Iterator[Finding]:
    """Check that no run that is finished or deleted holds a place in a pool."""
    if (opened := opened_instance(surroundings)) is None:
        return
    storage = opened.event_log_storage
    held = 0
    for name, info in storage.get_concurrency_infos(sorted(storage.get_concurrency_keys())).items():
        for run_id in sorted({slot.run_id for slot in info.claimed_slots}):
            held += 1
            record = opened.get_run_record_by_id(run_id)
            if record is not None and not record.dagster_run.is_finished:
                continue
            since = surroundings.clock() - (record.end_time or record.update_timestamp.timestamp()) if record else 0.0
            if record is not None and since < _freed_after(opened):
                continue
            state = f"ended as {record.dagster_run.status.value} {duration(since)} ago" if record else "deleted"
            yield problem(
                f"pool {name}: run {run_id}, {state}, still holds a place",
                f"{_DAEMON}, which frees it, or free it by dagster-graphql (docs/how-to/doctor.md)",
            )
    yield ok(f"{held} places held")


def _freed_after(opened: dg.DagsterInstance) -> float:
    """Seconds in which the daemon frees the places of a run that ended."""
    return float(opened.get_settings("run_monitoring").get("free_slots_after_run_end_seconds", 0)) + _margin(opened)


def _margin(opened: dg.DagsterInstance) -> float:
    return 2.0 * opened.run_monitoring_poll_interval_seconds + 30.0


def hanging_runs(surroundings: Surroundings) -> Iterator[Finding]:
    """Check that no run is under way for too long, or without its process."""
    if (opened := opened_instance(surroundings)) is None:
        return
    under_way = [Status.STARTED, Status.STARTING, Status.CANCELING, Status.NOT_STARTED]
    records = opened.get_run_records(dg.RunsFilter(statuses=under_way), ascending=True)
    ended = _ended_jobs(records, opened, surroundings.clock())
    found = [finding for record in records for finding in _judged(record, opened, surroundings, ended)]
    found.sort(key=lambda finding: finding.level, reverse=True)
    yield from found[:_MOST_LISTED]
    if len(found) > _MOST_LISTED:
        yield problem(f"{len(found) - _MOST_LISTED} more runs hang", _TERMINATE)
    if not found:
        yield ok(f"{len(records)} runs under way, none hangs")


def _ended_jobs(records: Iterable[RunRecord], opened: dg.DagsterInstance, now: float) -> dict[str, str]:
    """Ask Ray or Slurm, where they start runs, which jobs have ended.

    Returns:
        What it says, by the ids of runs.
    """
    launcher, ended = opened.run_launcher, {}
    if not launcher.supports_check_run_worker_health:
        return {}
    for record in records:
        run = record.dagster_run
        is_submitted = run.status == Status.STARTING and now - record.update_timestamp.timestamp() > _SUBMITTED
        if run.status == Status.STARTED or is_submitted:
            try:
                health = launcher.check_run_worker_health(run)
            except Exception:  # it does not answer, as its own check says
                break
            if health.status in (WorkerStatus.FAILED, WorkerStatus.NOT_FOUND, WorkerStatus.SUCCESS):
                ended[run.run_id] = (health.msg or health.status.value).partition("\n")[0]
    return ended


def _judged(
    record: RunRecord, opened: dg.DagsterInstance, surroundings: Surroundings, ended: Mapping[str, str]
) -> Iterator[Finding]:
    """Judge a run that is under way."""
    run, now = record.dagster_run, surroundings.clock()
    created = record.create_timestamp.timestamp()
    changed = record.update_timestamp.timestamp()
    start_timeout = opened.run_monitoring_start_timeout_seconds
    process = process_of(opened, run)
    about = f"run {run.run_id} ({run.job_name}{_where(process)})"
    match run.status:
        case _ if run.run_id in ended:
            says = surroundings.concealed(ended[run.run_id])
            yield problem(f"{about} is {run.status.value}, and its job ended ({says})", f"{_DAEMON}; or {_TERMINATE}")
        case Status.STARTED:
            yield from _judged_started(record, about, opened, surroundings)
        case Status.CANCELING if now - changed > opened.run_monitoring_cancel_timeout_seconds + _margin(opened):
            yield problem(f"{about} is CANCELING for {duration(now - changed)}", _TERMINATE)
        case Status.STARTING if start_timeout and now - changed > start_timeout + _margin(opened):
            advice = f"look whether its host or Slurm's queue has it; {_TERMINATE}"
            yield problem(f"{about} is STARTING for {duration(now - changed)}", advice)
        case Status.NOT_STARTED if now - created > min(start_timeout or _STUCK, _STUCK) + _margin(opened):
            yield problem(f"{about} is NOT_STARTED for {duration(now - created)}", f"launch it again, and {_TERMINATE}")


def _judged_started(
    record: RunRecord, about: str, opened: dg.DagsterInstance, surroundings: Surroundings
) -> Iterator[Finding]:
    run, now = record.dagster_run, surroundings.clock()
    process = process_of(opened, run)
    started = record.start_time or record.create_timestamp.timestamp()
    longest = float(run.tags.get(MAX_RUNTIME_SECONDS_TAG) or opened.run_monitoring_max_runtime_seconds or 0)
    what = f"{about} is STARTED for {duration(now - started)}"
    if process and is_gone(process, one_host=not is_deployed(surroundings)):
        yield problem(f"{what}, and its process is gone", f"any run on this host marks it as failed; or {_TERMINATE}")
    elif process and _restarted_since(process, started, surroundings):
        yield problem(f"{what}, and its host has been restarted since", _TERMINATE)
    elif longest and now - started > longest + _margin(opened):
        yield problem(f"{what}, and may run for {duration(longest)}", f"{_DAEMON}, which ends it; or {_TERMINATE}")
    elif (quiet := now - _last_event(opened, run.run_id, started)) > _QUIET:
        yield note(f"{what}, without an event for {duration(quiet)}", f"look whether it computes; if not, {_TERMINATE}")


def _where(process: str) -> str:
    return f" on {process.rsplit(' ', 2)[0]}" if process else ""


def _restarted_since(process: str, started: float, surroundings: Surroundings) -> bool:
    """Test whether a run's host was started after the run.

    The record of the host is then younger than the run, and of another boot.
    """
    host = process.rsplit(" ", 2)[0]
    record = next((record for record in read_records(surroundings.lake)[0] if record.host == host), None)
    return record is not None and record.time > started and bool(record.boot) and record.boot not in process


def _last_event(opened: dg.DagsterInstance, run_id: str, otherwise: float) -> float:
    events = opened.get_records_for_run(run_id, limit=1, ascending=False).records
    return events[0].event_log_entry.timestamp if events else otherwise


def queue(surroundings: Surroundings) -> Iterator[Finding]:
    """Check that somebody takes runs from the queue."""
    if (opened := opened_instance(surroundings)) is None:
        return
    filters = dg.RunsFilter(statuses=[Status.QUEUED])
    count = opened.get_runs_count(filters)
    if not count:
        yield ok("no runs wait")
        return
    oldest = opened.get_run_records(filters, limit=1, ascending=True)[0].create_timestamp.timestamp()
    waiting = f"{count} runs wait in the queue, the first for {duration(surroundings.clock() - oldest)}"
    running = opened.get_runs_count(dg.RunsFilter(statuses=[Status.STARTED, Status.STARTING]))
    if not opened.get_daemon_statuses()[_COORDINATOR].healthy:
        yield problem(f"{waiting}, and no daemon takes them", _DAEMON)
    elif not running and surroundings.clock() - oldest > _STUCK:
        yield problem(f"{waiting}, and none runs", "look at the daemon's log, at the pools and at the limits of tags")
    else:
        yield ok(f"{waiting}; {running} run")


def daemon(surroundings: Surroundings) -> Iterator[Finding]:
    """Check the heartbeats of Dagster's daemon and what its threads report."""
    if (opened := opened_instance(surroundings)) is None:
        return
    statuses = [status for status in opened.get_daemon_statuses().values() if status.required]
    beats = {status.daemon_type: status.last_heartbeat for status in statuses if status.last_heartbeat}
    late = [
        status.daemon_type
        for status in statuses
        if not status.healthy and not (status.daemon_type in beats and beats[status.daemon_type].errors)
    ]
    if len(late) == len(statuses):
        last = max((beat.timestamp for beat in beats.values()), default=0.0)
        since = f"its last heartbeat is {duration(surroundings.clock() - last)} old" if last else "it never ran here"
        say = problem if is_deployed(surroundings) else note
        yield say(f"no daemon runs ({since}): sensors, schedules and queued runs wait", _DAEMON)
        return
    failed = {name: errors[0].message for name, beat in beats.items() if (errors := beat.errors)}
    for name, message in failed.items():
        said = surroundings.concealed(message.strip().partition("\n")[0])
        yield problem(f"the daemon's thread {name} failed: {said}", "look at the daemon's log")
    if late:
        yield problem(f"no heartbeat of the daemon's {', '.join(late)}", "restart the daemon, and look at its log")
    if not failed and not late:
        yield ok("all its threads have a heartbeat")


def sensors_and_schedules(surroundings: Surroundings) -> Iterator[Finding]:
    """Check that the last tick of those that are on did not fail."""
    if (opened := opened_instance(surroundings)) is None:
        return
    on = [state for state in opened.all_instigator_state() if state.status != InstigatorStatus.STOPPED]
    well = 0
    for state in on:
        ticks = opened.get_ticks(state.instigator_origin_id, state.selector_id, limit=1)
        if ticks and ticks[0].status == TickStatus.FAILURE:
            message = ticks[0].error.message if ticks[0].error else "no message"
            kind = "schedule" if state.instigator_type == InstigatorType.SCHEDULE else "sensor"
            said = surroundings.concealed(message.strip().partition("\n")[0])
            yield problem(f"the last tick of the {kind} {state.instigator_name} failed: {said}", "see it in the UI")
        else:
            well += 1
    if well == len(on):
        yield ok(f"{well} noted, none failed at its last tick")


CHECKS: tuple[Check, ...] = (
    home_folder,
    sqlite,
    monitoring,
    database,
    instance,
    pools,
    held_slots,
    hanging_runs,
    queue,
    daemon,
    sensors_and_schedules,
)
