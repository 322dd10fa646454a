"""A recipe as an MMSegmentation config: what mmseg's own tools read, and what the training is built from."""

from __future__ import annotations

from typing import Any

from mmengine import Config, ConfigDict

from mars_assets.compute import Compute
from mars_assets.errors import MarsError
from mars_assets.prithvi.config import PrithviConfig
from mars_assets.segmentation.recipe import CLASSES, IGNORE, SegRecipe


def mmseg_config(recipe: SegRecipe, prithvi: PrithviConfig, compute: Compute) -> Config:
    """The config of a run: model, pipelines, optimizer and schedule. It names no file of this machine.

    Args:
        recipe: how to train.
        prithvi: the encoder's architecture, bands and statistics.
        compute: device and precision.

    Raises:
        MarsError: crops or windows do not fit the encoder's patches, or ``mmseg_options`` name an unknown part.
    """
    patch = prithvi.patch_size[1:]
    for name, side in (("crop_size", recipe.crop_size), ("window", recipe.window)):
        if any(side % step for step in patch):
            raise MarsError(
                f"{name}={side} is not a multiple of {prithvi.variant}'s patches of {patch[0]} x {patch[1]} pixels"
            )
    if recipe.neck == "detail" and recipe.layers > prithvi.depth:
        raise MarsError(f"layers={recipe.layers}: {prithvi.variant} has {prithvi.depth} blocks")
    config = Config(
        {
            "custom_imports": {"imports": ["mars_assets.segmentation.registry"], "allow_failed_imports": False},
            "default_scope": "mmseg",
            "model": _model(recipe, prithvi),
            "train_pipeline": _train_pipeline(recipe, prithvi),
            "test_pipeline": [{"type": "LoadChip", "bands": list(prithvi.bands)}, {"type": "PackSegInputs"}],
            "optim_wrapper": _optim_wrapper(recipe, prithvi, compute),
            "param_scheduler": _schedule(recipe),
            "train_cfg": {
                "type": "IterBasedTrainLoop",
                "max_iters": recipe.iterations,
                "val_interval": recipe.evaluate_every,
            },
        }
    )
    if unknown := [name for name in recipe.mmseg_options if name.split(".")[0] not in config]:
        raise MarsError(f"mmseg_options change {', '.join(unknown)}: the config has {', '.join(config.keys())}")
    config.merge_from_dict(ConfigDict(recipe.mmseg_options))
    return config


def _model(recipe: SegRecipe, prithvi: PrithviConfig) -> dict[str, Any]:
    detail = recipe.neck == "detail"
    count = recipe.layers if detail else 1
    layers = [prithvi.depth * (number + 1) // count - 1 for number in range(count)]
    if detail:
        neck = {
            "type": "DetailNeck",
            "in_channels": [prithvi.embed_dim] * count,
            "channels": recipe.neck_channels,
            "image_channels": prithvi.in_chans,
            "detail_channels": recipe.detail_channels,
        }
    else:
        neck = {"type": "ConvTransposeNeck", "in_channels": prithvi.embed_dim, "channels": recipe.neck_channels}
    head = {
        "type": "FCNHead",
        "in_channels": max(recipe.neck_channels // 2, 1) if detail else recipe.neck_channels,
        "in_index": -1,
        "channels": recipe.head_channels,
        "concat_input": False,
        "dropout_ratio": recipe.dropout,
        "num_classes": len(CLASSES),
        "norm_cfg": {"type": "BN"},
        "align_corners": False,
        "ignore_index": IGNORE,
        "loss_decode": _losses(recipe),
    }
    return {
        "type": "WindowedEncoderDecoder",
        "data_preprocessor": {
            "type": "BandDataPreProcessor",
            "mean": list(prithvi.statistics.means),
            "std": list(prithvi.statistics.stds),
            "size": (recipe.crop_size, recipe.crop_size),
            "pad_val": 0,
            "seg_pad_val": IGNORE,
        },
        "backbone": {
            "type": "PrithviBackbone",
            "encoder": prithvi.to_dict(),
            "layers": layers,
            "frozen": recipe.frozen,
            "with_image": detail,
        },
        "neck": neck,
        "decode_head": {**head, "num_convs": recipe.head_convolutions},
        "auxiliary_head": {**head, "num_convs": 2} if recipe.auxiliary_head else None,
        "train_cfg": {},
        "test_cfg": {
            "mode": "slide",
            "crop_size": (recipe.window, recipe.window),
            "stride": (recipe.stride, recipe.stride),
        },
    }


def _losses(recipe: SegRecipe) -> list[dict[str, Any]]:
    cross_entropy = {"type": "CrossEntropyLoss", "class_weight": list(recipe.class_weights)}
    match recipe.loss:
        case "dice":
            return [{"type": "MaskedDiceLoss"}]
        case "weighted_cross_entropy":
            return [cross_entropy]
        case "dice_cross_entropy":
            return [cross_entropy, {"type": "MaskedDiceLoss", "class_weight": [0.0, 1.0], "batch": True}]


def _train_pipeline(recipe: SegRecipe, prithvi: PrithviConfig) -> list[dict[str, Any]]:
    return [
        {"type": "LoadChip", "bands": list(prithvi.bands)},
        {"type": "LoadMask"},
        {
            "type": "CraterCrop",
            "size": recipe.crop_size,
            "scale_jitter": recipe.scale_jitter,
            "crater_share": recipe.crater_crops,
        },
        *([{"type": "RandomFlip", "prob": 0.5, "direction": "horizontal"}] if recipe.flip else []),
        *([{"type": "RandomQuarterTurn"}] if recipe.rotate else []),
        {"type": "PackSegInputs"},
    ]


def _optim_wrapper(recipe: SegRecipe, prithvi: PrithviConfig, compute: Compute) -> dict[str, Any]:
    bf16 = compute.precision == "bf16"
    return {
        "type": "AutocastOptimWrapper" if bf16 else "OptimWrapper",
        **({"device_type": compute.device} if bf16 else {}),
        "optimizer": {
            "type": {"adam": "Adam", "adamw": "AdamW"}[recipe.optimizer],
            "lr": recipe.lr,
            "weight_decay": recipe.weight_decay,
        },
        "clip_grad": {"max_norm": recipe.clip_grad} if recipe.clip_grad else None,
        "constructor": "EncoderDecayConstructor",
        "paramwise_cfg": {
            "depth": prithvi.depth,
            "encoder_lr": recipe.encoder_lr,
            "layer_decay": recipe.layer_decay,
        },
    }


def _schedule(recipe: SegRecipe) -> list[dict[str, Any]]:
    """Warm-up and decay; mmengine multiplies the two, as mmcv's warm-up did with its poly schedule.

    mmengine counts an interval's last step as its end value, mmcv (and the paper) the step after it: hence the + 1.
    """
    schedule: list[dict[str, Any]] = []
    if recipe.warmup_iterations:
        end = recipe.warmup_iterations + 1
        schedule.append({"type": "LinearLR", "start_factor": 1e-6, "by_epoch": False, "begin": 0, "end": end})
    span = {"eta_min": 0.0, "by_epoch": False, "begin": 0, "end": recipe.iterations + 1}
    match recipe.schedule:
        case "poly":
            schedule.append({"type": "PolyLR", "power": 1.0, **span})
        case "cosine":
            schedule.append({"type": "CosineAnnealingLR", "T_max": recipe.iterations, **span})
    return schedule
