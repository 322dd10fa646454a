"""The run launcher for Slurm: every run is a batch job.

``dagster.yaml`` names it at the level Slurm (``deploy/dagster.slurm.yaml``). The control plane (webserver, daemon) runs
on a host that has Slurm's commands, and shares a file system with the compute nodes: the clone and its environment, the
lake, and ``DAGSTER_HOME``, in which the jobs' output lies.

A job has the environment of the daemon that submits it (``--export=ALL``), secrets included: they are on no command
line and in no script, but Slurm stores the environment of waiting jobs where its administrators can read it.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._config.config_schema import UserConfigSchema
from dagster._core.launcher import LaunchRunContext, RunLauncher
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._serdes import ConfigurableClass, ConfigurableClassData

from mars_assets.cluster.run_command import run_command
from mars_assets.cluster.tags import JOB_TAG, SLURM_TAG
from mars_assets.errors import MarsError

TIMEOUT = 30.0
"""Seconds after which a command of Slurm counts as unanswered."""
LINES = 30
"""Lines of a job's output that a failure shows."""

# squeue(1), "Job State Codes". A job in any other state is waiting, running or being cleaned up.
_ENDED = {
    "BOOT_FAIL": "its node could not be started",
    "CANCELLED": "somebody cancelled it with scancel, or an administrator did",
    "COMPLETED": "its process ended, but could not report the end of the run: was the database away?",
    "DEADLINE": "it could not end before the deadline that was asked for",
    "FAILED": "its process was killed, or could not start on its node",
    "NODE_FAIL": "its node failed or no longer answers",
    "OUT_OF_MEMORY": f"it used more memory than it asked for: set --mem in the run's tag {SLURM_TAG}",
    "PREEMPTED": "jobs of a higher priority took its node",
    "TIMEOUT": f"it reached its time limit: set dagster/max_runtime, or --time in the run's tag {SLURM_TAG}",
}
_ENDED_BY_SLURM = re.compile(r"\*\*\* (JOB|STEP) \S+ .*")


class _UnansweredError(Exception):
    """Slurm gave no answer that tells anything about a job."""


@dataclass(frozen=True)
class JobState:
    """What Slurm tells of a job.

    Args:
        name: one of Slurm's states, such as ``RUNNING``, or ``UNKNOWN`` where Slurm has forgotten the job.
        details: reason, nodes or exit code, as far as Slurm tells them.
    """

    name: str
    details: str = ""

    @property
    def explanation(self) -> str:
        """Why the job ended; empty if it has not."""
        if self.name == "UNKNOWN":
            return "Slurm has forgotten it: it ended long ago, or Slurm lost its state"
        return _ENDED.get(self.name, "")


class SlurmRunLauncher(RunLauncher, ConfigurableClass):
    """A run launcher that submits runs to Slurm with ``sbatch``."""

    STARTS_LATE = True
    """A run may wait for hosts for days before it starts: see :func:`~mars_assets.cluster.starts.fail_dead_starts`."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._inst_data = inst_data

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """Return what Dagster creates this launcher from in other processes."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """Describe the settings in ``dagster.yaml``: there are none."""
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> SlurmRunLauncher:
        """Create the launcher that ``dagster.yaml`` names."""
        return cls(inst_data)

    def log(self, run_id: str) -> Path:
        """Locate the output of a run's job."""
        return Path(self._instance.root_directory) / "slurm" / f"{run_id}.out"

    def launch_run(self, context: LaunchRunContext) -> None:
        """Submit a run.

        Slurm must not start a job again by itself, since Dagster takes the second start for a duplicate: Dagster's
        ``run_retries`` starts a new run.

        Raises:
            MarsError: Slurm refuses the job, or does not answer, or cannot write its output.
        """
        run, log = context.dagster_run, self.log(context.dagster_run.run_id)
        if "%" in str(log):
            raise MarsError(f"{log.parent}: Slurm replaces '%' in names of files: set DAGSTER_HOME to another folder")
        log.parent.mkdir(parents=True, exist_ok=True)
        options = ["--parsable", "--no-requeue", "--export=ALL", f"--job-name=mars-{run.run_id[:8]}", f"--output={log}"]
        try:
            answer = _slurm(
                "sbatch", *options, *shlex.split(run.tags.get(SLURM_TAG, "")), text=_script(self._instance, run, log)
            )
        except _UnansweredError as error:
            raise MarsError(f"Slurm did not accept the run: {error}. Start it again once sinfo answers") from None
        job = answer.stdout.strip().partition(";")[0]
        if answer.returncode or not job.isdecimal():
            raise MarsError(
                f"Slurm refused the run: {(answer.stderr or answer.stdout).strip()}. It was asked for "
                f"{run.tags.get(SLURM_TAG, 'nothing')}: change that by the run's tag {SLURM_TAG} or in dagster.yaml"
            )
        self._instance.add_run_tags(run.run_id, {JOB_TAG: job})
        self._instance.report_engine_event(f"Slurm job {job}, its output is {log}", run, cls=type(self))

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Whether Dagster's monitoring can ask for the state of a run's job: yes."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Ask Slurm for the state of a run's job.

        While Slurm does not answer, the run counts as running: its process needs no slurmctld.
        """
        job = run.tags.get(JOB_TAG)
        if not job:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "not a Slurm job: it was started at the command line")
        try:
            state = job_state(job)
        except _UnansweredError as error:
            return CheckRunHealthResult(WorkerStatus.RUNNING, f"Slurm does not answer: {error}", transient=True)
        if not state.explanation:
            return CheckRunHealthResult(WorkerStatus.RUNNING, state.name)
        ended = f"Slurm job {job} is {state.name}{state.details}: {state.explanation}"
        return CheckRunHealthResult(WorkerStatus.FAILED, ended, run_worker_id=job)

    def get_run_worker_debug_info(self, run: dg.DagsterRun, include_container_logs: bool | None = True) -> str | None:
        """Show what Slurm knows of a run's job, and the end of its output."""
        log = self.log(run.run_id)
        try:
            known = _slurm("scontrol", "--oneliner", "show", "job", run.tags.get(JOB_TAG, "0")).stdout.strip()
        except _UnansweredError as error:
            known = f"Slurm does not answer: {error}"
        return f"{known}\nThe end of {log}:\n{_tail(log)}"

    def terminate(self, run_id: str) -> bool:
        """Cancel a run's job.

        Returns:
            Whether Slurm was told to end it.

        Raises:
            MarsError: Slurm does not answer. The run goes on.
        """
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished or not run.tags.get(JOB_TAG):
            return False
        job = run.tags[JOB_TAG]
        try:
            job_state(job)  # while Slurm does not answer, the run is not marked as being cancelled
            self._instance.report_run_canceling(run)
            cancelled = _slurm("scancel", job)
        except _UnansweredError as error:
            raise MarsError(f"the run goes on, as Slurm does not answer: {error}. Terminate it again later") from None
        return cancelled.returncode == 0


def job_state(job: str) -> JobState:
    """Ask Slurm for the state of a job.

    Of a job that ended some minutes ago, only Slurm's accounting knows it, if there is one.

    Raises:
        _UnansweredError: Slurm does not answer, or what it answers tells nothing.
    """
    answer = _slurm("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%A|%T|%r|%N")
    if found := re.search(rf"^{job}\|([A-Z_]+)\|(.*)\|(.*)$", answer.stdout, re.MULTILINE):
        state, reason, nodes = found.groups()
        return JobState(state, "".join([f", {reason}" * (reason not in {"", "None"}), f", on {nodes}" * bool(nodes)]))
    if not (answer.returncode and "Invalid job id" in answer.stderr) and (answer.returncode or answer.stdout.strip()):
        raise _UnansweredError((answer.stderr or answer.stdout).strip()[:200])
    return _accounted(job)


def _accounted(job: str) -> JobState:
    try:
        answer = _slurm(
            "sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={job}", "--format=State,ExitCode,NodeList"
        )
    except _UnansweredError:
        return JobState("UNKNOWN")
    found = re.match(r"([A-Z_]+)[^|]*\|([^|]*)\|(.*)", answer.stdout)
    return JobState(found[1], f", exit code {found[2]}, on {found[3]}") if found else JobState("UNKNOWN")


def report_end(instance: dg.DagsterInstance, run_id: str, log: Path) -> None:
    """Note in the run why Slurm ended its job, if it did.

    At its time limit, or for another job, Slurm asks the process to end. The process then reports a failure without
    knowing the reason, which stands in the job's output.
    """
    run = instance.get_run_by_id(run_id)
    if run is not None and (found := _ENDED_BY_SLURM.search(_end(log))):
        instance.report_engine_event(f"Slurm ended the job of this run: {found[0]}", run, cls=SlurmRunLauncher)


def _script(instance: dg.DagsterInstance, run: dg.DagsterRun, log: Path) -> str:
    """Write the job's script: the run, and a note of why Slurm ended it.

    The trap keeps the shell alive when Slurm ends the job, and is not handed down to the run's process.
    """
    command = run_command(instance, run)
    note = [command[0], "-m", __name__, run.run_id, str(log)]
    lines = [
        "#!/bin/bash",
        "trap : TERM",
        shlex.join(command),
        "code=$?",
        f"[ $code -eq 0 ] || {shlex.join(note)}",
        "exit $code",
    ]
    return "\n".join(lines) + "\n"


def _slurm(program: str, *arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run one of Slurm's programs.

    Raises:
        _UnansweredError: it is missing, or does not end in time.
    """
    try:
        return subprocess.run(  # noqa: S603 - arguments are no shell's
            [program, *arguments],
            input=text or "",
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _UnansweredError(f"{program} did not end within {TIMEOUT:g} s") from None
    except OSError as error:
        raise _UnansweredError(f"{program} cannot be run ({error.strerror})") from None


def _tail(log: Path) -> str:
    return "\n".join(_end(log).splitlines()[-LINES:])


def _end(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(log.stat().st_size - 100_000, 0))
            return file.read().decode("utf-8", "replace")
    except OSError as error:
        return f"it cannot be read ({error.strerror})"


def _main(arguments: Sequence[str]) -> None:
    run_id, log = arguments
    with dg.DagsterInstance.get() as instance:
        report_end(instance, run_id, Path(log))


if __name__ == "__main__":
    _main(sys.argv[1:])
