"""Partial reads of HiRISE images: an overview, and strips in bounded memory.

HiRISE's JPEG 2000 files are a single tile. GDAL decodes such a tile block by block, which takes three times as long as
OpenJPEG's own area reads. If glymur finds an OpenJPEG library, it therefore reads these files, for each strip only the
packets needed. GDAL reads all others.
"""

from __future__ import annotations

import contextlib
import ctypes.util
import math
import os
import tempfile
import threading
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.imagery.jpeg2000 import Codestream, Window
from mars_assets.imagery.pds_label import ProductLabel, read_label
from mars_assets.images import read_grey_or_rgb
from mars_assets.progress import SILENT, Progress

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

_OVERVIEW_PIXELS = 4_000_000
_GDAL_CACHE = 512 * 1024 * 1024  # in bytes for rasterio, unlike GDAL's own setting in megabytes


@dataclass(frozen=True)
class SceneInfo:
    """Shape and position of an image.

    Args:
        lines, samples, bands: height and width in pixels, and the number of bands.
        bits: significant bits per sample.
        lossy: whether JPEG compression smeared exact values such as "no data".
        crs: coordinate reference system as WKT; None if the image is not map projected.
        transform: from (sample, line) to map coordinates, the first six numbers of ``affine.Affine``; None if ``crs``
            is.
    """

    lines: int
    samples: int
    bands: int
    bits: int
    lossy: bool
    crs: str | None
    transform: tuple[float, ...] | None

    @property
    def overview_factor(self) -> int:
        """Compute the power of two that reduces an overview to at most four megapixels."""
        ratio = self.lines * self.samples / _OVERVIEW_PIXELS
        return 1 if ratio <= 1 else 2 ** math.ceil(math.log2(ratio) / 2)


class Scene(ABC):
    """An open image, used as a context manager.

    Arrays are (rows, columns, bands), uint8 or uint16. Several threads may read at once.
    """

    reader: str

    def __init__(self, path: Path, info: SceneInfo) -> None:
        self.path = path
        self.info = info

    @abstractmethod
    def read(self, rows: tuple[int, int], cols: tuple[int, int]) -> Pixels:
        """Read the pixels of some rows and columns.

        These are ``rows[0] <= row < rows[1]`` and ``cols[0] <= col < cols[1]``.
        """

    @abstractmethod
    def overview(self, factor: int) -> Pixels:
        """Read the whole image, reduced by a power of two.

        Returns:
            Shape (ceil(lines / factor), ceil(samples / factor), bands).
        """

    def close(self) -> None:  # noqa: B027 - a scene in memory has nothing to close
        """Release the file."""

    def __enter__(self) -> Scene:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _JpegScene(Scene):
    """A JPEG, decoded as a whole: browse products have only a few megapixels."""

    reader = "pillow"

    def __init__(self, path: Path) -> None:
        self._pixels = read_grey_or_rgb(path, remedy="fetch it again")
        lines, samples, bands = self._pixels.shape
        super().__init__(path, SceneInfo(lines, samples, bands, 8, True, None, None))

    def read(self, rows: tuple[int, int], cols: tuple[int, int]) -> Pixels:
        return self._pixels[slice(*rows), slice(*cols)]

    def overview(self, factor: int) -> Pixels:
        return self._pixels[::factor, ::factor]


class _GdalScene(Scene):
    reader = "gdal"

    def __init__(self, path: Path, label: Path | None) -> None:
        import rasterio
        from rasterio.errors import RasterioError

        self._environment = rasterio.Env(GDAL_CACHEMAX=_GDAL_CACHE, GDAL_NUM_THREADS="ALL_CPUS")
        self._turn = threading.Lock()  # a dataset is not thread-safe
        try:
            with self._environment:
                self._dataset = rasterio.open(path)
        except RasterioError as error:
            raise DamagedFileError(f"{path} cannot be opened as an image ({error}): fetch it again") from error
        dataset = self._dataset
        nbits = dataset.tags(1, ns="IMAGE_STRUCTURE").get("NBITS")
        bits = int(nbits or np.dtype(dataset.dtypes[0]).itemsize * 8)
        if dataset.dtypes[0] not in ("uint8", "uint16"):
            dataset.close()
            raise DamagedFileError(
                f"{path} contains {dataset.dtypes[0]}, but HiRISE products are uint8 or uint16: fetch it again"
            )
        try:
            crs, transform = _position(dataset, label)
        except DamagedFileError:
            dataset.close()
            raise
        super().__init__(path, SceneInfo(dataset.height, dataset.width, dataset.count, bits, False, crs, transform))

    def read(self, rows: tuple[int, int], cols: tuple[int, int]) -> Pixels:
        return self._read(window=(rows, cols))

    def overview(self, factor: int) -> Pixels:
        shape = (self.info.bands, math.ceil(self.info.lines / factor), math.ceil(self.info.samples / factor))
        return self._read(out_shape=shape)

    def _read(self, **what: Any) -> Pixels:
        from rasterio.errors import RasterioError

        try:
            with self._turn, self._environment:
                return np.ascontiguousarray(np.moveaxis(self._dataset.read(**what), 0, -1))
        except RasterioError as error:
            raise DamagedFileError(f"{self.path} does not decode ({error}): fetch it again") from error

    def close(self) -> None:
        self._dataset.close()


class _SingleTileScene(Scene):
    """A single-tile JPEG 2000, read by glymur.

    For each strip only its packets are read, if the file separates them.
    """

    def __init__(self, gdal: _GdalScene, glymur: ModuleType, codestream: Codestream | None) -> None:
        super().__init__(gdal.path, gdal.info)
        self.reader = f"glymur {glymur.__version__}, OpenJPEG {glymur.version.openjpeg_version}"
        self._gdal, self._glymur, self._codestream = gdal, glymur, codestream

    def read(self, rows: tuple[int, int], cols: tuple[int, int]) -> Pixels:
        if self._codestream is None:
            return self._decode(self.path, slice(*rows), slice(*cols))
        return self._decode_picked(self._codestream.pick(Window(rows, cols)), slice(*rows), slice(*cols))

    def overview(self, factor: int) -> Pixels:
        if self._codestream is None:
            return self._gdal.overview(factor)
        halvings = min(factor.bit_length() - 1, self._codestream.levels)
        step, rest = 1 << halvings, factor >> halvings
        every = slice(None, None, step)
        return self._decode_picked(self._codestream.pick(discard=halvings), every, every)[::rest, ::rest]

    def _decode_picked(self, codestream: bytes, rows: slice, cols: slice) -> Pixels:
        with tempfile.NamedTemporaryFile(suffix=".j2k") as file:
            try:
                file.write(codestream)
                file.flush()
            except OSError as error:
                raise MarsError(
                    f"{file.name} cannot be written ({error.strerror}): a strip needs {len(codestream) >> 20} MiB "
                    "there. Free some space, or set the variable TMPDIR to another folder"
                ) from error
            return self._decode(Path(file.name), rows, cols)

    def _decode(self, path: Path, rows: slice, cols: slice) -> Pixels:
        try:
            pixels: Pixels = self._glymur.Jp2k(str(path))[rows, cols]
        except (OSError, ValueError, RuntimeError) as error:
            raise DamagedFileError(f"{self.path} does not decode ({error}): fetch it again") from error
        return pixels if pixels.ndim == 3 else pixels[..., None]

    def close(self) -> None:
        self._gdal.close()


def open_scene(image: Path, label: Path | None = None, progress: Progress = SILENT) -> Scene:
    """Open a product for reading in parts.

    Args:
        image: JPEG, JPEG 2000 or another raster that GDAL reads.
        label: its detached label, which gives its position on the map.
        progress: reports if only a slower reader is available.

    Raises:
        DamagedFileError: the image does not open, or does not match the label.
    """
    match image.suffix.lower():
        case ".jpg" | ".jpeg":
            scene: Scene = _JpegScene(image)
        case ".jp2":
            scene = open_jp2(image, label, progress)
        case _:
            scene = _GdalScene(image, label)
    if label is not None:
        try:
            described = read_label(label)
        except BaseException:
            scene.close()
            raise
        size = (scene.info.lines, scene.info.samples, scene.info.bands)
        if (described.lines, described.samples, described.bands) != size:
            scene.close()
            raise DamagedFileError(
                f"{image} has {scene.info.lines} x {scene.info.samples} pixels and {scene.info.bands} bands, but its "
                f"label {label.name} says {described.lines} x {described.samples} and {described.bands}. "
                "Fetch both again"
            )
        if described.map_scale is not None and scene.info.crs is None:
            progress.say(f"{image.name}: map projected according to its label, but neither file gives its position")
    return scene


def open_jp2(image: Path, label: Path | None = None, progress: Progress = SILENT) -> Scene:
    """Open a JPEG 2000 file, regardless of its suffix.

    Unlike :func:`open_scene`, this does not compare label and image.
    """
    scene = _GdalScene(image, label)
    try:
        glymur = load_glymur()
        if glymur is None:
            progress.say(f"{image.name}: glymur with OpenJPEG is not available; GDAL reads it about 3 times slower")
            return scene
        codestream = Codestream.of(image)
        if codestream is None:
            if _has_several_tiles(glymur, image):
                return scene
            progress.say(f"{image.name}: its packets cannot be separated, so every strip reads the whole file")
    except BaseException:
        scene.close()
        raise
    return _SingleTileScene(scene, glymur, codestream)


def _has_several_tiles(glymur: ModuleType, image: Path) -> bool:
    try:
        segments = glymur.Jp2k(str(image)).get_codestream(header_only=True).segment
        size = next(marker for marker in segments if marker.marker_id == "SIZ")
    except (OSError, ValueError, RuntimeError, StopIteration) as error:
        raise DamagedFileError(f"{image} cannot be opened as JPEG 2000 ({error}): fetch it again") from error
    return bool(size.xtosiz + size.xtsiz < size.xsiz or size.ytosiz + size.ytsiz < size.ysiz)


def _position(dataset: Any, label: Path | None) -> tuple[str | None, tuple[float, ...] | None]:
    """Read CRS and transform of a scene.

    They come from the label by GDAL's PDS driver, or else from the image's header.
    """
    import rasterio
    from rasterio.errors import RasterioIOError

    if label is not None:
        # The driver looks for the image under the name in the label, which fails for a renamed product.
        with contextlib.suppress(RasterioIOError), rasterio.open(label, driver="PDS") as labelled:
            if labelled.crs is not None and labelled.shape == dataset.shape:
                described = read_label(label)
                if described.map_scale is not None:
                    return _in_units_of(described, labelled.crs, labelled.transform)
    if dataset.crs is not None and not dataset.transform.is_identity:
        return dataset.crs.to_wkt(), tuple(dataset.transform[:6])
    return None, None


def _in_units_of(label: ProductLabel, crs: Any, transform: Any) -> tuple[str, tuple[float, ...]]:
    """Correct a CRS and transform by GDAL for the units that the label states.

    GDAL takes a map scale for kilometres unless its unit is M, METER, METERS or CM, and a radius always.
    """
    import rasterio

    assert label.map_scale is not None
    position = tuple(transform[:6])
    if not math.isclose(stretch := label.map_scale / transform.a, 1, rel_tol=1e-6):
        position = tuple(stretch * value for value in position)
    if label.radius_km is not None:
        stated = crs.to_dict()
        radius = float(stated.get("R", stated.get("a", 1000 * label.radius_km)))
        # Only the power of ten, since some projections use the polar radius instead.
        power = round(math.log10(1000 * label.radius_km / radius))
        if power != 0:
            scaled = {key: stated[key] * 10.0**power for key in ("R", "a", "b") if key in stated}
            crs = rasterio.CRS.from_dict(stated | scaled)
    return crs.to_wkt(), position


def load_glymur() -> ModuleType | None:
    """Import glymur with a working OpenJPEG, or return None.

    glymur looks for the library once, on import: in its configuration file, then among the system's libraries. If it
    would find none, a temporary configuration file points it to the library inside rasterio's wheel.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            before = os.environ.get("XDG_CONFIG_HOME")
            bundled = None if _has_own_openjpeg() else _bundled_openjpeg()
            if bundled is not None:
                (Path(folder) / "glymur").mkdir()
                (Path(folder) / "glymur" / "glymurrc").write_text(f"[library]\nopenjp2: {bundled}\n")
                os.environ["XDG_CONFIG_HOME"] = folder
            try:
                with warnings.catch_warnings():
                    # It warns if the library does not load, which the version check below detects too.
                    warnings.simplefilter("ignore", UserWarning)
                    import glymur
            finally:
                if before is None:
                    os.environ.pop("XDG_CONFIG_HOME", None)
                else:
                    os.environ["XDG_CONFIG_HOME"] = before
    except ImportError:
        return None
    # 2.3 is the first version with multithreading and with the area reads that glymur relies on.
    if glymur.version.openjpeg_version_tuple < (2, 3):
        return None
    glymur.set_option("lib.num_threads", len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
    module: ModuleType = glymur
    return module


def _has_own_openjpeg() -> bool:
    configuration = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "glymur" / "glymurrc"
    return configuration.exists() or Path("glymurrc").exists() or ctypes.util.find_library("openjp2") is not None


def _bundled_openjpeg() -> Path | None:
    import rasterio

    package = Path(rasterio.__file__).parent
    for folder in (package.parent / "rasterio.libs", package / ".dylibs"):
        for library in sorted(folder.glob("libopenjp2*")):
            return library
    return None
