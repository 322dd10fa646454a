"""Detection of images that look the same, which must not lie in different splits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL.Image import Image, Resampling

SIDE = 8
SAME = 3
"""Most differing bits, of 64, between hashes of images that count as the same."""
_FLAT = 8
"""A hash is informative if at least this many bits are set and as many are not; that of a featureless image is not."""
_PARTS = SAME + 1
"""Parts of a hash: two hashes that differ in at most ``SAME`` bits agree in at least one of them."""


def perceptual_hash(image: Image) -> str:
    """Compute a 64-bit difference hash, as 16 hexadecimal digits.

    Each bit tells whether one of 8 x 8 coarse pixels is darker than its right neighbour. The hash changes little with
    compression, size, brightness and contrast. Source: "dHash", N. Krawetz (2013).
    """
    grey = np.asarray(image.convert("L").resize((SIDE + 1, SIDE), Resampling.BOX), np.int16)
    bits = grey[:, 1:] > grey[:, :-1]
    return np.packbits(bits).tobytes().hex()


def near_duplicates(table: pd.DataFrame) -> pd.DataFrame:
    """Find pairs of images that look the same but belong to different groups.

    Args:
        table: ``image_id, group, split, phash`` of each image.

    Returns:
        ``image_a, image_b, split_a, split_b, bits`` (how many differ), pairs in different splits first.
    """
    hashes = np.array([int(value, 16) for value in table["phash"]], np.uint64)
    ones = np.bitwise_count(hashes)
    telling = np.flatnonzero((ones >= _FLAT) & (ones <= 64 - _FLAT))
    hashes, rows = hashes[telling], table.iloc[telling].reset_index(drop=True)
    group = pd.factorize(rows["group"])[0]
    a, b, bits = _close_pairs(hashes, group).T
    names, splits = rows["image_id"].to_numpy(), rows["split"].to_numpy()
    result = pd.DataFrame(
        {"image_a": names[a], "image_b": names[b], "split_a": splits[a], "split_b": splits[b], "bits": bits}
    )
    return result.iloc[np.lexsort((bits, splits[a] == splits[b]))].reset_index(drop=True)


def _close_pairs(hashes: npt.NDArray[np.uint64], group: npt.NDArray[np.intp]) -> npt.NDArray[np.int64]:
    """Find hashes of different groups that differ in at most ``SAME`` bits.

    Only hashes that agree in a part are compared, so that the work grows with the matches and not with all pairs. A
    part is every ``_PARTS``-th bit, because neighbouring bits, often on the same slope, are correlated.

    Returns:
        Positions a < b and the number of differing bits: (pairs, 3), sorted.
    """
    bit = np.uint64(1) << np.arange(64, dtype=np.uint64)
    masks = [np.bitwise_or.reduce(bit[part::_PARTS]) for part in range(_PARTS)]
    found = [np.zeros((0, 3), np.int64)]
    for part, mask in enumerate(masks):
        order = np.argsort(hashes & mask, kind="stable")
        parts = (hashes & mask)[order]
        # Compare each hash with its next neighbour in sort order, then the one after, while their parts agree.
        at, step = np.arange(len(order)), 1
        while (at := at[at + step < len(order)]).size:
            at = at[parts[at] == parts[at + step]]
            a, b = order[at], order[at + step]  # a < b, as the sort is stable
            differing = hashes[a] ^ hashes[b]
            bits = np.bitwise_count(differing)
            kept = (bits <= SAME) & (group[a] != group[b])
            for before in masks[:part]:  # pairs that agree in an earlier part were found there
                kept &= (differing & before) != 0
            found.append(np.stack([a[kept], b[kept], bits[kept]], axis=1).astype(np.int64))
            step += 1
    pairs = np.concatenate(found)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
