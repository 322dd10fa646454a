"""Size classes of craters."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

SIZE_CLASSES = ("<16", "16-32", "32-64", ">=64")
"""Classes of crater diameters in pixels; each includes its lower bound."""
_BOUNDS = (16.0, 32.0, 64.0)


def size_class(diameters: npt.ArrayLike) -> npt.NDArray[np.intp]:
    """Assign each diameter, in pixels, to one of ``SIZE_CLASSES``."""
    return np.asarray(np.digitize(np.asarray(diameters, np.float64), _BOUNDS))


def shares_by_size(trials: pd.DataFrame) -> pd.DataFrame:
    """Compute the share of successes of each size, with Wilson's 95 % interval.

    Sizes are bins from d to sqrt(2) d with a border at 1 pixel.

    Args:
        trials: a row for each crater: ``diameter_px``, ``success``.

    Returns:
        A row for each bin with craters: ``diameter_from``, ``diameter_to``, ``craters``, ``share``, ``low``, ``high``.
    """
    from scipy.stats import binomtest

    number = np.floor(2 * np.log2(trials["diameter_px"].to_numpy(np.float64))).astype(int)
    rows = []
    for step, success in trials["success"].astype(bool).groupby(number):
        low, high = binomtest(int(success.sum()), len(success)).proportion_ci(method="wilson")
        rows.append(
            (2 ** (step / 2), 2 ** ((step + 1) / 2), len(success), float(success.mean()), float(low), float(high))
        )
    return pd.DataFrame(rows, columns=["diameter_from", "diameter_to", "craters", "share", "low", "high"])
