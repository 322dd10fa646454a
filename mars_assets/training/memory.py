"""Images in memory, within a bound."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

Image = TypeVar("Image", bound=Any)


class InMemory(Generic[Image]):
    """Images by position, retained in memory once read for as long as there is room.

    Args:
        read: reads an image, as an array or a tensor.
        paths: the images' files.
        gigabytes: how much may be retained; what is beyond it is read anew each time.
    """

    def __init__(self, read: Callable[[Path], Image], paths: Sequence[Path], gigabytes: float = 2.0) -> None:
        self._read, self._paths = read, paths
        self._room = int(gigabytes * 1e9)
        self._retained: dict[int, Image] = {}

    def __getitem__(self, index: int) -> Image:
        if index in self._retained:
            return self._retained[index]
        image = self._read(self._paths[index])
        if image.nbytes <= self._room:
            self._room -= image.nbytes
            self._retained[index] = image
        return image
