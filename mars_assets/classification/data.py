"""Chips as the tensors that the classifier sees: read, normalised, brought to one size, kept in memory within a bound."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from mars_assets.bands import HLS_BANDS, normalize
from mars_assets.chips import read_chip
from mars_assets.errors import MarsError
from mars_assets.prithvi.config import PrithviConfig

SCALE = 1.25
"""Random scale is drawn from [1 / SCALE, SCALE], uniform in its logarithm."""
CONTRAST = 1.4
"""Random contrast is drawn from [1 / CONTRAST, CONTRAST], uniform in its logarithm."""
BRIGHTNESS = 0.3
"""Random brightness is drawn from [-BRIGHTNESS, BRIGHTNESS], in standard deviations of the statistics."""


def load_chip(path: Path, config: PrithviConfig, image_size: int) -> Tensor:
    """Reads a chip, normalises it with the weights' statistics and resamples it to a square of ``image_size``.

    Returns:
        float32 (C, image_size, image_size). A chip that is not square is stretched to one.

    Raises:
        DamagedFileError: the chip is missing, unreadable or has other bands.
        MarsError: the weights take other bands than the chips have.
    """
    if config.bands != HLS_BANDS:
        raise MarsError(f"chips have the bands {', '.join(HLS_BANDS)}, the weights take {', '.join(config.bands)}")
    chip = torch.from_numpy(normalize(read_chip(path, HLS_BANDS), config.statistics))
    size = (image_size, image_size)
    if chip.shape[1:] == size:
        return chip
    return F.interpolate(chip[None], size=size, mode="bilinear", antialias=True)[0]


class Chips:
    """Chips by position, kept in memory once read for as long as there is room.

    Args:
        paths: their files.
        config: of the weights: bands and statistics.
        image_size: side of the tensors.
        memory_gb: how much may be kept; what is beyond it is read anew each time.
    """

    def __init__(self, paths: Sequence[Path], config: PrithviConfig, image_size: int, memory_gb: float) -> None:
        self._paths = paths
        self._config = config
        self._image_size = image_size
        self._room = int(memory_gb * 1e9)
        self._kept: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Tensor:
        """float32 (C, image_size, image_size)."""
        if index in self._kept:
            return self._kept[index]
        chip = load_chip(self._paths[index], self._config, self._image_size)
        if chip.nbytes <= self._room:
            self._room -= chip.nbytes
            self._kept[index] = chip
        return chip


class LabelledChips(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Pairs of a chip and its label, float32 scalar, for a DataLoader."""

    def __init__(self, chips: Chips, labels: Sequence[int]) -> None:
        self.chips = chips
        self.labels = torch.as_tensor(list(labels), dtype=torch.float32)

    def __len__(self) -> int:
        return len(self.chips)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.chips[index], self.labels[index]


def flip(chips: Tensor) -> Tensor:
    """Each chip of (B, C, H, H) in one of the eight orientations of a square, at random; no value changes."""
    turns = torch.randint(8, (len(chips),)).tolist()
    turned = [torch.rot90(chip, turn % 4, (1, 2)) for chip, turn in zip(chips, turns, strict=True)]
    return torch.stack([chip.flip(2) if turn >= 4 else chip for chip, turn in zip(turned, turns, strict=True)])


def turn_and_scale(chips: Tensor) -> Tensor:
    """Each chip of (B, C, H, H) mirrored or not, turned by any angle and scaled, at random; edges are mirrored outwards."""
    b = len(chips)
    angle = 2 * torch.pi * torch.rand(b)
    zoom = SCALE ** (2 * torch.rand(b) - 1)
    mirror = 1.0 - 2.0 * torch.randint(2, (b,))
    cos, sin, zero = angle.cos() / zoom, angle.sin() / zoom, torch.zeros(b)
    rows = [torch.stack([cos * mirror, -sin, zero], 1), torch.stack([sin * mirror, cos, zero], 1)]
    matrices = torch.stack(rows, 1).to(chips.device)
    grid = F.affine_grid(matrices, list(chips.shape), align_corners=False)
    return F.grid_sample(chips, grid, padding_mode="reflection", align_corners=False)


def light(chips: Tensor) -> Tensor:
    """Each chip of (B, C, H, H) in other brightness and contrast, at random, the same for all its bands."""
    shape = (len(chips), 1, 1, 1)
    contrast = (CONTRAST ** (2 * torch.rand(shape) - 1)).to(chips.device)
    brightness = (BRIGHTNESS * (2 * torch.rand(shape) - 1)).to(chips.device)
    mean = chips.mean(dim=(1, 2, 3), keepdim=True)
    return (chips - mean) * contrast + mean + brightness


def augment(chips: Tensor, how: str) -> Tensor:
    """Normalised chips (B, C, H, H), augmented as a recipe's ``augment`` says. Draws from torch's CPU generator.

    A crater seen from above is one in every orientation; the sun's azimuth is not fixed, so the light may turn with it.
    """
    if how == "flips":
        return flip(chips)
    if how == "full":
        return light(turn_and_scale(chips))
    return chips
