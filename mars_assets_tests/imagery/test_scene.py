"""Positions of scenes whose labels state other units than HiRISE's."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio

from mars_assets.errors import DamagedFileError
from mars_assets.imagery.geolocation import projected_positions
from mars_assets.imagery.products import product_files
from mars_assets.imagery.scene import SceneInfo, open_scene
from mars_assets.sample.products import write_products
from mars_assets.sample.terrain import SceneSpec, render_scene

OBSERVATION = "ESP_990137_1905"


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("archive")
    write_products(folder, render_scene(SceneSpec(OBSERVATION, 330, 280, seed=1)), 77.25)
    files = product_files(OBSERVATION, "COLOR")
    assert files.label is not None
    return folder / files.image, folder / files.label


def info(products: tuple[Path, Path], folder: Path, **stated: str) -> SceneInfo:
    """Open a copy of the product whose label states some quantities differently."""
    image, label = (Path(shutil.copy(path, folder)) for path in products)
    text = label.read_text()
    for key, value in stated.items():
        text, count = re.subn(rf"{key}(\s*)= .*", rf"{key}\1= {value}", text)
        assert count >= 1
    label.write_text(text)
    with open_scene(image, label) as scene:
        return scene.info


@pytest.mark.parametrize(
    "scale", ["0.0005 <KM/PIXEL>", "50 <CM/PIXEL>", "500 <MM/PIXEL>", "0.5 <METRES/PIXEL>", "0.5 <m/px>", "0.5"]
)
def test_the_scale_is_that_of_the_label(products: tuple[Path, Path], tmp_path: Path, scale: str) -> None:
    right = info(products, tmp_path)
    read = info(products, tmp_path, MAP_SCALE=scale)
    assert read.crs == right.crs
    assert read.transform == pytest.approx(right.transform, rel=1e-9)


def test_the_radius_is_that_of_the_label(products: tuple[Path, Path], tmp_path: Path) -> None:
    right = info(products, tmp_path)
    kilometres = float(re.findall(r"A_AXIS_RADIUS\s+= (\S+)", products[1].read_text())[0])
    metres = f"{kilometres * 1000:.7f} <M>"
    read = info(products, tmp_path, A_AXIS_RADIUS=metres, B_AXIS_RADIUS=metres, C_AXIS_RADIUS=metres)
    assert read.transform == right.transform
    assert read.crs is not None
    assert right.crs is not None
    assert right.transform is not None
    x = np.array([right.transform[2], right.transform[2] + 100])
    y = np.array([right.transform[5], right.transform[5] - 100])
    np.testing.assert_allclose(projected_positions(read.crs, x, y), projected_positions(right.crs, x, y), atol=1e-9)


def test_the_polar_radius_stays_polar(products: tuple[Path, Path], tmp_path: Path) -> None:
    polar = {"MAP_PROJECTION_TYPE": '"POLAR STEREOGRAPHIC"', "CENTER_LATITUDE": "90.0 <DEG>"}
    radii = {"A_AXIS_RADIUS": 3396.19, "B_AXIS_RADIUS": 3396.19, "C_AXIS_RADIUS": 3376.2}
    right = info(products, tmp_path, **polar, **{key: f"{value} <KM>" for key, value in radii.items()})
    read = info(products, tmp_path, **polar, **{key: f"{1000 * value:.1f} <M>" for key, value in radii.items()})
    assert right.crs is not None
    assert read.crs is not None
    stated = rasterio.CRS.from_wkt(right.crs).to_dict()
    assert rasterio.CRS.from_wkt(read.crs).to_dict() == pytest.approx(stated)
    assert 3376200.0 in (stated.get("R"), stated.get("a"))


def test_a_scale_that_is_missing_leaves_the_position_of_the_image(products: tuple[Path, Path], tmp_path: Path) -> None:
    assert info(products, tmp_path, MAP_SCALE='"N/A"').transform == pytest.approx(info(products, tmp_path).transform)


@pytest.mark.parametrize("stated", [{"MAP_SCALE": "0.5 <DEG/PIXEL>"}, {"CENTER_LATITUDE": "0.17 <RAD>"}])
def test_unknown_units_are_refused(products: tuple[Path, Path], tmp_path: Path, stated: dict[str, str]) -> None:
    with pytest.raises(DamagedFileError, match=r"_COLOR\.LBL: .* is stated in"):
        info(products, tmp_path, **stated)
