"""Grids of pixels, and grids whose pixels are square on the ground.

On a map in degrees, or one that is true to scale elsewhere, a round crater is an ellipse in pixels. Such a raster is
read on another grid of about as many pixels, in a conformal projection of the same body: stereographic around its
middle, or Mercator if it shows more than a cap of ``_WIDEST`` degrees, or than a hemisphere around a pole. A turned or
mirrored raster needs none.

Map coordinates are x, y in the raster's transform; (0, 0) in pixels is the outer corner of the first one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from affine import Affine

from mars_assets.errors import MarsError
from mars_assets.progress import SILENT, Progress

if TYPE_CHECKING:
    from pyproj import CRS

Float64 = npt.NDArray[np.float64]

MAX_GRID = 2**31
"""Largest number of pixels of a raster."""
_SQUARE = 1.15
"""Largest ratio of a pixel's axes on the ground that counts as square: above that of every RDR of HiRISE, 1.09."""
_WIDEST = 40.0
"""Largest angular radius in degrees for which a stereographic map serves: its scale varies by 13 % there."""
_HIGHEST_LATITUDE = 75.0
"""To which a Mercator map extends, in degrees."""
_RADII = (3_370_000.0, 3_400_000.0)
"""Radii in metres that are Mars's, also in older definitions and as local spheres."""
_INSET = 0.01
"""Distance in pixels between a raster's edge and the points that stand for it, which a pole or a seam may lie on."""


@dataclass(frozen=True)
class Grid:
    """Size and position of a raster's pixels.

    Args:
        lines: height in pixels.
        samples: width in pixels.
        crs: coordinate reference system as WKT; None if the raster is not map projected.
        transform: from x, y in pixels to map coordinates, the first six numbers of ``affine.Affine``; None if ``crs``
            is.
    """

    lines: int
    samples: int
    crs: str | None
    transform: tuple[float, ...] | None


class Placed:
    """A grid on a body, for conversions between its pixels and places on the ground.

    Args:
        grid: a map-projected grid.
        system: its CRS.
    """

    def __init__(self, grid: Grid, system: CRS) -> None:
        from pyproj import Proj

        assert grid.transform is not None
        self.grid, self.system = grid, system
        self._to_map = Affine(*grid.transform)
        self._to_pixels = ~self._to_map
        self._projection = None if system.is_geographic else Proj(system)
        # Longitudes and latitudes may be in other units than degrees.
        self._degrees = math.degrees(system.axis_info[0].unit_conversion_factor) if system.is_geographic else 1.0
        self._middle = float((self._to_map @ (grid.samples / 2, grid.lines / 2))[0])
        self._period = self._once_around()

    def _once_around(self) -> float | None:
        """Compute the length of the equator on the map.

        Only if meridians are parallel there, so that a raster may go on beyond it; else None.
        """
        if self._projection is None:
            return 360 / self._degrees
        described = dict(item.partition("=")[::2] for item in self._projection.definition.split())
        if described["proj"] not in ("eqc", "merc", "cea", "mill"):
            return None
        middle = float(described.get("lon_0", 0))
        west, east = self._projection([middle - 1, middle + 1], [0.0, 0.0])[0]
        return 180 * (float(east) - float(west))

    def on_the_ground(self, x: Float64, y: Float64) -> tuple[Float64, Float64]:
        """Convert pixels to longitude and latitude on the CRS's own body.

        In degrees; NaN where there is no ground.
        """
        across, up = self._map_coordinates(x, y)
        if self._projection is None:
            longitude, latitude = across * self._degrees, up * self._degrees
        else:
            longitude, latitude = (np.asarray(value) for value in self._projection(across, up, inverse=True))
        # Half a pixel beyond a pole is rounding, or the step of a derivative.
        off = ~(np.isfinite(longitude) & np.isfinite(latitude)) | (np.abs(latitude) > 91) | (np.abs(longitude) > 1080)
        return np.where(off, np.nan, longitude), np.where(off, np.nan, latitude)

    def _map_coordinates(self, x: Float64, y: Float64) -> tuple[Float64, Float64]:
        a, b, c, d, e, f = self._to_map[:6]
        return a * x + b * y + c, d * x + e * y + f

    def in_pixels(self, longitude: Float64, latitude: Float64) -> tuple[Float64, Float64]:
        """Convert degrees to pixels.

        Of the longitudes that are a turn apart, the one nearest to the raster's middle is taken.
        """
        if self._projection is None:
            x, y = longitude / self._degrees, latitude / self._degrees
        else:
            x, y = (np.asarray(value) for value in self._projection(longitude, latitude))
        x, y = np.where(np.isfinite(x), x, np.nan), np.where(np.isfinite(y), y, np.nan)
        if self._period is not None:
            x = x + self._period * np.round((self._middle - x) / self._period)
        a, b, c, d, e, f = self._to_pixels[:6]
        return a * x + b * y + c, d * x + e * y + f

    def on_planet(self, x: Float64, y: Float64) -> npt.NDArray[np.bool_]:
        """Test which pixels are on the planet.

        Corners of a map of the whole planet may not be. PROJ gives these places that have other pixels.
        """
        longitude, latitude = self.on_the_ground(x, y)
        there = np.isfinite(longitude) & (np.abs(latitude) <= 90 + 1e-6)
        back = self.in_pixels(np.where(there, longitude, 0), np.where(there, latitude, 0))
        return np.asarray(there & (np.hypot(back[0] - x, back[1] - y) < 1))

    def axes(self, x: Float64, y: Float64) -> tuple[Float64, Float64]:
        """Compute the shortest and longest axis of pixels on the ground, in metres.

        They are the singular values of the derivative of the place in space.
        """
        right = self._in_space(x + 0.5, y) - self._in_space(x - 0.5, y)
        down = self._in_space(x, y + 0.5) - self._in_space(x, y - 0.5)
        across, along, both = (right**2).sum(axis=0), (down**2).sum(axis=0), (right * down).sum(axis=0)
        half, difference = (across + along) / 2, np.hypot((across - along) / 2, both)
        return np.sqrt(np.maximum(half - difference, 0)), np.sqrt(half + difference)

    def _in_space(self, x: Float64, y: Float64) -> Float64:
        """Convert pixels to coordinates around the body's centre.

        In metres, shape (3, n).
        """
        longitude, latitude = (np.radians(angle) for angle in self.on_the_ground(x, y))
        equator, pole = radii(self.system)
        flattened = (pole / equator) ** 2
        normal = equator / np.sqrt(np.cos(latitude) ** 2 + flattened * np.sin(latitude) ** 2)
        return np.stack(
            [
                normal * np.cos(latitude) * np.cos(longitude),
                normal * np.cos(latitude) * np.sin(longitude),
                normal * flattened * np.sin(latitude),
            ]
        )


@dataclass(frozen=True)
class Resampling:
    """The reading of a raster on a grid whose pixels are square on the ground.

    Args:
        source: the raster's own pixels.
        target: the grid's.
        reduction: pixels of the raster along one of the grid, at least 1; more are averaged.
    """

    source: Placed
    target: Placed
    reduction: int

    def to_source(self, x: Float64, y: Float64) -> tuple[Float64, Float64]:
        """Convert pixels of the grid to those of the raster; NaN where it has none."""
        return self.source.in_pixels(*self.target.on_the_ground(x, y))


def place(path: Path, grid: Grid, progress: Progress = SILENT) -> Placed | None:
    """Place a raster on Mars.

    Args:
        path: the raster, for messages.
        grid: its own pixels.
        progress: reports a CRS that is none of a planet.

    Returns:
        None if the raster is not map projected.

    Raises:
        MarsError: it is on another body, or nowhere.
    """
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    if grid.crs is None:
        return None
    try:
        system = _of_the_surface(CRS.from_user_input(grid.crs))
        placed = Placed(grid, system) if system.is_geographic or system.is_projected else None
    except CRSError as error:
        raise MarsError(
            f"{path} has a CRS that PROJ cannot use ({error}): assign its own with gdal_edit -a_srs"
        ) from error
    if placed is None:
        progress.say(f"{path.name}: its coordinates are those of no planet ({system.name}), so it counts as no map")
        return None
    _refuse_other_body(path, system)
    _refuse_other_origin(path, system)
    if not placed.on_planet(*_samples(grid)).mean() >= 0.5:
        raise MarsError(
            f"{path}: most of its pixels are not on the planet, according to its CRS ({system.name}) and transform: "
            "assign its own with gdal_edit -a_srs and -a_ullr"
        )
    return placed


def _of_the_surface(system: CRS) -> CRS:
    """Drop heights and shifts from a CRS."""
    if system.is_bound and system.source_crs is not None:
        return _of_the_surface(system.source_crs)
    return _of_the_surface(system.sub_crs_list[0]) if system.is_compound else system


def _refuse_other_body(path: Path, system: CRS) -> None:
    lowest, highest = _RADII
    read = radii(system)
    if not all(lowest <= radius <= highest for radius in read):
        sizes = " and ".join(f"{radius / 1000:.6g}" for radius in sorted(set(read), reverse=True))
        raise MarsError(
            f"{path} is on a body of radius {sizes} km, according to its CRS ({system.name}), but Mars has 3376 to "
            "3396 km: choose a raster of Mars, or assign its CRS with gdal_edit -a_srs IAU_2015:49910 or another"
        )


def _refuse_other_origin(path: Path, system: CRS) -> None:
    """Refuse degrees from other places than Mars's poles and meridian."""
    meridian = system.prime_meridian
    turned = system.is_geographic and system.is_derived
    if turned or (meridian is not None and meridian.longitude != 0):
        raise MarsError(
            f"{path} counts degrees from a pole or meridian of its own ({system.name}): convert it with gdalwarp "
            "-t_srs IAU_2015:49910"
        )


def radii(system: CRS) -> tuple[float, float]:
    """Read the radii of a CRS's body at the equator and at the poles, in metres."""
    ellipsoid = system.ellipsoid
    assert ellipsoid is not None
    return float(ellipsoid.semi_major_metre), float(ellipsoid.semi_minor_metre)


def square_on_the_ground(path: Path, source: Placed, progress: Progress = SILENT) -> Resampling | None:
    """Find a grid whose pixels are square on the ground.

    Args:
        path: the raster, for messages.
        source: its own pixels.
        progress: reports the grid, and what is left out.

    Returns:
        None if the raster's own pixels are square.

    Raises:
        MarsError: the grid would have too many pixels.
    """
    x, y = _samples(source.grid)
    shortest, longest = source.axes(x, y)
    there = source.on_planet(x, y) & np.isfinite(longest)
    x, y, shortest, longest = x[there], y[there], shortest[there], longest[there]
    ratio = longest / np.maximum(shortest, 1e-9 * longest)
    if ratio.max() <= _SQUARE:
        return None
    middle, radius = _cap(*source.on_the_ground(x, y))
    mercator = radius > (_WIDEST if abs(middle[1]) < _HIGHEST_LATITUDE else 90)
    if mercator:  # the seam of the map goes where the raster has its own
        middle = _longitude_of_the_middle(source), 0.0
    target, size, reduction = _target(source, (x, y), (shortest, longest), middle, mercator)
    if target.lines * target.samples > MAX_GRID:
        raise _too_large(path, target, "on a grid that is square on the ground ")
    progress.say(
        f"{path.name}: its pixels are up to {min(ratio.max(), 999):.3g} times as long as wide on the ground, so it is "
        f"read on a {'Mercator' if mercator else 'stereographic'} grid of {target.lines} x {target.samples} pixels of "
        f"{size:.4g} m"
    )
    if mercator and np.nanmax(np.abs(source.on_the_ground(x, y)[1])) > _HIGHEST_LATITUDE:
        progress.say(f"{path.name}: latitudes beyond {_HIGHEST_LATITUDE:g} degrees are left out; cut them out as maps")
    from pyproj import CRS

    assert target.crs is not None
    return Resampling(source, Placed(target, CRS.from_wkt(target.crs)), reduction)


def refuse_large(path: Path, grid: Grid) -> None:
    """Refuse a raster of more than ``MAX_GRID`` pixels.

    Raises:
        MarsError: it is larger.
    """
    if grid.lines * grid.samples > MAX_GRID:
        raise _too_large(path, grid, "")


def _too_large(path: Path, grid: Grid, where: str) -> MarsError:
    side = math.isqrt(MAX_GRID)
    return MarsError(
        f"{path} has {where}{grid.lines} x {grid.samples} pixels, more than the limit of {MAX_GRID}: cut it, for "
        f"example with gdal_translate -srcwin 0 0 {min(side, grid.samples)} {min(side, grid.lines)}"
    )


def _samples(grid: Grid) -> tuple[Float64, Float64]:
    """Spread centres of pixels over a grid."""
    return _lattice(grid, 0.5, 33)


def _lattice(grid: Grid, inset: float, count: int) -> tuple[Float64, Float64]:
    sides = (np.linspace(inset, length - inset, min(count, length)) for length in (grid.samples, grid.lines))
    x, y = np.meshgrid(*sides)
    return x.ravel(), y.ravel()


def _outline(grid: Grid) -> tuple[Float64, Float64]:
    """Spread points over a grid, densely along its edges."""
    right, down = (np.linspace(_INSET, length - _INSET, 513) for length in (grid.samples, grid.lines))
    (left, last), (top, bottom) = right[[0, -1]], down[[0, -1]]
    x, y = _lattice(grid, _INSET, 65)
    along = np.full(513, 1.0)
    return (
        np.concatenate([x, right, right, left * along, last * along]),
        np.concatenate([y, top * along, bottom * along, down, down]),
    )


def _cap(longitude: Float64, latitude: Float64) -> tuple[tuple[float, float], float]:
    """Find the middle of places, and their largest distance from it, in degrees.

    Returns:
        The middle as longitude and latitude, and the distance.
    """
    east, north = np.radians(longitude), np.radians(latitude)
    vectors = np.stack([np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north)])
    x, y, z = vectors.mean(axis=1).round(9)  # at a pole, the longitude is then 0
    length = max(math.hypot(x, y, z), 1e-9)  # 0 for the whole planet
    farthest = float(np.degrees(np.arccos(np.clip(vectors.T @ (x, y, z) / length, -1, 1)).max()))
    return (math.degrees(math.atan2(y, x)), math.degrees(math.asin(np.clip(z / length, -1, 1)))), farthest


def _longitude_of_the_middle(source: Placed) -> float:
    x, y = (np.array([length / 2]) for length in (source.grid.samples, source.grid.lines))
    longitude = float(source.on_the_ground(x, y)[0][0])
    return longitude if math.isfinite(longitude) else 0.0


def _target(
    source: Placed,
    at: tuple[Float64, Float64],
    axes: tuple[Float64, Float64],
    middle: tuple[float, float],
    mercator: bool,
) -> tuple[Grid, float, int]:
    """Lay out the grid.

    Its pixels are as wide as the raster's are along their shortest axis, unless that makes more than twice as many.

    Returns:
        The grid, the size of its pixels on the map in metres, and the reduction.
    """
    from pyproj import Proj

    longitude, latitude = source.on_the_ground(*at)
    system = _conformal(source, middle, mercator)
    used = np.abs(latitude) <= (_HIGHEST_LATITUDE if mercator else 90)
    projection = Proj(system)
    scale = np.asarray(projection.get_factors(longitude[used], latitude[used]).meridional_scale)
    shortest, longest = (axis[used] * scale for axis in axes)
    areas = shortest * longest
    size = max(_quantile(shortest, areas, 0.5), math.sqrt(float(areas.mean()) / 2))
    # In most of the ground: towards a pole, pixels in degrees become ever narrower.
    reduction = int(np.clip(round(size / _quantile(shortest, areas, 0.05)), 1, 3))

    x, y = _outline(source.grid)
    there = source.on_planet(x, y)
    longitude, latitude = source.on_the_ground(x[there], y[there])
    if mercator:
        latitude = np.clip(latitude, -_HIGHEST_LATITUDE, _HIGHEST_LATITUDE)
    across, up = (np.asarray(value) for value in projection(longitude, latitude))
    samples, lines = (math.ceil(float(np.ptp(value)) / size) for value in (across, up))
    left, top = float(across.min()), float(up.max())
    return Grid(lines, samples, system.to_wkt(), (size, 0.0, left, 0.0, -size, top)), size, reduction


def _quantile(values: Float64, weights: Float64, share: float) -> float:
    """Find the value below which a share of the weights lies."""
    order = np.argsort(values)
    below = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(below, share * below[-1])])


def _conformal(source: Placed, middle: tuple[float, float], mercator: bool) -> CRS:
    """Compose a conformal projection of the raster's body."""
    from pyproj.crs import ProjectedCRS
    from pyproj.crs.coordinate_operation import MercatorAConversion, StereographicConversion

    longitude, latitude = (round(angle, 6) for angle in middle)
    conversion: Any
    if mercator:
        conversion = MercatorAConversion(longitude_natural_origin=longitude)
    else:
        conversion = StereographicConversion(longitude_natural_origin=longitude, latitude_natural_origin=latitude)
    name = f"{'Mercator' if mercator else 'Stereographic'} around {longitude:.3f}, {latitude:.3f}"
    return ProjectedCRS(conversion, name=name, geodetic_crs=source.system.geodetic_crs)
