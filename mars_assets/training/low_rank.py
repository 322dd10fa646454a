"""Low-rank adaptation of an encoder's attention.

A few lines in place of the library peft, which needs two more and 150 MB. Weights keep their names, so that a finished
model is a plain one: see :func:`merged`.

Source: Hu et al. 2022, LoRA (ICLR, arXiv:2106.09685).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

from mars_assets.errors import MarsError

ALPHA = 16.0
"""The product ``up @ down`` is multiplied by this over the rank."""
_ADAPTED = re.compile(r"(model\.)?blocks\.\d+\.attn\.(qkv|proj)")  # timm's are in a model


class LowRankLinear(nn.Linear):
    """A linear layer that a matrix of low rank is added to.

    It starts as the layer itself: ``up`` is 0.

    Args:
        linear: the layer; it shares its weight and bias, which are frozen.
        rank: of ``up @ down``.
    """

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None)
        self.weight, self.bias = linear.weight, linear.bias
        self.requires_grad_(False)
        self.down = nn.Parameter(torch.empty(rank, linear.in_features))
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, input: Tensor) -> Tensor:
        added = F.linear(F.linear(input, self.down), self.up)
        return super().forward(input) + ALPHA / len(self.down) * added


def adapt(encoder: nn.Module, rank: int) -> None:
    """Freeze an encoder but for additions of low rank to its attention.

    Raises:
        MarsError: the rank is that of the matrices or more, or it has no attention.
    """
    encoder.requires_grad_(False)
    layers = {name: layer for name, layer in encoder.named_modules() if _ADAPTED.fullmatch(name)}
    if not layers:
        raise MarsError("lora_rank: the encoder has no attention to adapt: set it to 0")
    for name, layer in layers.items():
        assert isinstance(layer, nn.Linear)
        if rank >= min(layer.in_features, layer.out_features):
            raise MarsError(
                f"lora_rank={rank} is not below the width of the encoder, {layer.in_features}: choose a lower one, "
                "such as 8"
            )
        parent, _, own = name.rpartition(".")
        setattr(encoder.get_submodule(parent), own, LowRankLinear(layer, rank))


def merged(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add what was learnt to the weights of the layers, and leave no addition."""
    found = dict(weights)
    for name in [name for name in weights if name.endswith(".down")]:
        layer = name.removesuffix(".down")
        down, up = found.pop(name), found.pop(f"{layer}.up")
        found[f"{layer}.weight"] = found[f"{layer}.weight"] + ALPHA / len(down) * (up @ down)
    return found
