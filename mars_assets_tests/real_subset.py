"""Small exports with real images and labels: the first ones of the real exports."""

import json
import shutil
import zipfile
from pathlib import Path


def coco_subset(source: Path, target: Path, counts: dict[str, int]) -> None:
    """Writes a COCO export with the first images of each split and their annotations."""
    with zipfile.ZipFile(source) as full, zipfile.ZipFile(target, "w") as part:
        for split, count in counts.items():
            content = json.loads(full.read(f"{split}/_annotations.coco.json"))
            content["images"] = content["images"][:count]
            kept = {image["id"] for image in content["images"]}
            content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
            part.writestr(f"{split}/_annotations.coco.json", json.dumps(content))
            for image in content["images"]:
                part.writestr(f"{split}/{image['file_name']}", full.read(f"{split}/{image['file_name']}"))


def folder_subset(source: Path, target: Path, per_class: dict[str, int]) -> None:
    """Writes a folder export with the first images of each class of each split."""
    with zipfile.ZipFile(source) as full, zipfile.ZipFile(target, "w") as part:
        for split, count in per_class.items():
            for label in ("Crater", "NoCrater"):
                names = [name for name in full.namelist() if name.startswith(f"{split}/{label}/")]
                for name in names[:count]:
                    part.writestr(name, full.read(name))


def browse_archive(shared: Path, archive: Path) -> None:
    """An archive tree with the one real browse product."""
    name = "ESP_011472_1225_RGB.NOMAP.browse.jpg"
    folder = archive / "EXTRAS/RDR/ESP/ORB_011400_011499/ESP_011472_1225"
    folder.mkdir(parents=True)
    shutil.copy(shared / "data/hirise" / name, folder)
