"""Kinds of image files in exports: turned, of other formats, of more than 8 bits, transparent."""

import hashlib
import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mars_assets.errors import MarsError
from mars_assets.images import read_label_image, read_rgb
from mars_assets.labels.build import build_labelled_crops
from mars_assets.labels.checks import unusable_images
from mars_assets.labels.inbox import rejections
from mars_assets.labels.table import mask_path
from mars_assets.lake import Lake
from mars_assets_tests.labels.conftest import coco

Write = Callable[[str, dict[str, bytes | str]], Path]
HEIGHT, WIDTH = 64, 96
BOX = slice(8, 24), slice(60, 84)
"""Rows and columns of the bright rectangle that is the crater."""


def _scene() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 60, (HEIGHT, WIDTH, 3), np.uint8)
    pixels[BOX] = 230
    return Image.fromarray(pixels)


def _ring() -> list[float]:
    (top, bottom), (left, right) = ((part.start, part.stop) for part in BOX)
    return [left, top, (left + right) / 2, top, right, top, right, bottom, left, bottom]  # with four, it were a box


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _as_coco(name: str, content: bytes) -> dict[str, bytes | str]:
    images = [{"id": 0, "file_name": name, "height": HEIGHT, "width": WIDTH}]
    annotations = [{"id": 0, "image_id": 0, "category_id": 1, "segmentation": [_ring()]}]
    return {f"train/{name}": content, "train/_annotations.coco.json": coco(images, annotations)}


def _as_yolo(name: str, content: bytes) -> dict[str, bytes | str]:
    values = " ".join(str(value / (HEIGHT if k % 2 else WIDTH)) for k, value in enumerate(_ring()))
    labels = f"train/labels/{Path(name).stem}.txt"
    return {"data.yaml": "names: [crater]", f"train/images/{name}": content, labels: f"0 {values}"}


def _as_masks(name: str, content: bytes) -> dict[str, bytes | str]:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[BOX] = 1
    return {
        "train/_classes.csv": "Pixel Value, Class\n0, background\n1, crater\n",
        f"train/{name}": content,
        f"train/{Path(name).stem}_mask.png": _encoded(Image.fromarray(mask), "PNG"),
    }


def _build(lake: Lake, path: Path) -> Any:
    lake.inbox.mkdir(parents=True)
    shutil.copy(path, lake.inbox)
    return build_labelled_crops(lake)[0]


@pytest.mark.parametrize("layout", [_as_coco, _as_yolo, _as_masks])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_an_outline_lies_where_its_crater_is_shown(lake: Lake, write_zip: Write, kind: str, layout: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    stored = _scene().transpose(Image.Transpose.ROTATE_270)
    options = {"quality": 95} if kind == "JPEG" else {}
    content = _encoded(stored, kind, exif=exif, **options)
    table = _build(lake, write_zip("a.v1.zip", layout(f"a.{kind.lower()}", content)))
    row = next(table.itertuples())
    assert (row.height, row.width, row.n_craters) == (HEIGHT, WIDTH, 1)
    pixels = read_rgb(lake.inside(row.file))
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    instances = read_label_image(mask_path(lake, "instances", row))
    assert pixels[instances == 1].mean() > 200
    assert pixels[instances == 0].mean() < 60


def test_annotations_of_the_picture_as_stored_are_told_from_damage(lake: Lake, write_zip: Write) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = _scene().transpose(Image.Transpose.ROTATE_90)
    images = [{"id": 0, "file_name": "a.jpg", "height": WIDTH, "width": HEIGHT}]
    ring = [{"id": 0, "image_id": 0, "category_id": 1, "segmentation": [[8, 8, 20, 9, 15, 30]]}]
    entries: dict[str, bytes | str] = {"train/a.jpg": _encoded(stored, "JPEG", exif=exif)}
    with pytest.raises(MarsError, match=r"a\.jpg: it is 96 x 64 .* for 64 x 96: its orientation in EXIF turns it"):
        _build(lake, write_zip("a.v1.zip", entries | {"train/_annotations.coco.json": coco(images, ring)}))


@pytest.mark.parametrize("suffix", ["tif", "TIFF", "bmp", "webp", "gif", "jp2", "jfif"])
@pytest.mark.parametrize("layout", [_as_coco, _as_yolo, _as_masks])
def test_images_of_other_formats_are_labelled(lake: Lake, write_zip: Write, suffix: str, layout: Any) -> None:
    kind = {"tif": "TIFF", "jp2": "JPEG2000", "jfif": "JPEG"}.get(suffix, suffix.upper())
    name = f"a.{suffix}"
    table = _build(lake, write_zip("a.v1.zip", layout(name, _encoded(_scene(), kind))))
    row = next(table.itertuples())
    assert row.n_craters == 1
    pixels = read_rgb(lake.inside(row.file))
    assert pixels[read_label_image(mask_path(lake, "instances", row)) == 1].mean() > 200


def test_folders_of_other_formats_are_complete(lake: Lake, write_zip: Write) -> None:
    entries: dict[str, bytes | str] = {
        "train/Crater/a.webp": _encoded(_scene(), "WEBP"),
        "train/NoCrater/b.BMP": _encoded(_scene().transpose(Image.Transpose.ROTATE_90), "BMP"),
    }
    table = _build(lake, write_zip("a.v1.zip", entries))
    assert sorted(table["label"]) == ["crater", "no_crater"]


def test_a_transparent_image_is_refused_with_its_name(lake: Lake, write_zip: Write) -> None:
    entries: dict[str, bytes | str] = {"train/Crater/a.png": _transparent()}
    with pytest.raises(MarsError, match=r"train/Crater/a\.png: it has transparent pixels"):
        _build(lake, write_zip("a.v1.zip", entries))


def test_an_image_that_is_too_large_is_to_be_cut(lake: Lake, write_zip: Write) -> None:
    huge = _encoded(Image.new("1", (16385, 8)), "PNG")
    with pytest.raises(MarsError, match=r"a\.png: it is too large \(16385 x 8 pixels; .*cut it into smaller ones"):
        _build(lake, write_zip("a.v1.zip", {"train/Crater/a.png": huge}))


@pytest.mark.parametrize("name", ["B1_exif_yolo_rect", "B11_coco_tif", "B11_folder_webp"])
def test_reported_exports_are_read(lake: Lake, shared: Path, name: str) -> None:
    table = _build(lake, next((shared / "data" / "reported" / name).glob("*.zip")))
    for row in table.itertuples():
        assert read_rgb(lake.inside(row.file)).shape[:2] == (row.height, row.width)
    if name == "B11_folder_webp":
        assert set(table["label"]) == {"crater", "no_crater"}


def test_a_reported_export_of_16_bits_is_refused(lake: Lake, shared: Path) -> None:
    with pytest.raises(MarsError, match="more than 8 bits per channel"):
        _build(lake, next((shared / "data" / "reported" / "B4_rgb16").glob("*.zip")))
    assert "train/" in rejections(lake.inbox)[0][1]


def test_only_a_turned_image_gets_another_identity(lake: Lake, write_zip: Write) -> None:
    exif = Image.Exif()
    entries: dict[str, bytes | str] = {}
    for orientation in (1, 3):
        exif[0x0112] = orientation
        image = _scene().rotate(90 * orientation)
        entries[f"train/Crater/{orientation}.jpg"] = _encoded(image, "JPEG", exif=exif)
    table = _build(lake, write_zip("a.v1.zip", entries)).set_index("original")
    for name in ("1", "3"):
        content = entries[f"train/Crater/{name}.jpg"]
        assert isinstance(content, bytes)
        assert (table.at[name, "pixels_sha"] == hashlib.sha256(content).hexdigest()) == (name == "1")
        assert table.at[name, "image_id"] == f"{name}-{table.at[name, 'pixels_sha'][:8]}"


@pytest.mark.parametrize("layout", [_as_coco, _as_yolo, _as_masks])
def test_a_format_that_is_not_read_is_refused_with_its_name(lake: Lake, write_zip: Write, layout: Any) -> None:
    with pytest.raises(MarsError, match=r"a\.HEIC: it cannot be read, since it is not a JPEG or PNG file, nor TIFF"):
        _build(lake, write_zip("a.v1.zip", layout("a.HEIC", b"\0\0\0\x18ftypheic")))


def _deep() -> bytes:
    return _encoded(Image.fromarray(np.full((HEIGHT, WIDTH), 40000, np.uint16)), "PNG")


def _transparent() -> bytes:
    image = _scene()
    image.putalpha(Image.new("L", image.size, 200))
    return _encoded(image, "PNG")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("b.heic", b"\0\0\0\x18ftypheic", "cannot be read, since it is not a JPEG or PNG file, nor TIFF"),
        ("b.png", _deep(), "has more than 8 bits per channel"),
        ("b.png", _transparent(), "has transparent pixels"),
        ("b.png", _encoded(Image.new("1", (16385, 8)), "PNG"), "is too large"),
        ("b.jpg", _encoded(_scene(), "JPEG")[:900], "cannot be decoded"),
    ],
    ids=["HEIC", "16 bits", "transparent", "huge", "truncated"],
)
@pytest.mark.parametrize("layout", ["folders", _as_yolo, _as_masks, _as_coco])
def test_an_image_that_cannot_be_used_costs_itself_alone(
    lake: Lake, write_zip: Write, layout: Any, name: str, content: bytes, reason: str
) -> None:
    good = _encoded(_scene().transpose(Image.Transpose.FLIP_TOP_BOTTOM), "PNG")
    if layout == "folders":
        entries: dict[str, bytes | str] = {"train/NoCrater/a.png": good, f"train/Crater/{name}": content}
    elif layout is _as_coco:
        files = [
            {"id": n, "file_name": file, "height": HEIGHT, "width": WIDTH} for n, file in enumerate(["a.png", name])
        ]
        rings = [{"id": n, "image_id": n, "category_id": 1, "segmentation": [_ring()]} for n in range(2)]
        entries = {"train/a.png": good, f"train/{name}": content, "train/_annotations.coco.json": coco(files, rings)}
    else:
        entries = layout("a.png", good) | layout(name, content)
    table = _build(lake, write_zip("a.v1.zip", entries))
    assert table["original"].tolist() == ["a"]
    problems, images = unusable_images(lake)
    assert images == 2
    assert len(problems) == 1
    assert re.match(rf"left out, a: train/.*{name}: it {reason}", problems[0])
    assert not rejections(lake.inbox)
