"""Prithvi's masked autoencoder.

In reading order: patchify, mask, encode, decode, loss.

The architecture is that of Jakubik et al. 2023 (arXiv:2310.18660), after He et al. 2022 (arXiv:2111.06377): a ViT over
space-time patches with fixed 3-D sine-cosine positions. Parameters have the names used in the published files, so that
their state dicts load strictly. Letters in shapes: B batch, C channels, T frames, H x W pixels, L patches, D embedding
width, and (t, h, w) the grid of patches with L = t * h * w.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from mars_assets.errors import MarsError
from mars_assets.prithvi.config import PrithviConfig
from mars_assets.prithvi.masking import random_masking

Grid = tuple[int, int, int]


class Encoded(NamedTuple):
    """The output of the encoder.

    Args:
        tokens: (B, 1 + L_keep, D), the class token first.
        mask: float32 (B, L), 1 where a patch was removed, 0 where it is visible.
        ids_restore: int64 (B, L), the index of each patch in [visible, removed].
    """

    tokens: Tensor
    mask: Tensor
    ids_restore: Tensor


class Reconstruction(NamedTuple):
    """The output of the autoencoder.

    Args:
        loss: scalar, the mean squared error of the removed patches.
        pred: (B, L, s*p*q*C), the decoder's prediction of every patch.
        mask: float32 (B, L), 1 where a patch was removed.
    """

    loss: Tensor
    pred: Tensor
    mask: Tensor


def patchify(x: Tensor, patch_size: Grid) -> Tensor:
    """Cut images into patches: (B, C, T, H, W) -> (B, L, s*p*q*C).

    The channel is fastest within a patch.
    """
    b, c, frames, height, width = x.shape
    s, p, q = patch_size
    x = x.reshape(b, c, frames // s, s, height // p, p, width // q, q)
    return x.permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(b, -1, s * p * q * c)


def unpatchify(patches: Tensor, patch_size: Grid, grid: Grid) -> Tensor:
    """Invert :func:`patchify`: (B, L, s*p*q*C) -> (B, C, T, H, W)."""
    b = patches.shape[0]
    (s, p, q), (t, h, w) = patch_size, grid
    x = patches.reshape(b, t, h, w, s, p, q, -1)
    return x.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(b, -1, t * s, h * p, w * q)


def sincos(positions: Tensor, dim: int) -> Tensor:
    """Encode (L,) positions as float64 (L, dim).

    A row is [sin | cos] of position * 10000^(-i / (dim / 2)).
    """
    omega = 10000.0 ** (-torch.arange(dim // 2, dtype=torch.float64, device=positions.device) / (dim / 2))
    angles = positions.double()[:, None] * omega
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def position_table(dim: int, grid: Grid) -> Tensor:
    """Compute the fixed positions of a grid on the CPU: float32 (1, 1 + t*h*w, dim).

    6/16 of the width encode the column, 6/16 the row and 4/16 the frame; the class token's row is zero.
    """
    t, h, w = (torch.arange(size, device="cpu") for size in grid)  # explicit, for real values in a meta-device context
    t, h, w = (axis.flatten() for axis in torch.meshgrid(t, h, w, indexing="ij"))
    spatial = dim // 16 * 6
    table = torch.cat([sincos(w, spatial), sincos(h, spatial), sincos(t, dim - 2 * spatial)], dim=1)
    return F.pad(table, (0, 0, 1, 0)).float()[None]


def resized_position_table(dim: int, published: Grid, grid: Grid) -> Tensor:
    """Compute the positions of ``grid`` for published weights.

    The table is computed for any number of frames. For another image size, the published rows and columns are
    interpolated bicubically with aligned corners, as in the authors' code.
    """
    t, h, w = grid
    table = position_table(dim, (t, *published[1:]))
    if (h, w) == published[1:]:
        return table
    patches = table[0, 1:].reshape(t, *published[1:], dim).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=(h, w), mode="bicubic", align_corners=True)
    patches = patches.permute(0, 2, 3, 1).reshape(1, t * h * w, dim)
    return torch.cat([table[:, :1], patches], dim=1)


class Positions:
    """A cache of position tables by grid and device."""

    def __init__(self, dim: int, published: Grid) -> None:
        self._dim = dim
        self._published = published
        self._tables: dict[tuple[Grid, torch.device], Tensor] = {}

    def at(self, grid: Grid, device: torch.device) -> Tensor:
        """Return the positions of a grid: float32 (1, 1 + L, D) on ``device``."""
        key = (grid, device)
        if key not in self._tables:
            # A table computed in inference mode could not be used in a later training step.
            with torch.inference_mode(False):
                self._tables[key] = resized_position_table(self._dim, self._published, grid).to(device)
        return self._tables[key]


class PatchEmbed(nn.Module):
    """A linear embedding of patches.

    Its weights are stored as those of a 3-D convolution.
    """

    def __init__(self, config: PrithviConfig) -> None:
        super().__init__()
        self.proj = nn.Conv3d(config.in_chans, config.embed_dim, config.patch_size, config.patch_size)
        nn.init.xavier_uniform_(self.proj.weight.view(config.embed_dim, -1))

    def forward(self, patches: Tensor) -> Tensor:
        """Embed any patches of :func:`patchify`, (B, L, s*p*q*C) -> (B, L, D)."""
        # Without overlap the convolution is a matrix product, and 3-D convolutions are slow in bf16.
        weight = self.proj.weight.permute(0, 2, 3, 4, 1).flatten(1)
        return F.linear(patches, weight, self.proj.bias)


class TransformerBlock(Block):
    """timm's transformer block: tokens (B, N, D) -> (B, N, D)."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override] # without timm's masks of attention
        """Attend and transform, each on normalised tokens and added to them."""
        # In bf16 on a CPU, the gradient of torch's fused attention takes up to four times as long as that of its steps
        # one by one. From some 400 tokens on, the steps are no faster. benchmarks/prithvi.py measures a training step.
        slow = x.requires_grad and x.shape[1] <= 256 and x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        self.attn.fused_attn = not slow  # type: ignore[assignment]
        tokens: Tensor = super().forward(x)
        return tokens


def _blocks(dim: int, depth: int, heads: int, config: PrithviConfig) -> nn.ModuleList:
    norm: Any = partial(nn.LayerNorm, eps=config.layer_norm_eps)
    return nn.ModuleList(
        TransformerBlock(dim, heads, config.mlp_ratio, qkv_bias=True, norm_layer=norm) for _ in range(depth)
    )


def _initialise(module: nn.Module) -> None:
    """Initialise linear layers as in He et al. 2022."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


class PrithviEncoder(nn.Module):
    """The Vision Transformer, which downstream tasks use."""

    WITHOUT_DECAY: ClassVar = ("cls_token",)

    def __init__(self, config: PrithviConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.embed_dim))
        # A buffer only because the published files contain it: the forward pass uses `positions`.
        self.register_buffer("pos_embed", position_table(config.embed_dim, config.grid))
        self.positions = Positions(config.embed_dim, config.grid)
        self.blocks = _blocks(config.embed_dim, config.depth, config.num_heads, config)
        self.norm = nn.LayerNorm(config.embed_dim, eps=config.layer_norm_eps)
        self.apply(_initialise)
        nn.init.normal_(self.cls_token, std=0.02)

    def grid(self, x: Tensor) -> Grid:
        """Compute the grid of patches (t, h, w) for an input (B, C, T, H, W).

        Raises:
            MarsError: the channels do not match the bands, or the patch size does not divide the input.
        """
        bands = self.config.bands
        if x.ndim != 5 or x.shape[1] != len(bands):
            raise MarsError(
                f"Prithvi takes (B, {len(bands)}, T, H, W) or (B, {len(bands)}, H, W), bands {', '.join(bands)}; "
                f"this input has shape {tuple(x.shape)}"
            )
        size, patch = x.shape[2:], self.config.patch_size
        if any(side % step or side == 0 for side, step in zip(size, patch, strict=True)):
            padded = [max(math.ceil(side / step), 1) * step for side, step in zip(size, patch, strict=True)]
            raise MarsError(
                f"patches of {_by(patch)} do not divide an input of {_by(size)} (frames x rows x columns): "
                f"pad it to {_by(padded)}"
            )
        t, h, w = (side // step for side, step in zip(size, patch, strict=True))
        return t, h, w

    def embed(self, x: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        """Embed (B, C, T, H, W) as the class token and the patches, with positions.

        If ``ids_keep`` (B, L_keep) is given, only those patches are embedded.
        """
        positions = self.positions.at(self.grid(x), x.device)
        cls_token = (self.cls_token + positions[:, :1]).expand(len(x), -1, -1)
        patches, places = patchify(x, self.config.patch_size), positions[:, 1:]
        if ids_keep is not None:
            patches = patches.gather(1, ids_keep[..., None].expand(-1, -1, patches.shape[2]))
            places = places[0, ids_keep]
        embedded = self.patch_embed(patches) + places
        return torch.cat([cls_token.to(embedded.dtype), embedded], dim=1)

    def forward(self, x: Tensor, mask_ratio: float = 0.0, noise: Tensor | None = None) -> Encoded:
        """Encode the patches that random masking leaves visible.

        Args:
            x: normalised input, (B, C, T, H, W) or (B, C, H, W).
            mask_ratio: share of the patches to remove, in [0, 1). For 0 without noise, the tokens are in the order
                (t, h, w), w fastest; otherwise they are in the order of their noise.
            noise: (B, L), drawn from U[0, 1) if not given.

        Raises:
            MarsError: the patch size does not divide the input, the channels do not match the bands, the ratio is out
                of range, or the noise has the wrong shape.
        """
        x = with_frames(x)
        b, length = len(x), math.prod(self.grid(x))
        if not 0 <= mask_ratio < 1:
            raise MarsError(f"mask_ratio={mask_ratio} is not in [0, 1)")
        if noise is not None and noise.shape != (b, length):
            raise MarsError(
                f"mask noise for this input needs shape {(b, length)}, one value per patch, not {tuple(noise.shape)}"
            )
        if mask_ratio == 0 and noise is None:
            tokens = self.embed(x)
            mask = torch.zeros(b, length, device=x.device)
            ids_restore = torch.arange(length, device=x.device).expand(b, -1)
        else:
            if noise is None:
                noise = torch.rand(b, length, device=x.device)
            ids_keep, mask, ids_restore = random_masking(noise, mask_ratio)
            tokens = self.embed(x, ids_keep)
        for block in self.blocks:
            tokens = block(tokens)
        return Encoded(self.norm(tokens), mask, ids_restore)

    def features(self, x: Tensor, layers: Sequence[int] | None = None) -> list[Tensor]:
        """Compute feature maps for dense prediction.

        They are the patch tokens of the unmasked input as images, without the class token.

        Args:
            x: normalised input, (B, C, T, H, W) or (B, C, H, W).
            layers: blocks whose output to return, counted from 0, negative from the end; the last one if None.

        Returns:
            For each layer (B, T*D, H/p, W/p), frames along the channels. The final norm is applied only to the last
            block's output.

        Raises:
            MarsError: as in :meth:`forward`, or a layer that does not exist.
        """
        depth = len(self.blocks)
        wanted = wanted_blocks(layers, depth)
        x = with_frames(x)
        tokens = self.embed(x)
        maps = {}
        for layer, block in enumerate(self.blocks[: max(wanted) + 1]):
            tokens = block(tokens)
            if layer in wanted:
                out = self.norm(tokens) if layer == depth - 1 else tokens
                maps[layer] = self._as_map(out[:, 1:], self.grid(x))
        return [maps[layer] for layer in wanted]

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Group the parameters by layer, in timm's format for layer-wise learning rates.

        The norm belongs to the last block.
        """
        return {"stem": r"^(?:cls_token|patch_embed)", "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))]}

    @staticmethod
    def _as_map(patches: Tensor, grid: Grid) -> Tensor:
        t, h, w = grid
        by_frame: Tensor = patches.unflatten(1, (t, h * w))
        return by_frame.permute(0, 1, 3, 2).reshape(len(patches), -1, h, w)


class PrithviDecoder(nn.Module):
    """The lighter transformer that predicts every patch from the visible ones.

    Only pretraining and reconstruction use it.
    """

    def __init__(self, config: PrithviConfig) -> None:
        super().__init__()
        dim = config.decoder_embed_dim
        self.decoder_embed = nn.Linear(config.embed_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.register_buffer("decoder_pos_embed", position_table(dim, config.grid))
        self.positions = Positions(dim, config.grid)
        self.decoder_blocks = _blocks(dim, config.decoder_depth, config.decoder_num_heads, config)
        self.decoder_norm = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.decoder_pred = nn.Linear(dim, math.prod(config.patch_size) * config.in_chans)
        self.apply(_initialise)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, tokens: Tensor, ids_restore: Tensor, grid: Grid) -> Tensor:
        """Decode (B, 1 + L_keep, D) and (B, L) -> patches (B, L, s*p*q*C)."""
        x = self.decoder_embed(tokens)
        b, kept, dim = x.shape
        length = ids_restore.shape[1]
        removed = self.mask_token.to(x.dtype).expand(b, length + 1 - kept, -1)
        patches = torch.cat([x[:, 1:], removed], dim=1).gather(1, ids_restore[..., None].expand(-1, -1, dim))
        x = torch.cat([x[:, :1], patches], dim=1) + self.positions.at(grid, x.device)
        for block in self.decoder_blocks:
            x = block(x)
        painted: Tensor = self.decoder_pred(self.decoder_norm(x))
        return painted[:, 1:]


class PrithviMAE(nn.Module):
    """The masked autoencoder, as in pretraining.

    Args:
        config: the architecture.
    """

    def __init__(self, config: PrithviConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = PrithviEncoder(config)
        self.decoder = PrithviDecoder(config)

    def patchify(self, x: Tensor) -> Tensor:
        """Cut images into patches: (B, C, T, H, W) or (B, C, H, W) -> (B, L, s*p*q*C)."""
        return patchify(with_frames(x), self.config.patch_size)

    def unpatchify(self, patches: Tensor, grid: Grid) -> Tensor:
        """Assemble patches: (B, L, s*p*q*C) -> (B, C, T, H, W)."""
        return unpatchify(patches, self.config.patch_size, grid)

    def loss(self, x: Tensor, pred: Tensor, mask: Tensor) -> Tensor:
        """Compute the mean squared error of the removed patches.

        The mean is over their pixels and channels.

        It is NaN if no patch was removed.

        Args:
            x: normalised input, (B, C, T, H, W) or (B, C, H, W).
            pred: (B, L, s*p*q*C).
            mask: (B, L), 1 where a patch was removed.
        """
        target = self.patchify(x).float()
        if self.config.norm_pix_loss:
            variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
            target = (target - mean) / (variance + 1e-6).sqrt()
        error = (pred.float() - target).square().mean(dim=-1)
        return (error * mask).sum() / mask.sum()

    def forward(self, x: Tensor, mask_ratio: float | None = None, noise: Tensor | None = None) -> Reconstruction:
        """Remove patches, encode the rest, and reconstruct all of them.

        Args:
            x: normalised input, (B, C, T, H, W) or (B, C, H, W).
            mask_ratio: share of the patches to remove; that of the configuration if None.
            noise: (B, L), drawn from U[0, 1) if not given.

        Raises:
            MarsError: as in :meth:`PrithviEncoder.forward`.
        """
        x = with_frames(x)
        tokens, mask, ids_restore = self.encoder(x, self.config.mask_ratio if mask_ratio is None else mask_ratio, noise)
        pred = self.decoder(tokens, ids_restore, self.encoder.grid(x))
        return Reconstruction(self.loss(x, pred, mask), pred, mask)


def wanted_blocks(layers: Sequence[int] | None, depth: int) -> list[int]:
    """Count the blocks whose output is wanted from 0.

    Args:
        layers: counted from 0, or negative from the end; the last one if None.
        depth: number of blocks.

    Raises:
        MarsError: one of them does not exist.
    """
    wanted = [depth - 1] if layers is None else [layer + depth if layer < 0 else layer for layer in layers]
    if outside := [layer for layer in wanted if not 0 <= layer < depth]:
        raise MarsError(f"layers {outside} do not exist: the encoder has {depth} blocks")
    return wanted


def with_frames(x: Tensor) -> Tensor:
    """Insert the frame dimension, (B, C, H, W) -> (B, C, 1, H, W).

    Other shapes are unchanged.
    """
    return x.unsqueeze(2) if x.ndim == 4 else x


def _by(sizes: Sequence[int]) -> str:
    return " x ".join(str(size) for size in sizes)
