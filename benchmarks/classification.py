"""Classification at v1_100's size on two threads.

Measures a step of the paper's recipe against TerraTorch's encoder and task, prediction from the lake against the bare
forward pass, and a sweep of 20 heads on a frozen encoder against one pass of it.

TerraTorch's classification has no masking, so its step sees all patches; ours removes 0.375 of them and does not encode
them. Ours computes as the compute resource chooses, in bf16 on a CPU with AMX, where TerraTorch makes torch multiply in
bf16 as well; with ``--precision fp32`` both multiply in fp32. For TerraTorch's own environment see ``prithvi.py``:

    python benchmarks/classification.py --peer ELSEWHERE/bin/python
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from measure import compute, import_first, measure, parser, report, surroundings, verdict

THREADS = 2
BATCH = 4
IMAGES = 100
TILES = 636
"""As many as `crater-tiles.v1` has."""
HEADS = 20
ENCODER = "encoder.pt"


def paper() -> Any:
    import yaml

    from mars_assets.classification.recipe import ClsRecipe

    file = Path(__file__).parent.parent / "recipes" / "cls_paper.yaml"
    return ClsRecipe(**yaml.safe_load(file.read_text())["ops"]["cls_model"]["config"])


def prepare(work: Path) -> None:
    """Writes weights in both forms and chips of noise with the columns of a dataset."""
    import numpy as np
    import torch

    from mars_assets.bands import HLS_BANDS, impute, scale_to_reflectance
    from mars_assets.lake import Lake
    from mars_assets.models.versions import set_current_weights
    from mars_assets.prithvi.config import VARIANTS
    from mars_assets.prithvi.model import PrithviMAE
    from mars_assets.prithvi.weights import export_encoder, open_weights, save_weights
    from mars_assets.tensors.geotiff import write_chip

    torch.manual_seed(0)
    mae = PrithviMAE(VARIANTS["v1_100"].config)
    lake = Lake(work / "lake")
    folder = lake.foundation("v1_100")
    save_weights(folder, mae, {})
    set_current_weights(lake, folder, open_weights(folder).sha256)
    export_encoder(mae.encoder, work / ENCODER)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(IMAGES):
        path = work / "chips" / f"{number}.tif"
        rgb = rng.integers(0, 256, (224, 224, 3), dtype=np.uint8)
        write_chip(path, impute(scale_to_reflectance(rgb), "post_norm"), HLS_BANDS)
        split = "train" if number < 0.8 * IMAGES else "valid"
        rows.append((f"{number}", split, str(path), number % 2, f"ESP_{number}", f"sha {number}", f"label {number}"))
    columns = ["image_id", "split", "chip", "label", "observation", "chip_sha", "labels_sha"]
    pd.DataFrame(rows, columns=columns).to_parquet(work / "images.parquet")


def classifier(work: Path) -> Any:
    from mars_assets.classification.checkpoint import build_classifier
    from mars_assets.prithvi.weights import load_encoder

    return build_classifier(paper(), load_encoder(work / "lake" / "foundation" / "v1_100"))


def our_step(work: Path) -> None:
    from mars_assets.classification.data import load_chip
    from mars_assets.classification.train import FineTuning
    from mars_assets.training.loop import Loop
    from mars_assets.training.memory import InMemory

    model, recipe = classifier(work), paper()
    images = pd.read_parquet(work / "images.parquet")
    read = partial(load_chip, config=model.config, image_size=224, by=recipe.normalize)
    chips = InMemory(read, [Path(chip) for chip in images["chip"]])
    loop = Loop(FineTuning(recipe, compute(THREADS), chips, images), model)
    report(lambda: loop.train_steps(1), 7)


def peers_step(work: Path, precision: str) -> None:
    import torch
    from terratorch.tasks import ClassificationTask

    if precision == "fp32":  # importing TerraTorch makes torch multiply in bf16 where the CPU can
        torch.set_float32_matmul_precision("highest")
    task = ClassificationTask(
        {
            "backbone": "prithvi_eo_v1_100",
            "backbone_pretrained": True,
            "backbone_ckpt_path": str(work / ENCODER),
            "decoder": "IdentityDecoder",
            "head_dropout": 0.5,
            "num_classes": 2,
        },
        model_factory="EncoderDecoderFactory",
        loss="ce",
        lr=8.2e-6,
        optimizer="Adam",
    )
    model = task.model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=8.2e-6)
    chips, labels = torch.randn(BATCH, 6, 1, 224, 224), torch.tensor([0, 1] * (BATCH // 2))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(model(chips).output, labels).backward()
        optimizer.step()

    report(step, 7)


def predict_from_files(work: Path) -> None:
    from mars_assets.classification.checkpoint import save_weights
    from mars_assets.classification.predict import predict
    from mars_assets.lake import CONFIG, WEIGHTS
    from mars_assets.prithvi.config import VARIANTS
    from mars_assets.storage.files import write_json

    folder = work / "model"
    save_weights(folder / WEIGHTS, classifier(work).state_dict())
    write_json(folder / CONFIG, {"recipe": paper().model_dump(), "encoder": VARIANTS["v1_100"].config.to_dict()})
    images = pd.read_parquet(work / "images.parquet")
    with tempfile.TemporaryDirectory(dir=work) as cache:
        report(lambda: predict(folder, images, Path(cache) / "cache.json", compute(THREADS)))


def bare_forward(work: Path) -> None:
    """The classifier on chips in memory, in the batches that prediction takes."""
    import torch

    from mars_assets.classification.data import load_chip

    model = classifier(work).eval()
    images = pd.read_parquet(work / "images.parquet")
    chips = torch.stack([load_chip(Path(chip), model.config, 224) for chip in images["chip"]])

    def forward() -> None:
        with torch.inference_mode(), compute(THREADS).autocast():
            for batch in chips.split(32):
                model(batch)

    report(forward)


def sweep_of_heads(work: Path, count: int = IMAGES) -> None:
    """As the asset runs it, from nothing: features, 20 trainings, their scores and the table.

    More images than there are chips are further ones with the same pixels.
    """
    from mars_assets.classification.recipe import ClsRecipe
    from mars_assets.classification.task import CLASSIFICATION
    from mars_assets.datasets import Dataset
    from mars_assets.experiments.run import SweepJob, run_sweep
    from mars_assets.experiments.sweep import Sweep, plan
    from mars_assets.lake import Lake

    import_first("lightning_fabric", "sklearn.metrics", "mars_assets.classification.train")
    lake, chips = Lake(work / "lake"), pd.read_parquet(work / "images.parquet")
    turns = [chips.assign(image_id=chips["image_id"] + f" {turn}") for turn in range(-(-count // IMAGES))]
    images = pd.concat(turns, ignore_index=True).head(count)
    for made in (lake.features, lake.model("cls_experiments"), lake.metrics("cls_experiments")):
        shutil.rmtree(made, ignore_errors=True)
        if made.is_file():
            made.unlink()
    base = {
        "frozen": True,
        "image_size": 224,
        "draw": "images",
        "augment": "none",
        "mask_ratio": 0.0,
        "all_orientations": False,
        "average_weights": 0.0,
        "batch_size": 32,
        "steps": 200,
        "warmup_steps": 10,
        "evaluate_every": 20,
    }
    rates = [10 ** (-4 + 0.2 * number) for number in range(HEADS // 2)]
    runs = plan(Sweep(base=base, grid={"lr": rates, "pooling": ["mean", "class_token"]}), ClsRecipe)
    task = replace(CLASSIFICATION, dataset=lambda *_: Dataset(images, {"label_version": "benchmark"}))
    report(lambda: run_sweep(SweepJob(lake, task, runs, compute=compute(THREADS))))


SIDES: dict[str, Callable[[Path], None]] = {
    "step": our_step,
    "predict": predict_from_files,
    "bare forward": bare_forward,
    "20 heads": sweep_of_heads,
    "20 heads, all tiles": lambda work: sweep_of_heads(work, TILES),
}
PEERS = {"step, TerraTorch": peers_step}


def main() -> int:
    arguments = parser(__doc__, repeats=3)
    arguments.add_argument("--peer", help="a Python with terratorch==1.2.11; without it the step is left out")
    options = arguments.parse_args()
    if options.side:
        import torch

        torch.set_num_threads(THREADS)
        if options.side in PEERS:
            PEERS[options.side](options.work, options.precision)
        else:
            SIDES[options.side](options.work)
        return 0
    surroundings(options, THREADS)
    precision = compute(THREADS).precision
    if options.peer:
        print(f"TerraTorch's side multiplies in {precision}")
    work = Path(tempfile.mkdtemp(prefix="mars-bench-"))
    try:
        prepare(work)
        names = [*SIDES, *PEERS] if options.peer else [name for name in SIDES if name != "step"]
        sides = {name: ["--work", str(work), "--precision", precision] for name in names}
        found = measure(Path(__file__), sides, options.repeats, dict.fromkeys(PEERS, options.peer))
    finally:
        shutil.rmtree(work)
    bare = found["bare forward"].seconds
    holds = [
        verdict(
            "100 images from the lake, over the bare forward", found["predict"].seconds / bare, 1.15, at_least=False
        ),
        verdict(
            f"20 heads, over one pass of the encoder, at {IMAGES} images",
            found["20 heads"].seconds / bare,
            1.5,
            at_least=False,
        ),
        verdict(
            f"the same at {TILES}, over as many times the pass of {IMAGES}",
            found["20 heads, all tiles"].seconds / (bare * TILES / IMAGES),
            1.5,
            at_least=False,
        ),
    ]
    if options.peer:
        ratio = found["step, TerraTorch"].seconds / found["step"].seconds
        holds.append(verdict("a training step, times TerraTorch's speed", ratio, 2))
    return 0 if all(holds) else 1


if __name__ == "__main__":
    sys.exit(main())
