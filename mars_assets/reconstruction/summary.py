"""Means over images with intervals, and the comparison of imputation methods."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import wilcoxon

from mars_assets.bands import SPECTRAL
from mars_assets.evaluation.statistics import bootstrap_intervals, independent_units
from mars_assets.reconstruction.scores import ANCHOR, SCORES

_UNPAIRED = (SPECTRAL, ANCHOR)


def summarise(
    per_image: pd.DataFrame, label_version: str, observations: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Compute means with 95 % intervals over the images.

    There is a row for every mask ratio and method.

    The intervals are paired bootstraps over observations. An image with several masks counts once, with the means of
    its values. All methods share their images, except for ``spectral`` and the anchor on Earth, which are summarised
    over their own.

    Args:
        per_image: from :func:`reconstruct`, with one set of weights, one precision, and for every mask ratio the same
            seeds, and the same images for all methods that share them.
        label_version: version of the images' labels.
        observations: observation of each image id; an image without one is its own group. Images of one observation
            resemble each other, so whole observations are resampled if there are at least two.

    Returns:
        For each mask ratio one row per method, best RGB loss first, ``spectral`` and the anchor last: method, the
        ``SCORES`` with ``_low`` and ``_high``, rgb_minus_best with ``_low`` and ``_high`` (the paired difference from
        the first row's method on shared images), p_value (two-sided Wilcoxon signed-rank test of the mean differences
        by observation; NaN for the first row and without shared images), n_images, resampled, n_observations, masks,
        mask_ratio, seed (the first), weights, precision, label_version.
    """
    rows: list[dict[str, Any]] = []
    for mask_ratio, group in per_image.groupby("mask_ratio", sort=False):
        means = group.groupby(["image_id", "method"])[list(SCORES)].mean().unstack("method")
        about: dict[Any, Any] = {
            "masks": group["seed"].nunique(),
            "mask_ratio": mask_ratio,
            "seed": group["seed"].min(),
            **group[["weights", "precision"]].iloc[0].to_dict(),
            "label_version": label_version,
        }
        rows += [row | about for row in _summary_rows(means, observations or {})]
    return pd.DataFrame(rows)


def _summary_rows(means: Any, observations: Mapping[str, str]) -> list[dict[str, Any]]:
    """Summarise one mask ratio.

    ``means`` has one row per image and columns (score, method).
    """
    rgb_loss = means["rgb_loss"]
    ranked = list(rgb_loss.drop(columns=list(_UNPAIRED), errors="ignore").mean().sort_values().index)
    rows = []
    for method in [*ranked, *(name for name in _UNPAIRED if name in rgb_loss)]:
        own = means.loc[rgb_loss[method].notna()]
        values = {score: own[score][method].to_numpy() for score in SCORES}
        values["rgb_minus_best"] = (own["rgb_loss"][method] - own["rgb_loss"][ranked[0]]).to_numpy()
        images = own.index.to_series()
        known = images.map(dict(observations))
        groups, resampled = independent_units(known, images)
        intervals = bootstrap_intervals(partial(_means, values), groups, resamples=2000)
        row: dict[str, Any] = {"method": method}
        for name, value in values.items():
            row |= {name: float(value.mean()), f"{name}_low": intervals[name][0], f"{name}_high": intervals[name][1]}
        differences = pd.Series(values["rgb_minus_best"]).groupby(groups).mean().to_numpy()
        comparable = differences.any() and not np.isnan(differences).any()
        row |= {"p_value": float(wilcoxon(differences).pvalue) if comparable else np.nan, "n_images": len(own)}
        rows.append(row | {"resampled": resampled, "n_observations": int(known.nunique())})
    return rows


def _means(values: Mapping[str, npt.NDArray[np.float64]], counts: npt.NDArray[np.float64]) -> dict[str, Any]:
    n = counts.sum(1)
    means = {}
    for name, value in values.items():
        known = np.isfinite(value)  # an image that is too small has no SSIM
        mean = counts @ np.where(known, value, 0) / n
        means[name] = np.where(counts @ ~known > 0, np.nan, mean)
    return means


def statement(summary: pd.DataFrame) -> list[str]:
    """Compare the best method for RGB images with each other one, in a sentence each.

    Args:
        summary: the rows of one mask ratio from :func:`summarise`.
    """
    ranked = summary[~summary["method"].isin(_UNPAIRED)]
    best = ranked.iloc[0]["method"]
    sentences = []
    for row in ranked.iloc[1:].to_dict("records"):
        distinct = row["rgb_minus_best_low"] > 0 and row["p_value"] < 0.05 / max(1, len(ranked) - 1)
        word = "better" if distinct else "not distinguishable from, on RGB,"
        than = f"than {row['method']} on RGB" if distinct else row["method"]
        sentences.append(
            f"{best} is {word} {than}: {row['rgb_minus_best']:.4f} "
            f"({row['rgb_minus_best_low']:.4f} … {row['rgb_minus_best_high']:.4f}) lower, p = {row['p_value']:.2g}, "
            f"{row['n_images']} images"
            + (f" of {row['n_observations']} observations" if row["n_observations"] > 1 else "")
        )
    return sentences


def typical_images(per_image: pd.DataFrame) -> list[str]:
    """Choose three images to show, from easy to hard.

    The measure is their mean RGB loss; the extremes are left out.
    """
    ranked = per_image[~per_image["method"].isin(_UNPAIRED)].groupby("image_id")["rgb_loss"].mean().sort_values()
    places = np.linspace(0, len(ranked) - 1, min(3, len(ranked)) + 2)[1:-1]
    return list(dict.fromkeys(ranked.index[np.rint(places).astype(int)]))
