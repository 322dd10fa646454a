"""Craters that somebody listed, and the ground on which they looked for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mars_assets.imagery.grid import Grid, Placed

if TYPE_CHECKING:
    from shapely.geometry import MultiPolygon, Polygon

Float64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

GROUND = ("longitude", "latitude", "diameter_m")
PIXELS = ("x_px", "y_px", "diameter_px")
NUMBERS = (*GROUND, *PIXELS, "probability", "confidence")
TEXTS = ("terrain", "annotator", "image")
COLUMNS = ("row", *NUMBERS, *TEXTS)
"""Of a list's table. ``row`` is where a crater stands in its file; what is unknown is NaN or empty."""
DEGREES = "+proj=longlat +R=3396190 +no_defs"


@dataclass(frozen=True)
class Area:
    """Where craters were looked for.

    Args:
        polygon: in pixels of a raster, or in map coordinates.
        crs: of the raster or the map, as WKT or PROJ string; None if the raster is not map projected.
        transform: from pixels to map coordinates, six numbers; None if the polygon is in map coordinates.
    """

    polygon: Polygon | MultiPolygon
    crs: str | None
    transform: tuple[float, ...] | None = None

    @property
    def is_in_pixels(self) -> bool:
        """Whether the polygon is in pixels."""
        return self.crs is None or self.transform is not None

    def holds(self, longitude: Float64, latitude: Float64) -> Mask:
        """Test which places are in it, whichever turn their longitudes are of."""
        import shapely
        from pyproj import CRS

        assert self.crs is not None
        left, bottom, right, top = self.polygon.bounds
        middle = ((left + right) / 2, (bottom + top) / 2)
        a, b, c, d, e, f = self.transform or (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
        # The grid's middle is that of the area, so that each place is put on the turn nearest to it.
        origin = (a * middle[0] + b * middle[1] + c, d * middle[0] + e * middle[1] + f)
        placed = Placed(Grid(0, 0, self.crs, (a, b, origin[0], d, e, origin[1])), CRS.from_user_input(self.crs))
        with np.errstate(invalid="ignore"):  # NaN beyond the map
            x, y = placed.in_pixels(longitude, latitude)
            x, y = x + middle[0], y + middle[1]
            near = (x >= left) & (x <= right) & (y >= bottom) & (y <= top)
        shapely.prepare(self.polygon)
        inside = np.zeros(len(longitude), bool)
        inside[near] = shapely.contains_xy(self.polygon, x[near], y[near])
        return inside


@dataclass(frozen=True)
class Counted:
    """Ground on which every crater from a size on is listed.

    Args:
        area: None for everywhere.
        smallest_m: that size in metres.
        smallest_px: in pixels.
    """

    area: Area | None = None
    smallest_m: float = 0.0
    smallest_px: float = 0.0


@dataclass(frozen=True)
class CraterList:
    """Craters that somebody listed.

    Args:
        name: of the list, for people.
        craters: with ``COLUMNS``; diameters in metres are those on IAU 2015's sphere.
        counted: where they were looked for; they are listed wherever one of these holds.
        reference: the annotator by whom others are judged; empty if there is one list alone.
        states_size: whether the size from which it is complete is known, and not that of its smallest crater.
        notes: what a reader should know.
    """

    name: str
    craters: pd.DataFrame
    counted: Sequence[Counted]
    reference: str = ""
    states_size: bool = True
    notes: Sequence[str] = field(default=())

    @property
    def has_ground(self) -> bool:
        """Whether its craters have places and sizes on the ground."""
        return bool(self.craters[list(GROUND)].notna().all(axis=None))

    @property
    def has_pixels(self) -> bool:
        """Whether its craters have places and sizes in pixels."""
        return bool(self.craters[list(PIXELS)].notna().all(axis=None))

    @property
    def states_area(self) -> bool:
        """Whether the ground that was looked at is known."""
        return all(one.area is not None for one in self.counted)

    def covers(self, places: Float64, diameter: Float64, on_ground: bool) -> Mask:
        """Test which craters of somebody else it would have to list.

        Args:
            places: shape (n, 2), longitudes and latitudes, or pixels.
            diameter: in metres or pixels.
            on_ground: whether they are on the ground.
        """
        listed = np.zeros(len(diameter), bool)
        for one in self.counted:
            large = diameter >= (one.smallest_m if on_ground else one.smallest_px)
            left = np.flatnonzero(large & ~listed)
            if one.area is None or (not on_ground and not one.area.is_in_pixels):
                listed[left] = True
            elif on_ground:
                listed[left] = one.area.holds(*places[left].T)
            else:
                import shapely

                listed[left] = shapely.contains_xy(one.area.polygon, *places[left].T)
        return listed


def crater_table(columns: dict[str, object], count: int) -> pd.DataFrame:
    """Build the table of a list from the columns that are known."""
    filled: dict[str, Any] = {"row": np.arange(1, count + 1)}
    filled |= dict.fromkeys(NUMBERS, np.full(count, np.nan)) | dict.fromkeys(TEXTS, np.full(count, ""))
    table = pd.DataFrame({name: columns.get(name, filled[name]) for name in COLUMNS})
    return table.astype({**dict.fromkeys(NUMBERS, np.float64), **dict.fromkeys(TEXTS, str)})
