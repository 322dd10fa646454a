"""How complete a scene's crater map is, by size.

Craters of known size are drawn into the scene's ground and looked for.

Parts of the scene, its patches, are scanned again with craters drawn into them, by the same windows, levels, rules and
threshold as the map. What is found there is matched one to one with the drawn craters and those of the map together, so
that finding a crater of the map again does not count.
"""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from affine import Affine

from mars_assets.code_versions import INJECTION
from mars_assets.craters.comparison import Circles, match_circles
from mars_assets.craters.injection import Ground, Sun, draw_craters, estimate_sun, inject, shading_of
from mars_assets.craters.instances import Instance
from mars_assets.craters.levels import Mask, Picture
from mars_assets.craters.mapping import find_craters
from mars_assets.craters.relief import Crater
from mars_assets.craters.scan import count_windows, scan
from mars_assets.errors import DamagedFileError
from mars_assets.imagery.geolocation import ground_diameters
from mars_assets.imagery.raster import MapRaster, open_raster
from mars_assets.lake import CRATERS_TABLE, GEOPACKAGE, INJECTED
from mars_assets.progress import SILENT, Counter, Progress
from mars_assets.segmentation.maps import (
    MAPPING,
    Finder,
    MapNetwork,
    MapRequest,
    finder_of,
    listed,
    map_with,
)
from mars_assets.segmentation.maps import provenance_of as map_provenance
from mars_assets.storage.claims import claim
from mars_assets.storage.files import read_provenance, read_table, write_table
from mars_assets.storage.hashing import fingerprint
from mars_assets.storage.published import version_in_use
from mars_assets.storage.schema import columns_of, read_checked, write_checked

if TYPE_CHECKING:
    from shapely.geometry import MultiPolygon

    from mars_assets.imagery.grid import Grid
    from mars_assets.models.versions import ModelVersion
    from mars_assets.training.compute import Compute

Float64 = npt.NDArray[np.float64]

_ASSET = "size_frequency"
"""What has the craters drawn and looked for."""
_PATCHES, _SIDE = 4, 2048
"""Number of patches and their side in pixels, at most."""
_ROWS = 256
"""Rows of a raster that are read at once."""
_SCANS = 4
"""Scans of patches, at least: fewer patches are scanned several times, with other craters each."""
_OF_EACH_SIZE = 28
"""Craters between a diameter and sqrt(2) times it in all scans: some find no place, and 20 are useful."""


@dataclass(frozen=True)
class Injection:
    """Craters that were drawn into a scene, and which of them were found.

    Args:
        trials: see :class:`mars_assets.craters.schema.InjectedCraters`.
        about: what was assumed: ``sun`` (see :class:`mars_assets.craters.injection.Sun`; ``error`` is None if it is
            assumed), ``black`` (stretched value without light, by channel), ``patches`` (``top, left, height, width``),
            ``scans`` (of each), ``seed``, ``map`` (key of the scene's map) and ``key``.
    """

    trials: pd.DataFrame
    about: dict[str, Any]


class Patch(NamedTuple):
    """A part of a scene, in its pixels."""

    top: int
    left: int
    height: int
    width: int


def inject_scene(
    model: ModelVersion, request: MapRequest, out: Path, compute: Compute, progress: Progress = SILENT
) -> Injection:
    """Draw craters into a scene and look for them with a model.

    Args:
        model: a finished segmenter.
        request: the scene.
        out: folder of the scene's map, see :func:`inject_with`.
        compute: device, precision, and the seed of the craters.
        progress: reports the work.

    Raises:
        MarsError: as :func:`mars_assets.segmentation.maps.map_scene`.
    """
    return inject_with(finder_of(model, compute, progress), request, out, compute.seed, progress)


def inject_with(finder: Finder, request: MapRequest, out: Path, seed: int, progress: Progress = SILENT) -> Injection:
    """Draw craters into a scene and look for them.

    What exists for the same map and seed is read, and a killed run goes on at its patch.

    Args:
        finder: what looks for craters.
        request: the scene.
        out: folder of the scene's map, which is made if it does not exist. ``injected.parquet`` is written there.
        seed: of the craters.
        progress: reports the work.

    Raises:
        DamagedFileError: the raster or a table cannot be read.
        MarsError: as :func:`mars_assets.segmentation.maps.map_with`.
    """
    made = map_with(finder, request, out, progress)
    key = fingerprint([made["key"], INJECTION, seed])
    with claim(out, out / MAPPING, progress) as mine:
        existing = None
        with suppress(DamagedFileError):  # it is made anew
            existing = read_injection(out)
        if existing is not None and existing.about["key"] == key:
            progress.say(f"{out}: craters were drawn into {request.name} already")
            return existing
        parts, version = mine.folder / f"injected_{key[:16]}", version_in_use(out)
        with open_raster(request.path, request.label, bands=request.bands, nodata=request.nodata) as raster:
            trials, about = _injected(_Scene(raster, request, version), finder, parts, seed, progress)
        about |= {"seed": seed, "map": made["key"], "key": key}
        with mine.publishing():
            write_checked(version / INJECTED, trials, _schema(), about)
    return Injection(trials, about)


def read_injection(out: Path) -> Injection | None:
    """Read which drawn craters were found in a scene.

    None if that is not known for the map that is in its folder.

    Raises:
        DamagedFileError: the table cannot be read.
    """
    table = version_in_use(out) / INJECTED
    if not table.exists():
        return None
    trials = read_checked(table, _ASSET, _schema())
    about = read_provenance(table)
    return Injection(trials, about) if about.get("map") == map_provenance(out).get("key") else None


def _schema() -> Any:
    from mars_assets.craters.schema import InjectedCraters

    return InjectedCraters


class _Shown(NamedTuple):
    """What a patch shows.

    Args:
        patch: where it lies.
        ground: its pixels.
        counted: which of them are in the counted area.
        existing: the craters of the map that are centred in it, in its pixels.
    """

    patch: Patch
    ground: Ground
    counted: Mask
    existing: Circles


@dataclass(frozen=True)
class _Scene:
    """A scene and its map."""

    raster: MapRaster
    request: MapRequest
    folder: Path

    @cached_property
    def counted(self) -> MultiPolygon:
        """The counted area, in pixels."""
        import shapely
        from pyogrio.raw import read

        grid, path = self.raster.grid, self.folder / GEOPACKAGE
        with _undamaged(path):
            shapes = read(path, layer="counted_area", columns=[])[2]
        # Without a projection, y points up in the layer.
        to_pixels = ~(Affine.scale(1, -1) if grid.transform is None or grid.crs is None else Affine(*grid.transform))
        a, b, c, d, e, f = to_pixels[:6]
        area: MultiPolygon = shapely.transform(
            shapely.union_all(shapely.from_wkb(shapes)),
            lambda points: points @ np.array([[a, d], [b, e]]) + np.array([c, f]),
        )
        return area

    @cached_property
    def craters(self) -> Float64:
        """Centre and diameter of the craters of the map, in pixels, a row for each."""
        path = self.folder / CRATERS_TABLE
        with _undamaged(path):
            return read_table(path, "crater_maps", ["x_px", "y_px", "diameter_px"]).to_numpy(np.float64)

    def shown(self, patch: Patch) -> _Shown:
        """Read a patch."""
        from rasterio.features import rasterize

        bottom = patch.top + patch.height
        columns = slice(patch.left, patch.left + patch.width)
        strips = []
        for top in range(patch.top, bottom, _ROWS):
            pixels, good = self.raster.read(top, min(top + _ROWS, bottom))
            strips.append((pixels[:, columns].copy(), good[:, columns].copy()))  # so that the rest of the row can go
        counted = rasterize(
            [(self.counted, 1)],
            (patch.height, patch.width),
            transform=Affine.translation(patch.left, patch.top),
            dtype="uint8",
        )
        x, y, diameter = self.craters.T
        x, y = x - patch.left, y - patch.top
        here = (x >= 0) & (x < patch.width) & (y >= 0) & (y < patch.height)
        existing = Circles.in_plane(x[here], y[here], diameter[here])
        pixels, good = (np.concatenate(rows) for rows in zip(*strips, strict=True))
        return _Shown(patch, Ground(pixels, good, self.raster.black), counted > 0, existing)


@contextmanager
def _undamaged(path: Path) -> Iterator[None]:
    """Say what to do if a file of the map cannot be read."""
    from pyogrio.errors import DataLayerError, DataSourceError

    try:
        yield
    except (DamagedFileError, DataSourceError, DataLayerError) as error:
        raise DamagedFileError(
            f"{path} of a crater map is damaged ({error.__cause__ or error}): delete it and run again, so that the map "
            "is made anew"
        ) from error


def _injected(
    scene: _Scene, finder: Finder, work: Path, seed: int, progress: Progress
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Draw craters into the patches of a scene and look for them."""
    shown = [scene.shown(patch) for patch in _patches(scene.raster.shape, scene.counted, seed)]
    shading = [shading_of(one.ground, one.existing) for one in shown]
    sun = estimate_sun(np.concatenate([np.empty((0, 2)), *shading]))
    scans = math.ceil(_SCANS / len(shown)) if shown else 0
    of_each_size = math.ceil(_OF_EACH_SIZE / max(scans * len(shown), 1))
    tables = []
    if shown:
        search = _Search(finder.open(), finder, scene.request.smallest_px)
        counter = _announced(shown, scans, search.network.side, sun, progress)
        for (number, one), again in itertools.product(enumerate(shown), range(scans)):
            table = work / f"{number}_{again}.parquet"
            if not table.exists():
                rng = np.random.default_rng([seed, number, again])
                craters = draw_craters(rng, one.counted, one.existing, search.smallest, of_each_size)
                picture = Picture(inject(rng, one.ground, craters, sun), one.ground.good)
                write_table(table, search.trials(picture, craters, one, table.with_suffix("")))
                shutil.rmtree(table.with_suffix(""))
            tables.append(read_table(table, _ASSET).assign(patch=number))
            counter.advance()
        counter.close()
    names = list(columns_of(_schema()))
    trials = pd.concat(tables) if tables else pd.DataFrame(columns=names)
    trials = trials.assign(diameter_m=_on_the_ground(trials, scene.raster.grid))[names].reset_index(drop=True)
    about = {
        "sun": asdict(sun),
        "black": scene.raster.black,
        "patches": [one.patch._asdict() for one in shown],
        "scans": scans,
    }
    return trials, about


@dataclass(frozen=True)
class _Search:
    """How craters are looked for."""

    network: MapNetwork
    finder: Finder
    smallest: float

    def trials(self, picture: Picture, craters: Sequence[Crater], shown: _Shown, folder: Path) -> pd.DataFrame:
        """Look for craters in a picture of a patch into which they were drawn."""
        levels = scan(picture, self.network, folder)
        found = find_craters(levels, self.network.side, self.smallest)
        seen = listed(found, self.finder.calibration, self.network.peak)
        said = _circles(seen.craters)
        drawn = _circles(craters)
        known = Circles(
            np.concatenate([drawn.centres, shown.existing.centres]),
            np.concatenate([drawn.diameter, shown.existing.diameter]),
        )
        ours, theirs = match_circles(said, known)
        ours, theirs = ours[theirs < len(craters)], theirs[theirs < len(craters)]
        diameter, probability = np.full((2, len(craters)), np.nan)
        diameter[theirs] = said.diameter[ours]
        if seen.probability is not None:
            probability[theirs] = seen.probability[ours]
        return pd.DataFrame(
            {
                "diameter_px": drawn.diameter,
                "found": ~np.isnan(diameter),
                "found_diameter_px": diameter,
                "probability": probability,
                "degradation": np.array([crater.degradation for crater in craters], np.float64),
                "x_px": drawn.centres[:, 0] + shown.patch.left,
                "y_px": drawn.centres[:, 1] + shown.patch.top,
            }
        )


def _circles(craters: Sequence[Crater] | Sequence[Instance]) -> Circles:
    x, y, diameter = (
        np.array([getattr(crater, name) for crater in craters], np.float64) for name in ("x", "y", "diameter")
    )
    return Circles.in_plane(x, y, diameter)


def _patches(shape: tuple[int, int], counted: MultiPolygon, seed: int) -> list[Patch]:
    """Choose patches, spread over the counted area.

    The scene is divided into equal parts of at most ``_SIDE``. Those of which much is counted are taken in turn.
    """
    import shapely

    rows, columns = (np.linspace(0, length, math.ceil(length / _SIDE) + 1).round().astype(int) for length in shape)
    parts = [
        Patch(int(top), int(left), int(bottom - top), int(right - left))
        for top, bottom in itertools.pairwise(rows)
        for left, right in itertools.pairwise(columns)
    ]
    boxes = [shapely.box(part.left, part.top, part.left + part.width, part.top + part.height) for part in parts]
    areas = shapely.area(shapely.intersection(np.array(boxes, object), counted))
    usable = [part for part, area in zip(parts, areas, strict=True) if area > 0 and area >= areas.max() / 2]
    count = min(_PATCHES, len(usable))
    first = int(np.random.default_rng(seed).integers(max(len(usable), 1)))
    return [
        usable[at] for at in sorted((first + number * len(usable) // count) % len(usable) for number in range(count))
    ]


def _announced(shown: Sequence[_Shown], scans: int, side: int, sun: Sun, progress: Progress) -> Counter:
    """Say what the trial costs and assumes, and return its counter."""
    windows = scans * sum(count_windows(one.counted.shape, side) for one in shown)
    progress.say(f"drawing craters into {len(shown)} patches {scans} times and looking for them: {windows} windows")
    if sun.error is None:
        progress.say(
            f"the sun is assumed at {sun.azimuth:.0f} degrees clockwise from the top of the image and "
            f"{sun.incidence:.0f} from the vertical, since the shading of {sun.craters} craters does not tell"
        )
    else:
        progress.say(
            f"the sun is at {sun.azimuth:.0f} degrees clockwise from the top of the image, with a standard error of "
            f"{sun.error:.0f}, and {sun.incidence:.0f} from the vertical, as the shading of {sun.craters} craters tells"
        )
    return progress.counter("looking for drawn craters", scans * len(shown), "scans")


def _on_the_ground(table: pd.DataFrame, grid: Grid) -> Float64:
    """Convert diameters to metres; NaN without a projection."""
    if grid.crs is None or grid.transform is None or table.empty:
        return np.full(len(table), np.nan)
    a, b, c, d, e, f = grid.transform
    x, y, diameter = table[["x_px", "y_px", "diameter_px"]].to_numpy(np.float64).T
    return ground_diameters(
        grid.crs, a * x + b * y + c, d * x + e * y + f, np.pi / 4 * diameter**2 * abs(a * e - b * d)
    )
