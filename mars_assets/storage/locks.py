"""Locks in a lake, which several users may share."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock


def lock_of(path: Path, timeout: float = -1) -> FileLock:
    """Create the lock that a file stands for.

    The file can be written by the lake's group: by default only the first user who took a lock could take it again.

    Args:
        path: the file, which is created.
        timeout: seconds to wait; -1 waits for ever.
    """
    return FileLock(path, timeout, mode=0o664)
