"""The Slurm launcher with programs that answer as Slurm's do, and as they should not."""

import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.launcher.base import LaunchRunContext, WorkerStatus
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.storage.tags import PARENT_RUN_ID_TAG, ROOT_RUN_ID_TAG

from mars_assets.cluster import slurm
from mars_assets.cluster.slurm import SlurmRunLauncher
from mars_assets.cluster.starts import fail_dead_starts
from mars_assets.cluster.tags import JOB_TAG, SLURM_TAG
from mars_assets.errors import MarsError
from mars_assets_tests.jobs import job


class Programs:
    """Programs in a folder that PATH names first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, body: str) -> None:
        path = self.folder / name
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)

    def answer(self, name: str, out: str = "", error: str = "", code: int = 0) -> None:
        """Writes a program that notes its arguments, and answers."""
        notes = f"printf '%s\\n' \"$@\" > {self.folder}/{name}.arguments; cat > {self.folder}/{name}.input"
        answer = f"printf %s {shlex.quote(out)}; printf %s {shlex.quote(error)} >&2; exit {code}"
        self.write(name, f"{notes}\n{answer}")

    def arguments(self, name: str) -> list[str]:
        return (self.folder / f"{name}.arguments").read_text().splitlines()

    def input(self, name: str) -> str:
        return (self.folder / f"{name}.input").read_text()


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    made = Programs(folder)
    made.answer("squeue", "")
    made.answer("sacct", "", "Slurm accounting storage is disabled", 1)
    made.answer("scontrol", "JobId=7 JobState=FAILED")
    made.answer("scancel")
    made.answer("sbatch", "7;cluster\n")
    return made


@pytest.fixture(scope="module")
def only_instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    launcher = {"module": "mars_assets.cluster.slurm", "class": "SlurmRunLauncher"}
    with dg.instance_for_test({"run_launcher": launcher}, temp_dir=str(tmp_path_factory.mktemp("home"))) as instance:
        yield instance


@pytest.fixture
def instance(only_instance: dg.DagsterInstance) -> dg.DagsterInstance:
    only_instance.wipe()
    return only_instance


@pytest.fixture
def launcher(instance: dg.DagsterInstance) -> SlurmRunLauncher:
    launcher = instance.run_launcher
    assert isinstance(launcher, SlurmRunLauncher)
    return launcher


def run_with(instance: dg.DagsterInstance, status: str = "STARTED", **tags: str) -> dg.DagsterRun:
    pointer = ModuleCodePointer("mars_assets.definitions", "defs")
    origin = JobPythonOrigin("job", RepositoryPythonOrigin("/venv of us/bin/python", pointer))
    return instance.create_run_for_job(
        job,
        status=dg.DagsterRunStatus(status),
        tags=tags,
        job_code_origin=origin,
        parent_run_id=tags.get(PARENT_RUN_ID_TAG),
        root_run_id=tags.get(ROOT_RUN_ID_TAG),
    )


def test_a_run_is_submitted_with_its_options_and_its_script(
    programs: Programs, launcher: SlurmRunLauncher, instance: dg.DagsterInstance
) -> None:
    run = run_with(instance, "STARTING", **{SLURM_TAG: "--mem=2G --comment='a b'"})
    launcher.launch_run(LaunchRunContext(run, None))
    log = launcher.log(run.run_id)
    assert programs.arguments("sbatch") == [
        *("--parsable", "--no-requeue", "--export=ALL", f"--job-name=mars-{run.run_id[:8]}", f"--output={log}"),
        *("--mem=2G", "--comment=a b"),
    ]
    script = programs.input("sbatch").splitlines()
    assert script[0] == "#!/bin/bash"
    words = shlex.split(script[2])
    assert words[:5] == ["/venv of us/bin/python", "-m", "dagster", "api", "execute_run"]
    assert run.run_id in words[5]
    assert instance.get_run_by_id(run.run_id).tags[JOB_TAG] == "7"


def test_the_password_is_on_no_command_line_and_in_no_script(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_PG_PASSWORD", "a-secret")
    postgres = {"hostname": "localhost", "username": "dagster", "db_name": "dagster"}
    storage = {"postgres_db": {**postgres, "password": {"env": "DAGSTER_PG_PASSWORD"}}}
    from dagster._core.instance import InstanceRef
    from dagster._serdes import serialize_value

    overrides = {
        "storage": {"postgres": storage},
        "run_launcher": {"module": "mars_assets.cluster.slurm", "class": "SlurmRunLauncher"},
    }
    ref = InstanceRef.from_dir(str(tmp_path), overrides=overrides)
    assert "DAGSTER_PG_PASSWORD" in serialize_value(ref)
    assert "a-secret" not in serialize_value(ref), "what the command that executes a run contains"


@pytest.mark.parametrize(
    ("out", "error", "code", "words"),
    [
        ("", "sbatch: error: Batch job submission failed: Invalid account", 1, "refused the run: .*Invalid account"),
        ("", "", 1, "refused the run"),
        ("Submitted!", "", 0, "refused the run: Submitted!"),
    ],
)
def test_what_sbatch_refuses(
    programs: Programs,
    launcher: SlurmRunLauncher,
    instance: dg.DagsterInstance,
    out: str,
    error: str,
    code: int,
    words: str,
) -> None:
    programs.answer("sbatch", out, error, code)
    with pytest.raises(MarsError, match=words):
        launcher.launch_run(LaunchRunContext(run_with(instance, "STARTING"), None))


def test_an_sbatch_that_hangs_or_is_missing(
    programs: Programs, launcher: SlurmRunLauncher, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "TIMEOUT", 0.3)
    programs.write("sbatch", "exec sleep 20")
    begun = time.monotonic()
    with pytest.raises(MarsError, match=r"sbatch did not end within 0.3 s"):
        launcher.launch_run(LaunchRunContext(run_with(instance, "STARTING"), None))
    assert time.monotonic() - begun < 10
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MarsError, match="sbatch cannot be run"):
        launcher.launch_run(LaunchRunContext(run_with(instance, "STARTING"), None))


def test_a_folder_with_a_percent_sign_is_refused(
    programs: Programs, tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = SlurmRunLauncher()
    monkeypatch.setattr(launcher, "log", lambda run_id: tmp_path / "a%b" / run_id)
    with pytest.raises(MarsError, match="Slurm replaces '%'"):
        launcher.launch_run(LaunchRunContext(run_with(instance, "STARTING"), None))


ALIVE = ["PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STAGE_OUT", "REQUEUE_HOLD", "SOMETHING_NEW"]
ENDED = {
    "BOOT_FAIL": "could not be started",
    "CANCELLED": "scancel",
    "COMPLETED": "could not report the end",
    "DEADLINE": "deadline",
    "FAILED": "was killed",
    "NODE_FAIL": "its node failed",
    "OUT_OF_MEMORY": "more memory than it asked for",
    "PREEMPTED": "higher priority",
    "TIMEOUT": "time limit",
}


@pytest.mark.parametrize("state", ALIVE)
def test_states_of_a_job_that_lives(
    programs: Programs, launcher: SlurmRunLauncher, instance: dg.DagsterInstance, state: str
) -> None:
    programs.answer("squeue", f"7|{state}|None|n1\n")
    assert launcher.check_run_worker_health(run_with(instance, **{JOB_TAG: "7"})).status == WorkerStatus.RUNNING
    assert "--jobs=7" in programs.arguments("squeue")


@pytest.mark.parametrize(("state", "words"), ENDED.items())
def test_states_of_a_job_that_has_ended(
    programs: Programs, launcher: SlurmRunLauncher, instance: dg.DagsterInstance, state: str, words: str
) -> None:
    run = run_with(instance, **{JOB_TAG: "7"})
    programs.answer("squeue", f"7|{state}|TimeLimit|n[1-2]\n")
    health = launcher.check_run_worker_health(run)
    assert health.status == WorkerStatus.FAILED
    assert f"Slurm job 7 is {state}, TimeLimit, on n[1-2]" in (health.msg or "")
    assert words in (health.msg or "")
    # Slurm forgets a job after some minutes; its accounting does not.
    programs.answer("squeue", "", "slurm_load_jobs error: Invalid job id specified", 1)
    programs.answer("sacct", f"{state} by 0|0:9|n1\n")
    health = launcher.check_run_worker_health(run)
    assert f"Slurm job 7 is {state}, exit code 0:9, on n1" in (health.msg or "")


@pytest.mark.parametrize("forgotten", [("", "slurm_load_jobs error: Invalid job id specified", 1), ("", "", 0)])
def test_a_job_that_slurm_has_forgotten_has_ended(
    programs: Programs,
    launcher: SlurmRunLauncher,
    instance: dg.DagsterInstance,
    forgotten: tuple[str, str, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = run_with(instance, **{JOB_TAG: "7"})
    programs.answer("squeue", *forgotten)
    health = launcher.check_run_worker_health(run)
    assert (health.status, "Slurm has forgotten it" in (health.msg or "")) == (WorkerStatus.FAILED, True)
    monkeypatch.setattr(slurm, "TIMEOUT", 0.3)
    programs.write("sacct", "exec sleep 20")
    assert launcher.check_run_worker_health(run).status == WorkerStatus.FAILED


@pytest.mark.parametrize(
    "body",
    [
        "echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1",
        "exit 1",
        "echo 'Unexpected message received'",
        "printf '\\xff\\xfe\\0garbage'",
        "echo '17|FAILED|None|n1'",
        "kill -9 $$",
        "exec sleep 20",
    ],
)
def test_a_slurm_that_does_not_answer_is_no_death(
    programs: Programs,
    launcher: SlurmRunLauncher,
    instance: dg.DagsterInstance,
    body: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slurm, "TIMEOUT", 0.5)
    programs.write("squeue", body)
    run = run_with(instance, **{JOB_TAG: "7"})
    health = launcher.check_run_worker_health(run)
    assert health.status == WorkerStatus.RUNNING
    assert "Slurm does not answer" in (health.msg or "")
    with pytest.raises(MarsError, match="the run goes on"):
        launcher.terminate(run.run_id)
    assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.STARTED


def test_a_run_of_the_command_line_is_not_judged(
    programs: Programs, launcher: SlurmRunLauncher, instance: dg.DagsterInstance
) -> None:
    for tags in ({}, {JOB_TAG: ""}):
        run = run_with(instance, **tags)
        assert launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING
        assert not launcher.terminate(run.run_id)


def test_termination_cancels_the_job(
    programs: Programs, launcher: SlurmRunLauncher, instance: dg.DagsterInstance
) -> None:
    programs.answer("squeue", "7|RUNNING|None|n1\n")
    run = run_with(instance, **{JOB_TAG: "7"})
    assert launcher.terminate(run.run_id)
    assert programs.arguments("scancel") == ["7"]
    assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.CANCELING
    programs.answer("scancel", "", "scancel: error: Kill job error", 1)
    assert not launcher.terminate(run.run_id)


def test_the_end_of_the_output_is_shown(
    programs: Programs, launcher: SlurmRunLauncher, instance: dg.DagsterInstance
) -> None:
    run = run_with(instance, **{JOB_TAG: "7"})
    assert "cannot be read" in (launcher.get_run_worker_debug_info(run) or "")
    log = launcher.log(run.run_id)
    log.parent.mkdir(exist_ok=True)
    log.write_text("".join(f"line {number}\n" for number in range(100)))
    shown = launcher.get_run_worker_debug_info(run) or ""
    assert "JobState=FAILED" in shown
    assert shown.endswith("line 98\nline 99")
    assert "line 60" not in shown


def test_a_start_that_died_fails_after_a_while(
    programs: Programs, launcher: SlurmRunLauncher, instance: dg.DagsterInstance
) -> None:
    waiting, dead = (run_with(instance, "STARTING", **{JOB_TAG: job}) for job in ("6", "7"))
    started = run_with(instance, "STARTED", **{JOB_TAG: "7"})
    programs.write(
        "squeue", 'case "$*" in *--jobs=6*) echo "6|PENDING|Priority|";; *) echo "7|FAILED|NonZeroExitCode|n1";; esac'
    )
    assert fail_dead_starts(instance) == []
    assert fail_dead_starts(instance, submitted=0) == [dead.run_id]
    statuses = [instance.get_run_by_id(run.run_id).status.value for run in (waiting, dead, started)]
    assert statuses == ["STARTING", "FAILURE", "STARTED"]


def test_other_launchers_are_left_alone() -> None:
    with dg.instance_for_test() as instance:
        run_with(instance, "STARTING")
        assert fail_dead_starts(instance, submitted=0) == []
