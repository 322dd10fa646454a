"""Any raster as 8-bit RGB in strips, with pixels that are square on the ground.

The stretch to 8 bits is that of the crops that models are trained on, so that a scene has the brightness and contrast
which they know: the 0.1st and 99.9th percentile of the good pixels become 0 and 255, in each channel. A product of
HiRISE is read exactly as crops are cut from it, which leaves those of 8 bits as they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.imagery.crops import STRETCH, to_8bit
from mars_assets.imagery.grid import Float64, Grid, Resampling, place, refuse_large, square_on_the_ground
from mars_assets.imagery.pds_label import ProductLabel, read_label
from mars_assets.imagery.pixels import (
    PixelSource,
    ProductPixels,
    RasterPixels,
    Span,
    Values,
    blank,
    chosen_bands,
    open_dataset,
    product_of,
    refuse_kinds,
    refuse_truncated_jp2,
)
from mars_assets.imagery.products import observation_of
from mars_assets.imagery.quality import GOOD, Quality
from mars_assets.imagery.scene import open_scene
from mars_assets.images import refuse_tiny
from mars_assets.progress import SILENT, Progress

_BLOCK = 512
"""Side in pixels of the parts of a resampled strip. It does not affect them."""
_SMALLEST_BLOCK = 32
_CELL = 16
"""Distance in pixels of the points between which places are interpolated."""
_TOLERANCE = 0.02
"""Error in pixels of such a place, beyond which each pixel is projected by itself."""


class MapRaster:
    """A raster that is read in strips, used as a context manager.

    Several threads may read at once.

    Args:
        path: the file.
        pixels: its pixels.
        source: their grid.
        resampling: the grid on which they are read; None if it is their own.
    """

    def __init__(self, path: Path, pixels: PixelSource, source: Grid, resampling: Resampling | None) -> None:
        self.path = path
        self._pixels, self._resampling = pixels, resampling
        self.source = source
        self.grid = source if resampling is None else resampling.target.grid
        low, high = self._limits()
        self._stretch: tuple[list[float], list[float]] = (low, high)
        self.stretch: dict[str, Any] = {
            "percentiles": list(STRETCH) if self._is_stretched else None,
            "low": (low * 3)[:3],
            "high": (high * 3)[:3],
            "bands": list(pixels.bands),
            "nodata": list(pixels.nodata),
            "reader": pixels.reader,
        }

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the grid in pixels."""
        return self.grid.lines, self.grid.samples

    @property
    def channels(self) -> int:
        """1 if the three channels are equal, else 3."""
        return len(self._stretch[0])

    @property
    def black(self) -> list[float]:
        """The stretched value of a surface without light in each channel, at most 0.

        It is that of a stored 0, or of an I/F of 0 if a label states the scale.
        """
        low, high = self._stretch
        values = [min(255 * (dark - a) / (b - a), 0.0) for dark, a, b in zip(self._pixels.dark, low, high, strict=True)]
        return (values * 3)[:3]

    @property
    def _is_stretched(self) -> bool:
        return isinstance(self._pixels, RasterPixels) or self._pixels.info.bits > 8

    def _limits(self) -> tuple[list[float], list[float]]:
        """Find the values that become 0 and 255 in each channel.

        Raises:
            MarsError: no pixel is good, or all are alike.
        """
        values, quality = self._pixels.overview()
        chosen = values[quality == GOOD]
        if not len(chosen):
            raise MarsError(
                f"{self.path} has no good pixel: all are no data or saturated. Check what it declares as no data"
            )
        chosen = chosen.astype(np.float64)
        if (chosen.min(axis=0) == chosen.max(axis=0)).all():
            raise MarsError(
                f"{self.path} has no contrast: all its good pixels are {', '.join(f'{v:g}' for v in chosen[0])}. "
                "Choose another raster or other bands"
            )
        if not self._is_stretched:
            return [0.0] * values.shape[2], [255.0] * values.shape[2]
        low, high = np.percentile(chosen, STRETCH, axis=0)
        if isinstance(self._pixels, ProductPixels):
            return low.tolist(), np.maximum(high, low + 1).tolist()
        # Few bright pixels in a dark picture: the percentiles are alike.
        flat = high <= low
        low, high = np.where(flat, chosen.min(axis=0), low), np.where(flat, chosen.max(axis=0), high)
        return low.tolist(), np.where(high > low, high, low + 1).tolist()

    def read(self, first: int, last: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """Read rows of the grid.

        Args:
            first: the first row.
            last: one past the last.

        Returns:
            RGB, shape (rows, samples, 3), 0 where there are no data; and which pixels are good, shape (rows, samples).

        Raises:
            DamagedFileError: the file does not decode.
        """
        assert 0 <= first < last <= self.grid.lines
        if self._resampling is None:
            values, quality = self._pixels.read((first, last), (0, self.grid.samples))
            return self._stretched(values, blank(quality)), quality == GOOD
        rgb = np.zeros((last - first, self.grid.samples, 3), np.uint8)
        good = np.zeros(rgb.shape[:2], bool)
        rows = range(first, last, _BLOCK)
        for top, left in itertools.product(rows, range(0, self.grid.samples, _BLOCK)):
            block = (top, min(top + _BLOCK, last)), (left, min(left + _BLOCK, self.grid.samples))
            self._resample(*block, rgb[top - first :, left:], good[top - first :, left:], self._resampling)
        return rgb, good

    def _stretched(self, values: Values, hidden: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
        low, high = self._stretch
        if values.dtype not in (np.uint8, np.uint16):
            values = np.where(hidden[..., None], np.asarray(low), values.astype(np.float64))
        picture = to_8bit(values, low, high)
        picture[hidden] = 0
        return picture if picture.shape[2] == 3 else np.repeat(picture, 3, axis=2)

    def _resample(
        self,
        rows: Span,
        cols: Span,
        rgb: npt.NDArray[np.uint8],
        good: npt.NDArray[np.bool_],
        resampling: Resampling,
    ) -> None:
        """Read a block of the grid into the start of two arrays."""
        height, width = rows[1] - rows[0], cols[1] - cols[0]
        x, y = _source_places(resampling, rows, cols)
        inside = (x >= 0) & (x <= self.source.samples) & (y >= 0) & (y <= self.source.lines)
        if not inside.any():
            return
        down, across = (
            (max(int(np.floor(v[inside].min() - 0.5)), 0), min(int(np.ceil(v[inside].max() + 0.5)), length))
            for v, length in ((y, self.source.lines), (x, self.source.samples))
        )
        if (down[1] - down[0]) * (across[1] - across[0]) > 16 * x.size and max(height, width) > _SMALLEST_BLOCK:
            # Around a pole, or across the edges of a map in degrees: smaller parts need less of the raster.
            for part in _quarters(height, width):
                at = tuple(
                    (s.start + origin, s.stop + origin) for s, origin in zip(part, (rows[0], cols[0]), strict=True)
                )
                self._resample(
                    at[0],
                    at[1],
                    rgb[part[0].start :, part[1].start :],
                    good[part[0].start :, part[1].start :],
                    resampling,
                )
            return
        values, quality = self._pixels.read(down, across)
        picture, hidden, right = _interpolated(
            values,
            quality,
            np.where(inside, x - across[0], -1),
            np.where(inside, y - down[0], -1),
            resampling.reduction,
        )
        rgb[:height, :width] = self._stretched(picture, hidden)
        good[:height, :width] = right

    def close(self) -> None:
        """Release the file."""
        self._pixels.close()

    def __enter__(self) -> MapRaster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_raster(
    path: Path,
    label: Path | None = None,
    *,
    bands: Sequence[int] | None = None,
    nodata: float | None = None,
    progress: Progress = SILENT,
) -> MapRaster:
    """Open a raster for reading in strips.

    Args:
        path: JPEG 2000, GeoTIFF, PNG, JPEG, ISIS cube or another file that GDAL opens.
        label: the detached PDS3 label of a HiRISE product.
        bands: one band, or three as red, green and blue, counted from 1. By default all, if they are at most three.
        nodata: a value that means no data, in addition to what the file declares.
        progress: reports what is read otherwise than might be expected.

    Raises:
        DamagedFileError: the file does not open, is truncated or does not match its label.
        MarsError: it cannot be read as a picture of Mars.
    """
    _refuse_missing(path)
    if label is not None:
        _refuse_missing(label)
    with ExitStack() as stack:
        pixels = _open_pixels(path, label, bands, nodata, progress)
        stack.callback(pixels.close)
        info = pixels.info
        grid, resampling = Grid(info.lines, info.samples, info.crs, info.transform), None
        placed = place(path, grid, progress)
        if placed is None:
            progress.say(f"{path.name} is not map projected, so places and sizes are those in pixels only")
            grid = Grid(info.lines, info.samples, None, None)
        else:
            resampling = square_on_the_ground(path, placed, progress)
        raster = MapRaster(path, pixels, grid, resampling)
        stack.pop_all()
    return raster


def _open_pixels(
    path: Path, label: Path | None, bands: Sequence[int] | None, nodata: float | None, progress: Progress
) -> PixelSource:
    described = None if label is None else _read_label(label, path)
    with open_dataset(path) as dataset:
        refuse_large(path, Grid(dataset.height, dataset.width, None, None))
        refuse_tiny(path, dataset.height, dataset.width)
        refuse_kinds(path, dataset)
        chosen = chosen_bands(path, dataset, bands, SILENT)
        product = product_of(path, described, dataset.count)
        is_plain = _is_plain(dataset)
    composite = product if bands is None else None
    if described is None and (product is None or not is_plain):
        return RasterPixels(path, bands, nodata, composite, progress)
    if path.suffix.lower() == ".jp2":
        refuse_truncated_jp2(path)
    scene = open_scene(path, label, progress)
    try:
        return ProductPixels(scene, described, product or "RGB.NOMAP", chosen, nodata)
    except BaseException:
        scene.close()
        raise


def _is_plain(dataset: Any) -> bool:
    """Test whether a raster has HiRISE's types, and 0 alone as no data."""
    from rasterio.enums import MaskFlags

    masked = any(MaskFlags.per_dataset in flags for flags in dataset.mask_flag_enums)
    return set(dataset.dtypes) <= {"uint8", "uint16"} and set(dataset.nodatavals) <= {None, 0.0} and not masked


def _refuse_missing(path: Path) -> None:
    if path.is_dir():
        raise MarsError(f"{path} is a folder: name the raster in it")
    if not path.is_file():
        raise MarsError(f"{path} does not exist: name a raster")
    if path.stat().st_size == 0:
        raise DamagedFileError(f"{path} is empty: fetch it again")


def _read_label(path: Path, image: Path) -> ProductLabel:
    label = read_label(path)
    shown = observation_of(image.stem)
    if shown is not None and shown != label.observation:
        raise MarsError(f"{path} is the label of {label.observation}, not of {shown}. Fetch it again")
    return label


def _source_places(resampling: Resampling, rows: Span, cols: Span) -> tuple[Float64, Float64]:
    """Find the places in the raster of the pixels of a block of the grid.

    Each pixel has ``reduction`` points along its sides. Places are interpolated between the corners of cells, as
    projecting is slow, and projected themselves in cells where that errs. The cells are those of the grid, so that the
    block does not matter.

    Returns:
        x and y in pixels of the raster, shape (points down, points across), NaN outside of its map.
    """
    down, across = (_points(span, resampling.reduction) for span in (rows, cols))
    cells = [np.arange(int(points[0]) // _CELL, int(points[-1]) // _CELL + 1) for points in (down, across)]
    corners = [np.append(numbers, numbers[-1] + 1) * float(_CELL) for numbers in cells]
    nodes = _projected(resampling, corners[0], corners[1])
    middles = _projected(resampling, corners[0][:-1] + _CELL / 2, corners[1][:-1] + _CELL / 2)
    (row, fy), (col, fx) = (
        (np.floor_divide(points, _CELL).astype(int) - numbers[0], points % _CELL / _CELL)
        for points, numbers in zip((down, across), cells, strict=True)
    )
    fy, fx = fy[:, None], fx[None, :]
    curved = np.zeros((len(cells[0]), len(cells[1])), bool)
    places = []
    for node, middle in zip(nodes, middles, strict=True):
        guess = (node[:-1, :-1] + node[1:, :-1] + node[:-1, 1:] + node[1:, 1:]) / 4
        curved |= ~(np.abs(guess - middle) < _TOLERANCE)
        upper, lower = (node[row + i][:, col] * (1 - fx) + node[row + i][:, col + 1] * fx for i in (0, 1))
        places.append(upper * (1 - fy) + lower * fy)
    if curved.any():
        at = np.nonzero(curved[row][:, col])
        exact = resampling.to_source(across[at[1]], down[at[0]])
        for place_, value in zip(places, exact, strict=True):
            place_[at] = value
    return places[0], places[1]


def _points(span: Span, reduction: int) -> Float64:
    """List the points along the pixels of a span."""
    return span[0] + (np.arange((span[1] - span[0]) * reduction) + 0.5) / reduction


def _projected(resampling: Resampling, down: Float64, across: Float64) -> tuple[Float64, Float64]:
    x, y = np.meshgrid(across, down)
    projected = resampling.to_source(x.ravel(), y.ravel())
    return projected[0].reshape(x.shape), projected[1].reshape(x.shape)


def _quarters(height: int, width: int) -> list[tuple[slice, slice]]:
    middle = -(-height // 2), -(-width // 2)
    downs = [slice(0, middle[0]), slice(middle[0], height)]
    acrosses = [slice(0, middle[1]), slice(middle[1], width)]
    return [(d, a) for d, a in itertools.product(downs, acrosses) if d.start < d.stop and a.start < a.stop]


def _interpolated(
    values: Values, quality: Quality, x: Float64, y: Float64, reduction: int
) -> tuple[Float64, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Interpolate a window's pixels linearly.

    The points of each pixel of the grid are averaged. Pixels without a value have no weight.

    Args:
        values: of the window, shape (rows, columns, channels).
        quality: likewise.
        x: places in the window, (0, 0) being its outer corner; negative where there is nothing.
        y: likewise.
        reduction: points along the side of a pixel of the grid.

    Returns:
        Values, shape (rows, columns, channels), and which pixels have none and which are good.
    """
    from scipy.ndimage import map_coordinates

    inside = x >= 0
    at = [y - 0.5, x - 0.5]

    def averaged(plane: Float64) -> Float64:
        found = np.where(inside, map_coordinates(plane, at, order=1, mode="nearest"), 0)
        height, width = (length // reduction for length in found.shape)
        return np.asarray(found.reshape(height, reduction, width, reduction).mean(axis=(1, 3)))

    valued = ~blank(quality)
    weight = averaged(valued.astype(np.float64))
    # A sum over the good and the missing has the rounding of both.
    good = averaged((quality == GOOD).astype(np.float64)) > 0.5 + 1e-9
    hidden = weight < 0.5
    divisor = np.where(hidden, 1, weight)
    channels = [
        averaged(np.where(valued, plane, 0).astype(np.float64)) / divisor for plane in np.moveaxis(values, -1, 0)
    ]
    return np.stack(channels, axis=-1), hidden, good & ~hidden
