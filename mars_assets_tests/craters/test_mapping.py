from pathlib import Path

import numpy as np
import psutil
import pytest
import rasterio
from joblib import cpu_count
from pyproj import Geod, Transformer

from mars_assets.craters.crater_map import CraterMap
from mars_assets.craters.levels import Level, RowFile, halved
from mars_assets.craters.mapping import Found, counted_area, find_craters, map_of
from mars_assets.craters.probability import write_probability
from mars_assets.craters.scan import LevelMap, quantized, scan
from mars_assets.errors import MarsError
from mars_assets.imagery.grid import Grid
from mars_assets_tests.craters.oracle import FlatScene, Known, Oracle, draw
from mars_assets_tests.disk import largest_file

RADIUS = 3_396_190.0


def _matched(found: Found, craters: Known) -> tuple[np.ndarray, int]:
    """Relative errors of the diameters, and the number of craters that were found twice or are none."""
    rows = np.array([(crater.x, crater.y, crater.diameter) for crater in found.craters])
    used, errors = set(), []
    for x, y, diameter in craters:
        apart = np.hypot(rows[:, 0] - x, rows[:, 1] - y) / diameter + np.abs(np.log(rows[:, 2] / diameter))
        best = int(apart.argmin())
        assert apart[best] < 0.15, f"the crater of {diameter:.1f} pixels at {x:.1f}, {y:.1f} was not found"
        assert best not in used
        used.add(best)
        errors.append(rows[best, 2] / diameter - 1)
    return np.array(errors), len(rows) - len(used)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_every_crater_is_one_row_wherever_windows_begin(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    shape = (1200, 900)
    craters = draw(rng, shape, 90)
    errors = []
    for shift in ((0, 0), (64, 64), tuple(rng.integers(1, 128, 2).tolist())):
        levels = scan(FlatScene(np.ones(shape, bool)), Oracle(craters), tmp_path / str(shift), shift=shift)
        found, others = _matched(find_craters(levels, 256, 7.0), craters)
        assert others == 0
        errors.append(found)
    # Small craters in others, whose rims lie between pixels, are the least exact.
    assert np.mean(np.abs(errors) <= 0.02) >= 0.98
    assert np.abs(errors).max() <= 0.03
    assert abs(np.mean(errors)) <= 0.005


@pytest.mark.slow
def test_large_scenes_are_outlined_in_several_processes(tmp_path: Path) -> None:
    side, diameters = 4096, np.geomspace(12, 300, 64)
    margins = RowFile(tmp_path / "margins", (side, side, 1))
    y, x = np.indices((512, 512)) + 0.5 - 256
    tiles = [8 * np.tanh((diameter / 2 - np.hypot(x, y)) / 4) for diameter in diameters]
    for row in range(8):
        strip = np.concatenate(tiles[8 * row : 8 * row + 8], axis=1)
        margins.write(512 * row, quantized(strip, np.ones(strip.shape, bool))[..., None])
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    levels = [LevelMap(1, (side, side), margins, FlatScene(np.ones((1, 1), bool)))]
    found = find_craters(levels, 512, 10.0).craters
    assert len({child.pid for child in psutil.Process().children(recursive=True)} - before) >= 2 or cpu_count() == 1
    assert [crater.diameter for crater in found] == pytest.approx(diameters[::-1], rel=0.01)
    places = {(round(crater.x), round(crater.y)) for crater in found}
    assert places == {(512 * column + 256, 512 * row + 256) for column in range(8) for row in range(8)}


def _map(grid: Grid, good: np.ndarray, craters: Known, folder: Path) -> tuple[CraterMap, list[LevelMap], Found]:
    levels = scan(FlatScene(good), Oracle(craters), folder)
    found = find_craters(levels, 256, 8.0)
    return map_of("scene", grid, levels, found, 8.0), levels, found


_PLACES = {
    "RDR": ("+proj=eqc +lat_ts=45 +lon_0=180 +R=3392000 +units=m", (25.0, 0, -3e5, 0, -25.0, 2.7e6)),
    "true at the equator": ("+proj=eqc +lon_0=0 +R=3396190 +units=m", (25.0, 0, 5e6, 0, -25.0, 4e5)),
    "the other side": ("+proj=eqc +lon_0=180 +R=3396190 +units=m", (25.0, 0, -1.2e4, 0, -25.0, 2e4)),
    "pole": ("+proj=stere +lat_0=-90 +R=3396190 +units=m", (25.0, 0, -1e4, 0, -25.0, 1.1e4)),
    "turned": ("+proj=stere +lat_0=20 +lon_0=77 +R=3396190 +units=m", (20.0, 15.0, 0, 15.0, -20.0, 0)),
    "south up": ("+proj=stere +lat_0=20 +lon_0=77 +R=3396190 +units=m", (25.0, 0, 0, 0, 25.0, 0)),
}


@pytest.mark.parametrize("name", _PLACES)
def test_places_and_sizes_are_those_on_the_ground(name: str, tmp_path: Path) -> None:
    text, transform = _PLACES[name]
    rng = np.random.default_rng(5)
    good = np.ones((700, 600), bool)
    # Ellipses that are circles on the ground, where the projection is not conformal, are not drawn: only nearly square
    # pixels get here.
    craters = draw(rng, good.shape, 25, largest=200)
    crs = rasterio.CRS.from_string(text).to_wkt()
    made, _, _ = _map(Grid(700, 600, crs, transform), good, craters, tmp_path)
    radius = float(text.split("+R=")[1].split()[0])
    geod = Geod(a=radius, b=radius)
    to_degrees = Transformer.from_crs(text, f"+proj=longlat +R={radius}", always_xy=True)
    affine = rasterio.Affine(*transform)
    rows = made.craters
    assert len(rows) == len(craters)
    for x, y, diameter in craters:
        row = rows.iloc[(np.hypot(rows["x_px"] - x, rows["y_px"] - y) + abs(rows["diameter_px"] - diameter)).argmin()]
        longitude, latitude = to_degrees.transform(*(affine @ (x, y)))
        _, _, off = geod.inv(longitude, latitude, row["longitude"], row["latitude"])
        assert off < 0.02 * row["diameter_m"] + 5
        ends = [
            to_degrees.transform(*(affine @ (x + dx, y + dy)))
            for dx, dy in np.array([(-1, 0), (1, 0), (0, -1), (0, 1)]) * diameter / 2
        ]
        across, along = (geod.inv(*ends[a], *ends[a + 1])[2] for a in (0, 2))
        assert row["diameter_m"] == pytest.approx(np.sqrt(across * along), rel=0.025)
        assert row["diameter_iau_m"] == pytest.approx(row["diameter_m"] * RADIUS / radius, rel=1e-9)
    assert (rows["longitude"].between(0, 360, inclusive="left")).all()
    assert (np.diff(rows["diameter_px"]) <= 0).all()
    corners = [(4, 4), (596, 4), (596, 696), (4, 696)]
    ring = [to_degrees.transform(*(affine @ corner)) for corner in _dense(corners)]
    area, _ = geod.polygon_area_perimeter(*zip(*ring, strict=True))
    assert made.counted_m2 == pytest.approx(min(abs(area), 4 * np.pi * radius**2 - abs(area)), rel=1e-5)


def _dense(corners: list[tuple[float, float]]) -> list[np.ndarray]:
    sides = zip(corners, [*corners[1:], corners[0]], strict=True)
    return [point for a, b in sides for point in np.linspace(a, b, 200, endpoint=False)]


def test_without_a_projection_there_are_pixels(tmp_path: Path) -> None:
    good = np.ones((300, 300), bool)
    made, _, _ = _map(Grid(300, 300, None, None), good, [(150.0, 140.0, 60.0)], tmp_path)
    (row,) = made.craters.to_dict("records")
    assert (row["x_px"], row["y_px"], row["diameter_px"]) == pytest.approx((150, 140, 60), abs=0.3)
    assert row["crater_id"] == "scene_x150_y140_d60"
    assert np.isnan([row[name] for name in ("longitude", "latitude", "diameter_m", "diameter_iau_m")]).all()
    assert made.counted_m2 is None
    assert made.counted.area == pytest.approx(292**2)


def test_what_was_not_seen_is_not_counted(tmp_path: Path) -> None:
    good = np.ones((600, 500), bool)
    good[:, 300:] = False
    good[100, 100] = False  # smaller than any crater
    craters = [(200.0, 200.0, 80.0), (295.0, 400.0, 60.0)]
    made, _, _ = _map(Grid(600, 500, None, None), good, craters, tmp_path)
    assert made.counted.area == pytest.approx(292 * 592, rel=1e-3)
    inside, border = made.craters.to_dict("records")
    assert (inside["counted"], inside["counted_share"], inside["cut"]) == (True, 1.0, False)
    assert border["cut"]
    assert border["diameter_px"] == pytest.approx(60, rel=0.03)
    assert border["counted_share"] == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("turned", [5, 20, 33, 45, 78])
def test_the_counted_area_of_a_slanted_swath(turned: float, size: int, tmp_path: Path) -> None:
    """Of a scene so large that its area is traced from a reduced one, too."""
    y, x = (np.mgrid[: 700 * size, : 700 * size] + 0.5) / size - 350
    angle = np.radians(turned)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    flat = FlatScene((abs(along) < 250) & (abs(across) < 200))
    levels = [LevelMap(1, flat.shape, RowFile(tmp_path / "unused", (1, 1, 1)), flat)]
    if size > 1:
        half = tuple(side // 2 for side in flat.shape)
        level = Level(tmp_path / "half", half, 1)
        level.write(0, *halved(np.full((*flat.shape, 1), 100, np.uint8), flat.good))
        levels.append(LevelMap(2, half, RowFile(tmp_path / "unused", (1, 1, 1)), level))
    area = counted_area(levels, [], 8.0).area
    assert area == pytest.approx((500 * size - 8) * (400 * size - 8), rel=0.004)


def test_wide_shadows_are_not_counted_unless_in_a_crater(tmp_path: Path) -> None:
    class Shadowed(FlatScene):
        def read(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
            pixels, good = super().read(first, last)
            rows = np.arange(first, last)[:, None]
            columns = np.arange(self.shape[1])
            cliff = (columns > 400) & (columns < 500) & (rows >= 0)
            wall = np.hypot(columns - 200, rows - 200) < 70
            speck = np.hypot(columns - 100, rows - 500) < 15
            pixels[cliff | wall | speck] = 0
            return pixels, good

    good = np.ones((600, 600), bool)
    levels = scan(Shadowed(good), Oracle([(200.0, 200.0, 170.0)]), tmp_path)
    found = find_craters(levels, 256, 8.0)
    made = map_of("scene", Grid(600, 600, None, None), levels, found, 8.0)
    assert made.counted.area == pytest.approx(592 * 592 - 107 * 592, rel=0.01)


def test_a_scene_without_anything(tmp_path: Path) -> None:
    made, _, found = _map(Grid(300, 300, None, None), np.ones((300, 300), bool), [], tmp_path)
    assert found.craters == []
    assert len(made.craters) == 0
    assert made.counted.area == pytest.approx(292**2)


def test_probabilities_are_a_valid_cog(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    good = np.ones((900, 1300), bool)
    good[:200, :100] = False
    craters = draw(rng, good.shape, 30)
    crs = rasterio.CRS.from_string("+proj=eqc +lon_0=180 +R=3396190 +units=m").to_wkt()
    grid = Grid(900, 1300, crs, (6.0, 0.0, 1000.0, 0.0, -6.0, 2000.0))
    _, levels, found = _map(grid, good, craters, tmp_path / "work")
    path = tmp_path / "probability.tif"
    write_probability(path, grid, levels, found)
    with rasterio.open(path) as file:
        stored = file.read(1)
        assert (file.dtypes, file.nodata, file.scales, file.offsets) == (("uint8",), 255, (1 / 254,), (0.0,))
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.overviews(1)
        assert tuple(file.transform)[:6] == grid.transform
        assert rasterio.CRS.from_wkt(crs) == file.crs
    assert np.array_equal(stored == 255, ~good)
    rows, columns = np.mgrid[:900, :1300] + 0.5
    inside = np.zeros(good.shape, bool)
    for x, y, diameter in craters:
        inside |= np.hypot(columns - x, rows - y) < diameter / 2
    assert ((stored > 127) == inside)[good].mean() > 0.99
    assert [other for other in tmp_path.iterdir() if other.name not in ("work", "probability.tif")] == []


def test_a_full_disk_leaves_no_half_probabilities(tmp_path: Path) -> None:
    grid = Grid(60, 64, None, None)
    _, levels, found = _map(grid, np.ones((60, 64), bool), [(30.0, 30.0, 20.0)], tmp_path / "work")
    path, folder = tmp_path / "out" / "whole.tif", tmp_path / "out"
    write_probability(path, grid, levels, found)
    size = path.stat().st_size
    for limit in range(0, size, size // 25):
        with largest_file(limit), pytest.raises(MarsError, match=r"cannot be written|limit"):
            write_probability(folder / "full.tif", grid, levels, found)
        assert list(folder.iterdir()) == [path]
