"""Positions and sizes on Mars.

Positions are exact for map-projected products and interpolated between the corners of the swath for others. Latitudes
are planetocentric, and longitudes run east from 0 to 360, both in degrees (IAU_2015:49900).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pyproj import CRS

Float64 = npt.NDArray[np.float64]


def projected_positions(crs: str, x: Float64, y: Float64) -> tuple[Float64, Float64]:
    """Convert map coordinates to longitudes and latitudes.

    Args:
        crs: a CRS of Mars, as WKT or PROJ string.
        x: map coordinates in its unit.
        y: likewise.

    Returns:
        Longitudes and latitudes.
    """
    from pyproj import CRS

    system = CRS.from_user_input(crs)
    longitude, latitude = _geographic(system, x, y)
    return longitude % 360, _centric(system, latitude)


def ground_diameters(crs: str, x: Float64, y: Float64, areas: Float64) -> Float64:
    """Convert areas on a map to diameters on the ground.

    The map's scale is that at the position, since no projection has the same everywhere: a square metre of an
    equirectangular map that is true at the equator is half a square metre at 60 degrees. A circle on a sphere of radius
    R with the area A has the diameter 4 R asin(sqrt(A / 4 pi R^2)) along the ground.

    Args:
        crs: a CRS of Mars, as WKT or PROJ string.
        x: map coordinates of the centres, in its unit.
        y: likewise.
        areas: on the map, in its squared unit.

    Returns:
        Diameters in metres, on the body of the CRS.
    """
    from pyproj import CRS, Proj

    system = CRS.from_user_input(crs)
    radius = _radii(system)[0]
    unit = system.axis_info[0].unit_conversion_factor if system.axis_info else 1.0
    longitude, latitude = _geographic(system, x, y)
    if system.is_geographic:
        scales = (unit * radius) ** 2 * np.cos(np.radians(_centric(system, latitude)))
    else:
        scales = unit**2 / np.asarray(Proj(system).get_factors(longitude, latitude).areal_scale)
    return 4 * radius * np.arcsin(np.sqrt(areas * scales / (4 * np.pi * radius**2)))


def _geographic(system: CRS, x: Float64, y: Float64) -> tuple[Float64, Float64]:
    """Convert map coordinates to degrees on the CRS's own body.

    Latitudes are planetographic if it is an ellipsoid.
    """
    from pyproj import Proj

    if system.is_geographic:
        return x, y
    longitude, latitude = Proj(system)(x, y, inverse=True)
    return np.asarray(longitude), np.asarray(latitude)


def _centric(system: CRS, latitude: Float64) -> Float64:
    """Convert planetographic to planetocentric latitudes, in degrees."""
    equator, pole = _radii(system)
    return np.asarray(np.degrees(np.arctan((pole / equator) ** 2 * np.tan(np.radians(latitude)))))


def _radii(system: CRS) -> tuple[float, float]:
    """Read the radii of the CRS's body at the equator and at the poles, in metres."""
    ellipsoid = system.ellipsoid
    assert ellipsoid is not None  # only CRSs that are no map of a body lack it
    return float(ellipsoid.semi_major_metre), float(ellipsoid.semi_minor_metre)


def approximate_positions(
    corners: list[float], lines: int, samples: int, rows: Float64, cols: Float64
) -> tuple[Float64, Float64]:
    """Interpolate longitudes and latitudes between the corners of a swath.

    For products that are not map projected. The interpolation is bilinear between the unit vectors of the corners, so
    that poles and the prime meridian need no special case. It ignores the motion of the spacecraft and the relief of
    the ground, which bend a real swath: expect errors of up to some hundred metres.

    Args:
        corners: latitude and longitude of four corners, clockwise from the first sample of the first line.
        lines: height of the product in pixels.
        samples: its width in pixels.
        rows: pixel coordinates; (0, 0) is the outer corner of the first pixel.
        cols: likewise.

    Returns:
        Longitudes and latitudes.
    """
    latitude, longitude = np.radians(np.asarray(corners).reshape(4, 2)).T
    vectors = np.stack(
        [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], axis=1
    )
    down, right = (rows / lines)[:, None], (cols / samples)[:, None]
    top = vectors[0] * (1 - right) + vectors[1] * right
    bottom = vectors[3] * (1 - right) + vectors[2] * right
    x, y, z = (top * (1 - down) + bottom * down).T
    return np.degrees(np.arctan2(y, x)) % 360, np.degrees(np.arctan2(z, np.hypot(x, y)))
