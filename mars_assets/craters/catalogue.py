"""The catalogue of all scenes: each crater once, and the ground counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

if TYPE_CHECKING:
    from shapely.geometry import MultiPolygon

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CountedScene:
    """A scene of a catalogue, and the ground that it adds.

    Areas and sizes are those on IAU 2015's sphere.

    Args:
        scene: its name.
        smallest_m: diameter in metres from which craters are listed everywhere in it.
        pixel_m: width in metres of a pixel.
        counted: where craters were looked for, longitudes and planetocentric latitudes in degrees, 0 to 360.
        counted_m2: its area in square metres.
        added_m2: the part of that which no scene before it in the catalogue counts.
        key: fingerprint of its map.
        model: name and version of the model that made its map.
    """

    scene: str
    smallest_m: float
    pixel_m: float
    counted: MultiPolygon
    counted_m2: float
    added_m2: float
    key: str
    model: str


@dataclass(frozen=True)
class Catalogue:
    """The craters of all scenes, each once.

    Args:
        craters: see :class:`mars_assets.craters.schema.CataloguedCraters`.
        scenes: that of the smallest ``smallest_m`` first.
    """

    craters: pd.DataFrame
    scenes: list[CountedScene]

    def area_m2(self, diameters: npt.ArrayLike) -> Float64:
        """Compute the area on which craters of these diameters are listed everywhere.

        Args:
            diameters: in metres.
        """
        smallest = np.array([scene.smallest_m for scene in self.scenes])
        sums = np.cumsum([0.0, *(scene.added_m2 for scene in self.scenes)])
        return np.asarray(sums[np.searchsorted(smallest, np.asarray(diameters, np.float64), side="right")])
