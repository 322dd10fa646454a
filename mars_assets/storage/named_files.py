"""Files that a table names and that are never modified, such as masks and chips.

A file's name has a hash of what it was made from. Only the table is replaced, as a whole. So whoever has read it finds
the files that it names, whatever others compute meanwhile, for a week after another table took its place.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Set
from contextlib import contextmanager
from pathlib import Path

KEPT_SECONDS = 7 * 24 * 3600
"""How long a file that the table no longer names is retained, for trainings that started with the old table."""


@contextmanager
def replacing_table(files: Iterable[Path], before: Set[str], named: Set[str]) -> Iterator[None]:
    """Replace a table in the block, and then remove files that it no longer names.

    They are removed once they were unused for :data:`KEPT_SECONDS`.

    Args:
        files: the files that tables may name.
        before: names of those that the table in use names. Their time as unused files starts now.
        named: names of those that the new table names.
    """
    unused = [path for path in files if path.name not in named]
    for path in unused:
        if path.name in before:
            os.utime(path)
    yield
    oldest = time.time() - KEPT_SECONDS
    for path in unused:
        if path.stat().st_mtime < oldest:
            path.unlink()
