"""Bootstrap intervals over independent units.

These are observations, or images if all come from one observation. Pixels and craters of one image resemble each other,
and so do images of one observation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

Floats = npt.NDArray[np.float64]
Statistic = Callable[[Floats], Mapping[str, Floats]]
"""A function from the counts of n images in R samples, shape (R, n), to named values, shape (R,)."""


def once(n: int) -> Floats:
    """Build the sample that contains each of n images once, shape (1, n)."""
    return np.ones((1, n))


def ratio(part: Floats, whole: Floats) -> Floats:
    """Divide elementwise; NaN where ``whole`` is 0."""
    part, whole = np.broadcast_arrays(part, whole)
    return np.asarray(np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole != 0))


def bootstrap_intervals(
    statistic: Statistic,
    groups: npt.NDArray[np.generic],
    *,
    resamples: int = 1000,
    seed: int = 0,
    at_once: int = 1_000_000,
) -> dict[str, tuple[float, float]]:
    """Compute 95 % percentile intervals of several statistics.

    All come from the same resamples, so that differences between them are paired.

    Args:
        statistic: evaluated for many resamples at once. A value that a resample leaves undefined (with a single class,
            for example) is NaN and ignored.
        groups: shape (n,), the group of each image. Whole groups are resampled, since images of one observation
            resemble each other.
        resamples: number of draws.
        seed: seed of the draws.
        at_once: approximate number of counts passed to ``statistic`` at a time; it only limits memory.

    Returns:
        (low, high) for each name; NaN if no resample defined the value.

    Raises:
        ValueError: there are no images.

    Sources: Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapter 13. Resamples of few images or groups
    vary less than new samples would, so the percentiles are expanded: Hesterberg, What Teachers Should Know About the
    Bootstrap (The American Statistician 69, 2015), "expanded percentile".
    """
    if not len(groups):
        raise ValueError("no images: nothing to resample")
    rng = np.random.default_rng(seed)
    group = np.unique(groups, return_inverse=True)[1]
    units = int(group.max()) + 1
    drawn: dict[str, list[Floats]] = {}
    together = max(at_once // len(groups), 1)
    for start in range(0, resamples, together):
        some = range(start, min(start + together, resamples))
        draws = [np.bincount(rng.integers(0, units, units), minlength=units) for _ in some]
        for name, values in statistic(np.stack(draws)[:, group].astype(np.float64)).items():
            drawn.setdefault(name, []).append(values)
    tail = _tail(units)
    intervals = {}
    for name, parts in drawn.items():
        values = np.concatenate(parts)
        finite = values[np.isfinite(values)]
        low, high = np.quantile(finite, [tail, 1 - tail]) if finite.size else (np.nan, np.nan)
        intervals[name] = (float(low), float(high))
    return intervals


def _tail(units: int) -> float:
    """Compute the share of resamples beyond each end of an interval.

    The interval is an expanded 95 % percentile interval.
    """
    from scipy.special import ndtr, stdtrit

    if units < 2:
        return 0.025
    return float(ndtr(math.sqrt(units / (units - 1)) * stdtrit(units - 1, 0.025)))


def independent_units(observations: pd.Series, image_ids: pd.Series) -> tuple[npt.NDArray[np.generic], str]:
    """Choose the units to resample.

    They are observations, or images if fewer than two are known.

    Returns:
        ``groups`` for :func:`bootstrap_intervals`, in which an image without a known observation is its own group, and
        the name of the units: ``observations`` or ``images``.
    """
    if observations.nunique() < 2:
        return np.arange(len(observations)), "images"
    return observations.fillna(image_ids).astype(str).to_numpy(str), "observations"


def estimates(statistic: Statistic, images: pd.DataFrame, resamples: int = 1000) -> tuple[dict[str, float | None], str]:
    """Compute statistics of images with their 95 % intervals.

    Args:
        statistic: see :func:`bootstrap_intervals`.
        images: ``image_id, observation`` of each.
        resamples: number of draws.

    Returns:
        Each value by its name, followed by ``NAME_low`` and ``NAME_high``, None where undefined; and the name of the
        units that were resampled, see :func:`independent_units`.
    """
    groups, resampled = independent_units(images["observation"], images["image_id"])
    intervals = bootstrap_intervals(statistic, groups, resamples=resamples)
    values: dict[str, float | None] = {}
    for name, (value,) in statistic(once(len(images))).items():
        for suffix, number in zip(("", "_low", "_high"), (value, *intervals[name]), strict=True):
            values[name + suffix] = None if math.isnan(number) else float(number)
    return values, resampled


def undefined(values: Mapping[str, float | None]) -> list[str]:
    """Name the values of :func:`estimates` that are undefined."""
    return [name for name, value in values.items() if value is None and not name.endswith(("_low", "_high"))]


def with_interval(row: Mapping[Any, Any], name: str) -> str:
    """Format a score in a row as ``0.900 [0.850, 0.940]``; a dash if it is undefined."""
    value, low, high = (row.get(f"{name}{suffix}") for suffix in ("", "_low", "_high"))
    if value is None or math.isnan(value):
        return "–"
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return f"{value:.3f}"
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"
