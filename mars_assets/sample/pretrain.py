"""Pretrains the sample's encoder on synthetic terrain: masked reconstruction as Prithvi's, and relief from shading.

Masked reconstruction alone is slow to begin (He et al. 2022 trained for hundreds of epochs). So the encoder also learns to
tell the relief of each patch it sees, which the terrain's generator knows: height against the surroundings, through one
linear layer that is thrown away. It sees no crater list and no label.

``python -m mars_assets.sample.pretrain`` makes ``mars_assets/sample/weights/`` again. Tiles are drawn once and varied by
rotation, reflection, scale, brightness and loss of colour; they come from their own seeds, never from a sample scene. A killed run
continues from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy import typing as npt
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
from mars_assets.training.schedule import learning_rate_factor

OUTPUT = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Settings:
    """How the weights are made; stored beside them."""

    tiles: int = 2000
    tile_size: int = 288
    steps: int = 1400
    batch_size: int = 32
    mask_ratio: float = 0.6
    visible_weight: float = 0.3
    relief_weight: float = 0.2
    relief_sigma: float = 20.0
    lr: float = 1.5e-3
    weight_decay: float = 0.05
    warmup_steps: int = 120
    seed: int = 20240


RELIEF_CELL = 4
"""Pixels on a side over which relief is averaged: a patch of 16 pixels has 4 x 4 values."""


def draw_tiles(settings: Settings, progress: Progress) -> torch.Tensor:
    """uint8 (tiles, 4, size, size): B, G, R and relief, see :func:`relief`."""
    rng = np.random.default_rng(settings.seed)
    tiles = np.empty((settings.tiles, 4, settings.tile_size, settings.tile_size), np.uint8)
    for index in progress.track(range(settings.tiles), "drawing terrain"):
        scene = render_scene(draw_spec(rng, "tile", settings.tile_size, settings.tile_size))
        tiles[index, :3] = tile_image(rng, scene.iof)[..., ::-1].transpose(2, 0, 1)
        tiles[index, 3] = relief(scene.heights, settings.relief_sigma)
    return torch.from_numpy(tiles)


def relief(heights: Float32, sigma: float) -> npt.NDArray[np.uint8]:
    """Height above the surroundings (a Gaussian of ``sigma`` pixels), compressed by asinh: 128 is level, 32 a unit."""
    from scipy.ndimage import gaussian_filter

    above = heights - gaussian_filter(heights, sigma)
    return np.clip(np.rint(128 + 32 * np.arcsinh(above)), 0, 255).astype(np.uint8)


def augment(tiles: torch.Tensor, size: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Varies tiles.

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


class Pretraining(torch.nn.Module):
    """The autoencoder and the linear layer that reads relief off the encoder's tokens."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.mae = PrithviMAE(VARIANTS["sample"].config)
        self.cells = self.mae.config.patch_size[1] // RELIEF_CELL
        self.relief = torch.nn.Linear(self.mae.config.embed_dim, self.cells**2)

    @torch.no_grad()
    def start(self, x: torch.Tensor) -> None:
        """Starts close to an autoencoder of single patches, which an hour on two cores can make something of.

        At random weights the patches' brightness drowns everything else in the embedding, and twelve blocks of noise
        drown the embedding. So the embedding starts as the whitened principal components of patches, the strongest 32 in
        equal measure, the decoder's last layer as those components again, and every block close to the identity.

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

    def forward(self, x: torch.Tensor, heights: torch.Tensor, noise: torch.Tensor) -> dict[str, torch.Tensor]:
        """The three losses: removed patches, visible patches, relief of the visible ones."""
        tokens, mask, ids_restore = self.mae.encoder(x, self.settings.mask_ratio, noise)
        pred = self.mae.decoder(tokens, ids_restore, self.mae.config.grid)
        seen = ids_restore.argsort(dim=1)[:, : tokens.shape[1] - 1, None].expand(-1, -1, self.cells**2)
        wanted = patchify(heights[:, None, None], (1, self.cells, self.cells)).gather(1, seen)
        return {
            "removed": self.mae.loss(x, pred, mask),
            "visible": self.mae.loss(x, pred, 1 - mask),
            "relief": (self.relief(tokens[:, 1:]) - wanted).square().mean(),
        }


def pretrain(settings: Settings, output: Path, work: Path, compute: Compute, progress: Progress) -> None:
    """Trains, and writes ``model.safetensors`` (half precision) with ``config.json`` and ``provenance.json``."""
    compute.seed_everything()
    model = Pretraining(settings).to(compute.device)
    config = model.mae.config
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    tiles = draw_tiles(settings, progress)
    x, _ = augment(tiles[:: max(1, len(tiles) // 200)], config.img_size, torch.Generator().manual_seed(settings.seed))
    model.start(x.to(compute.device))

    checkpoint, first, curve, seconds = work / "pretrain.pt", 0, [], 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first, curve, seconds = state["step"], state["curve"], state["seconds"]
        progress.say(f"continuing at step {first}")

    weights = {"removed": 1.0, "visible": settings.visible_weight, "relief": settings.relief_weight}
    counter = progress.counter("pretraining", settings.steps - first, "steps")
    start = time.monotonic() - seconds
    recent: list[dict[str, float]] = []
    for step in range(first, settings.steps):
        # Every step has random numbers of its own, so that a continued run sees what an unbroken one would.
        generator = torch.Generator().manual_seed(settings.seed * 100_003 + step)
        batch = torch.randint(len(tiles), (settings.batch_size,), generator=generator)
        x, heights = (tensor.to(compute.device) for tensor in augment(tiles[batch], config.img_size, generator))
        noise = torch.rand(len(x), math.prod(config.grid), generator=generator).to(compute.device)
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * learning_rate_factor(step, settings.steps, settings.warmup_steps, "cosine")
        with compute.autocast():
            losses = model(x, heights, noise)
        optimizer.zero_grad(set_to_none=True)
        sum(weights[name] * loss for name, loss in losses.items()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        recent = [*recent[-49:], {name: loss.item() for name, loss in losses.items()}]
        means = {name: float(np.mean([row[name] for row in recent])) for name in weights}
        counter.advance(note=", ".join(f"{name} {mean:.4f}" for name, mean in means.items()))
        if (step + 1) % 100 == 0:
            curve.append({"step": step + 1, **{name: round(mean, 5) for name, mean in means.items()}})
        if (step + 1) % 100 == 0 or step + 1 == settings.steps:
            elapsed = time.monotonic() - start
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step + 1,
                "curve": curve,
                "seconds": elapsed,
            }
            with atomic_path(checkpoint) as temporary:
                torch.save(state, temporary)
            _write(model.mae, settings, compute, curve, elapsed, output)
    counter.close()


def _write(
    model: PrithviMAE, settings: Settings, compute: Compute, curve: list[dict[str, float]], seconds: float, output: Path
) -> None:
    from safetensors.torch import save_file

    tensors = {
        name: value.half().contiguous().cpu() for name, value in model.state_dict().items() if "pos_embed" not in name
    }
    with atomic_path(output / WEIGHTS) as temporary:
        save_file(tensors, temporary)
        temporary.chmod(0o644)  # safetensors makes its files for the owner alone
    write_json(output / CONFIG, model.config.to_dict())
    write_json(
        output / PROVENANCE,
        {
            "what": "Prithvi's architecture at tiny size, pretrained by mars_assets.sample.pretrain on SYNTHETIC terrain only",
            "stored_as": "float16; position tables are recomputed",
            "settings": asdict(settings),
            "compute": compute.describe(),
            "minutes": round(seconds / 60, 1),
            "loss_curve": curve,
        },
    )


def main() -> None:
    """The command line."""
    defaults = Settings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--work", type=Path, default=Path("build/pretrain"), help="where checkpoints go")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--steps", type=int, default=defaults.steps)
    parser.add_argument("--tiles", type=int, default=defaults.tiles)
    arguments = parser.parse_args()
    settings = Settings(steps=arguments.steps, tiles=arguments.tiles)
    arguments.work.mkdir(parents=True, exist_ok=True)
    stored = arguments.work / "settings.json"
    if stored.exists() and json.loads(stored.read_text()) != asdict(settings):
        parser.error(f"{arguments.work} holds a run with other settings: choose another --work")
    write_json(stored, asdict(settings))
    compute = choose_compute(threads=arguments.threads, seed=settings.seed)
    pretrain(
        settings, arguments.output, arguments.work, compute, Progress(lambda line: print(line, flush=True), every=15)
    )


if __name__ == "__main__":
    main()
