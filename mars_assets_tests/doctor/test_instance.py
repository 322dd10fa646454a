"""Checks of Dagster's instance, on real ones: with SQLite, and with Postgres."""

import shlex
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import (
    InProcessCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    SensorInstigatorData,
    TickData,
    TickStatus,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._daemon.types import DaemonHeartbeat
from dagster._utils.error import SerializableErrorInfo

from mars_assets.definitions import defs
from mars_assets.deployment.pools import pool_limits
from mars_assets.doctor import instance as checks
from mars_assets.doctor import settings
from mars_assets.doctor.findings import Surroundings
from mars_assets.doctor.hosts import own_record
from mars_assets.executor import PROCESS_TAG, this_process
from mars_assets.instance import overlaid_settings, write_instance_settings, write_settings
from mars_assets.storage.files import write_bytes
from mars_assets_tests.doctor.bad_states import only, surroundings, with_mounts
from mars_assets_tests.jobs import job
from mars_assets_tests.postgres import Database
from mars_assets_tests.shell import PROJECT, clean_environment

pytestmark = pytest.mark.process
A_DAY = 24 * 3600.0
Status = dg.DagsterRunStatus
REPOSITORY = RemoteRepositoryOrigin(
    InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="mars_assets.definitions")), "repository"
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Of an instance with the project's own settings."""
    write_instance_settings(tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def instance(home: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(home)) as opened:
        yield opened


def at(home: Path, after: float = 0.0, **other: Any) -> Surroundings:
    """What the checks look at, so many seconds later."""
    return surroundings(
        home.parent, environment={"DAGSTER_HOME": str(home)}, clock=lambda: time.time() + after, **other
    )


def run(instance: dg.DagsterInstance, status: Status, process: str = "", **tags: str) -> str:
    tags = tags | ({PROCESS_TAG: process} if process else {})
    origin = RemoteJobOrigin(REPOSITORY, job.name)
    return instance.create_run_for_job(job, status=status, tags=tags, remote_job_origin=origin).run_id


def ended_process() -> str:
    script = "from mars_assets.executor import this_process; print(this_process(), flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    text = process.stdout.readline().strip()
    process.kill()
    process.communicate()
    return text


def changed(home: Path, **settings: Any) -> None:
    path = home / "dagster.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | settings))


def test_a_new_instance_is_well(home: Path, instance: dg.DagsterInstance) -> None:
    found = {check.__name__: [finding.level for finding in check(at(home))] for check in checks.CHECKS}
    assert found.pop("database") == []
    # Nobody is served by a daemon that does not run, and the default of pools holds.
    assert found.pop("daemon") == found.pop("pools") == ["note"]
    assert set(map(tuple, found.values())) == {("ok",)}


def test_homes_that_are_none(tmp_path: Path) -> None:
    def said(**variables: str) -> str:
        return only(settings.home_folder(surroundings(tmp_path, environment=variables))).what

    assert "not set" in said()
    assert "not an absolute path" in said(DAGSTER_HOME="home")
    assert "does not exist" in said(DAGSTER_HOME=str(tmp_path))
    (tmp_path / "dagster.yaml").write_text("storage: [")
    assert "cannot be read" in said(DAGSTER_HOME=str(tmp_path))
    (tmp_path / "dagster.yaml").write_text("")
    assert "no settings" in said(DAGSTER_HOME=str(tmp_path))
    where = surroundings(tmp_path, environment={})
    assert [check for check in checks.CHECKS[1:] if list(check(where))] == []


def test_settings_that_dagster_refuses(home: Path) -> None:
    changed(home, run_monitorin={"enabled": True})
    finding = only(checks.instance(at(home)))
    assert finding.level == "problem"
    assert "Dagster cannot open it" in finding.what
    assert list(checks.hanging_runs(at(home))) == []


def test_sqlite_on_a_network_file_system(home: Path, tmp_path: Path) -> None:
    proc = with_mounts(tmp_path / "proc", f"srv:/h {home} nfs4 rw,vers=4.2 0 0\n/dev/x / ext4 rw 0 0\n")
    finding = only(settings.sqlite(at(home, proc=proc)))
    assert finding.level == "problem"
    assert "SQLite on nfs4" in finding.what
    changed(home, storage={"sqlite": {"base_dir": str(tmp_path)}})
    assert only(settings.sqlite(at(home, proc=proc))).level == "ok", "the history is elsewhere"


def test_settings_without_which_runs_hang(home: Path) -> None:
    changed(home, run_monitoring={"enabled": False})
    assert only(settings.monitoring(at(home))).level == "note"
    changed(home, storage={"postgres": {"postgres_db": {}}})
    assert "is off" in only(settings.monitoring(at(home))).what
    assert only(settings.monitoring(at(home))).level == "problem"
    changed(home, run_monitoring={"enabled": True}, run_launcher={"module": "dagster_ray", "class": "RayRunLauncher"})
    no_bound, short = (finding.what for finding in settings.monitoring(at(home)))
    assert "no max_runtime_seconds" in no_bound
    assert "wait more than 180 s" in short
    changed(home, run_launcher={"module": "mars_assets.cluster.slurm", "class": "RunLauncher"})
    assert "wait more than 180 s for a host" in only(settings.monitoring(at(home))).what
    changed(home, run_monitoring={"enabled": True, "start_timeout_seconds": 31536000, "max_runtime_seconds": 60})
    assert only(settings.monitoring(at(home))).what == "run_monitoring is on, runs end after 60 s"


def test_tables_of_another_version_of_dagster(home: Path, instance: dg.DagsterInstance) -> None:
    with closing(sqlite3.connect(home / "history/runs.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '7e2f3204cf8e'")
    finding = only(checks.instance(at(home)))
    assert "tables are those of another version" in finding.what
    assert finding.advice.endswith("dagster instance migrate")


def test_places_that_nobody_frees(home: Path, instance: dg.DagsterInstance) -> None:
    storage = instance.event_log_storage
    storage.set_concurrency_slots("gpu", 3)
    runs = [run(instance, Status.STARTED) for _ in range(3)]
    for one in runs:
        assert storage.claim_concurrency_slot("gpu", one, "step").is_claimed
    assert only(checks.held_slots(at(home))).what == "3 places held"
    instance.report_run_failed(instance.get_run_by_id(runs[0]))  # type: ignore[arg-type]
    instance.run_storage.delete_run(runs[1])  # instance.delete_run frees its places
    early = [finding for finding in checks.held_slots(at(home)) if finding.level == "problem"]
    assert [runs[1] in finding.what for finding in early] == [True], "the daemon frees the other in half a minute"
    late = [finding.what for finding in checks.held_slots(at(home, 3600)) if finding.level == "problem"]
    assert len(late) == 2
    assert any(runs[0] in what and "ended as FAILURE 60 min ago" in what for what in late)


def test_runs_that_hang(home: Path, instance: dg.DagsterInstance) -> None:
    alive = run(instance, Status.STARTED, this_process())
    elsewhere = run(instance, Status.STARTED, "other 1 1.0", **{"dagster/max_runtime": "7200"})
    dead = run(instance, Status.STARTED, ended_process())
    starting, canceling, created = (
        run(instance, status) for status in (Status.STARTING, Status.CANCELING, Status.NOT_STARTED)
    )

    def hanging(after: float) -> dict[str, str]:
        found = [finding for finding in checks.hanging_runs(at(home, after)) if finding.level == "problem"]
        assert all("docs/how-to/doctor.md" in finding.advice for finding in found)
        return {finding.what.split()[1]: finding.what for finding in found}

    assert hanging(0).keys() == {dead}
    assert "its process is gone" in hanging(0)[dead]
    said = hanging(3600)
    assert said.keys() == {dead, starting, canceling, created}
    assert hanging(600).keys() == {dead, starting, canceling, created}
    assert "is CANCELING for 60 min" in said[canceling]
    said = hanging(3 * 3600)
    assert said.keys() == {dead, starting, canceling, created, elsewhere}
    assert "(job on other) is STARTED for 3 h, and may run for 2 h" in said[elsewhere]
    quiet = [finding.what for finding in checks.hanging_runs(at(home, 3 * A_DAY)) if finding.level == "note"]
    assert [alive in what and "without an event for 3 days" in what for what in quiet] == [True]


def test_runs_whose_job_ended(home: Path) -> None:
    changed(home, run_launcher={"module": "mars_assets_tests.doctor.bad_states", "class": "JobsThatEnded"})
    with dg.DagsterInstance.from_config(str(home)) as instance:
        lost, _, not_asked = (run(instance, Status.STARTED, job=job) for job in ("FAILED", "RUNNING", "LATER"))
        finding = only(checks.hanging_runs(at(home)))
        instance.run_storage.delete_run(not_asked)
        waiting = run(instance, Status.STARTING, job="NOT_FOUND")
        assert waiting not in str(list(checks.hanging_runs(at(home)))), "it may not have been submitted yet"
        assert [waiting in found.what for found in checks.hanging_runs(at(home, 200))].count(True) == 1
    assert finding.level == "problem"
    assert lost in finding.what
    assert finding.what.endswith("and its job ended (Slurm job 7: NODE_FAIL)")
    assert not_asked not in finding.what, "who does not answer is not asked again"


def test_many_runs_that_hang_are_counted(home: Path, instance: dg.DagsterInstance) -> None:
    for _ in range(13):
        run(instance, Status.CANCELING)
    found = list(checks.hanging_runs(at(home, A_DAY)))
    assert len(found) == 11
    assert found[-1].what == "3 more runs hang"


def test_a_queue_that_nobody_serves(home: Path, instance: dg.DagsterInstance) -> None:
    run(instance, Status.QUEUED)
    finding = only(checks.queue(at(home)))
    assert finding.level == "problem"
    assert "1 runs wait in the queue" in finding.what
    assert "no daemon" in finding.what
    beat(instance, "QUEUED_RUN_COORDINATOR")
    assert only(checks.queue(at(home))).level == "ok"
    assert "none runs" in only(checks.queue(at(home, 1800))).what
    run(instance, Status.STARTED)
    assert only(checks.queue(at(home, 1800))).level == "ok"


def beat(instance: dg.DagsterInstance, *threads: str, message: str = "") -> None:
    errors = [SerializableErrorInfo(message, [], None)] if message else []
    for thread in threads:
        instance.add_daemon_heartbeat(DaemonHeartbeat(time.time(), thread, "id", errors))


def test_heartbeats_of_the_daemon(home: Path, instance: dg.DagsterInstance) -> None:
    threads = instance.get_required_daemon_types()
    assert "it never ran" in only(checks.daemon(at(home))).what
    beat(instance, threads[0])
    assert threads[-1] in only(checks.daemon(at(home))).what
    beat(instance, *threads)
    assert only(checks.daemon(at(home))).level == "ok"
    beat(instance, "SENSOR", message="no key: postgresql://u:geheim@h/d\n  File ...")
    said = only(checks.daemon(at(home))).what
    assert said == "the daemon's thread SENSOR failed: no key: postgresql://***@h/d"


def test_a_sensor_that_fails(home: Path, instance: dg.DagsterInstance) -> None:
    origin = RemoteInstigatorOrigin(REPOSITORY, "new_labels")
    state = InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING, SensorInstigatorData())
    instance.add_instigator_state(state)
    tick = TickData(
        state.instigator_origin_id, "new_labels", InstigatorType.SENSOR, TickStatus.SUCCESS, time.time(),
        run_ids=[], selector_id=state.selector_id,
    )  # fmt: skip
    instance.create_tick(tick)
    assert only(checks.sensors_and_schedules(at(home))).level == "ok"
    error = SerializableErrorInfo("OSError: the inbox is gone\n", [], None)
    instance.create_tick(tick._replace(status=TickStatus.FAILURE, timestamp=time.time() + 1, error=error))
    said = only(checks.sensors_and_schedules(at(home))).what
    assert said == "the last tick of the sensor new_labels failed: OSError: the inbox is gone"


# On Postgres


@pytest.fixture
def deployed(tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> Surroundings:
    """Of an instance in Postgres, as mars-assets deploy writes it."""
    home = tmp_path / "home"
    settings = overlaid_settings(("postgres",))
    settings["storage"]["postgres"]["postgres_db"]["port"] = database.port
    write_settings(home, settings)
    variables = {"DAGSTER_HOME": str(home), **database.variables}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return surroundings(tmp_path, environment=variables)


def with_other(where: Surroundings, **variables: str) -> Surroundings:
    return Surroundings(where.lake, {**where.environment, **variables})


def test_a_database_that_refuses_or_does_not_answer(deployed: Surroundings) -> None:
    password = deployed.environment["DAGSTER_PG_PASSWORD"]
    assert only(settings.database(deployed)).level == "ok"
    wrong = with_other(deployed, DAGSTER_PG_PASSWORD="wr0ng!")
    finding = only(settings.database(wrong))
    assert "refuses the user" in finding.what
    assert "DAGSTER_PG_PASSWORD" in finding.advice
    assert not {"wr0ng!", password} & set(map(str, finding))
    assert list(checks.instance(wrong)) == [], "which would only repeat it"
    elsewhere = only(settings.database(with_other(deployed, DAGSTER_PG_HOST="127.0.0.2")))
    assert "no Postgres answers" in elsewhere.what
    unset = {name: value for name, value in deployed.environment.items() if name != "DAGSTER_PG_PASSWORD"}
    finding = only(settings.database(Surroundings(deployed.lake, unset)))
    assert finding.what.startswith("DAGSTER_PG_PASSWORD not set")


def test_pools_without_limits_in_postgres(deployed: Surroundings) -> None:
    assert only(checks.instance(deployed)).level == "ok"
    finding = only(checks.pools(deployed))
    assert finding.level == "problem"
    commands = [part.split() for part in finding.advice.partition(" (")[0].split("; ")]
    assert {words[-2]: int(words[-1]) for words in commands} == pool_limits(defs, 1)
    for words in commands:
        subprocess.run([Path(sys.executable).with_name(words[0]), *words[1:]], check=True, capture_output=True)
    assert only(checks.pools(deployed)).level == "ok"
    assert only(checks.daemon(deployed)).level == "problem", "a deployed instance has a daemon"


def test_a_run_whose_host_was_restarted(deployed: Surroundings) -> None:
    where = Surroundings(deployed.lake, deployed.environment, clock=lambda: time.time() + 60)
    instance = checks.opened_instance(where)
    assert instance is not None
    boot = "11111111-1111-1111-1111-111111111111"
    lost = run(instance, Status.STARTED, f"worker 77 {boot}:5")
    assert only(checks.hanging_runs(where)).level == "ok"

    def record(boot: str) -> None:
        content = own_record(where).model_copy(update={"host": "worker", "boot": boot})
        write_bytes(where.lake.host("worker"), content.model_dump_json().encode())

    record(boot)
    assert only(checks.hanging_runs(where)).level == "ok", "the same boot: it may still compute"
    record("22222222-2222-2222-2222-222222222222")
    finding = only(checks.hanging_runs(where))
    assert lost in finding.what
    assert "its host has been restarted since" in finding.what


def test_the_commands_of_the_manual_end_a_run(home: Path, instance: dg.DagsterInstance) -> None:
    page = (PROJECT / "docs/how-to/doctor.md").read_text()
    terminate, free, delete = [line for line in page.splitlines() if "RUN_ID" in line]
    clean = {**clean_environment(), "DAGSTER_HOME": str(home), "DAGSTER_MODULE_NAME": "mars_assets.definitions"}

    def shell(command: str, run_id: str) -> None:
        program, *arguments = shlex.split(command.replace("RUN_ID", run_id))
        path = Path(sys.executable).with_name(program)
        answer = subprocess.run([path, *arguments], env=clean, cwd=PROJECT, capture_output=True, text=True, check=True)
        assert "rror" not in answer.stdout, answer.stdout

    storage = instance.event_log_storage
    storage.set_concurrency_slots("gpu", 2)
    stopped, deleted = (run(instance, Status.STARTED, ended_process()) for _ in range(2))
    for one in (stopped, deleted):
        assert storage.claim_concurrency_slot("gpu", one, "step").is_claimed
    shell(terminate, stopped)
    shell(delete, deleted)
    assert only(checks.hanging_runs(at(home))).level == "ok"
    assert storage.get_concurrency_run_ids() == {stopped}
    shell(free, stopped)
    assert only(checks.held_slots(at(home))).what == "0 places held"
