"""Checks of GPUs, processors and memory."""

from pathlib import Path

import pytest
import torch

from mars_assets.doctor.machine import CHECKS, compared_gpus, enough_memory, gpu, gpus_of_driver, processors
from mars_assets_tests.doctor.bad_states import only, surroundings

pytestmark = pytest.mark.slow
H200 = "NVIDIA H200"


def test_this_machine_is_well(tmp_path: Path) -> None:
    where = surroundings(tmp_path)
    assert [finding for check in CHECKS for finding in check(where) if finding.level == "problem"] == []


def driver(folder: Path, *names: str) -> Path:
    """A folder like /proc of a machine with GPUs."""
    for number, name in enumerate(names):
        place = folder / f"driver/nvidia/gpus/0000:{number:02d}:00.0"
        place.mkdir(parents=True)
        (place / "information").write_text(f"Model: \t\t {name}\nIRQ:   \t\t 12\n")
    return folder


def test_gpus_of_the_driver(tmp_path: Path) -> None:
    assert gpus_of_driver(driver(tmp_path, H200, "NVIDIA L4")) == (H200, "NVIDIA L4")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU that torch sees")
def test_a_gpu_that_torch_does_not_see(tmp_path: Path) -> None:
    where = surroundings(tmp_path, proc=driver(tmp_path / "proc", H200))
    finding = only(gpu(where))
    assert finding.level == "problem"
    assert H200 in finding.what


def test_gpus_of_torch_against_the_driver(tmp_path: Path) -> None:
    def said(seen: tuple[str, ...], there: tuple[str, ...], visible: str | None = None) -> tuple[str, str]:
        variables = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
        finding = only(compared_gpus(seen, there, surroundings(tmp_path, environment=variables)))
        return finding.level, finding.what

    assert said((), ()) == ("ok", "no GPU: computes on the CPU")
    assert said((H200,), (H200,)) == ("ok", f"torch sees {H200}")
    assert said((H200,), ())[0] == "ok", "neither the driver's files nor nvidia-smi are in a container"
    assert said((), (H200,), "")[0] == "note", "it is hidden on purpose"
    assert said((H200,), (H200, H200), "1")[0] == "ok"
    assert said((H200,), (H200, H200))[0] == "problem"
    assert said((), (H200,))[0] == "problem"


def test_more_threads_than_processors(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(999)
        assert "OMP_NUM_THREADS=" in only(processors(surroundings(tmp_path))).advice
    finally:
        torch.set_num_threads(threads)


def test_little_memory() -> None:
    assert only(enough_memory(2 * 2**30)).level == "problem"
    assert only(enough_memory(16 * 2**30)).level == "ok"
