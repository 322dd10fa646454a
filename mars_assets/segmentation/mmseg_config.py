"""Conversion of a recipe to an MMSegmentation config.

Training is built from it, and mmseg's own tools read it.
"""

from __future__ import annotations

import math
from typing import Any

from mmengine import Config, ConfigDict

from mars_assets.encoders.config import EncoderConfig
from mars_assets.errors import MarsError
from mars_assets.prithvi import PRITHVI
from mars_assets.segmentation.recipe import CLASSES, IGNORE, UNET, SegRecipe
from mars_assets.training.compute import Compute

_PYRAMID = (4, 2, 1, 0.5)
"""Sizes of the pyramid's four maps, as factors of the encoder's."""


def mmseg_config(recipe: SegRecipe, prithvi: EncoderConfig, compute: Compute) -> Config:
    """Build the config of a training: model, pipelines, optimizer and schedule.

    It names no file of this machine.

    Args:
        recipe: settings of the training.
        prithvi: the encoder's architecture, bands and statistics.
        compute: device and precision.

    Raises:
        MarsError: the encoder has maps of several resolutions, crops or windows do not fit its patches, or
            ``mmseg_options`` names an unknown part.
    """
    if recipe.architecture == PRITHVI and not prithvi.is_transformer:
        raise MarsError(
            f"{prithvi.variant} has maps of several resolutions, which no neck takes: choose another encoder, or "
            "architecture unet"
        )
    recipe.refuse_sizes(prithvi, {"crop_size": recipe.crop_size, "window": recipe.window})
    if recipe.architecture == PRITHVI and recipe.neck != "deconvolution" and _layers(recipe) > prithvi.depth:
        raise MarsError(f"layers={_layers(recipe)}: {prithvi.variant} has only {prithvi.depth} blocks: take fewer")
    config = Config(
        {
            "custom_imports": {"imports": ["mars_assets.segmentation.registry"], "allow_failed_imports": False},
            "default_scope": "mmseg",
            "model": _model(recipe, prithvi),
            "train_pipeline": _train_pipeline(recipe, prithvi),
            "test_pipeline": [_load(recipe, prithvi), {"type": "PackSegInputs"}],
            "optim_wrapper": _optim_wrapper(recipe, prithvi, compute),
            "param_scheduler": _schedule(recipe),
            "train_cfg": {
                "type": "IterBasedTrainLoop",
                "max_iters": recipe.steps,
                "val_interval": recipe.evaluate_every,
            },
        }
    )
    if unknown := [name for name in recipe.mmseg_options if name.split(".")[0] not in config]:
        raise MarsError(f"mmseg_options names {', '.join(unknown)}, and the config has only {', '.join(config.keys())}")
    try:
        config.merge_from_dict(ConfigDict(recipe.mmseg_options))
    except (TypeError, KeyError, AttributeError) as error:
        raise MarsError(
            f"mmseg_options does not fit the config ({error}): a value that replaces a list or another part needs "
            "_delete_: true"
        ) from error
    _defer(config.model)
    return config


def _defer(model: Any) -> None:
    """Leave the neck's last layer to the heads, if neck and heads are the paper's.

    ``mmseg_options`` may have changed them.
    """
    heads = [head for head in (model.get("decode_head"), model.get("auxiliary_head")) if head]
    neck = model.get("neck") or {}
    if neck.get("type") == "ConvTransposeNeck" and all(_is_the_papers(head) for head in heads):
        model.neck.deferred = True
        for head in heads:
            head.type = "DeconvolvingFCNHead"


def _is_the_papers(head: Any) -> bool:
    """Test whether a head starts with a plain 3 x 3 convolution.

    Its input is the neck's map.
    """
    plain = {
        "type": "FCNHead",
        "concat_input": False,
        "in_index": -1,
        "kernel_size": 3,
        "dilation": 1,
        "conv_cfg": None,
    }
    others = {"concat_input": True, "kernel_size": 3, "dilation": 1}  # FCNHead's own defaults
    return (
        all(head.get(name, others.get(name)) == value for name, value in plain.items()) and head.get("num_convs", 2) > 0
    )


def _layers(recipe: SegRecipe) -> int:
    """Count the encoder blocks that the neck uses."""
    return {"deconvolution": 1, "detail": recipe.layers, "pyramid": len(_PYRAMID)}[recipe.neck]


def _load(recipe: SegRecipe, prithvi: EncoderConfig) -> dict[str, Any]:
    statistics = [list(prithvi.statistics.means), list(prithvi.statistics.stds)]
    own = {"statistics": statistics} if recipe.normalize == "image" else {}
    return {"type": "LoadChip", "bands": list(prithvi.bands), **own}


def _model(recipe: SegRecipe, prithvi: EncoderConfig) -> dict[str, Any]:
    head = {
        "type": "FCNHead",
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
    backbone, neck, width = _unet(recipe, prithvi) if recipe.architecture == UNET else _prithvi(recipe, prithvi)
    decode_head = {**head, "in_channels": width, "num_convs": recipe.head_convolutions}
    if recipe.architecture == PRITHVI and recipe.neck == "pyramid":
        for name in ("concat_input", "num_convs"):
            del decode_head[name]
        decode_head |= {
            "type": "UPerHead",
            "in_channels": [width] * len(_PYRAMID),
            "in_index": list(range(len(_PYRAMID))),
            "pool_scales": (1, 2, 3, 6),
        }
    return {
        "type": "WindowedEncoderDecoder",
        "scales": list(recipe.scales),
        "orientations": recipe.orientations,
        "crater_prior": recipe.crater_prior,
        "crater_threshold": recipe.threshold,
        "crater_peak": recipe.peak,
        "data_preprocessor": {
            "type": "BandDataPreProcessor",
            "mean": list(prithvi.statistics.means),
            "std": list(prithvi.statistics.stds),
            "size": (recipe.crop_size, recipe.crop_size),
            "pad_val": 0,
            "seg_pad_val": IGNORE,
        },
        "backbone": backbone,
        "neck": neck,
        "decode_head": decode_head,
        "auxiliary_head": {**head, "in_channels": width, "num_convs": 2} if recipe.auxiliary_head else None,
        "train_cfg": {},
        "test_cfg": {
            "mode": "slide",
            "crop_size": (recipe.window, recipe.window),
            "stride": (recipe.stride, recipe.stride),
        },
    }


_Parts = tuple[dict[str, Any], dict[str, Any] | None, int]
"""Backbone, neck, and the width of their output."""


def _unet(recipe: SegRecipe, prithvi: EncoderConfig) -> _Parts:
    stages = recipe.unet_stages
    backbone = {
        "type": "UNet",
        "in_channels": prithvi.in_chans,
        "base_channels": recipe.unet_channels,
        "num_stages": stages,
        "strides": (1,) * stages,
        "enc_num_convs": (2,) * stages,
        "dec_num_convs": (2,) * (stages - 1),
        "downsamples": (True,) * (stages - 1),
        "enc_dilations": (1,) * stages,
        "dec_dilations": (1,) * (stages - 1),
        "norm_cfg": {"type": "BN"},
    }
    return backbone, None, recipe.unet_channels


def _prithvi(recipe: SegRecipe, prithvi: EncoderConfig) -> _Parts:
    detail, count = recipe.neck == "detail", _layers(recipe)
    backbone = {
        "type": "PrithviBackbone",
        "encoder": prithvi.to_dict(),
        "layers": [prithvi.depth * (number + 1) // count - 1 for number in range(count)],
        "frozen": recipe.frozen,
        "with_image": detail,
        "magnify": recipe.magnify,
    }
    match recipe.neck:
        case "detail":
            neck = {
                "type": "DetailNeck",
                "in_channels": [prithvi.embed_dim] * count,
                "channels": recipe.neck_channels,
                "image_channels": prithvi.in_chans,
                "detail_channels": recipe.detail_channels,
                "local_contrast": recipe.local_contrast,
                # Down to twice the resolution of the encoder's maps, and to an eighth at least.
                "stages": max(3, math.ceil(math.log2(max(prithvi.patch_size[1:]) / recipe.magnify)) - 1),
            }
            return backbone, neck, max(recipe.neck_channels // 2, 1)
        case "pyramid":
            neck = {
                "type": "Feature2Pyramid",
                "embed_dim": prithvi.embed_dim,
                "rescales": list(_PYRAMID),
                "norm_cfg": {"type": "BN"},
            }
            return backbone, neck, prithvi.embed_dim
        case "deconvolution":
            neck = {"type": "ConvTransposeNeck", "in_channels": prithvi.embed_dim, "channels": recipe.neck_channels}
            return backbone, neck, recipe.neck_channels


def _losses(recipe: SegRecipe) -> list[dict[str, Any]]:
    cross_entropy = {"type": "PixelMeanCrossEntropyLoss", "class_weight": list(recipe.class_weights)}
    named: dict[str, list[dict[str, Any]]] = {
        "dice": [{"type": "MaskedDiceLoss"}],
        "weighted_cross_entropy": [cross_entropy],
        "dice_cross_entropy": [cross_entropy, {"type": "MaskedDiceLoss", "class_weight": [0.0, 1.0], "batch": True}],
        "focal": [{"type": "MaskedFocalLoss", "class_weight": list(recipe.class_weights)}],
    }
    losses = named[recipe.loss]
    if recipe.craterwise_weight:
        losses.append({"type": "CraterwiseDiceLoss", "loss_weight": recipe.craterwise_weight})
    return losses


def _train_pipeline(recipe: SegRecipe, prithvi: EncoderConfig) -> list[dict[str, Any]]:
    return [
        _load(recipe, prithvi),
        {"type": "LoadMask", **({"smallest_crater": recipe.smallest_crater} if recipe.smallest_crater else {})},
        {
            "type": "CraterCrop",
            "size": recipe.crop_size,
            "scale": recipe.scale,
            "scale_jitter": recipe.scale_jitter,
            "crater_share": recipe.crater_crops,
        },
        *([{"type": "RandomOrientation", "turn": recipe.rotate}] if recipe.flip or recipe.rotate else []),
        *([{"type": "RandomLight"}] if recipe.light else []),
        {"type": "PackSegInputs"},
    ]


def _optim_wrapper(recipe: SegRecipe, prithvi: EncoderConfig, compute: Compute) -> dict[str, Any]:
    bf16 = compute.precision == "bf16"
    # A U-Net also has an "encoder", but no pretrained blocks that need lower rates.
    unet = recipe.architecture == UNET
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
            "encoder_lr": 1.0 if unet else recipe.encoder_lr,
            "layer_decay": 1.0 if unet else recipe.layer_decay,
        },
    }


def _schedule(recipe: SegRecipe) -> list[dict[str, Any]]:
    """Describe warm-up and decay of the learning rate.

    mmengine multiplies the two, as mmcv's warm-up did with its poly schedule.

    In mmengine an interval's last step has its end value, in mmcv (and the paper) the step after it: hence the + 1.
    """
    schedule: list[dict[str, Any]] = []
    if recipe.warmup_steps:
        end = recipe.warmup_steps + 1
        schedule.append({"type": "LinearLR", "start_factor": 1e-6, "by_epoch": False, "begin": 0, "end": end})
    span = {"eta_min": 0.0, "by_epoch": False, "begin": 0, "end": recipe.steps + 1}
    match recipe.schedule:
        case "poly":
            schedule.append({"type": "PolyLR", "power": 1.0, **span})
        case "cosine":
            schedule.append({"type": "CosineAnnealingLR", "T_max": recipe.steps, **span})
    return schedule
