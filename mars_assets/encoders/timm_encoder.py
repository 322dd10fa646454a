"""Models of timm as encoders: Vision Transformers and convolutional networks.

Letters in shapes: B batch, C channels, H x W pixels, L = h * w patches, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mars_assets.bands import HLS_BANDS
from mars_assets.checkpoints import refuse_mismatch
from mars_assets.encoders.config import TimmConfig
from mars_assets.encoders.matchers import below
from mars_assets.errors import MarsError
from mars_assets.prithvi.masking import random_masking
from mars_assets.prithvi.model import Encoded, wanted_blocks
from mars_assets.prithvi.weights import LoadReport

_OF_AUTOENCODERS = ("decoder_", "mask_token", "lpips_fn.")
"""Beginnings of keys that only a masked autoencoder has, and its loss."""
_EPS = 1e-6
"""Least range of a picture that is stretched, in units of its values."""


class TimmEncoder(nn.Module):
    """A model of timm without its classifier: chips (B, C, H, W) -> tokens.

    Args:
        config: the architecture, and how it sees pictures.
    """

    WITHOUT_DECAY: ClassVar = ("model.cls_token", "model.pos_embed")

    def __init__(self, config: TimmConfig) -> None:
        super().__init__()
        self.config = config
        options: dict[str, Any] = {"dynamic_img_size": True} if config.is_transformer else {}
        self.model: Any = timm.create_model(config.model, pretrained=False, num_classes=0, **options)

    def own_input(self, x: Tensor) -> Tensor:
        """Turn normalised chips into pictures as the model was trained on, (B, 3, H, W).

        Raises:
            MarsError: the channels do not match the bands.
        """
        config = self.config
        if x.ndim != 4 or x.shape[1] != len(config.bands):
            raise MarsError(
                f"{config.variant} takes (B, {len(config.bands)}, H, W), bands {', '.join(config.bands)}; this input "
                f"has shape {tuple(x.shape)}"
            )
        scale, offset = (torch.from_numpy(values).to(x) for values in config.scale_and_offset())
        seen = torch.addcmul(offset, x[:, [HLS_BANDS.index(band) for band in config.seen]], scale)
        if not config.stretched:
            return seen
        grey = seen.mean(dim=1, keepdim=True)
        darkest, lightest = grey.amin(dim=(2, 3), keepdim=True), grey.amax(dim=(2, 3), keepdim=True)
        stretched = (grey - darkest) / (lightest - darkest).clamp_min(_EPS)
        mean, std = (x.new_tensor(values)[:, None, None] for values in (config.means, config.stds))
        return (stretched - mean) / std

    def forward(self, x: Tensor, mask_ratio: float = 0.0, noise: Tensor | None = None) -> Encoded:
        """Encode the patches that random masking leaves visible.

        A convolutional network's tokens are the places of its last map, of which none can be left out.

        Args:
            x: normalised chips, (B, C, H, W).
            mask_ratio: share of the patches to remove, in [0, 1).
            noise: (B, L), drawn from U[0, 1) if not given.

        Raises:
            MarsError: the channels do not match the bands, the patch size does not divide the chips, or the ratio is
                out of range.
        """
        if not 0 <= mask_ratio < 1 or (mask_ratio and not self.config.is_transformer):
            raise MarsError(
                f"mask_ratio={mask_ratio} is not in [0, 1), or {self.config.variant} cannot leave out patches"
            )
        if not self.config.is_transformer:
            tokens = self.model.forward_features(self.own_input(x)).flatten(2).mT
            b, length = tokens.shape[:2]
            return Encoded(tokens, torch.zeros(b, length, device=x.device), _in_order(b, length, x.device))
        tokens = self._embed(x)
        b, first = len(x), self.model.num_prefix_tokens
        length = tokens.shape[1] - first
        if mask_ratio == 0 and noise is None:
            mask, ids_restore = torch.zeros(b, length, device=x.device), _in_order(b, length, x.device)
        else:
            if noise is None:
                noise = torch.rand(b, length, device=x.device)
            ids_keep, mask, ids_restore = random_masking(noise, mask_ratio)
            kept = tokens[:, first:].gather(1, ids_keep[..., None].expand(-1, -1, tokens.shape[2]))
            tokens = torch.cat([tokens[:, :first], kept], dim=1)
        for block in self.model.blocks:
            tokens = block(tokens)
        return Encoded(self.model.norm(tokens), mask, ids_restore)

    def features(self, x: Tensor, layers: Sequence[int] | None = None) -> list[Tensor]:
        """Compute feature maps for dense prediction: the patches' tokens as images.

        Args:
            x: normalised chips, (B, C, H, W).
            layers: blocks whose output to return, counted from 0, negative from the end; the last one if None.

        Returns:
            For each layer (B, D, h, w). The final norm is applied only to the last block's output.

        Raises:
            MarsError: as in :meth:`forward`, a layer does not exist, or the maps have several resolutions.
        """
        if not self.config.is_transformer:
            raise MarsError(f"{self.config.variant} has maps of several resolutions, which no neck takes")
        depth = len(self.model.blocks)
        wanted = wanted_blocks(layers, depth)
        grid = [length // self.config.patch_size[1] for length in x.shape[2:]]
        tokens = self._embed(x)
        maps = {}
        for layer, block in enumerate(self.model.blocks[: max(wanted) + 1]):
            tokens = block(tokens)
            if layer in wanted:
                out = self.model.norm(tokens) if layer == depth - 1 else tokens
                maps[layer] = out[:, self.model.num_prefix_tokens :].mT.unflatten(2, grid)
        return [maps[layer] for layer in wanted]

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Group the parameters by layer, in timm's format for layer-wise learning rates."""
        return below("model.", self.model.group_matcher(coarse))

    def _embed(self, x: Tensor) -> Tensor:
        """Embed chips as prefix tokens and patches, with positions."""
        side = self.config.patch_size[1]
        if any(length % side for length in x.shape[2:]):
            height, width = x.shape[2:]
            raise MarsError(f"patches of {side} x {side} do not divide an input of {height} x {width} (rows x columns)")
        model: VisionTransformer = self.model
        embedded: Tensor = model.norm_pre(model._pos_embed(model.patch_embed(self.own_input(x))))
        return embedded


def _in_order(b: int, length: int, device: torch.device) -> Tensor:
    return torch.arange(length, device=device).expand(b, -1)


def _is_count(key: str) -> bool:
    """Tell a batch norm's count of batches, which nothing needs once it is trained."""
    return key.endswith("num_batches_tracked")


def from_published(config: TimmConfig, published: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], LoadReport]:
    """Take the encoder's weights from the published ones.

    Args:
        config: the architecture.
        published: the tensors of the published file: timm's, or those of a masked autoencoder on its architecture.

    Returns:
        The encoder's state, float32, and how each key was used.

    Raises:
        MarsError: see :func:`~mars_assets.checkpoints.refuse_mismatch`.
    """
    with torch.device("meta"):
        own = TimmEncoder(config).model.state_dict()
    default = timm.get_pretrained_cfg(config.model)
    classifier = () if default is None or not default.classifier else (f"{default.classifier}.",)
    unused = [key for key in published if key not in own and key.startswith((*_OF_AUTOENCODERS, *classifier))]
    needed = {key: value.shape for key, value in own.items() if not _is_count(key)}
    counted = [key for key in published if _is_count(key) and key in own]
    unknown = [key for key in published if key not in own and key not in unused]
    refuse_mismatch(config.variant, needed, published, unknown, published.keys())
    state = {f"model.{key}": published[key].float() for key in needed}
    return state, LoadReport("published", tuple(needed), (), (*unused, *counted))
