"""GeoPackages, with styles for QGIS, and GeoParquet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from mars_assets.craters.crater_map import CraterMap
from mars_assets.craters.formats.shapes import Shapes, map_area, map_circles, map_outlines
from mars_assets.craters.formats.styles import STYLES
from mars_assets.craters.formats.writing import write_layer
from mars_assets.storage.files import atomic_files, atomic_path, shown

if TYPE_CHECKING:
    from geopandas import GeoDataFrame


def write_geopackage(target: Path, crater_map: CraterMap) -> None:
    """Write the layers ``craters``, ``rims`` and ``counted_area``.

    The first has circles, the second outlines.

    Each has a default style that QGIS applies. Version 1.2 is read by older programs too.
    """
    layers = {
        "craters": ("Polygon", [_frame(crater_map, map_circles(crater_map))]),
        "rims": ("Polygon", [_frame(crater_map, map_outlines(crater_map))]),
        "counted_area": ("MultiPolygon", [_area_frame(crater_map)]),
    }
    write_layers(target, layers)


def write_layers(target: Path, layers: Mapping[str, tuple[str, Iterable[GeoDataFrame]]]) -> None:
    """Write a GeoPackage with the layers' styles.

    Args:
        target: the file.
        layers: by name, the type of the geometries and the rows, in frames that are written one after the other.
    """
    # A folder of its own, since SQLite writes its journal next to the file.
    with atomic_files({target.name: target}) as folder:
        path = folder / target.name
        for name, (kind, frames) in layers.items():
            for number, frame in enumerate(frames):
                write_layer(
                    path,
                    frame,
                    target,
                    layer=name,
                    driver="GPKG",
                    geometry_type=kind,
                    append=number > 0,
                    dataset_options={} if path.exists() else {"VERSION": "1.2"},
                    # Without a CRS: undefined Cartesian, not undefined geographic.
                    layer_options={} if frame.crs or number else {"SRID": "-1"},
                )
        styles = {"layer": "layer_styles", "driver": "GPKG", "layer_options": {"FID": "id"}}
        write_layer(path, _style_table(list(layers)), target, **styles)


def write_geoparquet(target: Path, crater_map: CraterMap) -> None:
    """Write the outlines and the table as GeoParquet 1.1.

    It has the bounds of each outline, for fast selections.
    """
    write_parquet(target, _frame(crater_map, map_outlines(crater_map)))


def write_parquet(target: Path, frame: GeoDataFrame) -> None:
    """Write a table with geometries as GeoParquet 1.1, with their bounds."""
    with atomic_path(target) as temporary:
        frame.to_parquet(temporary, index=False, compression="zstd", write_covering_bbox=True, schema_version="1.1.0")


def _frame(crater_map: CraterMap, shapes: Shapes) -> GeoDataFrame:
    from geopandas import GeoDataFrame

    return GeoDataFrame(crater_map.craters.reset_index(drop=True), geometry=shapes, crs=crater_map.crs)


def _area_frame(crater_map: CraterMap) -> GeoDataFrame:
    from geopandas import GeoDataFrame

    areas = [] if crater_map.counted.is_empty else [map_area(crater_map)]
    km2 = None if crater_map.counted_m2 is None else crater_map.counted_m2 / 1e6
    row = pd.DataFrame({"scene": [shown(crater_map.scene)], "area_km2": pd.Series([km2], dtype="float64")})
    return GeoDataFrame(row[: len(areas)], geometry=areas, crs=crater_map.crs)


def _style_table(layers: list[str]) -> pd.DataFrame:
    """List the styles as QGIS stores them in the table ``layer_styles``."""
    return pd.DataFrame(
        {
            "f_table_catalog": "",
            "f_table_schema": "",
            "f_table_name": layers,
            "f_geometry_column": "geom",
            "styleName": layers,
            "styleQML": [STYLES[name] for name in layers],
            "styleSLD": "",
            "useAsDefault": True,
            "description": "default style",
            "owner": "",
            "ui": None,
            "update_time": pd.Timestamp.now("UTC").floor("s"),
        }
    )
