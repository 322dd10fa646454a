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
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mars_assets.craters.agreement import compare_lists
from mars_assets.craters.catalogues.columns import BOXES, About
from mars_assets.craters.catalogues.crater_list import CraterList
from mars_assets.craters.catalogues.reading import read_craters
from mars_assets.evaluation.statistics import with_interval
from mars_assets.lake import Lake
from mars_assets.models.versions import current_model
from mars_assets.progress import Progress
from mars_assets.segmentation.maps import MapRequest, map_scene
from mars_assets.storage.files import as_rows
from mars_assets.training.compute import choose_compute

SMALLEST = 10.0
"""Diameter in pixels from which craters count."""
MAPPED_FROM = 6.0
"""Diameter in pixels from which they are mapped, since people differ in sizes."""


def labels_of(folder: Path, tile: str) -> CraterList:
    """The craters of a tile that the expert and the annotators marked."""
    about = {
        "columns": {"annotator": "by", "image": "tile"},
        "boxes": {name: name for name in BOXES},
        "reference": "expert",
        "image": tile,
        "smallest": SMALLEST,
    }
    return read_craters(folder / "labels.csv", About.model_validate(about))


def mapped(lake: Lake, tile: Path) -> CraterList:
    """The map's craters; the folder of its files is removed."""
    with tempfile.TemporaryDirectory(prefix="mars-bench-") as out:
        request = MapRequest(tile, MAPPED_FROM)
        map_scene(current_model(lake, "seg_model"), request, Path(out), choose_compute(), Progress(print))
        return read_craters(Path(out))


def row(who: str, found: Mapping[str, Any]) -> dict[str, object]:
    """A line of the table."""
    return {
        "who": who,
        "precision": with_interval(found, "precision"),
        "recall": with_interval(found, "recall"),
        "F1": with_interval(found, "f1"),
        "said": found["ours"],
        "of": found["theirs"],
        "D": f"{100 * np.expm1(found['ln_d']):+.1f} ± {100 * found['ln_d_sd']:.0f} %",
        "off": f"{found['off']:.3f} D",
    }


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--lake", required=True, help="lake with a seg_model in use")
    options.add_argument("--tile", default="MC11E-K", choices=["MC11E-D", "MC11E-K", "MC11E-L"])
    chosen = options.parse_args()
    folder = Path(os.environ.get("MARS_SHARED", "../shared")) / "data/scenes/ctx_multi_annotator"
    theirs = labels_of(folder, chosen.tile)
    ours = mapped(Lake.at(chosen.lake), folder / f"{chosen.tile}.png")
    probable = ours.craters["probability"].fillna(ours.craters["confidence"])
    agreement = compare_lists(ours, theirs)
    rows = [row("the map", agreement.row("all"))]
    alone = replace(theirs, craters=theirs.craters[theirs.craters["annotator"] == "expert"], reference="")
    for least in np.arange(0.1, 1, 0.1).round(1):
        part = replace(ours, craters=ours.craters[probable >= least])
        rows.append(row(f"the map, probability from {least:g}", compare_lists(part, alone).row("all")))
    people = agreement.rows[(agreement.rows["group"] == "annotator") & (agreement.rows["against"] == "expert")]
    rows += [row(one["value"], one) for one in as_rows(people) if one["value"].startswith("annotator")]
    print(pd.DataFrame(rows).to_string(index=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
