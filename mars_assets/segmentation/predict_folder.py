"""Craters in image files that nobody has outlined."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from mars_assets.errors import MarsError
from mars_assets.images import READABLE, pictures_below, read_rgb, refuse_tiny
from mars_assets.progress import SILENT, Progress
from mars_assets.segmentation.catalogue import crater_catalogue
from mars_assets.segmentation.predict import predict_masks
from mars_assets.segmentation.task import rim_of
from mars_assets.storage.files import printable, shown
from mars_assets.tensors.geotiff import is_chip, read_reflectance

if TYPE_CHECKING:
    from mars_assets.models.versions import ModelVersion
    from mars_assets.training.compute import Compute


def outline_pictures(
    model: ModelVersion, folder: Path, masks: Path, compute: Compute, progress: Progress = SILENT
) -> tuple[pd.DataFrame, dict[str, str]]:
    """List the craters in the image files of a folder.

    Args:
        model: a finished segmenter.
        folder: see :func:`mars_assets.images.pictures_below`.
        masks: folder where the predictions are cached: 8-bit PNG, crater from 128.
        compute: device and precision.
        progress: reports the images.

    Returns:
        The catalogue, see :class:`mars_assets.craters.schema.CraterCatalogue`, without what an image file does not tell
        (observation, position and metres), and for each unreadable file, by its name, the reason.

    Raises:
        MarsError: there is no such folder, or no readable image in it.
        MissingInputError: the model's folder holds no finished segmenter.
    """
    if not folder.is_dir():
        raise MarsError(f"{folder} is not a folder: name one with images")
    if masks.resolve().is_relative_to(folder.resolve()):
        raise MarsError(f"{masks} lies in {folder}, where masks would be taken for images: name a folder elsewhere")
    readable, problems = [], {}
    for picture in progress.track(pictures_below(folder), "checking images"):
        name = shown(picture.relative_to(folder).as_posix())
        try:
            _check(picture)
            readable.append((name, picture))
        except MarsError as error:
            problems[name] = printable(str(error))
    if not readable:
        raise MarsError(next(iter(problems.values()), f"there is no {READABLE} in {folder}"))
    images = pd.DataFrame(readable, columns=["image_id", "chip"]).assign(observation=None, crs=None, transform=None)
    predictions = predict_masks(model.folder, images, masks, compute, progress)
    table = crater_catalogue(images.assign(prediction=images["image_id"].map(predictions)), rim=rim_of(model))
    unknown = ["observation", "diameter_m", "longitude", "latitude"]
    return table.drop(columns=unknown).rename(columns={"image_id": "image"}), problems


def _check(picture: Path) -> None:
    """Decode an image, since a failure later would cost the other images' results.

    Raises:
        DamagedFileError: it cannot be read, or is smaller than a patch.
    """
    height, width = read_reflectance(picture).shape[1:] if is_chip(picture) else read_rgb(picture).shape[:2]
    refuse_tiny(picture, height, width)
