"""The crater maps of a lake's scenes, read for one catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mars_assets.craters.catalogue import CountedScene
from mars_assets.craters.crater_map import IAU_RADIUS
from mars_assets.craters.formats import files_for_ages
from mars_assets.craters.formats.areas import in_plane, square_metres
from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.imagery.geolocation import body_radius, ground_diameters
from mars_assets.imagery.grid import Grid, Placed
from mars_assets.lake import CRATERS_TABLE, PROVENANCE, Lake
from mars_assets.progress import SILENT, Progress
from mars_assets.storage.files import read_json
from mars_assets.storage.hashing import fingerprint
from mars_assets.storage.published import version_in_use
from mars_assets.storage.schema import read_checked

Float64 = npt.NDArray[np.float64]

_OF_A_MAP = {
    "crater_id": "crater_id",
    "longitude": "longitude",
    "latitude": "latitude",
    "diameter_iau_m": "diameter_m",
    **{name: name for name in ("diameter_px", "axis_ratio", "angle", "roundness", "rim_coverage")},
    **{name: name for name in ("confidence", "probability", "cut")},
}
"""Columns of a catalogue, by their names in a map."""
_PLACES = 33
"""Along each side of a scene, at which the size of its pixels is measured."""
_SAME_AREA = 1e-3
"""Largest difference, as a share, between a map's stated area and that of its polygons."""


@dataclass(frozen=True)
class FoundMaps:
    """The maps in the folder of a lake.

    Args:
        maps: what ``provenance.json`` says, by the name of the scene's folder.
        versions: the folders that have these maps.
        left_out: folders without a map that a catalogue can contain, with the reason.
    """

    maps: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, Path] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def keys(self) -> list[list[str]]:
        """List scenes and the fingerprints of their maps."""
        return sorted([name, about["key"]] for name, about in self.maps.items())


@dataclass(frozen=True)
class MappedScene:
    """A scene and its craters.

    Args:
        ground: what was counted. All of it is added.
        craters: columns of :class:`mars_assets.craters.schema.CataloguedCraters`, without what other scenes decide.
    """

    ground: CountedScene
    craters: pd.DataFrame


@dataclass(frozen=True)
class ReadScenes:
    """The scenes that a catalogue has, and those that it lacks.

    Args:
        scenes: in the order of their names.
        left_out: the reason for each other folder.
    """

    scenes: list[MappedScene]
    left_out: dict[str, str]

    def keys(self) -> list[list[str]]:
        """List scenes and the fingerprints of their maps."""
        return sorted([scene.ground.scene, scene.ground.key] for scene in self.scenes)


def find_maps(lake: Lake) -> FoundMaps:
    """Find the maps of a lake.

    Only what ``provenance.json`` says is read.
    """
    found = FoundMaps()
    folders = lake.all_crater_maps.iterdir() if lake.all_crater_maps.is_dir() else ()
    stems: dict[str, str] = {}
    for folder in sorted(path for path in folders if path.is_dir() and not path.name.startswith(".")):
        try:
            version = version_in_use(folder)
            about = _provenance(version)
            reason = _reason(folder, about, stems)
        except FileNotFoundError:
            reason = f"its map is not finished: materialize 'crater_maps' for {folder.name}"
        except (DamagedFileError, OSError, LookupError, TypeError, ValueError):
            reason = f"its {PROVENANCE} is damaged: {_again(folder)}"
        if reason:
            found.left_out[folder.name] = reason
        else:
            stems[about["scene"]] = folder.name
            found.maps[folder.name] = about
            found.versions[folder.name] = version
    return found


def _provenance(folder: Path) -> dict[str, Any]:
    """Read what a map says of itself."""
    about = read_json(folder / PROVENANCE)
    wanted = ("key", "scene", "grid", "counted_m2", "smallest_px", "craters", "model")
    return {**about, **{name: about[name] for name in wanted}}


def _again(folder: Path) -> str:
    return f"delete {folder} and materialize 'crater_maps' for it"


def _reason(folder: Path, about: Mapping[str, Any], stems: Mapping[str, str]) -> str:
    """Say why a map cannot be in a catalogue; empty if it can."""
    if about["grid"]["crs"] is None:
        return "it is not map projected"
    if not about["counted_m2"]:
        return "nothing of it is counted"
    if folder.name.split() != [folder.name]:
        return "the name of its folder has blanks: rename the folder"
    if about["scene"] in stems:
        return f"{stems[about['scene']]} is the map of the same product: delete one of the folders"
    return ""


def read_scenes(lake: Lake, progress: Progress = SILENT) -> ReadScenes:
    """Read all scenes of a lake.

    Those that cannot be in a catalogue are reported.
    """
    found = find_maps(lake)
    scenes, left_out = [], dict(found.left_out)
    for name, about in progress.track(found.maps.items(), "reading crater maps", len(found.maps)):
        try:
            scenes.append(_read(name, found.versions[name], about))
        except (MarsError, OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
            left_out[name] = f"its map is damaged, or was replaced meanwhile ({error}): {_again(lake.crater_map(name))}"
    say_left_out(left_out, progress)
    _say_models(found, progress)
    return ReadScenes(scenes, left_out)


def say_left_out(reasons: Mapping[str, str], progress: Progress) -> None:
    """Report scenes that are not in the catalogue."""
    for name, reason in reasons.items():
        progress.say(f"{name} is left out of the catalogue: {reason}")


def _say_models(found: FoundMaps, progress: Progress) -> None:
    """Report maps that were made in different ways."""
    ways: dict[str, list[str]] = {}
    for name, about in found.maps.items():
        way = [about.get("computation"), about.get("model"), about.get("calibration"), about.get("precision")]
        ways.setdefault(fingerprint(way), []).append(name)
    if len(ways) > 1:
        groups = "; ".join(
            f"{model_of(found.maps[names[0]])}: {len(names)} scenes, such as {names[0]}" for names in ways.values()
        )
        progress.say(
            f"the maps were made by different models, calibrations or settings ({groups}): materialize 'crater_maps' "
            "again where counts are compared"
        )


def model_of(about: Mapping[str, Any]) -> str:
    """Name the model that made a map, and its version."""
    return f"{about['model']['name']} {about['model']['version']}"


def _read(scene: str, folder: Path, about: Mapping[str, Any]) -> MappedScene:
    """Read a scene's files.

    Raises:
        DamagedFileError: they do not belong together.
    """
    import pyogrio
    import shapely

    from mars_assets.craters.schema import MappedCraters

    table = folder / CRATERS_TABLE
    craters = read_checked(table, "crater_maps", MappedCraters, list(_OF_A_MAP))
    if len(craters) != about["craters"]:
        raise DamagedFileError(f"{table} has {len(craters)} craters, but {PROVENANCE} says {about['craters']}")
    if craters[["longitude", "latitude", "diameter_iau_m"]].isna().any(axis=None):
        raise DamagedFileError(f"{table} has craters without a place")
    (area,) = (file for file in files_for_ages(about["scene"], folder) if file.name.endswith("_AREA.shp"))
    parts = shapely.get_parts(pyogrio.read_dataframe(area).geometry.to_numpy())
    counted = in_plane(parts.tolist())
    grid = about["grid"]
    to_iau = IAU_RADIUS / body_radius(grid["crs"])
    counted_m2 = about["counted_m2"] * to_iau**2
    if not abs(square_metres(counted) / counted_m2 - 1) < _SAME_AREA:
        raise DamagedFileError(f"{area} has another area than {PROVENANCE} says")
    if _provenance(folder) != about:
        raise DamagedFileError(f"{folder} has another {PROVENANCE} than before")
    pixel, smallest = _sizes(Grid(**{**grid, "transform": tuple(grid["transform"])}), about["smallest_px"])
    ground = CountedScene(
        scene=scene,
        smallest_m=smallest * to_iau,
        pixel_m=pixel * to_iau,
        counted=counted,
        counted_m2=counted_m2,
        added_m2=counted_m2,
        key=about["key"],
        model=model_of(about),
    )
    return MappedScene(ground, craters[list(_OF_A_MAP)].rename(columns=_OF_A_MAP))


def _sizes(grid: Grid, smallest_px: float) -> tuple[float, float]:
    """Compute the width of a pixel, and the size from which craters are listed.

    The first is that in the middle of the grid, the second the largest that the smallest craters have anywhere. Both
    are in metres on the grid's own sphere.
    """
    from pyproj import CRS

    assert grid.crs is not None
    assert grid.transform is not None
    a, b, c, d, e, f = grid.transform
    x, y = (side.ravel() for side in np.meshgrid(*(np.linspace(0, n, _PLACES) for n in (grid.samples, grid.lines))))
    # Not the corners of maps on which there is no ground.
    there = Placed(grid, CRS.from_user_input(grid.crs)).on_planet(x, y)
    x, y = x[there], y[there]
    map_x, map_y, pixel = a * x + b * y + c, d * x + e * y + f, abs(a * e - b * d)
    middle = np.argmin(np.hypot(x - grid.samples / 2, y - grid.lines / 2))
    (disc,) = ground_diameters(grid.crs, map_x[[middle]], map_y[[middle]], np.array([pixel]))
    craters = ground_diameters(grid.crs, map_x, map_y, np.full(x.shape, np.pi / 4 * smallest_px**2 * pixel))
    return float(disc * np.sqrt(np.pi) / 2), float(np.nanmax(craters))
