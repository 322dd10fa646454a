"""Positions and sizes on Mars.

Positions are exact for map-projected products and interpolated between the corners of the swath for others. Latitudes
are planetocentric, and longitudes run east from 0 to 360, both in degrees (IAU_2015:49900).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mars_assets.errors import MarsError

if TYPE_CHECKING:
    from pyproj import CRS
    from shapely.geometry import MultiPolygon, Polygon

Float64 = npt.NDArray[np.float64]

_FLAT = np.cos(np.radians(45))
"""Cosine of the distance from its centre up to which a piece of a map is measured at once."""
_AREA_ERROR = 1e-9
"""Change of an area, as a share, below which its edges are straight enough."""
_MOST_CUTS = 8
"""Number of times that a map of all of Mars, or less, may have to be quartered."""
BEYOND_THE_MAP = (
    "the counted area reaches beyond the map of its projection, where no ground is: check the raster's CRS and "
    "transform, or mark its pixels there as no data"
)


def projected_positions(crs: str, x: Float64, y: Float64) -> tuple[Float64, Float64]:
    """Convert map coordinates to longitudes and latitudes.

    Args:
        crs: a CRS of Mars, as WKT or PROJ string.
        x: map coordinates in its unit.
        y: likewise.

    Returns:
        Longitudes and latitudes.
    """
    system = _system(crs)
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
    from pyproj import Proj

    system = _system(crs)
    radius = _radii(system)[0]
    unit = system.axis_info[0].unit_conversion_factor if system.axis_info else 1.0
    longitude, latitude = _geographic(system, x, y)
    if system.is_geographic:
        scales = (unit * radius) ** 2 * np.cos(np.radians(_centric(system, latitude)))
    else:
        scales = unit**2 / np.asarray(Proj(system).get_factors(longitude, latitude).areal_scale)
    return 4 * radius * np.arcsin(np.sqrt(areas * scales / (4 * np.pi * radius**2)))


def ground_frames(crs: str, transform: tuple[float, ...], x: Float64, y: Float64) -> Float64:
    """Compute what a step in pixels is on the ground.

    Args:
        crs: a CRS of Mars, as WKT or PROJ string.
        transform: from x, y in pixels to map coordinates, six numbers.
        x: places in pixels.
        y: likewise.

    Returns:
        Shape (n, 2, 2): a matrix from (x, y) in pixels to metres (east, north) for each place.
    """
    middle, right, left, below, above = (
        _directions(np.column_stack([x + across, y + down]), crs, transform)
        for across, down in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
    )
    east = np.column_stack([-middle[:, 1], middle[:, 0], np.zeros(len(middle))])
    east /= np.maximum(np.linalg.norm(east, axis=1, keepdims=True), 1e-300)
    directions = np.stack([east, np.cross(middle, east)], axis=1)
    steps = np.stack([right - left, below - above], axis=2) / 2
    return np.asarray(body_radius(crs) * directions @ steps)


def body_radius(crs: str) -> float:
    """Read the radius in metres at the equator of a CRS's body."""
    return _radii(_system(crs))[0]


def surface_points(crs: str, x: Float64, y: Float64) -> Float64:
    """Convert map coordinates to points on the body.

    Args:
        crs: a CRS of Mars, as WKT or PROJ string.
        x: map coordinates in its unit.
        y: likewise.

    Returns:
        Shape (n, 3), in metres from the body's centre; NaN beyond the projection's map.
    """
    equator, pole = _radii(_system(crs))
    with np.errstate(invalid="ignore"):  # PROJ gives infinity beyond the map
        longitude, latitude = np.radians(projected_positions(crs, x, y))
    level, up = np.cos(latitude), np.sin(latitude)
    radius = 1 / np.hypot(level / equator, up / pole)
    return np.asarray(np.column_stack([level * np.cos(longitude), level * np.sin(longitude), up]) * radius[:, None])


def ground_area(polygon: Polygon | MultiPolygon, crs: str, transform: tuple[float, ...]) -> float:
    """Compute the area of a polygon of a raster on the ground.

    It is that on the sphere with the equatorial radius of the CRS's body. Each piece is drawn on an equal-area map
    around its own centre, so that poles and the meridians at which a map begins and ends need no special case. Edges
    are straight in the raster.

    Args:
        polygon: in pixels, x and y.
        crs: of the raster, as WKT or PROJ string.
        transform: from pixels to map coordinates, six numbers.

    Returns:
        Square metres.

    Raises:
        MarsError: the polygon reaches beyond the projection's map.
    """
    if polygon.is_empty:
        return 0.0
    radius = _radii(_system(crs))[0]
    return radius**2 * _solid_angle(polygon, crs, transform)


def _solid_angle(polygon: Polygon | MultiPolygon, crs: str, transform: tuple[float, ...], cuts: int = 0) -> float:
    """Compute the share of a polygon in the unit sphere's surface of 4 pi.

    Raises:
        MarsError: the polygon reaches beyond the projection's map.
    """
    import shapely

    left, top, right, bottom = polygon.bounds
    step = max(right - left, bottom - top) / 32
    area = None
    while True:
        directions = _directions(shapely.get_coordinates(shapely.segmentize(polygon, step)), crs, transform)
        centre = directions.mean(axis=0) / max(np.linalg.norm(directions.mean(axis=0)), 1e-12)
        if (directions @ centre).min() < _FLAT:
            if cuts == _MOST_CUTS:
                raise MarsError(BEYOND_THE_MAP)
            return sum(_solid_angle(piece, crs, transform, cuts + 1) for piece in _quarters(polygon))
        across, along = np.linalg.svd(centre[None])[2][1:]
        flat = directions * np.sqrt(2 / (1 + directions @ centre))[:, None]
        flat_polygon = shapely.set_coordinates(
            shapely.segmentize(polygon, step), np.column_stack([flat @ across, flat @ along])
        )
        previous, area = area, float(flat_polygon.area)
        if previous is not None and abs(area - previous) <= _AREA_ERROR * area:
            return area
        step /= 2


def _directions(points: Float64, crs: str, transform: tuple[float, ...]) -> Float64:
    """Convert pixels to unit vectors from the body's centre.

    Raises:
        MarsError: a pixel lies beyond the projection's map.
    """
    a, b, c, d, e, f = transform
    x, y = points.T
    surface = surface_points(crs, a * x + b * y + c, d * x + e * y + f)
    if not np.isfinite(surface).all():
        raise MarsError(BEYOND_THE_MAP)
    return np.asarray(surface / np.linalg.norm(surface, axis=1, keepdims=True))


def _quarters(polygon: Polygon | MultiPolygon) -> list[Polygon | MultiPolygon]:
    """Cut a polygon through the middle of its bounds."""
    import shapely

    left, top, right, bottom = polygon.bounds
    x, y = (left + right) / 2, (top + bottom) / 2
    boxes = [
        shapely.box(*b) for b in ((left, top, x, y), (x, top, right, y), (left, y, x, bottom), (x, y, right, bottom))
    ]
    pieces = [polygon.intersection(box) for box in boxes]
    return [piece for piece in pieces if piece.area > 0]


@lru_cache(32)
def _system(crs: str) -> CRS:
    """Parse a CRS, which takes milliseconds."""
    from pyproj import CRS

    return CRS.from_user_input(crs)


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
