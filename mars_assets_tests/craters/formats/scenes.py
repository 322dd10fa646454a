"""Scenes with random craters, in projections of all kinds."""

import dataclasses

import numpy as np
import pandas as pd
import pyproj
import shapely

from mars_assets.craters.crater_map import IAU_RADIUS, CraterMap
from mars_assets.craters.schema import MappedCraters
from mars_assets.imagery.geolocation import ground_area, projected_positions

LINES, SAMPLES = 3000, 4000
RADIUS = 3_396_190.0
PROJECTIONS = {
    "RDR at 30": (f"+proj=eqc +lat_ts=30 +lon_0=180 +R={RADIUS - 5000.125}", (77.0, 32.0)),
    "true at the equator": (f"+proj=eqc +lat_ts=0 +lon_0=0 +R={RADIUS}", (-120.0, -61.0)),
    "across 0": (f"+proj=eqc +lat_ts=0 +lon_0=180 +R={RADIUS}", (0.0, 20.0)),
    "across 180": (f"+proj=sinu +lon_0=0 +R={RADIUS}", (180.0, -40.0)),
    "sinusoidal": (f"+proj=sinu +lon_0=77 +R={RADIUS}", (60.0, 50.0)),
    "near the pole": (f"+proj=stere +lat_0=90 +lon_0=0 +R={RADIUS}", (33.0, 75.0)),
    "around a pole": (f"+proj=stere +lat_0=-90 +lon_0=0 +R={RADIUS}", (10.0, -89.9)),
    "degrees": (f"+proj=longlat +R={RADIUS}", (200.0, 70.0)),
    "degrees across 0": ("IAU_2015:49900", (360.0, -10.0)),
    "kilometres": (f"+proj=laea +lat_0=10 +lon_0=75 +R={RADIUS} +units=km", (70.0, 15.0)),
    "ellipsoid": ("+proj=eqc +lat_ts=0 +lon_0=0 +a=3396190 +b=3376200", (15.0, 45.0)),
}
COUNTED = shapely.MultiPolygon(
    [
        shapely.Polygon(
            [(300, 0), (3200, 200), (3600, 3000), (0, 2700)],
            # Two parts that were not counted; one touches the border.
            [[(900, 900), (1900, 900), (900, 1500)], [(150, 1350), (400, 1200), (400, 1400)]],
        ),
        shapely.box(3700, 100, 3900, 400),
        # Touches the part before in a corner, as pixels do.
        shapely.box(3900, 400, 4000, 500),
    ]
)
"""Parts, holes and corners that touch."""


def transform_at(crs: str, place: tuple[float, float], pixel: float = 20.0, turn: float = 0.0) -> tuple[float, ...]:
    """The transform of a raster around a place, perhaps turned; pixels in metres at the map's true scale."""
    system = pyproj.CRS.from_user_input(crs)
    if system.is_geographic:
        (x, y), pixel = place, np.degrees(pixel / RADIUS)
    else:
        (x, y), pixel = pyproj.Proj(system)(*place), pixel / system.axis_info[0].unit_conversion_factor
    cos, sin = pixel * np.cos(turn), pixel * np.sin(turn)
    middle_x, middle_y = SAMPLES / 2, LINES / 2
    return (cos, sin, x - middle_x * cos - middle_y * sin, sin, -cos, y - middle_x * sin + middle_y * cos)


def random_map(
    crs: str | None,
    transform: tuple[float, ...] | None,
    *,
    n: int = 200,
    seed: int = 0,
    scene: str = "ESP_012345_1900_RED",
    counted: shapely.MultiPolygon = COUNTED,
    pixel: float = 20.0,
) -> CraterMap:
    """Craters of random places and sizes.

    Their diameters in metres are those in pixels times ``pixel``, which need not be the map's scale: who reads the
    files has nothing else.
    """
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, SAMPLES, n), rng.uniform(0, LINES, n)
    diameter = np.sort(8 * rng.pareto(2, n) + 8)[::-1].clip(8, 1000)
    inside = shapely.contains_xy(counted, x, y)
    table = pd.DataFrame(
        {
            "crater_id": [f"{scene}-{i:05d}" for i in range(n)],
            "x_px": x,
            "y_px": y,
            "diameter_px": diameter,
            "axis_ratio": rng.uniform(0.6, 1, n),
            "angle": rng.uniform(0, 180, n),
            "roundness": rng.uniform(0, 1, n),
            "rim_coverage": rng.uniform(0, 1, n),
            "confidence": rng.uniform(0, 1, n),
            "probability": np.where(rng.uniform(size=n) < 0.5, rng.uniform(0, 1, n), np.nan),
            "counted": inside,
            "counted_share": inside.astype(float),
            "cut": rng.uniform(size=n) < 0.1,
            "scale": 2.0 ** rng.integers(0, 4, n),
            "detections": rng.integers(1, 4, n),
        }
    )
    ground = {"longitude": np.nan, "latitude": np.nan, "diameter_m": np.nan, "diameter_iau_m": np.nan}
    if crs is not None and transform is not None:
        a, b, c, d, e, f = transform
        longitude, latitude = projected_positions(crs, a * x + b * y + c, d * x + e * y + f)
        metres = diameter * pixel
        radius = pyproj.CRS.from_user_input(crs).ellipsoid.semi_major_metre
        ground = {
            "longitude": longitude,
            "latitude": latitude,
            "diameter_m": metres,
            "diameter_iau_m": metres * IAU_RADIUS / radius,
        }
    table = MappedCraters.validate(table.assign(**ground)[list(MappedCraters.to_schema().columns)])
    angles = np.linspace(0, 2 * np.pi, 33)
    wobble = 1 + 0.1 * np.cos(3 * angles)
    unit = np.column_stack([np.cos(angles), np.sin(angles)]) * wobble[:, None] / 2
    unit[-1] = unit[0]
    outlines = [np.array([[u, v]]) + unit * width for u, v, width in zip(x, y, diameter, strict=True)]
    area = None if crs is None or transform is None else ground_area(counted, crs, transform)
    return CraterMap(scene, table, outlines, counted, area, 8.0, LINES, SAMPLES, crs, transform)


def without_craters(crater_map: CraterMap) -> CraterMap:
    return dataclasses.replace(crater_map, craters=crater_map.craters.iloc[:0], outlines=[])
