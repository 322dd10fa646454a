"""The command `mars-assets`."""

from pathlib import Path

import pytest
import torch

from mars_assets.cli import main
from mars_assets.lake import Lake, read_json
from mars_assets.models import set_current_weights
from mars_assets.prithvi.config import PrithviConfig
from mars_assets.prithvi.weights import install, load_encoder, load_encoder_state, open_weights, read_checkpoint


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_an_exported_encoder_is_the_one_in_use(lake: Lake, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = install(lake, "sample", "sample")
    set_current_weights(lake, folder, open_weights(folder).sha256)
    target = lake.root / "out" / f"encoder{suffix}"
    assert main(["--lake", str(lake.root), "export", "prithvi_weights", str(target)]) == 0
    assert str(target) in capsys.readouterr().out
    config = PrithviConfig.from_dict(read_json(target.with_name(target.name + ".json"))["prithvi"])
    encoder, report = load_encoder_state(config, read_checkpoint(target))
    assert report.layout == "prefixed"
    x = torch.randn(1, 6, 32, 32)
    with torch.inference_mode():
        assert torch.equal(encoder(x).tokens, load_encoder(folder)(x).tokens)


def test_what_is_missing_is_said_without_a_traceback(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--lake", str(lake.root), "export", "cls_model", "encoder.pt"]) == 1
    assert "dagster asset materialize --select cls_model" in capsys.readouterr().err


def test_another_suffix(lake: Lake, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = install(lake, "sample", "sample")
    set_current_weights(lake, folder, open_weights(folder).sha256)
    assert main(["--lake", str(lake.root), "export", "prithvi_weights", str(tmp_path / "encoder.bin")]) == 1
    assert ".pt or .safetensors" in capsys.readouterr().err
    assert list(tmp_path.glob("encoder*")) == []
