"""The formats beside COCO and folders: what they read is what COCO says of the same craters."""

import io
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.labels.build import build_labelled_crops
from mars_assets.labels.class_names import ClassNames
from mars_assets.labels.exports import read_export
from mars_assets.labels.masks import annotation_mask, instance_masks
from mars_assets.lake import Lake
from mars_assets_tests.labels.conftest import coco, image_bytes

Write = Callable[[str, dict[str, bytes | str]], Path]
SIDE = 48
NAMES = ("a_png.rf.1.jpg", "b_png.rf.2.jpg")


def _rings(rng: np.random.Generator) -> list[list[float]]:
    """Two far-apart ellipses as polygons, one of them across the border."""
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    return [
        np.stack([x + a * np.cos(angles), y + b * np.sin(angles)], axis=1).ravel().tolist()
        for (x, y), (a, b) in zip([(12, 14), (40, 38)], rng.uniform(4, 10, (2, 2)), strict=True)
    ]


def _images(split: str = "train") -> dict[str, bytes | str]:
    return {f"{split}/{name}": image_bytes(number, SIDE) for number, name in enumerate(NAMES)}


def _as_coco(rings: list[list[float]]) -> dict[str, bytes | str]:
    images = [{"id": n, "file_name": name, "height": SIDE, "width": SIDE} for n, name in enumerate(NAMES)]
    annotations = [{"id": n, "image_id": 0, "category_id": 1, "segmentation": [r]} for n, r in enumerate(rings)]
    return _images() | {"train/_annotations.coco.json": coco(images, annotations)}


def _as_yolo(rings: list[list[float]], names: str = "[crater, dune]", more: str = "") -> dict[str, bytes | str]:
    lines = [" ".join(["0", *(f"{value / SIDE:.9f}" for value in ring)]) for ring in rings]
    return {
        "data.yaml": f"train: ../train/images\nnc: 2\nnames: {names}\n",
        **{f"train/images/{name}": image_bytes(number, SIDE) for number, name in enumerate(NAMES)},
        "train/labels/a_png.rf.1.txt": "\n".join([*lines, more]),
        "train/labels/b_png.rf.2.txt": "",
    }


def _png(mask: np.ndarray, mode: str = "L") -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(mask.astype(np.uint8))
    if mode == "P":
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    image.convert(mode).save(buffer, "PNG") if mode == "RGB" else image.save(buffer, "PNG")
    return buffer.getvalue()


def _as_masks(
    mask: np.ndarray, classes: str = "Pixel Value, Class\n0, background\n1, crater\n", mode: str = "L"
) -> dict:
    return _images() | {
        "train/_classes.csv": classes,
        "train/a_png.rf.1_mask.png": _png(mask, mode),
        "train/b_png.rf.2_mask.png": _png(np.zeros((SIDE, SIDE)), mode),
    }


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
def test_yolo_and_masks_say_what_coco_says(write_zip: Write, seed: int, mode: str) -> None:
    rings = _rings(np.random.default_rng(seed))
    true = read_export(write_zip("c.v1.coco-segmentation.zip", _as_coco(rings)))
    drawn = instance_masks(true.images[0].outlines or (), SIDE, SIDE)
    filled = annotation_mask(drawn, "filled")
    yolo = read_export(write_zip("y.v1.yolov8.zip", _as_yolo(rings)))
    masks = read_export(write_zip("m.v1.png-mask-semantic.zip", _as_masks(filled, mode=mode)))
    assert (yolo.format, masks.format) == ("yolo", "png-mask-semantic")
    for export in (yolo, masks):
        assert [image.original for image in export.images] == ["a", "b"]
        assert [image.size for image in export.images] == [(SIDE, SIDE)] * 2
        assert export.images[1].outlines == ()
        again = instance_masks(export.images[0].outlines or (), SIDE, SIDE)
        assert sorted(mask.tobytes() for mask in again) == sorted(mask.tobytes() for mask in drawn)


def test_run_lengths_of_a_mask_that_begins_with_a_crater(write_zip: Write) -> None:
    mask = np.random.default_rng(0).random((SIDE, SIDE)) < 0.5
    mask[0, 0] = True
    export = read_export(write_zip("m.zip", _as_masks(mask)))
    np.testing.assert_array_equal(instance_masks(export.images[0].outlines or (), SIDE, SIDE).sum(axis=0), mask)
    assert any("touch" in warning for warning in export.warnings)


MULTI = _images() | {"train/_classes.csv": "filename, Crater, NoCrater\na_png.rf.1.jpg, 1, 0\nb_png.rf.2.jpg, 0, 1\n"}


def test_multilabel_classes(write_zip: Write) -> None:
    export = read_export(write_zip("k.v2.multiclass.zip", MULTI))
    assert export.format == "multi-label"
    assert [(image.original, image.label) for image in export.images] == [("a", "crater"), ("b", "no_crater")]
    one = MULTI | {"train/_classes.csv": "filename, Crater\na_png.rf.1.jpg, 1\nb_png.rf.2.jpg, 0\n"}
    assert [image.label for image in read_export(write_zip("k.zip", one)).images] == ["crater", "no_crater"]


def test_an_image_of_both_classes_has_none(write_zip: Write) -> None:
    both = MULTI | {"train/_classes.csv": "filename, Crater, NoCrater\na_png.rf.1.jpg, 1, 1\nb_png.rf.2.jpg, 0, 1\n"}
    export = read_export(write_zip("k.zip", both))
    assert [image.original for image in export.images] == ["b"]
    assert export.left_out == ("train/a_png.rf.1.jpg: it is of both classes, or of neither",)


def test_other_classes_and_unlabelled_images_are_said(write_zip: Write) -> None:
    entries = _as_yolo(_rings(np.random.default_rng(0)), more="1 0.1 0.1 0.2 0.1 0.2 0.2")
    del entries["train/labels/b_png.rf.2.txt"]
    export = read_export(write_zip("y.zip", entries), ClassNames({("", "dune"): "other"}))
    assert len(export.images[0].outlines or ()) == 2
    assert export.warnings == ("annotations of classes other than crater were left out: {'dune': 1}",)
    assert export.left_out == ("train/images/b_png.rf.2.jpg: there is no label file train/labels/b_png.rf.2.txt",)
    masks = _as_masks(np.zeros((SIDE, SIDE)))
    del masks["train/b_png.rf.2_mask.png"]
    without = ("train/b_png.rf.2.jpg: there is no mask train/b_png.rf.2_mask.png",)
    assert read_export(write_zip("m.zip", masks)).left_out == without


def _table(text: str) -> dict[str, bytes | str]:
    return MULTI | {"train/_classes.csv": text}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (_as_yolo([], more="7 0.1 0.1 0.2 0.1 0.2 0.2"), "unknown class '7'"),
        (_as_yolo([], more=f"{'9' * 5000} 0.1 0.1 0.2 0.1 0.2 0.2"), "unknown class '9999"),
        (_as_yolo([], more="0 0.5 0.5 0.2 0.2"), "is a box: outline the crater"),
        (_as_yolo([], more="0 0.1 0.1 0.2 0.1 0.2"), "has 5 numbers, which are no outline"),
        (_as_yolo([], more="0 0.1 nan 0.2 0.1 0.2 0.2"), "not numbers or are far outside"),
        (_as_yolo([], more="0 0.1 1e300 0.2 0.1 0.2 0.2"), "not numbers or are far outside"),
        (_as_yolo([], more="0 a b c d e f"), "not numbers or are far outside"),
        (_as_yolo([], names="[background]"), "has no class crater, only background"),
        (_as_yolo([], names="{a: crater}"), "no list of class names"),
        (_as_yolo([], names="[crater"), "not valid YAML"),
        (_as_yolo([]) | {"train/images/a_png.rf.1.jpg": b"GIF89a"}, "is not a JPEG or PNG file"),
        (_as_masks(np.full((SIDE, SIDE), 3)), r"has the values \[3\]"),
        (_as_masks(np.zeros((SIDE, SIDE + 1))), "its image 48 x 48"),
        (_as_masks(np.zeros((SIDE, SIDE)), "Pixel Value, Class\n0, background\n"), "has no class crater"),
        (_as_masks(np.zeros((SIDE, SIDE)), f"Pixel Value, Class\n{'9' * 5000}, crater\n"), "pixel value '9999"),
        (_as_masks(np.zeros((SIDE, SIDE))) | {"train/a_png.rf.1_mask.png": b"\x89PNG"}, "is not a JPEG or PNG file"),
        (_as_masks(np.eye(SIDE), "Pixel Value, Class\n1, dune\n1, crater\n"), "1 for both 'dune' and 'crater'"),
        (_as_yolo([], names="{0: a, 00: crater}"), "gives several names to one class"),
        ({k: v for k, v in _as_yolo([]).items() if k != "data.yaml"}, r"label files, but no data\.yaml"),
        ({"train/images/a.jpg": b"x", "train/masks/a.png": b"x"}, "no known export format"),
        (_table("filename, Crater\nabsent.jpg, 1\n"), "'absent.jpg' is not in the archive"),
        (_table("filename, Crater\n../../etc/passwd, 1\n"), "is not in the archive"),
        (_table("filename, Crater\na_png.rf.1.jpg, 1\na_png.rf.1.jpg, 1\n"), "occurs twice"),
        (_table("filename, Crater\na_png.rf.1.jpg, 2\n"), "'2' where 0 and 1 are expected"),
        (_table("filename, Crater\na_png.rf.1.jpg\n"), "where 0 and 1 are expected"),
        (_table("filename, background\na_png.rf.1.jpg, 1\n"), "no column for craters, only background"),
        (_table("filename, Crater\n"), r"no labelled image: .*a_png\.rf\.1\.jpg: it has no label"),
        (_table('filename, Crater\n"' + "x" * 200_000), "is not a valid CSV file"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_contradicts_itself_is_named(write_zip: Write, entries: dict[str, bytes | str], message: str) -> None:
    with pytest.raises(DamagedFileError, match=message):
        read_export(write_zip("broken.zip", entries))


def test_a_yaml_of_nested_aliases_is_no_bomb(write_zip: Write) -> None:
    bomb = "a: &a [x, x]\n" + "".join(
        f"{c}: &{c} [*{p}, *{p}]\n" for p, c in zip("abcdefghijklmnop", "bcdefghijklmnopq", strict=False)
    )
    with pytest.raises(DamagedFileError, match="no list of class names"):
        read_export(write_zip("y.zip", _as_yolo([]) | {"data.yaml": bomb + "names: *q\n"}))


def _header(width: int, height: int) -> bytes:
    """A PNG that says it is so large, and has hardly any pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(16000, 16000), (100_000, 100_000), (20_000, 10)])
def test_images_that_say_they_are_huge_are_not_opened(write_zip: Write, size: tuple[int, int]) -> None:
    masks = _as_masks(np.zeros((SIDE, SIDE))) | {"train/a_png.rf.1.jpg": _header(*size)}
    with pytest.raises(DamagedFileError, match="is too large"):
        read_export(write_zip("m.zip", masks))


def test_a_speckled_mask_is_refused_and_many_craters_are_quick(write_zip: Write) -> None:
    entries = {f"train/{name}": image_bytes(number, 512) for number, name in enumerate(NAMES)}
    board = np.indices((512, 512)).sum(axis=0) % 2
    speckled = _as_masks(board) | entries | {"train/b_png.rf.2_mask.png": _png(np.zeros((512, 512)))}
    with pytest.raises(DamagedFileError, match="has 131072 separate craters"):
        read_export(write_zip("m.zip", speckled))
    dots = np.zeros((512, 512))
    dots[4::16, 4::16] = 1
    many = speckled | {"train/a_png.rf.1_mask.png": _png(dots)}
    outlines = read_export(write_zip("m.zip", many)).images[0].outlines or ()
    assert len(outlines) == 32 * 32
    np.testing.assert_array_equal(
        instance_masks(outlines[:200], 512, 512).sum(axis=0) > 0,
        np.isin(np.arange(512 * 512), np.flatnonzero(dots.ravel())[:200]).reshape(512, 512),
    )


def _strange_coco(old: str, new: str) -> dict[str, bytes | str]:
    entries = _as_coco(_rings(np.random.default_rng(0)))
    key = "train/_annotations.coco.json"
    assert old in str(entries[key])
    return entries | {key: str(entries[key]).replace(old, new, 1)}


@pytest.mark.parametrize(
    "entries",
    [
        _strange_coco('"category_id": 1', f'"category_id": {"9" * 5000}'),
        _strange_coco('"category_id": 1', '"category_id": [1]'),
        _strange_coco('"image_id": 0', '"image_id": {"a": 1}'),
        _strange_coco('"segmentation": [[', f'"segmentation": [[1{"0" * 400}, 2, '),
    ],
    ids=[
        "long number",
        "list for a class",
        "object for an image",
        "huge coordinate",
    ],
)
def test_values_of_the_wrong_kind_are_no_crash(write_zip: Write, entries: dict[str, bytes | str]) -> None:
    with pytest.raises(DamagedFileError, match=r"strange\.zip"):
        read_export(write_zip("strange.zip", entries))


@pytest.mark.parametrize(
    "more", ["date: 2024-13-45", "n: !!int abc", "n: !!timestamp abc", f"n: {'9' * 5000}", "n: !!python/name:os.system"]
)
def test_what_yaml_could_make_of_other_values_does_not_matter(write_zip: Write, more: str) -> None:
    entries = _as_yolo([]) | {"data.yaml": f"names: [crater]\n{more}\n"}
    assert len(read_export(write_zip("y.zip", entries)).images) == 2


def test_a_zip_of_a_version_to_come_is_no_crash(write_zip: Write) -> None:
    path = write_zip("c.zip", MULTI)
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\x01\x02")
    content[place + 6] = 99  # version needed to extract
    path.write_bytes(bytes(content))
    with pytest.raises(DamagedFileError, match=r"c\.zip"):
        read_export(path)


def test_two_values_or_columns_of_one_class(write_zip: Write) -> None:
    mask = np.zeros((SIDE, SIDE))
    mask[4:10, 4:10], mask[30:40, 30:40] = 1, 2
    both = _as_masks(mask, "Pixel Value, Class\n0, background\n1, crater\n2, crater\n")
    assert len(read_export(write_zip("m.zip", both)).images[0].outlines or ()) == 2
    table = "filename, Crater, impact crater\na_png.rf.1.jpg, 0, 1\nb_png.rf.2.jpg, 0, 0\n"
    assert [image.label for image in read_export(write_zip("k.zip", _table(table))).images] == ["crater", "no_crater"]


def test_key_points_are_no_outlines(write_zip: Write) -> None:
    poses = _as_yolo([], more="0 .5 .5 .1 .1 .5 .5") | {"data.yaml": "names: [crater]\nkpt_shape: [1, 2]\n"}
    with pytest.raises(DamagedFileError, match="key points: export outlines"):
        read_export(write_zip("y.zip", poses))


@pytest.mark.parametrize("data", ["dataset.yaml", "Craters.YML"])
def test_the_only_settings_of_a_yolo_export_are_its_own(write_zip: Write, data: str) -> None:
    entries = _as_yolo(_rings(np.random.default_rng(0)))
    whole = read_export(write_zip("y.zip", entries))
    other = {data if name == "data.yaml" else name: content for name, content in entries.items()}
    assert read_export(write_zip("z.zip", other)).images == whole.images


def test_splits_below_images_and_labels_are_splits(write_zip: Write) -> None:
    entries = _as_yolo(_rings(np.random.default_rng(0)))
    whole = read_export(write_zip("y.zip", entries))
    swapped = {
        "/".join([*reversed(name.split("/")[:-1]), name.split("/")[-1]]): content for name, content in entries.items()
    }
    assert read_export(write_zip("z.zip", swapped)).images == whole.images


def test_a_class_may_be_written_as_a_real_number(write_zip: Write) -> None:
    entries = _as_yolo([], more="0.0 0.1 0.1 0.4 0.1 0.3 0.4")
    assert len(read_export(write_zip("y.zip", entries)).images[0].outlines or ()) == 1


def test_folders_below_a_class_are_of_the_class(write_zip: Write) -> None:
    entries: dict[str, bytes | str] = {
        "train/Crater/2021/a.png": b"x",
        "train/no crater/b.png": b"x",
        "valid/Crater/x/y/c.png": b"x",
    }
    export = read_export(write_zip("f.zip", entries))
    assert [image.label for image in export.images] == ["crater", "no_crater", "crater"]


@pytest.mark.parametrize("column", ["file_name", "Image"])
def test_the_column_of_file_names_has_several_names(write_zip: Write, column: str) -> None:
    text = str(MULTI["train/_classes.csv"]).replace("filename", column)
    assert read_export(write_zip("k.zip", _table(text))).images == read_export(write_zip("l.zip", MULTI)).images


@pytest.mark.parametrize(
    "entries",
    [
        _strange_coco('"image_id": 0', r'"image_id": "\uDC00"'),
        _strange_coco('"width": 48', r'"width": "\ud83d"'),
        _strange_coco('"name": "crater"', r'"name": "crater \uD800"'),
        _as_yolo([], names=r'["crater", "\uD800"]'),
    ],
)
def test_half_a_character_is_refused(lake: Lake, write_zip: Write, entries: dict[str, bytes | str]) -> None:
    lake.inbox.mkdir(parents=True)
    shutil.move(write_zip("a.v1.zip", entries), lake.inbox)
    with pytest.raises(MarsError, match=r"half of a character \('\\u[\w]+'\) in a name"):
        build_labelled_crops(lake)


def test_a_character_of_two_halves_is_one(write_zip: Write) -> None:
    entries = _strange_coco('"name": "crater", "supercategory": "c', r'"name": "\ud83d\ude00", "supercategory": "c')
    assert read_export(write_zip("a.zip", entries)).unknown == {"😀": 2}


def test_images_of_coco_may_lie_in_a_folder_of_their_own(write_zip: Write) -> None:
    images = [{"id": 0, "file_name": "a.jpg", "height": 48, "width": 48}]
    ring = [{"id": 0, "image_id": 0, "category_id": 1, "segmentation": [[5, 5, 20, 6, 12, 22]]}]
    entries: dict[str, bytes | str] = {
        "train/images/a.jpg": image_bytes(0),
        "train/_annotations.coco.json": coco(images, ring),
    }
    export = read_export(write_zip("c.zip", entries))
    assert [image.entry for image in export.images] == ["train/images/a.jpg"]
    assert not export.left_out
