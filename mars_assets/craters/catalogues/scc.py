"""Spatial crater counts of craterstats and CraterTools, ``.scc``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from mars_assets.craters.crater_map import IAU_RADIUS
from mars_assets.craters.formats.shapes import polygons
from mars_assets.errors import DamagedFileError
from mars_assets.storage.files import shown

if TYPE_CHECKING:
    from shapely.geometry import MultiPolygon

_TABLE = re.compile(r"^\s*(?P<name>crater|unit_boundary)\s*=\s*\{(?P<columns>[^\n]*)\n(?P<rows>[^}]*)\}", re.MULTILINE)
_RADIUS = re.compile(r"^\s*a_axis_radius\s*=\s*(?P<number>[^<\s]+)\s*<km>", re.MULTILINE)


class SpatialCount(NamedTuple):
    """What a ``.scc`` has.

    Args:
        craters: cells as they are written, by column; ``line`` is the line in the file.
        radius: of the sphere, in metres.
        boundary: of the counted area, in degrees; None if it is not stated.
    """

    craters: pd.DataFrame
    radius: float
    boundary: MultiPolygon | None


def read_scc(path: Path) -> SpatialCount:
    """Read a spatial crater count.

    Raises:
        DamagedFileError: it has no table of craters, or numbers that are none.
    """
    text = path.read_text(encoding="utf-8-sig", errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    tables = {found["name"]: _rows(path, text, found) for found in _TABLE.finditer(text)}
    if "crater" not in tables:
        raise DamagedFileError(
            f"{shown(path)} has no complete table crater = {{diam, fraction, lon, lat ... }}: write it again"
        )
    radius = _RADIUS.search(text)
    try:
        metres = float(radius["number"]) * 1000 if radius else IAU_RADIUS
        boundary = _boundary(tables["unit_boundary"]) if "unit_boundary" in tables else None
    except (ValueError, KeyError) as error:
        raise DamagedFileError(
            f"{shown(path)}: its radius or unit_boundary has other than numbers ({error}): write it again"
        ) from error
    return SpatialCount(tables["crater"], metres, boundary)


def _rows(path: Path, text: str, found: re.Match[str]) -> pd.DataFrame:
    columns = [name for name in re.split(r"[,\s]+", found["columns"].strip()) if name]
    first = text.count("\n", 0, found.start("rows")) + 1
    lines = enumerate(found["rows"].split("\n"), start=first)
    rows = [(number, line.split()) for number, line in lines if line.strip() and not line.lstrip().startswith("#")]
    if wrong := next((number for number, cells in rows if len(cells) != len(columns)), None):
        raise DamagedFileError(
            f"{shown(path)}, line {wrong}: {len(columns)} cells are expected ({', '.join(columns)}), separated by "
            "blanks or tabs: correct the line"
        )
    table = pd.DataFrame([cells for _, cells in rows], columns=columns, dtype=str)
    return table.assign(line=[number for number, _ in rows])


def _boundary(vertices: pd.DataFrame) -> MultiPolygon:
    """Build polygons from closed rings, those inside others being holes."""
    import shapely

    area = shapely.MultiPolygon()
    holes = []
    for _, ring in vertices.groupby("sub_area", sort=False):
        points = ring[["lon", "lat"]].astype(float).to_numpy()
        polygon = shapely.make_valid(shapely.Polygon(points))
        if (ring["tag"] == "int").all():
            holes.append(polygon)
        else:
            area = area.union(polygon)
    return shapely.MultiPolygon(polygons(area.difference(shapely.union_all(holes))))
