"""Surroundings for the doctor's checks, and namespaces in which a command finds other mounts and another host name."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, WorkerStatus

from mars_assets.doctor.findings import Check, Finding, Surroundings
from mars_assets.lake import Lake


class JobsThatEnded(DefaultRunLauncher):
    """A launcher like those of Ray and Slurm. A run's tag ``job`` says how its job is."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        return CheckRunHealthResult(WorkerStatus[run.tags["job"]], "Slurm job 7: NODE_FAIL\nTraceback")

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Any) -> "JobsThatEnded":
        return cls(inst_data=inst_data)


def surroundings(folder: Path, **other: Any) -> Surroundings:
    """Of a lake that exists, with no variable set."""
    lake = Lake.at(folder / "lake")
    lake.root.mkdir(parents=True, exist_ok=True)
    return Surroundings(lake, **{"environment": {}, **other})


def only(findings: Iterable[Finding]) -> Finding:
    """The one finding."""
    (finding,) = findings
    return finding


def levels(check: Check, where: Surroundings) -> list[str]:
    return [finding.level for finding in check(where)]


def with_mounts(folder: Path, table: str) -> Path:
    """A folder like /proc, with a table of mounts."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mounts").write_text(table)
    return folder


def doctor(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mars_assets.cli", *arguments]


def environment(**variables: str) -> dict[str, str]:
    unset = ("DAGSTER_", "MARS_")
    return {key: value for key, value in os.environ.items() if not key.startswith(unset)} | variables


def on_another_host(
    name: str, command: list[str], set_up: str = "true", variables: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start a command in a mount and host-name namespace of its own, after a line of shell there."""
    script = f'mount --make-rprivate / && hostname "$0" && {{ {set_up}; }} && exec "$@"'
    return subprocess.Popen(
        ["unshare", "--mount", "--uts", "bash", "-c", script, name, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**(variables or {})),
    )


def report(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a command's --json says, once it has ended."""
    try:
        out, err = process.communicate(timeout=200)
    finally:
        process.kill()
    assert out, err[-3000:]
    said: dict[str, Any] = json.loads(out)
    assert process.returncode == int(said["problems"] > 0)
    return said


def of_check(said: Mapping[str, Any], name: str) -> list[dict[str, str]]:
    return [finding for finding in said["findings"] if finding["check"] == name]


def can_be_other_hosts() -> bool:
    """Whether this process may have namespaces with mounts and a host name of their own."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "--mount", "--uts", "true"], capture_output=True).returncode == 0


needs_namespaces = pytest.mark.skipif(
    not can_be_other_hosts() and not os.environ.get("CI"), reason="no right to unshare mounts and host names"
)
