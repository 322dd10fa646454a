"""The craters of a scan, each once, and the area in which they were counted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from mars_assets.craters.crater_map import IAU_RADIUS, CraterMap
from mars_assets.craters.instances import Instance, instances
from mars_assets.craters.merging import merge
from mars_assets.craters.scan import LevelMap, MarginMap
from mars_assets.imagery.geolocation import (
    body_radius,
    ground_area,
    ground_diameters,
    ground_frames,
    projected_positions,
)
from mars_assets.progress import SILENT, Progress
from mars_assets.storage.schema import columns_of, conformed

if TYPE_CHECKING:
    from shapely.geometry import MultiPolygon

    from mars_assets.imagery.grid import Grid

Float64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
_PartOfLevel = tuple[tuple[int, int], tuple[int, int]]

_LARGEST = 0.6
"""Largest diameter that counts at a level, in windows, unless it is the coarsest."""
_SMALLEST = 24.0
"""Smallest diameter in pixels that counts at a coarser level: finer ones show those below it better."""
_BLOCK, _MARGIN = 6, 0.75
"""Side of the parts of a level whose craters are found at once, and what is read around them, in windows."""
_PIXELS_A_PROCESS = 8_000_000
"""Pixels of a scene from which another process takes less time to begin than it saves."""
_AREA_PIXELS = 4_000_000
"""Pixels at most of the reduced scene from which the counted area is traced."""
_SHADOW = 1
"""Stretched value up to which a pixel is dark, of 255."""
_SHADOW_SIDE = 64
"""Shadows at least so wide in pixels are not counted: narrower ones are those of craters and boulders."""


@dataclass(frozen=True)
class Found:
    """The craters of a scene in the pixels of its grid, each once.

    Args:
        craters: centre, diameter and outline of full resolution.
        factor: for each, the reduction at which it was seen best.
        detections: for each, the number of detections at all reductions that are this crater.
        probability: for each, that a person would mark it; None if that is not known.
    """

    craters: list[Instance]
    factor: list[int]
    detections: list[int]
    probability: Float64 | None = None

    def selected(self, which: Mask) -> Found:
        """Return some of the craters, without their probabilities."""
        chosen = np.flatnonzero(which).tolist()
        return Found(
            [self.craters[number] for number in chosen],
            [self.factor[number] for number in chosen],
            [self.detections[number] for number in chosen],
        )


def find_craters(levels: Sequence[LevelMap], side: int, smallest: float, progress: Progress = SILENT) -> Found:
    """Find the craters of a scan, each once.

    A large scene's are found in several processes.

    Args:
        levels: the finest first.
        side: of the windows in pixels.
        smallest: smallest diameter in pixels of full resolution.
        progress: reports the parts of the scene.
    """
    from joblib import Parallel, cpu_count, delayed

    tasks = []
    for level in levels:
        least = smallest if level.factor == 1 else max(smallest / level.factor, _SMALLEST)
        most = math.inf if level is levels[-1] else _LARGEST * side
        margins = MarginMap(level.factor, level.shape, level.margins)
        tasks += [
            delayed(_of_part)(margins, part, round(_MARGIN * side), (least, most))
            for part in _parts(level.shape, _BLOCK * side)
        ]
    pixels = levels[0].shape[0] * levels[0].shape[1]
    processes = min(cpu_count(), max(pixels // _PIXELS_A_PROCESS, 1))
    parts = Parallel(n_jobs=processes, return_as="generator")(tasks)
    return _merged([one for part in progress.track(parts, "outlining craters", len(tasks)) for one in part])


def _parts(shape: tuple[int, int], side: int) -> Iterator[_PartOfLevel]:
    for top in range(0, shape[0], side):
        for left in range(0, shape[1], side):
            yield (top, min(top + side, shape[0])), (left, min(left + side, shape[1]))


def _of_part(
    level: MarginMap, part: _PartOfLevel, margin: int, diameters: tuple[float, float]
) -> list[tuple[int, Instance]]:
    """List the craters of a level that are centred in a part of it.

    Args:
        level: its margins.
        part: its first row and the one after its last, and the columns likewise.
        margin: what is read around it, in the level's pixels.
        diameters: the smallest and the largest one, in the level's pixels.

    Returns:
        The level's reduction, and the crater in pixels of full resolution.
    """
    (top, bottom), (left, right) = (
        (max(start - margin, 0), min(end + margin, length))
        for (start, end), length in zip(part, level.shape, strict=True)
    )
    margins, seen = level.read(top, bottom, slice(left, right))
    open_sides = (top > 0, bottom < level.shape[0], left > 0, right < level.shape[1])
    rows, columns = part
    moved = (crater.moved(left, top) for crater in instances(margins, seen, diameters[0], open_sides))
    return [
        (level.factor, crater.scaled(level.factor))
        for crater in moved
        if columns[0] <= crater.x < columns[1] and rows[0] <= crater.y < rows[1] and crater.diameter <= diameters[1]
    ]


def _merged(found: Sequence[tuple[int, Instance]]) -> Found:
    confidence = np.array([_weight(crater) for _, crater in found])
    x, y, diameter = (
        np.array([getattr(crater, name) for _, crater in found], np.float64) for name in ("x", "y", "diameter")
    )
    merged = merge(x, y, diameter, confidence)
    counts = np.bincount(merged.number, minlength=len(merged.best))
    order = np.argsort(-merged.diameter, kind="stable")
    means = np.column_stack([merged.x, merged.y, merged.diameter])[order].tolist()
    best = merged.best[order].tolist()
    return Found(
        [found[number][1].fitted(*mean) for number, mean in zip(best, means, strict=True)],
        [found[number][0] for number in best],
        [int(count) for count in counts[order]],
    )


def _weight(crater: Instance) -> float:
    """Weigh a detection: how sure, how round, and how much of its rim was seen."""
    sure = 1 / (1 + math.exp(-crater.peak))
    return crater.roundness * (0.1 + crater.rim_coverage) * sure * (0.5 if crater.cut else 1.0)


def map_of(scene: str, grid: Grid, levels: Sequence[LevelMap], found: Found, smallest: float) -> CraterMap:
    """Place the craters of a scan on the ground.

    Args:
        scene: name of the scene.
        grid: its grid.
        levels: of the scan.
        found: its craters.
        smallest: smallest diameter in pixels that was looked for.
    """
    import shapely

    from mars_assets.craters.schema import MappedCraters

    craters = found.craters
    counted = counted_area(levels, craters, smallest)
    x, y, diameter = (np.array([getattr(crater, name) for crater in craters]) for name in ("x", "y", "diameter"))
    frames = np.tile(np.diag([1.0, -1.0]), (len(craters), 1, 1))
    ground = dict.fromkeys(("longitude", "latitude", "diameter_m", "diameter_iau_m"), np.full(len(craters), np.nan))
    if grid.crs is not None and grid.transform is not None and craters:
        a, b, c, d, e, f = grid.transform
        map_x, map_y = a * x + b * y + c, d * x + e * y + f
        longitude, latitude = projected_positions(grid.crs, map_x, map_y)
        metres = ground_diameters(grid.crs, map_x, map_y, np.pi / 4 * diameter**2 * abs(a * e - b * d))
        ground = {
            "longitude": longitude,
            "latitude": latitude,
            "diameter_m": metres,
            "diameter_iau_m": metres * IAU_RADIUS / body_radius(grid.crs),
        }
        frames = ground_frames(grid.crs, grid.transform, x, y)
    discs = shapely.buffer(shapely.points(x, y), diameter / 2, quad_segs=16) if craters else np.empty(0, object)
    shapely.prepare(counted)
    share = np.where(shapely.covers(counted, discs), 1.0, np.nan)
    partly = np.isnan(share)
    share[partly] = shapely.area(shapely.intersection(discs[partly], counted)) / shapely.area(discs[partly])
    shape = [_axes(frame @ crater.spread @ frame.T) for frame, crater in zip(frames, craters, strict=True)]
    table = pd.DataFrame(
        {
            "crater_id": _ids(scene, craters),
            "x_px": x,
            "y_px": y,
            "diameter_px": diameter,
            **ground,
            "axis_ratio": [ratio for ratio, _ in shape],
            "angle": [angle for _, angle in shape],
            "roundness": [crater.roundness for crater in craters],
            "rim_coverage": [crater.rim_coverage for crater in craters],
            "confidence": [1 / (1 + np.exp(-crater.peak)) for crater in craters],
            "probability": np.nan if found.probability is None else found.probability,
            "counted": shapely.contains_xy(counted, x, y) if craters else np.empty(0, bool),
            "counted_share": np.clip(share, 0, 1),
            "cut": [crater.cut for crater in craters],
            "scale": np.array(found.factor, np.float64),
            "detections": np.array(found.detections, np.int64),
        }
    )
    table = conformed(table[list(columns_of(MappedCraters))], MappedCraters, f"the craters of {scene}")
    return CraterMap(
        scene=scene,
        craters=table,
        outlines=[crater.outline for crater in craters],
        counted=counted,
        counted_m2=_ground_area(grid, counted),
        smallest_px=smallest,
        lines=grid.lines,
        samples=grid.samples,
        crs=grid.crs,
        transform=grid.transform,
    )


def _axes(spread: Float64) -> tuple[float, float]:
    """Compute the axes of a covariance to the east and north.

    They are the ratio of the minor to the major one, and the direction of that.
    """
    values, vectors = np.linalg.eigh(spread)
    east, north = vectors[:, 1]
    return float(np.sqrt(max(values[0], 1e-12) / values[1])), float(np.degrees(np.arctan2(east, north)) % 180) % 180


def _ids(scene: str, craters: Sequence[Instance]) -> list[str]:
    """Name craters by place and size.

    So a name does not depend on the other craters.
    """
    seen: Counter[str] = Counter()
    names = []
    for crater in craters:
        name = f"{scene}_x{crater.x:.0f}_y{crater.y:.0f}_d{crater.diameter:.0f}"
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return names


def counted_area(levels: Sequence[LevelMap], craters: Sequence[Instance], smallest: float) -> MultiPolygon:
    """Trace the area in which craters from the smallest on can be seen.

    It is in pixels of the grid.

    It ends half of the smallest diameter before the border of what is good. Wide shadows do not belong to it, unless
    they lie in a crater that was seen; specks that are no larger than the smallest crater do.
    """
    import shapely
    from rasterio.features import rasterize, shapes
    from rasterio.transform import Affine

    level = next((level for level in levels if level.shape[0] * level.shape[1] <= _AREA_PIXELS), levels[-1])
    factor = level.factor
    pixels, good = level.pixels.read(0, level.shape[0])
    dark = good & (pixels.max(axis=2) <= _SHADOW)
    if dark.any():
        wide = _opened(dark, max(_SHADOW_SIDE // factor, 2))
        outlines = [shapely.polygons(crater.outline / factor) for crater in craters]
        if wide.any() and outlines:
            wide &= rasterize(outlines, level.shape, dtype="uint8") == 0
        good = good & ~wide
    good = good | _specks(~good, np.pi / 4 * (smallest / factor) ** 2)
    traced = [
        shapely.geometry.shape(part)
        for part, value in shapes(good.astype(np.uint8), good, transform=Affine.scale(factor))
        if value
    ]
    if not traced:
        return shapely.MultiPolygon()
    # The steps of pixels along a slanted border would each hold back the inner border by their corner.
    whole = shapely.simplify(shapely.union_all(traced), factor)
    full = levels[0].shape
    whole = shapely.intersection(whole, shapely.box(0, 0, full[1], full[0]))
    inner = shapely.buffer(whole, -smallest / 2, join_style="mitre")
    parts = [part for part in shapely.get_parts(inner) if part.geom_type == "Polygon" and part.area > 0]
    return shapely.MultiPolygon(parts)


def _opened(mask: Mask, side: int) -> Mask:
    """Select what squares of this side cover that lie in a mask."""
    import cv2

    square, at = np.ones((side, side), np.uint8), side // 2
    outside = cv2.BORDER_CONSTANT
    core = cv2.erode(mask.view(np.uint8), square, anchor=(at, at), borderType=outside, borderValue=0)
    at = side - 1 - at  # as each of the square's pixels sees the one that stands for it
    return np.asarray(cv2.dilate(core, square, anchor=(at, at), borderType=outside, borderValue=0) > 0)


def _specks(mask: Mask, size: float) -> Mask:
    """Select the connected parts of a mask with at most this many pixels."""
    import cv2

    _, labels, boxes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4, ltype=cv2.CV_32S)
    small = boxes[:, cv2.CC_STAT_AREA] <= size
    small[0] = False
    return np.asarray(small[labels])


def _ground_area(grid: Grid, area: MultiPolygon) -> float | None:
    return None if grid.crs is None or grid.transform is None else ground_area(area, grid.crs, grid.transform)
