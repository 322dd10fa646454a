"""Crater probabilities from a finished model, each computed once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mars_assets.bands import BandStatistics
from mars_assets.code_versions import SEGMENTER_PREDICTION
from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.images import is_turned
from mars_assets.lake import MMSEG_CONFIG, SEGMENTER
from mars_assets.progress import SILENT, Progress
from mars_assets.segmentation.checkpoint import open_segmenter
from mars_assets.segmentation.prediction_file import _png, prediction_key
from mars_assets.storage.files import short_name, sweep, write_bytes
from mars_assets.storage.hashing import fingerprint, sha256_file
from mars_assets.tensors.geotiff import is_chip, read_bands
from mars_assets.training.run_folder import require_finished

if TYPE_CHECKING:
    from mmseg.models import EncoderDecoder

    from mars_assets.bands import Float32
    from mars_assets.training.compute import Compute


def predict_masks(
    model_folder: Path, images: pd.DataFrame, cache: Path, compute: Compute, progress: Progress = SILENT
) -> dict[str, Path]:
    """Predict the images that are not cached for this model and precision.

    The model slides over an image with its recipe's window and stride; logits of overlapping windows are averaged.

    Args:
        model_folder: of a finished model.
        images: ``image_id, chip`` (path of a chip, or of a picture, see
            :func:`mars_assets.tensors.geotiff.read_bands`), and optionally ``chip_sha``; without it, size and time of
            the file identify a chip.
        cache: folder of the predictions, ``ID.png`` (with a shortened name if that is too long), used for nothing else.
        compute: device and precision.
        progress: reports the new images.

    Returns:
        The path of an 8-bit PNG for each image, of its size: the probability of a crater, 255 for 1. See
        :func:`~mars_assets.segmentation.prediction_file.read_mask`.

    Raises:
        MissingInputError: the folder holds no finished model.
        DamagedFileError: a chip or the model cannot be read.
        MarsError: the device's memory is too small.
    """
    require_finished(model_folder, "seg_model")
    files = [sha256_file(model_folder / name) for name in (SEGMENTER, MMSEG_CONFIG)]  # the window is in the config
    model = [SEGMENTER_PREDICTION, *files, compute.precision]
    sweep(cache)
    chips = {str(row["image_id"]): row for row in images.to_dict("records")}
    paths = {image_id: _prediction_path(cache, image_id) for image_id in chips}
    keys = {image_id: fingerprint(model, _chip_identity(chip)) for image_id, chip in chips.items()}
    new = [image_id for image_id in chips if prediction_key(paths[image_id]) != keys[image_id]]
    if new:
        segmenter, config = open_segmenter(model_folder)
        segmenter.to(compute.device)
        statistics = BandStatistics.from_dict(config["statistics"])
        for image_id in progress.track(new, "predicting crater masks"):
            probability = _predict(segmenter, Path(chips[image_id]["chip"]), statistics, compute)
            write_bytes(paths[image_id], _png(probability, keys[image_id]))
    return paths


def _prediction_path(cache: Path, image_id: str) -> Path:
    path = cache / f"{image_id}.png"
    return path.with_name(short_name(path.name))


def _chip_identity(row: dict[Any, Any]) -> list[Any]:
    if "chip_sha" in row:
        return [row["chip_sha"]]
    try:
        status = Path(row["chip"]).stat()
    except FileNotFoundError as error:
        raise DamagedFileError(f"the chip {row['chip']} is missing: materialize its asset again") from error
    turned = not is_chip(Path(row["chip"])) and is_turned(Path(row["chip"]))
    return [status.st_size, status.st_mtime_ns, *(["upright"] if turned else [])]  # predicted as stored before


def _predict(segmenter: EncoderDecoder, chip: Path, statistics: BandStatistics, compute: Compute) -> Float32:
    """Compute the probability of a crater, float32 (H, W)."""
    import torch
    from mmseg.registry import TRANSFORMS

    load = TRANSFORMS.build(segmenter.cfg.test_pipeline[0])
    results: dict[str, Any] = {"img_path": chip}
    if not is_chip(chip):
        results["chip"] = read_bands(chip, statistics)
    image = torch.from_numpy(load(results)["img"].transpose(2, 0, 1))
    with torch.inference_mode(), compute.autocast():
        try:
            inputs = segmenter.data_preprocessor({"inputs": [image]})["inputs"]
            logits = segmenter.slide_inference(inputs, [])
        except torch.OutOfMemoryError as error:
            raise MarsError(
                f"the device's memory is too small for {chip} ({error}): cut it into crops, or compute on the CPU"
            ) from error
    return np.asarray(logits.float().softmax(dim=1)[0, 1].cpu())
