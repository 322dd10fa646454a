"""The hand-shake of hosts that run the doctor at the same time.

Each host replaces a small file in the lake every half second, holds a lock, and looks for the files of the others. The
time of a file, by the file server's clock, shows how long a write took to be seen. Each tells the others what it saw,
so that all report both ways.
"""

from __future__ import annotations

import os
import statistics
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ValidationError

from mars_assets.doctor.file_system import is_usable, lock_is_free
from mars_assets.doctor.findings import Finding, Surroundings, note, ok, problem
from mars_assets.doctor.hosts import own_record, read_records
from mars_assets.storage.files import write_bytes
from mars_assets.storage.locks import lock_of

_BEAT = 0.5
"""Seconds between two writes."""
_ENOUGH = 3
"""Writes of a host that are to be seen."""
_LATE = 5.0
"""Seconds after which a write that is seen is noted."""
_NOW = 3600.0
"""A host with a record younger than this is waited for."""


class Seen(BaseModel):
    """What a host saw of another one's writes.

    Args:
        writes: how many it saw.
        usual: median of the seconds until it saw them.
        longest: the longest of them.
        lock_held: whether the other's lock kept it out; None if it did not try.
    """

    writes: int = 0
    usual: float = 0.0
    longest: float = 0.0
    lock_held: bool | None = None


class Greeting(BaseModel):
    """The content of a host's file.

    Args:
        host: its name.
        session: random id of its command.
        beat: number of the write.
        seen: what it saw of others, by their sessions.
    """

    host: str
    session: str
    beat: int
    seen: dict[str, Seen]


class _Other:
    """Another host's writes as this one sees them."""

    def __init__(self, greeting: Greeting) -> None:
        self.greeting = greeting
        self.delays: list[float] = []
        self.lock_held: bool | None = None

    def seen(self) -> Seen:
        usual, longest = (statistics.median(self.delays), max(self.delays)) if self.delays else (0.0, 0.0)
        return Seen(writes=len(self.delays), usual=usual, longest=longest, lock_held=self.lock_held)


def greetings(surroundings: Surroundings) -> Iterator[Finding]:
    """Check that hosts see each other's writes and locks, and measure when."""
    if not surroundings.wait or not is_usable(surroundings):
        return
    lake, session = surroundings.lake, uuid.uuid4().hex
    others: dict[str, _Other] = {}
    until = time.monotonic() + surroundings.wait
    beat = 0
    with lock_of(_lock(lake.greeting(surroundings.host))):
        while time.monotonic() < until:
            beat += 1
            said = Greeting(
                host=surroundings.host,
                session=session,
                beat=beat,
                seen={other.greeting.session: other.seen() for other in others.values()},
            )
            write_bytes(lake.greeting(surroundings.host), said.model_dump_json().encode())
            if _is_finished(others, session, surroundings):
                break
            next_beat = time.monotonic() + _BEAT
            while time.monotonic() < next_beat:
                _look(others, surroundings)
                time.sleep(0.01)
    met = [other for other in others.values() if other.delays]
    yield from (finding for other in met for finding in exchanged(other.greeting, other.seen(), session))
    if not met:
        advice = "run mars-assets doctor --wait there at the same time; if it does, the lake is not the same folder"
        yield problem(f"no other host was seen in {surroundings.wait:.0f} s", advice)


def exchanged(greeting: Greeting, seen: Seen, session: str) -> Iterator[Finding]:
    """Say what two hosts saw of each other.

    Args:
        greeting: the other's last write.
        seen: what this host saw of the other.
        session: this host's session.
    """
    name, theirs = greeting.host, greeting.seen.get(session, Seen())
    if False in (seen.lock_held, theirs.lock_held):
        yield problem(
            f"{name}: a lock that one host holds does not keep the other out: both would publish at once",
            "mount the lake so that locks hold between hosts (NFS without local_lock and nolock, Lustre with flock)",
        )
    if not theirs.writes:
        yield problem(f"{name}: it did not see what this host wrote", "look at its mount, and wait longer on both")
        return
    times = (
        f"{name}: it sees what this host writes after {theirs.usual:.2f} s ({theirs.longest:.2f} s at most), this host "
        f"sees what it writes after {seen.usual:.2f} s ({seen.longest:.2f} s at most)"
        f"{', locks hold between them' if seen.lock_held and theirs.lock_held else ''}"
    )
    if max(theirs.longest, seen.longest) > _LATE:
        yield note(times, "until then readers take the former version; mount NFS with actimeo=3 for less")
    else:
        yield ok(times)


def _look(others: dict[str, _Other], surroundings: Surroundings) -> None:
    """Read the files of other hosts, and note when each new one is seen."""
    lake = surroundings.lake
    for path in lake.hosts.glob(lake.greeting("*").name):
        if path == lake.greeting(surroundings.host):
            continue
        try:
            with path.open("rb") as file:
                greeting = Greeting.model_validate_json(file.read())
                written = os.fstat(file.fileno()).st_mtime
        except (OSError, ValidationError):
            continue
        other = others.get(greeting.host)
        if other is None or other.greeting.session != greeting.session:
            others[greeting.host] = _Other(greeting)  # perhaps left by an earlier command: the next one counts
        elif other.greeting.beat != greeting.beat:
            other.greeting = greeting
            other.delays.append(max(surroundings.clock() - own_record(surroundings).ahead - written, 0.0))
            if other.lock_held is None:
                other.lock_held = not lock_is_free(_lock(path))


def _is_finished(others: dict[str, _Other], session: str, surroundings: Surroundings) -> bool:
    """Test whether all that are expected have seen enough of each other."""
    done = {
        name
        for name, other in others.items()
        if len(other.delays) >= _ENOUGH and other.greeting.seen.get(session, Seen()).writes >= _ENOUGH
    }
    own = own_record(surroundings)
    records = read_records(surroundings.lake)[0]
    expected = {record.host for record in records if abs(own.time - record.time) < _NOW} - {own.host}
    expected |= {name for name, other in others.items() if other.delays}
    return bool(done) and expected <= done


def _lock(greeting: Path) -> Path:
    return greeting.with_suffix(".lock")
