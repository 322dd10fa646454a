"""Pixels of any raster and their quality, by windows.

A product of HiRISE has the rules of its label, or those that are inferred for it. Of any other raster, these are no
data: what it declares so, or its mask or alpha band, what is not finite, and, where nothing is declared, zeros in areas
that reach the border. Pixels of the type's highest value that touch each other are saturated; those of a signed type's
lowest are no data. Whether a pixel is good does not depend on the window in which it is read.
"""

from __future__ import annotations

import math
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.imagery.crops import COLOR_BANDS, rgb_composite
from mars_assets.imagery.jpeg2000 import codestream_box
from mars_assets.imagery.pds_label import ProductLabel
from mars_assets.imagery.products import ProductType, observation_of
from mars_assets.imagery.quality import BAND_MISSING, GOOD, NO_DATA, SATURATED, Quality, QualityRules, assess
from mars_assets.imagery.scene import Scene, SceneInfo, open_jp2
from mars_assets.progress import SILENT, Progress
from mars_assets.storage.files import shown

Values: TypeAlias = npt.NDArray[Any]
"""Of pixels, shape (rows, columns, 1 or 3)."""
Span: TypeAlias = tuple[int, int]
"""First row or column, and one past the last."""

_PRODUCT = re.compile(r"_(COLOR|RED|(?:RGB|IRB)(?:\.NOMAP)?)(\.browse)?$", re.IGNORECASE)
_CACHE = 64 * 1024**2, 256 * 1024**2
"""Least and most bytes of decoded blocks that GDAL keeps: two rows of blocks, so that strips decode each once."""
_MARGIN = 3  # how far the quality of a pixel depends on its neighbours
_RING = np.array([[True] * 3, [True, False, True], [True] * 3])
_HUGE = 3.4e38
"""Floating-point numbers of this magnitude mark pixels without a value, several of them in ISIS."""
_ISIS_LOWEST = -32752
"""Lowest value in 16 bits that is none of ISIS's marks."""
_JPEG_BLACK = 4
"""Highest value that JPEG compression makes of 0."""
_CHECKED_BY_SIZE = ("ISIS3", "ISIS2", "PDS", "PDS4", "VICAR", "ENVI", "EHdr")
"""GDAL's drivers that read past the end of a file without a word."""


class PixelSource(ABC):
    """An open raster whose pixels are read by windows.

    Several threads may read at once.

    Args:
        info: size, depth and position.
        reader: name of what decodes it.
        bands: the bands that are read, counted from 1.
        nodata: values that mean no data.
        composite: how they become one or three channels.
    """

    _zero = 0.0

    def __init__(
        self, info: SceneInfo, reader: str, bands: Sequence[int], nodata: Sequence[float], composite: ProductType | None
    ) -> None:
        self.info, self.reader, self.bands, self.nodata = info, reader, tuple(bands), tuple(nodata)
        self._composite = composite

    @abstractmethod
    def read(self, rows: Span, cols: Span) -> tuple[Values, Quality]:
        """Read the pixels of some rows and columns."""

    @abstractmethod
    def overview(self) -> tuple[Values, Quality]:
        """Read the whole raster, reduced to a few megapixels."""

    @abstractmethod
    def close(self) -> None:
        """Release the file."""

    @property
    def dark(self) -> list[float]:
        """The value of a surface without light in each channel.

        It is 0, unless a label states another.
        """
        return [float(value) for value in self._composed(np.full((1, 1, len(self.bands)), self._zero))[0, 0]]

    def _composed(self, values: Values) -> Values:
        return rgb_composite("COLOR", values) if self._composite == "COLOR" else values


class ProductPixels(PixelSource):
    """Pixels of a HiRISE product, as crops are cut from it."""

    def __init__(
        self, scene: Scene, label: ProductLabel | None, product: ProductType, bands: Sequence[int], nodata: float | None
    ) -> None:
        every = tuple(range(1, scene.info.bands + 1))
        self._scene, self._rules, self._further = scene, QualityRules.of(scene.info, label), nodata
        nodatas = [self._rules.null, *([] if nodata is None else [nodata])]
        composite = product if tuple(bands) == every else None
        super().__init__(scene.info, scene.reader, bands, nodatas, composite)
        self._channels = [band - 1 for band in bands]
        if label is not None:
            self._zero = -label.offset / label.scaling_factor
        # The tests of a JPEG look at its whole rows and beyond a window, and it is in memory anyway.
        self._whole = (
            self._assessed(scene.read((0, scene.info.lines), (0, scene.info.samples))) if self._lossy else None
        )

    @property
    def _lossy(self) -> bool:
        return self._rules.lossy

    def _assessed(self, pixels: Values) -> Quality:
        pixels = pixels[..., self._channels]
        quality = assess(pixels, self._rules)
        if self._further is not None:
            quality[(pixels == self._further).any(axis=2)] = NO_DATA
        return quality

    def read(self, rows: Span, cols: Span) -> tuple[Values, Quality]:
        pixels = self._scene.read(rows, cols)
        quality = self._assessed(pixels) if self._whole is None else self._whole[slice(*rows), slice(*cols)]
        return self._composed(pixels[..., self._channels]), quality

    def overview(self) -> tuple[Values, Quality]:
        pixels = self._scene.overview(self.info.overview_factor)
        return self._composed(pixels[..., self._channels]), self._assessed(pixels)

    def close(self) -> None:
        self._scene.close()


class RasterPixels(PixelSource):
    """Pixels of a raster that GDAL opens.

    Args:
        path: the file.
        bands: the bands to read, counted from 1; by default all that are colours.
        nodata: a further value that means no data.
        composite: the product that the bands are, if they are HiRISE's.
        progress: reports what is not read.

    Raises:
        MarsError: its pixels are of a kind that is not read, or the bands or the value do not exist.
    """

    def __init__(
        self,
        path: Path,
        bands: Sequence[int] | None,
        nodata: float | None,
        composite: ProductType | None = None,
        progress: Progress = SILENT,
    ) -> None:
        import rasterio

        self._path, self._turn = path, threading.Lock()  # a dataset is not thread-safe
        # libjpeg fills up what a truncated JPEG lacks, and calls it a warning.
        settings: dict[str, Any] = {"GDAL_ERROR_ON_LIBJPEG_WARNING": True}
        self._scene: Scene | None = None
        with rasterio.Env(**settings):
            self._dataset = open_dataset(path)
        self._environment = rasterio.Env(GDAL_CACHEMAX=_cache_of(self._dataset), **settings)
        try:
            self._describe(bands, nodata, composite, progress)
        except BaseException:
            self.close()
            raise

    def _describe(
        self,
        bands: Sequence[int] | None,
        nodata: float | None,
        composite: ProductType | None,
        progress: Progress,
    ) -> None:
        from rasterio.enums import ColorInterp, MaskFlags

        path, dataset = self._path, self._dataset
        refuse_kinds(path, dataset)
        chosen = chosen_bands(path, dataset, bands, progress)
        self._dtype = np.result_type(*(dataset.dtypes[band - 1] for band in chosen))
        _refuse_impossible(path, self._dtype, nodata)
        if dataset.driver == "JP2OpenJPEG":
            refuse_truncated_jp2(path)
            if set(dataset.dtypes) <= {"uint8", "uint16"}:
                self._scene = open_jp2(path, progress=progress)
        declared = [dataset.nodatavals[band - 1] for band in chosen]
        # One value for each band, as the type holds it.
        self._marks = [
            np.array([self._dtype.type(value) if _fits(self._dtype, value) else np.nan for value in values])
            for values in (declared, [nodata] * len(chosen))
            if any(value is not None for value in values)
        ]
        alpha = [band for band in dataset.indexes if dataset.colorinterp[band - 1] == ColorInterp.alpha]
        self._alpha = alpha[0] if alpha and alpha[0] not in chosen else None
        flags = dataset.mask_flag_enums[chosen[0] - 1]
        self._masked = MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags
        self._top = _highest(self._dtype, dataset.tags(1, ns="IMAGE_STRUCTURE").get("NBITS"))
        self._isis = dataset.driver in ("ISIS3", "ISIS2") and self._dtype == np.int16
        lossy = "JPEG" in (dataset.driver, dataset.tags(ns="IMAGE_STRUCTURE").get("COMPRESSION", "").split(" ")[-1])
        self._black = _JPEG_BLACK if lossy else 0

        crs, transform = _position(path, dataset, progress)
        bits = self._dtype.itemsize * 8
        info = SceneInfo(dataset.height, dataset.width, len(chosen), bits, lossy, crs, transform)
        values = sorted({float(value) for value in [*declared, nodata] if value is not None and not np.isnan(value)})
        reader = "gdal" if self._scene is None else self._scene.reader
        super().__init__(info, reader, chosen, values, composite)
        self._undeclared = not (self._marks or self._alpha or self._masked)
        self._outside: npt.NDArray[np.bool_] | None = None

    def read(self, rows: Span, cols: Span) -> tuple[Values, Quality]:
        tall, top = _widened(rows, self.info.lines)
        wide, left = _widened(cols, self.info.samples)
        values, invalid = self._read(tall, wide)
        outside = None
        if self._undeclared:
            if self._outside is None:
                self.overview()
            assert self._outside is not None
            # GDAL's overview may be stretched by less than a pixel, which the region's margin covers.
            factor = self.info.overview_factor
            outside = self._outside[np.ix_(np.arange(*tall) // factor, np.arange(*wide) // factor)]
        window = np.s_[top : top + rows[1] - rows[0], left : left + cols[1] - cols[0]]
        return self._composed(values[window]), self._classify(values, invalid, outside)[window]

    def overview(self) -> tuple[Values, Quality]:
        values, invalid = self._reduced()
        if self._undeclared:
            self._outside = self._find_outside(values, invalid)
        return self._composed(values), self._classify(values, invalid, self._outside)

    def _classify(
        self, values: Values, invalid: npt.NDArray[np.bool_], outside: npt.NDArray[np.bool_] | None
    ) -> Quality:
        quality = np.full(values.shape[:2], GOOD, np.uint8)
        if self._top is not None:
            quality[_touching(np.any(values >= self._top, axis=2))] = SATURATED
        if self._dtype.kind == "i":
            quality[_touching(np.any(values == np.iinfo(self._dtype).min, axis=2))] = NO_DATA
        if outside is not None and (zeros := self._zeros(values)).any():
            quality[zeros & outside & _grown(_areas(zeros), 1)] = NO_DATA
        quality[invalid] = NO_DATA
        return quality

    def _zeros(self, values: Values) -> npt.NDArray[np.bool_]:
        return np.asarray(np.all(np.abs(values) <= self._black if self._black else values == 0, axis=2))

    def _find_outside(self, values: Values, invalid: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Find where zeros may be outside of the picture, in the overview.

        That is in and next to areas of zeros that are connected to the border.
        """
        from scipy.ndimage import label

        zeros = np.pad(self._zeros(values) & ~invalid, 2, constant_values=True)
        parts, _ = label(_opened(zeros), np.ones((3, 3)))
        # A reduced pixel stands for its neighbours.
        near = 1 if self.info.overview_factor == 1 else 2
        return _grown(parts == parts[0, 0], near)[2:-2, 2:-2]

    def _read(self, rows: Span, cols: Span) -> tuple[Values, npt.NDArray[np.bool_]]:
        if self._scene is not None:
            values: Values = self._scene.read(rows, cols)[..., [band - 1 for band in self.bands]]
        else:
            values = self._from_gdal(self.bands, window=(rows, cols))
        return values, self._invalid(values, window=(rows, cols))

    def _reduced(self) -> tuple[Values, npt.NDArray[np.bool_]]:
        factor = self.info.overview_factor
        shape = math.ceil(self.info.lines / factor), math.ceil(self.info.samples / factor)
        if self._scene is not None:
            values: Values = self._scene.overview(factor)[..., [band - 1 for band in self.bands]]
        else:
            values = self._from_gdal(self.bands, out_shape=(len(self.bands), *shape))
        return values, self._invalid(values, out_shape=(1, *shape))

    def _invalid(self, values: Values, **where: Any) -> npt.NDArray[np.bool_]:
        """Test which pixels have no value."""
        invalid = np.zeros(values.shape[:2], bool)
        for marks in self._marks:
            invalid |= (values == marks).any(axis=2)
        if values.dtype.kind == "f":
            invalid |= ~(np.abs(values) < _HUGE).all(axis=2)
        if self._isis:
            invalid |= (values < _ISIS_LOWEST).any(axis=2)
        if self._alpha is not None:
            invalid |= self._from_gdal([self._alpha], **where)[..., 0] == 0
        if self._masked:
            invalid |= self._from_gdal([self.bands[0]], masks=True, **where)[..., 0] == 0
        return invalid

    def _from_gdal(self, bands: Sequence[int], masks: bool = False, **where: Any) -> Values:
        from rasterio.errors import RasterioError

        try:
            with self._turn, self._environment:
                read = self._dataset.read_masks if masks else self._dataset.read
                dtype = {} if masks or bands == [self._alpha] else {"out_dtype": self._dtype}
                return np.moveaxis(read(list(bands), **where, **dtype), 0, -1)
        except (RasterioError, ValueError, MemoryError) as error:
            raise DamagedFileError(f"{self._path} does not decode ({cause(error)}): fetch it again") from error

    def close(self) -> None:
        self._dataset.close()
        if self._scene is not None:
            self._scene.close()


def product_of(path: Path, label: ProductLabel | None, bands: int) -> ProductType | None:
    """Recognise a HiRISE product by its label, or by its name and bands.

    Returns:
        None for any other raster. All pictures in 8 bits that only browse are ``RGB.NOMAP.browse``.
    """
    if label is not None:
        return "COLOR" if label.band_names == COLOR_BANDS else "RED" if label.bands == 1 else "RGB.NOMAP"
    match = _PRODUCT.search(path.stem)
    if match is None or observation_of(path.stem) is None:
        return None
    if match[2]:
        return "RGB.NOMAP.browse" if bands in (1, 3) else None
    kind = match[1].upper()
    if kind in ("COLOR", "RED"):
        return ("COLOR" if kind == "COLOR" else "RED") if bands == {"COLOR": 3, "RED": 1}[kind] else None
    return "RGB.NOMAP" if bands in (1, 3) else None


def _cache_of(dataset: Any) -> int:
    """Compute the bytes of decoded blocks that GDAL keeps.

    They are for reading a raster in strips.
    """
    rows = max(height for height, _ in dataset.block_shapes)
    row_of_blocks = rows * dataset.width * sum(np.dtype(name).itemsize for name in dataset.dtypes)
    return int(np.clip(2 * row_of_blocks, *_CACHE))


def open_dataset(path: Path) -> Any:
    """Open a raster by GDAL.

    Raises:
        DamagedFileError: GDAL does not open it, or its name is not UTF-8.
    """
    import rasterio
    from rasterio.errors import RasterioError

    try:
        return rasterio.open(path)
    except UnicodeEncodeError as error:
        raise DamagedFileError(f"{shown(path)} cannot be opened, since its name is not UTF-8: rename it") from error
    except (RasterioError, UnicodeDecodeError) as error:  # GDAL quotes what it cannot read
        raise DamagedFileError(
            f"{path} cannot be opened as a raster ({cause(error)}): give a GeoTIFF, JPEG 2000, PNG, JPEG or another "
            "file that GDAL opens, or fetch it again"
        ) from error


def cause(error: BaseException) -> str:
    """Describe an error of rasterio by that of GDAL below it, which says more."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip() or type(error).__name__


def refuse_kinds(path: Path, dataset: Any) -> None:
    """Refuse a raster whose values are no brightness, or that is not whole.

    Raises:
        MarsError: it has complex numbers, a colour table or white as 0, or no bands at all.
        DamagedFileError: it is shorter than its pixels, which its driver would not say.
    """
    from rasterio.enums import ColorInterp

    if dataset.count == 0:
        listed = ", ".join(dataset.subdatasets[:8])
        raise MarsError(f"{path} has no bands of its own, but contains {listed or 'nothing'}: extract one as a GeoTIFF")
    if any(dtype.startswith("complex") for dtype in dataset.dtypes):
        raise MarsError(f"{path} has complex numbers, which are no brightness: compute their magnitude")
    if ColorInterp.palette in dataset.colorinterp and not _is_grey(dataset.colormap(1)):
        raise MarsError(
            f"{path} has a table of colours, whose numbers are no brightness: convert it with gdal_translate "
            "-expand rgb, or -expand gray"
        )
    if dataset.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") or dataset.tags(1, ns="IMAGE_STRUCTURE").get("MINISWHITE"):
        raise MarsError(f"{path} stores white as 0, so that dark and bright are exchanged: save it with black as 0")
    if dataset.driver == "PNG":
        _refuse_truncated_png(path)
    if dataset.driver in _CHECKED_BY_SIZE:
        needed = sum(np.dtype(dtype).itemsize for dtype in dataset.dtypes) * dataset.height * dataset.width
        found = sum(Path(file).stat().st_size for file in dataset.files if Path(file).is_file())
        if found < needed:
            raise DamagedFileError(f"{path} is truncated: its pixels take {needed} bytes, not {found}. Fetch it again")


def _is_grey(colours: dict[int, tuple[int, ...]]) -> bool:
    """Test whether a table of colours turns each number into that grey.

    BMP and GIF have one for every image.
    """
    return all(colour == (number, number, number, 255) for number, colour in colours.items())


def _refuse_truncated_png(path: Path) -> None:
    """Refuse a PNG without its last chunk, which GDAL reads without a word."""
    size, position, kind = path.stat().st_size, 8, b""
    with open(path, "rb") as file:
        while kind != b"IEND":
            file.seek(position)
            head = file.read(8)
            length, kind = int.from_bytes(head[:4]), head[4:]
            position += length + 12  # with its length, kind and checksum
            if position > size:
                raise DamagedFileError(f"{path} is truncated: it lacks the end of a PNG. Fetch it again")


def refuse_truncated_jp2(path: Path) -> None:
    """Refuse a JPEG 2000 file whose boxes do not fill it.

    OpenJPEG reads it without a word.

    Raises:
        DamagedFileError: they do not.
    """
    try:
        with open(path, "rb") as file:
            codestream_box(file)
    except DamagedFileError as error:
        raise DamagedFileError(f"{error}. Fetch it again") from error


def chosen_bands(path: Path, dataset: Any, bands: Sequence[int] | None, progress: Progress) -> list[int]:
    """Choose one or three bands.

    Raises:
        MarsError: the choice is missing where there are more, or is not possible.
    """
    from rasterio.enums import ColorInterp

    colours = [band for band in dataset.indexes if dataset.colorinterp[band - 1] != ColorInterp.alpha]
    listed = ", ".join(
        f"{band} ({name})" if name else str(band)
        for band, name in zip(dataset.indexes, dataset.descriptions, strict=True)
        if band in colours
    )
    if bands is None:
        if len(colours) not in (1, 2, 3):
            raise MarsError(
                f"{path} has {len(colours)} bands: choose one, or three as red, green and blue, of {listed}"
            )
        if len(colours) == 2:
            progress.say(f"{path.name} has the bands {listed}: the first is read; choose another by its number")
        return colours if len(colours) == 3 else colours[:1]
    if missing := [band for band in bands if band not in colours]:
        raise MarsError(f"{path} has no band {', '.join(map(str, missing))} with an image: choose of {listed}")
    if len(bands) not in (1, 3) or len(set(bands)) != len(bands):
        raise MarsError(
            f"{path}: the bands {', '.join(map(str, bands)) or 'chosen'} are no picture: choose one, or three "
            f"different ones as red, green and blue, of {listed}"
        )
    return list(bands)


def _refuse_impossible(path: Path, dtype: np.dtype[Any], nodata: float | None) -> None:
    """Refuse a value for no data that no pixel can have."""
    if nodata is not None and not _fits(dtype, nodata):
        raise MarsError(f"{path}: {nodata:g} cannot be no data, as pixels of type {dtype} never have this value")


def _fits(dtype: np.dtype[Any], value: float | None) -> bool:
    """Test whether pixels of a type can have a value."""
    if value is None:
        return False
    if dtype.kind == "f":
        return True
    limits = np.iinfo(dtype)
    return math.isfinite(value) and float(value).is_integer() and int(limits.min) <= value <= int(limits.max)


def _highest(dtype: np.dtype[Any], bits: str | None) -> int | None:
    """Find the highest value that pixels can have, if there is one."""
    if dtype.kind == "f":
        return None
    return 2 ** int(bits) - 1 if bits is not None and dtype.kind == "u" else int(np.iinfo(dtype).max)


def _position(path: Path, dataset: Any, progress: Progress) -> tuple[str | None, tuple[float, ...] | None]:
    """Read CRS and transform."""
    transform = tuple(float(value) for value in dataset.transform[:6])
    if dataset.subdatasets:
        progress.say(f"{path.name} has further pages or images in it: only the first is read")
    if dataset.crs is None or dataset.transform.is_identity:
        if dataset.gcps[0] or dataset.rpcs is not None:
            progress.say(f"{path.name}: its control points are not used; gdalwarp makes a map of it with them")
        return None, None
    determinant = transform[0] * transform[4] - transform[1] * transform[3]
    if not all(map(math.isfinite, transform)) or determinant == 0:
        raise MarsError(
            f"{path}: its transform {transform} gives pixels no area: assign the right one with gdal_edit -a_ullr"
        )
    return dataset.crs.to_wkt(), transform


def _widened(span: Span, length: int) -> tuple[Span, int]:
    """Widen a span by the margin, and locate it in the wider one."""
    first, last = max(span[0] - _MARGIN, 0), min(span[1] + _MARGIN, length)
    return (first, last), span[0] - first


def _touching(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Keep the pixels of a mask with a neighbour in it.

    A single one is a glint, or chance.
    """
    from scipy.ndimage import binary_dilation

    return np.asarray(mask & binary_dilation(mask, _RING)) if mask.any() else mask


def _areas(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Keep the parts of a mask that are at least three pixels wide.

    What is beyond the edge counts as in it.
    """
    return _opened(np.pad(mask, 2, constant_values=True))[2:-2, 2:-2]


def _opened(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    from scipy.ndimage import binary_dilation, binary_erosion

    inner = np.ones((3, 3), bool)
    return np.asarray(binary_dilation(binary_erosion(mask, inner, border_value=1), inner))


def _grown(mask: npt.NDArray[np.bool_], by: int) -> npt.NDArray[np.bool_]:
    from scipy.ndimage import binary_dilation

    return np.asarray(binary_dilation(mask, np.ones((3, 3), bool), iterations=by))


def blank(quality: Quality) -> npt.NDArray[np.bool_]:
    """Test which pixels have no value; saturated ones have one."""
    return np.asarray((quality == NO_DATA) | (quality == BAND_MISSING))
