"""Lakes with crater maps, written as mapping does it, without a network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyproj
import shapely

from mars_assets.craters.crater_map import IAU_RADIUS, CraterMap
from mars_assets.craters.formats import write_catalogue
from mars_assets.craters.schema import MappedCraters
from mars_assets.imagery.geolocation import ground_area, ground_diameters, projected_positions
from mars_assets.lake import Lake
from mars_assets.storage.files import write_json
from mars_assets.storage.hashing import fingerprint

LOCAL = f"+proj=laea +lat_0={{1}} +lon_0={{0}} +R={IAU_RADIUS}"
"""A projection around a place, on IAU's sphere."""


def scene_around(
    name: str,
    place: tuple[float, float],
    craters: np.ndarray,
    *,
    side: tuple[float, float] = (6000.0, 4000.0),
    pixel: float = 0.5,
    smallest_px: float = 8.0,
    crs: str | None = None,
    counted: shapely.Geometry | None = None,
    **columns: Any,
) -> CraterMap:
    """A scene on a map around a place.

    Args:
        name: its stem.
        place: longitude and latitude of its middle.
        craters: shape (n, 3): metres to the right and up from the middle on its map, and diameter.
        side: width and height in metres on its map.
        pixel: in metres.
        smallest_px: as in a map.
        crs: of its map, the place at 0, 0; by default an equal-area one.
        counted: in metres on its map; all by default.
        columns: of the table, instead of the usual ones.
    """
    crs = crs or LOCAL.format(*place)
    (width, height) = side
    x0, y0 = pyproj.Proj(crs)(*place)
    transform = (pixel, 0.0, x0 - width / 2, 0.0, -pixel, y0 + height / 2)
    craters = craters[np.argsort(-craters[:, 2], kind="stable")]
    right, up, diameter = craters.T
    x, y = (right + width / 2) / pixel, (height / 2 - up) / pixel
    n = len(x)
    lines, samples = round(height / pixel), round(width / pixel)
    area = shapely.box(-width / 2, -height / 2, width / 2, height / 2) if counted is None else counted
    in_pixels = shapely.transform(area, lambda p: (p + np.array([width, -height]) / 2) * [1 / pixel, -1 / pixel])
    polygons = [part for part in shapely.get_parts(in_pixels) if part.area]
    whole = shapely.MultiPolygon(polygons)
    longitude, latitude, metres = np.empty((3, 0))
    if n:  # PROJ refuses none
        longitude, latitude = projected_positions(crs, x0 + right, y0 + up)
        metres = ground_diameters(crs, x0 + right, y0 + up, np.pi / 4 * diameter**2)
    radius = pyproj.CRS(crs).ellipsoid.semi_major_metre
    inside = shapely.intersects_xy(whole, x, y)
    table = {
        "crater_id": pd.Series([f"{name}_{i:05d}" for i in range(n)], dtype=str),
        "x_px": x,
        "y_px": y,
        "diameter_px": diameter / pixel,
        "longitude": longitude,
        "latitude": latitude,
        "diameter_m": metres,
        "diameter_iau_m": metres * IAU_RADIUS / radius,
        **dict.fromkeys(("axis_ratio", "roundness", "rim_coverage", "confidence", "probability"), np.full(n, 0.9)),
        "angle": np.full(n, 10.0),
        "counted": inside,
        "counted_share": inside.astype(float),
        "cut": np.zeros(n, bool),
        "scale": np.ones(n),
        "detections": np.ones(n, int),
        **columns,
    }
    rows = MappedCraters.validate(pd.DataFrame(table)[list(MappedCraters.to_schema().columns)])
    turns = np.linspace(0, 2 * np.pi, 17)
    rim = np.column_stack([np.cos(turns), np.sin(turns)])
    outlines = [np.array([[u, v]]) + rim * d / 2 for u, v, d in zip(x, y, diameter / pixel, strict=True)]
    ground = ground_area(whole, crs, transform)
    wkt = pyproj.CRS(crs).to_wkt()
    return CraterMap(name, rows, outlines, whole, ground, smallest_px, lines, samples, wkt, transform)


def put_map(lake: Lake, crater_map: CraterMap, *, folder: str | None = None, version: str = "v1", **about: Any) -> None:
    """Write a scene's files, and what its map says of itself."""
    out = lake.crater_map(folder or crater_map.scene)
    files = write_catalogue(crater_map, out)
    transform = None if crater_map.transform is None else list(crater_map.transform)
    provenance = {
        "scene": crater_map.scene,
        "smallest_px": crater_map.smallest_px,
        "model": {"name": "seg_model", "version": version},
        "computation": "scenes 1",
        "calibration": None,
        "precision": "fp32",
        "grid": {
            "lines": crater_map.lines,
            "samples": crater_map.samples,
            "crs": crater_map.crs,
            "transform": transform,
        },
        "craters": len(crater_map.craters),
        "counted_m2": crater_map.counted_m2,
        "files": [path.name for path in files],
    }
    key = fingerprint(provenance, crater_map.craters.to_csv(), version)
    write_json(out / "provenance.json", {**provenance, "key": key, **about})


def field(rng: np.random.Generator, count: int, side: tuple[float, float], smallest: float = 5.0) -> np.ndarray:
    """Random craters around 0, 0: right, up and diameter in metres."""
    width, height = side
    right, up = rng.uniform(-width / 2, width / 2, count), rng.uniform(-height / 2, height / 2, count)
    return np.column_stack([right, up, smallest * rng.uniform(1e-3, 1, count) ** -0.5])


def seen(
    rng: np.random.Generator, true: np.ndarray, side: tuple[float, float], recall: float, precision: float
) -> tuple[np.ndarray, np.ndarray]:
    """Craters that a model finds, with errors of a tenth, some of them false.

    Returns:
        The craters, and the number of the true one of each, -1 if it is false.
    """
    which = np.flatnonzero(rng.uniform(size=len(true)) < recall)
    found = true[which].copy()
    found[:, :2] += rng.normal(0, 0.07, (len(which), 2)) * found[:, 2:]
    found[:, 2] *= np.exp(rng.normal(0, 0.1, len(which)))
    false = field(rng, round(len(which) * (1 / precision - 1)), side, true[:, 2].min())
    return np.concatenate([found, false]), np.concatenate([which, np.full(len(false), -1)])
