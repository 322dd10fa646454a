"""The second process of checks that need two.

Run as a program, it holds a lock or replaces a file, until it is killed. It imports nothing of the project, so that it
starts fast, and says "ready".
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

SIZE = 64 * 1024
"""Bytes of the file that is replaced, more than a page."""


@contextmanager
def other_process(task: Callable[[Path], None], path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run one of this module's functions in a process of its own.

    The process is killed at the end of the block.

    Raises:
        OSError: the process ended with an error.
    """
    command = [sys.executable, "-P", __file__, task.__name__, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603
    try:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            _, message = process.communicate()
            raise OSError((message.strip().splitlines() or ["the second process ended"])[-1])
        yield process
    finally:
        process.kill()
        process.communicate()


def hold_flock(path: Path) -> None:
    """Hold a lock by ``flock``."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        _ready()


def hold_filelock(path: Path) -> None:
    """Hold a lock of the library that the project uses."""
    with FileLock(path):
        _ready()


def replace_often(path: Path) -> None:
    """Replace a file by rename, a thousand times a second at most.

    Its content is the time of writing, repeated.
    """
    temporary = path.with_name(path.name + ".new")
    os.replace(_written(temporary), path)
    print("ready", flush=True)
    while True:
        os.replace(_written(temporary), path)
        time.sleep(0.001)


def _written(path: Path) -> Path:
    stamp = b"%020d\n" % time.monotonic_ns()
    path.write_bytes(stamp * (SIZE // len(stamp)))
    return path


def _ready() -> None:
    print("ready", flush=True)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    tasks = {task.__name__: task for task in (hold_flock, hold_filelock, replace_often)}
    tasks[sys.argv[1]](Path(sys.argv[2]))
