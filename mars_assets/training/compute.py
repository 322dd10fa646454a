"""Where and how torch computes: one choice of device, precision, threads and seed for every step that uses it."""

from __future__ import annotations

import random
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

from mars_assets.errors import MarsError

DeviceChoice = Literal["auto", "cpu", "cuda"]
PrecisionChoice = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class Compute:
    """A resolved choice; make it with :func:`choose_compute`.

    Args:
        device: "cpu" or "cuda".
        precision: "fp32", or "bf16" for autocast in forward passes.
        threads: CPU threads that torch may use.
        seed: seed of every random number of a step.
    """

    device: Literal["cpu", "cuda"]
    precision: Literal["fp32", "bf16"]
    threads: int
    seed: int

    def autocast(self) -> AbstractContextManager[Any]:
        """bf16 autocast on the device, or nothing in fp32."""
        import torch

        return torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    def seed_everything(self) -> None:
        """Seeds Python, numpy and torch."""
        import numpy as np
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
        """What provenance says of the device: JSON-able."""
        import torch

        return {"device": self._name, "precision": self.precision, "seed": self.seed, "torch": torch.__version__}


def choose_compute(
    device: DeviceChoice = "auto", precision: PrecisionChoice = "auto", threads: int = 0, seed: int = 1
) -> Compute:
    """Resolves ``auto`` to what this machine has, and sets torch's thread count.

    Args:
        device: "auto" takes CUDA where there is any.
        precision: "auto" takes bf16 where the hardware multiplies matrices in it (CUDA of compute capability 8.0 or more,
            CPUs with AMX, AMD's with AVX-512's bf16), else fp32.
        threads: 0 leaves torch's own choice.
        seed: kept for the steps; not negative.

    Raises:
        MarsError: CUDA was asked for and there is none, or the seed is negative.
    """
    import torch

    if seed < 0:
        raise MarsError(f"the seed is {seed}: numpy takes none below 0")

    if device == "cuda" and not torch.cuda.is_available():
        raise MarsError(
            "device 'cuda' was asked for and torch sees no CUDA device. Set the compute resource's device to 'auto' or "
            "'cpu', or check the driver with nvidia-smi"
        )
    chosen: Literal["cpu", "cuda"] = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    if precision == "auto":
        resolved: Literal["fp32", "bf16"] = "bf16" if _has_bf16(chosen) else "fp32"
    else:
        resolved = precision
    if threads:
        torch.set_num_threads(threads)
    return Compute(chosen, resolved, torch.get_num_threads(), seed)


def _has_bf16(device: Literal["cpu", "cuda"]) -> bool:
    """Whether the hardware multiplies matrices in bf16: elsewhere bf16 is emulated, and slower than fp32."""
    import torch

    if device == "cuda":
        return torch.cuda.get_device_capability(0) >= (8, 0)
    # AVX-512's bf16 instructions are worth it on AMD's CPUs; on Intel's those of AMX alone are. torch 2.6 cannot tell yet.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    of_amd = "AMD" in str(capabilities.get("cpu_name", ""))
    return bool(
        (capabilities.get("amx_tile") and capabilities.get("amx_bf16")) or (of_amd and capabilities.get("avx512_bf16"))
    )
