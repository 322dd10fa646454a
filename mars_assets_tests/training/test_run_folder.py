"""A training's folder: begun, gone on with, and never half of one training and half of another."""

from pathlib import Path

import pytest

from mars_assets.errors import ProvenanceError
from mars_assets.progress import Progress
from mars_assets.storage.files import write_json
from mars_assets.training.compute import Compute
from mars_assets.training.recipe import Recipe
from mars_assets.training.run_folder import TrainingJob, begin


class Rate(Recipe):
    lr: int = 1


def begun(folder: Path, precision: str, lr: int = 1, said: list[str] | None = None) -> dict | None:
    progress = Progress((said if said is not None else []).append)
    job = TrainingJob(Rate(lr=lr), None, folder, folder, Compute("cpu", precision, 1, 5), {}, progress)
    return begin(job, "weights", "images")


def test_a_training_of_another_precision_begins_anew_and_says_so(tmp_path: Path) -> None:
    said: list[str] = []
    assert begun(tmp_path, "bf16") is None
    (tmp_path / "training" / "last.pt").write_bytes(b"state")
    assert begun(tmp_path, "bf16", said=said) is None
    assert (tmp_path / "training" / "last.pt").exists()
    assert said == []
    with pytest.raises(ProvenanceError, match="lr 1 there, 2 now"):
        begun(tmp_path, "fp32", lr=2)
    assert begun(tmp_path, "fp32", said=said) is None
    assert not (tmp_path / "training" / "last.pt").exists()
    assert said == ["this run was started in bf16 and is now fp32: restarting from step 0"]
    (tmp_path / "training" / "last.pt").write_bytes(b"state")
    assert begun(tmp_path, "fp32", said=said) is None
    assert (tmp_path / "training" / "last.pt").exists()


def test_a_finished_training_stays_what_it_is_in_any_precision(tmp_path: Path) -> None:
    settings = {"lr": 1, "seed": 5, "weights": "weights", "images": "images"}
    write_json(tmp_path / "config.json", {"settings": settings, "report": {"steps": 3}})
    assert begun(tmp_path, "fp32") == {"steps": 3}
