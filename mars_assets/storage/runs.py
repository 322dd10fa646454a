"""The run that this process works for, and whether it is still in force.

An orchestrator may take a run for failed whose process goes on, for example on a host that was cut off. What such a
process still writes is not wanted: another run does the same work by then.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from mars_assets.errors import MarsError, SupersededError

State: TypeAlias = Literal["in force", "over", "unknown"]
"""Of a run; unknown while the orchestrator's database does not answer."""

_ASK_EVERY = 5.0
"""Seconds between two questions before ordinary writes."""
_ASK_FOR = 60.0
"""Seconds for which the database may be away before something is published."""


@dataclass(frozen=True)
class Run:
    """A run of an orchestrator.

    Args:
        id: of the run.
        state_of: asks for the state of a run by its id.
        process: that works for the run; its children do not ask.
        asked: when its state was asked last, by the monotonic clock.
    """

    id: str
    state_of: Callable[[str], State]
    process: int = field(default_factory=os.getpid)
    asked: list[float] = field(default_factory=lambda: [-_ASK_EVERY])

    def require_in_force(self, patience: float = _ASK_FOR) -> None:
        """Check that the run is in force.

        Args:
            patience: seconds for which the answer may be awaited.

        Raises:
            SupersededError: it is over.
            MarsError: nobody answers.
        """
        end = time.monotonic() + patience
        while (state := self.state_of(self.id)) == "unknown" and time.monotonic() < end:
            time.sleep(min(1.0, patience))
        if state == "over":
            raise _superseded()
        if state == "unknown":
            raise MarsError(
                f"the database of the runs did not answer for {patience:.0f} seconds, so that {worker()} may have been "
                "given up: nothing was published. Run again; finished work is retained"
            )

    def refuse_if_over(self) -> None:
        """Check that nobody says that the run is over.

        Raises:
            SupersededError: it is over.
        """
        if self.state_of(self.id) == "over":
            raise _superseded()


_lock = threading.Lock()
_runs: list[Run] = []


@contextmanager
def working_for(run: Run) -> Iterator[None]:
    """State that this process works for a run."""
    _runs.append(run)
    try:
        yield
    finally:
        _runs.remove(run)


def current_run() -> Run | None:
    """Return the run that this process works for; None outside of runs."""
    return _runs[-1] if _runs and _runs[-1].process == os.getpid() else None


def worker() -> str:
    """Name the run that this process works for, or else the process, for people."""
    run = current_run()
    name = f"process {os.getpid()}" if run is None else f"run {run.id[:8]}"
    return f"{name} on {platform.node()}"


def _superseded() -> SupersededError:
    return SupersededError(
        f"{worker()} was given up while its process went on, as if its host was cut off: nothing more of it is "
        "written. Another run does its work"
    )


def refuse_given_up() -> None:
    """Refuse to go on if this process's run is over.

    Every write asks, so that a process whose run was given up ends soon; the database is asked every few seconds. While
    it does not answer, the work goes on.

    Raises:
        SupersededError: the run is over.
    """
    run = current_run()
    if run is None:
        return
    with _lock:
        if time.monotonic() - run.asked[0] < _ASK_EVERY:
            return
        run.asked[0] = time.monotonic()
    run.refuse_if_over()
