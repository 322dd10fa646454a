"""The reconstruction table of a lake, with its figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio
from matplotlib.figure import Figure
from rasterio.errors import RasterioError

from mars_assets.bands import HLS_BANDS, SPECTRAL
from mars_assets.code_versions import RECONSTRUCTION
from mars_assets.errors import MarsError, ProvenanceError
from mars_assets.evaluation.history import record
from mars_assets.labels.table import read_labelled_crops
from mars_assets.lake import Lake
from mars_assets.models.versions import current_weights
from mars_assets.plotting import to_png
from mars_assets.prithvi.config import PrithviConfig
from mars_assets.prithvi.weights import open_weights
from mars_assets.progress import SILENT, Progress
from mars_assets.reconstruction.anchor import check_order, check_units
from mars_assets.reconstruction.figures import draw_examples, draw_losses
from mars_assets.reconstruction.scores import (
    ANCHOR,
    ReconstructionSettings,
    reconstruct,
    reconstruct_examples,
)
from mars_assets.reconstruction.summary import _UNPAIRED, summarise, typical_images
from mars_assets.storage.cache import Cache
from mars_assets.storage.files import as_rows, read_table, user_path, write_table
from mars_assets.storage.geotiff import georeference
from mars_assets.storage.hashing import lot, sha256_file
from mars_assets.tensors.geotiff import write_chip
from mars_assets.tensors.stages import read_manifest
from mars_assets.training.compute import Compute

ASSET = "reconstruction_metrics"
PAPER = {"means": (0.0174, 0.0610), "pre_norm": (0.0298, 0.1040), "post_norm": (0.0190, 0.0493)}
"""Model loss and RGB loss in the paper: v1_100, mask ratio 0.5, on 259 other images."""


@dataclass(frozen=True)
class ReconstructionPlan:
    """The images and masks of a reconstruction table.

    Args:
        methods: imputation methods; ``spectral`` may lack images, or all of them if none is calibrated.
        n_images: number of images, drawn by a hash of their ids, so that the same ids yield the same images.
        mask_ratios: shares of the patches to remove, one after the other; figures show the first.
        masks: masks per image, with successive seeds; an image's values are the means over its masks.
        anchor: a chip of Earth, see :func:`anchor_chip`, for an additional row.
        batch_size: chips per batch.
    """

    methods: Sequence[str]
    n_images: int
    mask_ratios: Sequence[float] = (0.5,)
    masks: int = 1
    anchor: Path | None = None
    batch_size: int = 32


@dataclass(frozen=True)
class ReconstructionResult:
    """The result of :func:`reconstruction_table`.

    Args:
        summary: one row per method, see :func:`summarise`.
        bars: both losses of each method, with intervals (the paper's Figure 2).
        examples: originals, masked images and all reconstructions (the paper's Figure 3).
        computed: number of chips reconstructed in this call; the scores of the others were cached.
    """

    summary: pd.DataFrame
    bars: Figure
    examples: Figure
    computed: int


def reconstruction_table(
    lake: Lake, plan: ReconstructionPlan, compute: Compute, progress: Progress = SILENT
) -> ReconstructionResult:
    """Reconstruct the lake's imputed chips with its current weights.

    ``metrics/reconstruction.parquet`` retains a row for each method, weights, mask ratio, number of masks, seed and
    label version, and ``metrics/reconstruction_images.parquet`` one for each image. Figures are written next to them.
    Cached scores are not recomputed.

    Args:
        lake: contains chips, weights and tables.
        plan: images and masks.
        compute: device, precision, and the first seed of the masks.
        progress: reports the chips.

    Raises:
        MissingInputError: weights or chips have not been materialized.
        ProvenanceError: chips and weights do not match; all mismatches are listed.
    """
    folder = current_weights(lake).folder
    config = open_weights(folder).config
    chips, label_version = _chips(lake, plan.methods, config, plan.n_images)
    if (anchor := plan.anchor) is not None:
        row = {"image_id": anchor.stem, "method": ANCHOR, "path": anchor, "chip_sha": sha256_file(anchor)}
        chips = pd.concat([chips, pd.DataFrame([row])], ignore_index=True)
    settings = [
        ReconstructionSettings(compute=replace(compute, seed=seed), mask_ratio=mask_ratio, batch_size=plan.batch_size)
        for mask_ratio in plan.mask_ratios
        for seed in range(compute.seed, compute.seed + plan.masks)
    ]
    with Cache(lake.cache("reconstruction"), RECONSTRUCTION, keep_all=True, progress=progress) as cache:
        parts = [reconstruct(chips, folder, each, cache, progress) for each in settings]
    per_image = pd.concat(parts, ignore_index=True)
    computed = int(per_image.pop("computed").sum())
    path = lake.metrics("reconstruction_images")
    old = [read_table(path, ASSET)] if path.exists() else []
    write_table(path, pd.concat([per_image, *old]).drop_duplicates(["image_id", "method", "recipe"], ignore_index=True))
    labels = read_labelled_crops(lake)
    summary = summarise(per_image, label_version, dict(zip(labels["image_id"], labels["group"], strict=True)))
    record(
        lake.metrics("reconstruction"),
        as_rows(summary),
        ["method", "weights", "precision", "mask_ratio", "masks", "seed", "n_images", "label_version"],
        ASSET,
    )
    ratio = plan.mask_ratios[0]
    chosen = chips[chips["image_id"].isin(typical_images(per_image[per_image["mask_ratio"] == ratio]))]
    examples = draw_examples(
        reconstruct_examples(chosen, folder, mask_ratio=ratio, compute=compute), config.variant, ratio
    )
    shown = summary[summary["mask_ratio"] == ratio]
    bars = draw_losses(shown, PAPER if config.variant == "v1_100" and ratio == 0.5 else None)
    to_png(bars, lake.figure("reconstruction", "losses"))
    to_png(examples, lake.figure("reconstruction", "examples"))
    return ReconstructionResult(summary, bars, examples, computed)


def anchor_chip(
    lake: Lake, path: Path, bands: Sequence[int], warn: Callable[[str], object] = lambda text: None
) -> Path:
    """Copy a chip of Earth into the lake, for :func:`reconstruction_table`.

    Args:
        lake: gets the chip as ``tensors/anchor/NAME.tif``.
        path: a GeoTIFF in HLS reflectance units (reflectance x 10000).
        bands: numbers of its blue, green, red, near-infrared and two short-wave infrared bands, from 1.
        warn: receives a sentence about what could not be checked.

    Raises:
        MarsError: it cannot be read, lacks a band, has pixels without data, or contains other units or another order of
            the bands.
    """
    if len(set(bands)) != len(HLS_BANDS) or len(bands) != len(HLS_BANDS):
        raise MarsError(
            f"anchor_bands={list(bands)}: give the numbers of {len(HLS_BANDS)} bands, {', '.join(HLS_BANDS)}"
        )
    path = user_path(path)
    try:
        with rasterio.open(path) as file:
            if not all(1 <= band <= file.count for band in bands):
                raise MarsError(
                    f"{path} has {file.count} bands, which do not include all of {list(bands)}: correct anchor_bands"
                )
            scalings = {(file.scales[band - 1], file.offsets[band - 1]) for band in bands}
            dtype, names = file.dtypes[bands[0] - 1], file.descriptions
            chip = file.read(list(bands), masked=True, out_dtype="float32")
    except RasterioError as error:
        raise MarsError(f"the anchor {path} cannot be read ({error}): choose a GeoTIFF") from error
    if np.ma.is_masked(chip) or not np.isfinite(chip).all():
        raise MarsError(f"the anchor {path} has pixels without data: choose a chip without gaps")
    values = chip.filled()
    for warning in (
        *check_units(path, values, dtype, scalings),
        *check_order(path, values, names, bands),
    ):
        warn(warning)
    target = lake.tensors("anchor") / f"{path.stem}.tif"
    write_chip(target, values, HLS_BANDS, georeference=georeference(path))
    return target


def _chips(lake: Lake, methods: Sequence[str], config: PrithviConfig, n_images: int) -> tuple[pd.DataFrame, str]:
    """Draw images, and look up their chips and label version.

    The chips are for :func:`reconstruct`.
    """
    stages = {method: read_manifest(lake, f"imputed_{method}") for method in methods}
    images = {method: set(table["image_id"]) for method, (table, _) in stages.items()}
    first, (manifest, provenance) = next(iter(stages.items()))
    problems = []
    for method, (_, settings) in stages.items():
        if method not in _UNPAIRED and settings["statistics"] != config.statistics.name:
            problems.append(
                f"imputed_{method} was computed with the statistics {settings['statistics']!r}, but the weights "
                f"{config.variant} need {config.statistics.name!r}"
            )
        if settings["label_version"] != provenance["label_version"]:
            problems.append(f"imputed_{method} and imputed_{first} were computed for different labels")
        elif images[method] != images[first] and not (method == SPECTRAL and images[method] < images[first]):
            problems.append(f"imputed_{method} and imputed_{first} contain different images")
    if problems:
        raise ProvenanceError("; ".join(problems) + ": materialize reflectance and its imputations again")
    drawn = sorted(manifest["image_id"], key=lot)[:n_images]
    chips = pd.concat(table.assign(method=method) for method, (table, _) in stages.items())
    chips = chips[chips["image_id"].isin(drawn)]
    chips = chips.assign(path=chips["file"].map(lake.inside))
    return chips[["image_id", "method", "path", "chip_sha"]], provenance["label_version"]
