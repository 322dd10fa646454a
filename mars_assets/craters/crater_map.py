"""The craters of one scene, and the area in which they were counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

if TYPE_CHECKING:
    from shapely.geometry import MultiPolygon

Float64 = npt.NDArray[np.float64]

IAU_RADIUS = 3_396_190.0
"""Radius in metres of the sphere of IAU 2015's Mars (IAU_2015:49900)."""


@dataclass(frozen=True)
class CraterMap:
    """The craters of one scene.

    Everything lies in the pixels of the scene's grid, which is the raster's own unless its pixels are not square on the
    ground: x is the column and y the row, and (0, 0) is the outer corner of the first pixel.

    Args:
        scene: name of the scene, the stem of its files.
        craters: see :class:`mars_assets.craters.schema.MappedCraters`; the largest first.
        outlines: the outline of each crater, shape (n, 2), x and y, the first point repeated at the end.
        counted: where craters were looked for, without overlaps, with holes; may be empty.
        counted_m2: area of ``counted`` on the ground in square metres; None if the grid is not map projected.
        smallest_px: diameter in pixels from which craters are listed.
        lines: height of the grid in pixels.
        samples: its width.
        crs: coordinate reference system of the grid as WKT; None if it is not map projected.
        transform: from x, y to map coordinates, the first six numbers of ``affine.Affine``; None if ``crs`` is.
    """

    scene: str
    craters: pd.DataFrame
    outlines: list[Float64]
    counted: MultiPolygon
    counted_m2: float | None
    smallest_px: float
    lines: int
    samples: int
    crs: str | None
    transform: tuple[float, ...] | None

    def on_the_map(self, points: Float64) -> Float64:
        """Convert pixels, shape (n, 2), to map coordinates."""
        assert self.transform is not None
        a, b, c, d, e, f = self.transform
        x, y = points.T
        return np.column_stack([a * x + b * y + c, d * x + e * y + f])
