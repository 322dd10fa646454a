"""Training through MMSegmentation: resumable, safe against kill -9, and ending in an ordinary mmseg checkpoint."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mars_assets.errors import MarsError
from mars_assets.images import read_label_image
from mars_assets.lake import HISTORY, MMSEG_CONFIG, SCRATCH, SEGMENTER
from mars_assets.prithvi import PRITHVI
from mars_assets.progress import SILENT, Progress
from mars_assets.segmentation.checkpoint import load_checkpoint
from mars_assets.segmentation.recipe import CLASSES, SegRecipe
from mars_assets.storage.files import atomic_path, write_bytes, write_table
from mars_assets.training.run_folder import begin, finish, settings_of

if TYPE_CHECKING:
    import numpy.typing as npt
    from mmengine import Config

    from mars_assets.prithvi.model import PrithviEncoder
    from mars_assets.segmentation.hooks import TrainingState
    from mars_assets.training.compute import Compute


def train_segmentation(
    recipe: SegRecipe,
    images: pd.DataFrame,
    weights: Path,
    folder: Path,
    compute: Compute,
    provenance: dict[str, Any],
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Trains a model into ``folder``, or goes on where a training into it stopped, or returns a finished one's report.

    While it trains, ``folder/training`` holds the last and the best checkpoint. The result is ``model.pth`` (of the
    validation with the highest mIoU) and ``config.py`` for mmseg, ``history.parquet`` (losses and validations by
    iteration) and ``config.json``, written last.

    Args:
        recipe: how to train.
        images: ``image_id, split (train, valid, ...), chip (path), mask (path, of the recipe's annotation),
            observation``, and ``chip_sha`` if the chips have one; ``instances`` (path of the numbered craters) for
            ``smallest_crater``. Their order does not matter.
        weights: folder of the encoder's weights.
        folder: of this one training.
        compute: device, precision and seed.
        provenance: is put into ``config.json`` as it is.
        progress: of the iterations.

    Returns:
        JSON-able: ``iterations``, ``best_iteration``, ``miou``, ``iou_background``, ``iou_crater`` (None where
        validation has no crater and none was predicted), ``train_loss`` (the last mean), ``seconds``, ``n_train``,
        ``n_valid``, ``parameters``, ``trained_parameters``.

    Raises:
        MarsError: there are no images to train or validate on, the training diverged, or the device's memory is too
            small.
        ProvenanceError: the folder holds a training of other settings.
    """
    from mars_assets.prithvi.weights import open_weights

    images = _chosen(_checked(images), recipe)
    settings = settings_of(recipe, images, open_weights(weights).sha256, compute.seed)
    finished = begin(folder, settings, compute.precision, progress)
    if finished is not None:
        return finished
    scratch = folder / SCRATCH

    encoder = _encoder(recipe, weights, compute)
    mmseg, state, parameters = _fit(recipe, encoder, images, scratch, compute, progress)
    report = _finish(mmseg, state, scratch, folder) | {
        **{f"n_{split}": int((images["split"] == split).sum()) for split in ("train", "valid")},
        **parameters,
    }
    finish(
        folder,
        recipe=recipe,
        classes=CLASSES,
        encoder=encoder.config,
        settings=settings,
        provenance=provenance,
        compute=compute,
        report=report,
    )
    return report


def _checked(images: pd.DataFrame) -> pd.DataFrame:
    """The images of train and valid, ordered by id.

    Raises:
        MarsError: one of the splits is empty.
    """
    images = images[images["split"].isin(["train", "valid"])].sort_values("image_id", ignore_index=True)
    for split in ("train", "valid"):
        if not (images["split"] == split).any():
            raise MarsError(
                f"no image with crater masks is in the split '{split}': put an export with one into the lake's inbox, "
                "or some observations into that split, and make 'labelled_crops' again"
            )
    return images


def _chosen(images: pd.DataFrame, recipe: SegRecipe) -> pd.DataFrame:
    """The images as the recipe wants them: which to train on, and with whose masks."""
    if not (recipe.drop_empty or recipe.authors_pairing):
        return images
    train, others = images[images["split"] == "train"], images[images["split"] != "train"]
    cratered = np.array([bool((read_label_image(Path(mask)) == 1).any()) for mask in train["mask"]])
    if not cratered.any():
        raise MarsError("no training image has a crater: nothing is left with drop_empty or authors_pairing")
    kept = train[cratered]
    if recipe.authors_pairing:
        kept = _as_the_authors(train, cratered)
    return pd.concat([kept, others], ignore_index=True)


def _as_the_authors(train: pd.DataFrame, cratered: npt.NDArray[np.bool_]) -> pd.DataFrame:
    """Masks with the images that the paper's code draws them for.

    An annotation names its image by its place in the full list; the code looks that place up in the list without the images
    that have no crater. So each mask goes to an image as many places further on as empty ones come before that; the last
    masks find none.
    """
    images = train[cratered].reset_index(drop=True)
    places = np.flatnonzero(cratered)
    places = places[places < len(images)]
    labels = [name for name in ("mask", "instances", "labels_sha", "mask_sha") if name in train]
    paired = images.iloc[places].reset_index(drop=True)
    own = paired["mask"].map(_size)
    paired[labels] = train[labels].iloc[places].reset_index(drop=True)
    if paired.empty:
        raise MarsError(
            "authors_pairing leaves no training image: no mask finds one in the list without the empty ones"
        )
    if not paired["mask"].map(_size).equals(own):
        raise MarsError("authors_pairing gives masks to images of another size: it is for images that are all alike")
    return paired


def _size(mask: str | Path) -> str:
    height, width = read_label_image(Path(mask)).shape
    return f"{width} x {height}"


def _encoder(recipe: SegRecipe, weights: Path, compute: Compute) -> PrithviEncoder:
    from mars_assets.prithvi.model import PrithviEncoder
    from mars_assets.prithvi.weights import load_encoder, open_weights

    if recipe.encoder == "random":
        compute.seed_everything()
        return PrithviEncoder(open_weights(weights).config)
    return load_encoder(weights)


def _fit(
    recipe: SegRecipe,
    encoder: PrithviEncoder,
    images: pd.DataFrame,
    scratch: Path,
    compute: Compute,
    progress: Progress,
) -> tuple[Config, TrainingState, dict[str, int]]:
    """Trains to the end. Returns the config, the state with its history, and how many parameters there are."""
    import torch

    from mars_assets.segmentation.mmseg_setup import mmseg_ready

    last = scratch / "last.pth"
    if last.exists():
        load_checkpoint(last)  # mmengine, which reads it below, unpickles anything where this refuses
    with mmseg_ready():
        from mmengine.runner import Runner
        from mmseg.registry import MODELS

        from mars_assets.segmentation.hooks import TrainingState
        from mars_assets.segmentation.mmseg_config import mmseg_config

        config = mmseg_config(recipe, encoder.config, compute)
        compute.seed_everything()
        # Which state is best is seen as well from one orientation of the images, in an eighth of the time.
        model = MODELS.build({**config.model, "orientations": 1})
        if recipe.architecture == PRITHVI:
            model.backbone.encoder.load_state_dict(encoder.state_dict())
        runner = Runner(
            model=model,
            work_dir=str(scratch / "mmengine"),
            train_dataloader=_loader(images, "train", config.train_pipeline, recipe.batch_size, compute),
            train_cfg=config.train_cfg,
            val_dataloader=_loader(images, "valid", _validation_pipeline(config), 1, compute),
            val_cfg={"type": "ValLoop"},
            val_evaluator={"type": "CraterMetric"},
            optim_wrapper=config.optim_wrapper,
            param_scheduler=list(config.param_scheduler) or None,
            custom_hooks=_averaging(recipe),
            default_hooks={"logger": None, "checkpoint": None, "timer": None},
            load_from=str(last) if last.exists() else None,
            resume=last.exists(),
            randomness={"seed": compute.seed},
            default_scope="mmseg",
            log_level="ERROR",
            # mmengine keeps loggers and visualizers by experiment for the life of the process.
            experiment_name=f"segmentation-{time.time_ns()}",
        )
        runner.model.to(compute.device)  # mmengine takes CUDA wherever there is one
        state = TrainingState(scratch, progress, log_every=max(recipe.iterations // 100, 1))
        runner.register_hook(state)
        try:
            runner.train()
        except torch.OutOfMemoryError as error:
            raise MarsError(
                f"the device's memory is too small for this training ({error}): lower the recipe's batch_size "
                f"({recipe.batch_size}), neck_channels or crop_size, or take a smaller encoder"
            ) from error
    parameters = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }
    return config, state, parameters


def _averaging(recipe: SegRecipe) -> list[dict[str, Any]]:
    """The hook of mmengine's that validates and keeps averaged weights, if the recipe wants it."""
    if not recipe.average_weights:
        return []
    # The statistics of batch norms are averaged like the weights that they go with.
    return [{"type": "EMAHook", "momentum": 1 - recipe.average_weights, "update_buffers": True}]


def _validation_pipeline(config: Config) -> list[dict[str, Any]]:
    load, *rest = config.test_pipeline
    return [load, {"type": "LoadMask"}, *rest]


def _loader(
    images: pd.DataFrame, split: str, pipeline: list[dict[str, Any]], batch_size: int, compute: Compute
) -> dict[str, Any]:
    """A split as mmengine's description of a loader."""
    rows = images[images["split"] == split]
    items = [
        {
            "img_path": str(row["chip"]),
            "seg_map_path": str(row["mask"]),
            **({"instances_path": str(row["instances"])} if "instances" in row else {}),
        }
        for row in rows.to_dict("records")
    ]
    # On a CPU that trains, workers would take the cores that the model needs.
    workers = min(os.cpu_count() or 1, 8) // 2 if compute.device == "cuda" else 0
    train = split == "train"
    return {
        "batch_size": batch_size,
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "pin_memory": compute.device == "cuda",
        "sampler": {"type": "InfiniteSampler" if train else "DefaultSampler", "shuffle": train},
        "dataset": {"type": "CraterDataset", "items": items, "pipeline": pipeline},
    }


def _finish(config: Config, state: TrainingState, scratch: Path, folder: Path) -> dict[str, Any]:
    """Writes checkpoint, config and history from what the training left. Returns the first part of the report."""
    import torch

    best = scratch / "best.pth"
    if not best.exists():
        raise MarsError("no validation gave an mIoU: all pixels of the validation masks are ignored")
    checkpoint = load_checkpoint(best)
    meta = checkpoint["meta"]
    with atomic_path(folder / SEGMENTER) as temporary:
        kept = {"dataset_meta": meta["dataset_meta"], "iter": meta["iter"], "metrics": meta["metrics"]}
        torch.save({"meta": kept, "state_dict": checkpoint["state_dict"]}, temporary)
    write_bytes(folder / MMSEG_CONFIG, config.pretty_text.encode())
    history = pd.DataFrame(state.history).astype({"iteration": "int64"})
    write_table(folder / HISTORY, history)
    return {
        "iterations": int(history["iteration"].max()),
        "best_iteration": meta["iter"],
        **{name: value if math.isfinite(value) else None for name, value in meta["metrics"].items()},
        "train_loss": float(history["loss"].dropna().iloc[-1]),
        "seconds": round(state.seconds, 1),
    }
