"""Exports made in a test: real layouts, tiny images."""

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mars_assets.labels.build import build_labelled_crops
from mars_assets.lake import Lake


def image_bytes(seed: int = 0, side: int = 48, suffix: str = "jpeg") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, suffix)
    return buffer.getvalue()


def coco(images: list[dict[str, Any]], annotations: list[dict[str, Any]], **more: Any) -> str:
    categories = [
        {"id": 0, "name": "crater", "supercategory": "none"},
        {"id": 1, "name": "crater", "supercategory": "crater"},
    ]
    return json.dumps({"info": {}, "categories": categories, "images": images, "annotations": annotations, **more})


SQUARE = [8.0, 8.0, 16.0, 8.0, 24.0, 8.0, 24.0, 24.0, 8.0, 24.0]
"""Five corners: with four, it would be a box."""


@pytest.fixture
def write_zip(tmp_path: Path) -> Callable[[str, dict[str, bytes | str]], Path]:
    def write(name: str, entries: dict[str, bytes | str]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for entry, content in entries.items():
                archive.writestr(entry, content)
        return path

    return write


@pytest.fixture
def coco_entries() -> dict[str, bytes | str]:
    """Two images in train, one of them a negative, and one in valid; ids restart in every split."""
    entries: dict[str, bytes | str] = {}
    for split, count in (("train", 2), ("valid", 1)):
        names = [f"{split}{n}_png.rf.{n:032x}.jpg" for n in range(count)]
        for n, name in enumerate(names):
            entries[f"{split}/{name}"] = image_bytes(n + 10 * count)
        images = [{"id": n, "file_name": name, "height": 48, "width": 48} for n, name in enumerate(names)]
        annotations = [{"id": 0, "image_id": 0, "category_id": 1, "segmentation": [SQUARE]}]
        entries[f"{split}/_annotations.coco.json"] = coco(images, annotations)
    return entries


@pytest.fixture
def filled(lake: Lake, write_zip, coco_entries) -> Lake:
    """A lake with the labels of ``coco_entries``."""
    lake.inbox.mkdir(parents=True)
    shutil.move(write_zip("c.v1.coco-segmentation.zip", coco_entries), lake.inbox)
    build_labelled_crops(lake)
    return lake
