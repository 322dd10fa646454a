"""Folders of several files, published as versions, so that readers see one whole version whoever publishes meanwhile.

A version is a folder of its own that nobody writes again; ``current.json`` next to it names the version in use. Readers
follow that file once, with :func:`version_in_use`, and read what it names. Whoever publishes holds a lock. A version
that was replaced more than a day ago is removed by the next publication, as is one that a killed process left
unfinished: what reads a version for longer than a day has to copy it. A folder without ``current.json``, as earlier
versions of this project wrote them, is its own version until the first publication.
"""

from __future__ import annotations

import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock

from mars_assets.storage.files import explained_errors, read_json, write_json

POINTER = "current.json"
RETAINED_SECONDS = 24 * 3600.0
"""How long a version stays after it was replaced."""
_LOCK = ".lock"
_VERSION = re.compile(r"\d{8}T\d{6}-[0-9a-f]{8}")


def version_in_use(folder: Path) -> Path:
    """The folder of the version in use; ``folder`` itself if nothing was published in it.

    Raises:
        DamagedFileError: the file that names the version cannot be read.
    """
    try:
        return folder / str(read_json(folder / POINTER)["version"])
    except FileNotFoundError:
        return folder


@contextmanager
def publish(folder: Path, retained_seconds: float = RETAINED_SECONDS) -> Iterator[Path]:
    """Give an empty folder to write a version into, which is put into use when the block ends without an exception.

    Args:
        folder: where versions are published, and nothing else is.
        retained_seconds: how long a version stays after it was replaced.

    Raises:
        MarsError: the disk is full or the folder may not be written.
    """
    with explained_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / _LOCK):
            before = version_in_use(folder)
            _remove_replaced(folder, before, retained_seconds)
            version = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
            version.mkdir()
            try:
                yield version
                _flush(version)
                for path in _parts(folder) if before == folder else [before]:
                    with suppress(FileNotFoundError):  # a version that somebody deleted
                        os.utime(path)  # replaced now
                write_json(folder / POINTER, {"version": version.name})
            finally:
                if version_in_use(folder) != version:
                    shutil.rmtree(version, ignore_errors=True)


def _parts(folder: Path) -> list[Path]:
    """All that lies in a folder but the lock and the file that names the version in use."""
    return [path for path in folder.iterdir() if path.name not in (POINTER, _LOCK)]


def _remove_replaced(folder: Path, in_use: Path, retained_seconds: float) -> None:
    oldest = time.time() - retained_seconds
    for path in _parts(folder):
        replaced = path != in_use if in_use != folder else bool(_VERSION.fullmatch(path.name))
        if replaced and path.stat().st_mtime < oldest:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _flush(folder: Path) -> None:
    """Have the disk hold a folder's files, since the pointer may reach it first where only that is flushed."""
    for place, _, names in os.walk(folder):
        for path in (*(os.path.join(place, name) for name in names), place):  # noqa: PTH118
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
