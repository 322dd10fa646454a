"""How backfills are divided into runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from dagster import BackfillPolicy

from mars_assets.cluster.ranges import (
    MOST,
    REMEMBERED,
    RUN_SECONDS,
    UNMEASURED,
    backfill_policy,
    observations_per_run,
    remember_seconds,
    runs_are_shared,
)
from mars_assets.definitions import defs
from mars_assets.lake import Lake
from mars_assets_tests.cluster.runs import OBSERVATION, small_lake

SHARED = "run_coordinator: {module: mars_assets.cluster.coordinator, class: NeedsRunCoordinator}\n"

LIMITS = "{most_cpus: 1, most_memory_gb: 1, most_hours: 1}"


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    monkeypatch.setenv("MARS_LAKE", str(tmp_path / "lake"))
    return Lake.at(tmp_path / "lake")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(folder))
    return folder


def test_every_asset_of_observations_can_be_estimated() -> None:
    graph = defs.resolve_asset_graph()
    partitioned = {key.to_user_string() for key in graph.get_all_asset_keys() if graph.get(key).partitions_def}
    assert UNMEASURED.keys() == partitioned


def test_a_run_takes_its_time_as_measured(lake: Lake) -> None:
    assert observations_per_run("crops") == RUN_SECONDS / UNMEASURED["crops"]
    remember_seconds(lake, "crops", [60.0, 60.0])
    assert observations_per_run("crops") == RUN_SECONDS / 60
    assert observations_per_run("crops", "hirise_images") == RUN_SECONDS / (60 + UNMEASURED["hirise_images"])
    remember_seconds(lake, "hirise_images", [40.0])
    assert observations_per_run("crops", "hirise_images") == RUN_SECONDS / 100


def test_what_a_run_loads_at_first_does_not_make_runs_short(lake: Lake) -> None:
    remember_seconds(lake, "crater_maps", [75.0, 25.0])
    remember_seconds(lake, "crater_maps", [80.0, 25.0])
    assert observations_per_run("crater_maps") == RUN_SECONDS / 25
    remember_seconds(lake, "crater_maps", [])
    remember_seconds(lake, "crops", [30.0])
    assert observations_per_run("crops") == RUN_SECONDS / 30, "of one observation nothing else is known"


def test_bounds(lake: Lake) -> None:
    remember_seconds(lake, "crops", [0.001])
    assert observations_per_run("crops") == MOST
    remember_seconds(lake, "crater_maps", [40_000.0])
    assert observations_per_run("crater_maps") == 1


def test_what_existed_hides_nothing(lake: Lake) -> None:
    remember_seconds(lake, "crater_maps", [100.0] * 10)
    remember_seconds(lake, "crater_maps", [0.05] * 80)
    assert observations_per_run("crater_maps") == RUN_SECONDS / 100
    remember_seconds(lake, "crater_maps", [20.0] * REMEMBERED)
    assert observations_per_run("crater_maps") == RUN_SECONDS / 20, "scenes of another size"


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"crops": 3}', '{"crops": ["x", null, -1, NaN, Infinity]}', '{"crops": []}', "\xff"]
)
def test_a_damaged_record_is_none(lake: Lake, damage: str) -> None:
    path = lake.cache("seconds_per_observation")
    path.parent.mkdir(parents=True)
    path.write_bytes(damage.encode("latin1"))
    assert observations_per_run("crops") == RUN_SECONDS / UNMEASURED["crops"]
    remember_seconds(lake, "crops", [30.0])
    assert observations_per_run("crops") == 10


def test_a_lake_that_cannot_be_opened_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARS_LAKE", "s3://bucket")
    assert observations_per_run("crops") == 20


@pytest.mark.parametrize(
    ("settings", "shared"),
    [
        (SHARED, True),
        ("run_coordinator: {module: dagster, class: QueuedRunCoordinator}\n", False),
        ("storage: {sqlite: {base_dir: x}}\n", False),
        ("", False),
        ("a: b: c", False),
        ("[]", False),
    ],
)
def test_backfills_are_divided_only_where_hosts_share_them(home: Path, lake: Lake, settings: str, shared: bool) -> None:
    (home / "dagster.yaml").write_text(settings)
    assert runs_are_shared() == shared
    assert backfill_policy("crops") == (BackfillPolicy.multi_run(20) if shared else BackfillPolicy.single_run())


def test_one_machine_without_settings(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not runs_are_shared()
    monkeypatch.delenv("DAGSTER_HOME")
    assert not runs_are_shared()


@pytest.mark.process
def test_definitions_read_what_was_measured(home: Path, lake: Lake) -> None:
    (home / "dagster.yaml").write_text(SHARED)
    remember_seconds(lake, "hirise_images", [20.0])
    remember_seconds(lake, "crops", [10.0])
    script = (
        "import json; from mars_assets.definitions import defs; graph = defs.resolve_asset_graph(); print(json.dumps("
        "{key.to_user_string(): graph.get(key).backfill_policy.max_partitions_per_run for key in "
        "graph.get_all_asset_keys() if graph.get(key).partitions_def}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "varying BackfillPolicies" not in done.stderr
    assert json.loads(done.stdout) == {"hirise_images": 10, "crops": 10, "crater_maps": 2}


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
def test_a_range_at_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path, shared: bool) -> None:
    """As before on one machine; where hosts share runs, Dagster says that a backfill is meant."""
    monkeypatch.setenv("MARS_LAKE", str(small_lake(tmp_path)))
    monkeypatch.delenv("MARS_CONTACT", raising=False)
    (home / "dagster.yaml").write_text("")
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "mars_assets.definitions", "--select"]
    subprocess.run([*command, "observations"], capture_output=True, check=True)
    (home / "dagster.yaml").write_text(f"{SHARED[:-2]}, config: {LIMITS}}}\n" if shared else "")
    done, alone = (
        subprocess.run([*command, "hirise_images", *which], capture_output=True, text=True, check=False)
        for which in (["--partition-range", f"{OBSERVATION}...{OBSERVATION}"], ["--partition", OBSERVATION])
    )
    refused = "Partition ranges with the CLI require"
    wanted = "the archive's people must be able to reach you"
    assert (refused in done.stderr, wanted in done.stderr) == (shared, not shared), done.stderr[-2000:]
    assert wanted in alone.stderr, "one observation is one run everywhere"
