"""The map of all scenes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mars_assets.craters.catalogue import Catalogue
from mars_assets.craters.crater_map import IAU_RADIUS
from mars_assets.craters.figures import BORDER
from mars_assets.plotting import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Float64 = npt.NDArray[np.float64]

_MOST = 20_000
"""Craters that are drawn, the largest."""
_LONGEST = 3
"""Largest ratio of the map's sides."""


def catalogue_figure(catalogue: Catalogue) -> Figure:
    """Draw counted areas and craters in longitude and latitude.

    The map begins where the longest stretch without any scene ends.
    """
    import shapely
    from matplotlib.collections import EllipseCollection, PolyCollection

    figure, axes = new_figure(9, 6)
    axis = axes[0, 0]
    start = _start(catalogue)
    pieces = shapely.get_parts([scene.counted for scene in catalogue.scenes])
    rings = [_turned(shapely.get_coordinates(piece.exterior), start) for piece in pieces]
    axis.add_collection(PolyCollection(rings, facecolor=f"{BORDER}33", edgecolor=BORDER, linewidth=0.8))
    craters = catalogue.craters[:_MOST]
    places = craters[["longitude", "latitude"]].to_numpy(np.float64)
    places[:, 0] = (places[:, 0] - start) % 360 + start
    across = np.degrees(craters["diameter_m"].to_numpy(np.float64) / IAU_RADIUS)
    wide = across / np.maximum(np.cos(np.radians(places[:, 1])), 1e-6)
    shape = EllipseCollection(
        np.minimum(wide, 360),
        across,
        np.zeros(len(craters)),
        units="xy",
        offsets=places,
        offset_transform=axis.transData,
        facecolor="none",
        edgecolor="C0",
        linewidth=0.5,
    )
    axis.add_collection(shape)
    bounds = np.concatenate([*rings, places])
    low, high = bounds.min(axis=0), bounds.max(axis=0)
    centre = (low + high) / 2
    shrunk = float(np.cos(np.radians(np.clip(centre[1], -85, 85))))
    to_ground = np.array([shrunk, 1])
    half = 0.53 * (high - low) * to_ground
    half = np.maximum(half, half.max() / _LONGEST) / to_ground
    axis.set(xlim=centre[0] + [-half[0], half[0]], ylim=centre[1] + [-half[1], half[1]])
    axis.set_aspect(1 / shrunk)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value % 360:.10g}")
    axis.set(xlabel="longitude (° E)", ylabel="planetocentric latitude (°)")
    drawn = f", the largest {_MOST:,} drawn" if len(catalogue.craters) > _MOST else ""
    axis.set_title(
        f"{len(catalogue.craters):,} craters of {len(catalogue.scenes):,} scenes{drawn}; counted areas filled"
    )
    return figure


def _start(catalogue: Catalogue) -> float:
    """Find the longitude at which the longest stretch without a scene ends."""
    import shapely

    west, _, east, _ = shapely.bounds(shapely.get_parts([scene.counted for scene in catalogue.scenes])).T
    order = np.argsort(west)
    west, reached = west[order], np.maximum.accumulate(east[order])
    gaps = west - np.concatenate([[reached[-1] - 360], reached[:-1]])
    return float(west[np.argmax(gaps)])


def _turned(points: Float64, start: float) -> Float64:
    """Turn a piece, which does not cross the start, to be east of it."""
    turns = np.floor((points[:, 0].min() - start) / 360)
    return np.asarray(points - [360 * turns, 0])
