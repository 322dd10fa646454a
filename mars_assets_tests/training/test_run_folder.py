"""A training's folder: begun, gone on with, and never half of one training and half of another."""

from functools import partial
from pathlib import Path

import pytest

from mars_assets.errors import DivergedError, ProvenanceError, SupersededError
from mars_assets.prithvi.config import PrithviConfig
from mars_assets.progress import Progress
from mars_assets.storage.claims import has_work
from mars_assets.storage.files import read_json, write_json
from mars_assets.storage.runs import Run, working_for
from mars_assets.training.compute import Compute
from mars_assets.training.recipe import Recipe
from mars_assets.training.run_folder import Trained, TrainingJob, run_training


class Rate(Recipe):
    lr: int = 1


class Stopped(BaseException):
    """As an interrupt: nothing may catch it."""


def job_in(folder: Path, precision: str, lr: int = 1, said: list[str] | None = None) -> TrainingJob:
    progress = Progress((said if said is not None else []).append)
    return TrainingJob(Rate(lr=lr), None, folder, folder, Compute("cpu", precision, 1, 5), {}, progress)


def begun(folder: Path, precision: str, lr: int = 1, said: list[str] | None = None) -> list[str]:
    """Begin a training that stops at once, and return what it could go on from."""
    found: list[str] = []

    def fit(scratch: Path) -> Trained:
        found.extend(path.name for path in scratch.iterdir() if path.name != "settings.json")
        (scratch / "last.pt").write_bytes(b"state")
        raise Stopped

    with pytest.raises(Stopped):
        run_training(job_in(folder, precision, lr, said), "weights", "images", fit)
    return found


def test_a_training_of_another_precision_begins_anew_and_says_so(tmp_path: Path) -> None:
    said: list[str] = []
    assert begun(tmp_path, "bf16") == []
    assert begun(tmp_path, "bf16", said=said) == ["last.pt"]
    assert said == []
    with pytest.raises(ProvenanceError, match="lr 1 there, 2 now"):
        begun(tmp_path, "fp32", lr=2)
    assert begun(tmp_path, "fp32", said=said) == []
    assert said == ["this run was started in bf16 and is now fp32: restarting from step 0"]
    assert begun(tmp_path, "fp32", said=said) == ["last.pt"]


def test_a_training_that_an_earlier_version_left_goes_on(tmp_path: Path) -> None:
    settings = {"lr": 1, "seed": 5, "weights": "weights", "images": "images", "precision": "fp32"}
    write_json(tmp_path / "training" / "settings.json", settings)
    (tmp_path / "training" / "last.pt").write_bytes(b"state")
    assert begun(tmp_path, "fp32") == ["last.pt"]


def test_a_finished_training_stays_what_it_is_in_any_precision(tmp_path: Path) -> None:
    settings = {"lr": 1, "seed": 5, "weights": "weights", "images": "images"}
    write_json(tmp_path / "config.json", {"settings": settings, "report": {"steps": 3}})
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "last.pt").write_bytes(b"left by a kill")

    def fit(scratch: Path) -> Trained:
        pytest.fail("trained again")

    assert run_training(job_in(tmp_path, "fp32"), "weights", "images", fit) == {"steps": 3}
    assert not has_work(tmp_path / "training")


def test_a_training_that_diverged_leaves_nothing_to_go_on_from(tmp_path: Path) -> None:
    def fit(scratch: Path) -> Trained:
        (scratch / "last.pt").write_bytes(b"state")
        raise DivergedError("no")

    with pytest.raises(DivergedError):
        run_training(job_in(tmp_path, "fp32"), "weights", "images", fit)
    assert not has_work(tmp_path / "training")


def test_a_training_that_was_taken_over_does_not_write_its_model(tmp_path: Path) -> None:
    """Its run was given up while it trained, and the retry was faster."""
    states = {"first": "in force", "retry": "in force"}

    def write(folder: Path, by: str) -> None:
        (folder / "model").write_text(by)

    def of(name: str) -> Trained:
        return Trained({"by": name}, (), PrithviConfig(variant="test"), partial(write, by=name))

    def retried(scratch: Path) -> Trained:
        assert (scratch / "last.pt").exists()
        return of("retry")

    def fit(scratch: Path) -> Trained:
        (scratch / "last.pt").write_bytes(b"state")
        states["first"] = "over"
        with working_for(Run("retry", states.__getitem__)):
            assert run_training(job_in(tmp_path, "fp32"), "weights", "images", retried) == {"by": "retry"}
        return of("first")

    with (
        working_for(Run("first", states.__getitem__)),
        pytest.raises(SupersededError, match=r"run retry on .* took it over and published it"),
    ):
        run_training(job_in(tmp_path, "fp32"), "weights", "images", fit)
    assert (tmp_path / "model").read_text() == "retry"
    assert read_json(tmp_path / "config.json")["report"] == {"by": "retry"}
    assert not has_work(tmp_path / "training")
