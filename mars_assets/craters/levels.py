"""A scene at full resolution and at halves of it, row by row on disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

UInt8 = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


class Rows(Protocol):
    """An image that is read by rows."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""

    @property
    def channels(self) -> int:
        """1 if the three bands are equal, else 3."""

    def read(self, first: int, last: int) -> tuple[UInt8, Mask]:
        """Read the rows ``first <= row < last``.

        Returns:
            RGB, shape (rows, samples, 3), and which pixels are good, shape (rows, samples).
        """


class Picture:
    """An image in memory as a scene.

    Args:
        rgb: shape (H, W, 3).
        good: which pixels show the surface, shape (H, W); all by default.
    """

    channels = 3

    def __init__(self, rgb: UInt8, good: Mask | None = None) -> None:
        self.shape = (rgb.shape[0], rgb.shape[1])
        self._rgb, self._good = rgb, np.ones(self.shape, bool) if good is None else good

    def read(self, first: int, last: int) -> tuple[UInt8, Mask]:
        """Read rows, see :class:`Rows`."""
        return self._rgb[first:last], self._good[first:last]


class RowFile:
    """An array of bytes on disk, written and read by rows.

    Memory holds what is read and no more: pages of a memory map would count as the process's.

    Args:
        path: the file, created if it does not exist.
        shape: rows, columns and values of a pixel.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int]) -> None:
        self.path, self._shape = path, shape
        with open(path, "ab"):
            pass
        os.truncate(path, shape[0] * shape[1] * shape[2])

    def write(self, first: int, rows: UInt8) -> None:
        """Write rows, shape (rows, columns, values), from row ``first`` on."""
        with open(self.path, "rb+") as file:
            file.seek(first * self._shape[1] * self._shape[2])
            file.write(np.ascontiguousarray(rows).data)

    def read(self, first: int, last: int) -> UInt8:
        """Read the rows ``first <= row < last``, shape (rows, columns, values)."""
        _, columns, values = self._shape
        pixels = np.fromfile(self.path, np.uint8, (last - first) * columns * values, offset=first * columns * values)
        return pixels.reshape(last - first, columns, values)


class Level:
    """A scene reduced by a power of two, in a file.

    Args:
        path: the file.
        shape: height and width of the reduced scene.
        channels: 1 for a grey scene, 3 for one of colours.
    """

    def __init__(self, path: Path, shape: tuple[int, int], channels: int) -> None:
        self.shape, self.channels = shape, channels
        self._file = RowFile(path, (*shape, channels + 1))

    def write(self, first: int, pixels: UInt8, good: Mask) -> None:
        """Write rows, (rows, samples, channels) and (rows, samples)."""
        self._file.write(first, np.concatenate([pixels, good[..., None].astype(np.uint8)], axis=2))

    def read(self, first: int, last: int) -> tuple[UInt8, Mask]:
        """Read rows, see :class:`Rows`."""
        values = self._file.read(first, last)
        pixels = values[..., :-1]
        return (np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels), values[..., -1] > 0


def halved(pixels: UInt8, good: Mask) -> tuple[UInt8, Mask]:
    """Reduce rows to half their size.

    A pixel is the mean of its good ones, and good if at least two of the four are. An odd last row or column is
    repeated.

    Args:
        pixels: shape (rows, samples, channels).
        good: shape (rows, samples).
    """
    odd = [(0, side % 2) for side in good.shape]
    if any(after for _, after in odd):
        pixels, good = np.pad(pixels, [*odd, (0, 0)], mode="edge"), np.pad(good, odd, mode="edge")

    def quarters(values: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        return [values[row::2, column::2] for row in range(2) for column in range(2)]

    count = np.zeros([side // 2 for side in good.shape], np.uint16)
    total = np.zeros((*count.shape, pixels.shape[2]), np.uint16)
    for part, is_good in zip(quarters(pixels), quarters(good), strict=True):
        count += is_good
        total += part * is_good[..., None]
    divisor = np.maximum(count, 1)[..., None]
    return ((total + divisor // 2) // divisor).astype(np.uint8), count >= 2
