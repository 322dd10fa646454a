from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.imagery import crops as crops_module
from mars_assets.imagery import scene as scene_module
from mars_assets.imagery.crops import CropSettings, Source, crop_id, cut_crops, read_crops, rgb_composite
from mars_assets.imagery.figures import contact_sheet, overview_with_grid
from mars_assets.imagery.products import ProductType
from mars_assets.imagery.scene import SceneInfo, open_scene
from mars_assets.progress import Progress
from mars_assets.storage.files import read_provenance
from mars_assets.storage.published import version_in_use

pytestmark = pytest.mark.slow

OBSERVATION = "ESP_013951_1955"
SMALL = CropSettings(size=64, stride=64)


def write_jp2(path: Path, pixels: np.ndarray, tile: int | None = None, bits: int = 10) -> None:
    """A lossless JPEG 2000 as HiRISE's: one single tile unless ``tile`` says otherwise."""
    import rasterio

    lines, samples, bands = pixels.shape
    with rasterio.open(
        path,
        "w",
        driver="JP2OpenJPEG",
        height=lines,
        width=samples,
        count=bands,
        dtype=pixels.dtype,
        tiled=True,
        blockxsize=tile or samples,
        blockysize=tile or lines,
        NBITS=bits,
        REVERSIBLE="YES",
        QUALITY="100",
        YCBCR420="NO",
    ) as dataset:
        dataset.write(np.moveaxis(pixels, -1, 0))


def write_label(shared: Path, path: Path, image: str, pixels: np.ndarray, filters: tuple[str, ...]) -> None:
    """The real label, with another size and other bands."""
    text = (shared / "data" / "hirise" / "ESP_013951_1955_RED.LBL").read_text()
    lines, samples, bands = pixels.shape
    names = ", ".join(f'"{name}"' for name in filters)
    for old, new in (
        ('"byte.tif"', f'"{image}"'),
        ("LINES                      = 67395", f"LINES = {lines}"),
        ("LINE_SAMPLES               = 19243", f"LINE_SAMPLES = {samples}"),
        ("BANDS                      = 1", f"BANDS = {bands}"),
        ('FILTER_NAME                = "RED"', f"FILTER_NAME = ({names})"),
    ):
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


def terrain(seed: int, lines: int, samples: int, bands: int, low: int = 100, high: int = 900) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, (lines, samples, bands), np.uint16)


def opened(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


# names


def test_crop_ids() -> None:
    assert crop_id("ESP_011472_1225", "RGB.NOMAP.browse", 76, 0) == "ESP_011472_1225_BROWSE_r00076_c00000"
    assert crop_id("ESP_011472_1225", "COLOR", 123456, 7) == "ESP_011472_1225_COLOR_r123456_c00007"
    products: list[ProductType] = ["RGB.NOMAP.browse", "RGB.NOMAP", "COLOR", "RED"]
    names = {crop_id(OBSERVATION, product, 0, 0) for product in products}
    assert len(names) == 4
    assert not any("." in name for name in names)


# the real browse product


@pytest.mark.slow
def test_the_real_browse_product(shared: Path, tmp_path: Path) -> None:
    image = shared / "data" / "hirise" / "ESP_011472_1225_RGB.NOMAP.browse.jpg"
    target = tmp_path / "crops" / "ESP_011472_1225"
    manifest = cut_crops(Source(image, None, "ESP_011472_1225", "RGB.NOMAP.browse"), target)
    kept = manifest[manifest["kept"]]
    assert kept["row"].tolist() == list(range(76, 7589 - 512 + 1, 512))
    assert len(kept) == 14
    assert (kept["position_kind"] == "pixel").all()
    whole = opened(image)
    for cell in kept.to_dict("records"):
        crop = opened(version_in_use(target) / cell["file"])
        assert crop.shape == (512, 512, 3)
        np.testing.assert_array_equal(crop, whole[cell["row"] : cell["row"] + 512, cell["col"] : cell["col"] + 512])
        # Nowhere is a band missing.
        assert (np.median(crop, axis=(1,)).min(axis=1) > 15).all()


@pytest.mark.slow
def test_corners_place_a_product_without_map_about(shared: Path, tmp_path: Path) -> None:
    image = shared / "data" / "hirise" / "ESP_011472_1225_RGB.NOMAP.browse.jpg"
    corners = [
        -57.0,
        241.5,
        -57.0,
        241.3,
        -56.0,
        241.3,
        -56.0,
        241.5,
    ]  # as real ones: first line south, first sample east
    target = tmp_path / "crops"
    manifest = cut_crops(Source(image, None, "ESP_011472_1225", "RGB.NOMAP.browse", corners=corners), target)
    assert (manifest["position_kind"] == "approximate").all()
    assert manifest["crs"].isna().all()
    expected = -57 + (manifest["row"] + 256) / 7589
    np.testing.assert_allclose(manifest["latitude"], expected, atol=1e-3)
    np.testing.assert_allclose(manifest["longitude"], 241.4, atol=1e-3)
    before = (version_in_use(target) / "crops.parquet").stat().st_mtime_ns
    cut_crops(Source(image, None, "ESP_011472_1225", "RGB.NOMAP.browse", corners=corners), target)
    assert (version_in_use(target) / "crops.parquet").stat().st_mtime_ns == before
    moved = cut_crops(Source(image, None, "ESP_011472_1225", "RGB.NOMAP.browse"), target)
    assert (moved["position_kind"] == "pixel").all()
    assert moved["latitude"].isna().all()


def test_a_grid_over_damaged_rows_names_them(shared: Path, tmp_path: Path) -> None:
    """Turned upside down, the damage lies where no shift of the grid's origin avoids it."""
    pixels = opened(shared / "data" / "hirise" / "ESP_011472_1225_RGB.NOMAP.browse.jpg")[:1000][::-1]
    Image.fromarray(pixels).save(tmp_path / "x.jpg", quality=95)
    settings = CropSettings(size=100, stride=100)
    manifest = cut_crops(Source(tmp_path / "x.jpg", None, OBSERVATION, "RGB.NOMAP.browse"), tmp_path / "out", settings)
    assert set(manifest.loc[manifest["row"] == 900, "reason"]) == {"band missing"}
    assert manifest.loc[manifest["row"] == 900, "invalid_fraction"].to_numpy() == pytest.approx(0.76, abs=0.02)
    assert manifest.loc[manifest["row"] < 900, "kept"].all()


def test_black_areas_of_a_jpeg_are_no_data_and_black_pixels_are_not(tmp_path: Path) -> None:
    pixels = terrain(0, 256, 256, 3, 60, 200).astype(np.uint8)
    pixels[100:104, 20] = 0  # shadow
    pixels[128:192, 64:96] = 0
    Image.fromarray(pixels).save(tmp_path / "x.jpg", quality=98, subsampling=0)
    manifest = cut_crops(Source(tmp_path / "x.jpg", None, OBSERVATION, "RGB.NOMAP.browse"), tmp_path / "out", SMALL)
    skipped = manifest[~manifest["kept"]]
    assert skipped[["row", "col", "reason"]].to_numpy().tolist() == [[128, 64, "no data"]]
    assert skipped["invalid_fraction"].item() == pytest.approx(0.5, abs=0.03)


def test_strips_change_nothing_in_a_jpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage over the border of two rows of cells is seen from both, whatever is decoded at a time."""
    pixels = terrain(0, 256, 128, 3, 60, 200).astype(np.uint8)
    pixels[58:69] = 0
    Image.fromarray(pixels).save(tmp_path / "x.jpg", quality=98, subsampling=0)
    tables = []
    for samples in (1, 10**9):
        monkeypatch.setattr(crops_module, "_STRIP_SAMPLES", samples)
        out = tmp_path / str(samples)
        tables.append(cut_crops(Source(tmp_path / "x.jpg", None, OBSERVATION, "RGB.NOMAP.browse"), out, SMALL))
    assert tables[0].equals(tables[1])
    assert set(tables[0].loc[tables[0]["row"] < 128, "reason"]) == {"no data"}


# JPEG 2000


def test_jp2_crops_are_the_scene_after_the_recorded_stretch(tmp_path: Path) -> None:
    pixels = terrain(1, 200, 150, 3)
    write_jp2(tmp_path / "x.JP2", pixels)
    manifest = cut_crops(Source(tmp_path / "x.JP2", None, OBSERVATION, "RGB.NOMAP"), tmp_path / "out", SMALL)
    assert manifest[["row", "col"]].to_numpy().tolist() == [[r, c] for r in (0, 64, 128) for c in (0, 64)]
    assert manifest["kept"].all()
    low, high = (np.array(manifest[f"stretch_{end}"].iloc[0]) for end in ("low", "high"))
    np.testing.assert_allclose(low, np.percentile(pixels, 0.1, axis=(0, 1)))
    np.testing.assert_allclose(high, np.percentile(pixels, 99.9, axis=(0, 1)))
    for cell in manifest.to_dict("records"):
        window = pixels[cell["row"] :, cell["col"] :][:64, :64].astype(np.float64)
        expected = np.clip(np.round((window - low) / (high - low) * 255), 0, 255)
        np.testing.assert_array_equal(opened(version_in_use(tmp_path / "out") / cell["file"]), expected)


def test_8_bit_products_are_not_stretched(tmp_path: Path) -> None:
    pixels = terrain(2, 128, 128, 3, 50, 99).astype(np.uint8)
    write_jp2(tmp_path / "x.JP2", pixels, bits=8)
    manifest = cut_crops(Source(tmp_path / "x.JP2", None, OBSERVATION, "RGB.NOMAP"), tmp_path / "out", SMALL)
    assert manifest["stretch_high"].iloc[0].tolist() == [255, 255, 255]
    np.testing.assert_array_equal(opened(version_in_use(tmp_path / "out") / manifest["file"].iloc[3]), pixels[64:, 64:])


@pytest.mark.parametrize(("tile", "reader"), [(None, "glymur"), (64, "gdal")])
def test_readers_by_coding(tmp_path: Path, tile: int | None, reader: str) -> None:
    pixels = terrain(3, 300, 200, 3)
    write_jp2(tmp_path / "x.JP2", pixels, tile)
    with open_scene(tmp_path / "x.JP2") as scene:
        assert scene.reader.startswith(reader)
        assert (scene.info.lines, scene.info.samples, scene.info.bands, scene.info.bits) == (300, 200, 3, 10)
        np.testing.assert_array_equal(scene.read((30, 222), (7, 199)), pixels[30:222, 7:199])
        assert scene.overview(2).shape == (150, 100, 3)


def test_without_openjpeg_gdal_reads_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = terrain(4, 128, 128, 1)
    write_jp2(tmp_path / "x.JP2", pixels)
    cut_crops(Source(tmp_path / "x.JP2", None, OBSERVATION, "RED"), tmp_path / "a", SMALL)
    monkeypatch.setattr(scene_module, "load_glymur", lambda: None)
    said: list[str] = []
    manifest = cut_crops(
        Source(tmp_path / "x.JP2", None, OBSERVATION, "RED"), tmp_path / "b", SMALL, Progress(said.append)
    )
    assert any("GDAL reads it" in line for line in said)
    a, b = version_in_use(tmp_path / "a"), version_in_use(tmp_path / "b")
    for name in manifest["file"]:
        assert (a / name).read_bytes() == (b / name).read_bytes()


@pytest.mark.parametrize("factor", [1, 4])
def test_strips_and_overlap_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: int) -> None:
    """Every cell of an overlapping grid is judged alike, whatever the strips and the overview's resolution."""
    monkeypatch.setattr(SceneInfo, "overview_factor", factor)
    pixels = terrain(5, 300, 200, 3)
    pixels[100:180, 60:160] = 0
    write_jp2(tmp_path / "x.JP2", pixels)
    tables = []
    for samples in (1, 90_000, 10**9):
        monkeypatch.setattr(crops_module, "_STRIP_SAMPLES", samples)
        source, target = Source(tmp_path / "x.JP2", None, OBSERVATION, "RGB.NOMAP"), tmp_path / str(samples)
        tables.append(cut_crops(source, target, CropSettings(size=64, stride=40)))
    for table in tables[1:]:
        assert table.drop(columns=["stretch_low", "stretch_high"]).equals(
            tables[0].drop(columns=["stretch_low", "stretch_high"])
        )
    for cell in tables[0].to_dict("records"):
        bad = (pixels[cell["row"] :, cell["col"] :][:64, :64] == 0).all(axis=2).mean()
        assert cell["kept"] == (bad == 0)
        assert cell["invalid_fraction"] == pytest.approx(bad, abs=0.2 if factor > 1 else 0)
        assert cell["reason"] == ("" if bad == 0 else "no data")


def test_margins_and_thresholds(tmp_path: Path) -> None:
    pixels = terrain(6, 300, 300, 3)
    pixels[:76, :, 1:] = 0
    pixels[:, :10] = 0
    pixels[76 + 64 : 76 + 74, 80:90] = 0
    pixels[76 + 128 : 76 + 148, 80:100, 2] = 1023
    write_jp2(tmp_path / "x.JP2", pixels)
    image = tmp_path / "x.JP2"
    manifest = cut_crops(Source(image, None, OBSERVATION, "RGB.NOMAP"), tmp_path / "a", SMALL).set_index(["row", "col"])
    assert manifest.index[0] == (76, 10)
    assert dict(manifest.loc[~manifest["kept"], "reason"]) == {(140, 74): "no data", (204, 74): "saturated"}
    assert manifest.loc[(140, 74), "invalid_fraction"] == 100 / 64**2
    assert manifest.loc[(204, 74), "saturated_fraction"] == 400 / 64**2
    assert read_provenance(version_in_use(tmp_path / "a") / "crops.parquet")["grid_origin"] == [76, 10]
    lax = CropSettings(size=64, stride=64, max_invalid=100 / 64**2, max_saturated=0.1)
    assert cut_crops(Source(image, None, OBSERVATION, "RGB.NOMAP"), tmp_path / "b", lax)["kept"].all()


# calibrated, projected products


def test_a_colour_product_with_its_label(shared: Path, tmp_path: Path) -> None:
    import rasterio

    pixels = terrain(7, 192, 130, 3)
    pixels[:, 70:80, 0] = 0  # the near infrared is narrower
    pixels[10:14, 5:60, 2] = 1022
    filters = ("NEAR-INFRARED", "RED", "BLUE-GREEN")
    image, label = tmp_path / f"{OBSERVATION}_COLOR.JP2", tmp_path / f"{OBSERVATION}_COLOR.LBL"
    write_jp2(image, pixels)
    write_label(shared, label, image.name, pixels, filters)
    out = tmp_path / "out"
    manifest = cut_crops(Source(image, label, OBSERVATION, "COLOR"), out, SMALL).set_index(["row", "col"])
    out = version_in_use(out)
    assert dict(manifest.loc[~manifest["kept"], "reason"]) == {
        (0, 0): "saturated",
        (0, 64): "band missing",
        (64, 64): "band missing",
        (128, 64): "band missing",
    }
    cell = manifest.loc[(64, 0)]

    # The picture: HiRISE's RGB, stretched.
    window = pixels[64:128, :64].astype(np.float64)
    low, high = np.array(cell["stretch_low"]), np.array(cell["stretch_high"])
    rgb = np.stack([window[..., 1], window[..., 2], 2 * window[..., 2] - 0.3 * window[..., 1]], axis=-1)
    np.testing.assert_array_equal(
        opened(out / cell["file"]), np.clip(np.round((rgb - low) / (high - low) * 255), 0, 255)
    )

    # The position: Snyder's equirectangular formula on the label's own corner, an independent way to the transform.
    radius, scale = 3394839.8133163, 0.5
    x = radius * math.cos(math.radians(15)) * math.radians(72.731756232301 - 180)
    y = radius * math.radians(15.797211542227)
    a, b, c, d, e, f = cell["transform"]
    assert (a, b, d, e) == (scale, 0, 0, -scale)
    assert c == pytest.approx(x, abs=2 * scale)
    assert f + 64 * scale == pytest.approx(y, abs=2 * scale)
    assert cell["position_kind"] == "projected"
    across = math.degrees(32 * scale / (radius * math.cos(math.radians(15))))
    assert cell["longitude"] == pytest.approx(72.731756232301 + across, abs=3e-5)
    assert cell["latitude"] == pytest.approx(15.797211542227 - math.degrees(96 * scale / radius), abs=3e-5)

    # The DN, as any GIS opens them.
    with rasterio.open(out / cell["dn_file"]) as dataset:
        np.testing.assert_array_equal(np.moveaxis(dataset.read(), 0, -1), pixels[64:128, :64])
        assert dataset.nodata == 0
        assert dataset.scales == (1.07543902665525e-04,) * 3
        assert dataset.offsets == (0.081203337858079,) * 3
        assert dataset.descriptions == filters
        assert tuple(dataset.transform[:6]) == tuple(cell["transform"])
        assert dataset.crs.to_dict()["R"] == pytest.approx(radius)
        assert dataset.crs.to_dict()["lat_ts"] == 15


def test_a_label_without_saturation_keywords(shared: Path, tmp_path: Path) -> None:
    pixels = terrain(7, 128, 128, 1)
    pixels[:64, :64] = 0
    image, label = tmp_path / "x.JP2", tmp_path / "x.LBL"
    write_jp2(image, pixels)
    write_label(shared, label, image.name, pixels, ("RED",))
    label.write_text(re.sub(r".*_SATURATION +=.*\n", "", label.read_text()))
    manifest = cut_crops(Source(image, label, OBSERVATION, "RED"), tmp_path / "out", SMALL)
    assert manifest["reason"].tolist() == ["no data", "", "", ""]


CUT_ON_A_FULL_DISK = """
import resource, sys
from pathlib import Path
from mars_assets.imagery.crops import CropSettings, Source, _Cutter, cut_crops

written = _Cutter._write_dn

def on_a_full_disk(*arguments):
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    try:
        written(*arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

_Cutter._write_dn = on_a_full_disk
image, label, target = map(Path, sys.argv[1:])
cut_crops(Source(image, label, "ESP_013951_1955", "RED"), target, CropSettings(size=192, stride=192))
"""


@pytest.mark.slow
def test_dn_that_do_not_fit_on_the_disk_get_no_name(shared: Path, tmp_path: Path) -> None:
    pytest.importorskip("resource")
    pixels = terrain(7, 192, 192, 1)
    image, label, target = tmp_path / "x.JP2", tmp_path / "x.LBL", tmp_path / "crops" / OBSERVATION
    write_jp2(image, pixels)
    write_label(shared, label, image.name, pixels, ("RED",))
    command = [sys.executable, "-c", CUT_ON_A_FULL_DISK, str(image), str(label), str(target)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert list(tmp_path.rglob("*.png")), ran.stderr
    assert not list(tmp_path.rglob("*_r*.tif"))
    assert ran.returncode != 0
    assert cut_crops(Source(image, label, OBSERVATION, "RED"), target, CropSettings(size=192, stride=192))["kept"].all()


def test_a_label_of_something_else_is_refused(shared: Path, tmp_path: Path) -> None:
    pixels = terrain(8, 96, 96, 1)
    image, label = tmp_path / "x.JP2", tmp_path / "x.LBL"
    write_jp2(image, pixels)
    write_label(shared, label, image.name, pixels[:80], ("RED",))
    with pytest.raises(DamagedFileError, match="80 x 96"):
        cut_crops(Source(image, label, OBSERVATION, "RED"), tmp_path / "out", SMALL)
    with pytest.raises(MarsError, match=r"label of ESP_013951_1955, not of ESP_013952_1955\. Fetch it"):
        cut_crops(Source(image, label, "ESP_013952_1955", "RED"), tmp_path / "out", SMALL)
    with pytest.raises(MarsError, match=r"NEAR-INFRARED.*, not RED\. Fetch it"):
        cut_crops(Source(image, label, OBSERVATION, "COLOR"), tmp_path / "out", SMALL)
    assert not (tmp_path / "out").exists()


# running again


def kill_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, count: int) -> Callable[[], None]:
    """Makes the ``count``-th call of a function the last thing that a run does."""
    real, calls = getattr(owner, name), 0

    def call(*args: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls >= count:
            raise KeyboardInterrupt
        return real(*args, **keywords)

    monkeypatch.setattr(owner, name, call)
    return lambda: monkeypatch.setattr(owner, name, real)


def test_a_killed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_jp2(tmp_path / "x.JP2", terrain(9, 640, 128, 3))
    monkeypatch.setattr(crops_module, "_STRIP_SAMPLES", 1)  # ten strips
    image, target = tmp_path / "x.JP2", tmp_path / "crops" / OBSERVATION

    def cut() -> Any:
        return cut_crops(Source(image, None, OBSERVATION, "RGB.NOMAP"), target, SMALL)

    revive = kill_at(monkeypatch, scene_module._SingleTileScene, "read", 7)
    with pytest.raises(KeyboardInterrupt):
        cut()
    revive()
    assert not target.exists()
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    assert len(finished) >= 10

    reads: list[tuple[int, int]] = []
    real = scene_module._SingleTileScene.read
    monkeypatch.setattr(
        scene_module._SingleTileScene, "read", lambda self, rows, cols: reads.append(rows) or real(self, rows, cols)
    )
    manifest = cut()
    assert len(manifest) == 20
    assert len(reads) <= 5  # strips that were finished are not decoded again
    for path, time in finished.items():
        assert (version_in_use(target) / path.name).stat().st_mtime_ns == time
    assert sorted(path.name for path in version_in_use(target).iterdir()) == sorted(
        [*manifest["file"], "crops.parquet"]
    )

    # Once finished, nothing is read; a lost crop is made again.
    reads.clear()
    assert cut().equals(manifest)
    assert reads == []
    (version_in_use(target) / manifest["file"][3]).unlink()
    assert cut()["file"].tolist() == manifest["file"].tolist()
    assert (version_in_use(target) / manifest["file"][3]).exists()


@pytest.mark.parametrize("where", ["write_checked", "publish_folder", "read_crops"])
def test_killed_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    write_jp2(tmp_path / "x.JP2", terrain(10, 128, 128, 1))
    image, target = tmp_path / "x.JP2", tmp_path / "crops" / OBSERVATION
    before = cut_crops(Source(image, None, OBSERVATION, "RED"), target, CropSettings(size=96, stride=96))
    revive = kill_at(monkeypatch, crops_module, where, 1)
    with pytest.raises(KeyboardInterrupt):
        cut_crops(Source(image, None, OBSERVATION, "RED"), target, SMALL)
    revive()
    if where != "read_crops":
        assert read_crops(version_in_use(target)).equals(before)  # the last good state
    manifest = cut_crops(Source(image, None, OBSERVATION, "RED"), target, SMALL)
    assert len(manifest) == 4
    assert {path.name for path in version_in_use(target).iterdir()} == {*manifest["file"], "crops.parquet"}
    assert not [path for path in (target.parent / ".cutting" / OBSERVATION).iterdir() if path.is_dir()]


def test_other_settings_or_another_source_cut_anew(tmp_path: Path) -> None:
    image, target = tmp_path / "x.JP2", tmp_path / "out"
    write_jp2(image, terrain(11, 128, 128, 1))
    assert len(cut_crops(Source(image, None, OBSERVATION, "RED"), target, SMALL)) == 4
    assert len(cut_crops(Source(image, None, OBSERVATION, "RED"), target, CropSettings(size=64, stride=32))) == 9
    pixels = terrain(12, 128, 128, 1)
    write_jp2(image, pixels)
    manifest = cut_crops(Source(image, None, OBSERVATION, "RED"), target, CropSettings(size=64, stride=32))
    low, high = manifest["stretch_low"].iloc[0][0], manifest["stretch_high"].iloc[0][0]
    expected = np.clip(np.round((pixels[:64, :64, 0] - low) / (high - low) * 255), 0, 255)
    np.testing.assert_array_equal(opened(version_in_use(target) / manifest["file"].iloc[0])[..., 2], expected)


# what cannot be cut


def test_a_damaged_manifest_is_made_again(tmp_path: Path) -> None:
    write_jp2(tmp_path / "x.JP2", terrain(11, 128, 128, 1))
    target = tmp_path / OBSERVATION
    before = cut_crops(Source(tmp_path / "x.JP2", None, OBSERVATION, "RED"), target, SMALL)
    (version_in_use(target) / "crops.parquet").write_bytes(b"PAR1 cut off")
    assert cut_crops(Source(tmp_path / "x.JP2", None, OBSERVATION, "RED"), target, SMALL).equals(before)


def test_unusable_inputs_are_explained(tmp_path: Path) -> None:
    Image.new("RGB", (100, 700), "red").save(tmp_path / "x.jpg")
    for observation in ("../../x", "ESP_011472_1225/..", "ESP_011472_1225\n"):
        with pytest.raises(MarsError, match="not a HiRISE observation id"):
            cut_crops(Source(tmp_path / "x.jpg", None, observation, "RED"), tmp_path / "out")
    with pytest.raises(MarsError, match=re.escape("700 x 100 pixels, too few for crops of 512")):
        cut_crops(Source(tmp_path / "x.jpg", None, OBSERVATION, "RGB.NOMAP.browse"), tmp_path / "out")
    with pytest.raises(MarsError, match="3"):
        cut_crops(Source(tmp_path / "x.jpg", None, OBSERVATION, "RED"), tmp_path / "out", SMALL)
    whole = (tmp_path / "x.jpg").read_bytes()
    (tmp_path / "x.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedFileError, match="cannot be decoded"):
        cut_crops(Source(tmp_path / "x.jpg", None, OBSERVATION, "RGB.NOMAP.browse"), tmp_path / "out", SMALL)
    write_jp2(tmp_path / "x.JP2", terrain(13, 128, 128, 1))
    whole = (tmp_path / "x.JP2").read_bytes()
    for length in (0, 10, 100, len(whole) // 2):
        (tmp_path / "x.JP2").write_bytes(whole[:length])
        with pytest.raises(DamagedFileError, match=r"x\.JP2"):
            cut_crops(Source(tmp_path / "x.JP2", None, OBSERVATION, "RED"), tmp_path / "out", SMALL)


def test_composites() -> None:
    bands = np.array([[[7, 100, 60]]], np.uint16)
    np.testing.assert_allclose(rgb_composite("COLOR", bands), [[[100, 60, 90]]])
    np.testing.assert_array_equal(rgb_composite("RGB.NOMAP", bands), bands)
    np.testing.assert_array_equal(rgb_composite("RED", bands[..., :1]), [[[7, 7, 7]]])
    with pytest.raises(MarsError):
        rgb_composite("COLOR", bands[..., :2])


# pictures


def test_figures(tmp_path: Path) -> None:
    pixels = terrain(14, 300, 200, 3, 400, 600).astype(np.uint16)
    pixels[130:140, 70:80] = 0
    write_jp2(tmp_path / "x.JP2", pixels)
    manifest = cut_crops(Source(tmp_path / "x.JP2", None, OBSERVATION, "RGB.NOMAP"), tmp_path / "out", SMALL)
    out = version_in_use(tmp_path / "out")
    sheet = contact_sheet(manifest, out, columns=4, thumbnail=32, most=6)
    assert sheet.size == (4 * 34 + 2, 2 * 34 + 2)

    picture = np.asarray(overview_with_grid(tmp_path / "x.JP2", manifest))
    assert picture.shape[0] > 300
    for cell in manifest.to_dict("records"):
        corner = picture[cell["row"], cell["col"]].tolist()
        assert corner == ([64, 220, 120] if cell["kept"] else [255, 80, 80])
    first = manifest[manifest["kept"]].iloc[0]
    thumbnail = np.asarray(sheet)[2:34, 2:34]
    np.testing.assert_allclose(thumbnail.mean(), opened(out / first["file"]).mean(), atol=1)
    assert contact_sheet(manifest[~manifest["kept"]], out).size == (256, 64)
