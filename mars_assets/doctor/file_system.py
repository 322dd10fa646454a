"""Checks of the lake's file system, measured on it."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import statistics
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mars_assets.doctor.findings import Check, Finding, Surroundings, note, ok, problem
from mars_assets.doctor.mounts import Mount, mount_of
from mars_assets.doctor.other_process import SIZE, hold_filelock, hold_flock, other_process, replace_often

_GIB = 2**30
_LITTLE, _TOO_LITTLE = 50 * _GIB, 2 * _GIB
"""Free space: products of 0.1 to 1 GiB, their crops and maps come by the dozen."""
_FEW_FILES = 100_000
_SLOW_FSYNC = 0.5
_SECONDS = 0.7
"""How long a file is replaced and read."""
_LOCKS = "mount it so that locks hold between hosts"


def lake_folder(surroundings: Surroundings) -> Iterator[Finding]:
    """Check that the lake exists and can be written."""
    root = surroundings.lake.root
    if not root.is_dir():
        yield problem(f"{root} does not exist", "set MARS_LAKE, mount it, or create it with mars-assets init")
        return
    try:
        with _folder(surroundings):
            yield ok(str(root))
    except OSError as error:
        where = error.filename or root
        yield problem(
            f"{where} cannot be written ({error.strerror})", "check the permissions of the lake, and the mount"
        )


def type_of_file_system(surroundings: Surroundings) -> Iterator[Finding]:
    """Check the mount's options for locks that hold on one host only."""
    root = surroundings.lake.root
    mount = mount_of(root, surroundings.proc)
    if mount is None:
        yield note("the system lists no mounts, so the type of the file system is not known")
        return
    yield from verdict(mount)


def verdict(mount: Mount) -> list[Finding]:
    """Say what a type of file system and its options mean for a shared lake."""
    name = f"{mount.kind} at {mount.point}"
    options = mount.options
    local_locks = [option for option in options if option in ("local_lock=all", "local_lock=flock", "nolock")]
    if mount.kind in ("nfs", "nfs4"):
        findings = []
        if local_locks:
            findings.append(
                problem(f"{name} has {local_locks[0]}: locks hold on this host only", f"remove {local_locks[0]}")
            )
        if {"soft", "softerr"} & {*options}:
            advice = "mount it with hard, so that writes wait for the server"
            findings.append(note(f"{name} is mounted soft: writes fail while the server is away", advice))
        return findings or [ok(f"{name}, locks are the server's; a rename may be seen late (see hosts)")]
    if mount.kind == "lustre":
        if "localflock" in options or "flock" not in options:
            has = "has localflock" if "localflock" in options else "is mounted without flock"
            return [problem(f"{name} {has}: locks hold on one host at most", "mount it with -o flock")]
        return [ok(f"{name}, with flock")]
    if mount.kind in ("cifs", "smb3", "smbfs") and "nobrl" in options:
        return [problem(f"{name} has nobrl: locks hold on this host only", "remove nobrl")]
    if mount.is_network:
        return [note(f"{name}: whether locks hold between hosts depends on its server", _LOCKS)]
    if mount.kind in ("tmpfs", "ramfs"):
        return [note(f"{name}: the lake is lost when the machine stops", "use a folder on a disk")]
    return [ok(f"{name}, of this host only")]


def rename(surroundings: Surroundings) -> Iterator[Finding]:
    """Check that a file is replaced at once, and measure when it is seen."""
    if not is_usable(surroundings):
        return
    with _folder(surroundings) as folder, other_process(replace_often, folder / "replaced"):
        reads, delays, broken = read_often(folder / "replaced", _SECONDS)
    if broken:
        advice = "use a file system whose rename replaces a file at once"
        yield problem(f"{broken} of {reads} reads found no file, or half of one, while it was replaced", advice)
    elif len(delays) < 2:
        yield problem("what another process wrote was not seen", "use a file system without a cache for each process")
    else:
        usual, longest = 1e3 * statistics.median(delays), 1e3 * max(delays)
        yield ok(
            f"{reads} reads of a file that was replaced {len(delays)} times were whole; another process sees it after "
            f"{usual:.1f} ms ({longest:.0f} ms at most)"
        )


def read_often(path: Path, seconds: float) -> tuple[int, list[float], int]:
    """Read a file for a while.

    Returns:
        The number of reads, the seconds after which each new version was seen, and the number of reads that failed.
    """
    reads = broken = 0
    delays: list[float] = []
    last = b""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        reads += 1
        try:
            content = path.read_bytes()
        except OSError:  # on NFS also that of a file that is no longer there
            broken += 1
            continue
        stamp = content[:21]
        if not stamp or content != stamp * (SIZE // 21):
            broken += 1
        elif stamp != last:
            delays.append(max(time.monotonic_ns() - int(stamp), 0) / 1e9)
            last = stamp
    return reads, delays, broken


def fsync(surroundings: Surroundings) -> Iterator[Finding]:
    """Check that files and folders can be flushed to disk, and how fast."""
    if not is_usable(surroundings):
        return
    with _folder(surroundings) as folder:
        try:
            taken = [_flushed(folder / str(number)) for number in range(10)]
        except OSError as error:
            yield problem(f"fsync fails ({error.strerror})", "use a file system that can flush files and folders")
            return
    usual = statistics.median(taken)
    if usual > _SLOW_FSYNC:
        yield note(f"fsync takes {usual:.1f} s: every file that is written waits for it", "look at the disk's load")
    else:
        yield ok(f"a file and its folder are on disk after {1e3 * usual:.1f} ms")


def _flushed(path: Path) -> float:
    start = time.monotonic()
    with path.open("wb") as file:
        file.write(b"content")
        file.flush()
        os.fsync(file.fileno())
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return time.monotonic() - start


def flock(surroundings: Surroundings) -> Iterator[Finding]:
    """Check that flock excludes a second process, and ends with a killed one."""
    yield from lock_findings(surroundings, "flock", hold_flock, _flock_is_free)


def filelock(surroundings: Surroundings) -> Iterator[Finding]:
    """Check the same of the library filelock, which publishing uses."""
    yield from lock_findings(surroundings, "filelock", hold_filelock, lock_is_free)


def lock_findings(
    surroundings: Surroundings,
    name: str,
    hold: Callable[[Path], None],
    is_free: Callable[[Path], bool],
    release: float = 10.0,
) -> Iterator[Finding]:
    """Check a kind of lock.

    Args:
        surroundings: what the checks look at.
        name: name of the kind.
        hold: function of the second process that holds the lock at a path.
        is_free: tests whether the lock at a path is free.
        release: seconds in which the lock of a killed process must be free.
    """
    if not is_usable(surroundings):
        return
    with _folder(surroundings) as folder:
        path = folder / "lock"
        try:
            with other_process(hold, path):
                excluded = not is_free(path)
            killed = time.monotonic()
            while not is_free(path) and time.monotonic() < killed + release:
                time.sleep(0.02)
            released = is_free(path)
            seconds = time.monotonic() - killed
        except OSError as error:
            yield problem(f"{name} fails ({error.strerror or error})", _LOCKS)
            return
    if not excluded:
        yield problem(f"{name} did not keep a second process out: two runs would publish at once", _LOCKS)
    elif not released:
        yield problem(f"{name} of a killed process was held for {release:.0f} s and more", _LOCKS)
    else:
        yield ok(f"{name} keeps a second process out, and was free {1e3 * seconds:.0f} ms after its holder was killed")


def _flock_is_free(path: Path) -> bool:
    with path.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        return True


def lock_is_free(path: Path) -> bool:
    """Test whether a lock of the library filelock is free."""
    try:
        with FileLock(path, blocking=False):
            return True
    except Timeout:
        return False


def names(surroundings: Surroundings) -> Iterator[Finding]:
    """Check that capital letters make another name, and that long names are possible."""
    if not is_usable(surroundings):
        return
    with _folder(surroundings) as folder:
        distinct = case_matters(folder)
        try:
            (folder / ("n" * 255)).write_text("long")
            long = True
        except OSError:
            long = False
    if not distinct:
        advice = "use a file system that tells upper from lower case, as images may differ in nothing else"
        yield problem("names that differ in upper and lower case are one file", advice)
    if not long:
        yield problem("names of 255 bytes are refused", "use another file system, as exports have long names")
    if distinct and long:
        yield ok("upper and lower case differ, 255 bytes are possible")


def case_matters(folder: Path) -> bool:
    """Test whether names that differ in upper and lower case are two files."""
    (folder / "name").write_text("small")
    (folder / "NAME").write_text("capital")
    return (folder / "name").read_text() == "small"


def free_space(surroundings: Surroundings) -> Iterator[Finding]:
    """Check how much space and how many files are left."""
    root = surroundings.lake.root
    if not root.is_dir():
        return
    free, left = shutil.disk_usage(root).free, os.statvfs(root).f_favail
    advice = "free some, or move the lake"
    if free < _TOO_LITTLE:
        yield problem(f"{free / _GIB:.1f} GiB are free", advice)
    elif free < _LITTLE:
        yield note(f"{free / _GIB:.0f} GiB are free: enough for some dozens of observations", advice)
    else:
        yield ok(f"{free / _GIB:.0f} GiB are free")
    if 0 < left < _FEW_FILES and os.statvfs(root).f_files:
        yield problem(f"only {left} more files can be created: an observation has some hundreds", advice)


def is_usable(surroundings: Surroundings) -> bool:
    """Test whether there is a lake to try things in.

    :func:`lake_folder` says why not.
    """
    return surroundings.lake.root.is_dir() and os.access(surroundings.lake.root, os.W_OK)


@contextmanager
def _folder(surroundings: Surroundings) -> Iterator[Path]:
    """Create a folder in the lake to try things in.

    What a killed command leaves of it is swept like other leftovers.
    """
    hosts = surroundings.lake.hosts
    hosts.mkdir(exist_ok=True)
    folder = hosts / f".doctor.tmp-{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


CHECKS: tuple[Check, ...] = (
    lake_folder,
    type_of_file_system,
    rename,
    fsync,
    flock,
    filelock,
    names,
    free_space,
)
