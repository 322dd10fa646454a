"""The sample's labels in Roboflow's formats.

They are outlines (COCO) and classes of tiles (folders).

These labels were not drawn by hand but computed from the list of craters in the terrain. The layout is Roboflow's,
including its oddities: a root category without annotations, ids that restart in every split, and recompressed images.
"""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from mars_assets.craters.relief import Crater
from mars_assets.images import encode
from mars_assets.sample.terrain import SMALLEST_LABELLED
from mars_assets.storage.files import atomic_path

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
SEGMENTATION_ZIP = "sample-craters.v1.coco-segmentation.zip"
TILES_ZIP = "sample-tiles.v1.folder.zip"

TILE = 224
_CORNERS = 48
_CAPTURED = "2000-01-01T00:00:00+00:00"
_MADE = (2000, 1, 1, 0, 0, 0)
"""A fixed time, so that the zips are reproducible byte for byte."""
_SYNTHETIC = (
    "SYNTHETIC: computed terrain with computed labels, made by mars_assets.sample. These are not images of Mars, "
    "nobody drew the labels, and the file was not made by roboflow.com: it is laid out like its exports."
)


@dataclass(frozen=True)
class LabelledCrop:
    """A crop of a scene with its craters.

    Args:
        crop_id: id in the crops' manifest.
        split: split of its scene.
        pixels: uint8, shape (height, width, 3).
        craters: craters that may reach into the crop, in its own pixel coordinates.
    """

    crop_id: str
    split: Split
    pixels: npt.NDArray[np.uint8]
    craters: tuple[Crater, ...]


def outline(crater: Crater, height: int, width: int) -> npt.NDArray[np.float64]:
    """Compute the part of a crater's rim inside an image as a polygon.

    Returns:
        Shape (n, 2), x and y of the corners; n is 0 if the crater lies outside.
    """
    from matplotlib.path import Path as Polygon
    from matplotlib.transforms import Bbox

    angles = np.arange(_CORNERS) * (2 * math.pi / _CORNERS)
    # The polygon has the area of the circle, so its corners lie slightly outside.
    radius = crater.diameter / 2 / math.sqrt(math.sin(2 * math.pi / _CORNERS) * _CORNERS / (2 * math.pi))
    corners = np.stack([crater.x + radius * np.cos(angles), crater.y + radius * np.sin(angles)], axis=1)
    clipped = Polygon(np.vstack([corners, corners[:1]]), closed=True).clip_to_bbox(Bbox([[0, 0], [width, height]]))
    polygons = clipped.to_polygons(closed_only=False)
    return np.asarray(polygons[0])[:-1] if polygons else np.empty((0, 2))


def area(polygon: npt.NDArray[np.float64]) -> float:
    """Compute the area of a polygon by the shoelace formula."""
    x, y = polygon.T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def share_inside(crater: Crater, height: int, width: int) -> float:
    """Compute the fraction of a crater that lies inside an image."""
    return area(outline(crater, height, width)) / (math.pi / 4 * crater.diameter**2)


def write_segmentation_export(path: Path, crops: Sequence[LabelledCrop]) -> None:
    """Write a COCO segmentation export of crops.

    Those without a crater are negatives.
    """
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        _write_readmes(archive, "sample-craters", len(crops), "Craters are annotated in COCO Segmentation format.")
        for split in SPLITS:
            images: list[dict[str, Any]] = []
            annotations: list[dict[str, Any]] = []
            for crop in (crop for crop in crops if crop.split == split):
                content = encode(Image.fromarray(crop.pixels), "JPEG", quality=90)
                name = _exported_name(crop.crop_id, content)
                _add(archive, f"{split}/{name}", content)
                height, width = crop.pixels.shape[:2]
                images.append(
                    {
                        "id": len(images),
                        "license": 1,
                        "file_name": name,
                        "height": height,
                        "width": width,
                        "date_captured": _CAPTURED,
                        "extra": {"name": f"{crop.crop_id}.png"},
                    }
                )
                for polygon in _outlines(crop):
                    annotations.append(_annotation(len(annotations), images[-1]["id"], polygon))
            if images:
                content = json.dumps(_coco(images, annotations)).encode()
                _add(archive, f"{split}/_annotations.coco.json", content)


def write_tiles_export(path: Path, crops: Sequence[LabelledCrop], seed: int) -> None:
    """Write a folder classification export of tiles that are ``TILE`` pixels wide.

    Both classes are about equally frequent in every split.
    """
    rng = np.random.default_rng(seed)
    tiles: list[tuple[Split, str, str, npt.NDArray[np.uint8]]] = []
    for split in SPLITS:
        classes: dict[str, list[tuple[str, npt.NDArray[np.uint8]]]] = {"Crater": [], "NoCrater": []}
        for crop in (crop for crop in crops if crop.split == split):
            for name, label, pixels in _tiles(crop):
                classes[label].append((name, pixels))
        most = math.ceil(1.2 * min(len(found) for found in classes.values()))
        for label, found in classes.items():
            chosen = np.sort(rng.permutation(len(found))[:most])
            tiles += [(split, label, *found[index]) for index in chosen]
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        _write_readmes(archive, "sample-tiles", len(tiles), "Tiles are annotated in folder format.")
        for split, label, name, pixels in tiles:
            content = encode(Image.fromarray(pixels), "JPEG", quality=90)
            _add(archive, f"{split}/{label}/{_exported_name(name, content)}", content)


def _outlines(crop: LabelledCrop) -> Iterator[npt.NDArray[np.float64]]:
    """Outline the craters that a person would.

    They are large enough, and enough of them is visible.
    """
    height, width = crop.pixels.shape[:2]
    for crater in crop.craters:
        if crater.diameter < SMALLEST_LABELLED:
            continue
        polygon = outline(crater, height, width)
        if len(polygon) >= 3 and area(polygon) >= max(60.0, 0.15 * math.pi / 4 * crater.diameter**2):
            yield polygon


def _tiles(crop: LabelledCrop) -> Iterator[tuple[str, str, npt.NDArray[np.uint8]]]:
    """Cut the tiles of a crop whose class is undisputed: name, class and pixels."""
    height, width = crop.pixels.shape[:2]
    rows, columns = height // TILE, width // TILE
    top, left = (height - rows * TILE) // 2, (width - columns * TILE) // 2
    for index in range(rows * columns):
        y, x = top + index // columns * TILE, left + index % columns * TILE
        craters = [Crater(c.x - x, c.y - y, c.diameter, c.degradation) for c in crop.craters]
        label = tile_class(craters)
        if label is not None:
            yield f"{crop.crop_id}-t{index:02d}", label, crop.pixels[y : y + TILE, x : x + TILE]


def tile_class(craters: Sequence[Crater]) -> Literal["Crater", "NoCrater"] | None:
    """Classify a tile by the craters around it, given in its own coordinates.

    None if people might disagree.
    """
    for crater in craters:
        centred = 0 <= crater.x < TILE and 0 <= crater.y < TILE
        if crater.diameter >= 24 and centred and share_inside(crater, TILE, TILE) >= 0.75:
            return "Crater"
    for crater in craters:
        dx = max(-crater.x, 0.0, crater.x - TILE)
        dy = max(-crater.y, 0.0, crater.y - TILE)
        if crater.diameter >= 12 and math.hypot(dx, dy) < crater.diameter / 2:
            return None
    return "NoCrater"


def _annotation(identity: int, image: int, polygon: npt.NDArray[np.float64]) -> dict[str, Any]:
    rounded = np.round(polygon, 2)
    low, high = rounded.min(axis=0), rounded.max(axis=0)
    return {
        "id": identity,
        "image_id": image,
        "category_id": 1,
        "bbox": np.round([*low, *(high - low)], 2).tolist(),
        "area": round(area(rounded), 2),
        "segmentation": [rounded.ravel().tolist()],
        "iscrowd": 0,
    }


def _coco(images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "info": {"year": "2000", "version": "1", "description": _SYNTHETIC, "date_created": _CAPTURED},
        "licenses": [{"id": 1, "url": "https://creativecommons.org/publicdomain/zero/1.0/", "name": "CC0 1.0"}],
        "categories": [
            {"id": 0, "name": "crater", "supercategory": "none"},
            {"id": 1, "name": "crater", "supercategory": "crater"},
        ],
        "images": images,
        "annotations": annotations,
    }


def _write_readmes(archive: zipfile.ZipFile, project: str, images: int, annotated: str) -> None:
    roboflow = f"""
{project} - v1 synthetic
==============================

{_SYNTHETIC}

The dataset includes {images} images.
{annotated}

The following pre-processing was applied to each image:
* Auto-orientation of pixel data (with EXIF-orientation stripping)

No image augmentation techniques were applied.
"""
    _add(archive, "README.dataset.txt", f"# {project}\n\n{_SYNTHETIC}\nLicense: CC0 1.0\n".encode())
    _add(archive, "README.roboflow.txt", roboflow.encode())


def _exported_name(name: str, content: bytes) -> str:
    return f"{name}_png.rf.{hashlib.md5(content, usedforsecurity=False).hexdigest()}.jpg"


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, _MADE)
    entry.external_attr = 0o644 << 16
    entry.compress_type = zipfile.ZIP_STORED if name.endswith(".jpg") else zipfile.ZIP_DEFLATED
    archive.writestr(entry, content)
