"""Whether two versions of this project compute the same numbers.

All results from one lake of real labels, with fixed seeds in fp32, are compared.

``python benchmarks/results.py --out before.json`` in one checkout, ``--out after.json`` in the other, on the same
machine; then ``python benchmarks/results.py --compare before.json after.json``. It drives Dagster's command line and
reads the lake with pandas, so that it runs on versions whose modules have other names.

Needs the real exports of ``MARS_SHARED`` (default ``../shared``).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file

EXPORTS = ("craters.v2.coco-segmentation.zip", "crater-tiles.v1.folder.zip")
ASSETS = [
    *("labelled_crops", "reflectance", "imputed_means", "imputed_pre_norm", "imputed_post_norm", "imputed_spectral"),
    *("prithvi_weights", "reconstruction_metrics", "mars_weights", "cls_model", "seg_model"),
    *("cls_evaluation", "seg_evaluation"),
]
LABELS = [
    "image_id",
    "split",
    "label",
    "n_craters",
    "crater_fraction",
    "labels_sha",
    "outlines_sha",
    "pixels_sha",
    "phash",
]
ACCEPTED = 1e-6
"""Largest difference between two numbers, relative to the larger one or, below 1, absolute."""


def run_config(tiles: Path) -> dict[str, Any]:
    """Short trainings of each kind, from the sample's weights.

    Args:
        tiles: a zip of images to pretrain on.
    """
    return {
        "resources": {"compute": {"config": {"device": "cpu", "precision": "fp32", "threads": 2, "seed": 1}}},
        "ops": {
            "prithvi_weights": {"config": {"source": "sample"}},
            "reconstruction_metrics": {"config": {"n_images": 48, "masks": 2, "mask_ratios": [0.5, 0.75]}},
            "mars_weights": {
                "config": {
                    "images": str(tiles),
                    "steps": 20,
                    "warmup_steps": 5,
                    "evaluate_every": 10,
                    "batch_size": 16,
                    "layer_decay": 0.9,
                }
            },
            "cls_model": {
                "config": {"image_size": 64, "steps": 50, "warmup_steps": 10, "evaluate_every": 25, "batch_size": 16}
            },
            "seg_model": {
                "config": {
                    "iterations": 30,
                    "warmup_iterations": 5,
                    "evaluate_every": 15,
                    "light": True,
                    "rotate": True,
                }
            },
        },
    }


def compute(lake: Path, shared: Path) -> None:
    """Fills an empty lake by ``dagster asset materialize``."""
    (lake / "inbox").mkdir(parents=True)
    for name in EXPORTS:
        shutil.copy(shared / "data" / "exports" / name, lake / "inbox")
    config = run_config(shared / "data" / "exports" / EXPORTS[1])
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "mars_assets.definitions"]
    command += ["--select", ",".join(ASSETS), "--config-json", json.dumps(config)]
    home = lake / "dagster"
    home.mkdir()
    environment = os.environ | {"MARS_LAKE": str(lake), "DAGSTER_HOME": str(home)}
    subprocess.run(command, env=environment, check=True)  # noqa: S603 - our own command


def numbers(lake: Path) -> dict[str, Any]:
    """Every number of the lake, by a name."""
    found: dict[str, Any] = {}
    labels = pd.read_parquet(lake / "labels" / "labelled_crops.parquet").sort_values("image_id")
    found["labels"] = labels[LABELS].astype(str).to_dict("list")
    for table in ("reconstruction", "cls_evaluation", "seg_evaluation"):
        rows = pd.read_parquet(lake / "metrics" / f"{table}.parquet")
        found[table] = rows.select_dtypes("number").to_dict("list")
    for model in ("cls_model", "seg_model", "mars_weights"):
        version = json.loads((lake / "models" / model / "current.json").read_text())["version"]
        folder = lake / "models" / model / version
        found[f"{model} version"] = version
        history = pd.read_parquet(folder / "history.parquet").select_dtypes("number")
        found[f"{model} history"] = history.rename(columns={"iteration": "step"}).to_dict("list")
        found[f"{model} weights"] = weights_of(folder)
    return found


def weights_of(folder: Path) -> dict[str, list[float]]:
    """Mean and root mean square of each tensor of a model.

    The biases of the keys are left out: attention does not depend on them, so that their gradients are rounding errors,
    which Adam scales up to whole steps.
    """
    if (folder / "model.pth").exists():
        state = torch.load(folder / "model.pth", weights_only=True)["state_dict"]
    else:
        state = load_file(next(iter([*folder.glob("model.safetensors"), *folder.glob("weights/*.safetensors")])))
    for name, value in state.items():
        if name.endswith("qkv.bias"):
            query, _, values = value.chunk(3)
            state[name] = torch.cat([query, values])
    return {
        name: [float(value.double().mean()), float(value.double().square().mean().sqrt())]
        for name, value in sorted(state.items())
    }


def differences(before: Any, after: Any, name: str = "") -> list[tuple[str, float]]:
    """Where two results differ, and by how much; infinite where they cannot be compared."""
    if isinstance(before, dict) and isinstance(after, dict):
        found = [(f"{name} / {key}", math.inf) for key in sorted(before.keys() ^ after.keys())]
        for key in before.keys() & after.keys():
            found += differences(before[key], after[key], f"{name} / {key}".removeprefix(" / "))
        return found
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = zip(before, after, strict=True)
        return [each for place, (a, b) in enumerate(pairs) for each in differences(a, b, f"{name}[{place}]")]
    if isinstance(before, int | float) and isinstance(after, int | float):
        if math.isnan(before) and math.isnan(after):
            return []
        gap = abs(before - after) / max(1.0, abs(before), abs(after))
        return [] if gap == 0 else [(name, math.inf if math.isnan(gap) else gap)]
    return [] if before == after else [(name, math.inf)]


def compare(before: Path, after: Path) -> bool:
    """Prints the largest difference of each result. Returns whether all are accepted."""
    first, second = json.loads(before.read_text()), json.loads(after.read_text())
    passed = True
    print(f"{'result':28} {'values':>8} {'differ':>8} {'largest':>10}")
    for name in first.keys() | second.keys():
        found = differences(first.get(name), second.get(name), name)
        largest = max((gap for _, gap in found), default=0.0)
        identity = name.endswith("version")  # a name of settings, not a number
        passed &= largest <= ACCEPTED or identity
        print(f"{name:28} {count(first.get(name)):>8} {len(found):>8} {largest:>10.2g}")
        for where, gap in sorted(found, key=lambda pair: -pair[1])[:3] if largest > ACCEPTED else []:
            print(f"    {where}: {gap:.3g}")
    return passed


def count(value: Any) -> int:
    """How many numbers and texts a result holds."""
    if isinstance(value, dict):
        return sum(map(count, value.values()))
    return sum(map(count, value)) if isinstance(value, list) else 1


def main() -> int:
    """Computes, or compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="compute, and write the numbers to this JSON file")
    parser.add_argument("--lake", type=Path, help="keep the lake here; an empty folder")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("BEFORE", "AFTER"))
    options = parser.parse_args()
    if options.compare:
        return 0 if compare(*options.compare) else 1
    if options.out is None:
        parser.error("name a file with --out, or two with --compare")
    shared = Path(os.environ.get("MARS_SHARED", "../shared")).resolve()
    with tempfile.TemporaryDirectory() as scratch:
        lake = options.lake or Path(scratch) / "lake"
        compute(lake.resolve(), shared)
        options.out.write_text(json.dumps(numbers(lake), default=float) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
