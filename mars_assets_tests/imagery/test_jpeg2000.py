"""Windows picked out of JPEG 2000 files, against GDAL's reading of the whole file."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.shutil import copy

from mars_assets.errors import DamagedFileError
from mars_assets.imagery.jpeg2000 import Codestream, Window

pytestmark = pytest.mark.slow

LINES, SAMPLES = 700, 500


def write_jp2(path: Path, bands: int = 3, **options: Any) -> Path:
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:LINES, :SAMPLES]
    smooth = 400 + 200 * np.sin(y / 37) * np.cos(x / 53)
    pixels = np.stack([smooth + band * 40 + rng.normal(0, 20, smooth.shape) for band in range(bands)])
    plain = path.with_suffix(".tif")
    with rasterio.open(
        plain, "w", driver="GTiff", height=LINES, width=SAMPLES, count=bands, dtype="uint16", crs="IAU_2015:49910",
        transform=rasterio.transform.from_origin(0, 0, 1, 1),
    ) as dataset:  # fmt: skip
        dataset.write(pixels.clip(3, 1020).astype(np.uint16))
    chosen = {
        "BLOCKXSIZE": 1024, "BLOCKYSIZE": 1024, "NBITS": 10, "PLT": "YES", "REVERSIBLE": "YES", "QUALITY": "100",
        "YCC": "NO", "RESOLUTIONS": 5, "PRECINCTS": "{128,128},{64,64},{32,64}", "PROGRESSION": "RPCL",
    } | options  # fmt: skip
    copy(plain, path, driver="JP2OpenJPEG", **chosen)
    return path


def decode(codestream: bytes, folder: Path) -> np.ndarray:
    path = folder / "picked.j2k"
    path.write_bytes(codestream)
    with rasterio.open(path) as dataset:
        return dataset.read()


def whole(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read()


@pytest.fixture(scope="module")
def jp2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jp2(tmp_path_factory.mktemp("jp2") / "a.jp2")


@pytest.mark.parametrize("progression", ["LRCP", "RLCP", "RPCL", "PCRL", "CPRL"])
def test_a_window_decodes_as_in_the_whole_in_every_progression(progression: str, tmp_path: Path) -> None:
    path = write_jp2(tmp_path / "a.jp2", PROGRESSION=progression)
    codestream = Codestream.of(path)
    assert codestream is not None
    picked = codestream.pick(Window((300, 420), (130, 260)))
    assert len(picked) < 0.5 * path.stat().st_size
    expected = whole(path)
    found = decode(picked, tmp_path)
    np.testing.assert_array_equal(found[:, 300:420, 130:260], expected[:, 300:420, 130:260])
    assert not np.array_equal(found, expected), "nothing was left out"


@pytest.mark.parametrize(
    "options",
    [
        {"TILEPARTS": "R"},
        {"TILEPARTS": "C", "PROGRESSION": "CPRL"},
        {"SOP": "YES", "EPH": "YES"},
        {"QUALITY": "5,20,100", "PROGRESSION": "LRCP"},
        {"QUALITY": "5,20,100", "TILEPARTS": "L", "PROGRESSION": "LRCP"},
        {"REVERSIBLE": "NO", "QUALITY": "40"},
        {"RESOLUTIONS": 1},
        {"YCC": "YES"},
    ],
    ids=str,
)
def test_a_window_decodes_as_in_the_whole_with_every_coding(options: dict[str, Any], tmp_path: Path) -> None:
    path = write_jp2(tmp_path / "a.jp2", **options)
    codestream = Codestream.of(path)
    assert codestream is not None
    found = decode(codestream.pick(Window((256, 400), (0, 200))), tmp_path)
    np.testing.assert_array_equal(found[:, 256:400, :200], whole(path)[:, 256:400, :200])


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    rows=st.tuples(st.integers(0, LINES), st.integers(0, LINES)),
    cols=st.tuples(st.integers(0, SAMPLES), st.integers(0, SAMPLES)),
)
def test_any_window_decodes_as_in_the_whole(jp2: Path, rows: tuple[int, int], cols: tuple[int, int]) -> None:
    (top, bottom), (left, right) = sorted(rows), sorted(cols)
    codestream = Codestream.of(jp2)
    assert codestream is not None
    found = decode(codestream.pick(Window((top, bottom), (left, right))), jp2.parent)
    np.testing.assert_array_equal(found[:, top:bottom, left:right], whole(jp2)[:, top:bottom, left:right])


def test_all_packets_are_the_file(jp2: Path, tmp_path: Path) -> None:
    codestream = Codestream.of(jp2)
    assert codestream is not None
    np.testing.assert_array_equal(decode(codestream.pick(), tmp_path), whole(jp2))


def test_overviews_need_only_their_resolutions(jp2: Path, tmp_path: Path) -> None:
    codestream = Codestream.of(jp2)
    assert codestream is not None
    assert codestream.levels == 4
    picked = codestream.pick(discard=2)
    assert len(picked) < 0.2 * jp2.stat().st_size
    shape = (3, LINES // 4, SAMPLES // 4)
    (tmp_path / "o.j2k").write_bytes(picked)
    with rasterio.open(tmp_path / "o.j2k") as found, rasterio.open(jp2) as expected:
        np.testing.assert_array_equal(found.read(out_shape=shape), expected.read(out_shape=shape))


@pytest.mark.parametrize(
    "options", [{"PLT": "NO"}, {"BLOCKXSIZE": 256, "BLOCKYSIZE": 256}, {"PRECINCTS": "{1024,1024}"}], ids=str
)
def test_files_whose_packets_cannot_be_told_apart_are_declined(options: dict[str, Any], tmp_path: Path) -> None:
    assert Codestream.of(write_jp2(tmp_path / "a.jp2", **options)) is None


def test_a_file_cut_short_is_said_to_be_damaged(jp2: Path, tmp_path: Path) -> None:
    data = jp2.read_bytes()
    cut = tmp_path / "cut.jp2"
    for length in range(0, len(data), len(data) // 40):
        cut.write_bytes(data[:length])
        with pytest.raises(DamagedFileError, match=r"cut\.jp2.*Fetch it again$"):
            Codestream.of(cut)


def test_any_changed_header_byte_gives_an_answer_or_the_error_for_damage(jp2: Path, tmp_path: Path) -> None:
    data = bytearray(jp2.read_bytes())
    header = data.index(b"\xff\x93")  # SOD
    changed = tmp_path / "changed.jp2"
    rng = np.random.default_rng(0)
    for position in rng.choice(header, 300, replace=False):
        wrong = bytearray(data)
        wrong[position] ^= int(rng.integers(1, 256))
        changed.write_bytes(wrong)
        with contextlib.suppress(DamagedFileError):
            codestream = Codestream.of(changed)
            if codestream is not None:
                codestream.pick(Window((0, 100), (0, 100)))
