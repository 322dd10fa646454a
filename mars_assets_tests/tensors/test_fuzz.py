"""TIFFs with random changes, as pictures to predict and as chips: read alike, or refused with a message."""

import functools
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mars_assets.bands import HLS_BANDS, PRITHVI_V1, impute, scale_to_reflectance
from mars_assets.tensors.geotiff import is_chip, read_bands, read_chip, size_of, write_chip
from mars_assets_tests.changes import changed_bytes, fuzz, outcome

pytestmark = pytest.mark.slow


@functools.cache
def _tiff(kind: str) -> bytes:
    rgb = np.random.default_rng(0).integers(0, 256, (18, 25, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.tif"
        if kind == "chip":
            write_chip(path, impute(scale_to_reflectance(rgb), "post_norm"), HLS_BANDS, fingerprint="x")
        else:
            Image.fromarray(rgb).convert(kind).save(path, compression="tiff_lzw" if kind == "L" else None)
        return path.read_bytes()


@given(kind=st.sampled_from(["chip", "chip", "RGB", "L"]), data=st.data())
@fuzz
def test_a_changed_tiff_is_read_or_refused(kind: str, data: st.DataObject) -> None:
    content = _tiff(kind)
    for _ in range(data.draw(st.integers(1, 3))):
        stop = data.draw(st.sampled_from([200, 600, len(content)]))
        content = changed_bytes(data.draw, content[:stop]) + content[stop:]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.tif"
        path.write_bytes(content)
        size = outcome(lambda: size_of(path))
        chip = outcome(lambda: is_chip(path))
        bands = outcome(lambda: read_bands(path, PRITHVI_V1))
        read = outcome(lambda: read_chip(path, HLS_BANDS))
    for found, refusal in (size, chip, bands, read):
        assert found is not None or "a.tif" in refusal
    for values, _ in (bands, read):
        if values is not None:
            assert values.shape == (6, *(size[0] or ()))
            assert values.dtype == np.float32
    if chip[0] and read[0] is not None:
        np.testing.assert_array_equal(bands[0], read[0])
