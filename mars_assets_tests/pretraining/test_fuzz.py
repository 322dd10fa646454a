"""Zips of further images with random changes: read, or refused, and nothing is written outside the lake."""

import io
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mars_assets.lake import Lake
from mars_assets.pretraining.data import read_pixels, unlabelled_images
from mars_assets_tests.changes import changed_bytes, changed_text, fuzz, outcome

pytestmark = pytest.mark.slow

NAMES = ("train/ESP_011472_1225_tile.png", "a.jpg", "deep/er/b.tif", "masks/a.png", "c_png.rf.0a.png", "notes.txt")
HOSTILE = ("../out.png", "/out.png", "C:\\out.png", "a/../../out.png", "..\\..\\out.png", "a\0.png", "n" * 300 + ".png")


def _image(number: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, ("PNG", "JPEG", "TIFF")[number % 3])
    return buffer.getvalue()


IMAGES = {name: _image(number) for number, name in enumerate(NAMES)}


@st.composite
def zips(draw: st.DrawFn) -> bytes:
    """A zip with changed names and contents."""
    entries = list(IMAGES.items())
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(entries) - 1))
        name, content = entries[place]
        match draw(st.sampled_from(["content", "name", "hostile", "twice"])):
            case "content":
                entries[place] = name, changed_bytes(draw, content)
            case "name":
                entries[place] = changed_text(draw, name), content
            case "hostile":
                entries[place] = draw(st.sampled_from(HOSTILE)), content
            case _:
                entries.append((changed_text(draw, name), content))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))) as archive:
        for name, content in entries:
            archive.writestr(zipfile.ZipInfo(name or "x"), content)
    return changed_bytes(draw, buffer.getvalue()) if not draw(st.integers(0, 2)) else buffer.getvalue()


@given(content=zips())
@fuzz
def test_a_changed_zip_is_read_or_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "more.zip").write_bytes(content)
        lake = Lake(folder / "lake")
        found, _ = outcome(lambda: unlabelled_images(lake, folder / "more.zip"))
        assert {path.name for path in folder.iterdir()} <= {"lake", "more.zip"}
        if found is None:
            return
        assert found.images["image_id"].is_unique
        for path in found.images["path"]:
            assert path.resolve().is_relative_to(lake.root.resolve())
            assert read_pixels(path).shape[2] in (1, 3)
        assert found.images["path"].is_unique
        again, _ = outcome(lambda: unlabelled_images(lake, folder / "more.zip"))
        assert again is not None
        assert again.sha == found.sha
