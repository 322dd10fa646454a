"""Cutting of crops from a synthetic single-tile JP2 like HiRISE's (10 bits, 3 bands, 8000 x 12000).

Measures ours, writing included, against rasterio windows in row order and bare glymur strips, which write nothing; and
a scene four times as tall. GDAL is left to decode with as many threads as it likes, which is one for every CPU; a
single one is measured for comparison.

What mars_assets/imagery/jpeg2000.py is worth is measured by cutting the same scenes, writing included, without it: with
GDAL and with glymur, both with all threads. ``--readers`` measures only that.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from measure import measure, report, verdict

SIZE = 512
BANDS = 3


def terrain(rng: np.random.Generator, lines: int, samples: int) -> np.ndarray:
    """Fractal noise inside a slanted swath, 0 outside; uint16 (BANDS, lines, samples)."""
    from scipy.ndimage import zoom

    base = 0.05 * rng.standard_normal((lines, samples), dtype=np.float32)
    for octave, step in enumerate((1500, 375, 94, 24, 6)):
        coarse = rng.standard_normal((lines // step + 2, samples // step + 2)).astype(np.float32)
        base += 0.5**octave * zoom(coarse, step, order=1)[:lines, :samples]
    base /= base.std()
    rows, columns = np.ogrid[:lines, :samples]
    margin = 3 * samples // 16
    left = margin * rows / lines
    inside = (columns > left) & (columns < left + samples - margin - samples // 40)
    noise = [rng.standard_normal(base.shape, dtype=np.float32) * 4 for _ in range(BANDS)]
    levels = ((420, 70), (500, 90), (330, 50))
    dn = np.stack([mean + spread * base + n for (mean, spread), n in zip(levels, noise, strict=True)])
    return np.where(inside, dn.clip(3, 1020), 0).astype(np.uint16)


def make_scene(path: Path, lines: int, samples: int) -> None:
    """Pieces of terrain one above the other, so that a tall scene costs no more memory to make."""
    import rasterio
    from rasterio.shutil import copy

    plain = path.with_suffix(".tif")
    profile = {
        "driver": "GTiff", "width": samples, "height": lines, "count": BANDS, "dtype": "uint16", "tiled": True,
        "blockxsize": 512, "blockysize": 512, "crs": "IAU_2015:49910",
        "transform": rasterio.Affine(0.25, 0, 0, 0, -0.25, 0),
    }  # fmt: skip
    piece = 12000
    with rasterio.open(plain, "w", **profile) as file:
        for top in range(0, lines, piece):
            height = min(piece, lines - top)
            file.write(terrain(np.random.default_rng(top), height, samples), window=((top, top + height), (0, samples)))
    with rasterio.Env(GDAL_NUM_THREADS="ALL_CPUS", GDAL_CACHEMAX=512 * 2**20):
        copy(
            plain, path, driver="JP2OpenJPEG", BLOCKXSIZE=samples, BLOCKYSIZE=lines, NBITS=10, RESOLUTIONS=6,
            PRECINCTS="{256,256},{256,256},{128,128}", PROGRESSION="RPCL", PLT="YES", REVERSIBLE="YES", QUALITY="100",
            YCC="NO",
        )  # fmt: skip
    plain.unlink()


def ours(scene: Path, without: str = "") -> None:
    """Cut the scene; with GDAL if ``without`` is "glymur", with glymur alone if it is "packets"."""
    from mars_assets.imagery import scene as reading
    from mars_assets.imagery.crops import Source, cut_crops
    from mars_assets.imagery.jpeg2000 import Codestream

    if without == "glymur":
        reading.load_glymur = lambda: None
    if without == "packets":
        setattr(Codestream, "of", lambda path: None)  # noqa: B010 - a class method
    with tempfile.TemporaryDirectory(dir=scene.parent) as folder:
        manifest = cut_crops(Source(scene, None, "ESP_990000_1800", "RGB.NOMAP"), Path(folder) / "crops")
    assert manifest["kept"].any()


def rasterio_windows(scene: Path, **options: str) -> None:
    import rasterio

    with rasterio.Env(GDAL_CACHEMAX=512 * 2**20, **options), rasterio.open(scene) as file:
        for row in range(0, file.height - SIZE + 1, SIZE):
            for column in range(0, file.width - SIZE + 1, SIZE):
                file.read(window=((row, row + SIZE), (column, column + SIZE)))


def glymur_strips(scene: Path, rows: int) -> None:
    from mars_assets.imagery.scene import load_glymur

    glymur = load_glymur()
    assert glymur is not None, "no glymur with an OpenJPEG library"
    codec = glymur.Jp2k(str(scene))
    for top in range(0, codec.shape[0], rows):
        codec[top : min(top + rows, codec.shape[0]), :]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=12000)
    parser.add_argument("--samples", type=int, default=8000)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--folder", type=Path, help="where scenes are made and kept; a temporary one by default")
    parser.add_argument("--no-tall", action="store_true", help="without the scene four times as tall")
    parser.add_argument("--readers", action="store_true", help="only the three readers that scenes can be cut with")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--scene", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        sides = {
            "ours": lambda: ours(options.scene),
            "cut with GDAL": lambda: ours(options.scene, "glymur"),
            "cut with plain glymur": lambda: ours(options.scene, "packets"),
            "rasterio windows": lambda: rasterio_windows(options.scene),
            "rasterio, one thread": lambda: rasterio_windows(options.scene, GDAL_NUM_THREADS="1"),
            "glymur, 2048 rows": lambda: glymur_strips(options.scene, 2048),
            "glymur, 4096 rows": lambda: glymur_strips(options.scene, 4096),
        }
        report(sides[options.side.removesuffix(", tall")])
        return 0

    folder = options.folder or Path(tempfile.mkdtemp(prefix="mars-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        scenes = {}
        for name, lines in (("plain", options.lines), ("tall", 4 * options.lines)):
            if name == "tall" and options.no_tall:
                continue
            scenes[name] = folder / f"{name}-{lines}x{options.samples}.jp2"
            if not scenes[name].exists():
                print(f"making {scenes[name].name}", flush=True)
                make_scene(scenes[name], lines, options.samples)
            print(f"{scenes[name].name}: {scenes[name].stat().st_size / 1e6:.0f} MB")
        plain = ["--scene", str(scenes["plain"])]
        readers = ["ours", "cut with GDAL", "cut with plain glymur"]
        bare = ["glymur, 2048 rows", "glymur, 4096 rows", "rasterio windows", "rasterio, one thread"]
        arguments = dict.fromkeys(readers if options.readers else [*readers, *bare], plain)
        if "tall" in scenes:
            arguments |= {f"{reader}, tall": ["--scene", str(scenes["tall"])] for reader in readers}
        found = measure(Path(__file__), arguments, options.repeats)
    finally:
        if options.folder is None:
            shutil.rmtree(folder)
    for name, side in found.items():
        print(f"{name:28} {side.seconds:8.1f} s {side.megabytes / 1024:6.2f} GB")
    if options.readers:
        return 0
    us = found["ours"]
    least = min(found["glymur, 2048 rows"].seconds, found["glymur, 4096 rows"].seconds)
    holds = [
        verdict("times as fast as rasterio windows, as it comes", found["rasterio windows"].seconds / us.seconds, 3),
        verdict("of bare glymur's speed", least / us.seconds, 0.9),
        verdict("peak memory, GB", us.megabytes / 1024, 2, at_least=False),
    ]
    ratio = found["rasterio, one thread"].seconds / us.seconds
    print(f"times as fast as rasterio windows with GDAL_NUM_THREADS=1: {ratio:.2f} (no bound was set)")
    if "ours, tall" in found:
        tall = found["ours, tall"]
        holds += [
            verdict("time of a scene 4 times as tall, over 4", tall.seconds / us.seconds / 4, 1.15, at_least=False),
            verdict("its peak memory over that of the other", tall.megabytes / us.megabytes, 1.1, at_least=False),
        ]
    return 0 if all(holds) else 1


if __name__ == "__main__":
    sys.exit(main())
