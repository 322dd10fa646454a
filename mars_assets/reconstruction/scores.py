"""Masked reconstruction of Mars, for each imputation method.

The protocol is that of Patel et al. 2024, section on imputation: half of the patches are removed, the model predicts
them from the rest, and two losses are computed over the removed patches in normalised units: one over all six channels
("model loss"), one over blue, green and red ("RGB loss"). Each image has one mask for all methods, so that the
comparison is paired. An image larger than the model's input is cropped to its centre. Extensions of the protocol are
several masks per image, several mask ratios, and PSNR and SSIM of the predicted pixels in natural colour.

``spectral`` exists only for crops of calibrated products, and its pixels are measured instead of stretched. Its losses
are therefore those of other images and other values.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from skimage.metrics import structural_similarity

from mars_assets.bands import SPECTRAL, Float32, denormalize, normalize, reflectance_to_rgb
from mars_assets.code_versions import RECONSTRUCTION
from mars_assets.errors import MarsError
from mars_assets.prithvi.config import PrithviConfig
from mars_assets.prithvi.masking import mask_noise
from mars_assets.prithvi.weights import open_weights
from mars_assets.progress import SILENT, Progress
from mars_assets.storage.cache import Cache
from mars_assets.storage.files import as_rows
from mars_assets.storage.hashing import fingerprint
from mars_assets.tensors.geotiff import Part, read_part
from mars_assets.threads import in_threads
from mars_assets.training.compute import Compute

if TYPE_CHECKING:
    from torch import Tensor

    from mars_assets.prithvi.model import PrithviMAE


ANCHOR = "hls"
"""Name of the method for chips of Earth, which the model was trained on: a reference for its best performance."""

SCORES = ("model_loss", "rgb_loss", "psnr", "ssim")

_PERFECT_DB = 100.0  # upper limit of the PSNR, which is infinite without errors and then not valid JSON
_SSIM_WINDOW = 7
UInt8 = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class ReconstructionSettings:
    """Settings of a reconstruction.

    Args:
        compute: device, precision, and the seed of the masks.
        mask_ratio: share of the patches to remove.
        batch_size: chips per batch; it does not affect the scores.

    Raises:
        MarsError: the ratio removes no patch or all patches.
    """

    compute: Compute
    mask_ratio: float = 0.5
    batch_size: int = 32

    def __post_init__(self) -> None:
        if not 0 < self.mask_ratio < 1:
            raise MarsError(f"mask_ratio={self.mask_ratio}: reconstruction needs a ratio between 0 and 1, exclusive")


def reconstruct(
    chips: pd.DataFrame,
    weights: Path,
    settings: ReconstructionSettings,
    cache: Cache | None = None,
    progress: Progress = SILENT,
) -> pd.DataFrame:
    """Score the reconstruction of every chip.

    Args:
        chips: one row per image and method: image_id, method, path of the six-band chip in reflectance units, chip_sha.
        weights: folder of the weights.
        settings: masks, batches and device.
        cache: scores from earlier calls with the same weights and settings.
        progress: reports the chips.

    Returns:
        One row per chip, in order of the images: image_id, method, model_loss, rgb_loss, psnr (dB) and ssim of the
        removed pixels in natural colour, chip_sha, mask_ratio, seed, weights (sha256), precision, recipe (fingerprint
        of all settings), computed (whether by this call).

    Raises:
        MarsError: a chip is smaller than a patch, or the model was trained with another loss (``norm_pix_loss``).
        DamagedFileError: a chip cannot be read.
    """
    config, sha256, load = open_weights(weights)
    if config.norm_pix_loss:
        raise MarsError(
            f"{weights} predicts patches in normalised units of their own: choose weights without norm_pix_loss"
        )
    compute, mask_ratio = settings.compute, settings.mask_ratio
    about: dict[str, Any] = {
        "mask_ratio": mask_ratio,
        "seed": compute.seed,
        "weights": sha256,
        "precision": compute.precision,
    }
    about["recipe"] = fingerprint(RECONSTRUCTION, config.to_dict(), about)
    chips = chips.sort_values(["image_id", "method"], kind="stable", ignore_index=True)
    rows = as_rows(chips)
    computed: set[int] = set()

    def compute_scores(places: list[int]) -> Iterator[list[float]]:
        computed.update(places)
        mae = load().to(compute.device)
        counter = progress.counter("reconstructing chips", len(places))
        for batch in _batches([rows[place] for place in places], config, settings.batch_size):
            yield from _scores(mae, _predict(mae, batch, mask_ratio, compute)).tolist()
            counter.advance(len(batch.rows))
        counter.close()

    cache = cache or Cache(None, RECONSTRUCTION)
    keys = [[about["recipe"], row["image_id"], row["chip_sha"]] for row in rows]
    scores = pd.DataFrame(cache.get_all(keys, compute_scores), columns=list(SCORES))
    columns = ["image_id", "method", *SCORES, "chip_sha", *about, "computed"]
    return chips.join(scores).assign(**about, computed=chips.index.isin(list(computed)))[columns]


class _Batch(NamedTuple):
    """Rows of the chips table with their normalised centres, float32 (B, C, H, W)."""

    rows: list[dict[str, Any]]
    windows: Float32


def _batches(rows: Sequence[dict[str, Any]], config: PrithviConfig, batch_size: int) -> Iterator[_Batch]:
    """Load batches of windows of equal size, reading ahead in threads."""
    windows = in_threads(lambda row: centre_window(row["path"], config), rows, 2 * batch_size)
    for _, same in itertools.groupby(zip(rows, windows, strict=True), lambda pair: pair[1].shape):
        while pairs := list(itertools.islice(same, batch_size)):
            yield _Batch([row for row, _ in pairs], np.stack([window for _, window in pairs]))


def centre_window(path: Path, config: PrithviConfig) -> Float32:
    """Read the normalised centre of a chip.

    Returns:
        float32, shape (bands, H, W): the model's input size, or for a smaller chip as many whole patches as fit.

    Raises:
        DamagedFileError: it cannot be read, or has other bands.
        MarsError: it is smaller than a patch.
    """

    def centre(height: int, width: int) -> Part:
        patch_rows, patch_columns = config.patch_size[1:]
        rows = min(config.img_size, height // patch_rows * patch_rows)
        columns = min(config.img_size, width // patch_columns * patch_columns)
        if not rows or not columns:
            raise MarsError(
                f"{path} is {width} x {height} pixels, smaller than a patch of {patch_columns} x {patch_rows}: "
                "choose a larger image"
            )
        top, left = (height - rows) // 2, (width - columns) // 2
        return (top, top + rows), (left, left + columns)

    return normalize(read_part(path, config.bands, centre), config.statistics)


class _Predicted(NamedTuple):
    """A batch's patches and images.

    Args:
        target: original patches, float32 (B, L, pixels, channels).
        pred: predicted patches, likewise.
        mask: float32 (B, L), 1 where a patch was removed.
        images: original images, images with the removed patches as predicted, and 1 at the removed pixels, float32
            (B, C, H, W) each.
    """

    target: Tensor
    pred: Tensor
    mask: Tensor
    images: tuple[Tensor, Tensor, Tensor]


def _predict(mae: PrithviMAE, batch: _Batch, mask_ratio: float, compute: Compute) -> _Predicted:
    x = torch.from_numpy(batch.windows).to(compute.device)
    target = mae.patchify(x)
    noise = np.stack([mask_noise(row["image_id"], compute.seed, target.shape[1]) for row in batch.rows])
    with torch.inference_mode(), compute.autocast():
        _, pred, mask = mae(x, mask_ratio, torch.from_numpy(noise).to(compute.device))
    pred, removed = pred.float(), mask[:, :, None].expand_as(target)
    grid = mae.encoder.grid(x[:, :, None])
    painted, hidden = mae.unpatchify(torch.where(removed.bool(), pred, target), grid), mae.unpatchify(removed, grid)
    channels = mae.config.in_chans
    target, pred = target.unflatten(2, (-1, channels)), pred.unflatten(2, (-1, channels))
    return _Predicted(target, pred, mask, (x, painted[:, :, 0], hidden[:, :, 0]))


def _scores(mae: PrithviMAE, predicted: _Predicted) -> Tensor:
    """Compute the ``SCORES`` of each image, (B, 4)."""
    target, pred, mask, (original, painted, hidden) = predicted
    error = (pred - target).square()
    patches = torch.stack([error.mean(dim=(2, 3)), error[..., :3].mean(dim=(2, 3))], dim=-1)
    losses = (patches * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)

    # In natural colour white is 1, so errors are relative to the range of an 8-bit picture.
    statistics = mae.config.statistics
    scale = torch.from_numpy((statistics.std[:3] / statistics.white).ravel()).to(error.device)
    squared = (error[..., :3] * scale.square()).mean(dim=(2, 3))
    mse = (squared * mask).sum(dim=1) / mask.sum(dim=1)
    psnr = -10 * mse.clamp_min(10 ** (-_PERFECT_DB / 10)).log10()

    offset = torch.from_numpy((statistics.mean[:3] / statistics.white).ravel()).to(error.device)[:, None, None]
    one, other = (image[:, :3] * scale[:, None, None] + offset for image in (original, painted))
    ssim = _ssim(one, other, hidden[:, 0])
    return torch.cat([losses, psnr[:, None], ssim[:, None]], dim=1)


def _ssim(x: Tensor, y: Tensor, where: Tensor) -> Tensor:
    """Compute the mean structural similarity over the pixels of a mask.

    The data range is 1.

    Windows have 7 x 7 pixels with equal weights and sample covariance; windows that leave the image are excluded. Wang
    et al. 2004, Image quality assessment: from error visibility to structural similarity, equation 13. NumPy takes a
    third of the CPU time of torch's pooling.

    Args:
        x: float32, (B, C, H, W).
        y: likewise.
        where: 1 at the pixels to include, (B, H, W).

    Returns:
        float32 (B,); NaN if no window is included.
    """
    half = _SSIM_WINDOW // 2
    inner = np.s_[half:-half, half:-half]
    means = []
    for one, other, counted in zip(*(images.cpu().numpy() for images in (x, y, where)), strict=True):
        if min(counted.shape) < _SSIM_WINDOW or not counted[inner].any():
            means.append(np.nan)
            continue
        _, similarity = structural_similarity(
            one, other, win_size=_SSIM_WINDOW, data_range=1.0, channel_axis=0, full=True
        )
        means.append(np.average(similarity.mean(axis=0)[inner], weights=counted[inner]))
    return torch.tensor(means, dtype=torch.float32, device=x.device)


@dataclass(frozen=True)
class Example:
    """An image and its reconstructions in natural colour: uint8 (H, W, 3).

    Args:
        image_id: id of the image.
        original: the centre of the image.
        masked: the same, with the removed patches in grey.
        reconstructions: the same for each method, with the removed patches as predicted.
    """

    image_id: str
    original: UInt8
    masked: UInt8
    reconstructions: dict[str, UInt8]


def reconstruct_examples(
    chips: pd.DataFrame, weights: Path, *, mask_ratio: float = 0.5, compute: Compute
) -> list[Example]:
    """Reconstruct a few images as pictures.

    They have the same masks as in :func:`reconstruct`.

    Args:
        chips: as for :func:`reconstruct`.
        weights: folder of the weights.
        mask_ratio: share of the patches to remove.
        compute: device, precision and seed of the masks.
    """
    mae = open_weights(weights).load().to(compute.device)
    config = mae.config
    examples = []
    for image_id, rows in chips.groupby("image_id", sort=True):
        shown: dict[str, UInt8] = {}
        for batch in _batches(as_rows(rows), config, 1):
            images = _predict(mae, batch, mask_ratio, compute).images
            original, painted, hidden = (image[0].cpu().numpy() for image in images)
            method = batch.rows[0]["method"]
            if method != SPECTRAL:
                rgb = _natural_colour(original, config)
            shown[method] = _natural_colour(painted, config)
        masked = np.where(hidden[0, ..., None] > 0, np.uint8(128), rgb)
        examples.append(Example(str(image_id), rgb, masked, shown))
    return examples


def _natural_colour(normalised: Float32, config: PrithviConfig) -> UInt8:
    return reflectance_to_rgb(denormalize(normalised, config.statistics), config.statistics)
