"""Runs of the project's own assets as jobs of a real Slurm, which the test starts."""

import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mars_assets.cluster.starts import fail_dead_starts
from mars_assets.cluster.tags import JOB_TAG, SLURM_TAG
from mars_assets.errors import MarsError
from mars_assets_tests.cluster.runs import Runs, runs_by, slow_archive, small_lake
from mars_assets_tests.cluster.slurm_cluster import SlurmCluster, command, slurm_on_this_host

pytestmark = [pytest.mark.process, pytest.mark.slow]

LAUNCHER = {"module": "mars_assets.cluster.slurm", "class": "SlurmRunLauncher"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    # A path of munge's socket must be short, and no folder above it may be writable by others without the sticky bit.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name, slurm_on_this_host(Path(name)) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def runs(cluster: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    folder = tmp_path_factory.mktemp("slurm 'quoted'")
    with pytest.MonkeyPatch.context() as patch, slow_archive() as archive:
        patch.setenv("MARS_LAKE", str(small_lake(folder)))
        patch.setenv("MARS_HIRISE_ARCHIVE", archive)
        patch.setenv("MARS_CONTACT", "someone@example.org")
        with runs_by(LAUNCHER, folder) as runs:
            run_id = runs.launch("observations")
            runs.wait_for(run_id, "SUCCESS")
            yield runs


def job(runs: Runs, run_id: str) -> str:
    """What Slurm says of a run's job."""
    return command("scontrol", "--oneliner", "show", "job", runs.run(run_id).tags[JOB_TAG])


def test_a_run_is_a_job_that_asks_for_what_its_assets_need(runs: Runs) -> None:
    (run_id,) = [run.run_id for run in runs.instance.get_runs() if run.status.value == "SUCCESS"]
    shown = job(runs, run_id)
    assert "NumCPUs=1 " in shown
    assert "MinMemoryNode=2000M" in shown
    assert "TimeLimit=00:50:00" in shown
    assert "Requeue=0" in shown
    assert f"JobName=mars-{run_id[:8]}" in shown
    assert "gpu" not in shown
    assert "Slurm job" in runs.messages(run_id)


def test_a_training_asks_for_a_gpu_and_ends_at_once_where_it_was_terminated_before_it_started(runs: Runs) -> None:
    run_id = runs.launch("cls_model", tags={SLURM_TAG: "--hold"})
    assert re.search(r"TresPerNode=gres:gpu:1", job(runs, run_id))
    runs.monitor()
    assert runs.status(run_id) == "STARTING"
    assert runs.terminate(run_id, "MARK_AS_CANCELED_IMMEDIATELY")["__typename"] == "TerminateRunSuccess"
    assert runs.status(run_id) == "CANCELED"
    command("scontrol", "release", runs.run(run_id).tags[JOB_TAG])
    end = time.monotonic() + 60
    while not re.search("JobState=(FAILED|COMPLETED)", job(runs, run_id)):
        assert time.monotonic() < end, job(runs, run_id)
        time.sleep(0.5)
    assert runs.status(run_id) == "CANCELED"
    assert not runs.has(run_id, "STEP_START")


def test_a_killed_process_is_a_failure_with_the_reason(runs: Runs) -> None:
    run_id = runs.launch_a_long_one()
    runs.kill(run_id)
    messages = runs.messages(run_id)
    assert re.search(r"Slurm job \d+ is FAILED.*: its process was killed", messages)
    assert "ExitCode=137:0" in messages
    assert f"slurm/{run_id}.out" in messages
    assert "Killed" in messages


def test_a_terminated_run_is_cancelled(runs: Runs) -> None:
    run_id = runs.launch_a_long_one()
    assert runs.terminate(run_id)["__typename"] == "TerminateRunSuccess"
    runs.wait_for(run_id, "CANCELED")


def test_a_job_that_is_cancelled_or_preempted_is_a_failure_with_the_reason(runs: Runs) -> None:
    def ended() -> bool:
        runs.monitor()  # by it, where the process is killed before it has said that it was asked to end
        said = r"Slurm ended|Slurm job \d+ is"
        return runs.status(run_id) == "FAILURE" and re.search(said, runs.messages(run_id)) is not None

    run_id = runs.launch_a_long_one()
    command("scancel", runs.run(run_id).tags[JOB_TAG])
    runs.wait_until(ended)
    assert re.search(r"\*\*\* JOB \d+ ON n1 CANCELLED", runs.messages(run_id))
    run_id = runs.launch_a_long_one()
    command("sbatch", "--partition=high", "--cpus-per-task=2", "--output=/dev/null", "--wrap=true")
    runs.wait_until(ended)
    assert "DUE TO PREEMPTION" in runs.messages(run_id)


def test_a_job_that_ends_before_it_starts_the_run_is_a_failure_with_the_reason(runs: Runs) -> None:
    run_id = runs.launch("observations", tags={SLURM_TAG: "--hold"})
    assert fail_dead_starts(runs.instance, submitted=0) == []
    command("scancel", runs.run(run_id).tags[JOB_TAG])
    assert fail_dead_starts(runs.instance) == [], "just submitted"
    assert fail_dead_starts(runs.instance, submitted=0) == [run_id]
    assert runs.status(run_id) == "FAILURE"
    assert re.search(r"The run did not start. Slurm job \d+ is CANCELLED", runs.messages(run_id))


def test_a_run_outlives_the_controller(runs: Runs, cluster: SlurmCluster) -> None:
    run_id = runs.launch_a_long_one()
    cluster.stop("slurmctld")
    try:
        runs.monitor()
        assert runs.status(run_id) == "STARTED", runs.messages(run_id)
        assert "the run goes on, as Slurm does not answer" in runs.terminate(run_id)["message"]
        assert runs.status(run_id) == "STARTED"
    finally:
        cluster.start_controller()
    runs.monitor()
    assert runs.status(run_id) == "STARTED"
    assert runs.terminate(run_id)["__typename"] == "TerminateRunSuccess"
    runs.wait_for(run_id, "CANCELED")


def test_what_slurm_refuses_fails_at_once_with_its_words(runs: Runs) -> None:
    with pytest.raises(MarsError, match=r"(?s)Slurm refused the run: .*partition.*asked for .*--partition=none"):
        runs.launch("observations", tags={SLURM_TAG: "--partition=none"})
    failed = runs.instance.get_runs(limit=1)[0]
    assert failed.status.value == "FAILURE"
