"""Figures and value ranges of chips, band by band."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mars_assets.bands import BandStatistics
from mars_assets.plotting import new_figure
from mars_assets.tensors.geotiff import read_chip

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def chip_sheet(paths: Sequence[Path], bands: Sequence[str], statistics: BandStatistics) -> Figure:
    """Draw chips in rows and bands in columns.

    The grey scale of each band extends from its mean - 1 to its mean + 2 standard deviations.
    """
    figure, axes = new_figure(1.5 * len(bands), 1.5 * len(paths), len(paths), len(bands))
    for axis in figure.axes:
        axis.set_axis_off()
    for row, path in enumerate(paths):
        chip = read_chip(path, bands)
        for column, band in enumerate(bands):
            mean, std = statistics.means[column], statistics.stds[column]
            axes[row, column].imshow(chip[column][::2, ::2], cmap="gray", vmin=mean - std, vmax=mean + 2 * std)
            if row == 0:
                axes[row, column].set_title(band, fontsize=11)
    return figure


def value_ranges(paths: Sequence[Path], bands: Sequence[str]) -> pd.DataFrame:
    """Compute each band's minimum, mean and maximum in reflectance units."""
    values = np.concatenate([read_chip(path, bands).reshape(len(bands), -1) for path in paths], axis=1).astype(float)
    return pd.DataFrame({"band": bands, "min": values.min(1), "mean": values.mean(1), "max": values.max(1)})
