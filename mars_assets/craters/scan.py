"""A network slid over a scene, at full resolution and at halves of it.

Each level of the scene is read strip by strip, once. Windows overlap by half, and where they do their margins are
blended: each window counts most in its middle and hardly at its border. So every crater of up to half a window is seen
whole, at its level, wherever the windows begin, and memory follows the strip and not the scene. The margins of a level
lie in a file of a work folder, whose state says how far it is complete: a killed scan continues there.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from mars_assets.craters.levels import Level, Mask, RowFile, Rows, UInt8, halved
from mars_assets.lake import SCAN_STATE
from mars_assets.progress import SILENT, Progress
from mars_assets.storage.files import explained_errors, read_json, write_json
from mars_assets.threads import in_order

Float32 = npt.NDArray[np.float32]

_STEP = 1 / 16
_ZERO = 128
"""Margins are stored as bytes, from -7.9 to 7.9: 0 is no data, and 128 a margin of 0."""
_AHEAD = 6
"""Results of the network that may precede their place in the map."""
_FLOOR = 1e-3
"""Weight of a window's border, of which only the scene's border consists."""


class Place(NamedTuple):
    """Where a window lies.

    Args:
        factor: reduction of the scene.
        top, left: its first row and column in the reduced scene.
    """

    factor: int
    top: int
    left: int


class Network(Protocol):
    """A network that tells craters from their surroundings in square windows."""

    side: int
    """Side of a window in pixels, even."""
    batch: int = 16
    """Number of windows at most that it is given at once."""

    def threads(self) -> AbstractContextManager[Executor]:
        """Open the threads that call :meth:`margins`, one by default."""
        return ThreadPoolExecutor(1)

    def margins(self, windows: UInt8, good: Mask, places: list[Place]) -> Float32:
        """Compute the logits of crater minus those of background.

        Args:
            windows: RGB, shape (windows, side, side, 3).
            good: which pixels show the surface, shape (windows, side, side).
            places: of the windows; a network that only sees does not need them.

        Returns:
            Shape (windows, side, side); above 0 where a crater is more likely.
        """


@dataclass(frozen=True)
class MarginMap:
    """Margins of a scene at one reduction.

    Args:
        factor: by which the scene is reduced.
        shape: height and width of the reduced scene.
        margins: as bytes, shape (height, width, 1).
    """

    factor: int
    shape: tuple[int, int]
    margins: RowFile

    def read(self, first: int, last: int, columns: slice = slice(None)) -> tuple[Float32, Mask]:
        """Read margins, and where there are any, shape (rows, columns) both; 0 elsewhere."""
        stored = self.margins.read(first, last)[:, columns, 0]
        return dequantized(stored), stored > 0


@dataclass(frozen=True)
class LevelMap(MarginMap):
    """Margins of a scene at one reduction, and the scene reduced."""

    pixels: Rows


def factors(shape: tuple[int, int], side: int) -> list[int]:
    """List the reductions of a scene, up to where it fits one window."""
    found = [1]
    while max(shape) > side * found[-1]:
        found.append(2 * found[-1])
    return found


def count_windows(shape: tuple[int, int], side: int) -> int:
    """Count the windows of a scan of a scene in which every pixel is good."""
    halves = [[-(-length // factor) for length in shape] for factor in factors(shape, side)]
    return sum(len(_starts(height, side, 0)) * len(_starts(width, side, 0)) for height, width in halves)


def scan(
    scene: Rows, network: Network, folder: Path, *, shift: tuple[int, int] = (0, 0), progress: Progress = SILENT
) -> list[LevelMap]:
    """Slide a network over a scene.

    Args:
        scene: the scene.
        network: what is slid.
        folder: work folder, of this scene, network and shift alone. What a killed scan left in it is used.
        shift: rows and columns by which the grid of windows is moved, for tests of what it has no influence on.
        progress: reports the strips.

    Returns:
        The margins of all levels, the finest first.

    Raises:
        MarsError: the disk is full.
    """
    with explained_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        levels = _levels(scene, network.side, folder)
        state = folder / SCAN_STATE
        at, done = tuple(read_json(state)) if state.exists() else (0, 0)
        strips = [
            (number, start)
            for number, level in enumerate(levels)
            for start in _starts(level.shape[0], network.side, shift[0])
        ]
        left = [strip for strip in strips if strip[0] > at or (strip[0] == at and done < levels[at].shape[0])]
        counter = progress.counter("looking for craters", len(strips), "strips")
        counter.done = len(strips) - len(left)
        with network.threads() as threads:
            for number in range(at, len(levels)):
                following = levels[number + 1].pixels if number + 1 < len(levels) else None
                first = done if number == at else 0
                source = _Strips(levels[number], following)
                for complete in _scan_level(source, network, threads, first, shift):
                    write_json(state, [number, complete])
                    counter.advance(note=f"1/{levels[number].factor} of the resolution")
        counter.close()
    return levels


def _levels(scene: Rows, side: int, folder: Path) -> list[LevelMap]:
    levels: list[LevelMap] = []
    shape, pixels = scene.shape, scene
    for factor in factors(scene.shape, side):
        if factor > 1:
            shape = (-(-shape[0] // 2), -(-shape[1] // 2))
            pixels = Level(folder / f"pixels_{factor}", shape, scene.channels)
        levels.append(LevelMap(factor, shape, RowFile(folder / f"margins_{factor}", (*shape, 1)), pixels))
    return levels


def _starts(length: int, side: int, shift: int) -> list[int]:
    """Compute where windows begin along an axis.

    Each begins half a window after the one before.
    """
    last, step = length - side, side // 2
    if last <= 0:
        return [0]
    return sorted({0, last, *range(shift % step, last, step)})


def _scan_level(
    source: _Strips, network: Network, threads: Executor, done: int, shift: tuple[int, int]
) -> Iterator[int]:
    """Compute the margins of a level, and the pixels of the following one.

    Yields:
        The number of complete rows, after each strip.
    """
    height, samples = source.level.shape
    side = network.side
    tops, lefts = _starts(height, side, shift[0]), _starts(samples, side, shift[1])
    taper = np.sin(np.pi * (np.arange(side, dtype=np.float32) + 0.5) / side) ** 2 + np.float32(_FLOOR)
    across = _total(taper, lefts, samples)
    down = _total(taper, tops, height)
    tops = [top for top in tops if min(top + side, height) > done]
    if not tops:
        return
    sums = np.zeros((side, samples), np.float32)
    parts = _parts(source, network, tops, lefts)
    for part, weighted in in_order(threads, partial(_weighted, network, taper[:, None] * taper), parts, _AHEAD):
        for place, margins in zip(part.places, weighted, strict=True):
            under = sums[:, place.left : place.left + side]
            under += margins[:, : under.shape[1]]
        if part.following is None:
            continue
        top, complete = part.top, part.following
        values = sums[: complete - top] / (down[top:complete, None] * across)
        stored = quantized(values, part.good[: complete - top])
        first = max(done, top)  # rows before it are of a scan that was killed
        if first < complete:
            source.level.margins.write(first, stored[first - top :, :, None])
        sums = np.concatenate([sums[complete - top :], np.zeros((min(complete - top, side), samples), np.float32)])
        yield complete


def _total(taper: Float32, starts: list[int], length: int) -> Float32:
    """Add up the weights of all windows along an axis."""
    total = np.zeros(max(length, len(taper)), np.float32)
    for start in starts:
        total[start : start + len(taper)] += taper
    return total[:length]


class _Strips:
    """Rows of a level, each read once, which become the following level."""

    def __init__(self, level: LevelMap, following: Rows | None) -> None:
        self.level, self._following = level, following
        self._first = self._end = -1
        self._pixels = np.empty((0, level.shape[1], 3), np.uint8)
        self._good = np.empty((0, level.shape[1]), bool)

    def rows(self, first: int, last: int) -> tuple[UInt8, Mask]:
        """Read rows that begin no earlier than those before.

        There are fewer at the end of the scene.
        """
        height = self.level.shape[0]
        last = min(last, height)
        if self._end < 0:
            self._first = self._end = first - first % 2
        start, end = first - first % 2, min(last + last % 2, height)
        self._pixels, self._good = self._pixels[start - self._first :], self._good[start - self._first :]
        if end > self._end:
            pixels, good = self.level.pixels.read(self._end, end)
            if isinstance(self._following, Level):
                channels = self._following.channels
                self._following.write(self._end // 2, *halved(pixels[..., :channels], good))
            self._pixels, self._good = np.concatenate([self._pixels, pixels]), np.concatenate([self._good, good])
        self._first, self._end = start, end
        inside = slice(first - start, last - start)
        return self._pixels[inside], self._good[inside]


@dataclass(frozen=True)
class _Part:
    """Windows of a strip that the network is given at once.

    Args:
        top: first row of the strip.
        pixels, good: of the strip.
        places: of the windows; none where a strip shows nothing.
        following: after the last windows of a strip, the first row of the following one, or the level's height; None
            after the others.
    """

    top: int
    pixels: UInt8
    good: Mask
    places: list[Place]
    following: int | None


def _parts(source: _Strips, network: Network, tops: list[int], lefts: list[int]) -> Iterator[_Part]:
    """Yield the windows of a level, strip by strip.

    Windows that show nothing are left out. The following strip is read while the network is busy with one.
    """
    side, height = network.side, source.level.shape[0]
    with ThreadPoolExecutor(1) as ahead:
        reading = ahead.submit(source.rows, tops[0], tops[0] + side)
        for top, following in zip(tops, [*tops[1:], height], strict=True):
            pixels, good = reading.result()
            if following < height:
                reading = ahead.submit(source.rows, following, following + side)
            seen = [left for left in lefts if good[:, left : left + side].any()]
            places = [Place(source.level.factor, top, left) for left in seen]
            at = 0
            while len(places) - at > network.batch:
                yield _Part(top, pixels, good, places[at : at + network.batch], None)
                at += network.batch
            yield _Part(top, pixels, good, places[at:], following)


def _weighted(network: Network, weights: Float32, part: _Part) -> tuple[_Part, Float32]:
    """Compute the weighted margins of windows."""
    if not part.places:
        return part, np.empty((0, *weights.shape), np.float32)
    pixels, good = part.pixels, part.good
    missing = [(0, max(network.side - length, 0)) for length in good.shape]
    if any(after for _, after in missing):  # mirrored, as images smaller than a window are in training
        pixels, good = np.pad(pixels, [*missing, (0, 0)], "symmetric"), np.pad(good, missing, "symmetric")
    columns = [slice(place.left, place.left + network.side) for place in part.places]
    margins = network.margins(
        np.stack([pixels[:, inside] for inside in columns]),
        np.stack([good[:, inside] for inside in columns]),
        part.places,
    )
    return part, margins * weights


def quantized(margins: Float32, good: Mask) -> UInt8:
    """Store margins as bytes, 0 where there are none."""
    return np.where(good, np.clip(np.rint(margins / _STEP) + _ZERO, 1, 255), 0).astype(np.uint8)


def dequantized(stored: UInt8) -> Float32:
    """Read margins from bytes; 0 where there are none."""
    margins = (stored.astype(np.float32) - _ZERO) * np.float32(_STEP)
    return np.where(stored > 0, margins, np.float32(0))
