"""The files of the catalogue of all scenes, written if a scene's map changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mars_assets.code_versions import CATALOGUE
from mars_assets.craters.catalogue import Catalogue, CountedScene
from mars_assets.craters.catalogue_figure import catalogue_figure
from mars_assets.craters.formats.catalogue import write_csv, write_for_ages, write_gpkg, write_points
from mars_assets.craters.joining import Joined, catalogue_of
from mars_assets.craters.scenes import ReadScenes, find_maps, read_scenes, say_left_out
from mars_assets.errors import DamagedFileError, MarsError, MissingInputError
from mars_assets.lake import PROVENANCE, SHIFTS, Lake
from mars_assets.plotting import to_png
from mars_assets.progress import SILENT, Progress
from mars_assets.provenance import software
from mars_assets.storage import files
from mars_assets.storage.cache import Cache
from mars_assets.storage.claims import claim
from mars_assets.storage.hashing import fingerprint, sha256_file
from mars_assets.storage.schema import columns_of

ASSET = "crater_catalogue"
_FOR_AGES = (".scc", ".diam")
_WORK = ".joining"


def update_catalogue(lake: Lake, progress: Progress = SILENT) -> dict[str, Any]:
    """Join all scenes of a lake and write the catalogue.

    That of the same maps is left as it is. ``.json`` is removed first and written last, so that the files belong
    together while it is there.

    Args:
        lake: whose maps are joined.
        progress: reports the work, and the scenes that are left out.

    Returns:
        The content of the ``.json``.

    Raises:
        MissingInputError: there are no maps.
        MarsError: none of them can be in a catalogue, the disk is full, or the folder is not writable.
    """
    found = find_maps(lake)
    if not found.maps and not found.left_out:
        raise MissingInputError("crater_maps", lake.crater_map("*") / PROVENANCE)
    if (existing := _existing(lake, found.keys())) is not None and existing["left_out"] == found.left_out:
        say_left_out(existing["left_out"], progress)
        progress.say(f"{lake.all_crater_maps}: the catalogue of these maps exists")
        return existing
    read = read_scenes(lake, progress)
    if not read.scenes:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in read.left_out.items())
        raise MarsError(f"{lake.all_crater_maps} has no map that can be in a catalogue. {reasons}")
    with claim(lake.crater_catalogue(".gpkg"), lake.all_crater_maps / _WORK, progress) as mine:
        # Another process may have joined them while this one waited.
        existing = _existing(lake, read.keys())
        if existing is not None and existing["left_out"] == read.left_out:
            return existing
        with Cache(lake.cache("shifts"), CATALOGUE, progress=progress) as cache:
            joined = catalogue_of(read.scenes, cache)
        with mine.publishing():
            return _write(lake, joined, read, progress)


def _key(maps: list[list[str]]) -> str:
    return fingerprint(CATALOGUE, maps)


def _existing(lake: Lake, maps: list[list[str]]) -> dict[str, Any] | None:
    """Read what the catalogue of these maps says; None without a complete one."""
    try:
        about = _about(lake)
    except (MissingInputError, DamagedFileError):
        return None
    complete = all(lake.crater_catalogue(suffix).exists() for suffix in about["files"])
    return about if complete and about["key"] == _key(maps) else None


def _write(lake: Lake, joined: Joined, read: ReadScenes, progress: Progress) -> dict[str, Any]:
    """Write all files."""
    catalogue, shifts = joined
    with files.explained_errors(lake.crater_catalogue(".json")):
        lake.crater_catalogue(".json").unlink(missing_ok=True)
    written = [".gpkg", ".parquet", ".csv", ".png", SHIFTS]
    gpkg, points, table, picture, moved, scc, diam = map(lake.crater_catalogue, [*written, *_FOR_AGES])
    write_points(points, catalogue)
    write_gpkg(gpkg, catalogue)
    write_csv(table, catalogue)
    to_png(catalogue_figure(catalogue), picture)
    files.write_csv(moved, shifts)
    for_ages = write_for_ages(scc, diam, catalogue)
    per_scene = {scene.ground.scene: len(scene.craters) for scene in read.scenes}
    about = {
        "key": _key(read.keys()),
        "computation": CATALOGUE,
        "craters": len(catalogue.craters),
        "counted_craters": int(catalogue.craters["counted"].sum()),
        "in_several_scenes": int(catalogue.craters["scenes"].str.contains(" ").sum()),
        "counted_m2": sum(scene.added_m2 for scene in catalogue.scenes),
        "scenes": [
            {
                "scene": scene.scene,
                "key": scene.key,
                "model": scene.model,
                "smallest_m": scene.smallest_m,
                "pixel_m": scene.pixel_m,
                "counted_m2": scene.counted_m2,
                "added_m2": scene.added_m2,
                "craters": per_scene[scene.scene],
            }
            for scene in catalogue.scenes
        ],
        "left_out": read.left_out,
        "software": software(),
        "files": [*written, *(_FOR_AGES if for_ages else ())],
        "sha256": sha256_file(points),
    }
    files.write_json(lake.crater_catalogue(".json"), about)
    progress.say(f"{gpkg}: {len(catalogue.craters)} craters, scenes: {len(catalogue.scenes)}")
    return about


def read_catalogue(lake: Lake) -> Catalogue:
    """Read the catalogue of all scenes.

    Raises:
        MissingInputError: it does not exist.
        DamagedFileError: a file cannot be read, or the files do not belong together.
    """
    from mars_assets.craters.schema import CataloguedCraters

    about = _about(lake)
    points, areas = lake.crater_catalogue(".parquet"), lake.crater_catalogue(".gpkg")
    if points.exists() and sha256_file(points) != about["sha256"]:
        raise _apart(points)
    craters = files.read_table(points, ASSET, list(columns_of(CataloguedCraters)))
    counted = _areas(areas)
    stated = about["scenes"]
    if counted["map_key"].tolist() != [scene["key"] for scene in stated]:
        raise _apart(areas)
    names = ("scene", "smallest_m", "pixel_m", "counted_m2", "added_m2", "key", "model")
    return Catalogue(
        craters,
        [
            CountedScene(**{name: scene[name] for name in names}, counted=area)
            for scene, area in zip(stated, counted.geometry, strict=True)
        ],
    )


def _apart(path: Path) -> DamagedFileError:
    return DamagedFileError(
        f"{path} is not of the same catalogue as {path.with_suffix('.json').name}: delete that and materialize "
        f"'{ASSET}' again"
    )


def _areas(path: Path) -> Any:
    """Read the counted areas.

    Raises:
        MissingInputError: there is no such file.
        DamagedFileError: GDAL cannot read it.
    """
    import pyogrio

    if not path.exists():
        raise MissingInputError(ASSET, path)
    try:
        return pyogrio.read_dataframe(path, layer="counted_area")
    except RuntimeError as error:  # the base of pyogrio's errors
        raise DamagedFileError(
            f"{path} cannot be opened as a GeoPackage ({error}): materialize '{ASSET}' again"
        ) from error


def _about(lake: Lake) -> dict[str, Any]:
    """Read what the catalogue says of itself.

    Raises:
        MissingInputError: there is none.
        DamagedFileError: it is not that.
    """
    path = lake.crater_catalogue(".json")
    if not path.exists():
        raise MissingInputError(ASSET, path)
    about = files.read_json(path)
    if not isinstance(about, dict) or not {"key", "files", "scenes", "sha256", "left_out"} <= about.keys():
        raise DamagedFileError(f"{path} is not the summary of a catalogue: delete it and materialize '{ASSET}' again")
    return about
