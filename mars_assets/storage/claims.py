"""Claims: who works on a result, and who may publish it.

Several processes, on one host or on several that share a file system, may be asked for the same result. One of them
claims it; the others wait, and are told for whom. The unfinished work of a claim lies in a folder of its own. A claim
is given up

- if the lock of its holder is free: the holder was killed, or its host lost the locks that it held on a file system;
- or if the holder's run is over, whatever its process does: an orchestrator takes the run of a host that it cannot
  reach for failed, while the host computes on.

Then the next one takes it over, with the unfinished work, and the former holder cannot publish any more: that is done
under a lock, by the holder of the claim alone, and only if its run is in force. It ends with :class:`SupersededError`,
which says who took over, at the latest when it publishes; see also :func:`refuse_given_up`.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import Timeout

from mars_assets.errors import DamagedFileError, SupersededError
from mars_assets.progress import SILENT, Progress
from mars_assets.storage.files import TEMPORARY, explained_errors, read_json, write_json
from mars_assets.storage.locks import lock_of
from mars_assets.storage.runs import current_run, worker

_CLAIM, _LOCK = "claim.json", ".lock"
_ATTEMPTS = 5
_LOOK_EVERY = 1.0
"""Seconds between two looks at a claim that somebody else holds."""


@dataclass(frozen=True)
class _Holder:
    """What ``claim.json`` says.

    Args:
        token: name of the claim, of its lock and of the folder of its work.
        who: the holder, for people.
        run: the holder's run; None if it works for no run.
        since: when it claimed.
        published: when it published; None if it has not.
    """

    token: str
    who: str
    run: str | None
    since: str
    published: str | None = None


@dataclass(frozen=True)
class Claim:
    """A claim of this process.

    Args:
        result: what is claimed.
        place: folder of the claims on it.
        folder: has the unfinished work; what a former holder left is there.
        holder: what ``claim.json`` says while the claim is in force.
    """

    result: Path
    place: Path
    folder: Path
    holder: _Holder

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """Hold the lock under which a result is replaced, if this process may.

        Raises:
            SupersededError: the claim was taken over, or this process's run is over.
        """
        with explained_errors(self.place), lock_of(self.place / _LOCK):
            holder = _read(self.place)
            if holder is None or holder.token != self.holder.token:
                raise SupersededError(f"{self.result}: {_outcome(holder)}; nothing of this process is used")
            if (run := current_run()) is not None:
                run.require_in_force()
            yield
            write_json(self.place / _CLAIM, asdict(self.holder) | {"published": _now()})


@contextmanager
def claim(result: Path, place: Path, progress: Progress = SILENT) -> Iterator[Claim]:
    """Claim a result, as soon as nobody else works on it.

    The unfinished work remains if the block fails, for the next one that claims the result. What lies in ``place``
    itself is of an earlier version of this project, and is such work, too.

    Args:
        result: what is claimed, for messages.
        place: folder of the claims on it. It holds nothing else.
        progress: told for whom this waits.

    Raises:
        MarsError: the disk is full or the folder is not writable.
    """
    token = uuid.uuid4().hex[:12]
    lock = lock_of(place / f"{token}.lock")
    with explained_errors(place):
        place.mkdir(parents=True, exist_ok=True)
        with lock:
            mine = Claim(result, place, place / token, _take(result, place, token, progress))
            try:
                yield mine
            finally:
                _leave(mine)


def remove_if_empty(place: Path) -> None:
    """Remove a folder of claims without work and publications."""
    with lock_of(place / _LOCK):
        holder = _read(place)
        if not has_work(place) and (holder is None or not holder.published):
            shutil.rmtree(place)


def has_work(place: Path) -> bool:
    """Test whether a folder of claims has work that is in progress or unfinished."""
    return place.is_dir() and any(path.name not in (_CLAIM, _LOCK) for path in place.iterdir())


def _take(result: Path, place: Path, token: str, progress: Progress) -> _Holder:
    """Write the claim, as soon as the former one is given up."""
    run, waiting_for = current_run(), None
    while True:
        place.mkdir(parents=True, exist_ok=True)  # somebody may have removed it, see remove_if_empty
        with lock_of(place / _LOCK):
            holder = _read(place)
            is_killed = holder is None or _is_free(place / f"{holder.token}.lock")
            if is_killed or _is_over(holder):
                _inherit(place, holder, token, may_move=is_killed)
                taken = _Holder(token, worker(), None if run is None else run.id, _now())
                write_json(place / _CLAIM, asdict(taken))
                return taken
        if holder != waiting_for and holder is not None:
            progress.say(f"{result}: waiting for {holder.who}, which has worked on it since {holder.since}")
            waiting_for = holder
        time.sleep(_LOOK_EVERY)


def _inherit(place: Path, former: _Holder | None, token: str, *, may_move: bool) -> None:
    """Take over the unfinished work of a former holder.

    That of others that were killed is removed. A holder that may be alive keeps its own: what it goes on writing must
    not get into the copy.
    """
    folder = place / token
    theirs = None if former is None or former.published else place / former.token
    if theirs is not None and theirs.is_dir():
        if may_move:
            os.replace(theirs, folder)
        else:
            _copy_work(theirs, folder)
    _discard_killed(place, token)
    kept = {_CLAIM, *(name for lock in place.glob("*.lock") for name in (lock.name, lock.stem))}
    for path in [path for path in place.iterdir() if path.name not in kept]:
        if former is None:  # of an earlier version of this project
            folder.mkdir(exist_ok=True)
            os.replace(path, folder / path.name)
        else:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    folder.mkdir(exist_ok=True)


def _copy_work(theirs: Path, folder: Path) -> None:
    """Copy work that may go on meanwhile.

    JSON files come first, as they say how far the others are: those may be ahead of what they say, but not behind. If
    files disappear again and again, nothing is copied.
    """
    for _ in range(_ATTEMPTS):
        try:
            shutil.copytree(theirs, folder, ignore=_all_but_json)
            shutil.copytree(theirs, folder, ignore=_temporary, dirs_exist_ok=True, copy_function=_copy_new)
            return
        except (shutil.Error, FileNotFoundError):
            shutil.rmtree(folder, ignore_errors=True)


def _all_but_json(folder: str, names: list[str]) -> set[str]:
    files = {name for name in names if not name.endswith(".json") and not Path(folder, name).is_dir()}
    return files | _temporary(folder, names)


def _temporary(_: str, names: list[str]) -> set[str]:
    return {name for name in names if TEMPORARY in name}


def _copy_new(source: str, target: str) -> None:
    """Copy a file that was not copied yet."""
    if not Path(target).exists():
        shutil.copy2(source, target)


def _discard_killed(place: Path, token: str) -> None:
    """Remove the work of holders that were killed, but not that of a token."""
    for lock in place.glob("*.lock"):
        if lock.name not in (_LOCK, f"{token}.lock") and _is_free(lock):
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink(missing_ok=True)


def _leave(mine: Claim) -> None:
    """Remove work that nobody will continue.

    That was published, is empty, or was taken over.
    """
    with lock_of(mine.place / _LOCK):
        holder = _read(mine.place)
        is_mine = holder is not None and holder.token == mine.holder.token
        is_unfinished = is_mine and holder is not None and not holder.published and any(mine.folder.iterdir())
        if not is_unfinished:
            shutil.rmtree(mine.folder, ignore_errors=True)
            (mine.place / f"{mine.holder.token}.lock").unlink(missing_ok=True)
        if is_mine:
            _discard_killed(mine.place, mine.holder.token)


def _read(place: Path) -> _Holder | None:
    with suppress(FileNotFoundError, DamagedFileError, TypeError):
        return _Holder(**read_json(place / _CLAIM))
    return None


def _is_free(lock: Path) -> bool:
    """Test whether nobody holds a lock."""
    try:
        with lock_of(lock, timeout=0):
            return True
    except Timeout:
        return False


def _is_over(holder: _Holder | None) -> bool:
    """Test whether the run of a holder is known to be over."""
    run = current_run()
    return run is not None and holder is not None and holder.run is not None and run.state_of(holder.run) == "over"


def _outcome(holder: _Holder | None) -> str:
    """Say who took a claim over, and how far that is."""
    if holder is None:
        return "somebody deleted the claim on it"
    if holder.published:
        return f"{holder.who} took it over and published it at {holder.published}"
    return f"{holder.who} took it over at {holder.since}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
