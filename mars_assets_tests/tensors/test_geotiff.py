import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from mars_assets.bands import HLS_BANDS, PRITHVI_V1, impute, normalize, scale_to_reflectance
from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.tensors.geotiff import is_chip, read_bands, read_chip, read_fingerprint, size_of, write_chip


@pytest.fixture
def chip() -> np.ndarray:
    rgb = np.random.default_rng(4).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    return impute(scale_to_reflectance(rgb), "post_norm")


def test_written_losslessly_as_other_tools_expect(chip: np.ndarray, tmp_path: Path) -> None:
    transform = rasterio.Affine(0.5, 0, 1000, 0, -0.5, 2000)
    write_chip(
        tmp_path / "a.tif",
        chip,
        HLS_BANDS,
        georeference=("IAU_2015:49910", transform),
        fingerprint="f1",
    )
    np.testing.assert_array_equal(read_chip(tmp_path / "a.tif", HLS_BANDS), chip)
    with rasterio.open(tmp_path / "a.tif") as file:
        assert file.descriptions == HLS_BANDS
        assert set(file.dtypes) == {"float32"}
        assert file.transform == transform
        assert file.crs.to_string() == "IAU_2015:49910"
    assert read_fingerprint(tmp_path / "a.tif") == "f1"
    assert normalize(chip, PRITHVI_V1).dtype == np.float32


def test_another_order_of_bands_is_refused(chip: np.ndarray, tmp_path: Path) -> None:
    write_chip(tmp_path / "a.tif", chip, HLS_BANDS[::-1])
    with pytest.raises(DamagedFileError, match="has the bands"):
        read_chip(tmp_path / "a.tif", HLS_BANDS)


@pytest.mark.parametrize("keep", [0, 100, 0.5])
def test_a_truncated_chip_is_refused(chip: np.ndarray, tmp_path: Path, keep: float) -> None:
    write_chip(tmp_path / "a.tif", chip, HLS_BANDS, fingerprint="f")
    content = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(content[: int(keep if keep >= 1 else keep * len(content))])
    with pytest.raises(DamagedFileError, match=r"a\.tif"):
        read_chip(tmp_path / "a.tif", HLS_BANDS)


def test_values_that_are_not_finite_are_not_written(chip: np.ndarray, tmp_path: Path) -> None:
    chip[2, 3, 4] = np.nan
    with pytest.raises(MarsError, match="finite"):
        write_chip(tmp_path / "a.tif", chip, HLS_BANDS)
    assert not list(tmp_path.iterdir())


def test_a_missing_chip_has_no_fingerprint(tmp_path: Path) -> None:
    assert read_fingerprint(tmp_path / "absent.tif") is None


@pytest.mark.slow
@pytest.mark.parametrize("short", [1, 1000, 3000, 20_000], ids=lambda short: f"{short} bytes short")
def test_a_chip_for_which_there_is_no_room_is_not_there(chip: np.ndarray, tmp_path: Path, short: int) -> None:
    """The file system lets files grow to a bit less than the chip wants, in a process of its own."""
    write_chip(tmp_path / "whole.tif", chip, HLS_BANDS)
    np.save(tmp_path / "chip.npy", chip)
    script = """
import resource, sys
from pathlib import Path
import numpy as np
from mars_assets.bands import HLS_BANDS
from mars_assets.tensors.geotiff import write_chip
from mars_assets.errors import MarsError

folder, limit = Path(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    write_chip(folder / "chips" / "a.tif", np.load(folder / "chip.npy"), HLS_BANDS)
except MarsError as error:
    print(error)
"""
    limit = (tmp_path / "whole.tif").stat().st_size - short
    done = subprocess.run(
        [sys.executable, "-B", "-c", script, str(tmp_path), str(limit)], check=True, capture_output=True, text=True
    )
    assert "chips/a.tif exceeds the file size limit" in done.stdout
    assert not list((tmp_path / "chips").iterdir())


def test_a_tiff_is_a_picture_or_a_chip_by_its_channels(chip: np.ndarray, tmp_path: Path) -> None:
    rgb = np.random.default_rng(4).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    write_chip(tmp_path / "chip.TIF", chip, HLS_BANDS)
    np.testing.assert_array_equal(read_bands(tmp_path / "chip.TIF", PRITHVI_V1), chip)
    for pixels, name in ((rgb, "rgb.tif"), (rgb[..., 0], "grey.TIFF")):
        Image.fromarray(pixels).save(tmp_path / name)
        Image.fromarray(pixels).save(tmp_path / "same.png")
        expected = read_bands(tmp_path / "same.png", PRITHVI_V1)
        np.testing.assert_array_equal(read_bands(tmp_path / name, PRITHVI_V1), expected)
        assert not is_chip(tmp_path / name)
        assert size_of(tmp_path / name) == size_of(tmp_path / "same.png") == (40, 56)
    assert is_chip(tmp_path / "chip.TIF")
    assert size_of(tmp_path / "chip.TIF") == (40, 56)
    write_chip(tmp_path / "three.tif", chip[:3], HLS_BANDS[:3])
    with rasterio.open(tmp_path / "six.tif", "w", driver="GTiff", count=6, height=8, width=8, dtype="uint8") as file:
        file.write(np.zeros((6, 8, 8), np.uint8))
    for name in ("three.tif", "six.tif"):
        with pytest.raises(DamagedFileError, match=rf"{name} has the bands .*save it with 1 or 3 channels"):
            read_bands(tmp_path / name, PRITHVI_V1)


def test_a_tiff_whose_name_is_not_utf8_says_so(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.tif")
    Image.new("L", (8, 8)).save(path)
    with pytest.raises(DamagedFileError, match=r"caf\\xe9\.tif cannot be read, since its name is not UTF-8: rename it"):
        read_bands(path, PRITHVI_V1)
