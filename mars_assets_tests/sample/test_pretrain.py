"""How the sample's weights are made, on next to nothing."""

from pathlib import Path

import pytest

from mars_assets.progress import SILENT
from mars_assets.sample.pretrain import Settings, pretrain
from mars_assets.storage.files import read_json
from mars_assets.training.compute import Compute


@pytest.mark.slow
def test_a_few_tiles_are_enough_to_start(tmp_path: Path) -> None:
    settings = Settings(tiles=3, steps=2, batch_size=2, warmup_steps=1)
    (tmp_path / "work").mkdir()
    pretrain(settings, tmp_path / "out", tmp_path / "work", Compute("cpu", "fp32", 1, 1), SILENT)
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert read_json(tmp_path / "out" / "provenance.json")["settings"]["tiles"] == 3
