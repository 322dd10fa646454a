"""Maps of whole scenes by the model that a lake has, on two threads.

Measures ``mars-assets map`` on a scene of one band against the bare network on as many windows already in memory, its
peak memory at a quarter of the height and at all of it, the merging of a million detections, and the command on a tile
of 2000 x 2000 pixels, from its start to the page opened in Chromium. The scene is one of the sample's generator,
repeated. With the default size a round takes a quarter of an hour.

    make demo
    python benchmarks/scenes.py --lake data_lake
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measure import compute, measure, parser, report, surroundings, verdict

THREADS = 2
TILE = 2000
MEASURED_WINDOWS = 256
DETECTIONS = 1_000_000


def write_scene(path: Path, lines: int, samples: int) -> None:
    """A map-projected GeoTIFF of synthetic Mars, uint8, one band."""
    import numpy as np
    import rasterio
    from rasterio.windows import Window

    from mars_assets.sample.terrain import draw_spec, render_scene

    scene = render_scene(draw_spec(np.random.default_rng(1), "benchmark", TILE, TILE))
    low, high = np.percentile(scene.iof[1], (0.1, 99.9))
    tile = np.clip((scene.iof[1] - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "height": lines, "width": samples}
    profile |= {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate"}
    crs = rasterio.CRS.from_string("+proj=eqc +lat_ts=0 +lon_0=180 +R=3396190 +units=m")
    with rasterio.open(path, "w", **profile, crs=crs, transform=rasterio.Affine(6, 0, 0, 0, -6, 0)) as file:
        for top in range(0, lines, TILE):
            for left in range(0, samples, TILE):
                height, width = min(TILE, lines - top), min(TILE, samples - left)
                file.write(tile[:height, :width], 1, window=Window(left, top, width, height))


def current(lake: Path) -> Any:
    from mars_assets.lake import Lake
    from mars_assets.models.versions import current_model

    return current_model(Lake.at(lake), "seg_model")


def mapped(lake: Path, work: Path, scene: str) -> None:
    from mars_assets.segmentation.maps import MapRequest, map_scene

    model, out = current(lake), work / f"map of {scene}"
    shutil.rmtree(out, ignore_errors=True)
    report(lambda: map_scene(model, MapRequest(work / f"{scene}.tif", 10.0), out, compute(THREADS)))


def network(lake: Path, windows: int, *, in_threads: bool) -> None:
    """The network alone on windows that are in memory and normalised, in batches of the same size.

    Args:
        lake: whose model it is.
        windows: number of windows.
        in_threads: several batches at once, as maps compute them; otherwise one after the other on all threads.
    """
    import torch

    from mars_assets.segmentation.scenes import SceneNetwork

    ours = SceneNetwork(current(lake).folder, compute(THREADS))
    batch = torch.randn(ours.batch, 6, ours.side, ours.side).to(memory_format=torch.channels_last)
    meta = [{"img_shape": batch.shape[2:]}]

    def once(_: int) -> None:
        with torch.inference_mode(), compute(THREADS).autocast():
            ours.segmenter.encode_decode(batch, meta)

    passes = range(0, min(windows, MEASURED_WINDOWS), ours.batch)
    if in_threads:
        with ours.threads() as threads:
            list(threads.map(once, passes))
            report(lambda: list(threads.map(once, passes)))
    else:
        for number in passes:
            once(number)
        report(lambda: list(map(once, passes)))


def merged() -> None:
    import numpy as np

    from mars_assets.craters.merging import merge

    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 200_000, (2, DETECTIONS))
    diameter = 8 * rng.uniform(0.001, 1, DETECTIONS) ** (-1 / 1.6)
    confidence = rng.uniform(0.05, 1, DETECTIONS)
    report(lambda: merge(x, y, diameter, confidence))


def from_command_to_page(lake: Path, work: Path) -> None:
    """The command as users run it, and the page in a browser."""
    from playwright.sync_api import sync_playwright

    out = work / "page"
    shutil.rmtree(out, ignore_errors=True)

    def run() -> None:
        command = [str(Path(sys.executable).with_name("mars-assets")), "--lake", str(lake), "map"]
        subprocess.run([*command, str(work / "tile.tif"), "--out", str(out)], check=True)  # noqa: S603 - our own
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page()
            page.goto((out / "map.html").as_uri())
            page.wait_for_selector("canvas")
            browser.close()

    report(run)


def windows_of(lake: Path, lines: int, samples: int) -> int:
    """Count the windows of a scene, all levels."""
    from mars_assets.craters.scan import count_windows
    from mars_assets.segmentation.scenes import SceneNetwork

    return count_windows((lines, samples), SceneNetwork(current(lake).folder, compute(THREADS)).side)


def main() -> int:
    options = parser(__doc__, repeats=1)
    options.add_argument("--lake", type=Path, default=Path("data_lake"), help="lake with a seg_model in use")
    options.add_argument("--lines", type=int, default=20_000)
    options.add_argument("--samples", type=int, default=10_000)
    options.add_argument("--windows", type=int, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    lake = chosen.lake.resolve()
    if chosen.side:
        match chosen.side:
            case "network" | "network in threads" as name:
                network(lake, chosen.windows, in_threads=name != "network")
            case "merging":
                merged()
            case "command":
                from_command_to_page(lake, chosen.work)
            case scene:
                mapped(lake, chosen.work, scene)
        return 0
    surroundings(chosen, THREADS)
    work = Path(tempfile.mkdtemp(prefix="mars-bench-"))
    try:
        start = time.perf_counter()
        write_scene(work / "scene.tif", chosen.lines, chosen.samples)
        write_scene(work / "quarter.tif", chosen.lines // 4, chosen.samples)
        write_scene(work / "tile.tif", TILE, TILE)
        print(f"scenes written in {time.perf_counter() - start:.0f} s")
        windows = windows_of(lake, chosen.lines, chosen.samples)
        sides = ("network", "network in threads", "quarter", "scene", "merging", "command")
        common = ["--work", str(work), "--lake", str(lake), "--windows", str(windows)]
        found = measure(Path(__file__), dict.fromkeys(sides, common), chosen.repeats)
    finally:
        shutil.rmtree(work)
    times = windows / min(windows, MEASURED_WINDOWS)
    alone, in_threads = (found[name].seconds * times for name in ("network", "network in threads"))
    pixels = chosen.lines * chosen.samples
    print(f"\n{chosen.lines} x {chosen.samples} pixels, {windows} windows:")
    print(
        f"{pixels / found['scene'].seconds / 1e6:.2f} megapixels a second, the bare network {pixels / alone / 1e6:.2f}"
    )
    print(f"the whole map over the bare network in as many threads: {in_threads / found['scene'].seconds:.2f}")
    results = [
        verdict("the whole map over the bare network: speed", alone / found["scene"].seconds, 0.85),
        verdict("peak memory, GB", found["scene"].megabytes / 1000, 3, at_least=False),
        verdict(
            "memory over that at a quarter of the height",
            found["scene"].megabytes / found["quarter"].megabytes,
            1.1,
            at_least=False,
        ),
        verdict(f"merging {DETECTIONS} detections, s", found["merging"].seconds, 60, at_least=False),
        verdict(
            f"from the command on {TILE} x {TILE} pixels to the page, s", found["command"].seconds, 60, at_least=False
        ),
    ]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
