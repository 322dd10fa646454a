"""Crater maps: the files of a scene, made with a finished segmentation model."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mars_assets.code_versions import SCENES
from mars_assets.craters.crater_map import CraterMap
from mars_assets.craters.figures import counts_by_size, overview_picture, size_frequency_figure
from mars_assets.craters.formats import files_for_ages, write_catalogue
from mars_assets.craters.levels import UInt8
from mars_assets.craters.mapping import Found, find_craters, map_of
from mars_assets.craters.page import write_page
from mars_assets.craters.probability import write_probability
from mars_assets.craters.scan import LevelMap, Network, scan
from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.imagery.download import recorded_sha256
from mars_assets.imagery.raster import MapRaster, open_raster
from mars_assets.lake import (
    COUNTS_BY_SIZE,
    GEOPACKAGE,
    MMSEG_CONFIG,
    OVERVIEW,
    PAGE,
    PROBABILITY,
    PROVENANCE,
    SEGMENTER,
    SIZE_FREQUENCY,
)
from mars_assets.plotting import to_png
from mars_assets.progress import SILENT, Progress
from mars_assets.provenance import software
from mars_assets.segmentation.calibration import Calibration, read_calibration
from mars_assets.segmentation.scenes import SceneNetwork
from mars_assets.storage.claims import claim, remove_if_empty
from mars_assets.storage.files import read_json, short_name, shown, write_csv, write_json
from mars_assets.storage.hashing import fingerprint, sha256_file
from mars_assets.storage.published import publish_folder, version_in_use

if TYPE_CHECKING:
    from mars_assets.models.versions import ModelVersion
    from mars_assets.training.compute import Compute

MAPPING = ".mapping"
"""Folder of unfinished maps, next to where they will be."""
_FILES = "files"
"""Folder of the finished files of an unfinished map."""
_OVERVIEW_PIXELS = 4_000_000
SMALLEST_MAPPED = 10.0
"""Smallest diameter in pixels that is mapped if the model was not evaluated."""
LEAST_MAPPED = 4.0
"""Smallest diameter in pixels that has a shape at all."""


@dataclass(frozen=True)
class MapRequest:
    """A raster to look for craters in, and from which size on.

    Args:
        path: any raster, see :func:`mars_assets.imagery.raster.open_raster`.
        smallest_px: smallest diameter in pixels.
        label: its detached label, if it has one.
        bands: numbers of the bands to use, from 1; None if there is no choice.
        nodata: value that means no data, besides those that the file states.
        versions: whether the map becomes a version in its folder, as in a lake, see
            :mod:`mars_assets.storage.published`; else it replaces the files there.
    """

    path: Path
    smallest_px: float
    label: Path | None = None
    bands: tuple[int, ...] | None = None
    nodata: float | None = None
    versions: bool = False

    @property
    def name(self) -> str:
        """The name of the scene, shortened if files could not have it."""
        ending = "_CRATER.shp"  # the longest
        return short_name(self.path.stem, ending).removesuffix(ending)

    def identity(self) -> dict[str, Any]:
        """Describe everything that the pixels depend on, files by their content."""
        return {
            "raster": recorded_sha256(self.path),
            "label": None if self.label is None else recorded_sha256(self.label),
            "bands": None if self.bands is None else list(self.bands),
            "nodata": None if self.nodata is None else _stated(self.nodata),
        }


class MapNetwork(Network, Protocol):
    """A network that looks for the craters of a map."""

    peak: float
    """The margin that a crater must reach to be listed if there is no calibration."""
    orientations: int
    """Number of orientations over which its margins are the mean."""


@dataclass(frozen=True)
class Finder:
    """What looks for craters, as :func:`map_scene` makes it of a model.

    Args:
        open: opens its network. It is not called for a map that exists.
        about: identifies it: everything that its margins depend on, JSON-able.
        compute: describes the device, for provenance.
        calibration: of its probabilities; None if it has none.
    """

    open: Callable[[], MapNetwork]
    about: dict[str, Any]
    compute: dict[str, Any]
    calibration: Calibration | None


def replace_files(made: Path, out: Path) -> None:
    """Replace the files of a map by those of another.

    ``provenance.json`` is removed first and put there last, so that the files belong together while it is there.

    Args:
        made: has the files, and nothing else.
        out: folder of the map. Files that are not of a map stay.
    """
    earlier = provenance_of(out)
    names = [path.name for path in made.iterdir() if path.name != PROVENANCE]
    (out / PROVENANCE).unlink(missing_ok=True)
    for file in files_for_ages(earlier["scene"], out) if "key" in earlier else ():
        if file.name not in names:  # of another scene
            file.unlink(missing_ok=True)
    for name in [*names, PROVENANCE]:
        os.replace(made / name, out / name)


def map_scene(
    model: ModelVersion, request: MapRequest, out: Path, compute: Compute, progress: Progress = SILENT
) -> dict[str, Any]:
    """Look for craters in a scene with a model, and write the scene's files.

    Args:
        model: a finished segmenter.
        request: the scene.
        out: folder of the files, see :func:`map_with`.
        compute: device and precision.
        progress: reports the work.

    Returns:
        The content of ``provenance.json``.

    Raises:
        MarsError: the model predicts rims, or as :func:`map_with`.
    """
    return map_with(finder_of(model, compute, progress), request, out, progress)


def finder_of(model: ModelVersion, compute: Compute, progress: Progress = SILENT) -> Finder:
    """Describe a model as what looks for craters.

    Raises:
        MarsError: the model predicts rims.
    """
    if model.config["recipe"]["annotation"] != "filled":
        raise MarsError(
            f"{model.name} {model.version} predicts the rims of craters, and maps need a model that predicts craters: "
            "train one with annotation: filled"
        )
    files = [sha256_file(model.folder / name) for name in (SEGMENTER, MMSEG_CONFIG)]
    calibration = read_calibration(model.folder)
    if calibration is None:
        progress.say(
            f"{model.name} {model.version} is not calibrated, so the probability that a person would mark a crater is "
            "missing: materialize 'seg_evaluation', with at least 20 craters found in validation images, and 20 others"
        )
    about = {
        "model": {"name": model.name, "version": model.version, "files": files},
        "precision": compute.precision,
        "device": compute.device,
    }
    return Finder(
        lambda: SceneNetwork(model.folder, compute, progress), about, compute.describe(), calibration=calibration
    )


def _identity(finder: Finder, request: MapRequest) -> dict[str, Any]:
    return {
        "scene": request.name,
        "source": request.identity(),
        "smallest_px": request.smallest_px,
        **finder.about,
        "computation": SCENES,
        "calibration": None if finder.calibration is None else asdict(finder.calibration),
    }


def is_mapped(finder: Finder, request: MapRequest, out: Path) -> bool:
    """Test whether a folder has the map that :func:`map_with` would make."""
    return bool(provenance_of(out).get("key") == fingerprint(_identity(finder, request)))


def map_with(finder: Finder, request: MapRequest, out: Path, progress: Progress = SILENT) -> dict[str, Any]:
    """Look for craters in a scene, and write its files.

    A map that exists for the same raster, finder and size is left as it is, and one that was killed goes on. Of several
    processes one works on a folder, see :mod:`mars_assets.storage.claims`. All files are made before one appears.

    Args:
        finder: what looks for craters.
        request: the scene.
        out: folder of the files, or of their versions.
        progress: reports the work.

    Returns:
        The content of ``provenance.json``.

    Raises:
        DamagedFileError: the raster cannot be decoded.
        MarsError: it is no map of Mars, the memory is too small for a window, the folder is not writable, or the disk
            is full.
    """
    _refuse_folder(request, out)
    with open_raster(
        request.path, request.label, bands=request.bands, nodata=request.nodata, progress=progress
    ) as raster:
        about = _identity(finder, request)
        key = fingerprint(about)
        if (existing := _existing(out, key, progress)) is not None:
            return existing
        network = finder.open()
        with _nothing_left_of_damaged(out), claim(out, out / MAPPING, progress) as mine:
            # Another process may have made it while this one waited.
            if (existing := _existing(out, key, progress)) is not None:
                return existing
            work = mine.folder / key[:16]
            levels = _scanned(raster, network, work, progress)
            found = find_craters(levels, network.side, request.smallest_px, progress)
            found = listed(found, finder.calibration, network.peak)
            crater_map = map_of(request.name, raster.grid, levels, found, request.smallest_px)
            files = work / _FILES
            shutil.rmtree(files, ignore_errors=True)  # of a killed run
            write_probability(files / PROBABILITY, raster.grid, levels, found, progress)
            names = [PROBABILITY, *_write_files(crater_map, overview_of(levels), files)]
            provenance = {
                **about,
                "key": key,
                "raster": {"file": request.path.name, **asdict(raster.source)},
                "grid": asdict(raster.grid),
                "stretch": {**raster.stretch, "nodata": [_stated(value) for value in raster.stretch["nodata"]]},
                "windows": {"side": network.side, "orientations": network.orientations},
                "reductions": [level.factor for level in levels],
                "craters": len(crater_map.craters),
                "counted_craters": int(crater_map.craters["counted"].sum()),
                "counted_m2": crater_map.counted_m2,
                "counted_share": crater_map.counted.area / (crater_map.lines * crater_map.samples),
                "compute": finder.compute,
                "software": software(),
                "files": names,
            }
            write_json(files / PROVENANCE, provenance)
            with mine.publishing():
                publish_folder(files, out) if request.versions else replace_files(files, out)
    return provenance


def _refuse_folder(request: MapRequest, out: Path) -> None:
    """Refuse a folder that GDAL cannot name, or where the map replaces the raster."""
    try:
        str(out).encode()
    except UnicodeEncodeError as error:
        raise MarsError(f"{shown(out)} cannot be written, since its name is not UTF-8: rename the folder") from error
    written = {(out / name).resolve() for name in (PROBABILITY, OVERVIEW, SIZE_FREQUENCY, GEOPACKAGE)}
    if request.path.resolve() in written:
        raise MarsError(f"{request.path} would be replaced by a file of its map: name another folder for the map")


def _stated(value: float) -> float | str:
    """Convert a number that may be infinite or NaN to JSON."""
    return value if math.isfinite(value) else str(value)


@contextmanager
def _nothing_left_of_damaged(out: Path) -> Iterator[None]:
    """Remove the folders that were made for a raster that turns out to be damaged."""
    try:
        yield
    except DamagedFileError:
        remove_if_empty(out / MAPPING)
        with suppress(OSError):  # not empty
            out.rmdir()
            out.parent.rmdir()
        raise


def _scanned(raster: MapRaster, network: Network, work: Path, progress: Progress) -> list[LevelMap]:
    """Scan a raster.

    Of one that turns out to be damaged no work is left, since it has to be replaced.
    """
    try:
        return scan(raster, network, work, progress=progress)
    except DamagedFileError:
        shutil.rmtree(work)
        raise


def listed(found: Found, calibration: Calibration | None, peak: float) -> Found:
    """Select the craters to list.

    They are those from the probability of the highest expected F1, or else those that the model itself would keep.
    """
    if calibration is None:
        return found.selected(np.array([crater.peak >= peak for crater in found.craters], bool))
    probability = calibration.probabilities(found.craters)
    listed = probability >= calibration.listed_from
    return replace(found.selected(listed), probability=probability[listed])


def _existing(out: Path, key: str, progress: Progress) -> dict[str, Any] | None:
    """Read the provenance of a complete map of these inputs; None without one."""
    provenance = provenance_of(out)
    if provenance.get("key") != key:
        return None
    version = version_in_use(out)
    if not all((version / name).exists() for name in provenance["files"]):
        return None
    progress.say(f"{out}: the map of {provenance['scene']} exists")
    return provenance


def provenance_of(out: Path) -> dict[str, Any]:
    """Read the provenance of the map in use in a folder; empty without one."""
    try:
        content = read_json(version_in_use(out) / PROVENANCE)
    except (OSError, DamagedFileError):  # what prevents reading is said when the folder is written to
        return {}
    return content if isinstance(content, dict) else {}


def _write_files(crater_map: CraterMap, overview: UInt8, out: Path) -> list[str]:
    """Write catalogues and pictures, and return their names."""
    written = write_catalogue(crater_map, out)
    to_png(overview_picture(crater_map, overview), out / OVERVIEW)
    to_png(size_frequency_figure(crater_map), out / SIZE_FREQUENCY)
    write_csv(out / COUNTS_BY_SIZE, counts_by_size(crater_map))
    write_page(crater_map, overview, out / PAGE)
    return [OVERVIEW, SIZE_FREQUENCY, COUNTS_BY_SIZE, PAGE, *(path.name for path in written)]


def overview_of(levels: Sequence[LevelMap]) -> UInt8:
    """Read a scene's pixels, reduced to at most four megapixels, shape (H, W, 3)."""
    level = next((level for level in levels if level.shape[0] * level.shape[1] <= _OVERVIEW_PIXELS), levels[-1])
    return level.pixels.read(0, level.shape[0])[0]
