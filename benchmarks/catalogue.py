"""All scenes of a lake as one catalogue: a million craters in 300 scenes, a tenth of whose ground overlaps.

Measures ``crater_catalogue`` with all its files, the same again when nothing changed, and reading it back. Scenes lie
in rows of 20 and are shifted against each other by up to 100 m; eight of ten craters are found in each. No model is
needed.

    python benchmarks/catalogue.py
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from measure import measure, record, report, verdict

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from mars_assets.lake import Lake

    Float64 = npt.NDArray[np.float64]

WIDTH, HEIGHT, PIXEL = 6_000.0, 20_000.0, 0.5
STEP = 0.9 * WIDTH
ROW = 20
RECALL, SHIFT, SMALLEST = 0.8, 100.0, 4.0


def write_lake(lake: Lake, scenes: int, craters: int) -> None:
    """Write what the catalogue reads of each scene's map."""
    import numpy as np

    rng = np.random.default_rng(0)
    for row in range(-(-scenes // ROW)):
        number = min(ROW, scenes - ROW * row)
        across = STEP * (number - 1) + WIDTH
        count = round(craters / scenes * across / WIDTH / RECALL)
        x, y = rng.uniform(0, across, count), rng.uniform(0, HEIGHT, count)
        true = np.column_stack([x, y, SMALLEST * rng.uniform(1e-3, 1, count) ** -0.5])
        for column in range(number):
            left = STEP * column
            inside = (true[:, 0] > left) & (true[:, 0] < left + WIDTH) & (rng.uniform(size=count) < RECALL)
            found = true[inside] + rng.normal(0, 0.05, (inside.sum(), 3)) * true[inside, 2:]
            found[:, :2] += rng.uniform(-SHIFT, SHIFT, 2) - [left, 0]
            write_scene(lake, f"S{row:02d}_{column:02d}", (left, row), found)


def write_scene(lake: Lake, name: str, place: tuple[float, int], craters: Float64) -> None:
    """Write a scene on a map that is true at the equator.

    Args:
        lake: into which.
        name: of the scene.
        place: metres to the east, and the number of the row.
        craters: shape (n, 3): x and y from the lower left corner, and diameter, in metres.
    """
    import numpy as np
    import pandas as pd
    import shapely
    from geopandas import GeoDataFrame

    from mars_assets.craters.crater_map import IAU_RADIUS
    from mars_assets.craters.formats.writing import write_layer
    from mars_assets.imagery.geolocation import ground_diameters, projected_positions
    from mars_assets.lake import CRATERS_TABLE, PROVENANCE
    from mars_assets.storage.files import write_json, write_table

    crs = f"+proj=eqc +lat_ts=0 +lon_0=0 +R={IAU_RADIUS}"
    left, bottom = place[0] - 50_000, 30_000.0 * (place[1] - 7)
    x, y, diameter = craters.T
    longitude, latitude = projected_positions(crs, left + x, bottom + y)
    metres = ground_diameters(crs, left + x, bottom + y, np.pi / 4 * diameter**2)
    likely = np.linspace(0.3, 1, len(x))
    table = {
        "crater_id": [f"{name}_{number}" for number in range(len(x))],
        "longitude": longitude,
        "latitude": latitude,
        "diameter_px": diameter / PIXEL,
        "diameter_iau_m": metres,
        "angle": 180 * (likely - 0.3),
        **dict.fromkeys(("axis_ratio", "roundness", "rim_coverage", "confidence", "probability"), likely),
        "cut": False,
    }
    folder = lake.crater_map(name)
    write_table(folder / CRATERS_TABLE, pd.DataFrame(table))
    ring = shapely.segmentize(shapely.box(left, bottom, left + WIDTH, bottom + HEIGHT), HEIGHT / 1024)
    area = shapely.transform(ring, lambda points: np.degrees(points / IAU_RADIUS))
    frame = GeoDataFrame({"area_km2": [0.0]}, geometry=[area], crs=f"+proj=longlat +R={IAU_RADIUS}")
    write_layer(folder / f"{name}_AREA.shp", frame, folder / f"{name}_AREA.shp", driver="ESRI Shapefile")
    low, high = (np.sin((bottom + side) / IAU_RADIUS) for side in (0, HEIGHT))
    grid = {"lines": HEIGHT / PIXEL, "samples": WIDTH / PIXEL, "crs": crs}
    about = {
        "scene": name,
        "key": name,
        "model": {"name": "seg_model", "version": "v1"},
        "smallest_px": SMALLEST / PIXEL,
        "counted_m2": float(IAU_RADIUS * WIDTH * (high - low)),
        "craters": len(x),
        "grid": grid | {"transform": [PIXEL, 0, left, 0, -PIXEL, bottom + HEIGHT]},
    }
    write_json(folder / PROVENANCE, about)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repeats", type=int, default=1)
    options.add_argument("--craters", type=int, default=1_000_000)
    options.add_argument("--scenes", type=int, default=300)
    options.add_argument("--side", help=argparse.SUPPRESS)
    options.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    from mars_assets.craters.catalogue_files import read_catalogue, update_catalogue
    from mars_assets.lake import Lake
    from mars_assets.progress import Progress

    if chosen.side:
        lake = Lake.at(chosen.work)
        if chosen.side == "all":
            lake.crater_catalogue(".json").unlink(missing_ok=True)
        report(lambda: read_catalogue(lake) if chosen.side == "read" else update_catalogue(lake, Progress(say)))
        return 0
    work = Path(tempfile.mkdtemp(prefix="mars-bench-"))
    try:
        start = time.perf_counter()
        write_lake(Lake.at(work), chosen.scenes, chosen.craters)
        print(f"scenes written in {time.perf_counter() - start:.0f} s")
        common = ["--work", str(work)]
        found = measure(Path(__file__), dict.fromkeys(("all", "unchanged", "read"), common), chosen.repeats)
        catalogue = read_catalogue(Lake.at(work))
    finally:
        shutil.rmtree(work)
    several = catalogue.craters["scenes"].str.contains(" ").sum()
    print(f"{len(catalogue.craters)} craters, {several} of them in several of {len(catalogue.scenes)} scenes")
    about = {"scenes": len(catalogue.scenes), "seconds": found["all"].seconds, "megabytes": found["all"].megabytes}
    record(Path(__file__), {str(len(catalogue.craters)): about})
    results = [
        verdict("the catalogue with all files, s", found["all"].seconds, 60, at_least=False),
        verdict("the same, unchanged, s", found["unchanged"].seconds, 1, at_least=False),
        verdict("reading it, s", found["read"].seconds, 10, at_least=False),
    ]
    return 0 if all(results) else 1


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
