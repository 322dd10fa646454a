"""Counts corrected for craters that were missed and for those that are none.

Each crater counts with the precision at its size divided by the completeness there, at its size in pixels of its scene.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from mars_assets.craters.catalogue import Catalogue
from mars_assets.craters.frequency import (
    Estimates,
    Index,
    Numbers,
    areas_of,
    bin_numbers,
    cumulative,
    largest_weights,
)
from mars_assets.craters.rates import Rate
from mars_assets.evaluation.counts import ONE_SIGMA, WeightedCounts

Float64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

Rates: TypeAlias = tuple[Rate, Rate]
"""Completeness and precision."""

_DRAWS = 4000
"""Draws of the rates: the ends of intervals are then certain to about a fortieth of a standard error."""
_SEED = 0
_PER_DOUBLING = 16
"""Groups of sizes in pixels, by which rates are taken: within one of them they hardly change."""
_BELOW, _WITHIN, _ABOVE = -1, 0, 1


class Corrected(NamedTuple):
    """Corrected numbers, and the craters that were not corrected.

    Args:
        numbers: missing for a bin with a crater outside the trials' range, and for numbers of at least a size if a
            crater among them is smaller than all trials.
        as_found: for each bin, how many craters of at least its size are larger than all trials, and so count as one.
    """

    numbers: Numbers
    as_found: Index


class _Groups(NamedTuple):
    """Craters of the same bin of sizes and of about the same size in pixels.

    Args:
        bins: their bin of sizes.
        factor: precision / completeness in each draw, shape (draws, groups).
        place: whether they are below, within or above the trials' range.
        craters: how many they are, which is 0 for those that might have been.
        density, squares: sum of 1 / area, and of its square.
        largest: largest 1 / area.
    """

    bins: Index
    factor: Float64
    place: Index
    craters: Index
    density: Float64
    squares: Float64
    largest: Float64


def corrected_numbers(catalogue: Catalogue, edges: Float64, rates: Rates) -> Corrected:
    """Correct the numbers of craters, with intervals by Monte Carlo.

    The intervals hold the craters' Poisson statistics and the rates' posteriors.

    Args:
        catalogue: the craters.
        edges: of the bins in metres.
        rates: completeness and precision.
    """
    rng = np.random.default_rng(_SEED)
    groups = _grouped(catalogue, edges, rates, rng)
    in_bin = [groups.bins == number for number in range(len(edges) - 1)]

    def are_any(which: Mask) -> Mask:
        return np.array([which[inside].any() for inside in in_bin], bool)

    def summed(values: Float64) -> Float64:
        return np.stack([values[:, inside].sum(axis=1) for inside in in_bin], axis=1)

    def weighted(total: Float64, squares: Float64, largest: Float64) -> WeightedCounts:
        greatest = groups.factor * largest
        return WeightedCounts(
            summed(groups.factor * total),
            summed(groups.factor**2 * squares),
            np.stack([greatest[:, inside].max(axis=1, initial=0) for inside in in_bin], axis=1),
        )

    def estimated(sums: WeightedCounts, missing: Mask) -> Estimates:
        values = (np.median(sums.total, axis=0), *sums.melded_interval(rng))
        return Estimates(*(np.where(missing, np.nan, value) for value in values))

    exist = groups.craters > 0
    below, above = (are_any(exist & (groups.place == place)) for place in (_BELOW, _ABOVE))
    unknown = below | above | ~are_any(groups.place == _WITHIN)
    unknown_from = np.logical_or.accumulate(below[::-1])[::-1]
    counts = groups.craters.astype(np.float64)
    by_number = weighted(counts, counts, np.ones(len(exist)))
    by_area = weighted(groups.density, groups.squares, groups.largest)
    numbers = Numbers(
        estimated(by_number, unknown),
        estimated(cumulative(by_number), unknown_from),
        estimated(by_area, unknown).times(1e6),
        estimated(cumulative(by_area), unknown_from).times(1e6),
    )
    as_they_are = np.where(groups.place == _ABOVE, groups.craters, 0)
    as_found = np.array([as_they_are[groups.bins >= number].sum() for number in range(len(in_bin))], np.intp)
    return Corrected(numbers, as_found)


def counted_craters(catalogue: Catalogue) -> pd.DataFrame:
    """Select the craters that count."""
    return catalogue.craters[catalogue.craters["counted"].astype(bool)]


def share_that_is_real(diameters_px: Float64, rates: Rates) -> Estimates | None:
    """Compute the ratio of the corrected number of craters to the number found.

    Its interval is that of the rates alone.

    Returns:
        The ratio; None if there are no craters, or one of them is smaller than all trials.
    """
    if not len(diameters_px):
        return None
    steps, craters = np.unique(_steps(diameters_px, rates), return_counts=True)
    place, factors = _factors(steps, rates, np.random.default_rng(_SEED))
    if (place == _BELOW).any():
        return None
    tail = (1 - ONE_SIGMA) / 2
    return Estimates(*np.quantile(factors @ craters / craters.sum(), [0.5, tail, 1 - tail]))


def _steps(diameters_px: Float64, rates: Rates) -> Float64:
    """Round sizes to groups, but none over an end of the trials' range."""
    rounded = 2 ** ((np.floor(np.log2(diameters_px) * _PER_DOUBLING) + 0.5) / _PER_DOUBLING)
    ends = np.unique([rate.edges[[0, -1]] for rate in rates])
    passed = np.searchsorted(ends, diameters_px) != np.searchsorted(ends, rounded)
    return np.where(passed, diameters_px, rounded)


def _factors(diameters_px: Float64, rates: Rates, rng: np.random.Generator) -> tuple[Index, Float64]:
    """Draw precision / completeness at diameters.

    Returns:
        Whether they are below, within or above the trials' range, and the ratio, shape (draws, n): 0 below the range
        and 1 above it. A bin in which no trial of completeness succeeded tells no rate, and counts as below.
    """
    numbers = [rate.number_of(diameters_px) for rate in rates]
    known = np.array([False, *(rates[0].successes > 0), True])
    below = ~known[numbers[0] + 1] | (numbers[1] < 0)
    above = np.any([number == len(rate.trials) for number, rate in zip(numbers, rates, strict=True)], axis=0)
    place = np.where(below, _BELOW, np.where(above, _ABOVE, _WITHIN))
    found, right = (rate.interpolated(rate.draws(rng, _DRAWS), diameters_px) for rate in rates)
    return place, np.where(place == _WITHIN, right / found, np.where(place == _ABOVE, 1.0, 0.0))


def _grouped(catalogue: Catalogue, edges: Float64, rates: Rates, rng: np.random.Generator) -> _Groups:
    craters = counted_craters(catalogue)
    diameters = craters["diameter_m"].to_numpy(np.float64)
    areas, number = areas_of(diameters, catalogue.area_m2), bin_numbers(diameters, edges)
    largest = largest_weights(edges, areas, number, catalogue.area_m2)
    smallest_m = np.array([scene.smallest_m for scene in catalogue.scenes])
    pixel_m = np.array([scene.pixel_m for scene in catalogue.scenes])
    # Sizes and scenes in which a crater might have been: what it would weigh bounds a number from above.
    middle = np.sqrt(edges[:-1] * edges[1:])
    bins, scenes = np.nonzero(middle[:, None] >= smallest_m)
    possible = np.zeros(len(bins))
    rows = pd.DataFrame(
        {
            "bin": np.concatenate([number, bins]),
            "px": np.concatenate([craters["diameter_px"].to_numpy(np.float64), middle[bins] / pixel_m[scenes]]),
            "craters": np.concatenate([np.ones(len(number), np.intp), possible.astype(np.intp)]),
            "density": np.concatenate([1 / areas, possible]),
            "squares": np.concatenate([1 / areas**2, possible]),
            "largest": np.concatenate([1 / areas, largest[bins]]),
        }
    )
    rows["px"] = _steps(rows["px"].to_numpy(np.float64), rates)
    groups = rows.groupby(["bin", "px"], as_index=False).agg(
        craters=("craters", "sum"), density=("density", "sum"), squares=("squares", "sum"), largest=("largest", "max")
    )
    place, factor = _factors(groups["px"].to_numpy(np.float64), rates, rng)
    return _Groups(
        groups["bin"].to_numpy(np.intp),
        factor,
        place,
        groups["craters"].to_numpy(np.intp),
        groups["density"].to_numpy(np.float64),
        groups["squares"].to_numpy(np.float64),
        groups["largest"].to_numpy(np.float64),
    )
