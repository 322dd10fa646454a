"""Selection of the packets of a single-tile JPEG 2000 file that a window needs.

For every strip, a decoder has to read the whole codestream of HiRISE's single tile. That costs as much memory as the
file is large, and three to five seconds for each gigabyte: a strip of 1,024 rows took 1.88 s and 356 MB from a scene of
24,000 x 4,000 pixels (146 MB), and 1.46 s and 237 MB with this module; from a scene a quarter as tall 1.31 s and
230 MB, and 1.29 s and 211 MB. GDAL with all threads takes 1.6 times as long to cut the smaller of the two
(``benchmarks/cutting.py --readers``).

The files contain packet lengths (PLT markers), and any packet can be replaced by an empty one of a single byte. The
result is a valid codestream of the whole image, as small as the window, which decodes to the same pixels there.

Names are those of the standard, ISO/IEC 15444-1 (ITU-T T.800), annexes A and B.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from mars_assets.errors import DamagedFileError

_SOC, _SOT, _SOD, _EOC = 0xFF4F, 0xFF90, 0xFF93, 0xFFD9
_SIZ, _COD, _COC, _POC, _COM = 0xFF51, 0xFF52, 0xFF53, 0xFF5F, 0xFF64
_PPM, _TLM, _PLM, _PLT = 0xFF60, 0xFF55, 0xFF57, 0xFF58
_USER_PRECINCTS, _EPH = 1, 4  # bits of COD's Scod
_LRCP, _RLCP, _RPCL, _PCRL, _CPRL = range(5)
_EMPTY, _EMPTY_EPH = b"\x00", b"\x00\xff\x92"
# Samples around a window that may affect it: more than the wavelet's support, summed over all lower levels.
_MARGIN = 16


class _UnsuitableError(Exception):
    """The file is valid, but its packets cannot be separated here."""


@dataclass(frozen=True)
class Window:
    """Rows and columns of the full-resolution image, first and one past the last."""

    rows: tuple[int, int]
    cols: tuple[int, int]


class Codestream:
    """The packets of one single-tile JPEG 2000 file.

    Args:
        path: the file.
        lines, samples: height and width in pixels.
        levels: how often the image can be halved.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with open(path, "rb") as file:
            self._read_headers(file)
        self._order_packets()

    @classmethod
    def of(cls, path: Path) -> Codestream | None:
        """Read a file's codestream.

        It is None if its packets cannot be separated or span the image.

        That is the case with several tiles, without packet lengths, with precincts as tall as the image, or with
        features not handled here.

        Raises:
            DamagedFileError: the file is truncated or contradicts itself.
        """
        try:
            return cls(path)
        except _UnsuitableError:
            return None
        except DamagedFileError as error:
            raise DamagedFileError(f"{error}. Fetch it again") from error
        except (struct.error, IndexError, EOFError) as error:
            raise DamagedFileError(
                f"{path}: the JPEG 2000 codestream is truncated or damaged. Fetch it again"
            ) from error

    def pick(self, window: Window | None = None, discard: int = 0) -> bytes:
        """Compose a codestream of the whole image that contains only the packets needed.

        Args:
            window: the pixels that will be decoded; all by default.
            discard: number of highest resolutions to leave out. Without n of them, only overviews reduced by 2^n or
                more can be decoded.

        Returns:
            A raw codestream (no JP2 boxes).
        """
        keep = self._resolution <= self.levels - discard
        if window is not None:
            shift = self.levels - self._resolution
            scale = 1 << shift
            for (first, last), start, size in (
                (window.rows, self._top, self._precinct_height),
                (window.cols, self._left, self._precinct_width),
            ):
                keep &= (start + size > first // scale - _MARGIN) & (start < -(-last // scale) + _MARGIN)

        empty = _EMPTY_EPH if self._scod & _EPH else _EMPTY
        body: list[bytes] = []
        changes = np.flatnonzero(np.diff(keep)) + 1
        with open(self.path, "rb") as file:
            for run in np.split(np.arange(len(keep)), changes):
                if run.size == 0:
                    continue
                if not keep[run[0]]:
                    body.append(empty * run.size)
                    continue
                for first, last in self._contiguous(run):
                    file.seek(int(self._offsets[first]))
                    length = int(self._offsets[last] + self._lengths[last] - self._offsets[first])
                    piece = file.read(length)
                    if len(piece) != length:
                        raise DamagedFileError(f"{self.path} is truncated. Fetch it again")
                    body.append(piece)
        length = sum(map(len, body))
        sot = struct.pack(">HHHIBB", _SOT, 10, 0, 12 + 2 + length, 0, 1)
        return b"".join([self._main, sot, struct.pack(">H", _SOD), *body, struct.pack(">H", _EOC)])

    def _contiguous(self, run: npt.NDArray[np.intp]) -> list[tuple[int, int]]:
        """Split a run of packets where it is interrupted in the file, between tile-parts."""
        ends = self._offsets[run] + self._lengths[run]
        breaks = np.flatnonzero(self._offsets[run][1:] != ends[:-1]) + 1
        return [(int(part[0]), int(part[-1])) for part in np.split(run, breaks)]

    def _read_headers(self, file: BinaryIO) -> None:
        start, end = codestream_box(file)
        file.seek(start)
        main = [_read(file, 2)]
        if main[0] != struct.pack(">H", _SOC):
            raise DamagedFileError(f"{self.path} contains no JPEG 2000 codestream")
        size, style = b"", b""
        while (marker := _u16(file)) != _SOT:
            segment = _segment(file)
            if marker in (_COC, _POC, _PPM):
                raise _UnsuitableError
            if marker == _SIZ:
                size = segment
            elif marker == _COD:
                style = segment
            if marker not in (_TLM, _PLM):  # the positions and lengths in them will no longer be right
                main.append(struct.pack(">HH", marker, len(segment) + 2) + segment)
        self._main = b"".join(main)
        self._read_size(size)
        self._read_style(style)

        offsets, lengths = [], []
        position = file.tell() - 2
        while position < end:
            file.seek(position)
            marker = _u16(file)
            if marker == _EOC:
                break
            if marker != _SOT:
                raise DamagedFileError(f"{self.path}: no tile-part at byte {position}")
            tile, part_length = struct.unpack(">HI", _segment(file)[:6])
            if tile != 0:
                raise _UnsuitableError
            part_end = position + part_length if part_length else end - 2
            if part_end > end:
                raise DamagedFileError(f"{self.path}: the tile is truncated")
            part_lengths = self._packet_lengths(file)
            part_offsets = file.tell() + np.concatenate([[0], np.cumsum(part_lengths)])
            if part_offsets[-1] != part_end:
                raise _UnsuitableError  # packet lengths are missing or do not add up
            offsets.append(part_offsets[:-1])
            lengths.append(part_lengths)
            position = part_end
        if not offsets:
            raise EOFError
        self._offsets, self._lengths = np.concatenate(offsets), np.concatenate(lengths)

    def _read_size(self, segment: bytes) -> None:
        values = struct.unpack(">HIIIIIIIIH", segment[:36])
        _, width, height, *origin, components = values
        left, top, tile_width, tile_height, tile_left, tile_top = origin
        steps = [segment[36 + 3 * i + 1 : 36 + 3 * i + 3] for i in range(components)]
        if (left, top, tile_left, tile_top) != (0, 0, 0, 0) or any(step != b"\x01\x01" for step in steps):
            raise _UnsuitableError
        if tile_width < width or tile_height < height:
            raise _UnsuitableError
        self.lines, self.samples, self._components = height, width, components

    def _read_style(self, segment: bytes) -> None:
        self._scod, self._progression, self._layers, _, self.levels = struct.unpack(">BBHBB", segment[:6])
        if self._progression > _CPRL:
            raise _UnsuitableError
        precincts = segment[10:] if self._scod & _USER_PRECINCTS else bytes([0xFF] * (self.levels + 1))
        if len(precincts) != self.levels + 1:
            raise DamagedFileError(f"{self.path}: the coding style contradicts itself")
        self._precincts = [(1 << (byte & 15), 1 << (byte >> 4)) for byte in precincts]
        if self._precincts[-1][1] >= self.lines:
            raise _UnsuitableError

    def _packet_lengths(self, file: BinaryIO) -> npt.NDArray[np.int64]:
        """Read the lengths in a tile-part's PLT segments.

        The SOD marker is the last that is read.
        """
        segments: list[bytes] = []
        while (marker := _u16(file)) != _SOD:
            segment = _segment(file)
            if marker == _PLT:
                segments.append(segment[1:])
            elif marker != _COM:
                raise _UnsuitableError  # this tile-part has a coding or quantisation of its own
        values = np.frombuffer(b"".join(segments), np.uint8)
        # Seven bits per byte, high ones first; the eighth is set if more bytes follow.
        last = np.flatnonzero(values < 0x80)
        first = np.concatenate([[0], last[:-1] + 1]) if last.size else last
        lengths = np.zeros(last.size, np.int64)
        for i in range(int((last - first).max(initial=-1)) + 1):
            more = first + i <= last
            lengths[more] = lengths[more] << 7 | (values[first[more] + i] & 0x7F)
        return lengths

    def _order_packets(self) -> None:
        """Assign resolution and precinct to every packet.

        The order is that of the progression (B.12).
        """
        per_precinct = self._components * self._layers
        count = 0
        for resolution, (width, height) in enumerate(self._precincts):
            scale = 1 << (self.levels - resolution)
            count += -(-self.lines // (scale * height)) * -(-self.samples // (scale * width)) * per_precinct
        if count != len(self._lengths):
            raise _UnsuitableError
        keys: list[npt.NDArray[np.int64]] = []
        for resolution, (width, height) in enumerate(self._precincts):
            scale = 1 << (self.levels - resolution)
            tops = np.arange(0, -(-self.lines // scale), height)
            lefts = np.arange(0, -(-self.samples // scale), width)
            grid = np.meshgrid(tops, lefts, np.arange(self._components), np.arange(self._layers), indexing="ij")
            top, left, component, layer = (axis.ravel() for axis in grid)
            level = np.full(top.size, resolution)
            keys.append(
                np.stack([level, top, left, component, layer, np.full(top.size, height), np.full(top.size, width)])
            )
        packets = np.concatenate(keys, axis=1)
        level, top, left, component, layer = packets[:5]
        y, x = top << (self.levels - level), left << (self.levels - level)
        by = {
            _LRCP: (layer, level, component, top, left),
            _RLCP: (level, layer, component, top, left),
            _RPCL: (level, y, x, component, layer),
            _PCRL: (y, x, component, level, layer),
            _CPRL: (component, y, x, level, layer),
        }[self._progression]
        packets = packets[:, np.lexsort(by[::-1])]
        self._resolution, self._top, self._left, _, _, self._precinct_height, self._precinct_width = packets


def codestream_box(file: BinaryIO) -> tuple[int, int]:
    """Find the start and end of the codestream.

    That is all of a raw codestream, or the ``jp2c`` box of a JP2 file (annex I.4). The boxes must fill the file
    exactly, so that a truncated file or one with trailing data is recognised.

    Raises:
        DamagedFileError: they do not, or none contains a codestream.
    """
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    if file.read(2) == struct.pack(">H", _SOC):
        return 0, size
    position, found = 0, None
    while position < size:
        file.seek(position)
        start = file.read(16)
        length, kind, header = int.from_bytes(start[:4]), start[4:8], 8
        if length == 1:
            length, header = int.from_bytes(start[8:16]), 16
        elif length == 0:
            length = size - position
        if length < header or position + length > size or not kind.isascii() or not kind.decode().isprintable():
            raise DamagedFileError(
                f"{file.name}: the JPEG 2000 box at byte {position} of {size} is truncated or invalid"
            )
        if kind == b"jp2c":
            found = position + header, position + length
        position += length
    if found is None:
        raise DamagedFileError(f"{file.name} contains no JPEG 2000 codestream")
    return found


def _read(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise EOFError
    return data


def _u16(file: BinaryIO) -> int:
    return int(struct.unpack(">H", _read(file, 2))[0])


def _segment(file: BinaryIO) -> bytes:
    """Read a marker segment's content, without its length."""
    length = _u16(file)
    if length < 2:
        raise EOFError
    return _read(file, length - 2)
