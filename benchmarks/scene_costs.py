"""What a scene costs, in core-seconds, operations and bytes: the figures that the simulation and the estimates use.

COLOR products of the sample in two sizes are downloaded over loopback, cut and mapped by the model that a lake has, in
one thread and one process after the other, and a line through both sizes is what a scene takes by itself and for each
megapixel. Seconds are those of the processor, which depend little on what else the machine does. Of the map, the
network's share is measured alone on as many windows. The operations of a window are counted for that model and, at
v1_100's size, for the default recipe and the paper's. Everything is written to ``scene_costs.json``, which lies in the
repository.

    make demo
    python benchmarks/scene_costs.py --lake data_lake
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measure import compute, record, surroundings

WARM_UP = (1024, 1024)
SIZES = ((5120, 4096), (12_288, 4096))
"""Lines and samples of scenes. In the smaller one lie all patches in which a map looks for drawn craters."""
OBSERVATION = "ESP_990001_1800"
WINDOWS = 32
NETWORK_ROUNDS = 9
"""Windows of the network alone, in batches as the map's, and how often."""


def core_seconds(work: Callable[[], object]) -> float:
    """Do some work; return the seconds that this process and its children took of a core."""
    before = sum(os.times()[:4])
    work()
    return sum(os.times()[:4]) - before


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def scene_costs(lake_root: Path, work: Path, lines: int, samples: int) -> dict[str, float]:
    """Measure one scene; see the module."""
    from mars_assets.imagery.crops import Source, cut_crops
    from mars_assets.imagery.download import Archive, fetch_product
    from mars_assets.imagery.products import product_files
    from mars_assets.lake import Lake
    from mars_assets.models.versions import current_model
    from mars_assets.sample.products import write_products
    from mars_assets.sample.server import serve
    from mars_assets.sample.terrain import SceneSpec, render_scene
    from mars_assets.segmentation.maps import MapRequest, map_scene

    archive, there = work / "archive", work / "scene"
    write_products(archive, render_scene(SceneSpec(OBSERVATION, lines, samples, seed=1)), longitude=100.0)
    files = product_files(OBSERVATION, "COLOR")
    assert files.label is not None
    with serve(archive) as url:
        source = Archive(url, "benchmark@localhost", lock_folder=work)
        download = core_seconds(lambda: fetch_product(source, files, there))
    image, label = there / Path(files.image).name, there / Path(files.label).name
    crops: list[Any] = []
    cutting = core_seconds(lambda: crops.append(cut_crops(Source(image, label, OBSERVATION, "COLOR"), work / "crops")))
    made: list[Any] = []
    chosen = compute(1)
    model = current_model(Lake.at(lake_root), "seg_model")
    request = MapRequest(image, 10.0, label)
    mapping = core_seconds(lambda: made.append(map_scene(model, request, work / "map", chosen)))
    return {
        "megapixels": lines * samples / 1e6,
        "download": download,
        "cut": cutting,
        "map": mapping,
        "product_bytes": image.stat().st_size,
        "crops_bytes": size_of(work / "crops"),
        "map_bytes": size_of(work / "map"),
        "crops": int(crops[0]["kept"].sum()),
        "craters": int(made[0]["craters"]),
    }


def measured_scenes(lake: Path, repeats: int) -> list[dict[str, float]]:
    """Measure scenes of both sizes; the medians."""
    rounds: dict[tuple[int, int], list[dict[str, float]]] = {}
    for size in (WARM_UP, *SIZES * repeats):
        work = Path(tempfile.mkdtemp(prefix="mars-bench-"))
        try:
            costs = scene_costs(lake, work, *size)
        finally:
            shutil.rmtree(work)
        print(f"  {json.dumps(costs)}", flush=True)
        rounds.setdefault(size, []).append(costs)
    return [{name: statistics.median(one[name] for one in rounds[size]) for name in rounds[size][0]} for size in SIZES]


def measured_network(lake_root: Path) -> dict[str, float]:
    """Measure the model's network alone: core-seconds and operations of a window, and the window's side."""
    import torch

    from mars_assets.lake import Lake
    from mars_assets.models.versions import current_model
    from mars_assets.segmentation.scenes import SceneNetwork

    network = SceneNetwork(current_model(Lake.at(lake_root), "seg_model").folder, compute(1))
    batch = torch.randn(network.batch, 6, network.side, network.side).to(memory_format=torch.channels_last)

    def passes() -> None:
        with torch.inference_mode(), compute(1).autocast():
            for _ in range(WINDOWS // network.batch):
                network.segmenter.encode_decode(batch, [{"img_shape": batch.shape[2:]}])

    passes()
    seconds = statistics.median(core_seconds(passes) / WINDOWS for _ in range(NETWORK_ROUNDS))
    return {
        "seconds": seconds,
        "side": network.side,
        "orientations": network.orientations,
        "operations": _operations(network.segmenter, network.side),
    }


def _operations(network: Any, side: int) -> float:
    """Count the floating-point operations of a window, a multiplication and its addition being two."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    window = torch.randn(1, 6, side, side)
    network.requires_grad_(False)
    with torch.inference_mode(), compute(1).autocast(), FlopCounterMode(display=False) as counter:
        network.encode_decode(window, [{"img_shape": window.shape[2:]}])
    return float(counter.get_total_flops())


def networks_of_recipes() -> dict[str, dict[str, float]]:
    """Count the operations of v1_100's networks, which need no weights for it."""
    from segmentation import encoder_config, our_network, paper

    from mars_assets.segmentation.recipe import SegRecipe

    found = {}
    for name, recipe in (("default", SegRecipe()), ("paper", paper())):
        network, config = our_network(recipe, encoder_config())
        side = int(config.model.test_cfg.crop_size[0])
        found[name] = {
            "side": 2 * round(side / max(network.scales) / 2),
            "orientations": network.orientations,
            "operations": _operations(network.eval(), side),
        }
    return found


def windows_per_megapixel(side: int) -> float:
    """Count the windows of all levels over a scene of 100 megapixels, for one of them."""
    from mars_assets.craters.scan import count_windows

    return count_windows((10_000, 10_000), side) / 100


def line(small: dict[str, float], large: dict[str, float], name: str) -> dict[str, float]:
    """Fit what a scene takes by itself, and for each megapixel."""
    slope = (large[name] - small[name]) / (large["megapixels"] - small["megapixels"])
    return {"scene": max(0.0, small[name] - slope * small["megapixels"]), "megapixel": slope}


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--lake", type=Path, default=Path("data_lake"), help="lake with a seg_model in use")
    options.add_argument("--repeats", type=int, default=1)
    options.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    options.add_argument("--networks-only", action="store_true", help="take the scenes as they were measured last")
    chosen = options.parse_args()
    surroundings(chosen, 1)
    lake = chosen.lake.resolve()
    if not chosen.networks_only:
        record(Path(__file__), {"precision": compute(1).precision, "scenes": measured_scenes(lake, chosen.repeats)})
    small, large = json.loads(Path(__file__).with_suffix(".json").read_text())["scenes"]
    from mars_assets.sample.products import swath

    networks = {"measured": measured_network(lake), **networks_of_recipes()}
    result: dict[str, Any] = {
        "core_seconds": {name: line(small, large, name) for name in ("download", "cut", "map")},
        "bytes": {name: line(small, large, f"{name}_bytes") for name in ("product", "crops", "map")},
        "rows": {name: line(small, large, name) for name in ("crops", "craters")},
        "good": float(swath(*SIZES[1]).mean()),
        "networks": {
            name: {**one, "windows_per_megapixel": windows_per_megapixel(int(one["side"]))}
            for name, one in networks.items()
        },
    }
    record(Path(__file__), result)
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
