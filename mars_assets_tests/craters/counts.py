"""Catalogues of scenes whose craters are drawn from a known distribution."""

import numpy as np
import pandas as pd
from shapely.geometry import MultiPolygon

from mars_assets.craters.catalogue import Catalogue, CountedScene


def scene(name: str = "a", smallest_m: float = 100.0, pixel_m: float = 10.0, km2: float = 100.0) -> CountedScene:
    return CountedScene(name, smallest_m, pixel_m, MultiPolygon(), km2 * 1e6, km2 * 1e6, "key", "model")


def catalogue_of(diameters_m: np.ndarray, scenes: list[CountedScene], shown_by: np.ndarray | None = None) -> Catalogue:
    """Craters of known size, each in one scene; the columns that statistics read, and ``counted``."""
    by = np.zeros(len(diameters_m), int) if shown_by is None else shown_by
    pixels = np.array([one.pixel_m for one in scenes])[by]
    table = pd.DataFrame(
        {
            "crater_id": [f"c{number}" for number in range(len(diameters_m))],
            "scene": [scenes[number].scene for number in by],
            "diameter_m": np.asarray(diameters_m, np.float64),
            "diameter_px": np.asarray(diameters_m, np.float64) / pixels,
            "counted": np.ones(len(diameters_m), bool),
        }
    )
    order = np.argsort(-table["diameter_m"].to_numpy(), kind="stable")
    return Catalogue(table.iloc[order].reset_index(drop=True), sorted(scenes, key=lambda one: one.smallest_m))


def power_law(
    rng: np.random.Generator, count: int, smallest: float, slope: float = 2.0, largest: float = np.inf
) -> np.ndarray:
    """Diameters whose cumulative number falls with a power."""
    share = rng.uniform((smallest / largest) ** slope, 1, count)
    return smallest * share ** (-1 / slope)
