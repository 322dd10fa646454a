"""How far the design carries: tables of ``docs/explanation/scale.md``, computed from what benchmarks measured.

Reads the JSON files that ``scene_costs.py``, ``partitions.py``, ``queued_runs.py``, ``catalogue.py`` and
``cluster_simulation.py`` leave beside themselves, and writes each table between its two comments in the page. A test
fails where the page has other figures.

    python benchmarks/scale.py
"""

from __future__ import annotations

import functools
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster_simulation import (
    LOG_MEGAPIXELS,
    OVERHEAD,
    PARALLEL,
    SPREAD_OF_SIZES,
    Assumptions,
    gpu_seconds_per_megapixel,
    other_core_seconds,
)

PAGE = Path(__file__).parent.parent / "docs" / "explanation" / "scale.md"
GPUS = (1, 8, 64)
METRES = 5.0
TILE = 200.0
"""Megapixels of a tile of a mosaic, as the scene of ``scenes.py``."""
HIRISE_SCENES = 100_000
NETWORKS = {"default": "default recipe, Prithvi v1_100", "paper": "the paper's recipe, Prithvi v1_100"}

KEPT = {"products": "product", "crops": "crops", "maps": "map"}


@dataclass(frozen=True)
class Task:
    """Scenes to map.

    Args:
        name: for the table.
        scenes: number of them.
        megapixels: of each, on average.
        product_bytes: of a megapixel of a product.
        cut: whether crops are cut.
    """

    name: str
    scenes: int
    megapixels: float
    product_bytes: float
    cut: bool

    @property
    def pixels(self) -> float:
        return self.scenes * self.megapixels * 1e6


def costs_of(name: str) -> dict[str, Any]:
    """Read what a benchmark measured."""
    found: dict[str, Any] = json.loads(Path(__file__).with_name(f"{name}.json").read_text())
    return found


def tasks() -> list[Task]:
    from mars_assets.craters.crater_map import IAU_RADIUS

    product = costs_of("scene_costs")["bytes"]["product"]
    pixels = 4 * math.pi * IAU_RADIUS**2 / METRES**2
    mean = math.exp(LOG_MEGAPIXELS + SPREAD_OF_SIZES**2 / 2)
    per_megapixel = product["megapixel"] + product["scene"] / mean
    return [
        Task(f"Mars at {METRES:g} m a pixel", math.ceil(pixels / TILE / 1e6), TILE, 1e6, cut=False),
        Task("HiRISE, COLOR products", HIRISE_SCENES, mean, per_megapixel, cut=True),
    ]


def total(of: dict[str, float], task: Task) -> float:
    """Sum what every scene takes by itself and for its pixels."""
    return task.scenes * (of["scene"] + of["megapixel"] * task.megapixels)


def demands(task: Task) -> dict[str, float]:
    """Compute what a task takes; seconds, bytes and numbers."""
    costs, assumed = costs_of("scene_costs"), Assumptions()
    cores = {"map": total(other_core_seconds(costs), task), "download": total(costs["core_seconds"]["download"], task)}
    if task.cut:
        cores["cut"] = total(costs["core_seconds"]["cut"], task)
    read = task.pixels / 1e6 * task.product_bytes
    gpu = {name: gpu_seconds_per_megapixel(costs, Assumptions(network=name)) * task.pixels / 1e6 for name in NETWORKS}
    mapped = (gpu["default"] + cores["map"] / (8 * PARALLEL)) / task.scenes
    stages = [read / task.scenes / assumed.download_mb_s / 1e6, mapped]
    if task.cut:
        stages.append(cores["cut"] / task.scenes / (4 * PARALLEL))
    runs = sum(math.ceil(task.scenes / max(1, round(assumed.run_seconds / seconds))) for seconds in stages)
    network = costs["networks"]["measured"]
    on_cpu = network["seconds"] * network["windows_per_megapixel"] * network["orientations"] * task.pixels / 1e6
    return {
        **{f"gpu {name}": seconds for name, seconds in gpu.items()},
        "network on a CPU": on_cpu,
        "cores": sum(cores.values()) + runs * OVERHEAD,
        "map": mapped * task.scenes,
        "read": read,
        "kept": total(costs["bytes"]["map"], task) + (total(costs["bytes"]["crops"], task) if task.cut else 0),
        "crops": total(costs["rows"]["crops"], task) if task.cut else 0,
        "craters": total(costs["rows"]["craters"], task),
        "runs": runs,
        "downloads": read / (2 * assumed.download_mb_s * 1e6),
    }


def amounts() -> str:
    """Write what each task takes."""
    found = {task.name: demands(task) for task in tasks()}
    lines = [("", *found), ("---", *["---"] * len(found))]
    pixels = {task.name: task.pixels for task in tasks()}
    lines += [
        ("pixels", *[f"{pixels[name]:.1e}" for name in found]),
        ("scenes", *[f"{task.scenes:,}" for task in tasks()]),
        *[
            (
                f"GPU hours of the network, {label} (derived)",
                *[f"{one[f'gpu {key}'] / 3600:,.0f}" for one in found.values()],
            )
            for key, label in NETWORKS.items()
        ],
        (
            "core-hours of the demo's small network without any GPU",
            *[f"{one['network on a CPU'] / 3600:,.0f}" for one in found.values()],
        ),
        ("core-hours of all else, starts of runs included", *[f"{one['cores'] / 3600:,.0f}" for one in found.values()]),
        ("read (TB)", *[f"{one['read'] / 1e12:,.1f}" for one in found.values()]),
        ("kept besides (TB)", *[f"{one['kept'] / 1e12:,.1f}" for one in found.values()]),
        ("rows of crops", *[f"{one['crops']:.1e}" if one["crops"] else "0" for one in found.values()]),
        ("rows of craters", *[f"{one['craters']:.1e}" for one in found.values()]),
        ("runs of five minutes", *[f"{one['runs']:,.0f}" for one in found.values()]),
    ]
    for gpus in GPUS:
        label = f"days of maps on {gpus} GPU{'s' * (gpus > 1)}, 8 cores each"
        lines.append((label, *[f"{one['map'] / gpus / 86_400:,.1f}" for one in found.values()]))
    lines.append(("days of downloads, two at a time", *[f"{one['downloads'] / 86_400:,.1f}" for one in found.values()]))
    return _table(lines)


def limits() -> str:
    """Write what bounds the design, with where each task stands."""
    from mars_assets.partitions import MOST_OBSERVATIONS

    both = [demands(task) for task in tasks()]
    partitions, queued, catalogue = costs_of("partitions"), costs_of("queued_runs"), costs_of("catalogue")
    page = " / ".join(
        f"{max(partitions[f'{storage} {MOST_OBSERVATIONS}'][page] for page in ('overview', 'partitions')):.1f}"
        for storage in ("sqlite", "postgres")
    )
    tick = " / ".join(
        f"{partitions[f'{storage} {MOST_OBSERVATIONS}']['the same conditions alone']:.2f}"
        for storage in ("sqlite", "postgres")
    )
    storages = [storage for storage in ("sqlite", "postgres") if f"{storage} 1000" in queued]
    load = " / ".join(
        f"{queued[f'{storage} 1000']['load']:.0%} (none: {queued[f'{storage} 0']['load']:.0%})" for storage in storages
    )
    small, large = (catalogue[key] for key in (min(catalogue, key=int), max(catalogue, key=int)))
    count = int(max(catalogue, key=int))
    slope = (large["megabytes"] - small["megabytes"]) / (count - int(min(catalogue, key=int)))
    costs = costs_of("scene_costs")
    other = other_core_seconds(costs)["megapixel"] / (8 * PARALLEL)
    gpu, paper = (gpu_seconds_per_megapixel(costs, Assumptions(network=name)) for name in NETWORKS)
    lines: list[Sequence[str]] = [
        ("what", "measured", "Mars at 5 m", "HiRISE"),
        ("---", "---", "---", "---"),
        (
            "downloads at two a time",
            f"{Assumptions.download_mb_s:g} MB/s each (assumed)",
            *[f"{one['downloads'] / 86_400:,.0f} days" for one in both],
        ),
        (
            "cores of a GPU's host",
            f"a megapixel takes {1000 * other:.0f} ms on 8 cores, and its network {1000 * gpu:.0f} ms, or "
            f"{1000 * paper:.0f} ms by the paper's recipe (derived)",
            *[f"{other / (other + gpu):.0%} of a map's time"] * 2,
        ),
        (
            "disk",
            "for each megapixel "
            + ", ".join(f"{name} {costs['bytes'][key]['megapixel'] / 1e6:.1f} MB" for name, key in KEPT.items()),
            *[
                f"{(one['read'] * task.cut + one['kept']) / 1e12:,.0f} TB"
                for one, task in zip(both, tasks(), strict=True)
            ],
        ),
        (
            f"partitions of a lake: {MOST_OBSERVATIONS:,}",
            f"an asset's page {page} s, conditions {tick} s (SQLite / Postgres)",
            *[f"lakes: {math.ceil(task.scenes / MOST_OBSERVATIONS)}" for task in tasks()],
        ),
        (
            "the catalogue, one process in memory",
            f"{large['seconds']:.0f} s and {large['megabytes'] / 1000:.1f} GB for {count:.1e} craters",
            *[
                f"{(large['megabytes'] + slope * (one['craters'] - count)) / 1000:,.0f} GB, "
                f"{large['seconds'] * one['craters'] / count / 3600:,.1f} h"
                for one in both
            ],
        ),
        (
            "the daemon with 1,000 runs queued",
            f"{load} of a core (SQLite / Postgres)",
            *[f"{one['runs']:,.0f} runs in all" for one in both],
        ),
    ]
    return _table(lines)


def _by_count(key: str) -> tuple[int, bool]:
    """Sort what was recorded by number, and SQLite first."""
    storage, count = key.split()
    return int(count), storage != "sqlite"


def partitions() -> str:
    """Write what observations as partitions cost."""
    found = costs_of("partitions")
    names = {
        "overview": "overview (s)",
        "overview, core-seconds": "its server (core-s)",
        "partitions": "tab Partitions (s)",
        "partitions, core-seconds": "its server (core-s)",
        "the same conditions alone": "conditions (s)",
        "tick of the daemon": "tick of the daemon (s)",
    }
    lines: list[Sequence[str]] = [("observations", "storage", *names.values()), ("---",) * (len(names) + 2)]
    for key in sorted(found, key=_by_count):
        storage, count = key.split()
        lines.append((f"{int(count):,}", storage, *[f"{found[key][name]:.2f}" for name in names]))
    return _table(lines)


def queue() -> str:
    """Write what queued runs cost."""
    names = {"load": "daemon (share of a core)", "taken": "in the queue (s)", "start": "until started (s)"}
    lines: list[Sequence[str]] = [("queued", "storage", *names.values(), "data of the page Runs (s)"), ("---",) * 6]
    found = costs_of("queued_runs")
    for key in sorted(found, key=_by_count):
        storage, count = key.split()
        cells = [f"{found[key]['load']:.0%}", f"{found[key]['taken']:.1f}", f"{found[key]['start']:.1f}"]
        lines.append((f"{int(count):,}", storage, *cells, f"{max(found[key]['pages'].values()):.2f}"))
    return _table(lines)


def simulated(table: str) -> str:
    """Read a table of the simulation."""
    text: str = costs_of("cluster_simulation")[table]
    return text


def _table(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |".replace("| --- ", "|---").replace("|--- |", "|---|") for cells in lines)


TABLES: dict[str, Callable[[], str]] = {
    "amounts": amounts,
    "limits": limits,
    "partitions": partitions,
    "queue": queue,
    "simulation": functools.partial(simulated, "table"),
    "variations": functools.partial(simulated, "variations"),
}


def filled(page: str) -> str:
    """Put every table between its comments."""
    for name, write in TABLES.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, found, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise SystemExit(f"{PAGE} has no place for the table of {name}")
        page = f"{before}{begin}\n{write()}\n\n{end}{after}"
    return page


def main() -> int:
    PAGE.write_text(filled(PAGE.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
