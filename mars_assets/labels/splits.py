"""Splits in which no observation is divided."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import pandas as pd

from mars_assets.labels.formats.image import SPLITS
from mars_assets.storage.hashing import lot


def whole_groups(table: pd.DataFrame) -> pd.Series:
    """Splits in which no group is divided, as near to the exported ones as can be.

    A group that lies in one split stays there. Another goes to one of its own splits, each as likely as it has images
    there; its name draws the lot, so that other groups coming or going move none. Where that leaves a task, classified
    or outlined, without training or without validation, a divided group fills it: the one with the largest share there.

    Args:
        table: ``group, exported_split, label, n_craters`` of each image.

    Returns:
        Of each image.
    """
    shares = table.groupby("group")["exported_split"].value_counts(normalize=True).unstack(fill_value=0.0)
    shares = shares.reindex(columns=list(SPLITS), fill_value=0.0)
    chosen = {str(group): _drawn(str(group), row) for group, row in zip(shares.index, shares.to_numpy(), strict=True)}
    divided = shares.index[(shares > 0).sum(axis=1) > 1]
    for task in (table["label"].notna(), table["n_craters"].notna()):
        groups = set(table.loc[task, "group"])
        for split in ("valid", "train"):
            now = Counter(chosen[group] for group in groups)
            # A group may go where it has images, but not the last of the split that it leaves, unless that is test.
            movable = {
                group: shares.at[group, split]
                for group in divided
                if group in groups and shares.at[group, split] and (now[chosen[group]] > 1 or chosen[group] == "test")
            }
            if not now[split] and movable:
                chosen[max(movable, key=lambda group: (movable[group], group))] = split
    return table["group"].map(chosen)


def _drawn(group: str, shares: npt.NDArray[np.float64]) -> str:
    """One of ``SPLITS``, each as likely as its share; the group's name is the lot."""
    return SPLITS[int(np.searchsorted(shares.cumsum(), lot(f"split {group}") * shares.sum(), side="right"))]
