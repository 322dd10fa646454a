"""Assignment of splits that never divide an observation."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mars_assets.labels.formats.image import SPLITS
from mars_assets.storage.hashing import lot


def whole_groups(table: pd.DataFrame) -> pd.Series:
    """Assign every group to one split, as close to the exported as possible.

    A group that was exported in one split stays there. Any other goes to one of its exported splits with a probability
    equal to its share of images there; the draw depends only on the group's name, so that adding or removing other
    groups does not move it. If that leaves classification or segmentation without training or validation images, the
    divided group with the largest share in the missing split is moved there.

    Args:
        table: ``group, exported_split, label, n_craters`` of each image.

    Returns:
        The split of each image.
    """
    shares = table.groupby("group")["exported_split"].value_counts(normalize=True).unstack(fill_value=0)
    shares = shares.reindex(columns=list(SPLITS), fill_value=0.0)
    chosen = {str(group): _drawn(str(group), row) for group, row in zip(shares.index, shares.to_numpy(), strict=True)}
    divided = shares.index[(shares > 0).sum(axis=1) > 1]
    for task in (table["label"].notna(), table["n_craters"].notna()):
        groups = set(table.loc[task, "group"])
        for split in ("valid", "train"):
            now = Counter(chosen[group] for group in groups)
            # A group may move to where it has images unless it is the last one in its split, test excepted.
            movable = {
                group: shares.at[group, split]
                for group in divided
                if group in groups and shares.at[group, split] and (now[chosen[group]] > 1 or chosen[group] == "test")
            }
            if not now[split] and movable:
                chosen[max(movable, key=lambda group: (movable[group], group))] = split
    return table["group"].map(chosen)


def divided_groups(table: pd.DataFrame) -> list[dict[str, Any]]:
    """List the groups that were exported in several splits.

    Args:
        table: ``group, exported_split, split`` of each image.

    Returns:
        For each group its name, number of images, exported splits, and the split that it was assigned to.
    """
    return [
        {
            "group": group,
            "images": len(rows),
            "exported": ", ".join(sorted(set(rows["exported_split"]))),
            "now": rows["split"].iloc[0],
        }
        for group, rows in table.groupby("group")
        if rows["exported_split"].nunique() > 1
    ]


def _drawn(group: str, shares: npt.NDArray[np.float64]) -> str:
    """Draw one of ``SPLITS`` with given probabilities, seeded by the group."""
    return SPLITS[int(np.searchsorted(shares.cumsum(), lot(f"split {group}") * shares.sum(), side="right"))]
