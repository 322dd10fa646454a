import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mars_assets.errors import DamagedFileError
from mars_assets.labels import archives
from mars_assets.labels.exports import (
    export_identity,
    label_version,
    read_export,
)
from mars_assets.labels.formats.image import original_name


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
    assert export.notes == ("Auto-orientation", "Resize to 640x640 (Stretch)")
    assert ["Resize to 640x640" in warning for warning in export.warnings] == [True]


def changed(entries: dict, **changes: object) -> dict:
    content = json.loads(entries["train/_annotations.coco.json"])
    for path, value in changes.items():
        where, key = path.split("__")
        content[where][0][key] = value
    return entries | {"train/_annotations.coco.json": json.dumps(content)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations__category_id": 7}, "unknown category 7"),
        ({"annotations__image_id": 99}, "unknown image 99"),
        ({"annotations__segmentation": []}, "no outline"),
        ({"annotations__segmentation": [[1.0, 2.0]]}, "outline of 2 numbers"),
        ({"annotations__segmentation": [[1.0, 2.0, 3.0, 4.0, 5.0, float("nan")]]}, "coordinates"),
        ({"annotations__segmentation": [[1.0, 2.0, 3.0, 4.0, 5.0, 1e300]]}, "coordinates"),
        ({"annotations__segmentation": [[1.0, 2.0, 3.0, 4.0, 5.0, "6"]]}, "coordinates"),
        ({"annotations__segmentation": {"counts": "x"}}, "run-length"),
        ({"images__file_name": "absent.jpg"}, "'absent.jpg' is not in the archive"),
        ({"images__file_name": "../../etc/passwd"}, "is not in the archive"),
        ({"images__file_name": None}, "not in the archive"),
        ({"images__height": -5}, "impossible size"),
        ({"images__height": 10**9}, "impossible size"),
        ({"images__id": 1}, "occurs twice"),
    ],
)
def test_contradictions_are_named(write_zip, coco_entries, change: dict, message: str) -> None:
    with pytest.raises(DamagedFileError, match=message):
        read_export(write_zip("c.zip", changed(coco_entries, **change)))


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
    with pytest.raises(DamagedFileError, match="leads out"):
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


def test_flipped_bytes_never_pass_silently(write_zip, coco_entries) -> None:
    """A damaged zip is read as before, or refused; it never raises anything else and never changes what is read."""
    path = write_zip("c.zip", coco_entries)
    whole, good = read_export(path).images, path.read_bytes()
    rng = np.random.default_rng(5)
    refused = 0
    for _ in range(300):
        bad = bytearray(good)
        bad[rng.integers(len(bad))] ^= 1 << rng.integers(8)
        path.write_bytes(bad)
        try:
            assert {i.outlines for i in map(_hashable, read_export(path).images)} <= {
                i.outlines for i in map(_hashable, whole)
            }
        except DamagedFileError:
            refused += 1
    assert refused > 10


def _hashable(image):
    from dataclasses import replace

    return replace(image, outlines=json.dumps(image.outlines))


def test_label_version_knows_no_order_and_no_names() -> None:
    assert label_version(["b", "a"]) == label_version(["a", "b", "a"]) != label_version(["a"])
