"""What a run needs of a host: CPUs, a GPU, memory and time.

A run is one process that executes its steps one after another, so it needs the most that any of its steps needs, and
the time of all of them. Times are limits that end what hangs, far above what a step should take. Where a figure was not
measured, its comment says that it is a guess.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from mars_assets.resources.archive import ARCHIVE_POOL
from mars_assets.resources.compute import GPU_POOL
from mars_assets.resources.lake import LAKE_POOL
from mars_assets.resources.roboflow import ROBOFLOW_POOL


@dataclass(frozen=True)
class Needs:
    """What a step or a run needs.

    Args:
        cpus: number of CPUs.
        memory_gb: memory of the host, in units of 10^9 bytes.
        hours: the longest that it may take; for a partitioned asset, one partition of it.
        gpu: whether it takes a GPU where there is one.
    """

    cpus: int
    memory_gb: int
    hours: float
    gpu: bool = False


@dataclass(frozen=True)
class Step:
    """A step of a run's plan.

    Args:
        name: name of the step, which is that of its asset.
        pool: its concurrency pool, or None.
        partitions: the number of partitions that it computes in the run.
    """

    name: str
    pool: str | None = None
    partitions: int = 1


@dataclass(frozen=True)
class Host:
    """The most that a run may ask for.

    It would wait forever for a host that has more.

    Args:
        cpus: CPUs of the smallest host that runs are sent to.
        memory_gb: its memory.
        hours: the longest that a run may take there.
    """

    cpus: int
    memory_gb: int
    hours: float


START_HOURS = 0.25
"""Added to every run: loading packages from a shared folder that is cold (a guess)."""

OF_POOLS = {
    # Memory of the host, not of the GPU: a map of 10,000 x 20,000 pixels peaks at 2.1 GB with the demo's model and its
    # outlining processes (benchmarks/scenes.py); the largest Prithvi adds 2.5 GB of weights, in training four times
    # that on a CPU. 8 CPUs: a training reads its images in up to four processes, a map outlines craters in as many
    # processes as there are CPUs. The time is a guess.
    GPU_POOL: Needs(cpus=8, memory_gb=16, hours=24, gpu=True),
    # Chips and masks are written one after another; the label table is in memory (guesses).
    LAKE_POOL: Needs(cpus=2, memory_gb=8, hours=4),
    # One connection, written to disk as it comes; decoding for the verification goes strip by strip (guesses). 1 GB at
    # 1 MB/s takes 17 minutes.
    ARCHIVE_POOL: Needs(cpus=1, memory_gb=4, hours=1),
    ROBOFLOW_POOL: Needs(cpus=1, memory_gb=4, hours=1),
}
"""Needs of steps in a pool, unless :data:`OF_STEPS` has the step."""

OF_STEPS = {
    # A table of observations, or a look at file names.
    "observations": Needs(cpus=1, memory_gb=4, hours=0.5),
    "roboflow_exports": Needs(cpus=1, memory_gb=4, hours=0.5),
    # The largest checkpoint has 2.5 GB and is converted in memory (a guess); the download is the time.
    "prithvi_weights": Needs(cpus=1, memory_gb=12, hours=4),
    "encoder_weights": Needs(cpus=1, memory_gb=12, hours=4),
    # Decodes strips with all CPUs: 0.4 GB from a single-tile scene of 24,000 x 4,000 pixels, as large as its file and
    # more where packets cannot be separated (imagery/jpeg2000.py).
    "crops": Needs(cpus=4, memory_gb=6, hours=1),
    # A scene of 10,000 x 20,000 pixels takes 6 minutes on two CPUs with the demo's model. A large encoder on CPUs may
    # take twenty times that (a guess).
    "crater_maps": Needs(cpus=8, memory_gb=16, hours=3, gpu=True),
    # A million craters in 300 scenes take 44 s (benchmarks/catalogue.py); memory is a guess.
    "crater_catalogue": Needs(cpus=2, memory_gb=8, hours=4),
    "catalogue_comparison": Needs(cpus=2, memory_gb=8, hours=4),
    # Hundreds of trainings; a killed sweep continues with the next one.
    "cls_experiments": Needs(cpus=8, memory_gb=16, hours=24 * 7, gpu=True),
    "seg_experiments": Needs(cpus=8, memory_gb=16, hours=24 * 7, gpu=True),
    # Tens of encoders over all images; a killed study continues with the next one.
    "transfer_study": Needs(cpus=8, memory_gb=16, hours=24, gpu=True),
}
"""Needs of steps without a pool, and of those that differ from their pool's."""

OF_OTHERS = Needs(cpus=1, memory_gb=4, hours=0.5)
"""Needs of asset checks, which read tables and a sample of files."""


def needs_of_step(step: Step) -> Needs:
    """Look up what a step needs."""
    needs = OF_STEPS.get(step.name) or OF_POOLS.get(step.pool or "", OF_OTHERS)
    return replace(needs, hours=needs.hours * step.partitions)


def needs_of_run(steps: Iterable[Step], most: Host) -> Needs:
    """Combine what the steps of a run need, at most what a host has."""
    each = [needs_of_step(step) for step in steps]
    return Needs(
        cpus=min(max((needs.cpus for needs in each), default=OF_OTHERS.cpus), most.cpus),
        memory_gb=min(max((needs.memory_gb for needs in each), default=OF_OTHERS.memory_gb), most.memory_gb),
        hours=min(math.fsum(needs.hours for needs in each) + START_HOURS, most.hours),
        gpu=any(needs.gpu for needs in each),
    )
