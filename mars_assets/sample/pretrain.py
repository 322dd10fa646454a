"""Pretraining of the sample's encoder on synthetic terrain.

It learns masked reconstruction, and relief from shading.

Masked reconstruction alone learns slowly at first (He et al. 2022 trained for hundreds of epochs). So the encoder also
learns to predict the relief of each visible patch, which the generator of the terrain knows: height above the
surroundings, through one linear layer that is discarded afterwards. It sees no crater list and no label.

``python -m mars_assets.sample.pretrain`` writes ``mars_assets/sample/weights/``. Tiles are drawn once and varied by
rotation, reflection, scale, brightness and loss of colour; they have their own seeds, none of which is a sample
scene's. A killed run continues from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy import typing as npt
from safetensors.torch import save_file
from scipy.ndimage import gaussian_filter
from timm.optim import param_groups_weight_decay  # type: ignore[attr-defined]
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from mars_assets.bands import PRITHVI_V1, Float32, model_input
from mars_assets.lake import CONFIG, PROVENANCE, WEIGHTS
from mars_assets.prithvi.config import VARIANTS
from mars_assets.prithvi.model import PrithviMAE, patchify
from mars_assets.progress import Progress
from mars_assets.sample.terrain import draw_spec, render_scene, tile_image
from mars_assets.storage.files import atomic_path, write_json
from mars_assets.training.augmentation import MIDDLE, relit
from mars_assets.training.compute import Compute, choose_compute
from mars_assets.training.loop import Training, train
from mars_assets.training.recipe import BatchSize, LayerDecay, PeakRate, Steps, TrainingRecipe, WarmupSteps

OUTPUT = Path(__file__).parent / "weights"


class Settings(TrainingRecipe):
    """How the weights are trained; stored with them."""

    tiles: int = 2000
    tile_size: int = 288
    steps: Steps = 1400
    batch_size: BatchSize = 32
    mask_ratio: float = 0.6
    visible_weight: float = 0.3
    relief_weight: float = 0.2
    relief_sigma: float = 20.0
    lr: PeakRate = 1.5e-3
    layer_decay: LayerDecay = 1.0
    warmup_steps: WarmupSteps = 120
    seed: int = 20240


RELIEF_CELL = 4
"""Side in pixels of the squares over which relief is averaged: a patch of 16 pixels has 4 x 4 values."""


def draw_tiles(settings: Settings, progress: Progress) -> Tensor:
    """Draw terrain, uint8 (tiles, 4, size, size).

    The channels are B, G, R and relief, see :func:`relief`.
    """
    rng = np.random.default_rng(settings.seed)
    tiles = np.empty((settings.tiles, 4, settings.tile_size, settings.tile_size), np.uint8)
    for index in progress.track(range(settings.tiles), "drawing terrain"):
        scene = render_scene(draw_spec(rng, "tile", settings.tile_size, settings.tile_size))
        tiles[index, :3] = tile_image(rng, scene.iof)[..., ::-1].transpose(2, 0, 1)
        tiles[index, 3] = relief(scene.heights, settings.relief_sigma)
    return torch.from_numpy(tiles)


def relief(heights: Float32, sigma: float) -> npt.NDArray[np.uint8]:
    """Compute the height above the surroundings, a Gaussian of ``sigma`` pixels.

    128 is level, 32 a unit of its asinh.
    """
    above = heights - gaussian_filter(heights, sigma)
    return np.asarray(np.clip(np.rint(128 + 32 * np.arcsinh(above)), 0, 255), np.uint8)


def augment(tiles: Tensor, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Vary tiles at random.

    Returns:
        Normalised six-band post-norm input, float32 (B, 6, size, size), and relief, float32 (B, size / 4, size / 4).
    """
    images = []
    for tile in tiles:
        turns, flip, window = (int(torch.randint(n, (), generator=generator)) for n in (4, 2, 2**16))
        side = size + window % (tile.shape[-1] - size + 1)
        top = int(torch.randint(tile.shape[-1] - side + 1, (), generator=generator))
        left = int(torch.randint(tile.shape[-1] - side + 1, (), generator=generator))
        crop = torch.rot90(tile[:, top : top + side, left : left + side], turns, (1, 2))
        crop = (crop.flip(2) if flip else crop)[None].float()
        images.append(crop if side == size else interpolate(crop, (size, size), mode="bilinear", antialias=True))
    x, heights = torch.cat(images).split([3, 1], dim=1)
    gain = 1 + 0.3 * (torch.rand(len(x), 1, 1, 1, generator=generator) - 0.5)
    shift = 40 * (torch.rand(len(x), 1, 1, 1, generator=generator) - 0.5)
    # HiRISE's RED products, and most label sets, are grey.
    grey = torch.rand(len(x), 1, 1, 1, generator=generator) < 0.25
    x = torch.where(grey, x.mean(1, keepdim=True), x)
    x = relit(x, gain, shift, MIDDLE).clamp(0, 255)
    return model_input(x, "post_norm", PRITHVI_V1), (avg_pool2d(heights, RELIEF_CELL)[:, 0] - 128) / 32


class ReliefMAE(torch.nn.Module):
    """The autoencoder, with a linear layer that predicts relief.

    The layer's input is the encoder's tokens.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.mae = PrithviMAE(VARIANTS["sample"].config)
        self.cells = self.mae.config.patch_size[1] // RELIEF_CELL
        self.relief = torch.nn.Linear(self.mae.config.embed_dim, self.cells**2)

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        """Initialise the weights close to an autoencoder of single patches.

        An hour on two cores is then enough.

        With random weights the brightness of the patches drowns everything else in the embedding, and twelve blocks of
        noise drown the embedding. So the embedding starts as the whitened principal components of patches, the
        strongest 32 in equal measure, the decoder's last layer as the same components, and every block close to the
        identity.

        Args:
            x: normalised input, (B, C, H, W), to take the components from.
        """
        patches = self.mae.patchify(x).flatten(0, 1)
        mean = patches.mean(dim=0)
        values, vectors = torch.linalg.eigh(torch.cov(patches.T))
        values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
        embed, pred = self.mae.encoder.patch_embed.proj, self.mae.decoder.decoder_pred
        width, narrow = embed.out_channels, pred.in_features
        whitened = vectors[:, :width] / (values[:width] + values[32]).sqrt()
        for block in [*self.mae.encoder.blocks, *self.mae.decoder.decoder_blocks]:
            block.attn.proj.weight.mul_(0.1)
            block.mlp.fc2.weight.mul_(0.1)
        # Turned at random, so that every dimension carries some of every component.
        weight = 2 * torch.nn.init.orthogonal_(torch.empty(width, width)) @ whitened.T
        s, p, q = self.mae.config.patch_size
        embed.weight.copy_(weight.unflatten(1, (s, p, q, -1)).permute(0, 4, 1, 2, 3))
        pred.weight.copy_(
            (vectors[:, :narrow] * values[:narrow].sqrt()) @ torch.nn.init.orthogonal_(torch.empty(narrow, narrow))
        )
        assert embed.bias is not None
        embed.bias.copy_(-weight @ mean)
        pred.bias.copy_(mean)

    def forward(self, x: Tensor, heights: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """Compute the three losses.

        They are of removed patches, of visible patches, and of the relief of the visible ones.
        """
        tokens, mask, ids_restore = self.mae.encoder(x, self.settings.mask_ratio, noise)
        pred = self.mae.decoder(tokens, ids_restore, self.mae.config.grid)
        seen = ids_restore.argsort(dim=1)[:, : tokens.shape[1] - 1, None].expand(-1, -1, self.cells**2)
        wanted = patchify(heights[:, None, None], (1, self.cells, self.cells)).gather(1, seen)
        return {
            "removed": self.mae.loss(x, pred, mask),
            "visible": self.mae.loss(x, pred, 1 - mask),
            "relief": (self.relief(tokens[:, 1:]) - wanted).square().mean(),
        }


class ReliefPretraining(Training[ReliefMAE, tuple[Tensor, Tensor, Tensor]]):
    """The pretraining on synthetic tiles.

    Args:
        settings: how to train.
        compute: device, precision and seed.
        tiles: see :func:`draw_tiles`.
    """

    name = "pretraining"
    clip_grad = 1.0

    def __init__(self, settings: Settings, compute: Compute, tiles: Tensor) -> None:
        super().__init__(settings, compute)
        self._settings, self._tiles = settings, tiles
        self._weights = {"removed": 1.0, "visible": settings.visible_weight, "relief": settings.relief_weight}

    def optimizer(self, model: ReliefMAE) -> torch.optim.Optimizer:
        """Build AdamW, without weight decay of biases and norms."""
        groups = param_groups_weight_decay(model, self._settings.weight_decay)[::-1]  # sums of gradients in this order
        for group in groups:
            group["initial_lr"] = self._settings.lr
        return torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)

    def batches(self, numbers: range, rank: int, world_size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield inputs and relief of :func:`augment`, and the noise of the masks, (B, L)."""
        config = VARIANTS["sample"].config
        for number in numbers:
            generator = torch.Generator().manual_seed(self._settings.seed * 100_003 + number)
            chosen = torch.randint(len(self._tiles), (self._settings.batch_size,), generator=generator)
            x, heights = augment(self._tiles[chosen], config.img_size, generator)
            yield x, heights, torch.rand(len(x), math.prod(config.grid), generator=generator)

    def losses(self, model: ReliefMAE, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the weighted sum of the three losses."""
        with self.compute.autocast():
            losses = model(*batch)
        return sum((self._weights[name] * loss for name, loss in losses.items()), torch.tensor(0.0)), losses


def pretrain(settings: Settings, output: Path, work: Path, compute: Compute, progress: Progress) -> None:
    """Train, and write ``model.safetensors`` (half precision).

    ``config.json`` and ``provenance.json`` are written next to it.
    """
    compute.seed_everything()
    model = ReliefMAE(settings)
    tiles = draw_tiles(settings, progress)
    some = tiles[:: max(1, len(tiles) // 200)]
    x, _ = augment(some, model.mae.config.img_size, torch.Generator().manual_seed(settings.seed))
    model.start(x)
    history = train(ReliefPretraining(settings, compute, tiles), model, work, progress).history
    weights = {name: value for name, value in model.mae.state_dict().items() if "pos_embed" not in name}
    with atomic_path(output / WEIGHTS) as temporary:
        save_file({name: value.half().contiguous().cpu() for name, value in weights.items()}, temporary)
        temporary.chmod(0o644)  # safetensors writes its files for the owner alone
    write_json(output / CONFIG, model.mae.config.to_dict())
    write_json(
        output / PROVENANCE,
        {
            "what": "Prithvi's architecture at tiny size, pretrained by "
            "mars_assets.sample.pretrain on SYNTHETIC terrain only",
            "stored_as": "float16; position tables are recomputed",
            "settings": settings.model_dump(),
            "compute": compute.describe(),
            "loss_curve": [{name: round(value, 5) for name, value in row.items()} for row in history],
        },
    )


def main() -> None:
    """Run the command line."""
    defaults = Settings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--work", type=Path, default=Path("build/pretrain"), help="folder of the checkpoint")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--steps", type=int, default=defaults.steps)
    parser.add_argument("--tiles", type=int, default=defaults.tiles)
    arguments = parser.parse_args()
    settings = Settings(steps=arguments.steps, tiles=arguments.tiles)
    arguments.work.mkdir(parents=True, exist_ok=True)
    stored = arguments.work / "settings.json"
    if stored.exists() and json.loads(stored.read_text()) != settings.model_dump():
        parser.error(f"{arguments.work} holds a run with other settings: choose another --work")
    write_json(stored, settings.model_dump())
    compute = choose_compute(threads=arguments.threads, seed=settings.seed)
    pretrain(
        settings, arguments.output, arguments.work, compute, Progress(lambda line: print(line, flush=True), every=15)
    )


if __name__ == "__main__":
    main()
