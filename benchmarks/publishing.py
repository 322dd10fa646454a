"""A folder published by two processes while three others read it.

Counts publications that fail, reads that find nothing, and reads that find files of two versions. All must be 0.

A version is four files, each full of the version's own name. A reader follows the pointer once and reads all four.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from mars_assets.storage.published import publish, version_in_use

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

    Counts = multiprocessing.SimpleQueue[Counter[str]]

WRITERS, READERS = 2, 3
FILES = ("model", "config", "report", "notes")
BYTES = 4096
RETAINED_SECONDS = 60.0
"""Less than the day of a lake, for versions to be removed meanwhile, and far longer than a read."""


def write(folder: Path, rounds: int, end: float, counts: Counts) -> None:
    """Publish versions, one after the other."""
    found: Counter[str] = Counter()
    while found["rounds"] < rounds and time.monotonic() < end:
        found["rounds"] += 1
        try:
            with publish(folder, RETAINED_SECONDS) as version:
                for name in FILES:
                    (version / name).write_bytes(version.name.encode().ljust(BYTES))
        except Exception as error:  # any at all is counted
            found["failed"] += 1
            print(f"publishing: {error!r}", file=sys.stderr)
    counts.put(found)


def read(folder: Path, stop: Event, counts: Counts) -> None:
    """Read the version in use, again and again."""
    found: Counter[str] = Counter()
    while not stop.is_set():
        found["reads"] += 1
        version = version_in_use(folder)
        try:
            contents = {(version / name).read_bytes().rstrip() for name in FILES}
        except FileNotFoundError:
            found["empty"] += 1
        else:
            found["mixed"] += len(contents) != 1
    counts.put(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10_000, help="publications (%(default)s)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after these")
    parser.add_argument("--folder", type=Path, help="on the file system to be tried; a temporary one by default")
    options = parser.parse_args()
    processes = multiprocessing.get_context("spawn")
    counts, stop = processes.SimpleQueue(), processes.Event()
    with tempfile.TemporaryDirectory(dir=options.folder) as work:
        folder = Path(work) / "published"
        write(folder, 1, float("inf"), counts)
        end = time.monotonic() + options.seconds
        writers = [
            processes.Process(target=write, args=(folder, options.rounds // WRITERS, end, counts))
            for _ in range(WRITERS)
        ]
        readers = [processes.Process(target=read, args=(folder, stop, counts)) for _ in range(READERS)]
        for process in (*readers, *writers):
            process.start()
        for process in writers:
            process.join()
        stop.set()
        for process in readers:
            process.join()
        crashed = sum(process.exitcode != 0 for process in (*readers, *writers))
        total: Counter[str] = Counter(failed=crashed, empty=0, mixed=0)
        while not counts.empty():
            total.update(counts.get())
    for name in ("rounds", "reads", "failed", "empty", "mixed"):
        print(f"{name}: {total[name]}")
    return 1 if total["failed"] or total["empty"] or total["mixed"] else 0


if __name__ == "__main__":
    sys.exit(main())
