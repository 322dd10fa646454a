"""Optimizer wrappers for mmengine: bf16 autocast and learning rates by block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS
from torch import nn


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """Optimizer wrapper with forward passes in bf16 autocast, on CPU and CUDA.

    bf16 has the range of float32, so that no loss scaling is needed.

    Args:
        device_type: "cpu" or "cuda".
        kwargs: arguments of mmengine's wrapper.
    """

    def __init__(self, device_type: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.device_type = device_type

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        with super().optim_context(model), torch.autocast(self.device_type, dtype=torch.bfloat16):
            yield


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class EncoderDecayConstructor(DefaultOptimWrapperConstructor):
    """Learning rates that fall from the encoder's last block to its first.

    Biases and norms have no weight decay.

    ``paramwise_cfg`` has ``depth``, the number of encoder blocks, ``encoder_lr``, the rate of the last block as a
    factor of lr, and ``layer_decay``, the factor from each block to the one below. Patches and class token count as the
    block below the first, the final norm as part of the last block.
    """

    def add_params(self, params: list[dict[str, Any]], module: nn.Module, **_: Any) -> None:
        """Add a group for each learning rate and weight decay, as mmengine calls for."""
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                embedded = name.endswith(("cls_token", "pos_embed", "s_t_channel_embed"))
                decay = 0.0 if parameter.ndim <= 1 or embedded else self.base_wd
                groups.setdefault((self.base_lr * self._factor(name), decay), []).append(parameter)
        params += [{"params": some, "lr": lr, "weight_decay": decay} for (lr, decay), some in groups.items()]

    def _factor(self, name: str) -> float:
        prefix = "backbone.encoder."
        if not name.startswith(prefix):
            return 1.0
        part, *rest = name.removeprefix(prefix).removeprefix("model.").split(".")
        depth = self.paramwise_cfg["depth"]
        block = int(rest[0]) if part == "blocks" else depth - 1 if part == "norm" else -1
        return float(self.paramwise_cfg["encoder_lr"] * self.paramwise_cfg["layer_decay"] ** (depth - 1 - block))
