"""Bootstrap intervals by resampling images, the unit that is independent (pixels and craters of one image are not)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.intp]
Statistic = Callable[[Indices], Mapping[str, float]]


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
        statistic: maps image indices, shape (n,), to named values. A value that a resample leaves undefined (one class
            only, say) is NaN and not counted.
        n: how many images there are.
        groups: one label an image; whole groups are then resampled (images of one observation are alike), shape (n,).
        resamples: how many draws.
        level: coverage.
        seed: of the draws.

    Returns:
        (low, high) for each name; NaN where no resample defined the value.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    rng = np.random.default_rng(seed)
    members = None
    if groups is not None:
        _, inverse = np.unique(groups, return_inverse=True)
        members = [np.flatnonzero(inverse == group) for group in range(inverse.max() + 1)]
    drawn: dict[str, list[float]] = {}
    for _ in range(resamples):
        if members is None:
            indices = rng.integers(0, n, n)
        else:
            indices = np.concatenate([members[group] for group in rng.integers(0, len(members), len(members))])
        for name, value in statistic(indices).items():
            drawn.setdefault(name, []).append(value)
    tail = (1 - level) / 2
    intervals = {}
    for name, values in drawn.items():
        finite = np.asarray(values, np.float64)
        finite = finite[np.isfinite(finite)]
        low, high = np.quantile(finite, [tail, 1 - tail]) if finite.size else (np.nan, np.nan)
        intervals[name] = (float(low), float(high))
    return intervals
