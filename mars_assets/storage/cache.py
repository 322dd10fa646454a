"""Results of computations on disk, found by a fingerprint of all that made them, so that twenty new images cost twenty.

A file holds the results of one way of computing and may be deleted at any time. There is one rule each for

- damage: a file that cannot be read is reported once, and its results are computed again;
- staleness: a file of another version of the code, see :mod:`mars_assets.code_versions`, is not used;
- partial writes: the file is replaced atomically, about once a minute and after an error, so that a killed run loses a
  minute's results. Of two processes that write at the same time the last one wins, and the other's are computed again;
- what is retained: what was asked for since the file was opened; with ``keep_all``, everything.

diskcache has its index in SQLite, whose locks shared file systems break, and runs pickles that it reads
(CVE-2025-69872). joblib.Memory pickles too, and hashes a function's source: a comment discards its results, a change in
what it calls does not.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mars_assets.errors import DamagedFileError
from mars_assets.progress import SILENT, Progress
from mars_assets.storage.files import read_json, write_bytes
from mars_assets.storage.hashing import fingerprint

T = TypeVar("T")

_SAVE_EVERY = 60.0
"""Seconds between two writes while results are computed; more where a write takes more than a twentieth of that."""
_ARRAYS = ".safetensors"


class Cache:
    """Results in one file; a context manager that writes it on exit if there is anything new.

    Args:
        path: ``NAME.json`` for values that JSON has, ``NAME.safetensors`` for numpy arrays of one shape and type; None
            caches in memory alone.
        computation: the version of the way of computing.
        keep_all: retain results that are not asked for, too.
        progress: is told of a damaged file.
    """

    def __init__(
        self, path: Path | None, computation: str, *, keep_all: bool = False, progress: Progress = SILENT
    ) -> None:
        self._path, self._computation, self._keep_all = path, computation, keep_all
        self._results: dict[str, Any] = {}
        self._asked: set[str] = set()
        self._changed = False
        if path is not None and path.exists():
            try:
                self._results = _read(path, computation)
            except (DamagedFileError, SafetensorError, OSError) as error:
                progress.say(f"{path} cannot be read, its results are computed again: {error}")
                self._changed = True
        self._next_write = time.monotonic() + _SAVE_EVERY

    def get(self, made_from: Sequence[Any] | None, compute: Callable[[], T]) -> T:
        """A result, computed unless it is known.

        Args:
            made_from: everything that the result depends on; if None, which is for an unknown source, it is computed.
            compute: computes it.
        """
        return compute() if made_from is None else self.get_all([made_from], lambda _: [compute()])[0]

    def get_all(self, made_from: Sequence[Sequence[Any]], compute: Callable[[list[int]], Iterable[T]]) -> list[T]:
        """Results of which those that are not known are computed together.

        Args:
            made_from: for each result everything that it depends on.
            compute: takes the positions of the results that are missing and gives these, one after the other; what it
                gave before an error is retained. Not called if none is missing.

        Returns:
            A result for each element of ``made_from``.
        """
        keys = [fingerprint(list(parts)) for parts in made_from]
        missing: dict[str, int] = {}
        for place, key in enumerate(keys):
            if key not in self._results:
                missing.setdefault(key, place)
        self._asked.update(key for key in keys if key in self._results)
        for key, result in zip(missing, compute(list(missing.values())) if missing else (), strict=True):
            self._results[key] = result
            self._asked.add(key)
            self._changed = True
            if time.monotonic() > self._next_write:
                self._write(self._results)
        return [self._results[key] for key in keys]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        results = self._results
        if error is None and not self._keep_all and self._asked != results.keys():
            results, self._changed = {key: results[key] for key in results if key in self._asked}, True
        if self._changed:
            self._write(results)

    def _write(self, results: dict[str, Any]) -> None:
        if self._path is None:
            return
        begun = time.monotonic()
        if self._path.suffix == _ARRAYS:
            arrays = {"results": np.stack(list(results.values()))} if results else {}
            content = save(arrays, {"computation": self._computation, "keys": " ".join(results)})
        else:
            content = json.dumps({"computation": self._computation, "results": results}).encode()
        write_bytes(self._path, content)
        self._changed = False
        now = time.monotonic()
        self._next_write = now + max(_SAVE_EVERY, 20 * (now - begun))


def _read(path: Path, computation: str) -> dict[str, Any]:
    """The results in a file; none if they are of another way of computing, or of another kind of file."""
    if path.suffix == _ARRAYS:
        with safe_open(path, "np") as file:
            about = file.metadata() or {}
            if about.get("computation") != computation or not about["keys"]:
                return {}
            return dict(zip(about["keys"].split(" "), file.get_tensor("results"), strict=True))
    content = read_json(path)
    same = isinstance(content, dict) and content.get("computation") == computation
    return content.get("results", {}) if same else {}
