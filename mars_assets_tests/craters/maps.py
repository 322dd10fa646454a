"""Random crater maps."""

from __future__ import annotations

import numpy as np
import pandas as pd
from pyproj import CRS
from shapely.geometry import MultiPolygon, Point, box

from mars_assets.craters.crater_map import CraterMap
from mars_assets.craters.schema import MappedCraters

EQUIRECTANGULAR = "+proj=eqc +lat_ts=0 +lon_0=180 +R=3396190 +units=m"
METRES = 0.5
"""Width of a pixel in :func:`random_map`."""


def random_map(
    count: int,
    *,
    scene: str = "ESP_011472_1225",
    projected: bool = True,
    calibrated: bool = True,
    lines: int = 3000,
    samples: int = 2000,
) -> CraterMap:
    """Craters of all sizes, the largest first; those in the last tenth of the scene are outside the counted area."""
    rng = np.random.default_rng(count)
    diameter = np.sort(np.minimum(8 * rng.uniform(1e-9, 1, count) ** (-1 / 2), min(lines, samples) / 3))[::-1]
    x, y = rng.uniform(0, samples, count), rng.uniform(0, lines, count)
    counted = MultiPolygon(
        [box(0, 0, samples, 0.9 * lines).difference(Point(samples / 4, lines / 2).buffer(samples / 20))]
    )
    probability = rng.beta(4, 1.5, count)
    transform = (METRES, 0.0, 1e6, 0.0, -METRES, -5e5)
    ground = np.full(count, np.nan)
    longitude = np.degrees((transform[2] + METRES * x) / 3396190) + 180
    latitude = np.degrees((transform[5] - METRES * y) / 3396190)
    inside = np.array([counted.contains(Point(place)) for place in zip(x, y, strict=True)], bool)
    craters = pd.DataFrame(
        {
            "crater_id": pd.Series([f"{scene}_{number:05d}" for number in range(count)], dtype=str),
            "x_px": x,
            "y_px": y,
            "diameter_px": diameter,
            "longitude": longitude if projected else ground,
            "latitude": latitude if projected else ground,
            "diameter_m": diameter * METRES if projected else ground,
            "diameter_iau_m": diameter * METRES if projected else ground,
            "axis_ratio": rng.uniform(0.7, 1, count),
            "angle": rng.uniform(0, 180, count),
            "roundness": rng.uniform(0.8, 1, count),
            "rim_coverage": rng.uniform(0.5, 1, count),
            "confidence": rng.uniform(0.3, 1, count),
            "probability": probability if calibrated else np.full(count, np.nan),
            "counted": inside,
            "counted_share": inside.astype(float),
            "cut": np.zeros(count, bool),
            "scale": rng.choice([1.0, 2.0, 4.0], count),
            "detections": rng.integers(1, 4, count),
        }
    )
    angle = np.append(np.linspace(0, 2 * np.pi, 64, endpoint=False), 0)
    wobble = 1 + 0.05 * np.sin(3 * angle + rng.uniform(0, 6, (count, 1)))
    outlines = [
        np.column_stack([cx + d / 2 * w * np.cos(angle), cy + d / 2 * w * np.sin(angle)])
        for cx, cy, d, w in zip(x, y, diameter, wobble, strict=True)
    ]
    return CraterMap(
        scene=scene,
        craters=MappedCraters.validate(craters),
        outlines=outlines,
        counted=counted,
        counted_m2=counted.area * METRES**2 if projected else None,
        smallest_px=8,
        lines=lines,
        samples=samples,
        crs=CRS.from_user_input(EQUIRECTANGULAR).to_wkt() if projected else None,
        transform=transform if projected else None,
    )


def ground_of(crater_map: CraterMap, reduction: int = 2) -> np.ndarray:
    """A grey overview, in which every crater is dark with a bright edge to its right."""
    from PIL import Image, ImageDraw

    rng = np.random.default_rng(0)
    lines, samples = crater_map.lines // reduction, crater_map.samples // reduction
    noise = Image.fromarray(rng.integers(90, 150, (lines // 8, samples // 8), dtype=np.uint8))
    image = noise.resize((samples, lines), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for x, y, d in crater_map.craters[["x_px", "y_px", "diameter_px"]].to_numpy() / reduction:
        draw.ellipse([x - d / 2, y - d / 2, x + d / 2, y + d / 2], fill=90)
        draw.arc([x - d / 2, y - d / 2, x + d / 2, y + d / 2], -60, 60, fill=200, width=max(1, round(d / 12)))
    return np.asarray(image)
