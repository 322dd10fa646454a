"""Findings of the checks, and the loop that runs the checks.

A check is a function that takes :class:`Surroundings` and returns findings. Its name is that of the function. No check
can end the command: an error, or a check that never ends, is a finding as well.
"""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Literal, NamedTuple, TypeAlias

from mars_assets.lake import Lake
from mars_assets.progress import SILENT, Progress
from mars_assets.storage.files import printable

Level = Literal["ok", "note", "problem"]
_PROJECT = Path(__file__).parent.parent.parent
_SOON = 1.0
"""Seconds after which a check is announced."""
_SECRET_NAME = re.compile(r"(PASSWORD|PASSWD|SECRET|TOKEN|KEY)$", re.IGNORECASE)
_SHORTEST_SECRET = 4
_IN_ADDRESS = re.compile(r"(?<=://)([^/\s@]+)(?=@)")


class Finding(NamedTuple):
    """What a check found.

    Args:
        level: "ok", "note" for what may be intended, or "problem".
        what: what was measured, or what is wrong.
        advice: what to do.
    """

    level: Level
    what: str
    advice: str = ""


def ok(what: str) -> Finding:
    """Report that something is as it should be."""
    return Finding("ok", what)


def note(what: str, advice: str = "") -> Finding:
    """Report something that may be intended."""
    return Finding("note", what, advice)


def problem(what: str, advice: str) -> Finding:
    """Report something that is wrong."""
    return Finding("problem", what, advice)


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What the checks look at.

    Args:
        lake: the lake.
        environment: variables of the environment.
        project: folder of the project's clone.
        proc: the kernel's files on processes and mounts.
        host: name of this host.
        clock: the system's clock, in seconds since 1970.
        wait: seconds in which another host may answer; 0: none is waited for.
        progress: takes reports from checks that take more than a second.
    """

    lake: Lake
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    project: Path = _PROJECT
    proc: Path = Path("/proc")
    host: str = field(default_factory=platform.node)
    clock: Callable[[], float] = time.time
    wait: float = 0.0
    progress: Progress = SILENT

    def concealed(self, text: str) -> str:
        """Remove passwords, tokens and keys from a text that comes from elsewhere."""
        for name, value in self.environment.items():
            if len(value) >= _SHORTEST_SECRET and _SECRET_NAME.search(name):
                text = text.replace(value, "***")
        return _IN_ADDRESS.sub("***", text)


Check: TypeAlias = Callable[[Surroundings], Iterable[Finding]]


class Result(NamedTuple):
    """A finding with the check that made it and the group of that check."""

    group: str
    check: str
    finding: Finding


def run_checks(
    groups: Mapping[str, tuple[Check, ...]], surroundings: Surroundings, limit: float = 120.0
) -> Iterator[Result]:
    """Run all checks and yield their findings as they come.

    Args:
        groups: the checks, by the title of their group.
        surroundings: what the checks look at.
        limit: seconds after which a check is given up, such as one on a file server that does not answer.
    """
    for group, checks in groups.items():
        for check in checks:
            for finding in findings_of(check, surroundings, limit + surroundings.wait):
                yield Result(group, title_of(check), finding)


def title_of(check: Check) -> str:
    """Return the name of a check in words."""
    return check.__name__.replace("_", " ")


def findings_of(check: Check, surroundings: Surroundings, limit: float) -> list[Finding]:
    """Run a check, in a thread that is left behind if it does not end."""
    found: list[Finding] = []
    name = title_of(check)

    def work() -> None:
        try:
            found.extend(check(surroundings))
        except BaseException as error:  # whatever a library raises, the other checks are to run
            cause = surroundings.concealed(first_line(error))
            found.append(
                problem(
                    f"the check '{name}' failed ({type(error).__name__}: {cause})",
                    "look for the cause in what it checks; if there is none, report this line",
                )
            )

    worker = Thread(target=work, name=name, daemon=True)
    worker.start()
    worker.join(_SOON)
    if worker.is_alive():
        surroundings.progress.say(f"{name} ...")
        worker.join(limit)
    if worker.is_alive():
        advice = "look whether the file server or the service that it asks answers"
        return [*found, problem(f"the check '{name}' did not end within {limit:.0f} s", advice)]
    return found


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    lines = str(error).strip().splitlines()
    return printable(lines[0]) if lines else ""
