"""Checks of this machine: GPUs, precision, processors and memory."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil

from mars_assets.doctor.findings import Check, Finding, Surroundings, first_line, note, ok, problem
from mars_assets.training.compute import choose_compute

_GIB = 2**30
_LEAST_MEMORY = 4 * _GIB
"""A map of a scene takes 2 to 3 GiB with its outlining processes (benchmarks/README.md)."""
_UNLIMITED = 2**60


@functools.cache
def gpus_of_torch() -> tuple[str, ...]:
    """Return the names of the GPUs that torch sees."""
    import torch

    return tuple(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))


def gpus_of_driver(proc: Path) -> tuple[str, ...]:
    """Return the names of the GPUs that NVIDIA's driver has."""
    files = sorted(proc.glob("driver/nvidia/gpus/*/information"))
    if files:
        return tuple(re.sub(r"(?s).*?Model:\s*([^\n]+).*", r"\1", path.read_text()) for path in files)
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    answer = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=30)  # noqa: S603
    return tuple(re.findall(r"^GPU \d+: (.+?) \(", answer.stdout, re.MULTILINE)) if answer.returncode == 0 else ()


def gpu(surroundings: Surroundings) -> Iterator[Finding]:
    """Check that torch sees the GPUs that the driver has, and can compute on each."""
    import torch

    yield from compared_gpus(gpus_of_torch(), gpus_of_driver(surroundings.proc), surroundings)
    for number, name in enumerate(gpus_of_torch()):
        try:
            ones = torch.ones(64, 64, device=f"cuda:{number}")
            float((ones @ ones).sum())
        except RuntimeError as error:
            yield problem(
                f"torch cannot compute on GPU {number}, {name} ({first_line(error)})",
                "look at nvidia-smi for who uses it, and install a torch for its architecture and driver",
            )


def compared_gpus(seen: tuple[str, ...], installed: tuple[str, ...], surroundings: Surroundings) -> Iterator[Finding]:
    """Compare the GPUs that torch sees with those that the driver has.

    Args:
        seen: names of those that torch sees.
        installed: names of those that the driver has.
        surroundings: what the checks look at.
    """
    import torch

    visible = surroundings.environment.get("CUDA_VISIBLE_DEVICES")
    hidden = f"CUDA_VISIBLE_DEVICES={visible}"
    if seen and len(seen) >= len(installed):
        yield ok(f"torch sees {', '.join(seen)}")
    elif seen and visible is not None:
        yield ok(f"torch sees {', '.join(seen)}, {len(seen)} of {len(installed)}, by {hidden}")
    elif installed and visible is not None:
        yield note(f"there is {installed[0]}, and {hidden} hides it from torch", "unset it to use the GPU")
    elif installed and torch.version.cuda is None:
        yield problem(f"there is {installed[0]}, and torch is built without CUDA", "install torch with CUDA")
    elif installed:
        advice = "look at nvidia-smi: the driver may be too old for this torch, or its devices missing in a container"
        yield problem(f"there are {len(installed)} GPUs ({installed[0]}), and torch sees {len(seen)}", advice)
    else:
        yield ok("no GPU: computes on the CPU")


def precision(surroundings: Surroundings) -> Iterator[Finding]:
    """Report what computations run in."""
    yield ok(str(choose_compute()))


def processors(surroundings: Surroundings) -> Iterator[Finding]:
    """Check that torch uses no more threads than this process has processors."""
    import torch

    usable = float(len(os.sched_getaffinity(0)))
    allowed = min(usable, _quota() or usable)
    threads = torch.get_num_threads()
    if threads > max(1, round(allowed)):
        advice = f"set OMP_NUM_THREADS={max(1, int(allowed))}"
        yield note(f"torch uses {threads} threads on {allowed:g} processors, which slows it down", advice)
    else:
        yield ok(f"{allowed:g} of {os.cpu_count()} for this process, {threads} threads of torch")


def memory(surroundings: Surroundings) -> Iterator[Finding]:
    """Check that the memory suffices for trainings and maps."""
    total = min(psutil.virtual_memory().total, _limit() or _UNLIMITED)
    yield from enough_memory(total)


def enough_memory(total: float) -> Iterator[Finding]:
    """Compare the memory of this machine or container with what the project needs.

    Args:
        total: bytes.
    """
    if total < _LEAST_MEMORY:
        advice = "give it 4 GiB or more, and more for trainings"
        yield problem(f"{total / _GIB:.1f} GiB of memory: a map of a scene takes up to 3 GiB", advice)
    else:
        yield ok(f"{total / _GIB:.0f} GiB")


def _quota() -> float | None:
    """Read the number of processors that the control group allows."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _limit() -> int | None:
    """Read the memory that the control group allows, in bytes."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            return int((Path("/sys/fs/cgroup") / name).read_text())
        except (OSError, ValueError):
            continue
    return None


CHECKS: tuple[Check, ...] = (gpu, precision, processors, memory)
