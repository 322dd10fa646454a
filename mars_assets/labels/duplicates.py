"""Images that look the same: the same scene delivered twice, or an augmented copy, which must not straddle splits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image

SIDE = 8
SAME = 3
"""Differing bits of 64 up to which two images count as the same."""
_FLAT = 8
"""Bits that must be set, and must not be, for a hash to say anything: that of an image without structure is all one."""
_BLOCK = 1024


def perceptual_hash(image: Image) -> str:
    """64 bits as 16 hexadecimal digits: whether brightness rises from each of 8 x 9 coarse pixels to its right neighbour.

    Changes little with compression, size, brightness and contrast. Source: the difference hash, "dHash", of N. Krawetz (2013).
    """
    from PIL.Image import Resampling

    grey = np.asarray(image.convert("L").resize((SIDE + 1, SIDE), Resampling.BOX), np.int16)
    bits = grey[:, 1:] > grey[:, :-1]
    return np.packbits(bits).tobytes().hex()


def near_duplicates(table: pd.DataFrame) -> pd.DataFrame:
    """Pairs of images that look the same and are not of one group.

    Args:
        table: ``image_id, group, split, phash`` of each image.

    Returns:
        ``image_a, image_b, split_a, split_b, bits`` (that differ), those in two splits first.
    """
    import pandas as pd

    hashes = np.array([int(value, 16) for value in table["phash"]], np.uint64)
    ones = np.bitwise_count(hashes)
    telling = np.flatnonzero((ones >= _FLAT) & (ones <= 64 - _FLAT))
    hashes, rows = hashes[telling], table.iloc[telling].reset_index(drop=True)
    group = pd.factorize(rows["group"])[0]
    found: list[npt.NDArray[np.int64]] = []
    for start in range(0, len(hashes), _BLOCK):
        bits = np.bitwise_count(hashes[start : start + _BLOCK, None] ^ hashes[None])
        a, b = np.nonzero(bits <= SAME)
        a += start
        apart = (a < b) & (group[a] != group[b])
        found.append(np.stack([a[apart], b[apart], bits[a[apart] - start, b[apart]]], axis=1).astype(np.int64))
    pairs = np.concatenate(found) if found else np.zeros((0, 3), np.int64)
    first, second = rows.iloc[pairs[:, 0]], rows.iloc[pairs[:, 1]]
    result = pd.DataFrame(
        {
            "image_a": first["image_id"].to_numpy(),
            "image_b": second["image_id"].to_numpy(),
            "split_a": first["split"].to_numpy(),
            "split_b": second["split"].to_numpy(),
            "bits": pairs[:, 2],
        }
    )
    straddles = (result["split_a"] != result["split_b"]).to_numpy()
    return result.iloc[np.lexsort((result["bits"], ~straddles))].reset_index(drop=True)
