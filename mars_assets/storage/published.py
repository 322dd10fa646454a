"""Folders published as versions, so that readers always see one complete version.

Each version is a folder that is never modified once published; ``current.json`` next to it names the version in use.
Readers resolve that file once, with :func:`version_in_use`, and then read from the folder it names. People find it by
the link ``current``, where the file system has links. Publishers hold a lock. Each publication removes the versions
that were replaced more than a day ago, and those that a killed process left unfinished: a reader that needs a version
for longer than a day must copy it. A folder without ``current.json``, as written by earlier versions of this project,
is itself the version in use until something is published in it.
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

from mars_assets.storage.files import explained_errors, read_json, write_json
from mars_assets.storage.locks import lock_of

POINTER, LINK = "current.json", "current"
RETAINED_SECONDS = 24 * 3600.0
"""How long a version is retained after it was replaced."""
_LOCK = ".lock"
_VERSION = re.compile(r"\d{8}T\d{6}-[0-9a-f]{8}")


def version_in_use(folder: Path) -> Path:
    """Return the folder of the version in use, or ``folder`` if nothing is published.

    Raises:
        DamagedFileError: the file that names the version cannot be read.
    """
    try:
        return folder / str(read_json(folder / POINTER)["version"])
    except FileNotFoundError:
        return folder


@contextmanager
def publish(folder: Path, retained_seconds: float = RETAINED_SECONDS) -> Iterator[Path]:
    """Yield an empty folder and publish it when the block ends without an exception.

    Args:
        folder: parent of the versions. It should hold nothing else that is not hidden.
        retained_seconds: how long a version is retained after it was replaced.

    Raises:
        MarsError: the disk is full or the folder is not writable.
    """
    with _publishing(folder, retained_seconds) as version:
        version.mkdir()
        yield version
        _flush(version)


def publish_folder(finished: Path, folder: Path) -> Path:
    """Move a finished folder, and publish it.

    Args:
        finished: on the same file system.
        folder: parent of the versions. It should hold nothing else that is not hidden.

    Returns:
        The version's folder.

    Raises:
        MarsError: the folder is not writable.
    """
    with _publishing(folder, RETAINED_SECONDS) as version:
        _flush(finished)
        os.replace(finished, version)
    return version


@contextmanager
def _publishing(folder: Path, retained_seconds: float) -> Iterator[Path]:
    """Yield the path of a new version, which is put into use after the block."""
    with explained_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with lock_of(folder / _LOCK):
            before = version_in_use(folder)
            _remove_replaced(folder, before, retained_seconds)
            version = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
            try:
                yield version
                for path in _parts(folder, version) if before == folder else [before]:
                    with suppress(FileNotFoundError):  # somebody deleted the version
                        os.utime(path)  # its age counts from its replacement
                write_json(folder / POINTER, {"version": version.name})
            finally:
                if version_in_use(folder) != version:
                    shutil.rmtree(version, ignore_errors=True)
            _link(folder, version)


def _link(folder: Path, version: Path) -> None:
    """Let the link ``current`` lead to a version, where the file system has links."""
    new = folder / f".{LINK}-{version.name}"
    with suppress(OSError, NotImplementedError):
        new.symlink_to(version.name, target_is_directory=True)
        os.replace(new, folder / LINK)


def for_people(folder: Path) -> Path:
    """Return the path of the version in use that people are shown.

    It is the link, where there is one.
    """
    link = folder / LINK
    return link if link.is_symlink() else version_in_use(folder)


def _parts(folder: Path, version: Path | None = None) -> list[Path]:
    """List a folder's content except the pointer, the link and a new version.

    What is hidden, as locks are, is not part of it.
    """
    others = (path for path in folder.iterdir() if path.name not in (POINTER, LINK) and path != version)
    return [path for path in others if not path.name.startswith(".")]


def _remove_replaced(folder: Path, in_use: Path, retained_seconds: float) -> None:
    oldest = time.time() - retained_seconds
    for path in _parts(folder):
        replaced = path != in_use if in_use != folder else bool(_VERSION.fullmatch(path.name))
        if replaced and path.stat().st_mtime < oldest:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _flush(folder: Path) -> None:
    """Flush a folder's files to disk, so that the pointer never gets there first."""
    for place, _, names in os.walk(folder):
        for path in (*(os.path.join(place, name) for name in names), place):  # noqa: PTH118
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
