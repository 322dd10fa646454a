"""Catalogues of craters from masks.

They give the position and diameter of each crater, also on the ground if the image is map projected.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mars_assets.bands import Float32
from mars_assets.craters.geometry import Crater, Mask, craters_of_mask
from mars_assets.imagery.geolocation import ground_diameters, projected_positions
from mars_assets.storage.geotiff import georeference


def craters_of_image(
    image: Mapping[Any, Any], mask: Mask, probability: Float32, *, rim: int, smallest_px: float
) -> list[dict[str, Any]]:
    """List the craters of one image, the largest first.

    They are the 4-connected components of its mask, or the areas that its rims enclose.

    Args:
        image: ``chip`` (path; its georeference is used if it has one), or ``crs`` (WKT) and ``transform`` (six
            numbers).
        mask: pixels of craters, or of their rims, shape (H, W).
        probability: probability of a crater, 0 to 1, shape (H, W).
        rim: width in pixels if the mask shows rims, see :func:`mars_assets.craters.geometry.craters_of_mask`.
        smallest_px: smallest diameter to include.

    Returns:
        Plain values by the columns of :class:`mars_assets.craters.schema.CraterCatalogue`, except for the image, the
        observation and the crater's number.
    """
    craters = sorted(craters_of_mask(mask, rim), key=lambda crater: -crater.diameter)
    seen = [crater for crater in craters if crater.diameter >= smallest_px]
    centres = [_centre(crater) for crater in seen]
    places = _places(image, centres, [crater.diameter for crater in seen])
    return [
        {
            "x_px": x,
            "y_px": y,
            "diameter_px": crater.diameter,
            "probability": float(probability[crater.box][crater.pixels & mask[crater.box]].mean()),
            "cut": not crater.is_whole(mask.shape),
            **place,
        }
        for crater, (x, y), place in zip(seen, centres, places, strict=True)
    ]


def _centre(crater: Crater) -> tuple[float, float]:
    """Compute column and row of the centre of mass."""
    rows, columns = np.nonzero(crater.pixels)
    top, left = (side.start for side in crater.box)
    return float(left + columns.mean() + 0.5), float(top + rows.mean() + 0.5)


def _places(
    image: Mapping[Any, Any], centres: list[tuple[float, float]], diameters: list[float]
) -> Iterator[dict[str, float | None]]:
    """Convert pixels of an image to positions and metres on Mars.

    The image must be map projected.

    All craters are converted at once, since each call of PROJ is slow.
    """
    if "crs" in image:
        crs, transform = image["crs"], image["transform"]
    else:
        projection, transform = georeference(Path(image["chip"]))
        crs = projection.to_wkt() if projection else None
    if not isinstance(crs, str) or not centres:  # a missing CRS may be NaN in a table
        return ({"diameter_m": None, "longitude": None, "latitude": None} for _ in centres)
    a, b, c, d, e, f = list(transform)[:6]
    x, y = np.array(centres).T
    map_x, map_y = a * x + b * y + c, d * x + e * y + f
    longitudes, latitudes = projected_positions(crs, map_x, map_y)
    areas = np.pi / 4 * np.array(diameters) ** 2 * abs(a * e - b * d)
    metres = ground_diameters(crs, map_x, map_y, areas)
    return (
        {"diameter_m": float(width), "longitude": float(longitude), "latitude": float(latitude)}
        for width, longitude, latitude in zip(metres, longitudes, latitudes, strict=True)
    )
