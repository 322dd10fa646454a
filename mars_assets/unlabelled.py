"""The lake's crops that nobody has labelled yet."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from mars_assets.errors import MarsError
from mars_assets.imagery.crops import kept_crops
from mars_assets.lake import Lake, read_table

if TYPE_CHECKING:
    import pandas as pd

_SEPARATOR = re.compile(r"[^0-9A-Za-z]")


def unlabelled_crops(lake: Lake, lacking: Literal["label", "n_craters"], columns: Sequence[str] = ()) -> pd.DataFrame:
    """The lake's kept crops that lack a label of one kind, they and every tile of theirs.

    Args:
        lake: where they are.
        lacking: ``label`` for crops without a class, ``n_craters`` for those without outlines.
        columns: further ones of the crops' manifests.

    Returns:
        ``image_id, observation, chip`` (path of the PNG), ``chip_sha`` (of how it was cut) and ``columns``.

    Raises:
        MarsError: there are none.
    """
    crops = kept_crops(lake, columns)
    if crops.empty:
        raise MarsError("there are no crops to predict: make 'hirise_images' and 'crops' of an observation")
    every = crops.rename(columns={"crop_id": "image_id", "cut": "chip_sha"}).assign(chip=crops["path"].map(str))
    if lake.labelled_crops.exists():
        labels = read_table(lake.labelled_crops, "labelled_crops", ["image_id", "original", lacking])
        labels = labels[labels[lacking].notna()]
        every = every[~every["image_id"].isin(_and_beginnings({*labels["image_id"], *labels["original"]}))]
    if every.empty:
        what = "have a class" if lacking == "label" else "have outlines"
        raise MarsError(f"all crops {what} already: cut other observations")
    return every[["image_id", "observation", "chip", "chip_sha", *columns]].reset_index(drop=True)


def _and_beginnings(names: set[str]) -> set[str]:
    """Names, and what is before any separator in them: a tile is called as its crop and something after that."""
    return names | {name[: separator.start()] for name in names for separator in _SEPARATOR.finditer(name)}
