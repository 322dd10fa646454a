"""The project's own assets on several hosts, of which one dies or is cut off: ``make cluster-test``."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mars_assets.lake import CONFIG
from mars_assets.models.versions import current_model
from mars_assets.storage.claims import has_work
from mars_assets.storage.files import read_json
from mars_assets_tests.cluster.lab import RayLab, ray_lab

pytestmark = [pytest.mark.process, pytest.mark.slow]


@pytest.fixture(scope="module")
def small_lab(postgres_programs: Path) -> Iterator[RayLab]:
    # A path of Ray's sockets must be short.
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp", prefix="lab") as folder,
        ray_lab(Path(folder), postgres_programs) as made,
    ):
        yield made


def training(number: int, steps: int = 80) -> dict[str, Any]:
    """A training that no other one equals."""
    lr = 1e-4 * (1 + number / 1000)
    return {"steps": steps, "batch_size": 2, "warmup_steps": 2, "evaluate_every": 5, "image_size": 224, "lr": lr}


def test_a_training_whose_process_is_killed_goes_on_elsewhere(small_lab: RayLab) -> None:
    lab = small_lab
    run = lab.launch("cls_model", **training(1))
    lab.wait(lambda: lab.history.logged(run, "step 20/"))
    assert lab.history.process_of(run)[0] in lab.workers
    lab.process_of(run).kill()
    seconds = lab.wait(lambda: lab.history.finished(run), 90)
    assert lab.history.status(run) == "FAILURE", seconds
    lab.wait(lambda: lab.history.retry_of(run))
    retry = lab.history.retry_of(run)
    assert retry is not None
    lab.wait(lambda: lab.history.finished(retry))
    assert lab.history.status(retry) == "SUCCESS", lab.logs()
    assert lab.history.logged(retry, r"continuing the training after step \d+")
    lab.wait(lambda: lab.history.places_taken() == 0, 60)


def test_a_host_that_is_cut_off_computes_on_but_publishes_nothing(small_lab: RayLab) -> None:
    lab, before = small_lab, small_lab.history.materializations("cls_model")
    run = lab.launch("cls_model", **training(2, steps=300))
    lab.wait(lambda: lab.history.logged(run, "step 20/"))
    host, process = lab.history.process_of(run)[0], lab.process_of(run)
    lab.net.cut(host)
    try:
        lab.wait(lambda: lab.history.status(run) == "FAILURE", 180)
        assert process.is_running(), "the host was cut off, not switched off"
        lab.wait(lambda: lab.history.retry_of(run))
        retry = lab.history.retry_of(run)
        assert retry is not None
        lab.wait(lambda: lab.history.logged(retry, r"continuing the training after step \d+"))
        assert lab.history.process_of(retry)[0] != host
    finally:
        lab.net.mend(host)
    lab.wait(lambda: lab.history.finished(retry))
    assert lab.history.status(retry) == "SUCCESS", lab.logs()
    lab.wait(lambda: not process.is_running(), 300)
    assert lab.history.status(run) == "FAILURE"
    assert lab.history.logged(run, "was given up while its process went on|took it over"), lab.logs()
    model = current_model(lab.deployed.lake, "cls_model")
    assert read_json(model.folder / CONFIG)["report"]["steps"] == 300
    assert not has_work(model.folder / "training")
    assert lab.history.materializations("cls_model") == before + 1
    assert lab.history.places_taken() == 0
