"""Changes after which an image of Mars shows the same.

They are orientation, light, grain, and normalisation by its own values.

Training and inference of all networks share them. The caller draws the random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mars_assets.bands import Float32, Pixels

MIDDLE = 127.5
"""The middle of the range of 8-bit values."""
ORIENTATIONS = 8
"""Number of orientations of a square."""
CONTRAST = 1.4
"""Random contrast is drawn from [1 / CONTRAST, CONTRAST], uniform in its logarithm."""
BRIGHTNESS = 0.3
"""Random brightness is drawn from [-BRIGHTNESS, BRIGHTNESS], in standard deviations."""
NOISE = 0.15
"""Random grain has a standard deviation drawn from [0, NOISE], in standard deviations of the image."""
FLAT = 0.05
"""Added to an image's standard deviation, in units of the statistics', so that a flat image does not become all noise.
"""


def relit(image: Pixels, contrast: Pixels | float, brightness: Pixels | float, centre: Pixels | float) -> Pixels:
    """Return an image in other light.

    This is ``(image - centre) * contrast + centre + brightness``.

    Args:
        image: an array or a tensor of any shape.
        contrast: factor of the deviation from ``centre``.
        brightness: what is added, in the image's units; grain is a brightness of each pixel's own.
        centre: the value that contrast leaves as it is. All three are numbers, or broadcast to the image's shape.
    """
    return (image - centre) * contrast + centre + brightness


def oriented(images: Tensor, orientation: int) -> Tensor:
    """Turn or mirror images (..., H, W).

    There are the eight orientations of a square; 0 leaves them as they are.
    """
    if not orientation:  # torch would copy them
        return images
    turned = torch.rot90(images, orientation % 4, (-2, -1))
    return turned.flip(-1) if orientation >= 4 else turned


def oriented_back(images: Tensor, orientation: int) -> Tensor:
    """Invert :func:`oriented`."""
    if not orientation:
        return images
    mirrored = images.flip(-1) if orientation >= 4 else images
    return torch.rot90(mirrored, -(orientation % 4), (-2, -1))


def by_itself(chip: Tensor) -> Tensor:
    """Normalise a normalised chip (C, H, W) also by itself.

    This is by its own mean and deviation in each band.
    """
    deviation, mean = torch.std_mean(chip, dim=(1, 2), keepdim=True)
    return (chip - mean) / (deviation + FLAT)


def bands_by_themselves(bands: Float32, means: Sequence[float], stds: Sequence[float]) -> Float32:
    """Compute the bands (C, H, W) of a chip normalised by itself.

    Normalised with these statistics, they are the result of :func:`by_itself`.
    """
    mean, std = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (means, stds))
    chip = torch.from_numpy(bands)
    own_deviation, own_mean = torch.std_mean(chip, dim=(1, 2), keepdim=True)
    return ((chip - own_mean).div_(own_deviation / std + FLAT).add_(mean)).numpy()
