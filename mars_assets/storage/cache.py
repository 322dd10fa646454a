"""Results kept by what they were made from, so that twenty new images cost twenty."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from mars_assets.errors import DamagedFileError
from mars_assets.storage.files import read_json, write_bytes
from mars_assets.storage.hashing import fingerprint


class Remembered:
    """A JSON file of results by key; as a context, what was asked for in it is written at its end, and nothing else kept.

    Args:
        path: the file, which may be deleted; None keeps nothing.
        computation: names the way of computing: results of another one are not taken.
    """

    def __init__(self, path: Path | None, computation: str) -> None:
        self._path = path
        self._computation = computation
        self._known: dict[str, Any] = {}
        self._asked: dict[str, Any] = {}
        if path is not None and path.exists():
            try:
                stored = read_json(path)
            except DamagedFileError:
                stored = {}  # all of it can be computed again
            if isinstance(stored, dict) and stored.get("computation") == computation:
                self._known = stored["results"]

    def of(self, made_from: Sequence[Any] | None, compute: Callable[[], Any]) -> Any:
        """The result of ``compute``, plain JSON values, or what it was the last time for the same ``made_from``.

        Args:
            made_from: everything that the result depends on; None where that is not known, and then it is computed.
            compute: gives it.
        """
        if made_from is None:
            return compute()
        key = fingerprint(list(made_from))
        if key not in self._asked:
            self._asked[key] = self._known[key] if key in self._known else compute()
        return self._asked[key]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None and self._path is not None and self._asked.keys() != self._known.keys():
            content = {"computation": self._computation, "results": self._asked}
            write_bytes(self._path, json.dumps(content, allow_nan=False).encode())
