"""Cached results of computations, keyed by a fingerprint of their inputs.

A cache file holds the results of one computation and may be deleted at any time. The rules:

- damage: an unreadable file is reported once and its results are recomputed;
- staleness: a file written by another version of the code, see :mod:`mars_assets.code_versions`, is ignored;
- partial writes: the file is replaced atomically, about once a minute and after an error, so that a killed run loses at
  most about a minute of results. If two processes write at the same time, the last one wins and the other's results are
  recomputed when needed;
- retention: the results used since the file was opened, or all of them with ``keep_all``.

Alternatives considered: diskcache keeps its index in SQLite, whose locks fail on shared file systems, and unpickles
what it reads (CVE-2025-69872). joblib.Memory also pickles, and hashes a function's source: editing a comment discards
its results, whereas a change in a function that it calls does not.
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
"""Seconds between writes while computing; longer if a write takes more than a twentieth of that."""
_ARRAYS = ".safetensors"


class Cache:
    """Results in one file; as a context manager, saved on exit if changed.

    Args:
        path: ``NAME.json`` for JSON values, ``NAME.safetensors`` for numpy arrays of equal shape and type; None to
            cache in memory only.
        computation: the version of the computation.
        keep_all: also retain results that were not used.
        progress: reports a damaged file.
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
                progress.say(f"{path} cannot be read ({error}): its results are recomputed")
                self._changed = True
        self._next_write = time.monotonic() + _SAVE_EVERY

    def get(self, made_from: Sequence[Any] | None, compute: Callable[[], T]) -> T:
        """Return a result, computing it if it is not cached.

        Args:
            made_from: everything that the result depends on; None, for an unknown source, always computes it.
            compute: computes the result.
        """
        return compute() if made_from is None else self.get_all([made_from], lambda _: [compute()])[0]

    def get_all(self, made_from: Sequence[Sequence[Any]], compute: Callable[[list[int]], Iterable[T]]) -> list[T]:
        """Return several results, computing those that are not cached in one call.

        Args:
            made_from: for each result, everything that it depends on.
            compute: takes the positions of the missing results and yields these in order; those yielded before an error
                are retained. Not called if none is missing.

        Returns:
            One result for each element of ``made_from``.
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
    """Read a file's results; empty if another computation wrote them."""
    if path.suffix == _ARRAYS:
        with safe_open(path, "np") as file:
            about = file.metadata() or {}
            if about.get("computation") != computation or not about["keys"]:
                return {}
            return dict(zip(about["keys"].split(" "), file.get_tensor("results"), strict=True))
    content = read_json(path)
    same = isinstance(content, dict) and content.get("computation") == computation
    return content.get("results", {}) if same else {}
