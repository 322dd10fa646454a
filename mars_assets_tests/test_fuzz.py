"""Image files with random changes: every reader agrees on them, or refuses them with a message."""

import functools
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mars_assets.images import image_size, is_turned, picture_size, read_grey_or_rgb, read_rgb, read_stored
from mars_assets_tests.changes import changed_bytes, fuzz, outcome

pytestmark = pytest.mark.slow

KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "jpeg": ("RGB", "JPEG", {}),
    "grey jpeg": ("L", "JPEG", {"progressive": True}),
    "turned jpeg": ("RGB", "JPEG", {"exif": True}),
    "cmyk jpeg": ("CMYK", "JPEG", {}),
    "png": ("RGB", "PNG", {}),
    "bits": ("1", "PNG", {}),
    "palette": ("P", "PNG", {"transparency": 3}),
    "alpha": ("RGBA", "PNG", {}),
    "turned png": ("L", "PNG", {"exif": True}),
    "deep png": ("I;16", "PNG", {}),
    "tiff": ("RGB", "TIFF", {}),
    "deflated tiff": ("L", "TIFF", {"compression": "tiff_adobe_deflate"}),
    "lzw tiff": ("RGB", "TIFF", {"compression": "tiff_lzw"}),
    "deep tiff": ("I;16", "TIFF", {}),
    "turned tiff": ("RGB", "TIFF", {"exif": True}),
    "bmp": ("RGB", "BMP", {}),
    "palette bmp": ("P", "BMP", {}),
    "webp": ("RGB", "WEBP", {}),
    "lossless webp": ("RGBA", "WEBP", {"lossless": True, "exif": True}),
    "gif": ("P", "GIF", {}),
    "jpeg 2000": ("RGB", "JPEG2000", {}),
    "grey jpeg 2000": ("L", "JPEG2000", {"irreversible": True}),
}


@functools.cache
def _picture(kind: str) -> bytes:
    mode, suffix, options = KINDS[kind]
    if "exif" in options:
        exif = Image.Exif()
        exif[0x0112] = 6
        options = options | {"exif": exif}
    rgb = np.random.default_rng(0).integers(0, 256, (18, 25, 3), np.uint8)
    image = (
        Image.fromarray(rgb[..., 0].astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(rgb).convert(mode)
    )
    buffer = io.BytesIO()
    image.save(buffer, suffix, **options)
    return buffer.getvalue()


@given(kind=st.sampled_from(sorted(KINDS)), data=st.data())
@fuzz
def test_a_changed_picture_is_read_or_refused(kind: str, data: st.DataObject) -> None:
    content = _picture(kind)
    for _ in range(data.draw(st.integers(1, 3))):
        stop = data.draw(st.sampled_from([40, 200, len(content)]))  # most of a header is at the beginning
        content = changed_bytes(data.draw, content[:stop]) + content[stop:]
    sizes = [outcome(lambda read=read: read(content, "repair it", "a.x")) for read in (image_size, picture_size)]
    read = [
        outcome(lambda: read_rgb(content, name="a.x")),
        outcome(lambda: read_grey_or_rgb(content, name="a.x")),
        outcome(lambda: read_grey_or_rgb(content, "scale", name="a.x")),
        outcome(lambda: read_stored(content, "repair it", "a.x")),
    ]
    turned = outcome(lambda: is_turned(content, "a.x"))
    for found, refusal in (*sizes, *read, turned):
        assert found is not None or refusal.startswith("a.x ")
    for pixels, _ in read:
        if pixels is not None:
            assert pixels.shape[:2] == sizes[1][0], "of the header"
            assert pixels.shape[:2] == (sizes[0][0] or pixels.shape[:2])
    rgb, grey, scaled, _ = (pixels for pixels, _ in read)
    assert (rgb is None) == (grey is None)
    if rgb is not None:
        assert rgb.dtype == np.uint8
        assert rgb.shape[2] == 3
        assert np.array_equal(rgb, np.broadcast_to(grey, rgb.shape))
        assert np.array_equal(scaled, grey)
