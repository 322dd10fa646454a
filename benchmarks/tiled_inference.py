"""Maps of whole scenes against TerraTorch's tiled inference, at v1_100's size on two threads.

Ours is the whole map: the scene is read from its file, seen at all reductions in half-overlapping windows, outlined
and written. Its model is that of the default recipe, and once that of the paper's, whose neck takes most of the time.
Theirs is ``tiled_inference`` alone, on an array of six bands that is already in memory and normalised, with the same
encoder and window, a decoder of theirs, and one reduction: with half-overlapping windows as ours are, and with its own
stride. Ours computes as the compute resource chooses, in bf16 on a CPU with AMX; theirs in fp32 as it does by itself,
and once in bf16. Weights are random.

    python -m venv ELSEWHERE && ELSEWHERE/bin/python -m pip install terratorch==1.2.11
    python benchmarks/tiled_inference.py --peer ELSEWHERE/bin/python
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from measure import compute, measure, parser, report, surroundings, verdict
from scenes import write_scene
from segmentation import encoder_config, our_network, paper

THREADS = 2
OURS, PAPER = "ours", "ours, the paper's recipe"
HALF, OWN, HALF_BF16 = "TerraTorch, half overlap", "TerraTorch, its own stride", "TerraTorch, half, bf16"


def prepare(work: Path, side: int) -> None:
    """Writes a model of either recipe and the scene."""
    import torch

    from mars_assets.lake import CONFIG, MMSEG_CONFIG, SEGMENTER
    from mars_assets.segmentation.recipe import SegRecipe
    from mars_assets.storage.files import write_json

    torch.manual_seed(0)
    for name, recipe in ((OURS, SegRecipe()), (PAPER, paper())):
        prithvi = encoder_config()
        model, config = our_network(recipe, prithvi)
        folder = work / name
        folder.mkdir()
        torch.save({"meta": {}, "state_dict": model.state_dict()}, folder / SEGMENTER)
        (folder / MMSEG_CONFIG).write_text(config.pretty_text)
        statistics = prithvi.to_dict()["statistics"]
        about = {"bands": list(prithvi.bands), "statistics": statistics, "recipe": recipe.model_dump()}
        write_json(folder / CONFIG, about)
    write_scene(work / "scene.tif", side, side)


def ours(work: Path, name: str) -> None:
    from mars_assets.segmentation.maps import Finder, MapRequest, map_with
    from mars_assets.segmentation.scenes import SceneNetwork

    out, chosen = work / "map", compute(THREADS)
    shutil.rmtree(out, ignore_errors=True)
    finder = Finder(lambda: SceneNetwork(work / name, chosen), {}, chosen.describe(), calibration=None)
    report(lambda: map_with(finder, MapRequest(work / "scene.tif", 10.0), out))


def theirs(name: str, side: int) -> None:
    import torch
    from terratorch.models import EncoderDecoderFactory
    from terratorch.tasks.tiled_inference import tiled_inference

    torch.set_float32_matmul_precision("highest")
    model = (
        EncoderDecoderFactory()
        .build_model(
            task="segmentation",
            backbone="prithvi_eo_v1_100",
            backbone_pretrained=False,
            backbone_num_frames=1,
            necks=[{"name": "SelectIndices", "indices": [-1]}, {"name": "ReshapeTokensToImage"}],
            decoder="FCNDecoder",
            decoder_channels=256,
            num_classes=2,
        )
        .eval()
    )
    scene = torch.randn(1, 6, side, side)
    stride = 192 if name == OWN else 112

    def infer() -> Any:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=name == HALF_BF16):
            return tiled_inference(lambda x: model(x).output, scene, crop=224, stride=stride, batch_size=4)

    report(infer)


def main() -> int:
    options = parser(__doc__, repeats=1)
    options.add_argument("--peer", required=True, help="a Python with terratorch==1.2.11")
    options.add_argument("--size", type=int, default=1500, help="height and width of the scene in pixels")
    chosen = options.parse_args()
    if chosen.side:
        import torch

        torch.set_num_threads(THREADS)
        if chosen.side in {OURS, PAPER}:
            ours(chosen.work, chosen.side)
        else:
            theirs(chosen.side, chosen.size)
        return 0
    surroundings(chosen, THREADS)
    work = Path(tempfile.mkdtemp(prefix="mars-bench-"))
    try:
        prepare(work, chosen.size)
        arguments = ["--work", str(work), "--size", str(chosen.size), "--peer", chosen.peer]
        peers = dict.fromkeys((HALF, OWN, HALF_BF16), chosen.peer)
        found = measure(Path(__file__), dict.fromkeys((OURS, PAPER, *peers), arguments), chosen.repeats, peers)
    finally:
        shutil.rmtree(work)
    seconds = found[OURS].seconds
    print(f"over {OWN}, which sees each pixel in a third as many windows: {found[OWN].seconds / seconds:.2f}")
    print(f"over {HALF_BF16}: {found[HALF_BF16].seconds / seconds:.2f}")
    print(f"{PAPER}, over {HALF}: {found[HALF].seconds / found[PAPER].seconds:.2f}")
    return 0 if verdict(f"speed over {HALF}", found[HALF].seconds / seconds, 3) else 1


if __name__ == "__main__":
    sys.exit(main())
