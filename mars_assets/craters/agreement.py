"""The agreement of a list of craters with somebody else's.

Matches, scores with intervals, biases, and reliability.

Craters are matched one to one by the overlap of their circles, whatever their size and wherever they are. Then those
count that both lists would have to have: whose place both looked at, and which are at least as large as both list
everywhere. The true crater decides that where there is one, so that a crater next to a limit is neither missed nor
false.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mars_assets.craters.catalogues.crater_list import GROUND, PIXELS, CraterList
from mars_assets.craters.comparison import LEAST_IOU, Circles, match_circles
from mars_assets.craters.crater_map import IAU_RADIUS
from mars_assets.craters.geometry import IOU_THRESHOLD
from mars_assets.errors import MarsError
from mars_assets.evaluation.statistics import bootstrap_intervals, ratio

Float64 = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]

FOUND, MISSED, FALSE = "found", "missed", "false"
SEED, RESAMPLES = 0, 1000
"""Of the bootstrap."""
BAND = 30
"""Height of a band of latitudes in degrees."""
BINS = 10
"""Number of bins of probability."""
_BLOCKS = 32
"""Number of blocks of ground that are resampled, if there are at least twice as many craters."""
_FEWEST_IMAGES = 5
"""Number of images from which on whole images are resampled."""
_THRESHOLDS = 1000
"""Number of probabilities between which the resamples of average precision do not distinguish."""


@dataclass(frozen=True)
class Agreement:
    """How far a list agrees with a true one.

    Args:
        ours: name of the list.
        theirs: name of the true one.
        unit: m on the ground, or px.
        smallest: diameter from which craters count, in that unit.
        resampled: what the bootstrap draws: images, blocks of ground or craters.
        rows: scores by group, see :func:`scores`.
        matches: a row for each crater that counts.
        notes: what a reader should know.
    """

    ours: str
    theirs: str
    unit: str
    smallest: float
    resampled: str
    rows: pd.DataFrame
    matches: pd.DataFrame
    notes: Sequence[str]

    def row(self, group: str, value: str = "") -> dict[str, Any]:
        """Return the scores of a group, empty if it has none."""
        found = self.rows[(self.rows["group"] == group) & (self.rows["value"] == value)].to_dict("records")
        return {str(name): number for name, number in found[0].items()} if found else {}


def compare_lists(ours: CraterList, theirs: CraterList) -> Agreement:
    """Compare a list with a true one.

    Raises:
        MarsError: one has places on the ground and the other in pixels, or images that cannot be told apart.
    """
    on_ground = ours.has_ground and theirs.has_ground
    if not on_ground and not (ours.has_pixels and theirs.has_pixels):
        one, other = ("on the ground" if one.has_ground else "in pixels" for one in (ours, theirs))
        raise MarsError(
            f"{ours.name} has places and sizes {one} and {theirs.name} {other}: compare files that both have the one "
            "or the other"
        )
    ours, truth = _on_the_same_images(ours, theirs, on_ground)
    matches = match_lists(ours, truth, on_ground)
    units, resampled = _units(matches)
    rows = [scores(matches, units, {"group": "all", "value": "", "iou": IOU_THRESHOLD})]
    looser = match_lists(ours, truth, on_ground, LEAST_IOU)
    rows.append(scores(looser, _units(looser)[0], {"group": "all", "value": "looser", "iou": LEAST_IOU}))
    for group, values in _groups(matches, on_ground, truth.craters):
        for value in pd.unique(values.dropna().sort_values()):
            some = (values == value).to_numpy(bool)
            name = f"{value:.6g}" if isinstance(value, float) else str(value)
            about = {"group": group, "value": name, "iou": IOU_THRESHOLD}
            rows.append(scores(matches[some], units[some], about, said_known=group != "terrain" or _has_terrain(ours)))
    rows += _reliability(matches)
    if theirs.reference:
        rows += _annotators(ours, theirs, on_ground)
    smallest = max(
        min(one.smallest_m if on_ground else one.smallest_px for one in side.counted) for side in (ours, theirs)
    )
    return Agreement(
        ours.name,
        theirs.name,
        "m" if on_ground else "px",
        float(smallest),
        resampled,
        pd.DataFrame(rows).astype(dict.fromkeys(("ours", "theirs", "found"), "Int64")),
        matches,
        [*ours.notes, *theirs.notes, *_doubts(ours, theirs, on_ground, matches)],
    )


def match_lists(ours: CraterList, theirs: CraterList, on_ground: bool, least: float = IOU_THRESHOLD) -> pd.DataFrame:
    """Match two lists, image by image, and keep the craters that count.

    Returns:
        A row for each crater: ``kind`` (found, missed or false), ``ours`` and ``theirs`` (where it stands in both
        files), place and diameter (the true ones where there is a true crater), ``ln_d``, ``east`` and ``north`` (ours
        less theirs, in metres or in pixels to the right and up), ``off`` (distance in true diameters), ``probability``
        and ``score`` (by which it is ranked) of ours, ``terrain``, ``image``.
    """
    said, true = (side.craters.reset_index(drop=True) for side in (ours, theirs))
    names = GROUND if on_ground else PIXELS
    score = next((name for name in ("probability", "confidence") if said[name].notna().all()), "probability")
    one, other = _matched(said, true, on_ground, least)
    both, has_theirs = (one >= 0) & (other >= 0), other >= 0
    judged = pd.concat([true, said], ignore_index=True).iloc[np.where(has_theirs, other, len(true) + one)]
    mine = {name: np.append(said[name].to_numpy(np.float64), np.nan)[one] for name in (*names, "probability", score)}
    places, diameter = judged[list(names[:2])].to_numpy(np.float64), judged[names[2]].to_numpy(np.float64)
    counts = ours.covers(places, diameter, on_ground) & theirs.covers(places, diameter, on_ground)
    east, north = _offsets(np.column_stack([mine[name] for name in names[:2]]), places, on_ground)
    of_pairs = {
        "ln_d": np.log(mine[names[2]] / diameter),
        "east": east,
        "north": north,
        "off": np.hypot(east, north) / diameter,
    }
    table = pd.DataFrame(
        {
            "kind": np.select([both, has_theirs], [FOUND, MISSED], FALSE),
            "ours": _rows(said, one),
            "theirs": _rows(true, other),
            **judged[list(names)].reset_index(drop=True),
            **{name: np.where(both, values, np.nan) for name, values in of_pairs.items()},
            "probability": mine["probability"],
            "score": mine[score],
            **judged[["terrain", "image"]].reset_index(drop=True),
        }
    )
    return table[counts].reset_index(drop=True)


def _rows(table: pd.DataFrame, number: Index) -> pd.Series:
    """Look up where craters stand in their file; missing where there is none."""
    return pd.Series(table["row"].reindex(number).to_numpy(np.float64)).astype("Int64")


def _matched(said: pd.DataFrame, true: pd.DataFrame, on_ground: bool, least: float) -> tuple[Index, Index]:
    """Match craters, image by image.

    Returns:
        The rows of both that are one crater; -1 in place of one that is missing.
    """
    ours, theirs = [], []
    for image in [None] if on_ground else sorted({*said["image"], *true["image"]}):
        here, there = (
            np.arange(len(table)) if image is None else np.flatnonzero(table["image"] == image)
            for table in (said, true)
        )
        first, second = match_circles(
            _circles(said.iloc[here], on_ground), _circles(true.iloc[there], on_ground), least
        )
        missed, false = np.setdiff1d(there, there[second]), np.setdiff1d(here, here[first])
        ours += [here[first], np.full(len(missed), -1), false]
        theirs += [there[second], missed, np.full(len(false), -1)]
    return np.concatenate(ours), np.concatenate(theirs)


def scores(matches: pd.DataFrame, units: Index, about: Mapping[str, Any], *, said_known: bool = True) -> dict[str, Any]:
    """Compute the scores of some craters, with 95 % intervals.

    Those of precision and recall are Wilson's. The others are bootstraps over ``units``.

    Args:
        matches: from :func:`match_lists`.
        units: shape (n,), which of the resampled units each crater is in.
        about: what they are, which the row begins with.
        said_known: whether the group of false craters is known, without which there is no precision.

    Returns:
        ``about``; ``ours``, ``theirs`` and ``found``, the numbers of craters; ``precision``, ``recall``, ``f1`` and
        ``average_precision``; ``ln_d`` and ``ln_d_sd``, mean and standard deviation of ln(D / true D); ``east``,
        ``north``, ``east_sd`` and ``north_sd`` of the centres; ``off``, the median distance of centres in true
        diameters; ``brier``, the mean squared error of probabilities. All but the counts and ``off`` with ``NAME_low``
        and ``NAME_high``; NaN where undefined.
    """
    kind = matches["kind"].to_numpy()
    found, missed, false = (kind == name for name in (FOUND, MISSED, FALSE))
    said, true = int(found.sum() + false.sum()), int(found.sum() + missed.sum())
    if not said_known:
        said = 0
    values: dict[str, Any] = {**about, "ours": said, "theirs": true, "found": int(found.sum())}
    for name, whole in (("precision", said), ("recall", true)):
        part = int(found.sum()) if whole else 0
        low, high = wilson(part, whole)
        values |= {name: part / whole if whole else np.nan, f"{name}_low": low, f"{name}_high": high}
    statistic = _Statistic(matches, units, said_known=said_known)
    intervals = (
        bootstrap_intervals(statistic, np.arange(statistic.units), resamples=RESAMPLES, seed=SEED)
        if statistic.units > 1
        else {}
    )
    for name, (value,) in statistic(np.ones((1, statistic.units)), exact=True).items():
        low, high = intervals.get(name, (np.nan, np.nan))
        values |= {name: float(value), f"{name}_low": low, f"{name}_high": high}
    off = matches["off"].to_numpy(np.float64)[found]
    return values | {"off": float(np.median(off)) if len(off) else np.nan}


class _Statistic:
    """Computes the scores of many resamples at once, from sums over units."""

    def __init__(self, matches: pd.DataFrame, units: Index, *, said_known: bool) -> None:
        found, missed, false = (matches["kind"].to_numpy() == name for name in (FOUND, MISSED, FALSE))
        number = np.unique(units, return_inverse=True)[1]
        self.units = int(number.max(initial=-1)) + 1
        self._said_known = said_known
        ln_d, east, north, probability, score = (
            matches[name].to_numpy(np.float64) for name in ("ln_d", "east", "north", "probability", "score")
        )
        said = found | false
        squares = np.where(said, (probability - found) ** 2, np.nan)
        columns = [found, missed, false, *(np.where(found, v, 0) for v in (ln_d, east, north))]
        columns += [np.where(found, v**2, 0) for v in (ln_d, east, north)]
        self._sums = np.stack([np.bincount(number, column, self.units) for column in columns], axis=1)
        self._calibrated = bool(said.any() and np.isfinite(probability[said]).all())
        self._squares = np.bincount(number, np.where(said, squares, 0), self.units) if self._calibrated else None
        self._ranked = bool(said_known and said.any() and np.isfinite(score[said]).all())
        if self._ranked:
            self._place = (number[said], found[said], score[said])

    def __call__(self, weights: Float64, exact: bool = False) -> dict[str, Float64]:
        """Compute all scores; ``exact`` is for one sample of each unit once."""
        found, missed, false, *moments = (weights @ self._sums).T
        values = {"f1": ratio(2 * found, 2 * found + missed + false)} if self._said_known else {"f1": found * np.nan}
        values["average_precision"] = self._average_precision(weights, found + missed, exact)
        for name, first, second in zip(("ln_d", "east", "north"), moments[:3], moments[3:], strict=True):
            mean = ratio(first, found)
            values[name] = mean
            variance = ratio(second - found * mean**2, found - 1)
            values[f"{name}_sd"] = np.sqrt(np.maximum(np.where(found > 1, variance, np.nan), 0))
        said = found + false
        values["brier"] = said * np.nan if self._squares is None else ratio(weights @ self._squares, said)
        return values

    def _average_precision(self, weights: Float64, true: Float64, exact: bool) -> Float64:
        if not self._ranked:
            return np.full(len(weights), np.nan)
        number, right, score = self._place
        levels, rank = np.unique(-score, return_inverse=True)
        if not exact and len(levels) > _THRESHOLDS:
            rank = rank * _THRESHOLDS // len(levels)
        count = int(rank.max()) + 1
        # For each unit and threshold the number of true and of false ones.
        shape = (1 if exact else self.units, count)
        flat = rank if exact else number * count + rank
        hits, wrong = (
            (weights[:, :1] if exact else weights) @ np.bincount(flat, of, shape[0] * count).reshape(shape)
            for of in (right.astype(np.float64), (~right).astype(np.float64))
        )
        return average_precision(hits, wrong, true)


def average_precision(found: Float64, false: Float64, true: Float64) -> Float64:
    """Compute the area under the curve of precision and recall.

    It is interpolated at all points. The precision at a recall is the highest at that or any higher recall.

    Args:
        found: shape (..., n), true craters that are found at each of n thresholds, the highest first.
        false: likewise, the false ones.
        true: shape (...), the number of true craters.

    Source: Everingham et al., The Pascal Visual Object Classes Challenge (International Journal of Computer Vision
    88, 2010), with all points as from 2010 on.
    """
    hits = np.cumsum(found, axis=-1)
    precision = np.nan_to_num(ratio(hits, hits + np.cumsum(false, axis=-1)))
    highest = np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]
    return ratio((highest * found).sum(axis=-1), true)


def wilson(part: int, whole: int) -> tuple[float, float]:
    """Compute Wilson's 95 % interval of a share; NaN of nothing."""
    from scipy.stats import binomtest

    if not whole:
        return np.nan, np.nan
    low, high = binomtest(part, whole).proportion_ci(method="wilson")
    return float(low), float(high)


def _on_the_same_images(ours: CraterList, theirs: CraterList, on_ground: bool) -> tuple[CraterList, CraterList]:
    """Choose the true craters, and see to it that both lists name images alike.

    Raises:
        MarsError: the true ones are in the pixels of several images, and ours do not name theirs.
    """
    truth = _of(theirs, theirs.reference)
    ours = _of(ours, ours.reference)
    if on_ground:
        return ours, truth
    images, own = sorted(set(truth.craters["image"])), sorted(set(ours.craters["image"]))
    if own == [""] and len(images) == 1:
        return replace(ours, craters=ours.craters.assign(image=images[0])), truth
    if images == [""] and len(own) == 1:
        return ours, replace(truth, craters=truth.craters.assign(image=own[0]))
    common = [name for name in images if name in own]
    if not common:
        raise MarsError(
            f"{theirs.name} has craters in the pixels of {', '.join(images) or 'one image'}, and {ours.name} of "
            f"{', '.join(filter(None, own)) or 'one image'}: write image: and the one to compare into the YAML file "
            f"beside {theirs.name}"
        )
    return _in_images(ours, common), _in_images(truth, common)


def _of(one: CraterList, annotator: str) -> CraterList:
    return replace(one, craters=one.craters[one.craters["annotator"] == annotator]) if annotator else one


def _in_images(one: CraterList, images: Sequence[str]) -> CraterList:
    return replace(one, craters=one.craters[one.craters["image"].isin(images)])


def _circles(table: pd.DataFrame, on_ground: bool) -> Circles:
    x, y, diameter = (table[name].to_numpy(np.float64) for name in (GROUND if on_ground else PIXELS))
    return Circles.on_sphere(x, y, diameter) if on_ground else Circles.in_plane(x, y, diameter)


def _offsets(mine: Float64, true: Float64, on_ground: bool) -> tuple[Float64, Float64]:
    """Compute how far places lie from true ones.

    In metres east and north, or in pixels right and up.
    """
    if not on_ground:
        return mine[:, 0] - true[:, 0], true[:, 1] - mine[:, 1]
    here, there = (
        Circles.on_sphere(places[:, 0], places[:, 1], np.ones(len(places))).centres for places in (mine, true)
    )
    east, north = np.radians(true).T
    step = here - there
    to_east = np.column_stack([-np.sin(east), np.cos(east), np.zeros(len(east))])
    to_north = np.column_stack([-np.sin(north) * np.cos(east), -np.sin(north) * np.sin(east), np.cos(north)])
    return (step * to_east).sum(axis=1), (step * to_north).sum(axis=1)


def _units(matches: pd.DataFrame) -> tuple[Index, str]:
    """Choose what the bootstrap resamples.

    Craters of one image, and craters near each other, are found or missed together.
    """
    image = np.unique(matches["image"].astype(str), return_inverse=True)[1]
    if len(np.unique(image)) >= _FEWEST_IMAGES:
        return image, "images"
    if len(matches) < 2 * _BLOCKS:
        return np.arange(len(matches)), "craters"
    if "longitude" in matches:
        places = Circles.on_sphere(*matches[list(GROUND)].to_numpy(np.float64).T).centres / IAU_RADIUS
    else:
        places = matches[["x_px", "y_px"]].to_numpy(np.float64)
        places = np.column_stack([places, image * 4 * np.ptp(places)])  # images lie apart
    number = np.zeros(len(matches), np.intp)
    for _ in range(int(np.log2(_BLOCKS))):
        upper = np.zeros(len(matches), bool)
        for block in range(int(number.max()) + 1):
            members = np.flatnonzero(number == block)
            widest = places[members, np.argmax(np.ptp(places[members], axis=0))]
            upper[members[np.argsort(widest, kind="stable")[len(members) // 2 :]]] = True
        number = 2 * number + upper
    return number, "blocks of ground"


def _groups(matches: pd.DataFrame, on_ground: bool, truth: pd.DataFrame) -> Iterator[tuple[str, pd.Series]]:
    """Yield groupings of craters: the bound or name of each crater's group."""
    sizes = matches["diameter_m" if on_ground else "diameter_px"]
    one = 1000.0 if on_ground else 1.0
    yield "diameter", one * 2 ** (np.floor(2 * np.log2(sizes / one)) / 2)
    if on_ground:
        yield "latitude", (matches["latitude"].clip(-90, 90 - 1e-9) // BAND * BAND).astype(int)
    if (truth["terrain"] != "").any():
        yield "terrain", matches["terrain"].where(matches["terrain"] != "")
    if matches["image"].nunique() > 1:
        yield "image", matches["image"]


def _has_terrain(ours: CraterList) -> bool:
    return bool((ours.craters["terrain"] != "").any())


def _reliability(matches: pd.DataFrame) -> list[dict[str, Any]]:
    """Compare probabilities with the share of craters that are true, in bins."""
    said = matches[matches["kind"] != MISSED]
    probability = said["probability"].to_numpy(np.float64)
    if not len(said) or np.isnan(probability).any():
        return []
    bins = np.minimum((probability * BINS).astype(int), BINS - 1)
    rows = []
    for number in np.unique(bins).tolist():
        some = bins == number
        right, count = int((said["kind"].to_numpy()[some] == FOUND).sum()), int(some.sum())
        low, high = wilson(right, count)
        rows.append(
            {
                "group": "probability",
                "value": f"{number / BINS:g}",
                "iou": IOU_THRESHOLD,
                "ours": count,
                "found": right,
                "precision": right / count,
                "precision_low": low,
                "precision_high": high,
                "probability": float(probability[some].mean()),
            }
        )
    return rows


def _annotators(ours: CraterList, theirs: CraterList, on_ground: bool) -> list[dict[str, Any]]:
    """Judge people, and ours, by the reference and by each of the people."""
    rows = []
    for image in sorted(set(theirs.craters["image"])) if not on_ground else [""]:
        here = _in_images(theirs, [image]) if image else theirs
        mine = _in_images(ours, [image]) if image else ours
        people = [name for name in sorted(set(here.craters["annotator"])) if name != theirs.reference]
        lists = [(name, _of(here, name)) for name in people]
        for against in (theirs.reference, *people):
            for name, said in [("", mine), *lists]:
                if name == against or said.craters.empty:
                    continue
                matches = match_lists(said, _of(here, against), on_ground)
                about = {"group": "annotator", "value": name or ours.name, "iou": IOU_THRESHOLD}
                rows.append(scores(matches, _units(matches)[0], about | {"against": against, "image": image}))
    return rows


def _doubts(ours: CraterList, theirs: CraterList, on_ground: bool, matches: pd.DataFrame) -> Iterator[str]:
    """Say what the comparison takes for granted."""
    for one, other in ((ours, theirs), (theirs, ours)):
        if not one.states_size:
            yield (
                f"{one.name} does not say from which size on it is complete: that of its smallest crater is taken. If "
                "that is wrong, state smallest_m beside it"
            )
        if not one.states_area:
            yield (
                f"{one.name} does not say where craters were looked for: it is taken to have looked wherever "
                f"{other.name} did"
            )
    if not on_ground and any(one.area is not None and not one.area.is_in_pixels for one in theirs.counted):
        yield f"the area of {theirs.name} is not in pixels and is not used"
    if matches.empty:
        yield "no crater of either list is in what both counted: look at places, sizes and units"
