"""``mars-assets deploy`` on a real Postgres, and what people do with the instance afterwards."""

import os
import re
import subprocess
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy.exc
import yaml
from dagster import DagsterInstance

from mars_assets import cli
from mars_assets.deployment import set_up
from mars_assets.deployment.levels import LEVELS
from mars_assets.instance import PROJECT_SETTINGS, merged, overlaid_settings
from mars_assets_tests.deployed import LABELS, Deployed, deployed_sample, materialize, services
from mars_assets_tests.postgres import Database, Postgres, free_port

pytestmark = pytest.mark.process

TRAINING = {"batch_size": 2, "warmup_steps": 2, "image_size": 224}
LIMITS = 'SELECT concurrency_key, "limit", using_default_limit FROM concurrency_limits ORDER BY 1'


@pytest.fixture
def empty(tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> Deployed:
    """Where nothing was set up, with the environment that the command needs."""
    deployed = Deployed(tmp_path, database)
    for name, value in deployed.environment.items():
        monkeypatch.setenv(name, value)
    return deployed


def everything_written(deployed: Deployed) -> bytes:
    files = [path for path in deployed.folder.rglob("*") if path.is_file()]
    return b"".join(path.read_bytes() for path in files)


def test_from_nothing(empty: Deployed, postgres: Postgres, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["deploy", "workstation", "--gpus", "2"]) == 0
    shown = capsys.readouterr().out
    assert "ssh -N -L 3000:127.0.0.1:3000" in shown
    assert empty.lake.inbox.is_dir()
    settings = yaml.safe_load((empty.home / "dagster.yaml").read_bytes())
    project = yaml.safe_load(PROJECT_SETTINGS.read_bytes())
    assert settings["storage"]["postgres"]["postgres_db"] == {
        "hostname": {"env": "DAGSTER_PG_HOST"},
        "port": empty.database.port,
        "username": {"env": "DAGSTER_PG_USER"},
        "password": {"env": "DAGSTER_PG_PASSWORD"},
        "db_name": {"env": "DAGSTER_PG_DB"},
        "scheme": "postgresql+psycopg2",
    }
    assert list(settings["storage"]) == ["postgres"]
    assert settings["concurrency"] == project["concurrency"]
    assert settings["run_monitoring"].items() > project["run_monitoring"].items()
    tables = {name for (name,) in empty.database.query("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}
    assert {"runs", "event_logs", "job_ticks", "alembic_version"} <= tables
    limits = empty.database.query(LIMITS)
    assert {"gpu", "lake"} <= {pool for pool, _, _ in limits}
    assert ("gpu", 2, False) in limits
    assert not any(from_default for _, _, from_default in limits)

    code, info = empty.run("dagster", "instance", "info")
    assert (code, "PostgresEventLogStorage" in info) == (0, True)
    output = empty.materialize("prithvi_weights", prithvi_weights={"source": "sample"})
    assert [tuple(row) for row in empty.database.query("SELECT status FROM runs")] == [("SUCCESS",)]
    assert not list(empty.home.rglob("*.db"))
    dump = postgres.dump(empty.database)
    assert "prithvi_weights" in dump
    for text in (shown, info, output, dump, postgres.log.read_text()):
        assert empty.database.password not in text
    assert empty.database.password.encode() not in everything_written(empty)


def test_again_with_other_gpus(empty: Deployed) -> None:
    assert cli.main(["deploy", "workstation", "--gpus", "2"]) == 0
    settings = (empty.home / "dagster.yaml").read_bytes()
    environment = empty.home / "systemd/mars-assets.env"
    environment.write_text(environment.read_text().replace("PASSWORD=", "PASSWORD=entered"))
    for gpus, places in (("2", 2), ("4", 4), ("0", 1)):
        assert cli.main(["deploy", "workstation", "--gpus", gpus]) == 0
        assert ("gpu", places, False) in empty.database.query(LIMITS)
    assert (empty.home / "dagster.yaml").read_bytes() == settings
    assert "PASSWORD=entered" in environment.read_text()


def test_hosts_without_gpus_compute_at_once(empty: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARS_RAY_DASHBOARD", "http://127.0.0.1:8265")
    assert cli.main(["deploy", "ray", "--gpus", "0"]) == 0
    settings = yaml.safe_load((empty.home / "dagster.yaml").read_bytes())
    assert ("gpu", settings["concurrency"]["runs"]["max_concurrent_runs"], False) in empty.database.query(LIMITS)
    (empty.home / "own.yaml").write_text("run_coordinator: {config: {gpus: 3}}\n")
    assert cli.main(["deploy", "ray", "--gpus", "0"]) == 0
    assert ("gpu", 3, False) in empty.database.query(LIMITS)


def test_a_labs_own_settings_win(empty: Deployed) -> None:
    assert cli.main(["deploy", "workstation"]) == 0
    (empty.home / "own.yaml").write_text("concurrency: {runs: {max_concurrent_runs: 3}}\nrun_retries: null\n")
    assert cli.main(["deploy", "workstation"]) == 0
    settings = yaml.safe_load((empty.home / "dagster.yaml").read_bytes())
    assert settings["concurrency"]["runs"]["max_concurrent_runs"] == 3
    assert "tag_concurrency_limits" in settings["concurrency"]["runs"]
    assert "run_retries" not in settings


def test_the_number_of_gpus_reaches_the_run_coordinator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    coordinator = {"run_coordinator": {"module": "cluster", "class": "Coordinator", "config": {"gpus": 0, "most": 8}}}
    plain = overlaid_settings(["postgres"])
    monkeypatch.setattr(set_up, "overlaid_settings", lambda _: merged(plain, coordinator))
    settings = set_up._settings(LEVELS["workstation"], tmp_path, 5432, gpus=3)
    assert settings["run_coordinator"]["config"] == {"gpus": 3, "most": 8}


def test_other_settings_stay(empty: Deployed, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["init"]) == 0  # an instance of one person
    settings = (empty.home / "dagster.yaml").read_bytes()
    assert cli.main(["deploy", "workstation"]) == 1
    assert "dagster.yaml has other settings, which remain in use" in capsys.readouterr().err
    assert (empty.home / "dagster.yaml").read_bytes() == settings
    assert empty.database.query("SELECT * FROM information_schema.tables WHERE table_schema = 'public'") == []
    assert not (empty.home / "systemd").exists()


def test_nothing_is_written_where_something_is_missing(
    empty: Deployed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DAGSTER_PG_PASSWORD", "wrong-secret")
    assert cli.main(["deploy", "workstation"]) == 1
    monkeypatch.setenv("DAGSTER_PG_PASSWORD", "")
    assert cli.main(["deploy", "workstation"]) == 1
    assert cli.main(["--lake", "elsewhere", "deploy", "workstation"]) == 1
    shown = capsys.readouterr().err
    assert "--lake names another folder than MARS_LAKE" in shown
    assert "correct DAGSTER_PG_USER and DAGSTER_PG_PASSWORD" in shown
    assert "DAGSTER_PG_PASSWORD is not set" in shown
    assert "wrong-secret" not in shown
    assert list(empty.folder.iterdir()) == []


def test_a_wrong_password_is_not_shown(empty: Deployed) -> None:
    assert cli.main(["deploy", "workstation"]) == 0
    code, output = empty.run("dagster", "instance", "info", DAGSTER_PG_PASSWORD="wrong-secret")
    assert code == 1
    assert "password authentication failed" in output
    assert "wrong-secret" not in output
    assert empty.database.password not in output


def test_the_webserver_starts_runs_right_after_postgres_was_away(empty: Deployed, postgres: Postgres) -> None:
    """With the webserver's own settings the first two fail, and one of them leaves a run that never starts."""
    assert cli.main(["deploy", "workstation"]) == 0
    with services(empty, free_port(), "webserver") as running:
        running.launch("prithvi_weights", {"source": "sample"})
        postgres.kill()
        time.sleep(2)
        postgres.start()
        running.launch("prithvi_weights", {"source": "sample"})
    assert empty.database.query("SELECT status, count(*) FROM runs GROUP BY 1") == [("QUEUED", 2)]


def test_the_manuals_back_up_has_the_history(
    empty: Deployed, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["deploy", "workstation"]) == 0
    with DagsterInstance.from_config(str(empty.home)) as instance:
        instance.add_dynamic_partitions("observation", ["ESP_011472_1225"])
    page = (PROJECT_SETTINGS.parent / "docs/how-to/cluster.md").read_text()
    commands = {name: re.findall(rf"^.*\b{name} --.*$", page, re.MULTILINE) for name in ("pg_dump", "pg_restore")}
    other = postgres.database()
    paths = {"PATH": f"{postgres.programs}:{os.environ['PATH']}", "PGPORT": str(postgres.port)}
    for (command,), database in zip(commands.values(), (empty.database, other), strict=True):
        environment = empty.environment | database.variables | paths
        subprocess.run(["bash", "-ec", command], cwd=empty.folder, env=environment, check=True)
    for name, value in other.variables.items():
        monkeypatch.setenv(name, value)
    with DagsterInstance.from_config(str(empty.home)) as instance:
        assert instance.get_dynamic_partitions("observation") == ["ESP_011472_1225"]
        assert "gpu" in instance.event_log_storage.get_concurrency_keys()


def test_pools_made_from_default_limit_fail_on_postgres(empty: Deployed) -> None:
    """Once this fails, pools need no limit of their own at set-up."""
    assert cli.main(["deploy", "workstation"]) == 0
    with DagsterInstance.from_config(str(empty.home)) as instance:
        use = instance.event_log_storage.initialize_concurrency_limit_to_default
        assert use("used for the first time")
        # What the loser of two that use it for the first time at once meets.
        with pytest.raises(sqlalchemy.exc.InternalError, match="InFailedSqlTransaction"):
            use("used for the first time")


def test_a_change_of_the_base_settings_reaches_the_overlays() -> None:
    project = yaml.safe_load(PROJECT_SETTINGS.read_bytes())
    settings = overlaid_settings(LEVELS["workstation"].overlays)
    assert set(settings) == set(project) | {"run_retries", "run_queue"}
    assert overlaid_settings([]) == project


@pytest.fixture(scope="module")
def deployed(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    """With labels and weights; what comes of labels is not made yet."""
    return deployed_sample(tmp_path_factory.mktemp("deployed"), postgres.database())


def intervals(database: Database) -> dict[str, list[tuple[str, float, float]]]:
    """The run, start and end of every step, by its name."""
    times: dict[tuple[str, str], dict[str, float]] = {}
    rows = database.query(
        "SELECT run_id, step_key, dagster_event_type, extract(epoch FROM timestamp) FROM event_logs WHERE "
        "dagster_event_type IN ('STEP_START', 'STEP_SUCCESS')"
    )
    for run, step, event, at in rows:
        times.setdefault((run, step), {})[event] = float(at)
    found: dict[str, list[tuple[str, float, float]]] = {}
    for (run, step), events in times.items():
        found.setdefault(step, []).append((run, events["STEP_START"], events["STEP_SUCCESS"]))
    return found


def test_two_people_at_once(deployed: Deployed) -> None:
    config: dict[str, Any] = {"cls_model": {**TRAINING, "steps": 10, "evaluate_every": 5}}
    words = materialize(f"{LABELS},cls_model", **config)
    processes = [deployed.start("dagster", *words) for _ in range(2)]
    outputs = [process.communicate(timeout=400)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], [output[-3000:] for output in outputs]
    steps = intervals(deployed.database)
    of_lake = [times for name in LABELS.split(",") for times in steps[name]]
    for pooled in (of_lake, steps["cls_model"]):
        assert len({run for run, _, _ in pooled}) == 2
        for (_, _, end), (_, start, _) in pairwise(sorted(pooled, key=lambda times: times[1])):
            assert start >= end, "two in a pool that holds one"
    # Each was at work while the other was.
    (_, *first), (_, *second) = steps["labelled_crops"]
    assert min(end for _, _, end in steps["cls_model"]) > max(*first, *second)
    assert deployed.database.query("SELECT count(*) FROM concurrency_slots WHERE run_id IS NOT NULL") == [(0,)]


def test_postgres_is_away_from_the_middle_of_a_step_to_its_end(deployed: Deployed, postgres: Postgres) -> None:
    code, _ = deployed.run("dagster", *materialize(LABELS))
    assert code == 0
    config: dict[str, Any] = {"cls_model": {**TRAINING, "steps": 40, "evaluate_every": 20}}
    process = deployed.start("dagster", *materialize("cls_model", **config))
    model = deployed.lake.model("cls_model")
    before = set(model.glob("*/training/*/[!.]*.pt"))
    try:
        until = time.monotonic() + 200
        while not set(model.glob("*/training/*/[!.]*.pt")) - before:
            assert process.poll() is None, process.communicate()[0][-3000:]
            assert time.monotonic() < until
            time.sleep(0.05)
        postgres.kill()
        killed = time.time()
        time.sleep(14)  # more than dagster-postgres waits by itself, and than the training has before it
        postgres.start()
        back = time.time()
        output, _ = process.communicate(timeout=400)
    finally:
        process.kill()
    assert process.returncode == 0, output[-4000:]
    [(_, start, end)] = [times for times in intervals(deployed.database)["cls_model"] if times[2] > killed]
    assert start < killed < back < end
    assert "Retrying failed database connection" in output
    assert deployed.database.query("SELECT DISTINCT status FROM runs") == [("SUCCESS",)]
