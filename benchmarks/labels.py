"""The cost of 30 new images.

Measures labels, tensors, predictions and evaluations of a lake with 30 images alone, against those of a lake of 150 and
of one of 745 images to which they are added; and the lake of 745 again when nothing has changed.

The assets' own functions are called, so pictures and tables for the event log are counted and runs of Dagster are not.
The models are the same everywhere: the sample's encoder, trained for a few steps. Every side first does everything on
another small lake, which is not counted: imports, fonts and what libraries do once for a process are then done. New
images come as Roboflow delivers them: a new version of each project, with the old images in it.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import io
import json
import logging
import os
import shutil
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from measure import measure, report, verdict
from PIL import Image

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from mars_assets.lake import Lake
    from mars_assets.sample.exports import Split

THREADS = 2
STAGES = ("labelled_crops", "reflectance", "imputed_post_norm", "cls_evaluation", "seg_evaluation")
MODELS = ("cls_model", "seg_model")
EVERYTHING = (*STAGES[:3], *MODELS, *STAGES[3:])
RECIPES = Path(__file__).parent.parent / "recipes"
TILE, CROP = 224, 512
CRATERS = 11
"""On an outlined image, as in real exports."""
SECONDS = "seconds.jsonl"


@dataclass(frozen=True)
class Size:
    """How many images a lake holds.

    Args:
        tiles: classified ones.
        crops: outlined ones.
    """

    tiles: int
    crops: int


LAKES = {"150": Size(120, 30), "745": Size(600, 145)}
NEW = Size(15, 15)
"""Some for either model."""
ALONE, UNCHANGED, MORE = "30 alone", "745 unchanged", " and 30 more"
"""The sides: the new images in a lake of their own; a lake that has everything; ``LAKES`` when the new images come."""


@dataclass(frozen=True)
class Picture:
    """An image to be labelled.

    Args:
        name: as it was uploaded.
        split: of its observation.
        pixels: uint8, shape (side, side, 3).
        craters: x, y and diameter of each.
    """

    name: str
    split: Split
    pixels: npt.NDArray[np.uint8]
    craters: list[tuple[float, float, float]]


def picture(number: int, side: int, new: bool) -> Picture:
    """Rough ground with bowls in it.

    The images of a lake are of 40 observations, 28 of them for training, the new ones of four others, none of them for
    training, or models would not be judged on them. Of the classified images every other of an observation has a
    crater.
    """
    import numpy as np

    rng = np.random.default_rng([number, side, new])
    ground = np.zeros((side, side), np.float32)
    for octave, cells in enumerate((4, 12, 36, 108)):
        coarse = Image.fromarray(rng.standard_normal((cells, cells)).astype(np.float32))
        ground += 24 * 0.6**octave * np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))
    rows, columns = np.mgrid[:side, :side].astype(np.float32)
    observations = 4 if new else 40
    observation = number % observations
    craters = CRATERS if side == CROP else number // observations % 2
    bowls = []
    for _ in range(craters):
        x, y, radius = *rng.uniform(0.1 * side, 0.9 * side, 2), float(rng.uniform(0.03 * side, 0.1 * side))
        across, down = (columns - x) / radius, (rows - y) / radius
        ground += np.where(across**2 + down**2 < 1, 45 * (across + down), 0)
        bowls.append((float(x), float(y), 2 * radius))
    grey = (120 + ground + 3 * rng.standard_normal(ground.shape)).clip(0, 255)
    pixels = np.stack([grey, 0.9 * grey, 0.8 * grey], axis=-1).astype(np.uint8)
    first_valid, first_test = (0, 1) if new else (28, 34)
    split: Split = "test" if observation >= first_test else "valid" if observation >= first_valid else "train"
    name = f"ESP_{(61000 if new else 60000) + observation:06d}_1800_RED-{number:04d}"
    return Picture(name, split, pixels, bowls)


def pictures(count: int, side: int, new: bool = False) -> list[Picture]:
    return [picture(number, side, new) for number in range(count)]


def write_tiles(path: Path, tiles: Sequence[Picture]) -> None:
    """A folder classification export."""
    with zipfile.ZipFile(path, "w") as archive:
        for tile in tiles:
            buffer = io.BytesIO()
            Image.fromarray(tile.pixels).save(buffer, "JPEG", quality=90)
            digest = hashlib.md5(buffer.getvalue(), usedforsecurity=False).hexdigest()
            label = "Crater" if tile.craters else "NoCrater"
            archive.writestr(f"{tile.split}/{label}/{tile.name}_jpg.rf.{digest}.jpg", buffer.getvalue())


def write_crops(path: Path, crops: Sequence[Picture]) -> None:
    """A COCO segmentation export."""
    from mars_assets.craters.relief import Crater
    from mars_assets.sample.exports import LabelledCrop, write_segmentation_export

    labelled = [
        LabelledCrop(crop.name, crop.split, crop.pixels, tuple(Crater(*crater, 0.0) for crater in crop.craters))
        for crop in crops
    ]
    write_segmentation_export(path, labelled)


def write_exports(folder: Path, version: int, tiles: Sequence[Picture], crops: Sequence[Picture]) -> None:
    folder.mkdir(parents=True)
    write_tiles(folder / f"tiles.v{version}.folder.zip", tiles)
    write_crops(folder / f"craters.v{version}.coco-segmentation.zip", crops)


def call(lake: Lake, name: str) -> Callable[[], object]:
    """An asset's function with its arguments, to be called without a run."""
    import dagster as dg
    import yaml

    from mars_assets.assets import evaluation, foundation, labels, models, tensors
    from mars_assets.resources import ComputeResource, LakeResource
    from mars_assets.tasks import TASKS

    modules = [labels, tensors, foundation, models, evaluation]
    assets = {getattr(asset, "key", None): asset for asset in dg.load_assets_from_modules(modules)}
    configs: dict[str, type[dg.Config]] = {
        "reflectance": tensors.ReflectanceConfig,
        "imputed_post_norm": tensors.ImputationConfig,
        "prithvi_weights": foundation.PrithviWeightsConfig,
        **{task.model: models.model_config(task) for task in TASKS},
    }
    arguments: dict[str, Any] = {"lake": LakeResource(root=str(lake.root))}
    if name.startswith(("cls_", "seg_")):
        arguments["compute"] = ComputeResource(device="cpu")
    if name in configs:
        recipe = RECIPES / f"{name.removesuffix('_model')}_quick.yaml"
        values = yaml.safe_load(recipe.read_text())["ops"][name]["config"] if name in MODELS else {}
        arguments["config"] = configs[name](**values)
    asset: Any = assets[dg.AssetKey(name)]
    return functools.partial(asset, dg.build_asset_context(), **arguments)


def linked(source: Path, target: Path) -> Lake:
    """A copy of a lake that shares its files: nothing in a lake is written in place."""
    from mars_assets.lake import Lake

    shutil.copytree(source, target, copy_function=os.link)
    return Lake.at(target)


def without_predictions(source: Path, target: Path) -> None:
    """Weights and models of a lake, and none of what they said of its images."""
    for folder in ("foundation", "models"):
        shutil.copytree(
            source / folder, target / folder, copy_function=os.link, ignore=shutil.ignore_patterns("predictions*")
        )


def prepare(work: Path) -> None:
    """The lakes, everything in them made once, and the exports that are to come."""
    from mars_assets.lake import Lake

    first, most = LAKES["150"], LAKES["745"]
    tiles, crops = pictures(most.tiles, TILE), pictures(most.crops, CROP)
    new_tiles, new_crops = pictures(NEW.tiles, TILE, new=True), pictures(NEW.crops, CROP, new=True)
    for name, size in LAKES.items():
        print(f"making a lake of {name} images", flush=True)
        lake = Lake.at(work / name)
        write_exports(lake.inbox, 1, tiles[: size.tiles], crops[: size.crops])
        write_exports(work / f"{name}{MORE}", 2, [*tiles[: size.tiles], *new_tiles], [*crops[: size.crops], *new_crops])
        if size is not first:
            without_predictions(work / "150", lake.root)
        for asset in ("prithvi_weights", *EVERYTHING) if size is first else STAGES:
            call(lake, asset)()
    unchanged = linked(work / "745", work / UNCHANGED)
    for asset in EVERYTHING:  # its models are those of the smaller lake
        call(unchanged, asset)()
    write_exports(work / ALONE / "inbox", 1, new_tiles, new_crops)
    without_predictions(work / "150", work / ALONE)


def side(work: Path, name: str) -> None:
    """Asks for a side's assets and adds their seconds to ``SECONDS``."""
    assets = EVERYTHING if name == UNCHANGED else STAGES
    seconds = {}
    with tempfile.TemporaryDirectory(dir=work) as folder:
        warm = linked(work / (name if name == UNCHANGED else ALONE), Path(folder) / "warm")
        for asset in assets:
            call(warm, asset)()
        lake = linked(work / name.removesuffix(MORE), Path(folder) / "lake")
        if name.endswith(MORE):
            shutil.copytree(work / name, lake.inbox, dirs_exist_ok=True)
        calls = {asset: call(lake, asset) for asset in assets}

        def ask_for_all() -> None:
            for asset, make in calls.items():
                start = time.perf_counter()
                make()
                seconds[asset] = time.perf_counter() - start

        report(ask_for_all)
    with open(work / SECONDS, "a") as file:
        file.write(json.dumps({"side": name, **seconds}) + "\n")


def medians(file: Path) -> dict[str, dict[str, float]]:
    """Seconds of each asset on each side; the first round is not counted if there are more than two."""
    rounds: dict[str, list[dict[str, Any]]] = {}
    for line in file.read_text().splitlines():
        row = json.loads(line)
        rounds.setdefault(row.pop("side"), []).append(row)
    counted = {name: rows[1 if len(rows) > 2 else 0 :] for name, rows in rounds.items()}
    return {
        name: {asset: statistics.median(row[asset] for row in rows) for asset in rows[0]}
        for name, rows in counted.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--folder", type=Path, help="where lakes are made and kept; a temporary one by default")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.disable(logging.INFO)  # the assets' progress
    if options.side:
        side(options.work, options.side)
        return 0
    os.environ["OMP_NUM_THREADS"] = str(THREADS)
    work = options.folder or Path(tempfile.mkdtemp(prefix="mars-bench-"))
    try:
        if not (work / ALONE / "models").exists():
            prepare(work)
        (work / SECONDS).unlink(missing_ok=True)
        names = [ALONE, *(f"{name}{MORE}" for name in LAKES), UNCHANGED]
        measure(Path(__file__), {name: ["--work", str(work)] for name in names}, options.repeats)
        found = medians(work / SECONDS)
    finally:
        if options.folder is None:
            shutil.rmtree(work)
    for name, assets in found.items():
        print(f"{name:18}", ", ".join(f"{asset} {seconds:.2f} s" for asset, seconds in assets.items()))
    alone = found[ALONE]
    holds = []
    for name in LAKES:
        more = found[f"{name}{MORE}"]
        ratio = sum(more[asset] for asset in STAGES[1:]) / sum(alone[asset] for asset in STAGES[1:])
        holds.append(
            verdict(f"tensors and evaluations of 30 more on {name}, over 30 alone", ratio, 1.3, at_least=False)
        )
        ratio = sum(more.values()) / sum(alone.values())
        holds.append(verdict("  and with the labels", ratio, 1.3, at_least=False))
    seconds = sum(found[UNCHANGED].values())
    holds.append(verdict("all of 745 images again, unchanged: seconds", seconds, 1, at_least=False))
    return 0 if all(holds) else 1


if __name__ == "__main__":
    sys.exit(main())
