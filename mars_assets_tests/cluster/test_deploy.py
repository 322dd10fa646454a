"""The overlays of settings for Ray and Slurm, and the scripts that start Ray."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from mars_assets.cluster.coordinator import NeedsRunCoordinator
from mars_assets.cluster.slurm import SlurmRunLauncher
from mars_assets.instance import PROJECT_SETTINGS
from mars_assets_tests.shell import PROJECT

DEPLOY = PROJECT / "deploy"


def merged(below: Any, over: Any) -> Any:
    if not isinstance(below, dict) or not isinstance(over, dict):
        return over
    return {**below, **{key: merged(below.get(key), value) for key, value in over.items()}}


@pytest.mark.parametrize("level", ["ray", "slurm"])
def test_dagster_accepts_the_settings(level: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mars_assets.cluster.ray import RayLauncher

    monkeypatch.setenv("MARS_RAY_DASHBOARD", "http://127.0.0.1:8265")
    settings = merged(
        yaml.safe_load(PROJECT_SETTINGS.read_bytes()), yaml.safe_load((DEPLOY / f"dagster.{level}.yaml").read_bytes())
    )
    settings["storage"] = {"sqlite": {"base_dir": str(tmp_path)}}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(settings))
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert isinstance(instance.run_coordinator, NeedsRunCoordinator)
        assert type(instance.run_launcher) is {"ray": RayLauncher, "slurm": SlurmRunLauncher}[level]
        assert instance.run_monitoring_start_timeout_seconds > 30 * 24 * 3600
        assert instance.run_monitoring_poll_interval_seconds == 15
        assert instance.get_concurrency_config().run_queue_config.max_concurrent_runs == 100


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone whose ``ray`` says what it was started with."""
    folder = tmp_path / "a clone"
    shutil.copytree(DEPLOY, folder / "deploy")
    ray = folder / ".venv/bin/ray"
    ray.parent.mkdir(parents=True)
    ray.write_text('#!/bin/bash\nprintf "%s " "$@"; pwd; env | grep ^RAY_JOB\n')
    ray.chmod(0o755)
    return folder


def script(clone: Path, name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], **variables}
    command = [clone / "deploy" / name, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_head_computes_nothing_and_listens_at_one_address(clone: Path) -> None:
    done = script(clone, "ray_head.sh", "start", "10.0.0.1")
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    assert {"--head", "--num-cpus=0", "--node-ip-address=10.0.0.1", "--dashboard-host=10.0.0.1"} <= set(words)
    assert "RAY_JOB_START_TIMEOUT_SECONDS=31536000" in words
    assert "WARNING: Ray asks for no password" in done.stdout
    for everywhere in ("0.0.0.0", "::"):
        refused = script(clone, "ray_head.sh", "start", everywhere)
        assert (refused.returncode, refused.stdout) == (2, "")
    assert script(clone, "ray_head.sh", "stop").stdout.startswith("stop ")


def test_a_worker_starts_in_the_clone_with_the_shared_folders(clone: Path, tmp_path: Path) -> None:
    arguments = ("start", "10.0.0.1", "10.0.0.2", "--num-gpus=1")
    assert "DAGSTER_HOME is not set" in script(clone, "ray_worker.sh", *arguments).stderr
    folders = {"DAGSTER_HOME": str(tmp_path), "MARS_LAKE": str(tmp_path / "lake")}
    assert "is no folder on this host" in script(clone, "ray_worker.sh", *arguments, **folders).stderr
    (tmp_path / "lake").mkdir()
    done = script(clone, "ray_worker.sh", *arguments, **folders)
    assert done.returncode == 0, done.stderr
    assert "--address=10.0.0.1:6379 --node-ip-address=10.0.0.2" in done.stdout
    assert "--num-gpus=1" in done.stdout
    assert str(clone) in done.stdout.splitlines()[0]
    assert "RAY_JOB_STOP_WAIT_TIME_S=30" in done.stdout


@pytest.mark.parametrize("name", ["ray_head.sh", "ray_worker.sh"])
@pytest.mark.parametrize("arguments", [(), ("start",), ("stop", "now"), ("restart",), ("--help",)])
def test_usage(clone: Path, name: str, arguments: tuple[str, ...]) -> None:
    done = script(clone, name, *arguments)
    assert done.returncode == 2
    assert done.stdout.startswith(f"usage: deploy/{name} start")
