"""A finished segmenter of random weights."""

from pathlib import Path
from typing import Any

import torch

from mars_assets.lake import Lake
from mars_assets.models.versions import make_current
from mars_assets.prithvi.config import PrithviConfig
from mars_assets.segmentation.mmseg_setup import mmseg_ready
from mars_assets.segmentation.recipe import SegRecipe
from mars_assets.storage.files import write_json
from mars_assets.training.compute import Compute

CPU = Compute("cpu", "fp32", 1, 0)


def finished(folder: Path, **recipe: Any) -> Path:
    """A finished segmenter of random weights."""
    sizes = {"neck_channels": 8, "detail_channels": 4, "head_channels": 8, "crop_size": 32, "window": 32, "stride": 16}
    chosen = SegRecipe(**{**sizes, "layers": 1, **recipe})
    micro = PrithviConfig(variant="micro", img_size=32, embed_dim=16, depth=2, num_heads=2)
    with mmseg_ready():
        from mmseg.registry import MODELS

        from mars_assets.segmentation.mmseg_config import mmseg_config

        config = mmseg_config(chosen, micro, CPU)
        model = MODELS.build(config.model)
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    folder.mkdir(parents=True)
    torch.save({"meta": {}, "state_dict": model.state_dict()}, folder / "model.pth")
    (folder / "config.py").write_text(config.pretty_text)
    write_json(folder / "config.json", {"recipe": chosen.model_dump(), "statistics": micro.to_dict()["statistics"]})
    return folder


def put_into_use(lake: Lake, **recipe: Any) -> None:
    """Make it the seg_model in use."""
    finished(lake.version("seg_model", "v1"), **recipe)
    make_current(lake, "seg_model", "v1", {})
