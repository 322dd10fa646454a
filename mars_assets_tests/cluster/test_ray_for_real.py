"""Runs of the project's own assets as jobs of a real Ray, which the test starts."""

import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from mars_assets_tests.cluster.ray_cluster import RayCluster, ray_cluster
from mars_assets_tests.cluster.runs import Runs, runs_by, slow_archive, small_lake

pytestmark = [pytest.mark.process, pytest.mark.slow]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the hosts share: their jobs get the environment that Ray was started in."""
    folder = tmp_path_factory.mktemp("ray 'quoted'")
    with pytest.MonkeyPatch.context() as patch, slow_archive() as archive:
        patch.setenv("MARS_LAKE", str(small_lake(folder)))
        patch.setenv("MARS_HIRISE_ARCHIVE", archive)
        patch.setenv("MARS_CONTACT", "someone@example.org")
        yield folder


@pytest.fixture(scope="module")
def cluster(environment: Path) -> Iterator[RayCluster]:
    # A path of Ray's sockets must be short.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name, ray_cluster(Path(name)) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def runs(cluster: RayCluster, environment: Path) -> Iterator[Runs]:
    config = {"ray": {"address": cluster.address, "num_cpus": 1}}
    launcher = {"module": "mars_assets.cluster.ray", "class": "RayLauncher", "config": config}
    with runs_by(launcher, environment) as runs:
        run_id = runs.launch("observations")
        runs.wait_for(run_id, "SUCCESS")
        yield runs


def job(cluster: RayCluster, run_id: str) -> dict[str, Any]:
    """What Ray says of a run's job."""
    return requests.get(f"{cluster.address}/api/jobs/dagster-run-{run_id}", timeout=10).json()


def test_a_run_is_a_job_on_a_worker_that_asks_for_what_its_assets_need(runs: Runs, cluster: RayCluster) -> None:
    (run,) = runs.instance.get_runs()
    shown = job(cluster, run.run_id)
    (head,) = [node["node_id"] for node in cluster.nodes() if node["is_head_node"]]
    assert shown["driver_node_id"] not in {head, None}
    end = time.monotonic() + 30
    while shown["status"] != "SUCCEEDED":
        assert time.monotonic() < end, shown
        time.sleep(0.3)
        shown = job(cluster, run.run_id)
    training = runs.launch("cls_model")
    assert "num_gpus" in runs.run(training).tags["dagster-ray/config"]
    actors = requests.get(f"{cluster.address}/api/v0/actors?detail=1", timeout=10).json()["data"]["result"]["result"]
    asked = {actor["name"]: actor["required_resources"] for actor in actors}
    assert asked[f"_ray_internal_job_actor_dagster-run-{run.run_id}"] == {"CPU": 1.0, "memory": 2e9}
    assert asked[f"_ray_internal_job_actor_dagster-run-{training}"] == {"CPU": 1.0, "GPU": 1.0, "memory": 2e9}
    end = time.monotonic() + 60
    while not runs.run(training).is_finished:  # it fails, as there are no labels
        assert time.monotonic() < end
        time.sleep(0.3)


def test_a_killed_process_is_a_failure_with_the_reason(runs: Runs) -> None:
    run_id = runs.launch_a_long_one()
    runs.kill(run_id)
    assert re.search(r"Ray job has is in status: FAILED", runs.messages(run_id))
    assert "driver_exit_code=137" in runs.messages(run_id)


def test_a_terminated_run_is_cancelled(runs: Runs) -> None:
    run_id = runs.launch_a_long_one()
    assert runs.terminate(run_id)["__typename"] == "TerminateRunSuccess"
    runs.wait_for(run_id, "CANCELED")


def test_a_head_that_is_away_is_no_death_and_the_time_limit_holds(runs: Runs, cluster: RayCluster) -> None:
    run_id = runs.launch_a_long_one()
    cluster.stop("head")
    runs.monitor()
    assert runs.status(run_id) == "STARTED"
    assert "the run goes on" in runs.terminate(run_id)["message"]
    assert runs.status(run_id) == "STARTED"
    runs.instance.add_run_tags(run_id, {"dagster/max_runtime": "1"})
    runs.monitor()
    assert runs.status(run_id) == "FAILURE"
    assert "exceeding maximum runtime" in runs.messages(run_id)
    with pytest.raises(Exception, match=r"Ray's head at http.* did not accept the run"):
        runs.launch("observations")
