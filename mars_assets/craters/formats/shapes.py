"""Circles, outlines and counted areas as polygons.

They lie on the raster's map, or are in longitude and latitude.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from affine import Affine

from mars_assets.craters.crater_map import CraterMap, Float64
from mars_assets.errors import MarsError
from mars_assets.imagery.geolocation import BEYOND_THE_MAP, projected_positions, surface_points

if TYPE_CHECKING:
    from shapely.geometry import MultiPolygon, Polygon
    from shapely.geometry.base import BaseGeometry

Shapes = npt.NDArray[np.object_]

_MAP_VERTICES = 72
_GROUND_VERTICES = 360
_STEPS = 1024
"""Number of edges, each a great circle, that stand for a straight line through a piece of a raster."""
_LARGEST_TURN = 5.0
"""Difference in longitude, in degrees, between two vertices of an area."""
_POLAR, _WIDEST, _WIDEST_ELSEWHERE = 45.0, 190.0, 120.0
"""Difference in longitude, in degrees, across a part that lies beyond this latitude, and across any other."""
_POLE = 90 - 2e-6
"""Latitude from which on a vertex is the pole, some centimetres away."""
_GRID = 2.0**-20
"""Distance in pixels between the places that vertices of an area can have."""
_DECIMALS = 11
"""Of longitudes and latitudes in degrees: less than a micrometre, and more than the arithmetic's noise."""
_MOST_CUTS, _MOST_HALVINGS = 6, 60
_GAP = 2e-8
"""Share of an area that is left out along a cut, so that its pieces have no edge in common."""


def map_circles(crater_map: CraterMap) -> Shapes:
    """Draw each crater as a circle on the ground, in map coordinates.

    Where pixels are not square on the ground, it is an ellipse. Without a projection it is a circle in pixels.
    """
    import shapely

    angles = np.linspace(0, 2 * np.pi, _MAP_VERTICES, endpoint=False)
    centres = crater_map.craters[["x_px", "y_px"]].to_numpy(np.float64)
    across = crater_map.craters["diameter_px"].to_numpy(np.float64)[:, None, None] / 2 * np.eye(2)
    if crater_map.crs is not None:
        ground = _ground_ellipses(crater_map, centres)
        across = np.where(np.isfinite(ground).all(axis=(1, 2), keepdims=True), ground, across)
    offsets = across @ np.stack([np.cos(angles), np.sin(angles)])
    points = centres[:, None] + offsets.transpose(0, 2, 1)
    rings = on_the_map(crater_map, points.reshape(-1, 2)).reshape(points.shape)
    return np.asarray(shapely.polygons(rings), dtype=object)


def _ground_ellipses(crater_map: CraterMap, centres: Float64) -> Float64:
    """Compute what turns a unit circle into each crater's circle, in pixels.

    The circles are those on the ground.

    NaN where the map ends.
    """
    assert crater_map.crs is not None
    sides = []
    for step in ((0.5, 0.0), (0.0, 0.5)):
        ends = [on_the_map(crater_map, centres + sign * np.array(step)) for sign in (1, -1)]
        after, before = (surface_points(crater_map.crs, *end.T) for end in ends)
        sides.append(after - before)
    right, down = sides
    # The Cholesky factor of the ground's metric in pixels.
    radii = crater_map.craters["diameter_m"].to_numpy(np.float64) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        width = np.linalg.norm(right, axis=1)
        shear = (right * down).sum(axis=1) / width
        height = np.sqrt((down**2).sum(axis=1) - shear**2)
        matrices = np.array([[1 / width, -shear / (width * height)], [np.zeros_like(width), 1 / height]]) * radii
    return np.asarray(matrices.transpose(2, 0, 1))


def map_outlines(crater_map: CraterMap) -> Shapes:
    """Convert the craters' outlines to map coordinates."""
    import shapely

    outlines = [shapely.Polygon(on_the_map(crater_map, outline)) for outline in crater_map.outlines]
    return np.array([*outlines, None], dtype=object)[:-1]


def map_area(crater_map: CraterMap) -> MultiPolygon:
    """Convert the counted area to map coordinates."""
    import shapely

    area: MultiPolygon = shapely.transform(crater_map.counted, lambda points: on_the_map(crater_map, points))
    return area


def on_the_map(crater_map: CraterMap, points: Float64) -> Float64:
    """Convert pixels to map coordinates.

    Without a projection these are x and -y, so that the image stands upright.
    """
    return points * [1, -1] if crater_map.crs is None else crater_map.on_the_map(points)


def ground_circles(
    longitude: Float64, latitude: Float64, diameter: Float64, radius: float, vertices: int = _GROUND_VERTICES
) -> Shapes:
    """Draw circles on a sphere, in longitude and latitude.

    Args:
        longitude: of the centres in degrees. Vertices lie within 180 degrees of it.
        latitude: likewise.
        diameter: along the ground.
        radius: of the sphere, in the unit of ``diameter``.
        vertices: number of each circle's.
    """
    import shapely

    turns = np.linspace(0, 2 * np.pi, vertices, endpoint=False)
    north, reach = np.radians(latitude)[:, None], (diameter / 2 / radius)[:, None]
    sines = np.sin(north) * np.cos(reach) + np.cos(north) * np.sin(reach) * np.cos(turns)
    east = np.arctan2(np.sin(turns) * np.sin(reach) * np.cos(north), np.cos(reach) - np.sin(north) * sines)
    rim = np.stack([longitude[:, None] + np.degrees(east), np.degrees(np.arcsin(np.clip(sines, -1, 1)))], axis=2)
    return np.asarray(shapely.polygons(rim), dtype=object)


def ground_parts(crater_map: CraterMap) -> list[Polygon]:
    """Divide the counted area into polygons that every program reads alike.

    They are in longitude and latitude.

    A part contains no pole and has no edge in common with another, its longitudes are continuous and may leave 0 to
    360, and its edges follow the raster's, whether they are read as straight lines or as great circles. An area around
    a pole or around Mars is cut, and along the cut a hundred-millionth of it is missing.

    Raises:
        MarsError: the area reaches beyond the projection's map.
    """
    import shapely

    # On a grid, rings have a common vertex wherever they touch, and cannot cross once they are on the sphere.
    uncut = polygons(shapely.set_precision(shapely.set_precision(crater_map.counted, _GRID), 0))
    poles = _poles(crater_map)
    parts: list[Polygon] = []
    for _ in range(_MOST_CUTS):
        drawn = [(piece, _ground_polygon(crater_map, piece)) for piece in uncut]
        parts += [part for _, part in drawn if part is not None]
        uncut = [half for piece, part in drawn if part is None for half in _halves(piece, poles)]
        if not uncut:
            middle = parts[0].envelope.centroid.x % 360
            return [shapely.transform(part, partial(near, longitude=middle)) for part in parts]
    raise MarsError(BEYOND_THE_MAP)


def _ground_polygon(crater_map: CraterMap, polygon: Polygon) -> Polygon | None:
    """Convert a polygon to longitude and latitude; None if it has to be cut."""
    import shapely

    left, top, right, bottom = polygon.bounds
    dense = shapely.segmentize(polygon, max(right - left, bottom - top) / _STEPS)
    rings = [_ground_ring(crater_map, np.asarray(ring.coords)) for ring in (dense.exterior, *dense.interiors)]
    whole = [ring for ring in rings if ring is not None]
    if len(whole) < len(rings):
        return None
    west, east = whole[0][:, 0].min(), whole[0][:, 0].max()
    lowest = np.abs(whole[0][:, 1]).min()
    if east - west > (_WIDEST if lowest > _POLAR else _WIDEST_ELSEWHERE):
        return None
    shell, *holes = (near(ring, (west + east) / 2) for ring in whole)
    return shapely.Polygon(shell, holes)


def near(points: Float64, longitude: float) -> Float64:
    """Turn points by whole turns to be next to a longitude.

    Their middle is then within 180 degrees of it.
    """
    middle = (points[:, 0].min() + points[:, 0].max()) / 2
    return np.asarray(points + np.array([360 * np.round((longitude - middle) / 360), 0]))


def _ground_ring(crater_map: CraterMap, points: Float64) -> Float64 | None:
    """Convert a ring to continuous longitudes, and latitudes.

    None if it leads through a pole or around one.

    Raises:
        MarsError: it reaches beyond the projection's map.
    """
    assert crater_map.crs is not None
    for _ in range(_MOST_HALVINGS):
        with np.errstate(invalid="ignore"):  # PROJ gives infinity beyond the map
            positions = projected_positions(crater_map.crs, *crater_map.on_the_map(points).T)
        longitude, latitude = np.round(positions, _DECIMALS)
        if not np.isfinite(latitude).all():
            raise MarsError(BEYOND_THE_MAP)
        turns = (np.diff(longitude) + 180) % 360 - 180
        wide = np.flatnonzero(np.abs(turns) > _LARGEST_TURN)
        if len(wide) == 0:
            break
        points = np.insert(points, wide + 1, (points[wide] + points[wide + 1]) / 2, axis=0)
    if len(wide) or abs(turns.sum()) > 1:
        return None
    # Whole turns, and no sums, so that a vertex that rings share remains the same number.
    whole_turns = np.round((longitude[0] + np.append(0, np.cumsum(turns[:-1])) - longitude[:-1]) / 360)
    return _one_pole(np.column_stack([longitude[:-1] + 360 * whole_turns, latitude[:-1]]))


def _one_pole(ring: Float64) -> Float64 | None:
    """Let the vertices at a pole be one vertex.

    PROJ's latitudes are exact to centimetres there.

    None if all of them are.

    Args:
        ring: longitudes and latitudes, the first point not repeated.
    """
    near = np.abs(ring[:, 1]) > _POLE
    if near.all():
        return None
    start = int(np.argmin(near))
    ring, near = np.roll(ring, -start, axis=0), np.roll(near, -start)
    runs = np.split(ring, np.flatnonzero(np.diff(near)) + 1)
    for number in range(1, len(runs), 2):
        first, last = runs[number][0], runs[number][-1]
        runs[number] = np.array([[(first[0] + last[0]) / 2, np.copysign(90, first[1])]])
    return np.concatenate([*runs, ring[:1]])


def _halves(polygon: Polygon, poles: list[Float64]) -> list[Polygon]:
    """Cut a polygon, at a pole if there is one in its bounds.

    What may meet it at the map's other end is trimmed.
    """
    import shapely

    left, top, right, bottom = polygon.bounds
    width, height = right - left, bottom - top
    gap = _GAP * polygon.area / max(width, height)
    columns = [x for x, y in poles if left <= x <= right and top <= y <= bottom]
    inner = (left + gap, top + gap, right - gap, bottom - gap)
    if columns or width >= height:
        middle = columns[0] if columns else (left + right) / 2
        boxes = [(inner[0], inner[1], middle - gap, inner[3]), (middle + gap, *inner[1:])]
    else:
        middle = (top + bottom) / 2
        boxes = [(*inner[:3], middle - gap), (inner[0], middle + gap, *inner[2:])]
    return [
        half
        for box in boxes
        if box[0] < box[2] and box[1] < box[3]
        for half in polygons(polygon.intersection(shapely.box(*box)))
    ]


def _poles(crater_map: CraterMap) -> list[Float64]:
    """Find the pixels at which the poles lie.

    Only projections that show them as points have any.
    """
    from pyproj import CRS, Proj

    system = CRS.from_user_input(crater_map.crs)
    if system.is_geographic:
        return []
    assert crater_map.transform is not None
    to_pixels = ~Affine(*crater_map.transform)
    return [np.array(to_pixels @ Proj(system)(0, latitude)) for latitude in (90, -90)]


def polygons(geometry: BaseGeometry) -> list[Polygon]:
    """List the polygons of a geometry, also those of a collection's parts."""
    import shapely

    parts = shapely.get_parts(shapely.get_parts(geometry))
    return [part for part in parts if part.geom_type == "Polygon" and part.area > 0]
