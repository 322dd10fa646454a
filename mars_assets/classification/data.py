"""Chips as the tensors that the classifier sees: read, normalised, brought to one size, kept in memory within a bound."""

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
from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.images import SUFFIXES, image_size
from mars_assets.prithvi.config import PrithviConfig
from mars_assets.storage.geotiff import chip_size
from mars_assets.tensors.geotiff import read_bands
from mars_assets.training.augmentation import BRIGHTNESS, CONTRAST, NOISE, ORIENTATIONS, by_itself, oriented, relit

Normalization = Literal["statistics", "image"]
SCALE = 1.25
"""Random scale is drawn from [1 / SCALE, SCALE], uniform in its logarithm."""
SHIFT = 0.1
"""Random shifts are drawn from [-SHIFT, SHIFT] of the side, along each side."""


def load_chip(path: Path, config: PrithviConfig, image_size: int, by: Normalization = "statistics") -> Tensor:
    """Reads a chip, normalises it and resamples it to a square of ``image_size``.

    Args:
        path: a six-band chip, or a JPEG or PNG, see :func:`mars_assets.tensors.geotiff.read_bands`.
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
        raise MarsError(f"chips have the bands {', '.join(HLS_BANDS)}, the weights take {', '.join(config.bands)}")
    bands = read_bands(path, config.statistics)
    chip = torch.from_numpy(normalize(bands, config.statistics))
    if by == "image":
        chip = by_itself(chip)
    size = (image_size, image_size)
    if chip.shape[1:] == size:
        return chip
    return F.interpolate(chip[None], size=size, mode="bilinear", antialias=True)[0]


def median_side(paths: Sequence[Path], most: int = 200) -> float | None:
    """The median side of images in pixels, of one that is not square the root of its area.

    Args:
        paths: their files; of those that cannot be read nothing is said.
        most: of how many headers are read, evenly spaced.

    Returns:
        None where there are none.
    """
    sides = []
    for place in np.unique(np.linspace(0, len(paths) - 1, min(most, len(paths))).astype(int)):
        try:
            height, width = _size_of(paths[place], paths[place].stat().st_mtime_ns)
        except (DamagedFileError, OSError):
            continue
        sides.append((height * width) ** 0.5)
    return float(np.median(sides)) if sides else None


@functools.lru_cache(maxsize=4096)
def _size_of(path: Path, _changed: int) -> tuple[int, int]:
    """Remembered: a sweep asks of the same chips in each run, and opening them takes longer than training a head."""
    return image_size(path, "repair it") if path.suffix.lower() in SUFFIXES else chip_size(path)


class Chips:
    """Chips by position, kept in memory once read for as long as there is room.

    Args:
        paths: their files.
        config: of the weights: bands and statistics.
        image_size: side of the tensors.
        memory_gb: how much may be kept; what is beyond it is read anew each time.
        by: see :func:`load_chip`.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        config: PrithviConfig,
        image_size: int,
        memory_gb: float,
        by: Normalization = "statistics",
    ) -> None:
        self._paths = paths
        self._config = config
        self._image_size = image_size
        self._by: Normalization = by
        self._room = int(memory_gb * 1e9)
        self._kept: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Tensor:
        """float32 (C, image_size, image_size)."""
        if index in self._kept:
            return self._kept[index]
        chip = load_chip(self._paths[index], self._config, self._image_size, self._by)
        if chip.nbytes <= self._room:
            self._room -= chip.nbytes
            self._kept[index] = chip
        return chip


Inputs = Chips | Tensor
"""What is classified, by an image's position: chips, or the features of a frozen encoder."""


def shares_of(images: pd.DataFrame, draw: str) -> npt.NDArray[np.float64] | None:
    """How often each training image is drawn against the others, as a recipe's ``draw`` says; None: all as often.

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
    """Each chip of (B, C, H, H) in one of the eight orientations of a square, at random."""
    orientations = torch.randint(ORIENTATIONS, (len(chips),)).tolist()
    return torch.stack([oriented(chip, orientation) for chip, orientation in zip(chips, orientations, strict=True)])


def move(chips: Tensor) -> Tensor:
    """Each chip of (B, C, H, H) mirrored or not, turned by any angle, scaled and shifted, at random; edges are mirrored."""
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
    """Each chip of (B, C, H, H) in other brightness and contrast, at random, the same for all its bands."""
    shape = (len(chips), 1, 1, 1)
    contrast = (CONTRAST ** (2 * torch.rand(shape) - 1)).to(chips.device)
    brightness = (BRIGHTNESS * (2 * torch.rand(shape) - 1)).to(chips.device)
    mean = chips.mean(dim=(1, 2, 3), keepdim=True)
    return relit(chips, contrast, brightness, mean)


def grain(chips: Tensor) -> Tensor:
    """Each chip of (B, C, H, H) with grain of another strength, the same in all its bands."""
    b, _, height, width = chips.shape
    strength = NOISE * torch.rand(b, 1, 1, 1).to(chips.device) * chips.std(dim=(1, 2, 3), keepdim=True)
    return chips + strength * torch.randn(b, 1, height, width).to(chips.device)


def augment(chips: Tensor, how: str) -> Tensor:
    """Normalised chips (B, C, H, H), augmented as a recipe's ``augment`` says. Draws from torch's CPU generator.

    A crater seen from above is one in every orientation; the sun's azimuth is not fixed, so the light may turn with it.
    """
    if how == "flips":
        return flip(chips)
    if how == "full":
        return grain(light(move(chips)))
    return chips
