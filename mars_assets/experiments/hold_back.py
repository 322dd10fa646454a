"""Training observations that a sweep holds back, so that a score exists that no choice between recipes has touched."""

from __future__ import annotations

import pandas as pd

from mars_assets.errors import MarsError
from mars_assets.storage.hashing import lot

HELD_BACK = "held_back"
"""The split of training observations that a sweep holds back."""


def hold_back(images: pd.DataFrame, share: float) -> pd.DataFrame:
    """Move a share of the training observations into the split ``held_back``: the same ones for every sweep.

    An observation's own hash decides, so that new observations move no others; but at least one is held back, and at
    least one is left to train on.

    Raises:
        MarsError: there are fewer than two training observations.
    """
    if not share:
        return images
    draws = _draws(images)
    if len(draws) < 2:
        raise MarsError("hold_back needs at least two training observations: label crops of others, or set it to 0")
    ordered = sorted(draws, key=lambda name: draws[name])
    return _moved(images, {name for name in ordered[:-1] if draws[name] < share} or {ordered[0]})


def hold_back_part(images: pd.DataFrame, folds: int, fold: int) -> pd.DataFrame:
    """Move one of ``folds`` parts of the training observations into the split ``held_back``.

    Observations draw the same lots as in :func:`hold_back`, so that each is in one part, whatever others there are, and
    the first of five parts is what a share of a fifth holds back. With few observations a part may be empty.

    Raises:
        MarsError: all training observations are in this part.
    """
    draws = _draws(images)
    held = {name for name, draw in draws.items() if int(draw * folds) == fold}
    if len(held) == len(draws):
        raise MarsError(
            f"folds: all {len(draws)} training observations fall into the same of {folds} parts: label crops of "
            "others, or take more parts"
        )
    return _moved(images, held)


def _draws(images: pd.DataFrame) -> dict[str, float]:
    """A number in [0, 1) for each training observation."""
    trained = images.loc[images["split"] == "train", "observation"].astype(str)
    return {name: lot(f"hold back {name}") for name in trained}


def _moved(images: pd.DataFrame, observations: set[str]) -> pd.DataFrame:
    moved = (images["split"] == "train") & images["observation"].astype(str).isin(observations)
    return images.assign(split=images["split"].mask(moved, HELD_BACK))
