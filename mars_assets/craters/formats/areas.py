"""Counted areas of several scenes in the plane of longitude and latitude.

There, straight lines in longitude and latitude are edges: longitudes run from 0 to 360, an area across 0 is in two
pieces, and a pole is a line. Sizes are measured in the equal-area cylinder, in longitude and the sine of the latitude.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mars_assets.craters.crater_map import IAU_RADIUS
from mars_assets.craters.formats.shapes import near, polygons

if TYPE_CHECKING:
    from shapely.geometry import MultiPolygon, Polygon
    from shapely.geometry.base import BaseGeometry

Float64 = npt.NDArray[np.float64]

_SQUARE_METRES = IAU_RADIUS**2 * np.pi / 180
"""Area on IAU 2015's sphere of a unit of the cylinder's."""
_FROM_LATITUDE, _STRAIGHT = 80.0, 0.03
"""Latitude from which edges are divided, and their difference in longitude then; both in degrees."""
_SEAM = 1e-9
"""Degrees that are left out on both sides of longitude 0: a tenth of a millimetre."""
_POLAR = 1e-6
"""Degrees that are left out around a pole: some centimetres."""
_GRID = 1e-10
"""Distance in degrees between the places that vertices of a united area can have."""
_TOLERANCE, _LONGEST_EDGE = 1e-5, 0.1
"""Of a united area in degrees: by how much it is simplified, half a metre, and the length of its edges then."""


def in_plane(parts: Sequence[Polygon]) -> MultiPolygon:
    """Lay the parts of an area into the plane.

    Args:
        parts: see :func:`mars_assets.craters.formats.shapes.ground_parts`.
    """
    import shapely
    from shapely.affinity import translate

    pieces: list[Polygon] = []
    for part in parts:
        drawn = shapely.Polygon(_with_poles(part.exterior), [_with_poles(ring) for ring in part.interiors])
        west, _, east, _ = drawn.bounds
        for turn in range(math.floor(west / 360), math.floor(east / 360) + 1):
            piece = drawn.intersection(shapely.box(360 * turn, -90, 360 * (turn + 1), 90))
            pieces += polygons(translate(piece, -360 * turn))
    whole = shapely.MultiPolygon(pieces)
    return whole if whole.is_valid else shapely.MultiPolygon(polygons(shapely.make_valid(whole)))


def _with_poles(ring: BaseGeometry) -> Float64:
    """Let a vertex at a pole be the line between its neighbours' longitudes."""
    points = _dense(np.asarray(ring.coords))[:-1]
    pole = np.abs(points[:, 1]) == 90
    before, after = np.roll(points[:, 0], 1), np.roll(points[:, 0], -1)
    ends = np.repeat(points, 1 + pole, axis=0)
    second = np.flatnonzero(pole) + np.arange(1, pole.sum() + 1)
    ends[second - 1, 0], ends[second, 0] = before[pole], after[pole]
    return ends


def _dense(points: Float64) -> Float64:
    """Divide edges near a pole, great circles, until the plane has them straight."""
    longitude, latitude = np.radians(points).T
    level = np.cos(latitude)
    places = np.column_stack([level * np.cos(longitude), level * np.sin(longitude), np.sin(latitude)])
    turns = np.diff(points[:, 0])
    polar = np.minimum(np.abs(points[:-1, 1]), np.abs(points[1:, 1])) > _FROM_LATITUDE
    polar &= np.maximum(np.abs(points[:-1, 1]), np.abs(points[1:, 1])) < 90
    pieces = np.where(polar, np.ceil(np.abs(turns) / _STRAIGHT), 1).astype(int).clip(1)
    edge = np.repeat(np.arange(len(turns)), pieces)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    share = (step / pieces[edge])[:, None]
    x, y, z = (places[edge] * (1 - share) + places[edge + 1] * share).T
    between = np.column_stack([np.degrees(np.arctan2(y, x)), np.degrees(np.arctan2(z, np.hypot(x, y)))])
    between[:, 0] += 360 * np.round((points[edge, 0] + share[:, 0] * turns[edge] - between[:, 0]) / 360)
    between[step == 0] = points[:-1]
    return np.concatenate([between, points[-1:]])


def on_cylinder(area: MultiPolygon) -> BaseGeometry:
    """Project an area from the plane to the equal-area cylinder."""
    import shapely

    drawn = shapely.transform(area, lambda points: np.column_stack([points[:, 0], np.sin(np.radians(points[:, 1]))]))
    return drawn if drawn.is_valid else shapely.make_valid(drawn)


def square_metres(area: MultiPolygon) -> float:
    """Measure an area on IAU 2015's sphere."""
    return float(on_cylinder(area).area * _SQUARE_METRES)


def added_shares(areas: Sequence[MultiPolygon]) -> Float64:
    """Compute the share of each area that no area before it contains."""
    import shapely

    drawn = np.array([*map(on_cylinder, areas), None], dtype=object)[:-1]
    shares = np.ones(len(drawn))
    later, earlier = shapely.STRtree(drawn).query(drawn, predicate="intersects")
    later, earlier = later[earlier < later], earlier[earlier < later]
    for number in np.unique(later).tolist():
        left = drawn[number]
        for other in sorted(earlier[later == number].tolist()):
            left = shapely.difference(left, drawn[other])
            if left.is_empty:
                break
        shares[number] = left.area / drawn[number].area
    return shares


def united(areas: Sequence[MultiPolygon]) -> list[Polygon]:
    """Unite areas into polygons that every program reads alike, the smallest first.

    They are as those of :func:`mars_assets.craters.formats.shapes.ground_parts`. What crosses longitude 0 is cut there,
    along a gap, and a hole of some centimetres is in each pole. A polygon in another's hole comes before it, since
    craterstats takes it for a hole otherwise. They are for maps: borders are simplified by half a metre, since
    craterstats reads a million vertices in minutes.
    """
    import shapely

    cut = shapely.box(_SEAM, -90 + _POLAR, 360 - _SEAM, 90 - _POLAR)
    # On a grid, slivers between scenes that share an edge vanish.
    whole = shapely.set_precision(shapely.intersection(shapely.union_all(areas), cut), _GRID)
    simple = shapely.segmentize(shapely.simplify(whole, _TOLERANCE), _LONGEST_EDGE)
    found = polygons(simple if simple.is_valid else whole)
    turn = partial(near, longitude=found[0].envelope.centroid.x)
    turned = [shapely.transform(part, turn) for part in found]
    return sorted(turned, key=lambda part: part.area)
