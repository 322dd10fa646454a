"""The sample's products are what the archive's readers expect, and say that they are synthetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mars_assets.imagery.products import product_files
from mars_assets.imagery.verify import verify_file
from mars_assets.sample.products import HIGHEST, LOWEST, MapPosition, swath, write_products
from mars_assets.sample.terrain import Scene, SceneSpec, render_scene

OBSERVATION = "ESP_990137_1905"
HEIGHT, WIDTH = 330, 280


@pytest.fixture(scope="module")
def scene() -> Scene:
    return render_scene(SceneSpec(OBSERVATION, HEIGHT, WIDTH, seed=1, sun_azimuth=250, incidence=55.5))


@pytest.fixture(scope="module")
def archive(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    write_products(folder, scene, 77.25)
    return folder


@pytest.fixture(scope="module")
def color(archive: Path) -> Path:
    return archive / f"RDR/ESP/ORB_990100_990199/{OBSERVATION}/{OBSERVATION}_COLOR.JP2"


def test_files_lie_where_the_archive_has_them(archive: Path, color: Path) -> None:
    files = {path.relative_to(archive).as_posix() for path in archive.rglob("*") if path.is_file()}
    expected = product_files(OBSERVATION, "COLOR")
    assert files == {expected.image, expected.label, product_files(OBSERVATION, "RGB.NOMAP.browse").image}
    for name in files:
        if not name.endswith(".LBL"):
            verify_file(archive / name, Path(name).name)


def test_pixels_return_the_iof(color: Path, scene: Scene) -> None:
    import pvl
    import rasterio

    image = pvl.load(color.with_suffix(".LBL"))["UNCOMPRESSED_FILE"]["IMAGE"]
    with rasterio.open(color) as file:
        dn = file.read()
        assert file.tags()["NOTE"].startswith("SYNTHETIC")
    assert dn.shape == (3, HEIGHT, WIDTH)
    assert dn.dtype == np.uint16
    valid = swath(HEIGHT, WIDTH)
    assert 0.75 < valid.mean() < 0.98
    assert not dn[:, ~valid].any()
    assert dn[:, valid].min() >= LOWEST
    assert dn[:, valid].max() <= HIGHEST
    iof = dn[:, valid] * image["SCALING_FACTOR"] + image["OFFSET"]
    # Half a step, and float32.
    np.testing.assert_allclose(iof, scene.iof[:, valid], rtol=0, atol=0.51 * image["SCALING_FACTOR"])


def test_code_stream_is_coded_as_hirise_codes_it(color: Path) -> None:
    """One tile, ten bits, no colour transform, the reversible wavelet, packet lengths."""
    import glymur

    segments = {segment.marker_id: segment for segment in glymur.Jp2k(color).get_codestream(header_only=False).segment}
    size, coding = segments["SIZ"], segments["COD"]
    assert (size.xtsiz, size.ytsiz) >= (size.xsiz, size.ysiz)
    assert tuple(size.bitdepth) == (10, 10, 10)
    assert not any(size.signed)
    assert coding.mct == 0
    assert coding.xform == 1
    assert "PLT" in segments


def test_label_agrees_with_the_image(color: Path, scene: Scene) -> None:
    import pvl
    import rasterio
    from rasterio.warp import transform

    label = pvl.load(color.with_suffix(".LBL"))
    assert "SYNTHETIC" in label["NOTE"]
    assert label["OBSERVATION_ID"] == OBSERVATION
    assert label["ORBIT_NUMBER"] == 990137
    assert label["VIEWING_PARAMETERS"]["INCIDENCE_ANGLE"].value == pytest.approx(55.5)
    assert label["VIEWING_PARAMETERS"]["SUB_SOLAR_AZIMUTH"].value == pytest.approx(160)
    image = label["UNCOMPRESSED_FILE"]["IMAGE"]
    assert (image["BANDS"], image["LINES"], image["LINE_SAMPLES"], image["CORE_NULL"]) == (3, HEIGHT, WIDTH, 0)
    assert list(image["FILTER_NAME"]) == ["NEAR-INFRARED", "RED", "BLUE-GREEN"]
    projection = label["IMAGE_MAP_PROJECTION"]
    with rasterio.open(color) as jp2, rasterio.open(color.with_suffix(".LBL")) as by_label:
        assert by_label.driver == "PDS"
        assert jp2.transform.almost_equals(by_label.transform, 1e-6)
        np.testing.assert_array_equal(jp2.read(1), by_label.read(1))
        assert jp2.crs.to_dict()["lat_ts"] == by_label.crs.to_dict()["lat_ts"] == 10
        bounds = jp2.bounds
        sphere = f"+proj=longlat +R={projection['A_AXIS_RADIUS'].value * 1000} +no_defs"
        longitudes, latitudes = transform(jp2.crs, sphere, [bounds.left, bounds.right], [bounds.top, bounds.bottom])
    assert latitudes == pytest.approx(
        [projection["MAXIMUM_LATITUDE"].value, projection["MINIMUM_LATITUDE"].value], abs=1e-9
    )
    assert np.mod(longitudes, 360) == pytest.approx(
        [projection["WESTERNMOST_LONGITUDE"].value, projection["EASTERNMOST_LONGITUDE"].value], abs=1e-9
    )
    assert latitudes[0] == pytest.approx(10.5, abs=1e-4)
    assert longitudes[0] % 360 == pytest.approx(77.25, abs=1e-4)


def test_position_has_the_radius_of_a_real_label(shared: Path) -> None:
    """The local radius at the centre latitude, and the map resolution, as ESP_013951_1955's label states them."""
    import pvl

    real = pvl.load(shared / "data" / "hirise" / "ESP_013951_1955_RED.LBL")["IMAGE_MAP_PROJECTION"]
    position = MapPosition.at(real["MAXIMUM_LATITUDE"].value, real["WESTERNMOST_LONGITUDE"].value)
    assert position.center_latitude == real["CENTER_LATITUDE"].value
    assert position.radius / 1000 == pytest.approx(real["A_AXIS_RADIUS"].value, abs=1e-6)
    assert position.pixels_per_degree == pytest.approx(real["MAP_RESOLUTION"].value, abs=1e-4)
    # GDAL takes the pixel's corner for what the label calls its offset; the archive's own rounding is up to two pixels.
    assert position.top == pytest.approx(real["LINE_PROJECTION_OFFSET"].value, abs=2)
    assert -position.left == pytest.approx(real["SAMPLE_PROJECTION_OFFSET"].value, abs=2)


def test_browse_product(archive: Path) -> None:
    with Image.open(archive / product_files(OBSERVATION, "RGB.NOMAP.browse").image) as image:
        assert image.format == "JPEG"
        assert image.mode == "RGB"
        assert image.size == (512, round(HEIGHT * 512 / WIDTH))
        assert b"SYNTHETIC" in image.info["comment"]
        pixels = np.asarray(image).astype(int)
    # As in a real one, the first rows have only RED.
    assert pixels[:2, :, 1:].max() < 40 < pixels[:2, :, 0].mean()
    assert pixels[30:].min(axis=2).mean() > 40
    assert pixels[30:].std(axis=(0, 1)).min() > 15


def test_swath_is_slanted_and_whole() -> None:
    valid = swath(2688, 2176)
    left = valid.argmax(axis=1)[200:-200]
    assert (np.diff(left) <= 0).all()
    assert left[0] - left[-1] > 50
    assert valid[512:2560:512, 512:2048:512].all()
    assert valid[2559, 2047]
