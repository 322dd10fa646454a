"""Writers of a scene's craters, one module for each family of formats."""

from __future__ import annotations

from pathlib import Path

from mars_assets.craters.crater_map import CraterMap
from mars_assets.craters.formats.craterstats import SHAPEFILE, scene_count, write_diam, write_scc, write_shapefiles
from mars_assets.craters.formats.geopackage import write_geopackage, write_geoparquet
from mars_assets.craters.formats.robbins import write_robbins_csv
from mars_assets.craters.formats.shapes import ground_parts
from mars_assets.lake import CRATERS_CSV, CRATERS_TABLE, GEOPACKAGE


def write_catalogue(crater_map: CraterMap, folder: Path) -> list[Path]:
    """Write the craters of a scene in all formats.

    Each file appears whole or not at all, and the parts of the two shapefiles appear together. Files for ages need a
    map projection and a counted area; without them, those of an earlier map of the scene are removed.

    Returns:
        The files, with all parts of the shapefiles.

    Raises:
        MarsError: the disk is full, the folder is not writable, or the counted area reaches beyond the map.
    """
    geopackage, parquet, table = (folder / name for name in (GEOPACKAGE, CRATERS_TABLE, CRATERS_CSV))
    write_geopackage(geopackage, crater_map)
    write_geoparquet(parquet, crater_map)
    write_robbins_csv(table, crater_map)
    for_ages = files_for_ages(crater_map.scene, folder)
    if not crater_map.counted_m2:
        for earlier in for_ages:
            earlier.unlink(missing_ok=True)
        return [geopackage, parquet, table]
    craters, area, scc, diam = _for_ages(crater_map.scene, folder)
    parts = ground_parts(crater_map)
    write_shapefiles(craters, area, crater_map, parts)
    count = scene_count(crater_map)
    write_scc(scc, count, parts)
    write_diam(diam, count)
    return [geopackage, parquet, table, *for_ages]


def files_for_ages(scene: str, folder: Path) -> list[Path]:
    """List the files that have a scene's name, with the shapefiles' parts.

    They need not exist.
    """
    craters, area, scc, diam = _for_ages(scene, folder)
    return [*(path.with_suffix(f".{part}") for path in (craters, area) for part in SHAPEFILE), scc, diam]


def _for_ages(scene: str, folder: Path) -> tuple[Path, Path, Path, Path]:
    # craterstats replaces each CRATER in the name of one shapefile to find the other.
    pair = scene.replace("CRATER", "Crater")
    return folder / f"{pair}_CRATER.shp", folder / f"{pair}_AREA.shp", folder / f"{scene}.scc", folder / f"{scene}.diam"
