"""The run launcher for Ray: every run is a Ray job.

``dagster.yaml`` names it at the level Ray (``deploy/dagster.ray.yaml``). It is dagster-ray's, but tells a head that
does not answer from a run that has died.
"""

from __future__ import annotations

import shlex
import socket
from urllib.parse import urlsplit

import dagster as dg
import requests
from dagster._core.launcher import LaunchRunContext
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster_ray.core.run_launcher import RayRunLauncher, get_job_submission_id_from_run_id
from tenacity import retry, retry_if_exception, stop_after_delay, wait_fixed

from mars_assets.cluster.run_command import run_command
from mars_assets.cluster.tags import RAY_JOB_TAG
from mars_assets.errors import MarsError

TIMEOUT = 10.0
"""Seconds to connect to the head. Ray's client has no limit: it waits two minutes for a host that is gone."""
_UNREACHABLE = (OSError, requests.RequestException)  # requests' errors are OSErrors, unless a library wraps them


def _has_no_agent(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and "No available agent" in str(error)


_agents_awaited = retry(
    retry=retry_if_exception(_has_no_agent), wait=wait_fixed(2), stop=stop_after_delay(60), reraise=True
)
"""Calls again while Ray answers that none of its hosts takes jobs yet, as in the first seconds of a host."""


def _is_job(run: dg.DagsterRun) -> bool:
    """Test whether a run was submitted to Ray.

    One that repeats another has that one's tag.
    """
    return bool(run.tags.get(RAY_JOB_TAG) == get_job_submission_id_from_run_id(run.run_id))


class RayLauncher(RayRunLauncher):
    """dagster-ray's run launcher, with limits of time and a head that may be away."""

    STARTS_LATE = True
    """A run may wait for hosts for days before it starts: see :func:`~mars_assets.cluster.starts.fail_dead_starts`."""

    def launch_run(self, context: LaunchRunContext) -> None:
        """Submit a run to Ray.

        Raises:
            MarsError: the head does not answer.
        """
        run = context.dagster_run
        command = shlex.join(run_command(self._instance, run))
        submission = get_job_submission_id_from_run_id(run.run_id)
        self._instance.add_run_tags(run.run_id, {RAY_JOB_TAG: submission})
        try:
            self._connect()
            _agents_awaited(self._launch_ray_job)(submission, command, run)
        except _UNREACHABLE as error:
            raise MarsError(
                f"Ray's head at {self.address} did not accept the run ({error}). Start it with deploy/ray_head.sh, and "
                "start the run again"
            ) from None

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Ask Ray for the state of a run's job.

        While the head does not answer, the run counts as running, since its process needs no head. dagster-ray raises
        an error then, which also keeps Dagster's monitoring from ending the run at its time limit.
        """
        if not _is_job(run):
            return CheckRunHealthResult(WorkerStatus.RUNNING, "not a Ray job: it was started at the command line")
        try:
            self._connect()
            health: CheckRunHealthResult = super().check_run_worker_health(run)
        except _UNREACHABLE as error:
            return CheckRunHealthResult(WorkerStatus.RUNNING, f"Ray's head does not answer: {error}", transient=True)
        if health.status != WorkerStatus.UNKNOWN:
            return health
        if "status code 404" not in (health.msg or ""):
            return CheckRunHealthResult(WorkerStatus.RUNNING, f"Ray's head is in trouble: {health.msg}", transient=True)
        return CheckRunHealthResult(
            WorkerStatus.FAILED, "Ray's head does not know the job of this run: it was started anew, and knows none"
        )

    def terminate(self, run_id: str) -> bool:
        """Stop a run's job.

        Returns:
            Whether Ray was told to end it.

        Raises:
            MarsError: the head does not answer. The run goes on.
        """
        run = self._instance.get_run_by_id(run_id)
        if run is None or not _is_job(run):
            return False
        try:
            self._connect()
        except _UNREACHABLE as error:
            raise MarsError(
                f"the run goes on, as Ray's head at {self.address} does not answer ({error}). Terminate it again later"
            ) from None
        return bool(super().terminate(run_id))

    def _connect(self) -> None:
        """Connect to the head, and disconnect.

        Raises:
            OSError: there is no connection in time.
        """
        address = urlsplit(self.address)
        with socket.create_connection((address.hostname or "", address.port or 80), TIMEOUT):
            pass
