import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mars_assets.errors import DamagedFileError
from mars_assets.labels import zip_archive as archives
from mars_assets.labels.class_names import ClassNames
from mars_assets.labels.exports import Export, export_identity, label_version, open_splits, read_export
from mars_assets.labels.formats.image import original_name
from mars_assets.labels.zip_archive import open_export
from mars_assets_tests.labels.conftest import coco, image_bytes


def test_real_segmentation_export(shared: Path) -> None:
    export = read_export(shared / "data/exports/craters.v1.coco-segmentation.zip")
    splits = [image.split for image in export.images]
    assert (splits.count("train"), splits.count("valid")) == (121, 24)
    assert sum(len(image.outlines or ()) for image in export.images) == 1523
    assert (export.project, export.version, export.format) == ("craters", 1, "coco-segmentation")
    assert all(image.label is None for image in export.images)


def test_real_classification_export(shared: Path) -> None:
    export = read_export(shared / "data/exports/crater-tiles.v1.folder.zip")
    splits = [image.split for image in export.images]
    assert (splits.count("train"), splits.count("valid")) == (526, 110)
    with zipfile.ZipFile(export.path) as archive:
        craters = sum("/Crater/" in name for name in archive.namelist())
    assert [image.label for image in export.images].count("crater") == craters
    assert export.images[0].original.startswith("ESP_011425_1775_RED-")


@pytest.mark.parametrize(
    ("name", "original"),
    [
        ("ESP_011425_1775_RED-0029_jpg.rf.e81493a6.jpg", "ESP_011425_1775_RED-0029"),
        ("ESP_011425_1775_RED_r00512_c00000_png.rf.0a.jpg", "ESP_011425_1775_RED_r00512_c00000"),
        ("plain.png", "plain"),
        ("a_jpg.rf.b_jpg.rf.c0.jpg", "a_jpg.rf.b"),
        ("a_JPEG.rf.0a.jpg", "a"),
        ("tile_alpha_heif.rf.0a.jpg", "tile_alpha"),
        ("tile_alpha_Avif.rf.0a.jpg", "tile_alpha"),
        ("tile_alpha_JP2.rf.0a.jpg", "tile_alpha"),
        ("tile_alpha.rf.0a.jpg", "tile_alpha"),
        ("tile_7.rf.0a.jpg", "tile_7"),
        ("train\\a_PNG.rf.0a.jpg", "a"),
        ("Su\u0308d_png.rf.0a.jpg", "S\u00fcd"),
        ("_png.rf.0a.jpg", "_png.rf.0a"),
        ("a_jpg.rf.0a (1).jpg", "a"),
        ("a_jpg.RF.0A-copy.jpg", "a"),
        ("a_jpg.rf.0a - Kopie (2).jpg", "a"),
    ],
)
def test_original_names(name: str, original: str) -> None:
    assert original_name(name) == original


@pytest.mark.parametrize(
    ("name", "project", "version"),
    [
        ("Apple.v2i.yolov8.zip", "apple", 2),
        ("X.v1i.coco.zip", "x", 1),
        ("X.v1i.coco (1).zip", "x", 1),
        ("go-chess 2.v3-go-chess.v1.coco.zip", "go-chess-2", 3),
        ("My Project.v2-raw.coco.zip", "my-project", 2),
        ("Mars Craters.v12i.coco-segmentation.zip", "mars-craters", 12),
        ("mars-craters.v12.coco-segmentation.zip", "mars-craters", 12),  # by the API
        ("Hard Hat Sample.v4-416x416_aug.folder.zip", "hard-hat-sample", 4),
        ("my.craters.v12.coco-segmentation.zip", "my-craters", 12),
        ("c.v3.zip", "c", 3),
        ("CRATERS.V12I.COCO.ZIP", "craters", 12),
        ("Kra\u0308ter.v2i.coco.zip", "kr\u00e4ter", 2),  # as macOS writes it
        ("download.zip", "download", 0),
        ("a.v2x.zip", "a-v2x", 0),
        ("...zip", "..", 0),
    ],
)
def test_identity_of_names(name: str, project: str, version: int) -> None:
    assert export_identity(Path(name)) == (project, version)


def test_negatives_are_kept_and_the_root_category_is_not_a_class(write_zip, coco_entries) -> None:
    export = read_export(write_zip("c.v3.coco-segmentation.zip", coco_entries))
    assert [len(image.outlines or ()) for image in export.images] == [1, 0, 1]
    assert export.version == 3


def test_readme_notes_warn(write_zip, coco_entries) -> None:
    entries = coco_entries | {
        "README.roboflow.txt": "Pre-processing:\n* Auto-orientation\n* Resize to 640x640 (Stretch)\n"
    }
    export = read_export(write_zip("c.zip", entries))
    assert export.warnings == ("Roboflow altered the exported images: Resize to 640x640 (Stretch)",)


def changed(entries: dict, **changes: object) -> dict:
    content = json.loads(entries["train/_annotations.coco.json"])
    for path, value in changes.items():
        where, key = path.split("__")
        content[where][0][key] = value
    return entries | {"train/_annotations.coco.json": json.dumps(content)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations__image_id": 99}, "unknown image 99"),
        ({"images__file_name": "absent.jpg"}, "'absent.jpg' is not in the archive"),
        ({"images__file_name": "../../etc/passwd"}, "is not in the archive"),
        ({"images__file_name": None}, "not in the archive"),
        ({"images__id": 1}, "occurs twice"),
        ({"categories__name": "dune", "categories__id": 1}, "category id 1 is both 'dune' and 'crater'"),
    ],
)
def test_contradictions_are_named(write_zip, coco_entries, change: dict, message: str) -> None:
    with pytest.raises(DamagedFileError, match=message):
        read_export(write_zip("c.zip", changed(coco_entries, **change)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images__height": -5}, "impossible size"),
        ({"images__height": 10**9}, "impossible size"),
        ({"images__width": None}, "impossible size"),
        ({"annotations__category_id": 7}, "unknown category 7"),
        ({"categories__name": None, "categories__id": 2, "annotations__category_id": 2}, "unknown category 2"),
        ({"annotations__segmentation": [[0.1, 0.1, 0.9, 0.1, 0.5, 0.8]]}, "from 0 to 1, which are no pixels"),
        ({"annotations__segmentation": []}, "no outline"),
        ({"annotations__segmentation": [[1.0, 2.0]]}, "outline of 2 numbers"),
        ({"annotations__segmentation": [[1.0, 2.0, 3.0, 4.0, 5.0, float("nan")]]}, "coordinates"),
        ({"annotations__segmentation": [[1.0, 2.0, 3.0, 4.0, 5.0, 1e300]]}, "coordinates"),
        ({"annotations__segmentation": [[1.0, 2.0, 3.0, 4.0, 5.0, "6"]]}, "coordinates"),
        ({"annotations__segmentation": {"counts": "x"}}, "run-length"),
    ],
)
def test_an_annotation_that_cannot_be_used_leaves_out_its_image(
    write_zip, coco_entries, change: dict, message: str
) -> None:
    export = read_export(write_zip("c.zip", changed(coco_entries, **change)))
    (said,) = export.left_out
    assert said.startswith("train/train0_png.rf.")
    assert message in said
    assert len(export.images) == 2
    # Where no outline can be used, it is no accident.
    entries = {name: content for name, content in coco_entries.items() if name.startswith("train/")}
    with pytest.raises(DamagedFileError, match=message):
        read_export(write_zip("d.zip", changed(entries, **change)))


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"images": 3}', "{", "[" * 100_000, '{"images": [1], "annotations": []}']
)
def test_json_of_the_wrong_shape(write_zip, coco_entries, content: str) -> None:
    with pytest.raises(DamagedFileError, match=r"COCO file|not valid JSON"):
        read_export(write_zip("c.zip", coco_entries | {"train/_annotations.coco.json": content}))


def test_unknown_format_names_the_known(write_zip) -> None:
    with pytest.raises(DamagedFileError, match=r"COCO segmentation.*folder classification"):
        read_export(write_zip("c.zip", {"a.txt": "x"}))


@pytest.mark.parametrize("name", ["../evil.jpg", "/etc/evil.jpg", "a/../../evil.jpg", "C:/evil.jpg", "..\\evil.jpg"])
def test_names_that_lead_out_are_refused(write_zip, coco_entries, name: str) -> None:
    with pytest.raises(DamagedFileError, match="points outside"):
        read_export(write_zip("c.zip", coco_entries | {name: b"x"}))


def test_links_are_refused(write_zip, coco_entries) -> None:
    path = write_zip("c.zip", coco_entries)
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("train/link.jpg")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DamagedFileError, match="is a link"):
        read_export(path)


def test_bombs_are_refused(write_zip, coco_entries, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DamagedFileError, match="times its size"):
        read_export(write_zip("c.zip", coco_entries | {"train/bomb.json": b"\0" * 2**24}))
    monkeypatch.setattr(archives, "MAX_ENTRIES", 4)
    with pytest.raises(DamagedFileError, match="entries"):
        read_export(write_zip("d.zip", coco_entries))


@pytest.mark.parametrize("keep", [0.3, 0.7, 0.97])
def test_half_copied_zips_are_refused(write_zip, coco_entries, keep: float) -> None:
    path = write_zip("c.zip", coco_entries)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(DamagedFileError, match="half-copied"):
        read_export(path)


def _is_noticed(path: Path, whole: Export) -> bool:
    """Whether a damaged zip is refused, at the latest when its pixels are read, or a warning says what it lacks.

    Raises:
        AssertionError: it is read as something else without a word.
    """
    try:
        export = read_export(path)
        with open_splits(path) as archive:
            for image in export.images:
                archive.read(image.entry)
    except DamagedFileError:
        return True
    if set(export.warnings) > set(whole.warnings) or export.unknown or export.left_out:
        return True
    assert export.images == whole.images
    return False


def test_flipped_bytes_never_pass_silently(write_zip, coco_entries) -> None:
    """A damaged zip is read as before, or refused; it never raises anything else and never changes what is read."""
    path = write_zip("c.zip", coco_entries)
    whole, good = read_export(path), path.read_bytes()
    rng = np.random.default_rng(5)
    refused = 0
    for _ in range(300):
        bad = bytearray(good)
        bad[rng.integers(len(bad))] ^= 1 << rng.integers(8)
        path.write_bytes(bad)
        refused += _is_noticed(path, whole)
    assert refused > 10


PNG = image_bytes(1, 8, "png")
MASK = io.BytesIO()
Image.fromarray(np.eye(8, dtype=np.uint8)).save(MASK, "PNG")
_SPLITS = ("train", "valid")
SMALL: dict[str, dict[str, bytes | str]] = {
    "coco": {f"{split}/a.png": PNG for split in _SPLITS}
    | {
        f"{split}/_annotations.coco.json": coco([{"id": 0, "file_name": "a.png", "height": 8, "width": 8}], [])
        for split in _SPLITS
    },
    "folder": {f"{split}/{name}/a.png": PNG for split in _SPLITS for name in ("Crater", "NoCrater")},
    "yolo": {"data.yaml": "names: [crater]\n"}
    | {f"{split}/images/a.png": PNG for split in _SPLITS}
    | {f"{split}/labels/a.txt": "" for split in _SPLITS},
    "masks": {f"{split}/a.png": PNG for split in _SPLITS}
    | {f"{split}/a_mask.png": MASK.getvalue() for split in _SPLITS}
    | {f"{split}/_classes.csv": "Pixel Value, Class\n0, background\n1, crater\n" for split in _SPLITS},
    "multi-label": {f"{split}/a.png": PNG for split in _SPLITS}
    | {f"{split}/_classes.csv": "filename, Crater\na.png, 1\n" for split in _SPLITS},
}


@pytest.mark.slow
@pytest.mark.parametrize("layout", SMALL)
def test_no_flipped_bit_of_a_name_hides_an_image(write_zip, layout: str) -> None:
    """Names are not covered by a checksum: those in the directory at a zip's end, bit by bit."""
    path = write_zip("c.zip", SMALL[layout])
    whole, good = read_export(path), path.read_bytes()
    assert {image.split for image in whole.images} == set(_SPLITS)
    directory = good.index(b"PK\x01\x02")
    for name in SMALL[layout]:
        place = good.index(name.encode(), directory)
        for bit in range(8 * len(name)):
            bad = bytearray(good)
            bad[place + bit // 8] ^= 1 << bit % 8
            path.write_bytes(bad)
            _is_noticed(path, whole)


@pytest.mark.parametrize("layout", SMALL)
@pytest.mark.parametrize("top", ["", "Mars Craters.v1i/", "a/b/"])
def test_val_is_valid_and_a_folder_around_everything_does_not_matter(write_zip, layout: str, top: str) -> None:
    """As a Mac's Finder packs what was unpacked, and as other tools call splits."""
    whole = read_export(write_zip("c.zip", SMALL[layout]))
    moved = {f"{top}{name.replace('valid/', 'val/')}": content for name, content in SMALL[layout].items()}
    moved |= {"__MACOSX/train/._a.png": b"x", f"{top}train/.DS_Store": b"x", f"{top}README.dataset.txt": "x"}
    export = read_export(write_zip("d.zip", moved))
    assert (export.images, export.format, export.warnings) == (whole.images, whole.format, whole.warnings)


@pytest.mark.parametrize("layout", SMALL)
def test_images_elsewhere_are_said(write_zip, layout: str) -> None:
    more = {"more/b.png": PNG, "README.png": PNG, "README.txt": "x", "README/c.json": "x", "train/c.png.part": "x"}
    export = read_export(write_zip("c.zip", SMALL[layout] | more))
    assert [image.original for image in export.images] == [
        image.original for image in read_export(write_zip("d.zip", SMALL[layout])).images
    ]
    where = "it is outside train, valid, test"
    assert export.left_out[-2:] == (f"more/b.png: {where}", f"README.png: {where}")
    assert export.warnings[-1] == "2 unexpected files were ignored: README/c.json; train/c.png.part"


@pytest.mark.parametrize(("layout", "file"), [("coco", "_annotations.coco.json"), ("multi-label", "_classes.csv")])
def test_a_split_without_its_labels_or_labels_elsewhere_are_refused(write_zip, layout: str, file: str) -> None:
    entries = SMALL[layout]
    without = {name: content for name, content in entries.items() if name != f"valid/{file}"}
    with pytest.raises(DamagedFileError, match=f"images in valid but no {file} next to them"):
        read_export(write_zip("c.zip", without))
    with pytest.raises(DamagedFileError, match=f"label files outside the folders train, valid, test: holdout/{file}"):
        read_export(write_zip("c.zip", entries | {f"holdout/{file}": entries[f"train/{file}"]}))


def test_two_entries_that_become_one_are_refused(write_zip) -> None:
    with pytest.raises(
        DamagedFileError, match=r"'valid/Crater/a\.png' and 'val/Crater/a\.png', which mean the same file"
    ):
        read_export(write_zip("c.zip", SMALL["folder"] | {"val/Crater/a.png": PNG}))


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED])
def test_damaged_entries_are_said_whatever_they_are_packed_with(tmp_path: Path, method: int) -> None:
    path = tmp_path / "c.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a.txt", bytes(np.random.default_rng(0).integers(0, 30, 3000, dtype=np.uint8)))
    good = path.read_bytes()
    refused = 0
    for place in range(30, good.index(b"PK\x01\x02"), 7):
        bad = bytearray(good)
        bad[place] ^= 64
        path.write_bytes(bad)
        try:
            with open_export(path) as archive:
                archive.read("a.txt")
        except DamagedFileError:
            refused += 1
    assert refused > 100


def test_label_version_knows_no_order_and_no_names() -> None:
    assert label_version(["b", "a"]) == label_version(["a", "b", "a"]) != label_version(["a"])
    stated = ClassNames({("", "object"): "crater"}).key
    assert label_version(["a"], stated) != label_version(["a"])
