"""Training with MMSegmentation, which resumes after kill -9.

The result is an ordinary mmseg checkpoint.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mars_assets.encoders.weights import open_encoder
from mars_assets.errors import MarsError
from mars_assets.images import read_label_image
from mars_assets.lake import HISTORY, MMSEG_CONFIG, SEGMENTER
from mars_assets.models.starting_point import initial_encoder
from mars_assets.prithvi import PRITHVI
from mars_assets.segmentation.checkpoint import load_checkpoint
from mars_assets.segmentation.mmseg_setup import mmseg_ready
from mars_assets.segmentation.recipe import CLASSES, SegRecipe
from mars_assets.storage.files import atomic_path, write_bytes, write_table
from mars_assets.training.run_folder import Trained, TrainingJob, identity_of, run_training, used_images

if TYPE_CHECKING:
    from mmengine import Config

    from mars_assets.encoders.weights import Encoder
    from mars_assets.segmentation.dataset import SeededBatches
    from mars_assets.training.compute import Compute


SAVE_EVERY = 120.0
"""Seconds between two checkpoints, in addition to one at each validation."""
_EMPTY = (
    "no image with crater masks is in the split '{split}': put an export with one into the lake's inbox, or some "
    "observations into that split, and materialize 'labelled_crops' again"
)


def train_segmentation(job: TrainingJob[SegRecipe, pd.DataFrame]) -> dict[str, Any]:
    """Train a model in a folder, or resume a training there.

    A finished one is not trained again; its report is returned.

    During training, ``training/`` in the folder holds the last and the best checkpoint. The result is ``model.pth``
    (the state with the highest validation mIoU) and ``config.py`` for mmseg, ``history.parquet`` (losses and
    validations by iteration) and ``config.json``, written last.

    Args:
        job: the training. Its images have ``image_id, split (train, valid, ...), chip (path), mask (path, of the
            recipe's annotation), observation``, and ``chip_sha`` if the chips have one; ``instances`` (path of the
            numbered craters) for ``smallest_crater``. Their order does not matter. Its weights are those of an encoder.

    Returns:
        JSON-able: ``iterations``, ``best_iteration``, ``miou``, ``iou_background``, ``iou_crater`` (None where
        validation has no crater and none was predicted), ``train_loss`` (the last mean), ``seconds``, ``n_train``,
        ``n_valid``, ``parameters``, ``trained_parameters``.

    Raises:
        MarsError: there are no images to train or validate on, the training diverged, or the device's memory is too
            small.
        ProvenanceError: the folder holds a training with other settings.
    """
    images = _chosen(used_images(job.images, _EMPTY), job.recipe)

    def fit(scratch: Path) -> Trained:
        encoder = initial_encoder(job.recipe, job.weights, job.compute)
        report, write = _fit(job, encoder, images, scratch)
        return Trained(report, CLASSES, encoder.config, write)

    return run_training(job, open_encoder(job.weights).sha256, identity_of(images), fit)


def _chosen(images: pd.DataFrame, recipe: SegRecipe) -> pd.DataFrame:
    """Leave out training images without craters, if the recipe says so."""
    if not recipe.drop_empty:
        return images
    train, others = images[images["split"] == "train"], images[images["split"] != "train"]
    cratered = np.array([bool((read_label_image(Path(mask)) == 1).any()) for mask in train["mask"]])
    if not cratered.any():
        raise MarsError("no training image has a crater: with drop_empty, nothing is left to train on")
    return pd.concat([train[cratered], others], ignore_index=True)


def _fit(
    job: TrainingJob[SegRecipe, pd.DataFrame], encoder: Encoder, images: pd.DataFrame, scratch: Path
) -> tuple[dict[str, Any], Callable[[Path], None]]:
    """Train to the end, and return the report and what writes the model."""
    import torch

    recipe, compute = job.recipe, job.compute
    last, workers = scratch / "last.pth", _workers(compute.device)
    # Also because mmengine, which reads it again, unpickles anything where this refuses.
    done = load_checkpoint(last)["meta"]["iter"] if last.exists() else 0
    with mmseg_ready():
        from mmengine.runner import Runner
        from mmseg.registry import MODELS

        from mars_assets.segmentation.dataset import SeededBatches
        from mars_assets.segmentation.hooks import TrainingState
        from mars_assets.segmentation.mmseg_config import mmseg_config

        config = mmseg_config(recipe, encoder.config, compute)
        compute.seed_everything()
        # One orientation of the images finds the best state as well, in an eighth of the time.
        model = MODELS.build({**config.model, "orientations": 1})
        if recipe.architecture == PRITHVI:
            model.backbone.encoder.load_state_dict(encoder.state_dict())
        train, valid = (images[images["split"] == split] for split in ("train", "valid"))
        load, *rest = config.test_pipeline
        batches = SeededBatches(len(train), recipe.batch_size, range(done, recipe.steps), compute.seed)
        # The statistics of batch norms are averaged like the weights that they belong to.
        averaging = {"type": "EMAHook", "momentum": 1 - recipe.average_weights, "update_buffers": True}
        runner = Runner(
            model=model,
            work_dir=str(scratch / "mmengine"),
            train_dataloader=_loader(train, config.train_pipeline, compute, workers, batches),
            # The batches start at the right iteration by themselves.
            train_cfg={**config.train_cfg, "fast_forward_on_resume": True},
            val_dataloader=_loader(valid, [load, {"type": "LoadMask"}, *rest], compute, workers),
            val_cfg={"type": "ValLoop"},
            val_evaluator={"type": "CraterMetric"},
            optim_wrapper=config.optim_wrapper,
            param_scheduler=list(config.param_scheduler) or None,
            custom_hooks=[averaging] if recipe.average_weights else [],
            default_hooks=dict.fromkeys(["logger", "checkpoint", "timer", "sampler_seed"]),
            load_from=str(last) if done else None,
            resume=bool(done),
            randomness={"seed": compute.seed},
            default_scope="mmseg",
            log_level="ERROR",
            # mmengine keeps loggers and visualizers by experiment for the life of the process.
            experiment_name=f"segmentation-{time.time_ns()}",
        )
        runner.model.to(compute.device)  # mmengine takes CUDA wherever there is one
        state = TrainingState(scratch, job.progress, compute.seed, max(recipe.steps // 100, 1), SAVE_EVERY)
        runner.register_hook(state)
        try:
            runner.train()
        except torch.OutOfMemoryError as error:
            raise MarsError(
                f"the device's memory is too small for this training ({error}): lower the recipe's batch_size "
                f"({recipe.batch_size}), neck_channels or crop_size, or use a smaller encoder"
            ) from error
    best, history = _best(scratch), pd.DataFrame(state.history).astype({"iteration": "int64"})
    report = {
        **_report(best["meta"], history, state.seconds),
        **{f"n_{split}": int((images["split"] == split).sum()) for split in ("train", "valid")},
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }
    return report, partial(_write, best=best, config=config, history=history)


def _workers(device: str) -> int:
    """Choose the number of processes that load images.

    Results do not depend on it.

    When a CPU trains, they would take the cores that the model needs.
    """
    return min(os.cpu_count() or 1, 8) // 2 if device == "cuda" else 0


def _loader(
    images: pd.DataFrame,
    pipeline: list[dict[str, Any]],
    compute: Compute,
    workers: int,
    batches: SeededBatches | None = None,
) -> dict[str, Any]:
    """Describe a loader for mmengine: of batches, or of each image once."""
    items = [
        {
            "img_path": str(row["chip"]),
            "seg_map_path": str(row["mask"]),
            **({"instances_path": str(row["instances"])} if "instances" in row else {}),
        }
        for row in images.to_dict("records")
    ]
    one_by_one = {"batch_size": 1, "sampler": {"type": "DefaultSampler", "shuffle": False}}
    return {
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "pin_memory": compute.device == "cuda",
        "dataset": {"type": "CraterDataset", "items": items, "pipeline": pipeline},
        **(one_by_one if batches is None else {"sampler": None, "batch_sampler": batches}),
    }


def _best(scratch: Path) -> dict[str, Any]:
    """Read the state of the highest validation mIoU."""
    best = scratch / "best.pth"
    if not best.exists():
        raise MarsError(
            "no validation gave an mIoU: all pixels of the validation masks are ignored. Label other crops in valid"
        )
    return load_checkpoint(best)


def _write(folder: Path, best: dict[str, Any], config: Config, history: pd.DataFrame) -> None:
    """Write the files of a training that has ended."""
    import torch

    meta = best["meta"]
    with atomic_path(folder / SEGMENTER) as temporary:
        about = {"dataset_meta": meta["dataset_meta"], "iter": meta["iter"], "metrics": meta["metrics"]}
        torch.save({"meta": about, "state_dict": best["state_dict"]}, temporary)
    write_bytes(folder / MMSEG_CONFIG, config.pretty_text.encode())
    write_table(folder / HISTORY, history)


def _report(meta: dict[str, Any], history: pd.DataFrame, seconds: float) -> dict[str, Any]:
    """Compose the first part of the report."""
    return {
        "iterations": int(history["iteration"].max()),
        "best_iteration": meta["iter"],
        **{name: value if math.isfinite(value) else None for name, value in meta["metrics"].items()},
        "train_loss": float(history["loss"].dropna().iloc[-1]),
        "seconds": round(seconds, 1),
    }
