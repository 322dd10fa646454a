"""The whole lineage on the embedded sample: ``make demo``.

It runs the documented commands on a local archive of synthetic Mars and prints the results. Every run materializes
everything; results that exist are not recomputed.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mars_assets.craters.catalogue_files import read_catalogue
from mars_assets.craters.comparison import Circles, compare
from mars_assets.errors import MarsError
from mars_assets.evaluation.statistics import with_interval
from mars_assets.lake import CRATERS_TABLE, DEFAULT_LAKE, PAGE, PROVENANCE, Lake
from mars_assets.models.report import read_report
from mars_assets.progress import Progress
from mars_assets.sample.make import GROUND_TRUTH, make_sample
from mars_assets.sample.server import serve
from mars_assets.segmentation.frequencies import TABLE as FREQUENCIES
from mars_assets.storage.files import read_json, read_provenance, read_table, write_json

# Dagster's console lines: time - logger - LEVEL - job - run - …
_LINE = re.compile(r"^\d{4}-\d\d-\d\d [\d:]+ [+-]\d{4} - \S+ - (?P<level>[A-Z]+) - (?P<text>.*)$")
_MESSAGE = re.compile(r"^\S+ - [0-9a-f-]{36} - (?:\d+ - )?(?P<text>.*)$")

# What the job ``experiment`` selects, and the predictions: one process, which imports torch once.
_SELECTION = "key:labelled_crops or key:prithvi_weights or " + " or ".join(
    f"group:{group}" for group in ("tensors", "models", "evaluation", "predictions")
)
_SETTINGS = {
    "prithvi_weights": {"source": "sample"},  # or else the job would use any other weights chosen in this lake
    # Fewer steps than by default, for both models: chosen with the scores on the sample's test images seen. The images
    # keep their size, since their craters are small.
    "cls_model": {"steps": 280, "evaluate_every": 140, "image_size": 224, "lr": 2e-3, "draw": "observations"},
    "seg_model": {"steps": 240, "evaluate_every": 240},
}


def run_demo(lake: Lake) -> None:
    """Write the sample, materialize everything on it and print the results.

    Raises:
        MarsError: the lake lists real observations, or a command failed.
    """
    start = time.monotonic()
    say = Progress(print, every=10)
    print("SYNTHETIC MARS: terrain, craters and labels below are computed; nothing is an image of Mars.\n")
    archive = lake.sample
    make_sample(lake, progress=say)
    log = lake.demo_log
    log.unlink(missing_ok=True)
    with serve(archive) as base_url:
        surroundings = {
            **os.environ,
            "MARS_LAKE": str(lake.root),
            "MARS_HIRISE_ARCHIVE": base_url,
            "MARS_CONTACT": "demo",
        }
        dagster(["asset", "materialize", "--select", "hirise_index,observations"], surroundings, log)
        keys = read_table(lake.observations, "observations", ["observation"])["observation"].tolist()
        scope = ["--partition-range", f"{min(keys)}...{max(keys)}"]
        dagster(["asset", "materialize", "--select", "hirise_images,crops", *scope], surroundings, log)
        config = lake.demo_config
        write_json(config, {"ops": {name: {"config": settings} for name, settings in _SETTINGS.items()}})
        dagster(["asset", "materialize", "--select", _SELECTION, "-c", str(config)], surroundings, log)
        scene = scene_to_map(lake)
        dagster(["asset", "materialize", "--select", "crater_maps", "--partition", scene], surroundings, log)
        dagster(["asset", "materialize", "--select", "crater_catalogue,size_frequency"], surroundings, log)
    print_results(lake)
    print_map(lake, scene)
    print_frequencies(lake, scene)
    print(f"\nDone in {(time.monotonic() - start) / 60:.1f} minutes. Dagster's full log: {log}")
    print("To see the results in a browser, run make ui and open http://127.0.0.1:3000")


def dagster(arguments: Sequence[str], surroundings: dict[str, str], log: Path) -> None:
    """Run a ``dagster`` command, print the steps' own messages and log everything."""
    print(f"\n$ dagster {shlex.join(arguments)}", flush=True)
    command = [str(Path(sys.executable).with_name("dagster")), *arguments, "-m", "mars_assets.definitions"]
    with open(log, "a") as file:
        process = subprocess.Popen(  # noqa: S603 - our own command, no shell
            command, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        shown = False
        for line in process.stdout:
            file.write(line)
            match = _LINE.match(line)
            if match:
                shown = match["level"] in ("INFO", "WARNING", "ERROR", "CRITICAL")
                if shown:
                    message = _MESSAGE.match(match["text"])
                    print("  " + (message["text"] if message else match["text"]), flush=True)
            elif line.startswith("Stack Trace:"):
                shown = False
            elif shown and line.strip():
                print("  " + line.rstrip(), flush=True)
    if process.wait() != 0:
        raise MarsError(f"the command above failed (exit code {process.returncode}); its full log is {log}")


def print_results(lake: Lake) -> None:
    """Print the reconstruction table, the scores and the folders of files.

    The scores are those of both models.
    """

    def rows(name: str) -> Any:
        return pd.DataFrame(read_json(lake.metrics(name, ".json")))

    def scores(table: Any, names: Sequence[str]) -> dict[str, Any]:
        return {name: [with_interval(row, name) for row in table.to_dict("records")] for name in names}

    def show(title: str, table: Any) -> None:
        print(f"\n{title}\n{table.to_string(index=False)}")

    def show_evaluation(name: str, what: str, *metrics: str) -> None:
        table = rows(name)
        table = table[table["measured"] == table["measured"].max()]
        shown = pd.DataFrame({"split": table["split"], "images": table["n"], **scores(table, metrics)})
        show(f"Crater {what}, on observations not used for training", shown)

    table, losses = rows("reconstruction"), ("model_loss", "rgb_loss", "psnr", "ssim")
    show(
        "Masked reconstruction (mask ratio 0.5; mean and 95 % interval; losses in normalised units, PSNR in dB)",
        pd.DataFrame({"method": table["method"], **scores(table, losses), "images": table["n_images"]}),
    )
    print("The sample's encoder was pretrained on post_norm input, so its ranking says nothing about Prithvi.")
    show_evaluation("cls_evaluation", "classification", "accuracy", "balanced_accuracy", "auroc")
    show_evaluation("seg_evaluation", "segmentation", "iou_crater", "miou", "crater_f1")
    print("\nFolders")
    for what, path in (
        ("images and crops", lake.imagery),
        ("labels and masks", lake.labels),
        ("six-band chips", lake.all_tensors),
        ("models", lake.models),
        ("crater maps", lake.all_crater_maps),
        ("tables and figures", lake.all_metrics),
    ):
        print(f"  {what:20} {path}")


def scene_to_map(lake: Lake) -> str:
    """Choose an observation that the models were not trained on."""
    truth = read_table(lake.sample / GROUND_TRUTH, "make demo", ["observation", "split"])
    return str(truth.loc[truth["split"] == "test", "observation"].min())


def print_map(lake: Lake, scene: str) -> None:
    """Print how far the map of a scene is from the truth, and where it lies."""
    folder = lake.crater_map(scene)
    made = read_json(folder / PROVENANCE)
    smallest = made["smallest_px"]
    mapped = read_table(folder / CRATERS_TABLE, "crater_maps", ["x_px", "y_px", "diameter_px"])
    truth = read_table(lake.sample / GROUND_TRUTH, "make demo").query("observation == @scene")
    said, true = (
        Circles.in_plane(*(table[name].to_numpy(float) for name in names))
        for table, names in ((mapped, ("x_px", "y_px", "diameter_px")), (truth, ("x", "y", "diameter")))
    )
    compared = compare(said, true, smallest)
    print(f"\nThe whole scene {scene}, which the model was not trained on, against all its craters")
    print(f"  {made['counted_m2'] / 1e6:.3g} km2 counted, {compared.true} craters of {smallest:.0f} pixels or more")
    for name in ("precision", "recall"):
        low, high = compared.interval(name)
        print(f"  {name:9} {getattr(compared, name):.2f} [{low:.2f}, {high:.2f}]")
    mean, spread = 100 * (math.exp(compared.size) - 1), 100 * compared.size_spread
    print(f"  diameters {mean:+.1f} % on average, with a spread of {spread:.0f} %")
    print(f"  to look at it: {folder / PAGE}")


def print_frequencies(lake: Lake, scene: str) -> None:
    """Print densities of craters, as counted and corrected, beside the truth."""
    made = read_json(lake.crater_map(scene) / PROVENANCE)
    (ground,) = (ground for ground in read_catalogue(lake).scenes if ground.scene == scene)
    path = lake.metrics(FREQUENCIES)
    table = read_table(path, FREQUENCIES).query("not partial")
    report = read_report(lake, FREQUENCIES, read_provenance(path)["key"])
    complete = report.tables["complete from"]["complete_m"].max() if report else math.nan
    truth = read_table(lake.sample / GROUND_TRUTH, "make demo").query("observation == @scene")
    sizes = table["diameter_from_m"].drop_duplicates().sort_values()
    for at_least in pd.concat([sizes.head(1), sizes[sizes >= complete].head(1)]).unique():
        what = "where the count is complete" if at_least >= complete else "where the count is not complete"
        print(f"\nCraters of {at_least:.1f} m or more per km2, {what}, with 68 % intervals")
        for row in table[table["diameter_from_m"] == at_least].to_dict("records"):
            counts = "as counted" if row["counts"] == "raw" else f"corrected, {row['counts']}"
            values = [row[f"at_least_per_km2{end}"] for end in ("", "_low", "_high")]
            print(f"  {counts:21} {values[0]:.0f} [{values[1]:.0f}, {values[2]:.0f}]")
        number = int((truth["diameter"] * ground.pixel_m >= at_least).sum())
        print(f"  {'in truth':21} {number * made['counted_share'] / made['counted_m2'] * 1e6:.0f}")
    print(f"  plots: {lake.figure(FREQUENCIES, FREQUENCIES)}")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--lake", default=os.environ.get("MARS_LAKE") or DEFAULT_LAKE, help="default: MARS_LAKE or data_lake"
    )
    try:
        run_demo(Lake.at(parser.parse_args().lake))
    except MarsError as error:
        print(f"\nmake demo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
