"""The compute resource.

Every step that uses torch takes it, and runs in the pool ``gpu``.
"""

from typing import Any

import dagster as dg
from pydantic import Field

from mars_assets.training.compute import Compute, DeviceChoice, PrecisionChoice, choose_compute

GPU_POOL = "gpu"
"""The concurrency pool for all steps that compute with torch; dagster.yaml lets one of them run at a time."""


class ComputeResource(dg.ConfigurableResource[Any]):
    """Device, precision, threads and seed of every step that computes with torch."""

    device: DeviceChoice = Field(default="auto", description="auto: CUDA where there is any, else the CPU.")
    precision: PrecisionChoice = Field(
        default="auto",
        description="auto: bf16 where the hardware computes in it (CUDA 8.0 and newer, CPUs with AMX, AMD's with "
        "AVX512_BF16), else fp32.",
    )
    threads: int = Field(default=0, ge=0, description="CPU threads; 0 leaves torch's own choice.")
    seed: int = Field(default=1, ge=0, description="Seed of every random number in training and evaluation.")

    def choose(self) -> Compute:
        """Resolve the choice on the machine that runs the step."""
        return choose_compute(self.device, self.precision, self.threads, self.seed)
