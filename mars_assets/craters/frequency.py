"""Numbers and densities of craters by size, with their intervals.

Sizes are bins from d to sqrt(2) d with a border at 1 km. Where the area on which craters are listed depends on their
size, a density is the sum of 1 / area over the craters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from mars_assets.errors import MarsError
from mars_assets.evaluation.counts import WeightedCounts

Float64 = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

Area: TypeAlias = Callable[[npt.ArrayLike], Float64]
"""Area in square metres on which craters of diameters in metres are listed. It never falls with the diameter."""


class Estimates(NamedTuple):
    """Values with their 68 % intervals."""

    value: Float64
    low: Float64
    high: Float64

    def times(self, factor: npt.ArrayLike) -> Estimates:
        """Multiply values and intervals."""
        return Estimates(*(np.asarray(part * np.asarray(factor)) for part in self))


class Numbers(NamedTuple):
    """What is estimated for each bin.

    Args:
        number: craters in the bin.
        at_least: craters of at least its smallest diameter.
        number_per_km2, at_least_per_km2: the same by area.
    """

    number: Estimates
    at_least: Estimates
    number_per_km2: Estimates
    at_least_per_km2: Estimates


def bin_edges(diameters: Float64, one: float) -> Float64:
    """Compute the borders of bins from d to sqrt(2) d that contain all diameters.

    Args:
        diameters: above 0.
        one: a diameter at which there is a border.

    Returns:
        Ascending; a single one if there are no diameters.
    """
    if not len(diameters):
        return np.array([one])
    steps = np.floor(2 * np.log2(diameters / one))
    edges = one * 2 ** (np.arange(steps.min() - 1, steps.max() + 3) / 2)
    number = bin_numbers(diameters, edges)  # a diameter on a border may have got the wrong step by its last digit
    return np.asarray(edges[number.min() : number.max() + 2])


def bin_numbers(diameters: Float64, edges: Float64) -> Index:
    """Find the bin of each diameter; a bin contains its smaller border."""
    return np.asarray(np.searchsorted(edges, diameters, side="right") - 1)


def relative(start: npt.ArrayLike, end: npt.ArrayLike) -> Float64:
    """Compute what a bin's density is multiplied by in an R plot.

    That is d^3 over the bin's width, where d is the geometric mean of its ends. Densities are by the square of the
    diameters' unit.

    Source: Crater Analysis Techniques Working Group, Standard Techniques for Presentation and Analysis of Crater
    Size-Frequency Data (Icarus 37, 1979).
    """
    start, end = np.asarray(start, np.float64), np.asarray(end, np.float64)
    return np.asarray((start * end) ** 1.5 / (end - start))


def areas_of(diameters_m: Float64, area_m2: Area) -> Float64:
    """Compute the area for each crater.

    Raises:
        MarsError: there is none for some.
    """
    areas = area_m2(diameters_m)
    if (areas <= 0).any():
        raise MarsError(
            f"a crater of {diameters_m[areas <= 0].min():g} m was counted, but no scene lists craters of that size on "
            "any area: materialize 'crater_catalogue' again"
        )
    return areas


def largest_weights(edges: Float64, areas: Float64, number: Index, area_m2: Area) -> Float64:
    """Compute the largest 1 / area that a crater in each bin can have.

    A partial bin begins where a scene lists the first craters, which only its own craters tell.
    """
    start = area_m2(edges[:-1])
    for bin_number in np.flatnonzero(start <= 0).tolist():
        start[bin_number] = areas[number == bin_number].min(initial=area_m2(edges[bin_number + 1]))
    return 1 / start


def raw_numbers(diameters_m: Float64, edges: Float64, area_m2: Area) -> Numbers:
    """Count craters, with exact Poisson intervals of the numbers.

    Where the area depends on the size, intervals of densities are those of weighted Poisson counts
    (:meth:`mars_assets.evaluation.counts.WeightedCounts.interval`).
    """
    number, bins = bin_numbers(diameters_m, edges), len(edges) - 1
    areas = areas_of(diameters_m, area_m2)
    # The number, and the sums of 1 / area and of its square.
    counts, density, squares = (
        np.asarray(np.bincount(number, areas ** -float(power), bins), np.float64) for power in range(3)
    )
    by_number = WeightedCounts(counts, counts, np.ones(bins))
    by_area = WeightedCounts(density, squares, largest_weights(edges, areas, number, area_m2))
    of_number, of_at_least, of_density, of_densities = (
        Estimates(sums.total, *sums.interval())
        for sums in (by_number, cumulative(by_number), by_area, cumulative(by_area))
    )
    return Numbers(of_number, of_at_least, of_density.times(1e6), of_densities.times(1e6))


def cumulative(sums: WeightedCounts) -> WeightedCounts:
    """Add up the bins from each one to the largest, along the last axis."""
    total, squares = (part[..., ::-1].cumsum(axis=-1)[..., ::-1] for part in sums[:2])
    return WeightedCounts(total, squares, np.maximum.accumulate(sums.largest[..., ::-1], axis=-1)[..., ::-1])


def frequency_table(diameters_m: Float64, edges: Float64, area_m2: Area, numbers: Numbers) -> pd.DataFrame:
    """List numbers and the usual densities of each bin.

    Args:
        diameters_m: of all craters that were counted.
        edges: of the bins in metres.
        area_m2: on which they were counted.
        numbers: of these craters, as counted or corrected.

    Returns:
        The columns of :class:`mars_assets.craters.schema.SizeFrequency` without ``counts`` and ``as_found``.
    """
    craters = np.bincount(bin_numbers(diameters_m, edges), minlength=len(edges) - 1)
    start, end = edges[:-1] / 1000, edges[1:] / 1000
    density = numbers.number_per_km2
    estimates = {
        "number": numbers.number,
        "at_least": numbers.at_least,
        "at_least_per_km2": numbers.at_least_per_km2,
        "per_km2": density,
        "per_km2_km": density.times(1 / (end - start)),
        "r": density.times(relative(start, end)),
    }
    return pd.DataFrame(
        {
            "diameter_from_m": edges[:-1],
            "diameter_to_m": edges[1:],
            "partial": area_m2(edges[:-1]) <= 0,
            "area_km2": area_m2(edges[1:]) / 1e6,
            "craters": craters,
            "sqrt_n": np.sqrt(craters),
        }
        | {
            f"{name}{suffix}": part
            for name, estimate in estimates.items()
            for suffix, part in zip(("", "_low", "_high"), estimate, strict=True)
        }
    )
