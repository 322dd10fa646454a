"""Positions of pixels on Mars.

They are exact for map-projected products and interpolated between the corners of the swath for others. Latitudes are
planetocentric, and longitudes run east from 0 to 360, both in degrees (IAU_2015:49900).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]


def projected_positions(crs: str, x: Float64, y: Float64) -> tuple[Float64, Float64]:
    """Convert map coordinates to longitudes and latitudes.

    Args:
        crs: a projected CRS of Mars, as WKT or PROJ string.
        x: map coordinates in metres.
        y: likewise.

    Returns:
        Longitudes and latitudes.
    """
    from rasterio.crs import CRS
    from rasterio.warp import transform

    projected = CRS.from_user_input(crs)
    parameters = projected.to_dict()
    # The product's own radii, so that nothing is shifted between bodies of different size.
    equator = float(parameters.get("R", parameters.get("a", 3396190.0)))
    pole = float(parameters.get("R", parameters.get("b", equator)))
    if "rf" in parameters:  # how WKT states an ellipsoid
        pole = equator * (1 - 1 / float(parameters["rf"]))
    geographic = CRS.from_dict(proj="longlat", a=equator, b=pole)
    longitude, latitude = (np.asarray(values) for values in transform(projected, geographic, x.tolist(), y.tolist()))
    # On an ellipsoid PROJ's latitudes are planetographic.
    centric = np.degrees(np.arctan((pole / equator) ** 2 * np.tan(np.radians(latitude))))
    return longitude % 360, centric


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
