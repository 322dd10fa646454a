import pytest
import torch
from pydantic import ValidationError

from mars_assets.errors import MarsError
from mars_assets.resources import ComputeResource
from mars_assets.training.compute import choose_compute

AMX = {"amx_tile": True, "amx_bf16": True}


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [
        (AMX, "bf16"),
        ({**AMX, "amx_bf16": False}, "fp32"),
        ({"avx512_bf16": True, "cpu_name": "Intel(R) Xeon(R)"}, "fp32"),
        ({"avx512_bf16": True, "cpu_name": "AMD EPYC"}, "bf16"),
        ({"cpu_name": "AMD EPYC"}, "fp32"),
        ({}, "fp32"),
    ],
)
def test_bf16_where_the_cpu_multiplies_matrices_in_it(capabilities, precision, monkeypatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert choose_compute("cpu").precision == precision
    assert choose_compute("cpu", "fp32").precision == "fp32"
    assert choose_compute("cpu", "bf16").precision == "bf16"


def test_fp32_where_torch_cannot_tell(monkeypatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert choose_compute("cpu").precision == "fp32"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
def test_cuda_that_is_not_there_is_an_error() -> None:
    with pytest.raises(MarsError, match="nvidia-smi"):
        choose_compute("cuda")
    assert choose_compute().device == "cpu"


def test_a_negative_seed_is_refused_before_anything_is_done() -> None:
    with pytest.raises(MarsError, match="seed is -1"):
        choose_compute("cpu", seed=-1)
    with pytest.raises(ValidationError, match="seed"):
        ComputeResource(seed=-1)
