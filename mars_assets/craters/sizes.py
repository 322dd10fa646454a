"""Size classes of craters."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SIZE_CLASSES = ("<16", "16-32", "32-64", ">=64")
"""Classes of crater diameters in pixels; each includes its lower bound."""
_BOUNDS = (16.0, 32.0, 64.0)


def size_class(diameters: npt.ArrayLike) -> npt.NDArray[np.intp]:
    """Assign each diameter, in pixels, to one of ``SIZE_CLASSES``."""
    return np.asarray(np.digitize(np.asarray(diameters, np.float64), _BOUNDS))
