"""The formats of crater catalogues, read before what their columns are is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mars_assets.craters.catalogues.crater_list import DEGREES, Area, Counted
from mars_assets.craters.catalogues.scc import read_scc
from mars_assets.craters.catalogues.shapes import as_mars, circles_of, points_of
from mars_assets.craters.crater_map import IAU_RADIUS
from mars_assets.craters.formats.shapes import polygons
from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.storage.files import shown

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

Float64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

AREA_LAYER = "counted_area"
_DRAWN = ("diam_km", "x_coord", "y_coord")
"""Columns of CraterTools that a shapefile's geometry replaces."""
_POINT, _POLYGONS = 0, {3, 6}
"""Types of geometry in shapely's numbers."""


@dataclass(frozen=True)
class Raw:
    """A file's content, before what its columns are is known.

    Args:
        table: its columns.
        line: where each row stands in the file.
        what: how a row is named.
        circles: longitude, latitude and diameter from the geometry, shape (3, n); diameters of points are NaN.
        area: where craters were counted, if the file says so.
        scenes: the same by scene, each with the size from which its craters are listed.
        radius: of the sphere on which diameters in columns were measured, in metres.
    """

    table: pd.DataFrame
    line: Float64
    what: str = "line"
    circles: Float64 | None = None
    area: Area | None = None
    scenes: Sequence[Counted] = ()
    radius: float = IAU_RADIUS

    def selected(self, rows: Mask) -> Raw:
        """Return some of the rows, without what their geometry says."""
        return replace(self, table=self.table[rows].reset_index(drop=True), line=self.line[rows], circles=None)


def _read_csv(path: Path) -> Raw:
    try:
        text = path.read_text(encoding="utf-8-sig")
        first = text.lstrip().partition("\n")[0]
        table = pd.read_csv(
            path,
            sep=max(",;\t", key=first.count),
            dtype=str,
            encoding="utf-8-sig",
            keep_default_na=False,
            skipinitialspace=True,
            skip_blank_lines=False,
            index_col=False,
        )
    except UnicodeDecodeError as error:
        raise MarsError(f"{shown(path)} is not UTF-8 text ({error}). Save it as CSV with UTF-8 encoding") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DamagedFileError(
            f"{shown(path)} is no table ({str(error).strip()}): each row needs as many cells as the first"
        ) from error
    table = table.rename(columns=str.strip).fillna("")
    filled = (table != "").any(axis=1).to_numpy()
    return Raw(table[filled].reset_index(drop=True), np.flatnonzero(filled).astype(np.float64) + 2)


def _read_parquet(path: Path) -> Raw:
    import geopandas
    from shapely.errors import ShapelyError

    try:
        is_geographic = b"geo" in (pq.read_schema(path).metadata or {})
        table = geopandas.read_parquet(path) if is_geographic else pd.read_parquet(path)
    except (pa.ArrowException, ShapelyError, OSError, ValueError) as error:
        raise DamagedFileError(f"{shown(path)} cannot be read as a Parquet file ({error}): write it again") from error
    if is_geographic:
        return _with_geometry(path, table, None)
    return Raw(table, np.arange(1.0, len(table) + 1), "row")


def _read_geopackage(path: Path) -> Raw:
    layers = _layers(path)
    craters = [name for name in layers if name != AREA_LAYER]
    if "craters" not in craters and len(craters) != 1:
        raise MarsError(
            f"{shown(path)} has the layers {', '.join(layers)}: name the one with the craters 'craters', or leave no "
            "other"
        )
    frame = read_layer(path, "craters" if "craters" in craters else craters[0])
    return _with_geometry(path, frame, read_layer(path, AREA_LAYER) if AREA_LAYER in layers else None)


def _read_shapefile(path: Path) -> Raw:
    frame = read_layer(path, None)
    if as_mars(path, frame.crs) is None:
        raise MarsError(f"{shown(path)} has no .prj: without its projection its places are not known")
    area = path.with_name(path.name.replace("_CRATER", "_AREA"))
    raw = _with_geometry(path, frame, read_layer(area, None) if area != path and area.exists() else None)
    if raw.circles is not None and np.isfinite(raw.circles[2]).all():
        # What a shapefile draws is what craterstats reads, whatever its table says.
        return replace(raw, table=raw.table.drop(columns=[name for name in raw.table if str(name).lower() in _DRAWN]))
    return raw


def _read_scc(path: Path) -> Raw:
    count = read_scc(path)
    area = None if count.boundary is None else Area(count.boundary, DEGREES)
    lines = count.craters.pop("line").to_numpy(np.float64)
    return Raw(count.craters, lines, area=area, radius=count.radius)


READERS: dict[str, Callable[[Path], Raw]] = {
    ".gpkg": _read_geopackage,
    ".shp": _read_shapefile,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
    ".geoparquet": _read_parquet,
    ".scc": _read_scc,
}
"""By a file's suffix."""


def _layers(path: Path) -> list[str]:
    import pyogrio

    try:
        return [str(name) for name, kind in pyogrio.list_layers(path) if kind is not None]
    except (RuntimeError, ValueError) as error:  # RuntimeError is the base of pyogrio's errors
        raise DamagedFileError(f"{shown(path)} cannot be read by GDAL ({error}): write it again") from error


def read_layer(path: Path, name: str | None) -> GeoDataFrame:
    import geopandas
    from shapely.errors import ShapelyError

    try:
        return geopandas.read_file(path, layer=name, engine="pyogrio")
    except (RuntimeError, ValueError, ShapelyError, UnboundLocalError) as error:  # the last for a .prj that is no text
        raise DamagedFileError(f"{shown(path)} cannot be read by GDAL ({error}): write it again") from error


def _with_geometry(path: Path, frame: GeoDataFrame, area: GeoDataFrame | None) -> Raw:
    """Read places and sizes from a file's geometry, and the area beside it."""
    import shapely

    table = pd.DataFrame(frame.drop(columns=frame.geometry.name))
    line = np.arange(1.0, len(table) + 1)
    system = as_mars(path, frame.crs)
    counted, scenes = None, []
    if area is not None and len(area):
        union = shapely.MultiPolygon(polygons(shapely.union_all(shapely.make_valid(area.geometry.to_numpy()))))
        crs = as_mars(path, area.crs)
        if (crs is None) != (system is None):
            raise MarsError(
                f"{shown(path)}: its craters or its counted area have no projection: assign that of the other"
            )
        # Of an image, it is drawn upright.
        counted = Area(shapely.transform(union, lambda points: points * [1, -1]) if crs is None else union, crs)
        if "smallest_m" in area:  # in the catalogue of all scenes
            scenes = [Counted(Area(of, crs), size) for of, size in zip(area.geometry, area["smallest_m"], strict=True)]
    circles = None
    shapes = frame.geometry.to_numpy()
    if system is not None and len(shapes) and not shapely.is_missing(shapes).any():
        kinds = set(shapely.get_type_id(shapes).tolist())
        if kinds <= {3, 6}:  # polygons
            circles = circles_of(shapes, system)
        elif kinds == {0}:
            circles = points_of(shapes, system)
    return Raw(table, line, "row", circles, counted, scenes)
