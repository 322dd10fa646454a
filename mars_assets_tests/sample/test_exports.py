"""The sample's exports are read by the project's own reader and by pycocotools, and agree with the known craters."""

from __future__ import annotations

import io
import json
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mars_assets.craters.relief import Crater
from mars_assets.labels.exports import read_export
from mars_assets.sample.exports import (
    SEGMENTATION_ZIP,
    SPLITS,
    TILE,
    TILES_ZIP,
    LabelledCrop,
    area,
    outline,
    share_inside,
    tile_class,
    write_segmentation_export,
    write_tiles_export,
)

SIZE = 512


def _crops() -> list[LabelledCrop]:
    """Two crops of each of six scenes, in pairs a split; the second crop of every scene has no crater."""
    rng = np.random.default_rng(0)
    crops = []
    for scene in range(6):
        for column in range(2):
            pixels = rng.integers(0, 255, (SIZE, SIZE, 3), np.uint8)
            craters = (
                Crater(100, 120, 60, 0.2),
                Crater(float(rng.uniform(0, SIZE)), 500, float(rng.uniform(20, 90)), 0.5),
                Crater(300, 300, 8, 0.5),
                Crater(SIZE + 19, 40, 40, 0.5),
            )
            name = f"ESP_99{scene:04d}_1800_COLOR_r00000_c{column * SIZE:05d}"
            crops.append(LabelledCrop(name, SPLITS[scene // 2], pixels, craters if column == 0 else ()))
    return crops


@pytest.fixture(scope="module")
def inbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inbox")
    write_segmentation_export(folder / SEGMENTATION_ZIP, _crops())
    write_tiles_export(folder / TILES_ZIP, _crops(), seed=0)
    return folder


def test_an_outline_is_the_circle_inside_the_image() -> None:
    """Against a count of pixels on a grid four times finer."""
    rng = np.random.default_rng(1)
    fine = (np.arange(4 * 200) + 0.5) / 4
    for _ in range(30):
        crater = Crater(*rng.uniform(-40, 240, 2), float(rng.uniform(14, 180)), 0.5)
        polygon = outline(crater, 200, 200)
        distance = np.hypot(fine[None] - crater.x, fine[:, None] - crater.y)
        counted = (distance < crater.diameter / 2).mean() * 200**2
        if len(polygon) == 0:
            assert counted < 3
            continue
        assert polygon.min() >= 0
        assert polygon.max() <= 200
        assert area(polygon) == pytest.approx(counted, abs=0.01 * crater.diameter**2)


def test_share_inside() -> None:
    assert share_inside(Crater(50, 50, 40, 0), 100, 100) == pytest.approx(1)
    assert share_inside(Crater(0, 50, 40, 0), 100, 100) == pytest.approx(0.5)
    assert share_inside(Crater(100, 0, 40, 0), 100, 100) == pytest.approx(0.25)
    assert share_inside(Crater(-30, 50, 40, 0), 100, 100) == 0


def test_segmentation_export_is_read_back(inbox: Path) -> None:
    export = read_export(inbox / SEGMENTATION_ZIP)
    assert (export.project, export.version, export.format) == ("sample-craters", 1, "coco-segmentation")
    assert export.warnings == ()
    by_name = {image.original: image for image in export.images}
    assert len(by_name) == 12
    for crop in _crops():
        image = by_name[crop.crop_id]
        assert image.split == crop.split
        assert image.size == (SIZE, SIZE)
        assert image.outlines is not None
        # The small one is texture, and of the one at the border too little is in the picture.
        assert len(image.outlines) == (2 if crop.craters else 0)
    scenes = {split: {i.original[:15] for i in export.images if i.split == split} for split in SPLITS}
    assert all(len(names) == 2 for names in scenes.values())
    assert not (scenes["train"] & scenes["valid"])
    assert not (scenes["train"] & scenes["test"])
    assert not (scenes["valid"] & scenes["test"])


def test_segmentation_export_has_roboflows_layout(inbox: Path) -> None:
    from pycocotools import mask

    with zipfile.ZipFile(inbox / SEGMENTATION_ZIP) as archive:
        assert {"README.roboflow.txt", "README.dataset.txt"} <= set(archive.namelist())
        assert b"SYNTHETIC" in archive.read("README.roboflow.txt")
        assert b"SYNTHETIC" in archive.read("README.dataset.txt")
        for split in SPLITS:
            coco = json.loads(archive.read(f"{split}/_annotations.coco.json"))
            assert [image["id"] for image in coco["images"]] == list(range(4))
            assert [annotation["id"] for annotation in coco["annotations"]] == list(range(4))
            assert {"id": 0, "name": "crater", "supercategory": "none"} in coco["categories"]
            assert {annotation["category_id"] for annotation in coco["annotations"]} == {1}
            assert "SYNTHETIC" in coco["info"]["description"]
            for annotation in coco["annotations"]:
                decoded = mask.decode(mask.merge(mask.frPyObjects(annotation["segmentation"], SIZE, SIZE)))
                assert decoded.sum() == pytest.approx(annotation["area"], rel=0.05)
                x, y, width, height = annotation["bbox"]
                assert x >= 0
                assert y >= 0
                assert x + width <= SIZE
                assert y + height <= SIZE
                rows, columns = np.nonzero(decoded)
                assert [columns.min(), rows.min()] == pytest.approx([x, y], abs=1.5)
            for image in coco["images"]:
                assert image["extra"]["name"] + ".rf." in image["file_name"].replace("_png", ".png")
                with Image.open(io.BytesIO(archive.read(f"{split}/{image['file_name']}"))) as picture:
                    assert picture.format == "JPEG"
                    assert picture.size == (SIZE, SIZE)


def test_tiles_export_is_read_back(inbox: Path) -> None:
    export = read_export(inbox / TILES_ZIP)
    assert (export.project, export.version, export.format, export.warnings) == ("sample-tiles", 1, "folder", ())
    crops = {crop.crop_id: crop for crop in _crops()}
    for image in export.images:
        crop_id, _, number = image.original.rpartition("-t")
        row, column = divmod(int(number), 2)
        top, left = 32 + row * TILE, 32 + column * TILE
        craters = [Crater(c.x - left, c.y - top, c.diameter, c.degradation) for c in crops[crop_id].craters]
        assert image.split == crops[crop_id].split
        assert image.label == {"Crater": "crater", "NoCrater": "no_crater"}[str(tile_class(craters))]
    for split in SPLITS:
        labels = [image.label for image in export.images if image.split == split]
        assert 0 < labels.count("crater") <= labels.count("no_crater") <= 1.2 * labels.count("crater") + 1


@pytest.mark.parametrize(
    ("crater", "expected"),
    [
        (Crater(112, 112, 24, 0), "Crater"),
        (Crater(112, 112, 23, 0), None),
        (Crater(112, 112, 11, 0), "NoCrater"),
        (Crater(12, 112, 40, 0), "Crater"),
        (Crater(5, 112, 40, 0), None),
        (Crater(-10, 112, 40, 0), None),
        (Crater(-21, 112, 40, 0), "NoCrater"),
        (Crater(-15, -15, 40, 0), "NoCrater"),
        (Crater(TILE + 10, TILE + 10, 40, 0), None),
    ],
)
def test_only_clear_tiles_have_a_class(crater: Crater, expected: str | None) -> None:
    assert tile_class([crater]) == expected


def test_the_same_crops_give_the_same_bytes(inbox: Path, tmp_path: Path) -> None:
    write_segmentation_export(tmp_path / SEGMENTATION_ZIP, _crops())
    write_tiles_export(tmp_path / TILES_ZIP, _crops(), seed=0)
    for name in (SEGMENTATION_ZIP, TILES_ZIP):
        assert (tmp_path / name).read_bytes() == (inbox / name).read_bytes()


def test_circle_area_of_a_whole_crater() -> None:
    assert area(outline(Crater(256, 256, 100, 0), 512, 512)) == pytest.approx(math.pi * 50**2, rel=1e-9)
