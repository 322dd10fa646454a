"""A map of a real CTX tile beside six people, judged by an expert.

Maps the tile with the model in use in a lake, and compares map and annotators with the expert's craters, one to one by
circles of an intersection over union of at least 0.5. The model must not have been trained on crops of the tile: of
``craters.v2``, tile K is in the validation part, D and L are in the training part.

    python benchmarks/annotators.py --lake LAKE
    python benchmarks/annotators.py --lake LAKE --tile MC11E-L

Needs the data of ``MARS_SHARED`` (default ``../shared``).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from mars_assets.craters.comparison import Circles, Comparison, compare
from mars_assets.lake import CRATERS_TABLE, Lake
from mars_assets.models.versions import current_model
from mars_assets.progress import Progress
from mars_assets.segmentation.maps import MapRequest, map_scene
from mars_assets.training.compute import choose_compute

SMALLEST = 10.0
"""Diameter in pixels from which craters count."""
MAPPED_FROM = 6.0
"""Diameter in pixels from which they are mapped, since people differ in sizes."""


def boxes(table: pd.DataFrame) -> Circles:
    """Circles in boxes."""
    x, y = ((table[f"{axis}min"] + table[f"{axis}max"]).to_numpy(float) / 2 for axis in "xy")
    sides = (table["xmax"] - table["xmin"] + table["ymax"] - table["ymin"]).to_numpy(float)
    return Circles.in_plane(x, y, sides / 2)


def mapped(lake: Lake, tile: Path) -> pd.DataFrame:
    """The map's craters; the folder of its files is removed."""
    with tempfile.TemporaryDirectory(prefix="mars-bench-") as out:
        request = MapRequest(tile, MAPPED_FROM)
        map_scene(current_model(lake, "seg_model"), request, Path(out), choose_compute(), Progress(print))
        return pd.read_parquet(Path(out) / CRATERS_TABLE)


def row(who: str, found: Comparison) -> dict[str, object]:
    """A line of the table."""
    low, high = found.interval("recall")
    return {
        "who": who,
        "precision": f"{found.precision:.2f}",
        "recall": f"{found.recall:.2f} [{low:.2f}, {high:.2f}]",
        "F1": f"{found.f1:.3f}",
        "said": found.said,
        "of": found.true,
        "D": f"{100 * found.size:+.1f} ± {100 * found.size_spread:.0f} %",
        "off": f"{found.off:.3f} D",
    }


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--lake", required=True, help="lake with a seg_model in use")
    options.add_argument("--tile", default="MC11E-K", choices=["MC11E-D", "MC11E-K", "MC11E-L"])
    chosen = options.parse_args()
    folder = Path(os.environ.get("MARS_SHARED", "../shared")) / "data/scenes/ctx_multi_annotator"
    labels = pd.read_csv(folder / "labels.csv").query("tile == @chosen.tile")
    expert = boxes(labels[labels["by"] == "expert"])
    craters = mapped(Lake.at(chosen.lake), folder / f"{chosen.tile}.png")
    rows = []
    probable = craters["probability"].fillna(craters["confidence"])
    for least in (0.0, *np.arange(0.1, 1, 0.1).round(1)):
        part = craters[probable >= least]
        said = Circles.in_plane(*(part[name].to_numpy(float) for name in ("x_px", "y_px", "diameter_px")))
        rows.append(
            row("the map" if least == 0 else f"the map, probability from {least:g}", compare(said, expert, SMALLEST))
        )
    for by, own in labels[labels["by"].str.startswith("annotator")].groupby("by"):
        rows.append(row(str(by), compare(boxes(own), expert, SMALLEST)))
    print(pd.DataFrame(rows).to_string(index=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
