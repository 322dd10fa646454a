"""Masked reconstruction of Mars by an untouched Prithvi, for each way of filling its missing bands.

The protocol is that of Patel et al. 2024, section on imputation: half of the patches are removed, the model paints them
from the rest, and two losses are taken over the removed patches in normalised units: over all six channels ("model
loss") and over blue, green and red ("RGB loss"). One mask an image, the same for every method, makes the comparison
paired. Of an image larger than the model's input, the centre is taken. Beyond the protocol there may be several masks an
image and several mask ratios, and PSNR and SSIM of the painted pixels in natural colour.

``spectral`` has other pixels, measured and not stretched, and only for crops of calibrated products: its losses are of its
own images and its own values.
"""

from __future__ import annotations

import hashlib
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mars_assets.ahead import read_ahead
from mars_assets.bands import HLS_BANDS, SPECTRAL, Float32, normalize, reflectance_to_rgb
from mars_assets.chips import read_chip, write_chip
from mars_assets.compute import Compute
from mars_assets.errors import MarsError, ProvenanceError
from mars_assets.evaluation.figures import new_figure, to_png
from mars_assets.evaluation.history import record
from mars_assets.evaluation.statistics import bootstrap_intervals, independent_units
from mars_assets.labels.table import read_labelled_crops
from mars_assets.lake import Lake, fingerprint, read_table, sha256_file, write_table
from mars_assets.models import current_weights
from mars_assets.prithvi.config import PrithviConfig
from mars_assets.prithvi.weights import open_weights
from mars_assets.progress import SILENT, Progress
from mars_assets.tensors import read_manifest

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import Tensor

    from mars_assets.prithvi.model import PrithviMAE

ASSET = "reconstruction_metrics"
ANCHOR = "hls"
"""The method's name for chips of Earth, which the model was made for: what it can do at its best."""
PAPER = {"means": (0.0174, 0.0610), "pre_norm": (0.0298, 0.1040), "post_norm": (0.0190, 0.0493)}
"""Model loss and RGB loss in the paper: v1_100, mask ratio 0.5, 259 other images."""

SCORES = ("model_loss", "rgb_loss", "psnr", "ssim")
_UNPAIRED = (SPECTRAL, ANCHOR)
_COMPUTATION = "reconstruction 2"
"""Name of the computation, part of every row's recipe: raise the number when the arithmetic changes."""

_SAVE_EVERY = 30.0
_PERFECT_DB = 100.0  # the PSNR of no error at all, which JSON could not hold
_SSIM_WINDOW, _SSIM_C1, _SSIM_C2 = 7, 0.01**2, 0.03**2
UInt8 = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ReconstructionResult:
    """What :func:`reconstruction_table` made.

    Args:
        summary: one row a method, see :func:`summarise`.
        per_image: one row an image and method, see :func:`reconstruct`.
        bars: both losses of each method, with intervals (the paper's Figure 2).
        examples: originals, masked, and each method's reconstruction (the paper's Figure 3).
        computed: how many chips were reconstructed in this run; the other rows were there.
    """

    summary: pd.DataFrame
    per_image: pd.DataFrame
    bars: Figure
    examples: Figure
    computed: int


def reconstruction_table(
    lake: Lake,
    methods: Sequence[str],
    *,
    n_images: int,
    mask_ratios: Sequence[float] = (0.5,),
    masks: int = 1,
    anchor: Path | None = None,
    batch_size: int = 32,
    compute: Compute,
    progress: Progress = SILENT,
) -> ReconstructionResult:
    """Reconstructs the lake's imputed chips with its current weights, and writes tables and figures.

    ``metrics/reconstruction.parquet`` keeps a row for each method, weights, mask ratio, masks, seed and label version;
    ``metrics/reconstruction_images.parquet`` a row for each image, from which only what is new is computed.

    Args:
        lake: where chips and weights are, and tables go.
        methods: imputation methods; ``spectral`` may lack images, all of them if none is calibrated.
        n_images: how many images, drawn by their ids: the same ids give the same images, others join at random.
        mask_ratios: shares of the patches to remove, one after the other; figures are of the first.
        masks: masks an image, from as many seeds; an image's values are their means.
        anchor: a chip of Earth, see :func:`anchor_chip`, as a row of its own.
        batch_size: chips a batch.
        compute: device, precision, and the first seed of the masks.
        progress: takes lines.

    Raises:
        MissingInputError: weights or chips have not been made.
        ProvenanceError: chips and weights were not made for each other; all mismatches are listed.
    """
    import pandas as pd

    folder, _ = current_weights(lake)
    config = open_weights(folder).config
    chips, label_version = _chips(lake, methods, config, n_images)
    if anchor is not None:
        row = {"image_id": anchor.stem, "method": ANCHOR, "path": anchor, "chip_sha": sha256_file(anchor)}
        chips = pd.concat([chips, pd.DataFrame([row])], ignore_index=True)
    path = lake.metrics("reconstruction_images")
    parts: list[pd.DataFrame] = []

    def save(rows: pd.DataFrame) -> None:
        old = [read_table(path, ASSET)] if path.exists() else []
        every = pd.concat([rows, *old]).drop_duplicates(["image_id", "method", "recipe"], ignore_index=True)
        write_table(path, every)

    for mask_ratio in mask_ratios:
        for seed in range(compute.seed, compute.seed + masks):
            parts.append(
                reconstruct(
                    chips,
                    folder,
                    mask_ratio=mask_ratio,
                    seed=seed,
                    batch_size=batch_size,
                    compute=compute,
                    known=read_table(path, ASSET) if path.exists() else None,
                    save=save,
                    progress=progress,
                )
            )
            save(parts[-1].drop(columns="computed"))
    per_image = pd.concat(parts, ignore_index=True)
    computed = int(per_image.pop("computed").sum())
    labels = read_labelled_crops(lake)
    summary = summarise(per_image, label_version, dict(zip(labels["image_id"], labels["group"], strict=True)))
    record(
        lake.metrics("reconstruction"),
        _records(summary),
        ["method", "weights", "precision", "mask_ratio", "masks", "seed", "n_images", "label_version"],
        ASSET,
    )
    first = per_image[per_image["mask_ratio"] == mask_ratios[0]]
    chosen = chips[chips["image_id"].isin(typical_images(first))]
    examples = draw_examples(
        reconstruct_examples(chosen, folder, mask_ratio=mask_ratios[0], compute=compute), config.variant, mask_ratios[0]
    )
    shown = summary[summary["mask_ratio"] == mask_ratios[0]]
    bars = draw_losses(shown, PAPER if config.variant == "v1_100" and mask_ratios[0] == 0.5 else None)
    to_png(bars, lake.metrics("reconstruction").with_name("reconstruction_losses.png"))
    to_png(examples, lake.metrics("reconstruction").with_name("reconstruction_examples.png"))
    return ReconstructionResult(summary, per_image, bars, examples, computed)


def anchor_chip(lake: Lake, path: Path, bands: Sequence[int]) -> Path:
    """Takes a chip of Earth into the lake, for :func:`reconstruction_table`.

    Args:
        lake: gets it as ``tensors/anchor/NAME.tif``.
        path: a GeoTIFF in HLS reflectance units (reflectance x 10000).
        bands: numbers of its blue, green, red, near infrared, and two short-wave infrared bands, from 1.

    Raises:
        MarsError: it cannot be read, lacks a band, or has pixels without data.
    """
    import rasterio
    from rasterio.errors import RasterioError

    if len(bands) != len(HLS_BANDS):
        raise MarsError(f"the anchor needs the numbers of {len(HLS_BANDS)} bands ({', '.join(HLS_BANDS)}), not {bands}")
    try:
        with rasterio.open(path) as file:
            if not all(1 <= band <= file.count for band in bands):
                raise MarsError(f"{path} has {file.count} bands; the anchor's are to be {list(bands)}")
            chip = file.read(list(bands), masked=True, out_dtype="float32")
            crs, transform = file.crs, file.transform
    except RasterioError as error:
        raise MarsError(f"the anchor {path} cannot be read ({error})") from error
    if np.ma.is_masked(chip) or not np.isfinite(chip).all():
        raise MarsError(f"the anchor {path} has pixels without data: take a chip that is whole")
    target = lake.tensors("anchor") / f"{path.stem}.tif"
    write_chip(target, chip.filled(), HLS_BANDS, crs=crs, transform=transform if crs else None)
    return target


def _chips(lake: Lake, methods: Sequence[str], config: PrithviConfig, n_images: int) -> tuple[pd.DataFrame, str]:
    """Chips of the drawn images for :func:`reconstruct`, and the label version that they were made for."""
    import pandas as pd

    stages = {method: read_manifest(lake, f"imputed_{method}") for method in methods}
    images = {method: set(table["image_id"]) for method, (table, _) in stages.items()}
    first, (manifest, provenance) = next(iter(stages.items()))
    problems = []
    for method, (_, settings) in stages.items():
        if method not in _UNPAIRED and settings["statistics"] != config.statistics.name:
            problems.append(
                f"imputed_{method} was made with the statistics {settings['statistics']!r}, and the weights "
                f"{config.variant} want {config.statistics.name!r}"
            )
        if settings["label_version"] != provenance["label_version"]:
            problems.append(f"imputed_{method} and imputed_{first} were made for different labels")
        elif images[method] != images[first] and not (method == SPECTRAL and images[method] < images[first]):
            problems.append(f"imputed_{method} and imputed_{first} hold different images")
    if problems:
        raise ProvenanceError("; ".join(problems) + ": make reflectance and its imputations again")
    drawn = sorted(manifest["image_id"], key=lambda image: hashlib.sha256(image.encode()).digest())[:n_images]
    chips = pd.concat(table.assign(method=method) for method, (table, _) in stages.items())
    chips = chips[chips["image_id"].isin(drawn)]
    chips = chips.assign(path=chips["file"].map(lake.inside))
    return chips[["image_id", "method", "path", "chip_sha"]], provenance["label_version"]


def reconstruct(
    chips: pd.DataFrame,
    weights: Path,
    *,
    mask_ratio: float = 0.5,
    seed: int | None = None,
    batch_size: int = 32,
    compute: Compute,
    known: pd.DataFrame | None = None,
    save: Callable[[pd.DataFrame], object] = lambda rows: None,
    progress: Progress = SILENT,
) -> pd.DataFrame:
    """Losses of every chip. A row of ``known`` that is of the same chip, weights and settings is taken over.

    Args:
        chips: one row an image and method: image_id, method, path of the six-band chip in reflectance units, chip_sha.
        weights: folder of the weights.
        mask_ratio: share of the patches to remove.
        seed: of the masks; ``compute``'s by default.
        batch_size: chips a batch.
        compute: device, precision and seed.
        known: rows of an earlier run.
        save: called with the finished rows every half minute, so that a killed run loses no more than that.
        progress: takes lines.

    Returns:
        One row a chip, images in order: image_id, method, model_loss, rgb_loss, psnr (dB) and ssim of the removed pixels in
        natural colour, chip_sha, mask_ratio, seed, weights (sha256), precision, recipe (names all settings), computed (in
        this run).

    Raises:
        MarsError: the ratio removes nothing or all, a chip is smaller than a patch, or the model's loss is of another
            kind (``norm_pix_loss``).
        DamagedFileError: a chip cannot be read.
    """
    import pandas as pd

    config, sha256, load = open_weights(weights)
    if not 0 < mask_ratio < 1:
        raise MarsError(f"mask_ratio={mask_ratio}: reconstruction needs a share between 0 and 1, both excluded")
    if config.norm_pix_loss:
        raise MarsError(f"{weights} predicts patches normalised one by one, which have no loss in the bands' units")
    seed = compute.seed if seed is None else seed
    settings: dict[str, Any] = {
        "mask_ratio": mask_ratio,
        "seed": seed,
        "weights": sha256,
        "precision": compute.precision,
    }
    settings["recipe"] = fingerprint(_COMPUTATION, config.to_dict(), settings)
    done = _taken_over(chips, known, settings["recipe"])
    rows = _records(chips.sort_values(["image_id", "method"], kind="stable"))
    todo = [row for row in rows if (row["image_id"], row["method"]) not in done]

    def table(of: Iterable[dict[str, Any]]) -> pd.DataFrame:
        columns = ["image_id", "method", *SCORES, "chip_sha", *settings, "computed"]
        return pd.DataFrame(
            [{**row, **done[row["image_id"], row["method"]], **settings} for row in of], columns=columns
        )

    if todo:
        mae, last = load().to(compute.device), time.monotonic()
        counter = progress.counter("reconstructing chips", len(todo))
        for batch in _batches(todo, config, batch_size):
            scores = _scores(mae, _predict(mae, batch, mask_ratio, seed, compute), batch.windows.shape[2:])
            for row, values in zip(batch.rows, scores.tolist(), strict=True):
                done[row["image_id"], row["method"]] = dict(zip(SCORES, values, strict=True)) | {"computed": True}
            counter.advance(len(batch.rows))
            if time.monotonic() - last > _SAVE_EVERY:
                save(table(row for row in rows if (row["image_id"], row["method"]) in done).drop(columns="computed"))
                last = time.monotonic()
        counter.close()
    return table(rows)


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def _taken_over(chips: pd.DataFrame, known: pd.DataFrame | None, recipe: str) -> dict[tuple[str, str], dict[str, Any]]:
    if known is None:
        return {}
    known = known[known["recipe"] == recipe]
    same = chips[["image_id", "method", "chip_sha"]].merge(known, on=["image_id", "method", "chip_sha"])
    return {
        (row["image_id"], row["method"]): {key: row[key] for key in SCORES} | {"computed": False}
        for row in _records(same)
    }


class _Batch(NamedTuple):
    """Rows of the chips table with their normalised centres, float32 (B, C, H, W)."""

    rows: list[dict[str, Any]]
    windows: Float32


def _batches(rows: Sequence[dict[str, Any]], config: PrithviConfig, batch_size: int) -> Iterator[_Batch]:
    """Reads ahead in threads; a batch holds windows of one size."""
    pending: list[tuple[dict[str, Any], Float32]] = []

    def flush() -> _Batch:
        batch = _Batch([row for row, _ in pending], np.stack([window for _, window in pending]))
        pending.clear()
        return batch

    windows = read_ahead(lambda row: centre_window(row["path"], config), rows, 2 * batch_size)
    for row, window in zip(rows, windows, strict=True):
        if pending and (len(pending) == batch_size or pending[0][1].shape != window.shape):
            yield flush()
        pending.append((row, window))
    if pending:
        yield flush()


def centre_window(path: Path, config: PrithviConfig) -> Float32:
    """The centre of a chip, normalised: the model's input size, or the most patches that a smaller chip holds.

    Returns:
        float32, shape (bands, H, W).

    Raises:
        DamagedFileError: it cannot be read, or has other bands.
        MarsError: it is smaller than a patch.
    """
    chip = read_chip(path, config.bands)
    height, width = chip.shape[1:]
    patch_rows, patch_columns = config.patch_size[1:]
    rows = min(config.img_size, height // patch_rows * patch_rows)
    columns = min(config.img_size, width // patch_columns * patch_columns)
    if not rows or not columns:
        raise MarsError(f"{path} is {width} x {height} pixels, smaller than a patch of {patch_columns} x {patch_rows}")
    top, left = (height - rows) // 2, (width - columns) // 2
    return normalize(chip[:, top : top + rows, left : left + columns], config.statistics)


def mask_noise(image_id: str, seed: int, patches: int) -> npt.NDArray[np.float64]:
    """The noise that orders an image's patches for masking: of the image and the seed alone. float64, shape (patches,).

    In double precision, since a tie, likely once in a thousand images in single, would be broken differently by device.
    """
    digest = hashlib.sha256(f"{seed} {image_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "big")).random(patches)


class _Predicted(NamedTuple):
    """Patches on the device, float32 (B, L, pixels, channels) each, and the mask (B, L), 1 where removed."""

    target: Tensor
    pred: Tensor
    mask: Tensor


def _predict(mae: PrithviMAE, batch: _Batch, mask_ratio: float, seed: int, compute: Compute) -> _Predicted:
    import torch

    x = torch.from_numpy(batch.windows).to(compute.device)
    target = mae.patchify(x)
    noise = np.stack([mask_noise(row["image_id"], seed, target.shape[1]) for row in batch.rows])
    with torch.inference_mode(), compute.autocast():
        _, pred, mask = mae(x, mask_ratio, torch.from_numpy(noise).to(compute.device))
    channels = mae.config.in_chans
    return _Predicted(target.unflatten(2, (-1, channels)), pred.float().unflatten(2, (-1, channels)), mask)


def _scores(mae: PrithviMAE, predicted: _Predicted, size: Sequence[int]) -> Tensor:
    """``SCORES`` of each image: (B, 4). ``size`` is the windows' height and width."""
    import torch

    target, pred, mask = predicted
    error = (pred - target).square()
    patches = torch.stack([error.mean(dim=(2, 3)), error[..., :3].mean(dim=(2, 3))], dim=-1)
    losses = (patches * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)

    # In natural colour white is 1, so that errors are shares of what an 8-bit picture spans.
    statistics = mae.config.statistics
    scale = torch.from_numpy((statistics.std[:3] / statistics.white).ravel()).to(error.device)
    squared = (error[..., :3] * scale.square()).mean(dim=(2, 3))
    mse = (squared * mask).sum(dim=1) / mask.sum(dim=1)
    psnr = -10 * mse.clamp_min(10 ** (-_PERFECT_DB / 10)).log10()

    grid = (1, size[0] // mae.config.patch_size[1], size[1] // mae.config.patch_size[2])
    offset = torch.from_numpy((statistics.mean[:3] / statistics.white).ravel()).to(error.device)[:, None, None]
    removed = mask[:, :, None, None].expand_as(target)
    painted = torch.where(removed.bool(), pred, target)
    images = [mae.unpatchify(values.flatten(2), grid)[:, :3, 0] for values in (target, painted, removed)]
    original, painted, hidden = images[0], images[1], images[2][:, :1]
    ssim = _ssim(original * scale[:, None, None] + offset, painted * scale[:, None, None] + offset, hidden)
    return torch.cat([losses, psnr[:, None], ssim[:, None]], dim=1)


def _ssim(x: Tensor, y: Tensor, where: Tensor) -> Tensor:
    """Mean structural similarity of two images over the pixels of a mask, with a data range of 1.

    Windows of 7 x 7 pixels with equal weights and sample covariance; windows that leave the image count nowhere. Wang et
    al. 2004, Image quality assessment: from error visibility to structural similarity, equation 13.

    Args:
        x: float32, (B, C, H, W).
        y: likewise.
        where: 1 at the pixels that count, (B, 1, H, W).

    Returns:
        (B,)
    """
    import torch
    from torch.nn.functional import avg_pool2d

    if min(x.shape[2:]) < _SSIM_WINDOW:
        return torch.full((len(x),), float("nan"), device=x.device)
    mean_x, mean_y, xx, yy, xy = (
        # A square window is a column of rows: two narrow means cost a third of a wide one.
        avg_pool2d(avg_pool2d(value, (_SSIM_WINDOW, 1), 1), (1, _SSIM_WINDOW), 1)
        for value in (x, y, x * x, y * y, x * y)
    )
    unbiased = _SSIM_WINDOW**2 / (_SSIM_WINDOW**2 - 1)
    var_x, var_y = unbiased * (xx - mean_x**2), unbiased * (yy - mean_y**2)
    covariance = unbiased * (xy - mean_x * mean_y)
    similarity = ((2 * mean_x * mean_y + _SSIM_C1) * (2 * covariance + _SSIM_C2)) / (
        (mean_x**2 + mean_y**2 + _SSIM_C1) * (var_x + var_y + _SSIM_C2)
    )
    half = _SSIM_WINDOW // 2
    counted = where[:, :, half:-half, half:-half]
    return (similarity.mean(dim=1, keepdim=True) * counted).sum(dim=(1, 2, 3)) / counted.sum(dim=(1, 2, 3))


def summarise(
    per_image: pd.DataFrame, label_version: str, observations: Mapping[str, str] | None = None, resamples: int = 2000
) -> pd.DataFrame:
    """Means over the images with 95 % intervals, from paired bootstraps over their observations, for every mask ratio.

    An image of several masks counts once, with the means of its values. Methods share their images, all but ``spectral``
    and the anchor on Earth: their rows are of the images that they have.

    Args:
        per_image: from :func:`reconstruct`, of one weights and precision, and of the same seeds for every mask ratio.
        label_version: which labels the images came with.
        observations: of each image, by its id; an image without one stands for itself. Images of one observation are alike,
            so whole observations are resampled, where there are two at least.
        resamples: of the bootstrap.

    Returns:
        By mask ratio one row a method, best RGB loss first, ``spectral`` and the anchor last: method, the ``SCORES`` with
        ``_low`` and ``_high``, rgb_minus_best with ``_low`` and ``_high`` (the paired difference to the first row's method
        on shared images), p_value (Wilcoxon's signed-rank test of the observations' mean differences, two-sided; NaN for the
        first row and without shared images), n_images, resampled, n_observations, masks, mask_ratio, seed (the first),
        weights, precision, label_version.

    Raises:
        MarsError: rows of several weights, precisions or sets of seeds, or a method that lacks an image.
    """
    import pandas as pd

    settings = per_image[["weights", "precision"]].drop_duplicates()
    seeds = {tuple(sorted(group["seed"].unique())) for _, group in per_image.groupby("mask_ratio")}
    if (
        len(settings) != 1
        or len(seeds) != 1
        or per_image.groupby(["mask_ratio", "seed"])["recipe"].nunique().max() != 1
    ):
        raise MarsError("reconstruction is summarised for one setting of weights, seeds and precision at a time")
    (seeds_of_all,) = seeds
    rows: list[dict[str, Any]] = []
    for mask_ratio, group in per_image.groupby("mask_ratio", sort=False):
        means = group.groupby(["image_id", "method"])[list(SCORES)].mean().unstack("method")
        about = {
            "masks": len(seeds_of_all),
            "mask_ratio": mask_ratio,
            "seed": seeds_of_all[0],
            **settings.iloc[0].to_dict(),
            "label_version": label_version,
        }
        rows += [row | about for row in _summary_rows(means, observations or {}, resamples)]
    return pd.DataFrame(rows)


def _summary_rows(means: pd.DataFrame, observations: Mapping[str, str], resamples: int) -> list[dict[str, Any]]:
    """Rows of one mask ratio. ``means`` has an image a row, and columns (score, method)."""
    import pandas as pd

    rgb_loss = means["rgb_loss"]
    paired = rgb_loss.drop(columns=list(_UNPAIRED), errors="ignore").dropna(how="all")
    if paired.isna().any(axis=None):
        lacking = [(image, method) for method in paired for image in paired.index[paired[method].isna()]]
        image, method = lacking[0]
        raise MarsError(f"the comparison is paired: {method} lacks {len(lacking)} images, e.g. {image}")
    ranked = list(paired.mean().sort_values().index)
    rows = []
    for method in [*ranked, *(name for name in _UNPAIRED if name in rgb_loss)]:
        own = means.loc[rgb_loss[method].notna()]
        values = {score: own[score][method].to_numpy() for score in SCORES}
        if ranked:
            values["rgb_minus_best"] = (own["rgb_loss"][method] - own["rgb_loss"][ranked[0]]).to_numpy()
        images = own.index.to_series()
        known = images.map(dict(observations))
        groups, resampled = independent_units(known, images)
        intervals = bootstrap_intervals(partial(_means, values), len(own), groups=groups, resamples=resamples)
        row: dict[str, Any] = {"method": method}
        for name, value in values.items():
            row |= {name: float(value.mean()), f"{name}_low": intervals[name][0], f"{name}_high": intervals[name][1]}
        differences = values.get("rgb_minus_best")
        if differences is not None and groups is not None:
            differences = pd.Series(differences).groupby(groups).mean().to_numpy()
        row |= {"p_value": _signed_rank(differences), "n_images": len(own)}
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


def _signed_rank(differences: npt.NDArray[np.float64] | None) -> float:
    """The two-sided p-value of Wilcoxon's signed-rank test; NaN where there is nothing to compare."""
    from scipy.stats import wilcoxon

    if differences is None or np.isnan(differences).any() or not differences.any():
        return float("nan")
    return float(wilcoxon(differences).pvalue)


def statement(summary: pd.DataFrame) -> list[str]:
    """What the table says of the methods for RGB images, one sentence for each that is not the best.

    Args:
        summary: rows of one mask ratio of :func:`summarise`.
    """
    ranked = summary[~summary["method"].isin(_UNPAIRED)]
    best = ranked.iloc[0]["method"]
    said = []
    for row in ranked.iloc[1:].to_dict("records"):
        distinct = row["rgb_minus_best_low"] > 0 and row["p_value"] < 0.05 / max(1, len(ranked) - 1)
        word = "better" if distinct else "not distinguishable from, on RGB,"
        than = f"than {row['method']} on RGB" if distinct else row["method"]
        said.append(
            f"{best} is {word} {than}: {row['rgb_minus_best']:.4f} "
            f"({row['rgb_minus_best_low']:.4f} … {row['rgb_minus_best_high']:.4f}) lower, p = {row['p_value']:.2g}, "
            f"{row['n_images']} images"
            + (f" of {row['n_observations']} observations" if row["n_observations"] > 1 else "")
        )
    return said


def typical_images(per_image: pd.DataFrame, count: int = 3) -> list[str]:
    """Ids of images to show: from easy to hard by their mean RGB loss, without the extremes."""
    ranked = per_image[~per_image["method"].isin(_UNPAIRED)].groupby("image_id")["rgb_loss"].mean().sort_values()
    places = np.linspace(0, len(ranked) - 1, min(count, len(ranked)) + 2)[1:-1]
    return list(dict.fromkeys(ranked.index[np.rint(places).astype(int)]))


@dataclass(frozen=True)
class Example:
    """An image and what each method made of it, in natural colour: uint8 (H, W, 3).

    Args:
        image_id: which image.
        original: the centre of the image.
        masked: the same, removed patches in grey.
        reconstructions: by method; removed patches as predicted, kept ones as they are.
    """

    image_id: str
    original: UInt8
    masked: UInt8
    reconstructions: dict[str, UInt8]


def reconstruct_examples(
    chips: pd.DataFrame, weights: Path, *, mask_ratio: float = 0.5, compute: Compute
) -> list[Example]:
    """Reconstructs a few images for showing. Arguments as for :func:`reconstruct`; the masks are the same."""
    import torch

    mae = open_weights(weights).load().to(compute.device)
    config = mae.config
    examples = []
    for image_id, rows in chips.groupby("image_id", sort=True):
        shown: dict[str, UInt8] = {}
        for batch in _batches(_records(rows), config, 1):
            (target,), (pred,), (mask,) = _predict(mae, batch, mask_ratio, compute.seed, compute)
            removed = mask.bool()[:, None, None].expand_as(target)
            height, width = batch.windows.shape[2:]
            grid = (1, height // config.patch_size[1], width // config.patch_size[2])
            patches = torch.stack([target, torch.where(removed, pred, target), removed.float()]).flatten(2)
            original, painted, hidden = mae.unpatchify(patches, grid)[:, :, 0].cpu().numpy()
            if batch.rows[0]["method"] != SPECTRAL:
                rgb = _natural_colour(original, config)
            shown[batch.rows[0]["method"]] = _natural_colour(painted, config)
        masked = np.where(hidden[0, ..., None] > 0, np.uint8(128), rgb)
        examples.append(Example(str(image_id), rgb, masked, shown))
    return examples


def _natural_colour(normalised: Float32, config: PrithviConfig) -> UInt8:
    statistics = config.statistics
    return reflectance_to_rgb(normalised * statistics.std + statistics.mean, statistics)


def draw_losses(summary: pd.DataFrame, paper: Mapping[str, tuple[float, float]] | None = None) -> Figure:
    """Both losses of each method with their intervals: the paper's Figure 2.

    Args:
        summary: from :func:`summarise`.
        paper: model loss and RGB loss of the paper by method, drawn beside as the paper's.
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
        axis.plot(*zip(*marks, strict=True), "kD", fillstyle="none", label="the paper's, on other images")
    axis.set_xticks(places, summary["method"])
    axis.set_ylabel("mean squared error, normalised units")
    first = summary.iloc[0]
    axis.set_title(f"Reconstruction of {first['n_images']} images, {first['mask_ratio']:.0%} masked (95 % intervals)")
    axis.legend()
    return figure


def draw_examples(examples: Sequence[Example], variant: str, mask_ratio: float) -> Figure:
    """Original, masked, and each method's reconstruction side by side: the paper's Figure 3.

    Args:
        examples: one a row.
        variant: the weights' name, for the title.
        mask_ratio: for the title.
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
