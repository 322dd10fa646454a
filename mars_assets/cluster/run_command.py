"""The command that executes a run on a host."""

from __future__ import annotations

import dagster as dg
from dagster._grpc.types import ExecuteRunArgs

from mars_assets.errors import MarsError


def run_command(instance: dg.DagsterInstance, run: dg.DagsterRun) -> list[str]:
    """Write the command that executes a run, which needs no PATH.

    It has the instance's settings, in which secrets are names of environment variables.

    Raises:
        MarsError: the run was not submitted by Dagster's UI or daemon.
    """
    if run.job_code_origin is None:
        raise MarsError(f"the run {run.run_id} does not name its code: start it in the UI, or by a schedule or sensor")
    arguments = ExecuteRunArgs(
        job_origin=run.job_code_origin,
        run_id=run.run_id,
        instance_ref=instance.get_ref(),
        set_exit_code_on_failure=True,
    )
    return [run.job_code_origin.executable_path, "-m", "dagster", *arguments.get_command_args()[-3:]]
