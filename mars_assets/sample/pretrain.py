"""Pretrains the sample's encoder: masked reconstruction of synthetic terrain, no label seen.

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
from torch.nn.functional import interpolate

from mars_assets.bands import PRITHVI_V1
from mars_assets.compute import Compute, choose_compute
from mars_assets.lake import atomic_path, write_json
from mars_assets.prithvi.config import VARIANTS
from mars_assets.prithvi.model import PrithviMAE
from mars_assets.progress import Progress
from mars_assets.sample.terrain import render_tile

WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Settings:
    """How the weights are made; stored beside them."""

    tiles: int = 2000
    tile_size: int = 288
    steps: int = 2200
    batch_size: int = 32
    mask_ratio: float = 0.75
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup_steps: int = 120
    seed: int = 20240


def draw_tiles(settings: Settings, progress: Progress) -> torch.Tensor:
    """uint8 (tiles, 3, size, size), B, G, R."""
    rng = np.random.default_rng(settings.seed)
    tiles = np.empty((settings.tiles, 3, settings.tile_size, settings.tile_size), np.uint8)
    for index in progress.track(range(settings.tiles), "drawing terrain"):
        tiles[index] = render_tile(rng, settings.tile_size)[..., ::-1].transpose(2, 0, 1)
    return torch.from_numpy(tiles)


def augment(tiles: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
    """uint8 (B, 3, S, S) -> normalised six-band post-norm input, float32 (B, 6, size, size)."""
    images = []
    for tile in tiles:
        turns, flip, window = (int(torch.randint(n, (), generator=generator)) for n in (4, 2, 2**16))
        side = size + window % (tile.shape[-1] - size + 1)
        top = int(torch.randint(tile.shape[-1] - side + 1, (), generator=generator))
        left = int(torch.randint(tile.shape[-1] - side + 1, (), generator=generator))
        crop = torch.rot90(tile[:, top : top + side, left : left + side], turns, (1, 2))
        crop = (crop.flip(2) if flip else crop)[None].float()
        images.append(crop if side == size else interpolate(crop, (size, size), mode="bilinear", antialias=True))
    x = torch.cat(images)
    gain = 1 + 0.3 * (torch.rand(len(x), 1, 1, 1, generator=generator) - 0.5)
    shift = 40 * (torch.rand(len(x), 1, 1, 1, generator=generator) - 0.5)
    # HiRISE's RED products, and most label sets, are grey.
    grey = torch.rand(len(x), 1, 1, 1, generator=generator) < 0.25
    x = torch.where(grey, x.mean(1, keepdim=True), x)
    x = ((x - 127.5) * gain + 127.5 + shift).clamp(0, 255)
    mean, std = torch.from_numpy(PRITHVI_V1.mean[:3]), torch.from_numpy(PRITHVI_V1.std[:3])
    x = (x * torch.from_numpy(PRITHVI_V1.white / 255) - mean) / std
    return torch.cat([x, x], dim=1)


def learning_rate(step: int, settings: Settings) -> float:
    """Linear warm-up, then a cosine to nothing."""
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / (settings.steps - settings.warmup_steps)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * done))


def pretrain(settings: Settings, output: Path, work: Path, compute: Compute, progress: Progress) -> None:
    """Trains, and writes ``model.safetensors`` (half precision) with ``config.json`` and ``provenance.json``."""
    compute.seed_everything()
    config = VARIANTS["sample"].config
    model = PrithviMAE(config).to(compute.device)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    tiles = draw_tiles(settings, progress)

    checkpoint, first, curve, seconds = work / "pretrain.pt", 0, [], 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first, curve, seconds = state["step"], state["curve"], state["seconds"]
        progress.say(f"continuing at step {first}")

    counter = progress.counter("pretraining", settings.steps - first, "steps")
    start, losses = time.monotonic() - seconds, []
    for step in range(first, settings.steps):
        # Every step has random numbers of its own, so that a continued run sees what an unbroken one would.
        generator = torch.Generator().manual_seed(settings.seed * 100_003 + step)
        batch = torch.randint(len(tiles), (settings.batch_size,), generator=generator)
        x = augment(tiles[batch], config.img_size, generator).to(compute.device)
        noise = torch.rand(len(x), math.prod(config.grid), generator=generator).to(compute.device)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, settings)
        with compute.autocast():
            loss = model(x, settings.mask_ratio, noise).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        counter.advance(note=f"loss {np.mean(losses[-50:]):.4f}")
        if (step + 1) % 100 == 0:
            curve.append([step + 1, float(np.mean(losses[-100:]))])
        if (step + 1) % 200 == 0 or step + 1 == settings.steps:
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step + 1,
                "curve": curve,
                "seconds": time.monotonic() - start,
            }
            with atomic_path(checkpoint) as temporary:
                torch.save(state, temporary)
            _write(model, settings, compute, curve, time.monotonic() - start, output)
    counter.close()


def _write(
    model: PrithviMAE, settings: Settings, compute: Compute, curve: list[list[float]], seconds: float, output: Path
) -> None:
    from safetensors.torch import save_file

    tensors = {
        name: value.half().contiguous().cpu() for name, value in model.state_dict().items() if "pos_embed" not in name
    }
    with atomic_path(output / "model.safetensors") as temporary:
        save_file(tensors, temporary)
    write_json(output / "config.json", model.config.to_dict())
    write_json(
        output / "provenance.json",
        {
            "what": "Prithvi's architecture at tiny size, pretrained by mars_assets.sample.pretrain on SYNTHETIC terrain only",
            "stored_as": "float16; position tables are recomputed",
            "settings": asdict(settings),
            "compute": compute.describe(),
            "minutes": round(seconds / 60, 1),
            "loss_curve": [[int(step), round(loss, 5)] for step, loss in curve],
        },
    )


def main() -> None:
    """The command line."""
    defaults = Settings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=WEIGHTS)
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
