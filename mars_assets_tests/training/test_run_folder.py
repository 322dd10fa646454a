"""A training's folder: begun, gone on with, and never half of one training and half of another."""

from pathlib import Path

import pytest

from mars_assets.errors import ProvenanceError
from mars_assets.progress import Progress
from mars_assets.storage.files import write_json
from mars_assets.training.run_folder import begin


def test_a_training_of_another_precision_begins_anew_and_says_so(tmp_path: Path) -> None:
    said: list[str] = []
    assert begin(tmp_path, {"lr": 1}, "bf16") is None
    (tmp_path / "training" / "last.pt").write_bytes(b"state")
    assert begin(tmp_path, {"lr": 1}, "bf16", Progress(said.append)) is None
    assert (tmp_path / "training" / "last.pt").exists()
    assert said == []
    with pytest.raises(ProvenanceError, match="lr 1 there, 2 now"):
        begin(tmp_path, {"lr": 2}, "fp32")
    assert begin(tmp_path, {"lr": 1}, "fp32", Progress(said.append)) is None
    assert not (tmp_path / "training" / "last.pt").exists()
    assert said == ["this run was started in bf16 and is now fp32: restarting from step 0"]
    (tmp_path / "training" / "last.pt").write_bytes(b"state")
    assert begin(tmp_path, {"lr": 1}, "fp32", Progress(said.append)) is None
    assert (tmp_path / "training" / "last.pt").exists()


def test_a_finished_training_stays_what_it_is_in_any_precision(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"settings": {"lr": 1}, "report": {"steps": 3}})
    assert begin(tmp_path, {"lr": 1}, "fp32") == {"steps": 3}
