"""Chips as the tensors that the classifier takes.

They are read, normalised and brought to one size.

They are cached in memory within a bound.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from mars_assets.bands import HLS_BANDS, normalize
from mars_assets.encoders.config import EncoderConfig
from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.tensors.geotiff import read_bands, size_of
from mars_assets.training.augmentation import BRIGHTNESS, CONTRAST, NOISE, ORIENTATIONS, by_itself, oriented, relit
from mars_assets.training.memory import InMemory

Normalization = Literal["statistics", "image"]
SCALE = 1.25
"""Random scale is drawn from [1 / SCALE, SCALE], uniform in its logarithm."""
SHIFT = 0.1
"""Random shifts are drawn from [-SHIFT, SHIFT] of the side, along each side."""


def load_chip(path: Path, config: EncoderConfig, image_size: int, by: Normalization = "statistics") -> Tensor:
    """Read a chip, normalise it and resample it to a square.

    Args:
        path: a six-band chip, or a picture, see :func:`mars_assets.tensors.geotiff.read_bands`.
        config: of the weights: bands and statistics.
        image_size: side of the result.
        by: with the weights' statistics alone, or then also by the image's own mean and deviation in each band, since
            HiRISE's pictures are stretched band by band.

    Returns:
        float32 (C, image_size, image_size). A chip that is not square is stretched to one.

    Raises:
        DamagedFileError: the chip is missing, unreadable or has other bands.
        MarsError: the weights take other bands than the chips have.
    """
    if config.bands != HLS_BANDS:
        raise MarsError(
            f"chips have the bands {', '.join(HLS_BANDS)}, the weights take {', '.join(config.bands)}: choose weights "
            "of these bands"
        )
    bands = read_bands(path, config.statistics)
    chip = torch.from_numpy(normalize(bands, config.statistics))
    if by == "image":
        if bands[0].size == 1:
            raise DamagedFileError(f"{path} is a single pixel, which has no contrast to normalise by: remove it")
        chip = by_itself(chip)
    size = (image_size, image_size)
    if chip.shape[1:] == size:
        return chip
    return F.interpolate(chip[None], size=size, mode="bilinear", antialias=True)[0]


def median_side(paths: Sequence[Path]) -> float | None:
    """Compute the median side of images in pixels.

    The side of an image that is not square is the root of its area.

    Args:
        paths: their files, of which up to 200, evenly spaced, are opened. Those that cannot be read do not count.

    Returns:
        None if there are none.
    """
    sides = []
    for place in np.unique(np.linspace(0, len(paths) - 1, min(200, len(paths))).astype(int)):
        try:
            height, width = _size_of(paths[place], paths[place].stat().st_mtime_ns)
        except (DamagedFileError, OSError):
            continue
        sides.append((height * width) ** 0.5)
    return float(np.median(sides)) if sides else None


@functools.lru_cache(maxsize=4096)
def _size_of(path: Path, _changed: int) -> tuple[int, int]:
    """Read the size of a chip, height and width, once.

    A sweep asks of the same chips in each run, and opening them takes longer than training a head.
    """
    return size_of(path)


Inputs = InMemory[Tensor] | Tensor
"""What is classified, by an image's position: chips, or the features of a frozen encoder."""


def shares_of(images: pd.DataFrame, draw: str) -> npt.NDArray[np.float64] | None:
    """Compute how often each training image is drawn against the others.

    None: all as often.

    Args:
        images: ``label, observation`` of each.
        draw: see :class:`~mars_assets.classification.recipe.ClsRecipe`.
    """
    if draw == "images":
        return None
    shares = pd.Series(1.0, images.index)
    if draw == "observations":
        shares /= np.sqrt(images.groupby(["label", "observation"])["label"].transform("size"))
    return (shares / shares.groupby(images["label"]).transform("sum")).to_numpy()


def flip(chips: Tensor) -> Tensor:
    """Turn and mirror each chip of (B, C, H, H) at random.

    A chip gets one of the eight orientations of a square.
    """
    orientations = torch.randint(ORIENTATIONS, (len(chips),)).tolist()
    return torch.stack([oriented(chip, orientation) for chip, orientation in zip(chips, orientations, strict=True)])


def move(chips: Tensor) -> Tensor:
    """Mirror, turn, scale and shift each chip of (B, C, H, H) at random.

    Edges are mirrored.
    """
    b = len(chips)
    angle = 2 * torch.pi * torch.rand(b)
    zoom = SCALE ** (2 * torch.rand(b) - 1)
    mirror = 1.0 - 2.0 * torch.randint(2, (b,))
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    shift = 2 * SHIFT * (2 * torch.rand(2, b) - 1)  # the grid goes from -1 to 1
    rows = [torch.stack([cos * mirror, -sin, shift[0]], 1), torch.stack([sin * mirror, cos, shift[1]], 1)]
    matrices = torch.stack(rows, 1).to(chips.device)
    grid = F.affine_grid(matrices, list(chips.shape), align_corners=False)
    return F.grid_sample(chips, grid, padding_mode="reflection", align_corners=False)


def light(chips: Tensor) -> Tensor:
    """Change the light of each chip of (B, C, H, H) at random.

    Brightness and contrast change, the same for all bands.
    """
    shape = (len(chips), 1, 1, 1)
    contrast = (CONTRAST ** (2 * torch.rand(shape) - 1)).to(chips.device)
    brightness = (BRIGHTNESS * (2 * torch.rand(shape) - 1)).to(chips.device)
    mean = chips.mean(dim=(1, 2, 3), keepdim=True)
    return relit(chips, contrast, brightness, mean)


def grain(chips: Tensor) -> Tensor:
    """Add grain of random strength to each chip of (B, C, H, H).

    It is the same in all bands.
    """
    b, _, height, width = chips.shape
    strength = NOISE * torch.rand(b, 1, 1, 1).to(chips.device) * chips.std(dim=(1, 2, 3), keepdim=True)
    return chips + strength * torch.randn(b, 1, height, width).to(chips.device)


def augment(chips: Tensor, how: str) -> Tensor:
    """Augment normalised chips (B, C, H, H) as a recipe's ``augment`` says.

    Random numbers are those of torch's CPU generator.

    A crater seen from above is one in every orientation; the sun's azimuth is not fixed, so the light may turn with it.
    """
    if how == "flips":
        return flip(chips)
    if how == "full":
        return grain(light(move(chips)))
    return chips
