"""Places and sizes of craters that a file draws as polygons or points."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mars_assets.craters.crater_map import IAU_RADIUS
from mars_assets.errors import MarsError
from mars_assets.imagery.geolocation import body_radius, projected_positions, surface_points
from mars_assets.storage.files import shown

if TYPE_CHECKING:
    from pyproj import CRS

Float64 = npt.NDArray[np.float64]
Shapes = npt.NDArray[np.object_]

_RADII = (3_370_000.0, 3_400_000.0)
"""Radii in metres that are Mars's."""
_CENTRIC = ("longlat", "eqc")
"""Projections that planetary programs compute on a sphere, with planetocentric latitudes, whatever their CRS says."""


def as_mars(path: Path, crs: CRS | None) -> str | None:
    """Check that a CRS is one of Mars, and return it as WKT or PROJ string.

    None without one, or with an undefined one, as of an image.

    Maps in degrees and equirectangular ones become those of the sphere with the equatorial radius, since planetary
    programs write these on an ellipsoid and mean the sphere.

    Raises:
        MarsError: it is of another body, or its latitudes are planetographic.
    """
    ellipsoid = None if crs is None else crs.ellipsoid
    if crs is None or ellipsoid is None:
        return None
    radius = float(ellipsoid.semi_major_metre)
    if not _RADII[0] <= radius <= _RADII[1]:
        raise MarsError(
            f"{shown(path)} has a CRS of a body of radius {radius / 1000:.0f} km ({crs.name}): assign the one of Mars "
            "in which it was made, such as IAU_2015:49900"
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You will likely lose important projection information")
        described: dict[str, Any] = crs.to_dict()
    if described.get("proj") not in _CENTRIC:
        return crs.to_wkt()
    if "ographic" in crs.name.replace(" ", "").casefold():
        raise MarsError(
            f"{shown(path)} has planetographic latitudes ({crs.name}): convert it to planetocentric ones, such as "
            "IAU_2015:49900"
        )
    for name in ("ellps", "datum", "a", "b", "rf", "f", "R"):
        described.pop(name, None)
    return " ".join(
        f"+{name}" if value is None else f"+{name}={value}" for name, value in (described | {"R": radius}).items()
    )


def points_of(points: Shapes, crs: str) -> Float64:
    """Read longitudes and latitudes of points, with NaN as diameters; shape (3, n)."""
    import shapely

    x, y = shapely.get_coordinates(points).T
    longitude, latitude = projected_positions(crs, x, y)
    return np.stack([longitude, latitude, np.full(len(x), np.nan)])


def circles_of(polygons: Shapes, crs: str) -> Float64:
    """Compute the circles on the ground that have the area of polygons.

    The vertices are taken as points in space, so that neither a pole nor the meridian where a map ends needs a special
    case.

    Returns:
        Longitudes, latitudes and diameters in metres on IAU 2015's sphere, shape (3, n).
    """
    import shapely

    rings = shapely.get_exterior_ring(_largest(polygons))
    coordinates, owner = shapely.get_coordinates(rings, return_index=True)
    vertices = surface_points(crs, *coordinates.T)
    count = len(polygons)
    first = np.searchsorted(owner, np.arange(count))

    def sums(values: Float64) -> Float64:
        return np.stack([np.bincount(pieces, axis, count) for axis in values.T], axis=1)

    # Edges from each vertex to the next one of its ring, whose last vertex is its first.
    start = np.delete(np.arange(len(vertices)), np.append(first[1:], len(vertices)) - 1)
    pieces = owner[start]
    edges = vertices[start + 1] - vertices[start]
    lengths = np.linalg.norm(edges, axis=1)[:, None]
    centres = sums((vertices[start] + vertices[start + 1]) / 2 * lengths) / sums(lengths)
    area = np.linalg.norm(sums(np.cross(vertices[start] - centres[pieces], edges)), axis=1) / 2
    longitude = np.degrees(np.arctan2(centres[:, 1], centres[:, 0])) % 360
    latitude = np.degrees(np.arctan2(centres[:, 2], np.hypot(centres[:, 0], centres[:, 1])))
    radius = body_radius(crs)
    chord = 2 * np.sqrt(area / np.pi)
    return np.stack([longitude, latitude, 2 * IAU_RADIUS * np.arcsin(np.minimum(chord / (2 * radius), 1))])


def _largest(shapes: Shapes) -> Shapes:
    """Choose the largest polygon of each shape."""
    import shapely

    parts, owner = shapely.get_parts(shapes, return_index=True)
    order = np.lexsort((shapely.area(parts), owner))
    last = np.append(np.flatnonzero(np.diff(owner[order])), len(order) - 1)
    return np.asarray(parts[order][last])
