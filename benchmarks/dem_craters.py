"""Maps of a real elevation model beside Robbins and Hynek's catalogue.

Maps seven crops of the DEM of MOLA and HRSC, 256 pixels wide, with the model in use in a lake, and compares them with
the craters of the catalogue, one to one by circles of an intersection over union of at least 0.5. Heights are no
images: it shows what a model of images makes of them. None of the lake's own images is of these crops.

    python benchmarks/dem_craters.py --lake LAKE

Needs the data of ``MARS_SHARED`` (default ``../shared``).
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
from annotators import MAPPED_FROM, SMALLEST, mapped, row

from mars_assets.craters.agreement import compare_lists
from mars_assets.craters.catalogues.crater_list import Counted, CraterList, crater_table
from mars_assets.lake import Lake


def robbins(folder: Path) -> CraterList:
    """The catalogue's craters, in pixels of the crops."""
    table = pd.read_csv(folder / "craters.csv").rename(columns={"crop": "image"})
    columns: dict[str, object] = {name: table[name] for name in ("image", "x_px", "y_px", "diameter_px")}
    return CraterList("Robbins and Hynek", crater_table(columns, len(table)), [Counted(smallest_px=SMALLEST)])


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--lake", required=True, help="lake with a seg_model in use")
    chosen = options.parse_args()
    folder = Path(os.environ.get("MARS_SHARED", "../shared")) / "data/scenes/dem_robbins"
    theirs = robbins(folder)
    crops = sorted(theirs.craters["image"].unique())
    maps = [mapped(Lake.at(chosen.lake), folder / f"{crop}.png") for crop in crops]
    craters = pd.concat([one.craters.assign(image=crop) for one, crop in zip(maps, crops, strict=True)])
    ours = replace(maps[0], craters=craters, counted=[Counted(smallest_px=MAPPED_FROM)])
    rows = [row("all crops", compare_lists(ours, theirs).row("all"))]
    for crop in crops:
        alone, true = (replace(one, craters=one.craters[one.craters["image"] == crop]) for one in (ours, theirs))
        rows.append(row(crop, compare_lists(alone, true).row("all")))
    print(pd.DataFrame(rows).to_string(index=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
