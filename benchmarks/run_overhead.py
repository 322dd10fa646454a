"""What a run costs besides its steps: at the command line, as a Ray job and as a Slurm job.

Starts a Ray (a head without CPUs and a worker) and a Slurm of one node on this host, and materializes the asset
``observations`` of a lake with one observation, several times in each place, in turns. Nothing waits in a queue.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import dagster as dg
import psutil

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
if TYPE_CHECKING:
    from mars_assets_tests.cluster.runs import Runs

ASSET = "observations"


class Cost(NamedTuple):
    """What a run took.

    Args:
        seconds: from the launch to its end, without the step.
        core_seconds: processor time of its process, with the step, which takes a second or two.
    """

    seconds: float
    core_seconds: float


def seconds_besides_step(instance: dg.DagsterInstance, run_id: str, launched: float) -> float:
    """Reads a run's events."""
    times = {
        event.dagster_event.event_type_value: event.timestamp
        for event in instance.all_logs(run_id)
        if event.dagster_event
    }
    return times["PIPELINE_SUCCESS"] - launched - (times["STEP_SUCCESS"] - times["STEP_START"])


def at_the_command_line(home: Path) -> Cost:
    """Runs ``dagster asset materialize``."""
    environment = os.environ | {"DAGSTER_HOME": str(home)}
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "mars_assets.definitions"]
    launched, before = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*command, "--select", ASSET], env=environment, capture_output=True, check=True)  # noqa: S603 - Dagster's
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        took = seconds_besides_step(instance, instance.get_runs(limit=1)[0].run_id, launched)
    return Cost(took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def elsewhere(runs: Runs) -> Cost:
    """Launches a run as Dagster's daemon does."""
    launched, core = time.time(), 0.0
    run_id = runs.launch(ASSET)
    while True:
        with contextlib.suppress(KeyError, ValueError, IndexError, psutil.Error):
            times = psutil.Process(runs.process(run_id)).cpu_times()
            core = max(core, times.user + times.system)
        if runs.run(run_id).is_finished and core:
            break
        time.sleep(0.05)
    return Cost(seconds_besides_step(runs.instance, run_id, launched), core)


@contextlib.contextmanager
def places(folder: Path) -> Iterator[dict[str, Callable[[], Cost]]]:
    """Starts Ray and Slurm."""
    from mars_assets_tests.cluster.ray_cluster import ray_cluster
    from mars_assets_tests.cluster.runs import runs_by, small_lake
    from mars_assets_tests.cluster.slurm_cluster import slurm_on_this_host

    for name in ("alone", "ray", "ray_runs", "slurm", "slurm_runs"):
        (folder / name).mkdir(mode=0o755)
    os.environ["MARS_LAKE"] = str(small_lake(folder))
    with ray_cluster(folder / "ray") as ray, slurm_on_this_host(folder / "slurm"):
        config: dict[str, Any] = {"ray": {"address": ray.address, "num_cpus": 1}}
        to_ray = {"module": "mars_assets.cluster.ray", "class": "RayLauncher", "config": config}
        to_slurm = {"module": "mars_assets.cluster.slurm", "class": "SlurmRunLauncher"}
        with runs_by(to_ray, folder / "ray_runs") as on_ray, runs_by(to_slurm, folder / "slurm_runs") as on_slurm:
            yield {
                "command line": lambda: at_the_command_line(folder / "alone"),
                "Ray": lambda: elsewhere(on_ray),
                "Slurm": lambda: elsewhere(on_slurm),
            }


def main() -> None:
    """Measures and prints medians."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repeats", type=int, default=5)
    repeats = options.parse_args().repeats
    costs: dict[str, list[Cost]] = {}
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name, places(Path(name)) as runs:
        for turn in range(repeats + 1):  # the first warms up
            for place, run in runs.items():
                costs.setdefault(place, []).append(run())
                print(f"round {turn}: {place:14} {costs[place][-1]}", flush=True)
    for place, found in costs.items():
        seconds, core_seconds = (
            f"{statistics.median(c):.1f} ({min(c):.1f} to {max(c):.1f})" for c in zip(*found[1:], strict=True)
        )
        print(f"{place}: {seconds} s besides the step, {core_seconds} core-seconds")


if __name__ == "__main__":
    main()
