"""Galileo's encoder, for the bands of HLS.

The architecture is that of Tseng et al. 2025 (arXiv:2502.09356): a ViT in which each group of bands of a patch is a
token, and a patch may have any side. Of its inputs only those groups of Sentinel-2 are here that belong to HLS's bands,
at one time. Letters in shapes: B batch, C channels, H x W pixels, p side of a patch, L = h * w patches, G groups, D
width. Tokens are in the order of rows, columns and groups, the group fastest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

from mars_assets.bands import HLS_BANDS
from mars_assets.checkpoints import refuse_mismatch
from mars_assets.encoders.config import GALILEO_GROUPS, GalileoConfig
from mars_assets.errors import MarsError
from mars_assets.prithvi.masking import random_masking
from mars_assets.prithvi.model import Encoded, TransformerBlock, wanted_blocks
from mars_assets.prithvi.weights import LoadReport

PUBLISHED_GROUPS = ("S1", "S2_RGB", "S2_Red_Edge", "S2_NIR_10m", "S2_NIR_20m", "S2_SWIR", "NDVI")
"""All groups of inputs that vary in space and time, in the order of the published embeddings of groups."""
PUBLISHED_SIDE = 8
"""Side of the published patch embeddings in pixels."""
UNIT_METRES = 10.0
"""Positions are in multiples of this."""
MONTHS = 12
_EPS = 1e-5

_TABLES = ("pos_embed", "month_embed.weight")
"""Fixed tables in the published file, which are computed here."""
_OTHER_INPUTS = (
    *("space_embed.", "time_embed.", "static_embed."),
    *("sp_channel_embed", "t_channel_embed", "st_channel_embed"),
)


def sincos(positions: Tensor, dim: int) -> Tensor:
    """Encode (L,) positions as float64 (L, dim).

    A row is [sin | cos] of position * 10000^(-i / (2 * dim)), as in the authors' code; in Vaswani et al. 2017 the
    exponent is 2 * i / dim.
    """
    omega = 10000.0 ** (-torch.arange(dim // 2, dtype=torch.float64, device=positions.device) / (2 * dim))
    angles = positions.double()[:, None] * omega
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def resampled_kernel(kernel: Tensor, side: int) -> Tensor:
    """Resample a patch embedding, (D, C, s, s) -> (D, C, side, side).

    Of all kernels, the result gives on patches that are resized bicubically with antialiasing the embeddings that are
    closest to the original ones: Beyer et al. 2023 (arXiv:2212.08013), section 3.4.
    """
    published = kernel.shape[-1]
    if side == published:
        return kernel
    units = torch.eye(published**2, device=kernel.device).view(-1, 1, published, published)
    resize = F.interpolate(units, (side, side), mode="bicubic", antialias=True).flatten(1)
    resampled: Tensor = kernel.flatten(2) @ torch.linalg.pinv(resize).T.to(kernel.dtype)
    return resampled.view(*kernel.shape[:2], side, side)


class GalileoEncoder(nn.Module):
    """The Vision Transformer: normalised chips (B, C, H, W) -> tokens (B, L * G, D).

    Args:
        config: the architecture.
    """

    WITHOUT_DECAY: ClassVar = ("s_t_channel_embed",)

    def __init__(self, config: GalileoConfig) -> None:
        super().__init__()
        self.config = config
        side, width = PUBLISHED_SIDE, config.embed_dim
        self.space_time_embed = nn.ModuleDict(
            {
                name: nn.ModuleDict({"proj": nn.Conv2d(len(GALILEO_GROUPS[name]), width, side, side)})
                for name in config.groups
            }
        )
        self.s_t_channel_embed = nn.Parameter(torch.zeros(len(PUBLISHED_GROUPS), width // 4))
        norm: Any = partial(nn.LayerNorm, eps=_EPS)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, config.num_heads, 4.0, qkv_bias=True, norm_layer=norm) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width, eps=_EPS)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        self._places: dict[tuple[int, int, torch.device], Tensor] = {}

    def grid(self, x: Tensor) -> tuple[int, int]:
        """Compute the grid of patches (h, w) for chips (B, C, H, W).

        Raises:
            MarsError: the channels do not match the bands, or the patch size does not divide the chips.
        """
        bands, side = self.config.bands, self.config.patch_size[1]
        if x.ndim != 4 or x.shape[1] != len(bands):
            raise MarsError(
                f"{self.config.variant} takes (B, {len(bands)}, H, W), bands {', '.join(bands)}; this input has shape "
                f"{tuple(x.shape)}"
            )
        height, width = x.shape[2:]
        if height % side or width % side or not height or not width:
            padded = " x ".join(str(max(math.ceil(length / side), 1) * side) for length in (height, width))
            raise MarsError(
                f"patches of {side} x {side} do not divide an input of {height} x {width} (rows x columns): pad it to "
                f"{padded}"
            )
        return height // side, width // side

    def own_input(self, x: Tensor) -> Tensor:
        """Turn normalised chips into what the encoder was trained on.

        (B, C, H, W) become (B, seen bands, H, W).
        """
        places = [HLS_BANDS.index(band) for band in self.config.seen]
        scale, offset = (torch.from_numpy(values).to(x) for values in self.config.scale_and_offset())
        seen = x[:, : len(places)] if places == list(range(len(places))) else x[:, places]
        return torch.addcmul(offset, seen, scale)

    def embed(self, x: Tensor) -> Tensor:
        """Embed normalised chips, (B, C, H, W) -> (B, L, G, D).

        All that a token is told is added.
        """
        grid, side, config = self.grid(x), self.config.patch_size[1], self.config
        tokens = []
        channels = [len(GALILEO_GROUPS[name]) for name in config.groups]
        for name, own in zip(config.groups, self.own_input(x).split(channels, dim=1), strict=True):
            projection = cast(Any, self.space_time_embed[name])["proj"]
            kernel = resampled_kernel(projection.weight, side)
            tokens.append(F.conv2d(own, kernel, projection.bias, stride=side).flatten(2).mT)
        channel = self.s_t_channel_embed[[PUBLISHED_GROUPS.index(name) for name in config.groups]]
        told = F.pad(channel, (0, config.embed_dim - channel.shape[1])) + self._told(grid, x.device)
        return torch.stack(tokens, dim=2) + told

    def _told(self, grid: tuple[int, int], device: torch.device) -> Tensor:
        """Compute what a token is told besides its group.

        It is float32 (L, 1, D): [0 | time | month | column, row].
        """
        key = (*grid, device)
        if key not in self._places:
            config, quarter = self.config, self.config.embed_dim // 4
            height, width = grid
            step = config.metres / UNIT_METRES * config.patch_size[1]
            # A table computed in inference mode could not be used in a later training step.
            with torch.inference_mode(False):
                rows, columns = (sincos(torch.arange(n) * step, quarter // 2) for n in grid)
                angle = torch.tensor(2 * math.pi * config.month / MONTHS, dtype=torch.float64)
                month = torch.stack([angle.sin(), angle.cos()]).repeat_interleave(quarter // 2)
                parts = [
                    torch.zeros(height, width, quarter),
                    sincos(torch.zeros(1), quarter).expand(height, width, -1),
                    month.expand(height, width, -1),
                    columns.expand(height, -1, -1),
                    rows[:, None].expand(-1, width, -1),
                ]
                self._places[key] = torch.cat(parts, dim=2).flatten(0, 1)[:, None].float().to(device)
        return self._places[key]

    def forward(self, x: Tensor, mask_ratio: float = 0.0, noise: Tensor | None = None) -> Encoded:
        """Encode the patches that random masking leaves visible, all groups of them.

        Args:
            x: normalised chips, (B, C, H, W).
            mask_ratio: share of the patches to remove, in [0, 1).
            noise: (B, L), drawn from U[0, 1) if not given.

        Raises:
            MarsError: as :meth:`grid`, or the ratio is out of range.
        """
        if not 0 <= mask_ratio < 1:
            raise MarsError(f"mask_ratio={mask_ratio} is not in [0, 1)")
        tokens = self.embed(x)
        b, length = tokens.shape[:2]
        if mask_ratio == 0 and noise is None:
            mask = torch.zeros(b, length, device=x.device)
            ids_restore = torch.arange(length, device=x.device).expand(b, -1)
        else:
            if noise is None:
                noise = torch.rand(b, length, device=x.device)
            ids_keep, mask, ids_restore = random_masking(noise, mask_ratio)
            tokens = tokens.gather(1, ids_keep[..., None, None].expand(-1, -1, *tokens.shape[2:]))
        tokens = tokens.flatten(1, 2)
        for block in self.blocks:
            tokens = block(tokens)
        return Encoded(self.norm(tokens), mask, ids_restore)

    def features(self, x: Tensor, layers: Sequence[int] | None = None) -> list[Tensor]:
        """Compute feature maps for dense prediction.

        They are the tokens of a patch, averaged over its groups.

        Args:
            x: normalised chips, (B, C, H, W).
            layers: blocks whose output to return, counted from 0, negative from the end; the last one if None.

        Returns:
            For each layer (B, D, h, w). The final norm is applied only to the last block's output.

        Raises:
            MarsError: as in :meth:`grid`, or a layer that does not exist.
        """
        depth = len(self.blocks)
        wanted = wanted_blocks(layers, depth)
        grid = self.grid(x)
        tokens = self.embed(x).flatten(1, 2)
        maps = {}
        for layer, block in enumerate(self.blocks[: max(wanted) + 1]):
            tokens = block(tokens)
            if layer in wanted:
                out = self.norm(tokens) if layer == depth - 1 else tokens
                by_place = out.unflatten(1, (-1, len(self.config.groups))).mean(dim=2)
                maps[layer] = by_place.mT.unflatten(2, grid)
        return [maps[layer] for layer in wanted]

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Group the parameters by layer, in timm's format for layer-wise learning rates.

        The norm belongs to the last block.
        """
        stem = r"^(?:space_time_embed|s_t_channel_embed)"
        return {"stem": stem, "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))]}


def from_published(config: GalileoConfig, published: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], LoadReport]:
    """Take the encoder's weights from the published ones.

    In these, queries, keys and values are apart.

    Args:
        config: the architecture.
        published: the tensors of the published file.

    Returns:
        The encoder's state, float32, and how each key was used.

    Raises:
        MarsError: see :func:`~mars_assets.checkpoints.refuse_mismatch`.
    """
    with torch.device("meta"):
        own = GalileoEncoder(config).state_dict()
    needed: dict[str, tuple[int, ...]] = {}
    for key, value in own.items():
        rows, *rest = value.shape
        needed |= {name: (rows // len(names), *rest) for names in [_published_names(key)] for name in names}
    unused = [key for key in published if key not in needed and key not in _TABLES and _is_known(key)]
    unknown = [key for key in published if key not in needed and key not in _TABLES and key not in unused]
    refuse_mismatch(config.variant, needed, published, unknown, published.keys())
    state = {key: torch.cat([published[name] for name in _published_names(key)]).float() for key in own}
    tables = tuple(key for key in _TABLES if key in published)
    return state, LoadReport("published", tuple(needed), tables, tuple(unused))


def _published_names(key: str) -> list[str]:
    """Name the published tensors of which one of this encoder's consists."""
    return [key.replace(".attn.qkv.", f".attn.{part}.") for part in "qkv"] if ".attn.qkv." in key else [key]


def _is_known(key: str) -> bool:
    """Tell whether a key belongs to inputs that this encoder does not see."""
    group = key.removeprefix("space_time_embed.").split(".")[0]
    return key.startswith(_OTHER_INPUTS) or (key.startswith("space_time_embed.") and group in PUBLISHED_GROUPS)
