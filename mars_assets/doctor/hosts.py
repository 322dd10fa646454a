"""Records of the hosts that use a lake, and what differs between them.

Every ``mars-assets doctor`` writes the record of its host into the lake, and compares it with the others'.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from mars_assets.doctor.file_system import is_usable
from mars_assets.doctor.findings import Check, Finding, Surroundings, note, ok, problem
from mars_assets.doctor.machine import gpus_of_torch
from mars_assets.doctor.mounts import mount_of
from mars_assets.doctor.wording import duration
from mars_assets.lake import Lake
from mars_assets.provenance import software
from mars_assets.storage.files import read_json, write_bytes, write_json
from mars_assets.storage.locks import lock_of

CLOCKS = 2.0
"""Seconds by which clocks may be apart: more, and bounds on runs and heartbeats are wrong."""
_DIGITS = 10
_OLD = 7 * 24 * 3600.0
_MORE_PACKAGES = ("ray", "dagster-ray", "dagster-postgres", "filelock")
_LIKE_OURS = "install the same on both (make .venv), and start Dagster and Ray again"


class HostRecord(BaseModel):
    """What a host wrote about itself.

    Args:
        host: its name.
        boot: id of its boot.
        time: when it was written, by the host's clock, in seconds since 1970.
        ahead: seconds by which its clock is ahead of the file server's.
        lake: the path of the lake there.
        lake_id: the lake's random id, as it was read there.
        inode: of the file with that id.
        file_system: type of the lake's file system there.
        commit: commit of the project, with a hash of what was changed since.
        packages: versions of packages.
        gpus: names of the GPUs that torch sees.
        dagster_home: the variable DAGSTER_HOME.
    """

    model_config = ConfigDict(frozen=True)

    host: str
    boot: str
    time: float
    ahead: float
    lake: str
    lake_id: str
    inode: int
    file_system: str
    commit: str
    packages: dict[str, str]
    gpus: tuple[str, ...]
    dagster_home: str


@functools.cache
def own_record(surroundings: Surroundings) -> HostRecord:
    """Compose the record of this host, once for all checks."""
    lake = surroundings.lake
    mount = mount_of(lake.root, surroundings.proc)
    lake_id = _lake_id(lake)
    return HostRecord(
        host=surroundings.host,
        boot=boot_id(surroundings.proc),
        time=surroundings.clock(),
        ahead=_ahead(surroundings),
        lake=str(lake.root),
        lake_id=lake_id,
        inode=lake.lake_id.stat().st_ino,
        file_system=mount.kind if mount else "",
        commit=_commit(surroundings.project),
        packages=software() | {name: found for name in _MORE_PACKAGES if (found := _version(name))},
        gpus=gpus_of_torch(),
        dagster_home=surroundings.environment.get("DAGSTER_HOME", ""),
    )


def read_records(lake: Lake) -> tuple[list[HostRecord], list[Path]]:
    """Read the records of all hosts.

    Returns:
        The records, and the files that are none.
    """
    records, damaged = [], []
    for path in sorted(lake.hosts.glob(lake.host("*").name)):
        try:
            records.append(HostRecord.model_validate_json(path.read_bytes()))
        except ValidationError:
            damaged.append(path)
    return records, damaged


def this_host(surroundings: Surroundings) -> Iterator[Finding]:
    """Write the record of this host, and check that no other machine has its name."""
    if not is_usable(surroundings):
        return
    own = own_record(surroundings)
    before = next((record for record in read_records(surroundings.lake)[0] if record.host == own.host), None)
    write_bytes(surroundings.lake.host(own.host), (own.model_dump_json(indent=2) + "\n").encode())
    if before and before.boot != own.boot and before.time > psutil.boot_time():
        yield problem(
            f"another machine has the name {own.host}, too: a run on one may be taken for a run on the other",
            "give each machine and container a name of its own",
        )
    else:
        yield ok(f"{own.host}: commit {own.commit or 'unknown'}, version {own.packages['mars_assets']}")


def clock(surroundings: Surroundings) -> Iterator[Finding]:
    """Check this host's clock against that of the file server, by the time of a file."""
    if not is_usable(surroundings):
        return
    ahead = own_record(surroundings).ahead
    if abs(ahead) > CLOCKS:
        where = "ahead of" if ahead > 0 else "behind"
        yield problem(f"the clock is {duration(abs(ahead))} {where} the file server's", "set both by NTP (chrony)")
    else:
        yield ok(f"{1e3 * abs(ahead):.0f} ms from the file server's")


def other_hosts(surroundings: Surroundings) -> Iterator[Finding]:
    """Compare this host with the others that left a record in the lake."""
    if not is_usable(surroundings):
        return
    own = own_record(surroundings)
    records, damaged = read_records(surroundings.lake)
    for path in damaged:
        yield note(f"{path} is no record of this version", "run mars-assets doctor on that host again, or delete it")
    others = [record for record in records if record.host != own.host]
    for other in others:
        findings = list(differences(own, other))
        same = ok(f"{other.host}: the same lake, commit, packages and time; {len(other.gpus)} GPUs")
        yield from findings or [same]
    if not others:
        yield ok("none has left a record: run mars-assets doctor on every host that uses this lake")


def differences(own: HostRecord, other: HostRecord) -> Iterator[Finding]:
    """Say what differs between this host and another that must not differ."""
    name = other.host
    if (age := own.time - other.time) > _OLD:
        advice = "run mars-assets doctor there, or delete its file in hosts/ if it is no longer used"
        yield note(f"{name}: its record is {duration(age)} old", advice)
        return
    if other.lake_id != own.lake_id or _is_copy(own, other):
        yield problem(
            f"{name}: {other.lake} there is another folder than {own.lake} here",
            "mount the same folder on both, and set MARS_LAKE to it",
        )
    if other.commit != own.commit:
        there, here = (record.commit or "unknown" for record in (other, own))
        yield problem(f"{name}: commit {there} there, {here} here", "check out the same commit, and restart Dagster")
    packages = sorted({*own.packages, *other.packages})
    if differing := [
        f"{package} {there} there, {here} here"
        for package in packages
        if (there := other.packages.get(package, "missing")) != (here := own.packages.get(package, "missing"))
    ]:
        yield problem(f"{name}: {'; '.join(differing)}", _LIKE_OURS)
    if abs(apart := other.ahead - own.ahead) > CLOCKS:
        where = "ahead of" if apart > 0 else "behind"
        yield problem(f"{name}: its clock is {duration(abs(apart))} {where} this one's", "set both by NTP (chrony)")
    for what, there, here in (
        ("the lake", other.lake, own.lake),
        ("DAGSTER_HOME", other.dagster_home, own.dagster_home),
    ):
        if there != here:
            advice = "with Ray or Slurm, use the same path everywhere"
            yield note(f"{name}: {what} is {there or 'not set'} there, {here or 'not set'} here", advice)


def _is_copy(own: HostRecord, other: HostRecord) -> bool:
    """Test whether two folders with the same id are two.

    The file with the id is then not the same file. On FUSE the number of a file is not that of the server.
    """
    if any(record.file_system.startswith("fuse") for record in (own, other)):
        return False
    return other.inode != own.inode


def boot_id(proc: Path) -> str:
    """Read the id of the kernel's boot; empty where there is none."""
    try:
        return (proc / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _ahead(surroundings: Surroundings) -> float:
    """Measure by how many seconds the clock is ahead of the file server's."""
    path = surroundings.lake.hosts / f".clock.tmp-{uuid.uuid4().hex[:8]}"
    try:
        path.touch()
        before = surroundings.clock()
        os.utime(path)  # without times: to the server's present time
        after = surroundings.clock()
        return (before + after) / 2 - path.stat().st_mtime
    finally:
        path.unlink(missing_ok=True)


def _lake_id(lake: Lake) -> str:
    """Read the lake's random id, which the first host writes."""
    lake.hosts.mkdir(exist_ok=True)
    if not lake.lake_id.exists():
        with lock_of(lake.lake_id.with_suffix(".lock")):
            if not lake.lake_id.exists():
                write_json(lake.lake_id, {"id": uuid.uuid4().hex})
    return str(read_json(lake.lake_id)["id"])


def _commit(project: Path) -> str:
    """Read the project's commit, with a hash of changes since; empty outside a clone."""
    git = shutil.which("git")
    if git is None or not (project / ".git").exists():
        return ""

    def said(*arguments: str) -> bytes:
        # Another user's clone, as a shared one is, is safe to read.
        command = [git, "-c", f"safe.directory={project}", "-C", str(project), *arguments]
        return subprocess.run(command, capture_output=True).stdout  # noqa: S603

    commit = said("rev-parse", "HEAD").decode().strip()[:_DIGITS]
    changes = said("diff", "HEAD", "--binary")
    return f"{commit}+{hashlib.sha256(changes).hexdigest()[:_DIGITS]}" if changes else commit


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


CHECKS: tuple[Check, ...] = (this_host, clock, other_hosts)
