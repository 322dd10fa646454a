"""Random masking of patches."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor


class Masking(NamedTuple):
    """A selection of patches.

    Args:
        ids_keep: int64 (B, L_keep), the visible patches in the order of their noise.
        mask: float32 (B, L), 1 where a patch is removed, 0 where it is visible.
        ids_restore: int64 (B, L), the index of each patch in [visible, removed].
    """

    ids_keep: Tensor
    mask: Tensor
    ids_restore: Tensor


def random_masking(noise: Tensor, mask_ratio: float) -> Masking:
    """Keep the int(L * (1 - mask_ratio)) patches with the smallest noise, (B, L)."""
    keep = int(noise.shape[1] * (1 - mask_ratio))
    ids_shuffle = noise.argsort(dim=1)
    ids_restore = ids_shuffle.argsort(dim=1)
    return Masking(ids_shuffle[:, :keep], (ids_restore >= keep).float(), ids_restore)


def mask_noise(image_id: str, seed: int, patches: int) -> npt.NDArray[np.float64]:
    """Draw the noise that orders an image's patches.

    It is a function of its id and the seed alone.

    The noise is in double precision. In single precision one image in a thousand would likely have a tie, which devices
    break differently.

    Returns:
        float64, shape (patches,).
    """
    digest = hashlib.sha256(f"{seed} {image_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "big")).random(patches)
