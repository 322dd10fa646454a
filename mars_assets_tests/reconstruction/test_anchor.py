"""The chip of Earth: real surfaces pass in every kind of light, other units and orders do not."""

from pathlib import Path

import numpy as np
import pytest
import rasterio

from mars_assets.bands import HLS_BANDS
from mars_assets.errors import MarsError
from mars_assets.lake import Lake
from mars_assets.reconstruction.table import anchor_chip
from mars_assets.tensors.geotiff import read_chip

SURFACES = {
    "vegetation": (300, 600, 400, 3800, 1900, 900),
    "dry grass": (600, 900, 1200, 2400, 3000, 2000),
    "desert": (1500, 2200, 3000, 3600, 4100, 3700),
    "red soil": (500, 900, 1900, 2600, 3300, 2900),
    "snow": (9200, 9300, 9200, 8200, 900, 700),
    "old snow": (7000, 7300, 7200, 6000, 600, 500),
    "cloud": (8000, 7900, 8000, 8100, 6000, 4300),
    "thin cloud over water": (2600, 2400, 2200, 2000, 1300, 900),
    "clear water": (420, 300, 150, 60, 30, 20),
    "turbid water": (700, 1100, 1300, 700, 60, 30),
    "salt": (4500, 5000, 5300, 5400, 4300, 3500),
    "city": (1000, 1150, 1300, 1900, 1900, 1700),
    "shadow": (40, 30, 20, 90, 50, 20),
    "dark lake": (60, 90, 80, 60, 30, 20),
}
"""Reflectance x 10000 of surfaces, by band."""


def chip_of(*names: str, spread: float = 0.08) -> np.ndarray:
    """Stripes of surfaces with noise, some of it below 0 where a surface is dark."""
    rng = np.random.default_rng(5)
    stripes = [np.full((6, 60, 60), np.array(SURFACES[name])[:, None, None]) for name in names]
    chip = np.concatenate(stripes, axis=2).astype(float)
    return (chip * rng.normal(1, spread, chip.shape[1:]) + rng.normal(0, 25, chip.shape)).round()


def write(path: Path, chip: np.ndarray, dtype: str = "int16", names: tuple[str, ...] | None = None, **tags) -> Path:
    count, height, width = chip.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": dtype}
    with rasterio.open(path, "w", **profile) as file:
        file.write(chip.astype(dtype))
        if names:
            file.descriptions = names
        for name, value in tags.items():
            setattr(file, name, (value,) * count)
    return path


@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_real_surfaces_pass(lake: Lake, tmp_path: Path, surface: str, dtype: str) -> None:
    chip = chip_of(surface)
    target = anchor_chip(lake, write(tmp_path / "a.tif", chip, dtype), range(1, 7))
    np.testing.assert_array_equal(read_chip(target, HLS_BANDS), chip)


@pytest.mark.parametrize("surface", SURFACES)
def test_their_mixtures_pass(lake: Lake, tmp_path: Path, surface: str) -> None:
    for other in SURFACES:
        anchor_chip(lake, write(tmp_path / "a.tif", chip_of(surface, other)), range(1, 7))


def test_the_real_chip_passes_in_no_other_units_and_order(lake: Lake, shared: Path, tmp_path: Path) -> None:
    real = shared / "data" / "hls" / "hls_l30_chip.tif"
    with rasterio.open(real) as file:
        chip = file.read([2, 3, 4, 5, 6, 7]).astype(float)
    said: list[str] = []
    anchor_chip(lake, real, [2, 3, 4, 5, 6, 7], said.append)
    assert len(said) == 1
    assert "0.2% of its pixels are 0 in all bands" in said[0]
    for wrong in (chip / 10_000, chip / 100, np.clip(chip / 16, 0, 255), chip * 255 / 10_000):
        with pytest.raises(MarsError, match="x 10000"):
            anchor_chip(lake, write(tmp_path / "a.tif", wrong, "float32"), range(1, 7))
    with pytest.raises(MarsError, match=r"no surface of Earth.*reverse order"):
        anchor_chip(lake, real, [7, 6, 5, 4, 3, 2])


@pytest.mark.parametrize(
    ("change", "dtype", "found"),
    [
        (lambda chip: chip / 10_000, "float32", r"from .* to 0\.\d+ \(float32\), as reflectance of 0 to 1"),
        (lambda chip: chip / 100, "float32", "8-bit pictures or percentages"),
        (lambda chip: chip / 40, "uint8", r"\(uint8\), as 8-bit"),
        (lambda chip: chip / 40, "int16", "as 8-bit"),
        (lambda chip: (chip / 10_000 + 0.2) / 0.0000275, "uint16", "exceed 16000"),
        (lambda chip: chip * 6, "uint16", "exceed 16000"),
    ],
)
def test_other_units(lake: Lake, tmp_path: Path, change, dtype: str, found: str) -> None:
    chip = change(np.maximum(chip_of("vegetation", "dry grass"), 1))
    with pytest.raises(MarsError, match=found) as error:
        anchor_chip(lake, write(tmp_path / "a.tif", chip, dtype), range(1, 7))
    assert "HLS surface reflectance x 10000" in str(error.value)
    assert "a.tif" in str(error.value)


@pytest.mark.parametrize(
    ("fill", "dtype", "found"),
    [
        (-9999, "int16", "lie below -2000"),
        (-32768, "int16", "lie below -2000"),
        (0, "int16", "0 in all bands"),
        (65535, "uint16", "exceed 16000"),
        (np.nan, "float32", "without data"),
        (-999, "int16", "-999 in all bands"),
        (-1, "float32", "-1 in all bands"),
    ],
)
def test_gaps_without_a_tag(lake: Lake, tmp_path: Path, fill: float, dtype: str, found: str) -> None:
    chip = np.maximum(chip_of("desert"), 1)
    chip[:, :7, :9] = fill
    with pytest.raises(MarsError, match=found):
        anchor_chip(lake, write(tmp_path / "a.tif", chip, dtype), range(1, 7))


@pytest.mark.parametrize("surface", ["vegetation", "clear water", "shadow"])
def test_an_offset_is_suspected(lake: Lake, tmp_path: Path, surface: str) -> None:
    chip = np.maximum(chip_of(surface, "desert" if surface == "vegetation" else surface), 1)
    changed = [chip + 1000] if surface == "vegetation" else [chip + 1000, (chip / 10_000 + 0.2) / 0.0000275]
    for values in changed:
        said: list[str] = []
        anchor_chip(lake, write(tmp_path / "a.tif", values, "uint16"), range(1, 7), said.append)
        assert any("contain an offset" in line and "subtract it" in line for line in said)
    said = []
    anchor_chip(lake, write(tmp_path / "a.tif", chip_of(surface)), range(1, 7), said.append)
    assert not any("contain an offset" in line for line in said)


def test_a_stated_scale_is_read(lake: Lake, tmp_path: Path) -> None:
    chip = chip_of("desert")
    anchor_chip(lake, write(tmp_path / "a.tif", chip, scales=0.0001), range(1, 7))
    with pytest.raises(MarsError, match=r"increased by -0\.1"):
        anchor_chip(lake, write(tmp_path / "a.tif", chip, scales=0.0001, offsets=-0.1), range(1, 7))


@pytest.mark.parametrize("surface", ["vegetation", "snow"])
def test_bands_in_reverse_order(lake: Lake, tmp_path: Path, surface: str) -> None:
    path = write(tmp_path / "a.tif", chip_of(surface)[::-1])
    with pytest.raises(MarsError, match=r"not in the order.*reverse order"):
        anchor_chip(lake, path, range(1, 7))
    anchor_chip(lake, path, range(6, 0, -1))


def test_red_and_blue_exchanged(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(MarsError, match=r"not in the order.*red, green, blue first"):
        anchor_chip(lake, write(tmp_path / "a.tif", chip_of("desert")[[2, 1, 0, 3, 4, 5]]), range(1, 7))


def test_an_order_that_cannot_be_decided_is_a_warning(lake: Lake, tmp_path: Path) -> None:
    said: list[str] = []
    anchor_chip(lake, write(tmp_path / "a.tif", chip_of("cloud")), range(1, 7), said.append)
    assert len(said) == 1
    assert "no known names" in said[0]
    said.clear()
    anchor_chip(lake, write(tmp_path / "b.tif", chip_of("cloud"), names=HLS_BANDS), range(1, 7), said.append)
    assert said == []


@pytest.mark.parametrize(
    ("names", "bands"),
    [
        (HLS_BANDS, [1, 2, 3, 4, 5, 6]),
        (("B02", "B03", "B04", "B05", "B06", "B07"), [1, 2, 3, 4, 5, 6]),
        (("B02", "B03", "B04", "B8A", "B11", "B12"), [1, 2, 3, 4, 5, 6]),
        (("SR_B7", "SR_B6", "SR_B5", "SR_B4", "SR_B3", "SR_B2"), [6, 5, 4, 3, 2, 1]),
        (("Red (665 nm)", "Green", "Blue", "NIR", "SWIR 1", "SWIR 2"), [3, 2, 1, 4, 5, 6]),
        (("Band 1", "Band 2", "Band 3", "Band 4", "Band 5", "Band 6"), [1, 2, 3, 4, 5, 6]),
    ],
)
def test_names_of_bands_decide(lake: Lake, tmp_path: Path, names: tuple[str, ...], bands: list[int]) -> None:
    chip = chip_of("city")[np.argsort(bands)]
    path = write(tmp_path / "a.tif", chip, names=names)
    np.testing.assert_array_equal(read_chip(anchor_chip(lake, path, bands), HLS_BANDS), chip_of("city"))
    if names[0] != "Band 1":
        with pytest.raises(MarsError, match=r"set anchor_bands to \[" + ", ".join(map(str, bands))):
            anchor_chip(lake, path, bands[::-1])


def test_red_edges_are_no_infrared(lake: Lake, tmp_path: Path) -> None:
    names = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B8A", "B11", "B12")
    chip = chip_of("city")[[0, 0, 1, 2, 3, 3, 3, 3, 4, 5]]
    with pytest.raises(MarsError, match=r"set anchor_bands to \[2, 3, 4, 8, 9, 10\]"):
        anchor_chip(lake, write(tmp_path / "a.tif", chip, names=names), [2, 3, 4, 5, 6, 7])


def test_a_path_in_the_home_folder(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "a.tif", chip_of("city"))
    assert anchor_chip(lake, Path("~/a.tif"), range(1, 7)).exists()
