"""Writers of the catalogue of all scenes, on IAU 2015's sphere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv

from mars_assets.craters.catalogue import Catalogue
from mars_assets.craters.crater_map import IAU_RADIUS
from mars_assets.craters.formats.areas import united
from mars_assets.craters.formats.craterstats import Count, write_diam, write_scc
from mars_assets.craters.formats.geopackage import write_layers, write_parquet
from mars_assets.craters.formats.robbins import robbins_table
from mars_assets.craters.formats.shapes import ground_circles
from mars_assets.storage.files import atomic_path

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

CRS = "IAU_2015:49900"
"""Longitude and planetocentric latitude."""
_VERTICES = 24
"""Of the circles, since a million of them with 360 take six gigabytes."""
_WIDER = float(np.sqrt(2 * np.pi / (_VERTICES * np.sin(2 * np.pi / _VERTICES))))
"""Factor by which so few vertices lie farther out, so that the polygon has the circle's area."""
_AT_ONCE = 50_000
"""Craters whose circles are in memory at a time."""


def write_gpkg(target: Path, catalogue: Catalogue) -> None:
    """Write circles and counted areas, with a row for each scene.

    The layers are ``craters`` and ``counted_area``.

    Raises:
        MarsError: the disk is full, or the folder is not writable.
    """
    layers = {"craters": ("Polygon", _circles(catalogue)), "counted_area": ("MultiPolygon", [areas(catalogue)])}
    write_layers(target, layers)


def _circles(catalogue: Catalogue) -> Iterator[GeoDataFrame]:
    from geopandas import GeoDataFrame

    craters = catalogue.craters
    longitude, latitude, diameter = craters[["longitude", "latitude", "diameter_m"]].to_numpy(np.float64).T
    for start in range(0, max(len(craters), 1), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        circles = ground_circles(longitude[some], latitude[some], _WIDER * diameter[some], IAU_RADIUS, _VERTICES)
        yield GeoDataFrame(craters[some], geometry=circles, crs=CRS)


def areas(catalogue: Catalogue) -> GeoDataFrame:
    """List the counted areas of the scenes."""
    from geopandas import GeoDataFrame

    columns = ["scene", "smallest_m", "pixel_m", "counted_km2", "added_km2", "model", "map_key"]
    rows = [
        (s.scene, s.smallest_m, s.pixel_m, s.counted_m2 / 1e6, s.added_m2 / 1e6, s.model, s.key)
        for s in catalogue.scenes
    ]
    geometry = [scene.counted for scene in catalogue.scenes]
    return GeoDataFrame(pd.DataFrame(rows, columns=columns), geometry=geometry, crs=CRS)


def write_points(target: Path, catalogue: Catalogue) -> None:
    """Write the craters as GeoParquet, as points."""
    import geopandas

    craters = catalogue.craters
    points = geopandas.points_from_xy(craters["longitude"], craters["latitude"])
    write_parquet(target, geopandas.GeoDataFrame(craters, geometry=points, crs=CRS))


def write_csv(target: Path, catalogue: Catalogue) -> None:
    """Write the craters with Robbins and Hynek's columns, see :func:`robbins_table`."""
    table = pa.Table.from_pandas(robbins_table(catalogue.craters), preserve_index=False)
    # Ten times as fast as pandas.
    with atomic_path(target) as temporary:
        csv.write_csv(table, temporary, csv.WriteOptions(quoting_style="needed"))


def write_for_ages(scc: Path, diam: Path, catalogue: Catalogue) -> bool:
    """Write the files for craterstats, which take one area for all sizes.

    So they list the craters of at least the size from which all scenes list them. Without any, earlier files are
    removed.

    Returns:
        Whether there are craters to list.
    """
    smallest = catalogue.scenes[-1].smallest_m
    craters = catalogue.craters
    chosen = craters[craters["counted"] & (craters["diameter_m"] >= smallest)]
    if chosen.empty:
        scc.unlink(missing_ok=True)
        diam.unlink(missing_ok=True)
        return False
    note = f"Craters of at least {smallest:.6g} m, from which all {len(catalogue.scenes)} scenes list them"
    count = Count(chosen, float(catalogue.area_m2(smallest)), IAU_RADIUS, note)
    write_scc(scc, count, united([scene.counted for scene in catalogue.scenes]))
    write_diam(diam, count)
    return True
