"""Bootstrap intervals by resampling what is independent: observations, or images where all are of one.

Pixels and craters of one image are alike, and so are images of one observation.
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
"""Maps how often each of n images is in each of R samples, shape (R, n), to named values, shape (R,)."""

_AT_ONCE = 1_000_000
"""How many counts a statistic is given at a time at most, beyond a single sample's."""


def once(n: int) -> Floats:
    """The sample that holds each of n images once, shape (1, n)."""
    return np.ones((1, n))


def ratio(part: Floats, whole: Floats) -> Floats:
    """``part / whole``, NaN where ``whole`` is 0; element by element."""
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole != 0)


def bootstrap_intervals(
    statistic: Statistic,
    n: int,
    *,
    groups: npt.NDArray[np.generic] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of several statistics, from the same resamples, so that differences between them are paired.

    Args:
        statistic: of many resamples at once. A value that a resample leaves undefined (one class only, say) is NaN and not
            counted.
        n: how many images there are.
        groups: one label an image; whole groups are then resampled (images of one observation are alike), shape (n,).
        resamples: how many draws.
        level: coverage.
        seed: of the draws.

    Returns:
        (low, high) for each name; NaN where no resample defined the value.

    Raises:
        ValueError: there are no images.

    Sources: Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapter 13. Resamples of few images or groups
    differ less than new ones would, so the percentiles are taken further out: Hesterberg, What Teachers Should Know About
    the Bootstrap (The American Statistician 69, 2015), "expanded percentile".
    """
    if not n:
        raise ValueError("no images: nothing to resample")
    rng = np.random.default_rng(seed)
    group = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    units = int(group.max()) + 1
    drawn: dict[str, list[Floats]] = {}
    together = max(_AT_ONCE // n, 1)
    for start in range(0, resamples, together):
        some = range(start, min(start + together, resamples))
        draws = [np.bincount(rng.integers(0, units, units), minlength=units) for _ in some]
        for name, values in statistic(np.stack(draws)[:, group].astype(np.float64)).items():
            drawn.setdefault(name, []).append(values)
    tail = _tail(units, level)
    intervals = {}
    for name, parts in drawn.items():
        values = np.concatenate(parts)
        finite = values[np.isfinite(values)]
        low, high = np.quantile(finite, [tail, 1 - tail]) if finite.size else (np.nan, np.nan)
        intervals[name] = (float(low), float(high))
    return intervals


def _tail(units: int, level: float) -> float:
    """The share of resamples beyond each end of an expanded percentile interval."""
    from scipy.special import ndtr, stdtrit

    if units < 2:
        return (1 - level) / 2
    return float(ndtr(math.sqrt(units / (units - 1)) * stdtrit(units - 1, (1 - level) / 2)))


def independent_units(observations: pd.Series, image_ids: pd.Series) -> tuple[npt.NDArray[np.str_] | None, str]:
    """What to resample of these images: whole observations, or images where not two observations are known.

    Returns:
        ``groups`` for :func:`bootstrap_intervals`, an image of no known observation standing for itself, and the name of
        what is resampled: ``observations`` or ``images``.
    """
    if observations.nunique() < 2:
        return None, "images"
    return observations.fillna(image_ids).astype(str).to_numpy(str), "observations"


def with_interval(row: Mapping[str, Any], name: str) -> str:
    """A score of a row as a person reads it, ``0.900 [0.850, 0.940]``; a dash where it is undefined."""
    value, low, high = (row.get(f"{name}{suffix}") for suffix in ("", "_low", "_high"))
    if value is None or math.isnan(value):
        return "–"
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return f"{value:.3f}"
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"
