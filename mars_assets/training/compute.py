"""Device, precision, threads and seed of torch's computations.

There is one choice for everything that computes.
"""

from __future__ import annotations

import functools
import os
import random
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mars_assets.errors import MarsError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

DeviceChoice = Literal["auto", "cpu", "cuda"]
PrecisionChoice = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class Compute:
    """A resolved choice, see :func:`choose_compute`.

    Args:
        device: "cpu" or "cuda".
        precision: "fp32", or "bf16" for autocast in forward passes.
        threads: CPU threads that torch may use.
        seed: seed of every random number.
    """

    device: Literal["cpu", "cuda"]
    precision: Literal["fp32", "bf16"]
    threads: int
    seed: int

    def autocast(self) -> AbstractContextManager[Any]:
        """Return a context of bf16 autocast on the device, without effect in fp32."""
        import torch

        return torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    def fabric(self, devices: int = 1) -> Fabric:
        """Return a Fabric for training on the device, with a process per device.

        Its precision is fp32: in mixed precision it would round a model's inputs, and with them masks and targets, to
        bf16. Use :meth:`autocast` where the model is called.
        """
        return _fabric(self.device, devices)

    def seed_everything(self) -> None:
        """Seed Python, NumPy and torch."""
        import torch

        random.seed(self.seed)
        np.random.seed(self.seed % 2**32)
        torch.manual_seed(self.seed)

    def __str__(self) -> str:
        return f"{self._name}, {self.precision}"

    @property
    def _name(self) -> str:
        import torch

        return torch.cuda.get_device_name(0) if self.device == "cuda" else f"CPU, {self.threads} threads"

    def describe(self) -> dict[str, Any]:
        """Describe the device for provenance: JSON-able."""
        import torch

        return {"device": self._name, "precision": self.precision, "seed": self.seed, "torch": torch.__version__}


# Cached: Fabric looks through the entry points of all installed packages, which takes longer than to train a head.
@functools.cache
def _fabric(device: str, devices: int) -> Fabric:
    from lightning_fabric import Fabric

    # Fabric sets this when it is imported. Each step of an optimizer then asks the driver for devices: 0.3 ms on a CPU.
    os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
    strategy = "ddp_spawn" if devices > 1 else "auto"
    return Fabric(accelerator=device, devices=devices, strategy=strategy, precision="32-true")


def choose_compute(
    device: DeviceChoice = "auto", precision: PrecisionChoice = "auto", threads: int = 0, seed: int = 1
) -> Compute:
    """Resolve ``auto`` to what this machine has, and set torch's number of threads.

    Args:
        device: "auto" chooses CUDA where it is available.
        precision: "auto" chooses bf16 where the hardware multiplies matrices in it (CUDA of compute capability 8.0 or
            more, CPUs with AMX, AMD's with AVX-512's bf16), else fp32.
        threads: number of CPU threads; 0: torch's own choice.
        seed: seed of every random number; not negative.

    Raises:
        MarsError: CUDA was asked for and is not available, or the seed is negative.
    """
    import torch

    if seed < 0:
        raise MarsError(f"the seed is {seed}: choose one of 0 or more")

    if device == "cuda" and not torch.cuda.is_available():
        raise MarsError(
            "device 'cuda' was asked for and torch finds no CUDA device. Set the compute resource's device to 'auto' "
            "or 'cpu', or check the driver with nvidia-smi"
        )
    chosen: Literal["cpu", "cuda"] = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    if precision == "auto":
        precision = "bf16" if _has_bf16(chosen) else "fp32"
    if threads:
        torch.set_num_threads(threads)
    return Compute(chosen, precision, torch.get_num_threads(), seed)


def _has_bf16(device: Literal["cpu", "cuda"]) -> bool:
    """Test whether the hardware multiplies matrices in bf16.

    Elsewhere bf16 is emulated, and slower than fp32.
    """
    import torch

    if device == "cuda":
        return torch.cuda.get_device_capability(0) >= (8, 0)
    # AVX-512's bf16 instructions pay on AMD's CPUs; on Intel's only those of AMX do. torch 2.6 cannot tell yet.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    of_amd = "AMD" in str(capabilities.get("cpu_name", ""))
    return bool(
        (capabilities.get("amx_tile") and capabilities.get("amx_bf16")) or (of_amd and capabilities.get("avx512_bf16"))
    )
