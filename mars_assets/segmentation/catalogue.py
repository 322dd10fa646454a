"""Catalogue of the craters in predicted masks, with each image processed once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from mars_assets.code_versions import COUNTING
from mars_assets.craters.images import craters_of_image
from mars_assets.segmentation.prediction_file import prediction_key, read_mask, read_probability
from mars_assets.storage.cache import Cache
from mars_assets.storage.schema import columns_of, conformed


def crater_catalogue(
    images: pd.DataFrame,
    *,
    rim: int = 0,
    smallest_px: float = 0.0,
    cache: Cache | None = None,
) -> pd.DataFrame:
    """List the craters in predicted masks.

    See :func:`~mars_assets.craters.images.craters_of_image`.

    Args:
        images: ``image_id, observation, prediction`` (path of a PNG of
            :func:`~mars_assets.segmentation.predict.predict_masks`), ``chip`` (path; its georeference is used if it has
            one, unless there are columns ``crs`` (WKT) and ``transform`` (six numbers)).
        rim: width in pixels of the rims that masks show, see :func:`mars_assets.craters.geometry.craters_of_mask`.
        smallest_px: craters with a smaller diameter in pixels are left out.
        cache: craters of images that were processed before, used where ``images`` has ``chip_sha``.

    Returns:
        One row per crater, see :class:`mars_assets.craters.schema.CraterCatalogue`; largest first within an image.

    Raises:
        DamagedFileError: a prediction cannot be read.
    """
    from mars_assets.craters.schema import CraterCatalogue

    cache = cache or Cache(None, COUNTING)
    rows: list[dict[str, Any]] = []
    for image in images.to_dict("records"):
        path = Path(image["prediction"])
        key = prediction_key(path) if "chip_sha" in image else None
        place = [str(image["crs"]), str(image["transform"])] if "crs" in image else []
        made_from = None if key is None else ["craters", key, image["chip_sha"], rim, smallest_px, place]
        about = {"image_id": image["image_id"], "observation": image["observation"]}
        craters = cache.get(made_from, partial(_craters, image, path, rim, smallest_px))
        rows += [about | {"crater": number} | crater for number, crater in enumerate(craters, start=1)]
    table = pd.DataFrame(rows, columns=list(columns_of(CraterCatalogue)))
    return conformed(table, CraterCatalogue, "the catalogue of craters")


def _craters(image: Mapping[Any, Any], prediction: Path, rim: int, smallest_px: float) -> list[dict[str, Any]]:
    mask, probability = read_mask(prediction), read_probability(prediction)
    return craters_of_image(image, mask, probability, rim=rim, smallest_px=smallest_px)
