"""Finished segmentation models on disk.

A model is an mmseg checkpoint with its config, and ``config.json``, which is written last.

``mmseg.apis.init_model(folder / "config.py", folder / "model.pth")`` also opens one.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mars_assets.errors import DamagedFileError
from mars_assets.lake import CONFIG, MMSEG_CONFIG, SEGMENTER
from mars_assets.segmentation.mmseg_setup import mmseg_ready
from mars_assets.storage.files import read_json
from mars_assets.training.run_folder import require_finished

if TYPE_CHECKING:
    from mmseg.models import EncoderDecoder


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read an mmseg checkpoint of tensors and plain values, on the CPU.

    Raises:
        DamagedFileError: it is missing, truncated or contains anything else.
    """
    import torch

    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise DamagedFileError(
            f"{path} cannot be read ({error}): delete its folder and materialize 'seg_model' again"
        ) from error
    return checkpoint


def open_segmenter(folder: Path) -> tuple[EncoderDecoder, dict[str, Any]]:
    """Open a finished model, in evaluation mode on the CPU.

    Returns:
        mmseg's model, with its mmseg config as ``cfg``, and the content of ``config.json``: recipe, seed, classes,
        bands, statistics, prithvi, provenance, compute, settings, report.

    Raises:
        MissingInputError: the folder holds no finished model.
        DamagedFileError: its files do not fit together.
    """
    require_finished(folder, "seg_model")
    with mmseg_ready():
        from mmengine import Config
        from mmseg.registry import MODELS

        config = Config.fromfile(folder / MMSEG_CONFIG)
        model = MODELS.build(config.model)
        model.cfg = config
    try:
        model.load_state_dict(load_checkpoint(folder / SEGMENTER)["state_dict"])
    except (KeyError, RuntimeError) as error:
        raise DamagedFileError(
            f"{folder / SEGMENTER} does not fit {MMSEG_CONFIG} next to it ({error}): materialize 'seg_model' again"
        ) from error
    return model.eval(), read_json(folder / CONFIG)
