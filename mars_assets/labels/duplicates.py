"""Images that look the same: the same scene delivered twice, or an augmented copy, which must not straddle splits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL.Image import Image, Resampling

SIDE = 8
SAME = 3
"""Differing bits of 64 up to which two images count as the same."""
_FLAT = 8
"""Bits that must be set, and must not be, for a hash to say anything: that of an image without structure is all one."""
_PARTS = SAME + 1
"""Of a hash: two that differ in no more than ``SAME`` bits have at least one of these in common."""


def perceptual_hash(image: Image) -> str:
    """64 bits as 16 hexadecimal digits: whether brightness rises from each of 8 x 9 coarse pixels to its right
    neighbour.

    Changes little with compression, size, brightness and contrast. Source: the difference hash, "dHash", of N. Krawetz
    (2013).
    """
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
    hashes = np.array([int(value, 16) for value in table["phash"]], np.uint64)
    ones = np.bitwise_count(hashes)
    telling = np.flatnonzero((ones >= _FLAT) & (ones <= 64 - _FLAT))
    hashes, rows = hashes[telling], table.iloc[telling].reset_index(drop=True)
    group = pd.factorize(rows["group"])[0]
    pairs = _close_pairs(hashes, group)
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


def _close_pairs(hashes: npt.NDArray[np.uint64], group: npt.NDArray[np.intp]) -> npt.NDArray[np.int64]:
    """Positions a < b of hashes of two groups that differ in at most ``SAME`` bits, and in how many: (pairs, 3), in
    order.

    Only those that have a part in common are compared, so that the work grows with what is found and not with all
    pairs. A part is every ``_PARTS``-th bit: neighbouring ones, of the same slope, are more often alike.
    """
    bit = np.uint64(1) << np.arange(64, dtype=np.uint64)
    masks = [np.bitwise_or.reduce(bit[part::_PARTS]) for part in range(_PARTS)]
    found = [np.zeros((0, 3), np.int64)]
    for part, mask in enumerate(masks):
        order = np.argsort(hashes & mask, kind="stable")
        parts = (hashes & mask)[order]
        # Each with the next of its part, then the one after that, for as long as the part is the same.
        at, step = np.arange(len(order)), 1
        while (at := at[at + step < len(order)]).size:
            at = at[parts[at] == parts[at + step]]
            a, b = order[at], order[at + step]  # a < b, as sorting kept their order
            differing = hashes[a] ^ hashes[b]
            bits = np.bitwise_count(differing)
            kept = (bits <= SAME) & (group[a] != group[b])
            for before in masks[:part]:  # which have found these pairs
                kept &= (differing & before) != 0
            found.append(np.stack([a[kept], b[kept], bits[kept]], axis=1).astype(np.int64))
            step += 1
    pairs = np.concatenate(found)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
