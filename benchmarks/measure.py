"""What the benchmarks share: sides run as processes of their own, in turns, and their medians."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from mars_assets.training.compute import Compute, PrecisionChoice

_PRECISION = "BENCHMARK_PRECISION"


@dataclass(frozen=True)
class Measured:
    """Medians of a side.

    Args:
        seconds: what the side itself took, without starting Python.
        megabytes: peak resident memory of its process.
    """

    seconds: float
    megabytes: float


def measure(
    script: Path, sides: Mapping[str, Sequence[str]], repeats: int, interpreters: Mapping[str, str] | None = None
) -> dict[str, Measured]:
    """Runs ``script --side NAME ARGUMENTS`` for every side, in turns, each in a process of its own.

    Args:
        script: a benchmark that calls :func:`report` at the end of a side.
        sides: arguments of each.
        repeats: how often; the first round is not counted if there are more than two.
        interpreters: the Python of sides that have an environment of their own.
    """
    interpreters = interpreters or {}
    rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for turn in range(repeats):
        for name, arguments in sides.items():
            command = [interpreters.get(name, sys.executable), str(script), "--side", name, *arguments]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603 - our own script
            found = json.loads(done.stdout.splitlines()[-1])
            rounds[name].append((found["seconds"], found["megabytes"]))
            print(f"  round {turn + 1}: {name:24} {found['seconds']:8.2f} s {found['megabytes']:7.0f} MB", flush=True)
    counted = slice(1 if repeats > 2 else 0, None)
    return {
        name: Measured(*(statistics.median(values) for values in zip(*found[counted], strict=True)))
        for name, found in rounds.items()
    }


def parser(description: str | None, repeats: int) -> argparse.ArgumentParser:
    """With what every benchmark of torch can be told."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repeats", type=int, default=repeats)
    options.add_argument(
        "--precision",
        choices=["auto", "fp32", "bf16"],
        default="auto",
        help="our side's, as the compute resource has it",
    )
    options.add_argument("--side", help=argparse.SUPPRESS)
    options.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    return options


def surroundings(options: argparse.Namespace, threads: int) -> None:
    """Sets what the sides' processes find in their environment, and prints our precision."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads), _PRECISION: options.precision}
    print(f"precision of our side: {compute(threads).precision}")


def compute(threads: int, precision: PrecisionChoice | None = None) -> Compute:
    """The compute resource's choice, of our side's precision unless another is given."""
    from mars_assets.training.compute import choose_compute

    return choose_compute("cpu", precision or cast("PrecisionChoice", os.environ[_PRECISION]), threads, 1)


def import_first(*modules: str) -> None:
    """Imports what a long run has imported once, so that a side's seconds do not include it."""
    for name in modules:
        importlib.import_module(name)


def report(work: Callable[[], object], times: int = 1) -> None:
    """Does a side's work and prints its seconds and the peak memory of its process and of those that it started.

    Args:
        work: the side.
        times: how often; beyond one, two more come first that do not count, and the seconds are the median's.
    """
    seconds = []
    for turn in range(times if times == 1 else times + 2):
        start = time.perf_counter()
        work()
        if times == 1 or turn > 1:
            seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": statistics.median(seconds), "megabytes": _peak(os.getpid()) / 1024}))


def _peak(process: int) -> int:
    """Peak resident memory in kB of a process and of its children that live, each at its own peak.

    Not getrusage's, which counts what the parent had when it forked.
    """
    folder = Path("/proc") / str(process)
    children = [int(child) for tasks in folder.glob("task/*/children") for child in tasks.read_text().split()]
    own = int((folder / "status").read_text().split("VmHWM:")[1].split()[0])
    return own + sum(_peak(child) for child in children)


def verdict(what: str, value: float, bound: float, at_least: bool = True) -> bool:
    """Prints a number beside its bound. Returns whether it holds."""
    holds = value >= bound if at_least else value <= bound
    print(f"{what}: {value:.2f} ({'at least' if at_least else 'at most'} {bound:g}) {'holds' if holds else 'MISSED'}")
    return holds


def record(script: Path, found: Mapping[str, object]) -> None:
    """Keep what a benchmark measured in the JSON file beside it, of which ``scale.py`` makes tables."""
    path = script.with_suffix(".json")
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**before, **found}, indent=1, sort_keys=True) + "\n")
