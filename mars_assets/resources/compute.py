"""The compute resource, required by every step that uses torch."""

from typing import Any

import dagster as dg
from pydantic import Field

from mars_assets.training.compute import Compute, DeviceChoice, PrecisionChoice, choose_compute

GPU_POOL = "gpu"
"""The concurrency pool of all steps that compute with torch; dagster.yaml runs one of them at a time."""


class ComputeResource(dg.ConfigurableResource[Any]):
    """Device, precision, threads and seed of every step that computes with torch."""

    device: DeviceChoice = Field(default="auto", description="auto: CUDA if available, otherwise the CPU.")
    precision: PrecisionChoice = Field(
        default="auto",
        description="auto: bf16 if the hardware supports it (CUDA capability 8.0 or newer, Intel CPUs with AMX, AMD "
        "CPUs with AVX512_BF16), otherwise fp32.",
    )
    threads: int = Field(default=0, ge=0, description="CPU threads; 0 uses torch's default.")
    seed: int = Field(default=1, ge=0, description="Seed of all random numbers in training and evaluation.")

    def choose(self) -> Compute:
        """Resolve the choice on the machine that runs the step."""
        return choose_compute(self.device, self.precision, self.threads, self.seed)
