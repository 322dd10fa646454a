"""Prithvi against TerraTorch at v1_100's size: same weights, same inputs, same masks, two threads.

The masked autoencoder's forward pass, a pretraining step, and the whole reconstruction stage (read chips, three
methods, scores, table) against TerraTorch's bare forward pass on the same chips in memory. Beside the speeds: whether
both give the same losses and, from an exported encoder, the same features. And the weights' way into the lake against
what it takes at least: ``sha256sum`` and ``torch.load``. Ours computes as the compute resource chooses, in bf16 on a
CPU with AMX; ``--precision fp32`` compares like with like.

TerraTorch needs an environment of its own, since it holds other versions of what is installed here:

    python -m venv ELSEWHERE && ELSEWHERE/bin/python -m pip install terratorch==1.2.11
    python benchmarks/prithvi.py --peer ELSEWHERE/bin/python
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from measure import compute, import_first, measure, parser, report, surroundings, verdict

if TYPE_CHECKING:
    from mars_assets.training.compute import PrecisionChoice

THREADS = 2
BATCH = 4
MASK_RATIO = 0.5
IMPORTED = ("rasterio", "scipy.stats", "mars_assets.prithvi.model")
WEIGHTS, ENCODER, CHIPS, PEERS_LOSSES, PEERS_FEATURES, SUMMARY, SUMMARY_FP32 = (
    "mae.pt",
    "encoder.pt",
    "chips.npz",
    "losses.json",
    "features.npy",
    "summary.parquet",
    "summary_fp32.parquet",
)


def prepare(work: Path, images: int) -> None:
    """Write weights in both forms, and chips, as files for the stage and as the arrays that it computes from them."""
    import numpy as np
    import torch

    from mars_assets.bands import HLS_BANDS, IMPUTATION_METHODS, PRITHVI_V1, impute, scale_to_reflectance
    from mars_assets.prithvi.config import VARIANTS
    from mars_assets.prithvi.masking import mask_noise
    from mars_assets.prithvi.model import PrithviMAE
    from mars_assets.prithvi.weights import export_encoder, save_weights
    from mars_assets.reconstruction.scores import centre_window
    from mars_assets.tensors.geotiff import write_chip

    torch.manual_seed(0)
    mae = PrithviMAE(dataclasses.replace(VARIANTS["v1_100"].config, layer_norm_eps=1e-5))  # TerraTorch's
    with torch.no_grad():
        for name, parameter in mae.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    save_weights(work / "weights", mae, {})
    torch.save(mae.state_dict(), work / WEIGHTS)
    export_encoder(mae.encoder, work / ENCODER)

    rng = np.random.default_rng(0)
    windows, noise = [], []
    for image in range(images):
        coarse = torch.from_numpy(rng.random((1, 3, 24, 24), dtype=np.float32))
        smooth = torch.nn.functional.interpolate(coarse, size=(512, 512), mode="bicubic")[0].clamp(0, 1)
        rgb = (smooth * 255).to(torch.uint8).permute(1, 2, 0).numpy()
        bgr = scale_to_reflectance(rgb, PRITHVI_V1)
        for method in IMPUTATION_METHODS:
            path = work / "chips" / method / f"{image}.tif"
            write_chip(path, impute(bgr, method), HLS_BANDS)
            windows.append(centre_window(path, mae.config))
            noise.append(mask_noise(str(image), 1, 196))
    np.savez(work / CHIPS, windows=np.stack(windows), noise=np.stack(noise))


def batches(work: Path) -> list[tuple[Any, Any]]:
    """Read normalised chips (BATCH, 6, 1, 224, 224) and their masks' noise (BATCH, 196), as the files are ordered."""
    import numpy as np
    import torch

    with np.load(work / CHIPS) as arrays:
        windows, noise = torch.from_numpy(arrays["windows"][:, :, None]), torch.from_numpy(arrays["noise"])
    return list(zip(windows.split(BATCH), noise.split(BATCH), strict=True))


def our_mae(work: Path) -> Any:
    from mars_assets.prithvi.weights import open_weights

    return open_weights(work / "weights").load()


def peers_mae(work: Path) -> Any:
    import torch
    from terratorch.registry import FULL_MODEL_REGISTRY

    # Importing TerraTorch makes torch multiply in bf16 where the CPU can; its fp32 is what the claims are about.
    torch.set_float32_matmul_precision("highest")
    mae = FULL_MODEL_REGISTRY.build("prithvi_eo_v1_100_mae", pretrained=False, num_frames=3)
    mae.load_state_dict(torch.load(work / WEIGHTS, weights_only=True), strict=True)
    return mae.eval()


def forward(mae: Any, work: Path, autocast: AbstractContextManager[Any]) -> None:
    import torch

    chips, _ = batches(work)[0]
    with torch.inference_mode(), autocast:
        report(lambda: mae(chips, mask_ratio=MASK_RATIO), 9)


def step(mae: Any, optimizer: Any, work: Path, autocast: AbstractContextManager[Any]) -> None:
    """Forward, backward, optimizer."""
    chips, _ = batches(work)[0]

    def one() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            loss = mae(chips, mask_ratio=MASK_RATIO)[0]
        (loss["loss"] if isinstance(loss, dict) else loss).backward()
        optimizer.step()

    report(one, 7)


def our_step(work: Path) -> None:
    """With the optimizer of the pretraining."""
    import torch

    from mars_assets.pretraining.data import RandomCrops
    from mars_assets.pretraining.recipe import PretrainRecipe
    from mars_assets.pretraining.train import MaskedPretraining

    mae, ours = our_mae(work).train(), compute(THREADS)
    crops = RandomCrops([], mae.config.img_size, 1.0, 1)
    training = MaskedPretraining(PretrainRecipe(lr=1e-5), ours, crops, (torch.zeros(0), []))
    step(mae, training.optimizer(mae), work, ours.autocast())


def peers_step(work: Path) -> None:
    import torch

    mae = peers_mae(work).train()
    step(mae, torch.optim.AdamW(mae.parameters(), lr=1e-5), work, nullcontext())


def our_stage(work: Path, summary: str, precision: PrecisionChoice | None = None) -> None:
    """The stage as its asset runs it, weights loaded anew and nothing known beforehand."""
    from mars_assets.reconstruction.scores import ReconstructionSettings, reconstruct
    from mars_assets.reconstruction.summary import summarise
    from mars_assets.storage.files import write_table

    import_first(*IMPORTED)
    paths = sorted(work.glob("chips/*/*.tif"))
    chips = pd.DataFrame(
        {
            "image_id": [path.stem for path in paths],
            "method": [path.parent.name for path in paths],
            "path": paths,
            "chip_sha": [path.parent.name for path in paths],  # scores are remembered by image and chip
        }
    )

    def stage() -> None:
        settings = ReconstructionSettings(compute=compute(THREADS, precision), mask_ratio=MASK_RATIO)
        table = reconstruct(chips, work / "weights", settings)
        write_table(work / "per_image.parquet", table.drop(columns="computed"))
        write_table(work / summary, summarise(table, "benchmark"))

    report(stage)


def peers_chips(work: Path) -> None:
    """The bare forward pass over all chips. Their losses, with the stage's masks, are written afterwards."""
    import numpy as np
    import torch

    mae, pairs = peers_mae(work), batches(work)

    def bare() -> None:
        for chips, _ in pairs:
            mae(chips, mask_ratio=MASK_RATIO)

    with torch.inference_mode():
        mae(pairs[0][0], mask_ratio=MASK_RATIO)
        report(bare)
        if (work / PEERS_LOSSES).exists():
            return
        masked = mae.encoder.random_masking
        model: list[float] = []
        rgb: list[float] = []
        for chips, noise in pairs:
            mae.encoder.random_masking = lambda tokens, ratio, noise=noise: masked(tokens, ratio, noise=noise)
            _, pred, mask = mae(chips, mask_ratio=MASK_RATIO)
            error = (pred - chips).square()
            for kept, values in ((model, error), (rgb, error[:, :3])):
                kept += ((values.mean(dim=1) * mask).sum(dim=(1, 2, 3)) / mask.sum(dim=(1, 2, 3))).tolist()
        del mae.encoder.random_masking
        (work / PEERS_LOSSES).write_text(json.dumps({"model_loss": model, "rgb_loss": rgb}))
        from terratorch.registry import BACKBONE_REGISTRY

        encoder = BACKBONE_REGISTRY.build("prithvi_eo_v1_100", pretrained=True, ckpt_path=str(work / ENCODER))
        np.save(work / PEERS_FEATURES, encoder.eval()(pairs[0][0])[-1].numpy())


def install_weights(work: Path) -> None:
    from mars_assets.lake import Lake
    from mars_assets.prithvi.weights import Origin, install

    import_first(*IMPORTED)
    with tempfile.TemporaryDirectory(dir=work) as lake:
        report(lambda: install(Lake(Path(lake)), Origin("v1_100", "file", path=work / WEIGHTS)))


def least_for_weights(work: Path) -> None:
    import torch

    def least() -> None:
        subprocess.run(["sha256sum", str(work / WEIGHTS)], check=True, stdout=subprocess.DEVNULL)  # noqa: S603, S607
        torch.load(work / WEIGHTS, mmap=True, weights_only=True)

    report(least)


OURS = {
    "forward": lambda work: forward(our_mae(work), work, compute(THREADS).autocast()),
    "step": our_step,
    "stage": lambda work: our_stage(work, SUMMARY),
    "stage, fp32": lambda work: our_stage(work, SUMMARY_FP32, "fp32"),
    "weights": install_weights,
    "sha256sum, torch.load": least_for_weights,
}
PEERS = {
    "forward, TerraTorch": lambda work: forward(peers_mae(work), work, nullcontext()),
    "step, TerraTorch": peers_step,
    "chips, TerraTorch": peers_chips,
}


def same_numbers(work: Path) -> list[bool]:
    """Compares the stage's table and the exported encoder's features with TerraTorch's."""
    import numpy as np
    import torch

    from mars_assets.bands import IMPUTATION_METHODS
    from mars_assets.checkpoints import read_checkpoint
    from mars_assets.prithvi.weights import load_encoder_state, open_weights

    theirs = pd.DataFrame(json.loads((work / PEERS_LOSSES).read_text()))
    theirs["method"] = [IMPUTATION_METHODS[row % len(IMPUTATION_METHODS)] for row in range(len(theirs))]
    expected = theirs.groupby("method")[["model_loss", "rgb_loss"]].mean()

    def apart(summary: str) -> float:
        ours = pd.read_parquet(work / summary).set_index("method")[["model_loss", "rgb_loss"]]
        return 100 * float((ours / expected - 1).abs().to_numpy().max())

    config = open_weights(work / "weights").config
    encoder, _ = load_encoder_state(config, read_checkpoint(work / ENCODER))
    with torch.inference_mode():
        features = encoder(batches(work)[0][0]).tokens.numpy()
    difference = float(np.abs(features - np.load(work / PEERS_FEATURES)).max())
    return [
        verdict("largest difference of the table's losses, %", apart(SUMMARY), 0.5, at_least=False),
        verdict("the same in fp32, %", apart(SUMMARY_FP32), 0.01, at_least=False),
        verdict("largest difference of an exported encoder's features, of about 1", difference, 1e-3, at_least=False),
    ]


def main() -> int:
    arguments = parser(__doc__, repeats=4)
    arguments.add_argument("--peer", help="a Python with terratorch==1.2.11; without it only the weights are measured")
    arguments.add_argument("--images", type=int, default=16, help="images of the stage, each with three methods")
    options = arguments.parse_args()
    if options.side:
        import torch

        torch.set_num_threads(THREADS)
        (OURS | PEERS)[options.side](options.work)
        return 0
    surroundings(options, THREADS)
    work = Path(tempfile.mkdtemp(prefix="mars-bench-"))
    try:
        prepare(work, options.images)
        names = [*OURS, *PEERS] if options.peer else ["weights", "sha256sum, torch.load"]
        found = measure(
            Path(__file__),
            {name: ["--work", str(work)] for name in names},
            options.repeats,
            dict.fromkeys(PEERS, options.peer),
        )
        least = found["sha256sum, torch.load"].seconds
        holds = [
            verdict("weights into the lake, over the least", found["weights"].seconds / least, 1.5, at_least=False)
        ]
        if options.peer:
            theirs = {name: found[name].seconds for name in PEERS}
            holds += [
                verdict(
                    "forward, times TerraTorch's speed", theirs["forward, TerraTorch"] / found["forward"].seconds, 1.5
                ),
                verdict("whole stage, times", theirs["chips, TerraTorch"] / found["stage"].seconds, 1.5),
                verdict("pretraining step, times", theirs["step, TerraTorch"] / found["step"].seconds, 1.5),
                *same_numbers(work),
            ]
    finally:
        shutil.rmtree(work)
    return 0 if all(holds) else 1


if __name__ == "__main__":
    sys.exit(main())
