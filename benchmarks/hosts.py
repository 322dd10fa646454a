"""How long hundreds of observations take on several hosts of a Ray, against the ideal time of the cores.

Observations of the synthetic sample are downloaded, cut and mapped by one backfill, on hosts that are namespaces of
this machine with one CPU each; some die meanwhile, and come back. A small backfill comes first, from which the project
learns how many observations a run should take. The ideal is what as many processes as the machine has cores need for a
few of the observations, with nothing else, times all of them. What Dagster, Postgres and Ray do on four hosts takes the
same cores here, so the time is also compared with the ideal of what they leave to the runs. At the end each observation
must have its crops and its map, published once.

    python benchmarks/hosts.py --observations 500 --deaths 2
"""

from __future__ import annotations

import argparse
import collections
import itertools
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil

PROJECT = Path(__file__).parent.parent
sys.path.insert(0, str(PROJECT))  # the tests' lab

from mars_assets.lake import Lake  # noqa: E402
from mars_assets_tests.cluster.lab import RayLab, ray_lab  # noqa: E402
from mars_assets_tests.postgres import installed  # noqa: E402

SIDE = 640
"""Lines and samples of a scene: one crop of 512 pixels and the slanted margins."""
LEARNT_FROM = 12
"""Observations of the small backfill."""
RELOADED = 90.0
"""Seconds in which the daemon loads the definitions anew, as it does each minute, and learns how long runs take."""
KINDS = 10
"""Different scenes; each stands in the archive under many ids."""
BACKFILL = """mutation($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
ASSETS = ("hirise_images", "crops", "crater_maps")
ENDED = ("COMPLETED", "COMPLETED_SUCCESS", "COMPLETED_FAILED", "FAILED", "CANCELED")


def add_observations(lake: Lake, number: int) -> list[str]:
    """Write products of many observations into the archive, and list them."""
    from mars_assets.sample.products import write_products
    from mars_assets.sample.terrain import SceneSpec, render_scene

    scenes = [render_scene(SceneSpec("ESP_990001_1800", SIDE, SIDE, seed=seed)) for seed in range(KINDS)]
    names = [f"ESP_{991_000 + index:06d}_1800" for index in range(number)]
    for name, scene in zip(names, itertools.cycle(scenes)):
        write_products(lake.sample, replace(scene, spec=replace(scene.spec, observation=name)), longitude=100.0)
    lake.observations_csv.write_text("id,product,note\n" + "".join(f"{name},COLOR,\n" for name in names))
    return names


def made_alone(lake_root: Path, url: str, names: list[str], work: Path) -> float:
    """Download, cut and map observations one after the other, with no Dagster; return the seconds."""
    from mars_assets.imagery.crops import Source, cut_crops
    from mars_assets.imagery.download import Archive, fetch_product
    from mars_assets.imagery.products import product_files
    from mars_assets.models.versions import current_model
    from mars_assets.segmentation.maps import MapRequest, finder_of, map_with
    from mars_assets.training.compute import choose_compute

    source = Archive(url, "benchmark@localhost", lock_folder=work)
    finder = finder_of(current_model(Lake.at(lake_root), "seg_model"), choose_compute("cpu", "auto", 1, 1))
    start = 0.0
    for index, name in enumerate(names):
        if index == 1:  # the first warms up
            start = time.monotonic()
        files, there = product_files(name, "COLOR"), work / name
        assert files.label is not None
        fetch_product(source, files, there)
        image, label = there / Path(files.image).name, there / Path(files.label).name
        cut_crops(Source(image, label, name, "COLOR"), work / "crops" / name)
        map_with(finder, MapRequest(image, 10.0, label), work / "maps" / name)
    return (time.monotonic() - start) / (len(names) - 1)


def ideal(lab: RayLab, names: list[str], cores: int, each: int) -> float:
    """Measure the seconds of an observation if all cores do nothing but observations."""
    url, lake = lab.deployed.environment["MARS_HIRISE_ARCHIVE"], lab.deployed.lake.root
    work = Path(tempfile.mkdtemp(prefix="mars-bench-"))
    try:
        with ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("spawn")) as pool:
            jobs = [
                pool.submit(made_alone, lake, url, names[number * each : (number + 1) * each], work / str(number))
                for number in range(cores)
            ]
            seconds = [job.result() for job in jobs]
    finally:
        shutil.rmtree(work)
    return sum(seconds) / cores / cores


def backfill(lab: RayLab, names: list[str]) -> str:
    assert lab.services is not None
    params = {"assetSelection": [{"path": [name]} for name in ASSETS], "partitionNames": names}
    answer = lab.services.ask(BACKFILL, p=params)["launchPartitionBackfill"]
    assert answer["__typename"] == "LaunchBackfillSuccess", answer
    return str(answer["backfillId"])


def status_of(lab: RayLab, name: str) -> str:
    rows = lab.deployed.database.query("SELECT status FROM bulk_actions WHERE key = %s", name)
    return str(rows[0][0])


def made(lab: RayLab) -> dict[str, int]:
    """How many observations have their product, crops and map, and how many materializations there are."""
    lake = lab.deployed.lake
    counts = {
        "images": sum(1 for _ in lake.products("x").parent.glob("ESP_991*/ledger.json")),
        "crops": sum(1 for _ in lake.crops("x").parent.glob("ESP_991*/current/crops.parquet")),
        "maps": sum(1 for _ in lake.crater_map("x").parent.glob("ESP_991*/current/craters.parquet")),
    }
    return counts | {name: lab.history.materializations(name) for name in ASSETS}


def runs(lab: RayLab) -> dict[str, int]:
    query = "SELECT status, count(*) FROM runs WHERE run_id IN (SELECT run_id FROM run_tags WHERE key = %s) GROUP BY 1"
    return {str(status): int(number) for status, number in lab.deployed.database.query(query, "dagster/backfill")}


def services_time() -> dict[tuple[str, psutil.Process], float]:
    """The core-seconds of Postgres, Dagster's services and Ray, by service and process, without the runs.

    A connection to Postgres is a process that ends soon, and the daemon's code server another, so their ended children
    count. Those of Ray's do not: the runs are among them. Nor does this process, which serves the archive.
    """
    taken = {}
    for process in psutil.process_iter():
        try:
            command, times = " ".join(process.cmdline()), process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        if process.pid == os.getpid() or any(name in command for name in ("execute_run", "ray::Job", "ray::IDLE")):
            continue
        if "postgres -D" in command:
            taken["Postgres", process] = sum(times[:4])
        elif service := re.search(r"dagster-\w+", command):
            taken[service[0], process] = sum(times[:4])
        elif "/ray/" in command or "ray::" in command:
            taken["Ray", process] = sum(times[:2])
    return taken


def kill_a_host(lab: RayLab, dice: random.Random) -> None:
    name = dice.choice(sorted(lab.workers))
    print(f"  {name} dies, and is back after a minute", flush=True)
    lab.net.stop(name)
    time.sleep(60)
    lab.start_worker(name)


def follow(lab: RayLab, name: str, deaths: list[float]) -> float:
    """Wait until a backfill has ended, while hosts die after some seconds; return the seconds that it took."""
    start, said, dice = time.monotonic(), 0.0, random.Random(0)
    while status_of(lab, name) not in ENDED:
        passed = time.monotonic() - start
        if deaths and passed > deaths[0]:
            deaths.pop(0)
            kill_a_host(lab, dice)
        if passed - said > 60:
            said = passed
            print(f"  {passed:.0f} s: {made(lab)}, runs {runs(lab)}", flush=True)
        time.sleep(3)  # each look connects to the database, on the same cores
    return time.monotonic() - start


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--observations", type=int, default=500)
    options.add_argument("--hosts", type=int, default=3)
    options.add_argument("--deaths", type=int, default=0, help="how many hosts die meanwhile, one after the other")
    options.add_argument("--alone", type=int, default=8, help="observations of each process that measures the ideal")
    chosen = options.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and stop what was started
    programs = installed()
    if programs is None:
        sys.exit("there is no initdb: install Postgres (Debian: postgresql)")
    cores = len(os.sched_getaffinity(0))
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp", prefix="lab") as folder,
        ray_lab(Path(folder), programs, chosen.hosts) as lab,
    ):
        deployed = lab.deployed
        deployed.materialize("seg_model", seg_model={"steps": 4, "batch_size": 2, "warmup_steps": 1})
        names = add_observations(deployed.lake, chosen.observations + LEARNT_FROM)
        deployed.materialize("observations")
        seconds = ideal(lab, names, cores, chosen.alone)
        best = seconds * chosen.observations
        print(f"ideal: {seconds:.2f} s for each observation on {cores} cores, {best:.0f} s for all", flush=True)
        follow(lab, backfill(lab, names[chosen.observations :]), deaths=[])
        time.sleep(RELOADED)
        deaths = [best * (number + 1) / (chosen.deaths + 1) for number in range(chosen.deaths)]
        before = services_time()
        took = follow(lab, backfilled := backfill(lab, names[: chosen.observations]), deaths)
        services: collections.defaultdict[str, float] = collections.defaultdict(float)
        for (name, process), seconds in services_time().items():
            services[name] += (seconds - before.get((name, process), 0.0)) / cores / took
        print(f"backfill {status_of(lab, backfilled)} after {took:.0f} s: {took / best:.2f} of the ideal")
        shares = ", ".join(f"{name} {share:.0%}" for name, share in services.items())
        print(f"of the cores, services took {sum(services.values()):.0%}: {shares}")
        print(f"{took * (1 - sum(services.values())) / best:.2f} of the ideal of what they left")
        print(f"made: {made(lab)}, runs {runs(lab)}, places taken {lab.history.places_taken()}")


if __name__ == "__main__":
    main()
