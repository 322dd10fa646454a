"""All scenes as one catalogue: each crater once, and the ground of each scene.

A crater that several scenes show is found by place and size, after the shift between two scenes that overlap was
estimated from their craters. At most one crater of each scene is joined with others, so nested ones stay apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations, pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from mars_assets.code_versions import CATALOGUE
from mars_assets.craters.catalogue import Catalogue, CountedScene
from mars_assets.craters.comparison import Circles
from mars_assets.craters.formats.areas import added_shares
from mars_assets.craters.scenes import MappedScene
from mars_assets.craters.shifts import REACH, Shift, relative_shift, same_craters
from mars_assets.storage.cache import Cache
from mars_assets.storage.schema import columns_of, conformed

Float64 = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

_SIZES = 0.6
"""Largest difference of ln D among all that are one crater, so that no chain joins craters that differ."""
SHIFT_COLUMNS = ["scene", "other", "east_m", "north_m", "significant", "votes", "votes_by_chance", "same_craters"]


class Joined(NamedTuple):
    """A catalogue, and how its scenes lie to each other.

    Args:
        catalogue: of all scenes.
        shifts: a row for each two scenes that may have craters in common: where those of ``other`` lie relative to
            those of ``scene``, 0 without a significant shift; the votes for it, and how many rows have both.
    """

    catalogue: Catalogue
    shifts: pd.DataFrame


class _Pairs(NamedTuple):
    """Craters of two scenes that may be one.

    Args:
        first, second: numbers of the craters.
        differs: how much they differ.
    """

    first: Index
    second: Index
    differs: Float64


def catalogue_of(scenes: Sequence[MappedScene], cache: Cache | None = None) -> Joined:
    """Join the scenes of a lake.

    Args:
        scenes: at least one.
        cache: what was found for two scenes that are unchanged.

    Raises:
        MarsError: a crater breaks a rule of the catalogue.
    """
    scenes = sorted(scenes, key=lambda scene: (scene.ground.smallest_m, scene.ground.scene))
    names = [scene.ground.scene for scene in scenes]
    of_scene = np.repeat(np.arange(len(scenes)), [len(scene.craters) for scene in scenes])
    craters = pd.concat([scene.craters for scene in scenes], ignore_index=True)
    longitude, latitude, diameter = craters[["longitude", "latitude", "diameter_m"]].to_numpy(np.float64).T
    circles = Circles.on_sphere(longitude, latitude, diameter)
    keys = [scene.ground.key for scene in scenes]
    pairs, shifts = _compare(circles, of_scene, keys, cache or Cache(None, CATALOGUE))
    groups = _join(pairs, of_scene, np.log(diameter))
    group = np.arange(len(craters))
    for number, members in groups.items():
        group[members] = number
    best = _best(craters, group)
    rows = craters.iloc[best].reset_index(drop=True)
    rows["scene"] = np.array(names, object)[of_scene[best]]
    rows["scenes"] = rows["scene"]
    several = np.searchsorted(group[best], list(groups))
    seen_by = [sorted(of_scene[members].tolist()) for members in groups.values()]
    rows.loc[several, "scenes"] = [" ".join(sorted(names[number] for number in found)) for found in seen_by]
    shares = added_shares([scene.ground.counted for scene in scenes])
    grounds = [
        replace(scene.ground, added_m2=scene.ground.counted_m2 * float(share))
        for scene, share in zip(scenes, shares, strict=True)
    ]
    rows["counted"] = _counted(rows, grounds)
    together = Counter(pair for found in seen_by for pair in combinations(found, 2))
    table = pd.DataFrame(
        [
            (names[one], names[other], *_said(shift), together[one, other])
            for (one, other), shift in sorted(shifts.items())
        ],
        columns=SHIFT_COLUMNS,
    )
    return Joined(Catalogue(_conformed(rows), grounds), table)


def _compare(
    circles: Circles, of_scene: Index, keys: Sequence[str], cache: Cache
) -> tuple[_Pairs, dict[tuple[int, int], Shift | None]]:
    """List craters of different scenes that may be one, and scenes' shifts.

    Args:
        circles: of all scenes, in their order.
        of_scene: the scene of each.
        keys: of each scene.
        cache: what was found for two scenes.
    """
    count = len(keys)
    starts = np.searchsorted(of_scene, np.arange(count + 1))
    members = [np.arange(*ends) for ends in pairwise(starts.tolist())]
    # The boxes in space of all that may be near a crater of a scene.
    boxes = np.full((count, 2, 3), np.nan)
    for number, of in enumerate(members):
        if len(of):
            margin = REACH + circles.diameter[of].max()
            boxes[number] = circles.centres[of].min(axis=0) - margin, circles.centres[of].max(axis=0) + margin
    meet = (boxes[:, None, 0] <= boxes[None, :, 1]).all(axis=2) & (boxes[None, :, 0] <= boxes[:, None, 1]).all(axis=2)
    found = [_Pairs(np.empty(0, np.intp), np.empty(0, np.intp), np.empty(0))]
    shifts: dict[tuple[int, int], Shift | None] = {}
    for one, other in np.argwhere(np.triu(meet, 1)).tolist():
        these, those = (Circles(circles.centres[of], circles.diameter[of]) for of in (members[one], members[other]))
        box = np.maximum(boxes[one, 0], boxes[other, 0]), np.minimum(boxes[one, 1], boxes[other, 1])
        result = cache.get([keys[one], keys[other]], partial(_compared, these, those, box))
        shift = None if result["shift"] is None else Shift(**result["shift"])
        if shift is not None or result["first"]:
            shifts[one, other] = shift
            first, second = (np.array(result[name], np.intp) for name in ("first", "second"))
            found.append(_Pairs(starts[one] + first, starts[other] + second, np.array(result["differs"])))
    return _Pairs(*(np.concatenate(part) for part in zip(*found, strict=True))), shifts


def _compared(one: Circles, other: Circles, box: tuple[Float64, Float64]) -> dict[str, Any]:
    """Compare two scenes.

    The result is JSON: the numbers of the craters that may be one, how much they differ, and the shift.

    Args:
        one: craters of a scene.
        other: craters of another.
        box: corners of what both may show.
    """
    mine, theirs = (
        np.flatnonzero(((of.centres >= box[0]) & (of.centres <= box[1])).all(axis=1)) for of in (one, other)
    )
    these = Circles(one.centres[mine], one.diameter[mine])
    those = Circles(other.centres[theirs], other.diameter[theirs])
    shift = relative_shift(these, those)
    if shift is not None:
        those = Circles(those.centres - shift.vector, those.diameter)
    first, second, differs = same_craters(these, those)
    return {
        "first": mine[first].tolist(),
        "second": theirs[second].tolist(),
        "differs": differs.tolist(),
        "shift": None if shift is None else {**shift._asdict(), "vector": shift.vector.tolist()},
    }


def _join(pairs: _Pairs, of_scene: Index, size: Float64) -> dict[int, list[int]]:
    """Join pairs to groups, those that differ least first.

    A group has at most one crater of each scene.

    Args:
        pairs: of craters of different scenes.
        of_scene: the scene of each crater.
        size: ln D of each crater.

    Returns:
        The craters of each group of several, by one of its craters.
    """
    group: dict[int, int] = {}
    members: dict[int, list[int]] = {}
    order = np.lexsort((pairs.second, pairs.first, pairs.differs))
    for one, other in zip(pairs.first[order].tolist(), pairs.second[order].tolist(), strict=True):
        mine, theirs = group.get(one, one), group.get(other, other)
        if mine == theirs:
            continue
        both = members.get(mine, [one]) + members.get(theirs, [other])
        sizes = size[both]
        if len(set(of_scene[both].tolist())) < len(both) or sizes.max() - sizes.min() >= _SIZES:
            continue
        members.pop(theirs, None)
        members[mine] = both
        group |= dict.fromkeys(both, mine)
    return members


def _best(craters: pd.DataFrame, group: Index) -> Index:
    """Find the crater of each group that is seen best, in the groups' order."""
    order = np.lexsort(
        (
            -craters["probability"].fillna(-1).to_numpy(np.float64),
            -craters["diameter_px"].to_numpy(np.float64),
            craters["cut"].to_numpy(bool),
            group,
        )
    )
    _, first = np.unique(group[order], return_index=True)
    return np.asarray(order[first])


def _counted(craters: pd.DataFrame, grounds: Sequence[CountedScene]) -> npt.NDArray[np.bool_]:
    """Test which craters are counted in a scene that lists all of their size."""
    import shapely

    x, y, diameter = craters[["longitude", "latitude", "diameter_m"]].to_numpy(np.float64).T
    counted = np.zeros(len(craters), bool)
    for ground in grounds:
        west, south, east, north = ground.counted.bounds
        near = ~counted & (x >= west) & (x <= east) & (y >= south) & (y <= north) & (diameter >= ground.smallest_m)
        shapely.prepare(ground.counted)
        counted[near] = shapely.intersects_xy(ground.counted, x[near], y[near])
    return counted


def _said(shift: Shift | None) -> tuple[float, float, bool, int, float]:
    return (0.0, 0.0, False, 0, 0.0) if shift is None else (shift.east, shift.north, True, shift.votes, shift.expected)


def _conformed(rows: pd.DataFrame) -> pd.DataFrame:
    from mars_assets.craters.schema import CataloguedCraters

    rows = rows.sort_values(["diameter_m", "crater_id"], ascending=[False, True], ignore_index=True)
    return conformed(rows[list(columns_of(CataloguedCraters))], CataloguedCraters, "the catalogue of all scenes")
