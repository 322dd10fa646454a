"""The paper's Figures 2 and 3: losses of each method, and reconstructed examples."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mars_assets.plotting import new_figure
from mars_assets.reconstruction.scores import Example


def draw_losses(summary: pd.DataFrame, paper: Mapping[str, tuple[float, float]] | None = None) -> Figure:
    """Draw both losses of each method with their intervals: the paper's Figure 2.

    Args:
        summary: from :func:`summarise`.
        paper: model loss and RGB loss in the paper by method, drawn for comparison.
    """
    figure, axes = new_figure(7, 4)
    axis = axes[0, 0]
    places = np.arange(len(summary))
    for offset, name, label in ((-0.2, "model_loss", "model loss, 6 channels"), (0.2, "rgb_loss", "RGB loss")):
        value = summary[name].to_numpy()
        error = np.stack([value - summary[f"{name}_low"], summary[f"{name}_high"] - value])
        axis.bar(places + offset, value, 0.38, yerr=error, capsize=4, label=label)
    marks = [
        (place + offset, paper[method][which])
        for place, method in enumerate(summary["method"])
        if paper and method in paper
        for which, offset in ((0, -0.2), (1, 0.2))
    ]
    if marks:
        axis.plot(*zip(*marks, strict=True), "kD", fillstyle="none", label="the paper, on other images")
    axis.set_xticks(places, summary["method"])
    axis.set_ylabel("mean squared error, normalised units")
    first = summary.iloc[0]
    axis.set_title(f"Reconstruction of {first['n_images']} images, {first['mask_ratio']:.0%} masked (95 % intervals)")
    axis.legend()
    return figure


def draw_examples(examples: Sequence[Example], variant: str, mask_ratio: float) -> Figure:
    """Draw originals, masked images and all reconstructions.

    This is the paper's Figure 3.

    Args:
        examples: one example per row.
        variant: name of the weights, for the title.
        mask_ratio: share of removed patches, for the title.
    """
    methods = list(dict.fromkeys(method for example in examples for method in example.reconstructions))
    figure, axes = new_figure(2.2 * (2 + len(methods)), 2.3 * len(examples) + 0.4, len(examples), 2 + len(methods))
    for row, example in zip(axes, examples, strict=True):
        pictures = {"original": example.original, "masked": example.masked, **example.reconstructions}
        for axis, title in zip(row, ["original", "masked", *methods], strict=True):
            if title in pictures:
                axis.imshow(pictures[title], interpolation="nearest")
            else:
                axis.text(0.5, 0.5, "not calibrated", ha="center", transform=axis.transAxes)
            axis.set_xticks([])
            axis.set_yticks([])
            if example is examples[0]:
                axis.set_title(title, fontsize=12)
        row[0].set_ylabel("\n".join(textwrap.wrap(example.image_id, 20, break_on_hyphens=False)), fontsize=11)
    figure.suptitle(f"{variant}, {mask_ratio:.0%} of the patches removed")
    return figure
