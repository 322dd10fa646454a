"""Any raster as RGB on a grid that is square on the ground."""

import itertools
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image
from pyproj import CRS, Proj

from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.imagery.crops import CropSettings, Source, cut_crops
from mars_assets.imagery.grid import Placed
from mars_assets.imagery.products import ProductType, product_files
from mars_assets.imagery.raster import MapRaster, open_raster
from mars_assets.imagery.scene import SceneInfo
from mars_assets.progress import Progress
from mars_assets.sample.products import write_products
from mars_assets.sample.terrain import SceneSpec, render_scene
from mars_assets.storage.published import version_in_use

pytestmark = pytest.mark.slow

R = 3396190.0
DEGREES = "+proj=longlat +R=3396190 +no_defs"
TURN = 2 * np.pi * R
GROUND, DISC = 160, 60


def write(path: Path, pixels: np.ndarray, **profile: Any) -> Path:
    """Pixels of shape (rows, columns) or (rows, columns, bands) as a raster."""
    bands = np.moveaxis(np.atleast_3d(pixels), -1, 0)
    how = {"driver": "GTiff", "count": len(bands), "height": bands.shape[1], "width": bands.shape[2]}
    with rasterio.open(path, "w", **{**how, "dtype": bands.dtype, **profile}) as dataset:
        dataset.write(bands)
    return path


def whole(raster: MapRaster) -> tuple[np.ndarray, np.ndarray]:
    return raster.read(0, raster.grid.lines)


def opened(path: Path, *arguments: Any, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    with open_raster(path, *arguments, **options) as raster:
        return whole(raster)


def noise(lines: int = 64, samples: int = 80, low: int = 60, high: int = 200, dtype: Any = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(low, high, (lines, samples)).astype(dtype)


# the ground


@dataclass
class Map:
    """A map around a place, 25 km wide, of pixels of 100 m or less on the ground."""

    name: str
    crs: str
    place: tuple[float, float] = (40.0, 60.0)
    square: bool = False
    """Whether it is read as it is."""
    x_shift: float = 0.0
    """Of x, by turns around the planet."""
    turned: float = 0.0
    up: bool = False
    pixel: tuple[float, float] = (1.0, 1.0)
    """Its width and height, as shares of 100 m on the map."""
    shape: tuple[int, int] = (256, 256)

    def transform(self) -> Affine:
        geographic = CRS.from_user_input(self.crs).is_geographic
        unit = 100 / np.radians(R) if geographic else 100
        x, y = self.place if geographic else Proj(self.crs)(*self.place)
        x += self.x_shift
        size = Affine.scale(unit * self.pixel[0], unit * self.pixel[1] * (1 if self.up else -1))
        middle = Affine.translation(-self.shape[1] / 2, -self.shape[0] / 2)
        return Affine.translation(x, y) @ Affine.rotation(self.turned) @ size @ middle


MAPS = [
    Map("RDR", "+proj=eqc +lat_ts=60 +lon_0=180 +R=3396190", square=True),
    Map("south up", "+proj=eqc +lat_ts=60 +lon_0=180 +R=3396190", square=True, up=True),
    Map("turned", "+proj=eqc +lat_ts=60 +lon_0=180 +R=3396190", square=True, turned=33),
    Map("polar", "+proj=stere +lat_0=90 +R=3376200", square=True),
    Map("true at 0", "+proj=eqc +lat_ts=0 +R=3396190", shape=(256, 512)),
    Map("true at 0, in km", "+proj=eqc +lat_ts=0 +R=3396190 +units=km", shape=(256, 512), pixel=(0.001, 0.001)),
    Map("true at 0, turned", "+proj=eqc +lat_ts=0 +R=3396190", turned=90, shape=(512, 256)),
    Map("true at 0, a turn on", "+proj=eqc +lat_ts=0 +R=3396190", x_shift=TURN, shape=(256, 512)),
    Map("true at 0, across 180", "+proj=eqc +lat_ts=0 +R=3396190", place=(179.95, 60), shape=(256, 512)),
    Map("true at 0, across 0", "+proj=eqc +lat_ts=0 +lon_0=180 +R=3396190", place=(359.95, -60), shape=(256, 512)),
    Map("degrees", DEGREES, shape=(256, 512)),
    Map("degrees, south up", DEGREES, up=True, shape=(256, 512)),
    Map("degrees, a turn on", DEGREES, place=(400.0, 60), shape=(256, 512)),
    Map("degrees, a turn back", DEGREES, place=(-320.0, -60), shape=(256, 512)),
    Map("degrees, across 180", DEGREES, place=(-180.01, 60), shape=(256, 512)),
    Map("degrees, at the equator", DEGREES, place=(0.0, 0.0), square=True),
    Map("degrees on the ellipsoid", "+proj=longlat +a=3396190 +b=3376200 +no_defs", shape=(256, 512)),
    Map("sinusoidal", "+proj=sinu +lon_0=0 +R=3396190", shape=(256, 330)),
    Map("flat pixels", "+proj=eqc +lat_ts=60 +lon_0=180 +R=3396190", pixel=(1.0, 0.4), shape=(640, 256)),
    Map("the pole in degrees", DEGREES, (0.0, 89.787), pixel=(296.36, 1.0), shape=(252, 720)),
]


def sphere(longitude: Any, latitude: Any) -> np.ndarray:
    east, north = np.radians(longitude), np.radians(latitude)
    return np.stack([np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north)], axis=-1)


def around(place: tuple[float, float]) -> list[tuple[float, float, float]]:
    """Discs around a place: longitude, latitude, radius in metres."""
    longitude, latitude = place
    north = np.degrees(6000 / R)
    east = north / np.cos(np.radians(latitude))
    if latitude > 89:
        return [(0.0, 90.0, 2000.0), (10.0, 89.8, 1500.0), (179.9, 89.85, 1300.0), (-100.0, 89.75, 1800.0)]
    return [
        (longitude, latitude, 2000.0),
        (longitude + east, latitude + north, 1200.0),
        (longitude - east, latitude + north, 1000.0),
        (longitude + east, latitude - north, 1500.0),
    ]


def painted(crs: str, transform: Affine, shape: tuple[int, int], discs: list[Any], scale: float) -> np.ndarray:
    """The share of each pixel that is in a disc, by 9 points in it."""
    rows, cols = ((np.arange(3 * length) + 0.5) / 3 for length in shape)
    x, y = transform @ np.meshgrid(cols, rows)
    longitude, latitude = (x, y) if CRS.from_user_input(crs).is_geographic else Proj(crs)(x, y, inverse=True)
    places = np.nan_to_num(sphere(*np.where(np.isfinite([longitude, latitude]), [longitude, latitude], np.nan)))
    inside = np.zeros(places.shape[:2])
    for disc in discs:
        distance = scale * 2 * np.arcsin(np.linalg.norm(places - sphere(*disc[:2]), axis=-1) / 2)
        inside[distance < disc[2]] = 1
    return inside.reshape(shape[0], 3, shape[1], 3).mean(axis=(1, 3))


def radius_of(crs: str) -> float:
    ellipsoid = CRS.from_user_input(crs).ellipsoid
    assert ellipsoid is not None
    return float(ellipsoid.semi_major_metre)


def in_the_file(raster: MapRaster, points: np.ndarray) -> np.ndarray:
    """Pixels of the grid, (n, 2), as pixels of the file."""
    if raster.grid == raster.source:
        return points
    grid, source = (Placed(one, CRS.from_user_input(one.crs)) for one in (raster.grid, raster.source))
    return np.column_stack(source.in_pixels(*grid.on_the_ground(*points.T)))


def check_discs(raster: MapRaster, rgb: np.ndarray, discs: list[Any]) -> None:
    """Each disc is where it should be, is as large, and round."""
    assert raster.grid.crs is not None
    assert raster.grid.transform is not None
    system = CRS.from_wkt(raster.grid.crs)
    to_pixels = ~Affine(*raster.grid.transform)
    low, high = np.percentile(rgb[..., 0], [1, 99])
    inside = np.clip((high - rgb[..., 0]) / (high - low), 0, 1)
    for longitude, latitude, radius in discs:
        if system.is_geographic:
            x, y, scale = longitude, latitude, 1 / np.radians(R)
        else:
            projection = Proj(system)
            x, y = projection(longitude, latitude)
            scale = np.sqrt(projection.get_factors(longitude % 360, latitude).areal_scale)
            scale /= system.axis_info[0].unit_conversion_factor
        column, row = to_pixels @ (x, y)
        size = np.sqrt(abs(to_pixels.determinant)) * scale
        reach = int(1.25 * radius * size) + 2
        top, left = int(row) - reach, int(column) - reach
        part = inside[top : top + 2 * reach, left : left + 2 * reach]
        assert part.shape == (2 * reach, 2 * reach)
        rows, cols = np.mgrid[top : top + 2 * reach, left : left + 2 * reach] + 0.5
        middle = np.array([(part * cols).sum(), (part * rows).sum()]) / part.sum()
        np.testing.assert_allclose(middle, (column, row), atol=0.15)
        assert part.sum() == pytest.approx(np.pi * (radius * size) ** 2, rel=0.02)
        spread = np.cov(np.stack([cols.ravel(), rows.ravel()]), aweights=part.ravel())
        axes = np.sqrt(np.linalg.eigvalsh(spread))
        assert axes[1] / axes[0] < 1.05 if raster.grid != raster.source else axes[1] / axes[0] < 1.15


@pytest.mark.parametrize("case", MAPS, ids=lambda case: case.name)
def test_a_disc_is_round_and_in_its_place(case: Map, tmp_path: Path) -> None:
    discs = around(case.place)
    shares = painted(case.crs, case.transform(), case.shape, discs, radius_of(case.crs))
    pixels = np.round(GROUND + (DISC - GROUND) * shares).astype(np.uint8)
    path = write(tmp_path / "x.tif", pixels, crs=case.crs, transform=case.transform())
    with open_raster(path) as raster:
        assert (raster.grid == raster.source) == case.square
        rgb, good = whole(raster)
        assert rgb.shape == (raster.grid.lines, raster.grid.samples, 3)
        check_discs(raster, rgb, discs)

        # Back in the file's own pixels.
        assert raster.grid.transform is not None
        system = CRS.from_user_input(raster.grid.crs)
        if not case.square:
            assert 0.5 < good.sum() / pixels.size < 2.6
            x, y = Proj(system)([disc[0] for disc in discs], [disc[1] for disc in discs])
            points = np.column_stack(~Affine(*raster.grid.transform) @ (np.array(x), np.array(y)))
            back = np.column_stack(case.transform() @ in_the_file(raster, points).T)
            if not CRS.from_user_input(case.crs).is_geographic:
                back = np.column_stack(Proj(case.crs)(*back.T, inverse=True))
            near = sphere(*back.T) - [sphere(*disc[:2]) for disc in discs]
            assert np.linalg.norm(near, axis=1).max() * R < 0.01
            columns = in_the_file(raster, points)[:, 0]
            assert ((columns >= 0) & (columns <= case.shape[1])).all()


@pytest.mark.parametrize("case", [MAPS[0], MAPS[4]], ids=lambda case: case.name)
def test_the_same_scene_however_it_is_stored(case: Map, tmp_path: Path) -> None:
    """In a slanted swath: dark with 0 as no data, declared or not, with NaN, with an alpha band."""
    discs = around(case.place)
    shares = painted(case.crs, case.transform(), case.shape, discs, R)
    row, col = np.mgrid[: case.shape[0], : case.shape[1]] / np.max(case.shape)
    outside = (col < 0.05 - row / 20) | (col > 0.98 - row / 20)
    dark = np.round(1 + 12 * (1 - shares)).astype(np.uint16)
    dark[outside] = 0
    alpha = np.stack([dark, np.where(outside, 0, 255)], axis=-1).astype(np.uint8)
    stored: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
        "declared": (dark, {"nodata": 0}),
        "undeclared": (dark, {}),
        "float": (np.where(outside, np.nan, dark * 1e-3 - 0.02).astype(np.float32), {}),
        "signed": (np.where(outside, -9999, dark.astype(np.int16) - 5), {"nodata": -9999}),
        "alpha": (alpha, {"photometric": "MINISBLACK", "ALPHA": "YES"}),
    }
    read = {}
    for name, (pixels, how) in stored.items():
        path = write(tmp_path / f"{name}.tif", pixels, crs=case.crs, transform=case.transform(), **how)
        with open_raster(path) as raster:
            read[name] = whole(raster)
            check_discs(raster, read[name][0], discs)
        np.testing.assert_array_equal(read[name][1], read["declared"][1])
        assert np.abs(read[name][0].astype(int) - read["declared"][0]).max() <= 1
    without = write(tmp_path / "x.tif", dark, nodata=0)
    if case.square:
        np.testing.assert_array_equal(opened(without)[0], read["declared"][0])


@pytest.mark.parametrize("case", [MAPS[4], MAPS[-1]], ids=lambda case: case.name)
def test_strips_change_nothing_on_another_grid(case: Map, tmp_path: Path) -> None:
    pixels = noise(*case.shape, low=1)
    pixels[40:90, :70] = 0
    path = write(tmp_path / "x.tif", pixels, crs=case.crs, transform=case.transform())
    with open_raster(path) as raster:
        rgb, good = whole(raster)
        edges = [0, 1, 8, 100, 117, raster.grid.lines]
        parts = [raster.read(*rows) for rows in itertools.pairwise(edges)]
        np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), rgb)
        np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), good)


def test_no_data_have_no_weight_on_another_grid(tmp_path: Path) -> None:
    """Their value does not bleed into what lies next to them, nor do large numbers swamp small ones."""
    case = MAPS[10]
    pixels = np.full(case.shape, 1e-3, np.float32)
    pixels[::2] += 1e-4
    pixels[:100] = np.nan
    pixels[200:] = -1e32
    path = write(tmp_path / "x.tif", pixels, crs=case.crs, transform=case.transform(), nodata=-1e32)
    with open_raster(path) as raster:
        rgb, good = whole(raster)
        rows = np.arange(raster.grid.lines)
        middle = np.column_stack([np.full(len(rows), raster.grid.samples / 2), rows + 0.5])
        expected = in_the_file(raster, middle)[:, 1]
        inside = (expected > 100.01) & (expected < 199.99)
        np.testing.assert_array_equal(good[:, raster.grid.samples // 2], inside)
        assert rgb[~good].max() == 0
        # Without rows of no data, the stripes are 0 and 255; between two lie values between them.
        assert {0, 255} >= {int(rgb[good].min()), int(rgb[good].max())}


def test_the_whole_planet(shared: Path) -> None:
    said: list[str] = []
    with open_raster(shared / "data/scenes/mars_map/mars.tif", progress=Progress(said.append)) as raster:
        rgb, good = whole(raster)
        assert good.all()
        assert any("beyond 75 degrees are left out" in line for line in said)
        (place,) = in_the_file(raster, np.array([[raster.grid.samples / 2, raster.grid.lines / 2]]))
        np.testing.assert_allclose(place, [512, 256], atol=0.6)
        with rasterio.open(raster.path) as dataset:
            own = dataset.read(1)
        assert np.corrcoef(rgb[329:332, :, 0].mean(axis=0), own[255:257].mean(axis=0))[0, 1] > 0.95


@pytest.mark.parametrize("crs", ["+proj=sinu +R=3396190", "+proj=moll +R=3396190", DEGREES])
def test_the_whole_planet_in_any_projection(crs: str, tmp_path: Path) -> None:
    half = 180 if crs == DEGREES else Proj(crs)(179.999999, 0)[0]
    size = half / 150
    transform = Affine(size, 0, -half, 0, -size, half / 2)
    discs = [(20.0, 10.0, 600e3), (-150.0, -40.0, 700e3), (100.0, 60.0, 500e3)]
    shares = painted(crs, transform, (150, 300), discs, R)
    path = write(tmp_path / "x.tif", np.round(GROUND - 100 * shares).astype(np.uint8), crs=crs, transform=transform)
    with open_raster(path) as raster:
        rgb, _ = whole(raster)
        projection, to_pixels = Proj(CRS.from_user_input(raster.grid.crs)), ~Affine(*(raster.grid.transform or ()))
        for longitude, latitude, _ in discs:
            column, row = to_pixels @ projection(longitude, latitude)
            assert rgb[int(row), int(column), 0] < 20


def test_a_hemisphere_around_its_pole_is_whole(tmp_path: Path) -> None:
    crs = "+proj=laea +lat_0=-90 +R=3396190"
    half = abs(Proj(crs)(90, -30)[0])
    transform = Affine(half / 100, 0, -half, 0, -half / 100, half)
    shares = painted(crs, transform, (200, 200), [(0.0, -90.0, 400e3)], R)
    path = write(tmp_path / "x.tif", np.round(GROUND - 100 * shares).astype(np.uint8), crs=crs, transform=transform)
    with open_raster(path) as raster:
        rgb, good = whole(raster)
        assert raster.grid.lines == pytest.approx(raster.grid.samples, abs=1)
        middle = raster.grid.lines // 2
        assert rgb[middle, middle, 0] == 0
        assert 0.7 < good.mean() < 0.8  # its straight sides are bent
        assert good[middle - 80 : middle + 80, middle - 80 : middle + 80].all()


# products of HiRISE


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    write_products(folder, render_scene(SceneSpec("ESP_990137_1905", 330, 280, seed=1)), 77.25)
    return folder


@pytest.mark.parametrize("product", ["COLOR", "RGB.NOMAP.browse"])
@pytest.mark.parametrize("with_label", [True, False])
def test_a_product_is_read_as_its_crops_are_cut(
    archive: Path, tmp_path: Path, product: ProductType, with_label: bool
) -> None:
    files = product_files("ESP_990137_1905", product)
    image = archive / files.image
    label = archive / files.label if files.label is not None and with_label else None
    lax = CropSettings(size=64, stride=64, max_invalid=0.99, max_saturated=0.99)
    crops = cut_crops(Source(image, label, "ESP_990137_1905", product), tmp_path / "crops", lax)
    with open_raster(image, label) as raster:
        rgb, good = whole(raster)
        assert raster.stretch["low"] == crops["stretch_low"].iloc[0].tolist()
        assert raster.stretch["high"] == crops["stretch_high"].iloc[0].tolist()
        assert (raster.grid.crs is not None) == (product == "COLOR")
    kept = crops[crops["kept"]]
    assert len(kept) > 10
    for cell in kept.to_dict("records"):
        window = np.s_[cell["row"] : cell["row"] + 64, cell["col"] : cell["col"] + 64]
        with Image.open(version_in_use(tmp_path / "crops") / cell["file"]) as crop:
            np.testing.assert_array_equal(rgb[window], np.asarray(crop))
        bad = cell["invalid_fraction"] + cell["saturated_fraction"]
        assert 1 - good[window].mean() == pytest.approx(bad, abs=1e-9)


def test_black_is_what_has_no_light(archive: Path, tmp_path: Path) -> None:
    """An I/F of 0 by the label, whose channels are RED, BG and 2 BG - 0.3 RED; otherwise a stored 0."""
    files = product_files("ESP_990137_1905", "COLOR")
    assert files.label is not None
    scene = render_scene(SceneSpec("ESP_990137_1905", 330, 280, seed=1)).iof
    red, green = scene[1], scene[2]
    with open_raster(archive / files.image, archive / files.label) as raster:
        rgb, good = whole(raster)
        black = np.array(raster.black)
    light = np.stack([red, green, 2 * green - 0.3 * red], axis=-1)
    within = good & (rgb > 5).all(axis=2) & (rgb < 250).all(axis=2)
    ratio = (rgb - black)[within] / light[within]
    assert (black < -5).all()
    np.testing.assert_allclose(ratio / ratio.mean(axis=0), 1, atol=0.05)
    with open_raster(write(tmp_path / "x.tif", noise(low=2000, high=9000, dtype=np.uint16))) as raster:
        low, high = raster.stretch["low"][0], raster.stretch["high"][0]
        assert raster.black == pytest.approx([-255 * low / (high - low)] * 3)
    with open_raster(write(tmp_path / "y.tif", noise(low=-3000, high=9000, dtype=np.int16))) as raster:
        assert raster.black == [0, 0, 0], "darker than no light is no light"


@pytest.mark.parametrize(("product", "bands", "bits"), [("RED", 1, 10), ("RGB.NOMAP", 3, 10), ("RGB.NOMAP", 3, 8)])
def test_other_products_are_read_as_their_crops_are_cut(
    tmp_path: Path, product: ProductType, bands: int, bits: int
) -> None:
    rng = np.random.default_rng(3)
    pixels = rng.integers(3, 2**bits - 2, (128, 128, bands)).astype(np.uint8 if bits == 8 else np.uint16)
    pixels[:64, :32], pixels[100, 100] = 0, 2**bits - 1
    path = tmp_path / f"ESP_013951_1955_{product}.JP2"
    write(path, pixels, driver="JP2OpenJPEG", NBITS=bits, REVERSIBLE="YES", QUALITY="100", YCBCR420="NO")
    lax = CropSettings(size=64, stride=64, max_invalid=0.9, max_saturated=0.9)
    crops = cut_crops(Source(path, None, "ESP_013951_1955", product), tmp_path / "crops", lax)
    with open_raster(path) as raster:
        rgb, good = whole(raster)
        assert raster.stretch["low"] == crops["stretch_low"].iloc[0].tolist()
        assert raster.stretch["high"] == crops["stretch_high"].iloc[0].tolist()
    np.testing.assert_array_equal(good, (pixels > 0).any(axis=2) & (pixels < 2**bits - 1).all(axis=2))
    for cell in crops[crops["kept"]].to_dict("records"):
        with Image.open(version_in_use(tmp_path / "crops") / cell["file"]) as crop:
            np.testing.assert_array_equal(rgb[cell["row"] :, cell["col"] :][:64, :64], np.asarray(crop))


def test_a_product_of_long_pixels(archive: Path, tmp_path: Path) -> None:
    """As USGS projects them: true to scale at the equator."""
    case = MAPS[4]
    discs = around(case.place)
    shares = painted(case.crs, case.transform(), case.shape, discs, R)
    pixels = np.round(600 - 400 * shares).astype(np.uint16)
    where = {"crs": case.crs, "transform": case.transform()}
    pictures = []
    for name, how in (
        ("ESP_013951_1955_RED.JP2", {"driver": "JP2OpenJPEG", "NBITS": 10, "REVERSIBLE": "YES", "QUALITY": "100"}),
        ("ESP_013951_1955_RED.tif", {"driver": "COG", "nodata": 0}),
    ):
        with open_raster(write(tmp_path / name, pixels, **where, **how)) as raster:
            pictures.append(whole(raster)[0])
            check_discs(raster, pictures[-1], discs)
    np.testing.assert_array_equal(*pictures)


def test_a_colour_cog_of_hirise(archive: Path, tmp_path: Path) -> None:
    """USGS's COG has no label, and the name says what it is; what is not 0 in the file is the same picture."""
    image = archive / product_files("ESP_990137_1905", "COLOR").image
    with rasterio.open(image) as dataset:
        bands = np.moveaxis(dataset.read(), 0, -1)
        where = {"crs": dataset.crs, "transform": dataset.transform}
    cog = write(tmp_path / "ESP_990137_1905_COLOR.tif", bands, driver="COG", nodata=0, **where)
    rgb, good = opened(cog)
    expected, expected_good = opened(image)
    np.testing.assert_array_equal(rgb, expected)
    np.testing.assert_array_equal(good, expected_good)
    # One band of it, as the user chose.
    red, _ = opened(cog, bands=[2])
    assert (red[..., 0] == red[..., 2]).all()
    np.testing.assert_array_equal(red[..., 0], expected[..., 0])


def test_another_product_in_jpeg_2000(tmp_path: Path) -> None:
    """A file of another sensor in a single tile is read by the fast reader, with the rules of any raster."""
    pixels = noise(128, 100, 100, 900, np.uint16)
    pixels[:, :20], pixels[64, 50] = 0, 0
    whole_tile = {"tiled": True, "blockxsize": 112, "blockysize": 128, "REVERSIBLE": "YES", "QUALITY": "100"}
    path = write(tmp_path / "ctx.jp2", pixels, driver="JP2OpenJPEG", **whole_tile)
    with open_raster(path) as raster:
        assert raster.stretch["reader"].startswith("glymur")
        rgb, good = whole(raster)
    np.testing.assert_array_equal(~good, np.arange(100)[None, :] < np.full((128, 1), 20))
    low, high = np.percentile(pixels[good], [0.1, 99.9])
    expected = np.clip(np.round((pixels - low) / (high - low) * 255), 0, 255)
    np.testing.assert_array_equal(rgb[good], np.repeat(expected[good][:, None], 3, axis=1))


# types, bands and stretch


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"])
def test_every_type_has_the_same_picture(dtype: str, tmp_path: Path) -> None:
    pixels = noise(low=3, high=120)
    with open_raster(write(tmp_path / "x.tif", pixels.astype(dtype))) as raster:
        rgb, good = whole(raster)
        low, high = raster.stretch["low"][0], raster.stretch["high"][0]
    assert good.all()
    assert (low, high) == tuple(np.percentile(pixels, [0.1, 99.9]))
    expected = np.clip(np.round((pixels - low) / (high - low) * 255), 0, 255)
    np.testing.assert_array_equal(rgb, np.stack([expected] * 3, axis=-1))


def test_small_and_negative_numbers_are_stretched(tmp_path: Path) -> None:
    pixels = noise(high=256, low=0)
    for name, values in (("a", pixels * 1e-6 - 0.02), ("b", pixels.astype(np.int16) * 100 - 30000)):
        rgb, good = opened(write(tmp_path / f"{name}.tif", values))
        assert good.all()
        np.testing.assert_allclose(rgb[..., 0], pixels, atol=1)


def test_a_dark_picture_with_few_bright_pixels_has_contrast(tmp_path: Path) -> None:
    pixels = np.full((64, 80), 0.25, np.float32)
    pixels[30, 40] = 0.5
    rgb, _ = opened(write(tmp_path / "x.tif", pixels))
    assert rgb[30, 40].tolist() == [255] * 3
    assert np.median(rgb) == 0


def test_bands(tmp_path: Path) -> None:
    pixels = np.stack([noise() + i for i in range(5)], axis=-1).astype(np.uint16)
    for i in range(5):
        pixels[10 * i, 5, i] = 5000
    path = write(tmp_path / "x.tif", pixels)
    with rasterio.open(path, "r+") as dataset:
        dataset.descriptions = ("blue", "green", "red", None, "infrared")
    with pytest.raises(MarsError, match=r"has 5 bands: .* 1 \(blue\), 2 \(green\), 3 \(red\), 4, 5 \(infra"):
        open_raster(path)
    rgb, _ = opened(path, bands=(5, 3, 1))
    assert [rgb[row, 5].argmax() for row in (40, 20, 0)] == [0, 1, 2]
    with open_raster(path, bands=[4]) as raster:
        rgb, _ = whole(raster)
        assert raster.stretch["bands"] == [4]
    assert rgb[30, 5].tolist() == [255] * 3
    with pytest.raises(MarsError, match="no band 0, 6 with an image"):
        open_raster(path, bands=[0, 6, 1])
    for chosen in ([1, 1, 2], [1, 2], [1, 2, 3, 4], []):
        with pytest.raises(MarsError, match="are no picture"):
            open_raster(path, bands=chosen)


def test_two_bands_are_the_first(tmp_path: Path) -> None:
    said: list[str] = []
    pixels = noise()
    path = write(tmp_path / "x.tif", np.stack([pixels, pixels[::-1]], axis=-1), photometric="MINISBLACK", ALPHA="NO")
    rgb, _ = opened(path, progress=Progress(said.append))
    assert any("the bands 1, 2: the first is read" in line for line in said)
    np.testing.assert_array_equal(rgb, opened(write(tmp_path / "y.tif", pixels))[0])


def test_alpha_is_no_colour(tmp_path: Path) -> None:
    pixels = np.stack([noise()] * 4, axis=-1)
    pixels[..., 3] = 255
    pixels[:20, :30, 3], pixels[30:34, 40:44, :3] = 0, 0
    Image.fromarray(pixels).save(tmp_path / "x.png")
    Image.fromarray(pixels[..., [0, 3]]).save(tmp_path / "grey.png")
    for name in ("x.png", "grey.png"):
        _, good = opened(tmp_path / name)
        expected = np.ones((64, 80), bool)
        expected[:20, :30] = False
        np.testing.assert_array_equal(good, expected)
        with pytest.raises(MarsError, match=r"no band [24] with an image"):
            open_raster(tmp_path / name, bands=[len(Image.open(tmp_path / name).getbands())])


def test_a_mask_in_the_file(tmp_path: Path) -> None:
    expected = np.random.default_rng(1).random((64, 80)) < 0.7
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        write(tmp_path / "x.tif", noise(low=0))
        with rasterio.open(tmp_path / "x.tif", "r+") as dataset:
            dataset.write_mask(expected)
    np.testing.assert_array_equal(opened(tmp_path / "x.tif")[1], expected)


# good pixels


def test_no_data_as_they_are_declared(tmp_path: Path) -> None:
    pixels = noise(dtype=np.float32)
    pixels[5, 5], pixels[6, 6], pixels[7, 7], pixels[8, 8], pixels[:9, 70:] = np.nan, np.inf, -9999, -3.4028227e38, 0
    _, good = opened(write(tmp_path / "x.tif", pixels, nodata=-9999))
    assert np.argwhere(~good).tolist() == [[5, 5], [6, 6], [7, 7], [8, 8]]  # 0 is a value where another is declared
    _, good = opened(write(tmp_path / "x.tif", pixels), nodata=-9999)
    assert (~good).sum() == 4
    _, good = opened(write(tmp_path / "x.tif", pixels))
    assert (~good).sum() == 3 + 90
    for value in (-1, 300, 0.5, float("nan")):
        with pytest.raises(MarsError, match="cannot be no data, as pixels of type uint8"):
            open_raster(write(tmp_path / "y.tif", noise()), nodata=value)


def test_marks_of_isis(tmp_path: Path) -> None:
    pixels = noise(dtype=np.int16)
    pixels[5, 5:10] = [-32768, -32767, -32766, -32765, -32764]
    pixels[6, 5:8] = [-32752, 0, 1000]
    expected = np.ones((64, 80), bool)
    expected[5, 5:10] = False
    np.testing.assert_array_equal(opened(write(tmp_path / "x.cub", pixels, driver="ISIS3"))[1], expected)
    lowest = np.frombuffer(bytes.fromhex("fbff7fff fcff7fff fdff7fff feff7fff ffff7fff"), "<f4")
    floats = pixels.astype(np.float32)
    floats[5, 5:10] = lowest
    np.testing.assert_array_equal(opened(write(tmp_path / "y.cub", floats, driver="ISIS3"))[1], expected)


@pytest.mark.parametrize("declared", [None, 0])
def test_a_dark_scene_in_a_slanted_swath(declared: float | None, tmp_path: Path) -> None:
    """Zeros at the border are no data; where nothing is declared, those within a dark scene are dark."""
    rng = np.random.default_rng(2)
    lines, samples = 300, 200
    pixels = rng.choice(np.arange(6), (lines, samples), p=[0.3, 0.3, 0.2, 0.1, 0.05, 0.05]).astype(np.uint16)
    pixels[150:160, 90:110] = 0  # a shadow
    row, col = np.mgrid[:lines, :samples]
    outside = (col < 40 - row / 10) | (col >= 190 - row / 10) | (row < col / 10) | (row >= 280 + col / 10)
    pixels[outside] = 0
    path = write(tmp_path / "x.tif", pixels, nodata=declared)
    with open_raster(path) as raster:
        _, good = whole(raster)
        parts = np.concatenate([raster.read(first, min(first + 7, lines))[1] for first in range(0, lines, 7)])
    np.testing.assert_array_equal(parts, good)
    if declared == 0:
        np.testing.assert_array_equal(good, pixels > 0)
    else:
        assert not good[outside].any()
        lost = ~good & ~outside
        assert lost.mean() < 0.02
        assert good[150:160, 90:110].all()
        assert good[20:270, 50:150].all()


def test_the_overview_finds_the_same_zeros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = noise(600, 500, 0, 9)
    row, col = np.mgrid[:600, :500]
    outside = (col < 60 - row / 15) | (col >= 480 - row / 15) | (row < 3)
    pixels[outside], pixels[300:310, 200:220] = 0, 0
    path = write(tmp_path / "x.tif", pixels)
    exact = opened(path)[1]
    monkeypatch.setattr(SceneInfo, "overview_factor", 8)
    good = opened(path)[1]
    assert not (good & outside).any()
    assert (good != exact).mean() < 0.002
    assert good[300:310, 200:220].all()


def test_saturated_pixels(tmp_path: Path) -> None:
    pixels = noise()
    pixels[10, 10] = pixels[20, 20] = pixels[21, 21] = pixels[63, 79] = 255
    pixels[30:33, 40:45] = 255
    expected = np.ones((64, 80), bool)
    expected[20, 20] = expected[21, 21] = False
    expected[30:33, 40:45] = False
    path = write(tmp_path / "x.tif", pixels)
    with open_raster(path) as raster:
        rgb, good = whole(raster)
        by_row = np.concatenate([raster.read(row, row + 1)[1] for row in range(64)])
    np.testing.assert_array_equal(good, expected)
    np.testing.assert_array_equal(by_row, expected)
    assert rgb[30, 40, 0] == 255
    ten_bits = np.where(pixels == 255, np.uint16(1023), pixels)
    np.testing.assert_array_equal(opened(write(tmp_path / "y.tif", ten_bits, NBITS=10))[1], expected)


def test_the_lowest_number_of_a_signed_type_is_no_data(tmp_path: Path) -> None:
    pixels = noise(dtype=np.int16)
    pixels[10, 10], pixels[30:33, 40:45] = -32768, -32768
    with open_raster(write(tmp_path / "x.tif", pixels)) as raster:
        rgb, good = whole(raster)
    assert np.argwhere(~good).min(axis=0).tolist() == [30, 40]
    assert (~good).sum() == 15
    assert rgb[~good].max() == 0


def test_black_borders_of_a_jpeg(tmp_path: Path) -> None:
    pixels = np.asarray(Image.fromarray(noise(8, 10)).resize((160, 128), Image.Resampling.BICUBIC)).copy()
    pixels[:, :32], pixels[60, 100] = 0, 0
    Image.fromarray(pixels).save(tmp_path / "mosaic.jpg", quality=95)
    _, good = opened(tmp_path / "mosaic.jpg")
    assert not good[:, :31].any()
    assert good[:, 33:].all()


def test_memory_follows_the_strip(tmp_path: Path) -> None:
    peaks = []
    for lines in (3000, 12000):
        with rasterio.open(
            tmp_path / f"{lines}.tif", "w", driver="GTiff", height=lines, width=1000, count=1, dtype="float32"
        ) as dataset:
            for first in range(0, lines, 1000):
                dataset.write(noise(1000, 1000, dtype=np.float32), 1, window=((first, first + 1000), (0, 1000)))
        with open_raster(tmp_path / f"{lines}.tif") as raster:
            tracemalloc.start()
            for first in range(0, lines, 500):
                raster.read(first, first + 500)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


# bad input


def sparse(path: Path, lines: int, samples: int, dtype: str = "uint8", **profile: Any) -> Path:
    how = {"driver": "GTiff", "count": 1, "SPARSE_OK": True, "tiled": True}
    with rasterio.open(path, "w", height=lines, width=samples, dtype=dtype, **how, **profile):
        pass
    return path


MARS = {"crs": DEGREES, "transform": Affine(0.01, 0, 0, 0, -0.01, 0)}
METRES = Affine(100, 0, 0, 0, -100, 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path, "does not exist: name a raster"),
        (lambda path: path.parent, "is a folder: name the raster"),
        (lambda path: path.write_text("x,y\n1,2\n") and path, "cannot be opened as a raster"),
        (lambda path: path.touch() or path, "is empty"),
        (lambda path: write(path, noise(1, 1)), "smaller than a model's patch"),
        (lambda path: write(path, noise(15, 200)), "200 x 15 pixels, smaller than"),
        (lambda path: write(path, noise(dtype=np.complex64)), "has complex numbers"),
        (lambda path: write(path, np.full((64, 80), 7, np.uint8)), "has no contrast: .* are 7"),
        (lambda path: write(path, np.full((64, 80), 0.5, np.float32)), r"has no contrast: .* are 0\.5"),
        (lambda path: write(path, np.zeros((64, 80), np.uint8)), "has no good pixel"),
        (lambda path: write(path, np.full((64, 80), np.nan, np.float32)), "has no good pixel"),
        (lambda path: write(path, np.pad([[9]], 40).astype(np.uint8), nodata=0), "has no contrast: .* are 9"),
        (lambda path: sparse(path, 50_000, 50_000), "more than the limit of 2147483648: cut it, .* -srcwin 0 0 46340"),
        (lambda path: write(path, noise(), crs="EPSG:4326", transform=MARS["transform"]), "radius 6378.14 and 6356.75"),
        (lambda path: write(path, noise(), crs="EPSG:32633", transform=METRES), "radius 6378.14 and 6356.75 km"),
        (lambda path: write(path, noise(), crs="+proj=eqc +R=1737400", transform=METRES), "of radius 1737.4 km"),
        (
            lambda path: write(path, noise(), crs=DEGREES, transform=Affine(100, 0, 5e5, 0, -100, 9e5)),
            "not on the planet",
        ),
        (
            lambda path: write(path, noise(), crs="+proj=sinu +R=3396190", transform=Affine(9, 0, 8e7, 0, -9, 0)),
            "not on the planet",
        ),
        (
            lambda path: write(path, noise(), crs="+proj=eqc +R=3396190", transform=Affine(9, 0, 0, 0, -9, 3e7)),
            "not on the planet",
        ),
        (lambda path: write(path, noise(), **{**MARS, "crs": f"{DEGREES} +pm=20"}), "meridian of its own"),
        (
            lambda path: write(
                path, noise(), **{**MARS, "crs": "+proj=ob_tran +o_proj=longlat +o_lat_p=50 +R=3396190"}
            ),
            "counts degrees from a pole",
        ),
        (lambda path: write(path, noise(), crs=DEGREES, transform=Affine(1, 1, 0, 1, 1, 0)), "gives pixels no area"),
    ],
)
def test_bad_input(make: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    with pytest.raises(MarsError, match=message) as refusal:
        open_raster(make(path))
    assert str(tmp_path) in str(refusal.value)


def test_a_table_of_colours_is_refused(tmp_path: Path) -> None:
    Image.fromarray(noise()).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "x.png")
    with pytest.raises(MarsError, match="has a table of colours"):
        open_raster(tmp_path / "x.png")
    write(tmp_path / "y.tif", noise(), photometric="MINISWHITE")
    Image.fromarray(noise()).save(tmp_path / "z.bmp")  # its table is that of grey
    np.testing.assert_array_equal(opened(tmp_path / "z.bmp")[0], opened(write(tmp_path / "z.tif", noise()))[0])
    with pytest.raises(MarsError, match="stores white as 0"):
        open_raster(tmp_path / "y.tif")


def test_coordinates_of_no_planet_are_none(tmp_path: Path) -> None:
    said: list[str] = []
    path = write(tmp_path / "x.tif", noise(), crs='LOCAL_CS["site",UNIT["metre",1]]', transform=METRES)
    with open_raster(path, progress=Progress(said.append)) as raster:
        assert raster.grid.crs is raster.grid.transform is None
    assert "those of no planet (site)" in said[0]
    assert "is not map projected" in said[1]


def test_the_body_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tif", noise(), crs="+proj=longlat +R=1737400", transform=MARS["transform"])
    with pytest.raises(MarsError, match=r"radius 1737\.4 km, .* but Mars has 3376 to 3396 km"):
        open_raster(path)


@pytest.mark.parametrize(
    ("name", "profile"),
    [
        ("x.tif", {}),
        ("tiled.tif", {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}),
        ("x.png", {"driver": "PNG"}),
        ("x.jpg", {"driver": "JPEG"}),
        ("x.jp2", {"driver": "JP2OpenJPEG"}),
        ("x.img", {"driver": "ENVI"}),
        ("x.cub", {"driver": "ISIS3"}),
        ("x.lbl", {"driver": "VICAR"}),
    ],
)
@pytest.mark.parametrize("share", [0.05, 0.6, 0.97])
def test_a_truncated_file_is_not_read(name: str, profile: dict[str, Any], share: float, tmp_path: Path) -> None:
    path = write(tmp_path / name, noise(300, 260), **profile)
    assert opened(path)[1].all()
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DamagedFileError, match=name.replace(".", r"\.")):
        opened(path)


def test_a_label_of_another_image(archive: Path, tmp_path: Path) -> None:
    files = product_files("ESP_990137_1905", "COLOR")
    assert files.label is not None
    image, label = archive / files.image, archive / files.label
    renamed = tmp_path / "ESP_990138_1905_COLOR.JP2"
    renamed.symlink_to(image)
    with pytest.raises(MarsError, match="is the label of ESP_990137_1905, not of ESP_990138_1905"):
        open_raster(renamed, label)
    with pytest.raises(DamagedFileError, match="but its label"):
        open_raster(write(tmp_path / "x.tif", noise(dtype=np.uint16)), label)
    with pytest.raises(MarsError, match="does not exist"):
        open_raster(image, tmp_path / "x.LBL")


SILENT = """
import sys
from pathlib import Path
from mars_assets.errors import MarsError
from mars_assets.imagery.raster import open_raster

for path in map(Path, sys.argv[1:]):
    try:
        with open_raster(path) as raster:
            raster.read(0, raster.grid.lines)
    except MarsError as error:
        print(error)
"""


def test_gdal_says_nothing_by_itself(tmp_path: Path) -> None:
    case = MAPS[17]
    good = write(tmp_path / "good.tif", noise(*case.shape), crs=case.crs, transform=case.transform())
    plain = write(tmp_path / "plain.tif", noise())
    bad = write(tmp_path / "bad.tif", noise(300, 260))
    bad.write_bytes(bad.read_bytes()[:30000])
    jpeg = write(tmp_path / "bad.jpg", noise(300, 260), driver="JPEG")
    jpeg.write_bytes(jpeg.read_bytes()[:30000])
    (tmp_path / "text.tif").write_text("no raster")
    earth = write(tmp_path / "earth.tif", noise(), crs="EPSG:4326", transform=MARS["transform"])
    command = [sys.executable, "-c", SILENT, *map(str, (good, plain, bad, jpeg, tmp_path / "text.tif", earth))]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0
    assert ran.stderr == ""
    assert len(ran.stdout.strip().splitlines()) == 4
