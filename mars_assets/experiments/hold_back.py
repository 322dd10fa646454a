"""Held-out training observations.

Their scores are unaffected by the choice between recipes.
"""

from __future__ import annotations

import pandas as pd

from mars_assets.errors import MarsError
from mars_assets.storage.hashing import lot

HELD_BACK = "held_back"
"""The split of training observations that a sweep holds out."""


def hold_back(images: pd.DataFrame, share: float) -> pd.DataFrame:
    """Move a share of the training observations into the split ``held_back``.

    The selection depends only on the hash of each observation's id, so it is the same for every sweep, and new
    observations do not move others. At least one observation is held out, and at least one is left for training.

    Raises:
        MarsError: there are fewer than two training observations.
    """
    if not share:
        return images
    draws = _draws(images)
    if len(draws) < 2:
        raise MarsError(
            "hold_back needs at least two training observations: label crops of further ones, or set it to 0"
        )
    ordered = sorted(draws, key=lambda name: draws[name])
    return _moved(images, {name for name in ordered[:-1] if draws[name] < share} or {ordered[0]})


def hold_back_part(images: pd.DataFrame, folds: int, fold: int) -> pd.DataFrame:
    """Move a part of the training observations into ``held_back``.

    It is one of ``folds`` parts.

    Observations are selected by the same hashes as in :func:`hold_back`: an observation is always in the same part, and
    the first of five parts is the share of a fifth. With few observations a part may be empty.

    Raises:
        MarsError: all training observations are in this part.
    """
    draws = _draws(images)
    held = {name for name, draw in draws.items() if int(draw * folds) == fold}
    if len(held) == len(draws):
        raise MarsError(
            f"folds: all {len(draws)} training observations are in the same of {folds} parts: label crops of further "
            "ones, or choose more parts"
        )
    return _moved(images, held)


def _draws(images: pd.DataFrame) -> dict[str, float]:
    """Compute a fixed random number in [0, 1) for each training observation."""
    trained = images.loc[images["split"] == "train", "observation"].astype(str)
    return {name: lot(f"hold back {name}") for name in trained}


def _moved(images: pd.DataFrame, observations: set[str]) -> pd.DataFrame:
    moved = (images["split"] == "train") & images["observation"].astype(str).isin(observations)
    return images.assign(split=images["split"].mask(moved, HELD_BACK))
