"""Files from which craterstats dates a surface.

They are a pair of shapefiles, ``.scc`` and ``.diam``.

They list the craters whose centre is inside the counted area, each whole, since craterstats' Poisson ages count rows.
Positions are planetocentric, on the sphere with the equatorial radius of the raster's body.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from mars_assets.craters.crater_map import CraterMap
from mars_assets.craters.formats.shapes import Shapes, ground_circles
from mars_assets.craters.formats.writing import write_layer
from mars_assets.errors import MarsError
from mars_assets.storage.files import atomic_files, first_bytes, write_bytes

if TYPE_CHECKING:
    from shapely.geometry import Polygon

SHAPEFILE = ("prj", "cpg", "shx", "dbf", "shp")
"""The parts of a shapefile. The last appears last: without it there is no shapefile."""

_AT_ONCE = 2_000
"""Craters whose circles are in memory at a time."""


class Count(NamedTuple):
    """The craters from which a surface is dated.

    Args:
        craters: those in the area, with ``diameter_m``, ``longitude`` and ``latitude``.
        square_metres: the area.
        radius: of the sphere in metres.
        note: what the files say first; one line.
    """

    craters: pd.DataFrame
    square_metres: float
    radius: float
    note: str = ""


def scene_count(crater_map: CraterMap) -> Count:
    """Select the craters of a scene whose centre is inside the counted area."""
    assert crater_map.counted_m2 is not None
    inside = crater_map.craters["counted"].astype(bool)
    return Count(crater_map.craters[inside].reset_index(drop=True), crater_map.counted_m2, _radius(crater_map))


def write_shapefiles(craters: Path, area: Path, crater_map: CraterMap, parts: list[Polygon]) -> None:
    """Write craters and counted area as polygons in longitude and latitude.

    craterstats reads diameters and area from the polygons alone, which takes 0.1 % off diameters of 2 m and more of
    smaller ones; the other files have no such limit.

    Args:
        craters: the ``.shp`` of the craters; its name ends in ``_CRATER``, since craterstats looks for ``_AREA`` by it.
        area: the ``.shp`` of the area.
        crater_map: of a raster that is map projected.
        parts: see :func:`mars_assets.craters.formats.shapes.ground_parts`.

    Raises:
        MarsError: the disk is full, or the folder is not writable.
    """
    from geopandas import GeoDataFrame
    from pyproj import CRS

    rows, square_metres, radius, _ = scene_count(crater_map)
    system = CRS.from_dict({"proj": "longlat", "R": radius, "no_defs": True})
    table = pd.DataFrame(
        {
            "crater_id": rows["crater_id"],
            "Diam_km": rows["diameter_m"] / 1000,
            "x_coord": rows["longitude"],
            "y_coord": rows["latitude"],
        }
    )
    longitude, latitude, diameter = rows[["longitude", "latitude", "diameter_m"]].to_numpy(np.float64).T
    targets = {
        f"{name}.{part}": path.with_suffix(f".{part}")
        for part in SHAPEFILE
        for name, path in (("area", area), ("craters", craters))
    }
    with atomic_files(targets) as folder:

        def write(name: str, table: pd.DataFrame, shapes: Shapes | list[Polygon], append: bool) -> None:
            write_layer(
                folder / f"{name}.shp",
                GeoDataFrame(table, geometry=shapes, crs=system),
                craters,
                driver="ESRI Shapefile",
                encoding="UTF-8",
                geometry_type="Polygon",
                append=append,
            )

        write("area", pd.DataFrame({"area_km2": [square_metres / 1e6] * len(parts)}), parts, append=False)
        for start in range(0, max(len(table), 1), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            circles = ground_circles(longitude[some], latitude[some], diameter[some], radius)
            write("craters", table[some], circles, append=start > 0)
        for name in ("area", "craters"):
            (folder / f"{name}.prj").write_text(system.to_wkt("WKT1_ESRI"))
            _check_whole(folder / name, craters)


def _check_whole(path: Path, target: Path) -> None:
    """Compare the sizes of a shapefile's parts with their headers.

    GDAL ignores failures of its last writes.

    Raises:
        MarsError: a part is truncated.
    """
    table = path.with_suffix(".dbf")
    rows, header, width = struct.unpack("<4xIHH", first_bytes(table, 12))
    whole = [table.stat().st_size >= header + rows * width]
    for suffix in (".shp", ".shx"):
        part = path.with_suffix(suffix)
        words = int.from_bytes(first_bytes(part, 28)[24:], "big")
        whole.append(part.stat().st_size == 2 * words)
    if not all(whole):
        raise MarsError(
            f"{target} cannot be written whole: check the space on the disk and the limit of a file's size (ulimit "
            "-f), and run again"
        )


def write_scc(target: Path, count: Count, parts: list[Polygon]) -> None:
    """Write a spatial crater count, with the area's boundary for maps.

    Args:
        target: the file.
        count: craters and area.
        parts: see :func:`mars_assets.craters.formats.shapes.ground_parts`.
    """
    radii = "".join(f"{axis}_axis_radius = {count.radius / 1000:.9f} <km>\n" for axis in "abc")
    vertices: list[str] = []
    rings = [(tag, ring) for part in parts for tag, ring in _tagged(part)]
    for number, (tag, ring) in enumerate(rings, start=1):
        for longitude, latitude in ring:
            vertices.append(f"{len(vertices) + 1}\t{number}\t{tag}\t{longitude:.12f}\t{latitude:.12f}\n")
    rows = count.craters
    craters = [
        f"{diameter / 1000:.9f}\t1\t{longitude:.12f}\t{latitude:.12f}\n"
        for diameter, longitude, latitude in zip(rows["diameter_m"], rows["longitude"], rows["latitude"], strict=True)
    ]
    text = (
        f"# Spatial crater count\n{_comment(count)}{radii}coordinate_system_name = planetocentric, east\n"
        f"Total_area = {count.square_metres / 1e6:.12f} <km^2>\n"
        f"unit_boundary = {{vertex, sub_area, tag, lon, lat\n{''.join(vertices)}}}\n"
        f"crater = {{diam, fraction, lon, lat\n{''.join(craters)}}}\n"
    )
    write_bytes(target, text.encode())


def write_diam(target: Path, count: Count) -> None:
    """Write area and diameters alone."""
    rows = "".join(f"{diameter / 1000:.9f} 1\n" for diameter in count.craters["diameter_m"])
    text = f"area = {count.square_metres / 1e6:.12f}\ncrater = {{diameter, fraction\n{rows}}}\n"
    write_bytes(target, (_comment(count) + text).encode())


def _comment(count: Count) -> str:
    return f"# {count.note}\n" if count.note else ""


def _radius(crater_map: CraterMap) -> float:
    from pyproj import CRS

    ellipsoid = CRS.from_user_input(crater_map.crs).ellipsoid
    assert ellipsoid is not None
    return float(ellipsoid.semi_major_metre)


def _tagged(part: Polygon) -> list[tuple[str, list[tuple[float, float]]]]:
    """List a polygon's rings, and whether each is its exterior."""
    return [("ext", list(part.exterior.coords)), *(("int", list(ring.coords)) for ring in part.interiors)]
