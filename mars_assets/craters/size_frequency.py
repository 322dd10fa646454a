"""Cumulative size-frequency plots of craters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mars_assets.plotting import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def size_frequency(craters: pd.DataFrame) -> Figure:
    """Plot the number of craters with at least a given diameter.

    Diameters are in metres if they are known for all craters, otherwise in pixels.

    Args:
        craters: a catalogue, see :class:`mars_assets.craters.schema.CraterCatalogue`. Craters cut by the image border
            are left out, since only their visible part was measured.
    """
    from matplotlib.ticker import LogFormatter

    figure, axes = new_figure(6, 4)
    axis = axes[0, 0]
    whole = craters[~craters["cut"].astype(bool)]
    on_the_ground = len(whole) > 0 and whole["diameter_m"].notna().all()
    diameters = np.sort(whole["diameter_m" if on_the_ground else "diameter_px"].to_numpy(np.float64))
    if len(diameters):
        axis.step(diameters, np.arange(len(diameters), 0, -1), where="pre")
        axis.set(xscale="log", yscale="log")
        for scale in (axis.xaxis, axis.yaxis):
            scale.set_major_formatter("{x:g}")
            scale.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.7)))
    axis.set(xlabel=f"diameter D ({'m' if on_the_ground else 'pixels'})", ylabel="craters with diameter ≥ D")
    axis.set_title(f"{len(whole)} craters not cut by the image border")
    axis.grid(alpha=0.3, which="both")
    return figure
