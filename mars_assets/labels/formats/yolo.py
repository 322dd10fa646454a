"""Reader of YOLO polygons.

``data.yaml`` names the classes; ``SPLIT/labels/X.txt`` has one line per crater in ``SPLIT/images/X.jpg``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import PurePosixPath

import yaml

from mars_assets.errors import DamagedFileError
from mars_assets.images import image_size
from mars_assets.labels.formats.image import (
    EXPORT_AGAIN,
    ExportedImage,
    Outline,
    class_of,
    is_image,
    listed,
    original_name,
    split_of,
)
from mars_assets.labels.zip_archive import ExportArchive

DATA_FILE = "data.yaml"
_MAX_YAML = 2**20
_FAR = 4.0
"""Largest accepted normalised coordinate, of which 0 to 1 lie in the image; parts outside it are clipped later."""


def is_yolo(archive: ExportArchive) -> bool:
    """Test whether an archive has a ``data.yaml`` and label files."""
    return DATA_FILE in archive and any(PurePosixPath(name).parts[1:2] == ("labels",) for name in archive.names)


def read_yolo(archive: ExportArchive, warnings: list[str]) -> Iterator[ExportedImage]:
    """Read the images that have a label file, which is empty if there is no crater.

    Classes other than crater are left out and reported.

    Raises:
        DamagedFileError: the class names or a line cannot be read, or a line is a box.
    """
    names = _class_names(archive)
    ignored: dict[str, int] = {}
    bare = 0
    for entry in archive.names:
        name = PurePosixPath(entry)
        split = split_of(name)
        if split is None or not is_image(name) or name.parts[1:-1] != ("images",):
            continue
        labels = f"{split}/labels/{name.stem}.txt"
        if labels not in archive:
            bare += 1
            archive.account_for(entry)
            continue
        size = image_size(archive.read(entry), EXPORT_AGAIN, f"{archive.path.name}: {entry}")
        outlines = _outlines(archive, labels, names, size, ignored)
        yield ExportedImage(entry, split, original_name(entry), outlines=outlines, size=size)
    if ignored:
        warnings.append(f"annotations of classes other than crater were left out: {ignored}")
    if bare:
        warnings.append(f"{bare} images without a label file were left out")


def _class_names(archive: ExportArchive) -> dict[int, str]:
    where = f"{archive.path.name}: {DATA_FILE}"
    text = archive.text(DATA_FILE)
    if len(text) > _MAX_YAML:
        raise DamagedFileError(f"{where} is {len(text)} characters long: this is not a YOLO export")
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise DamagedFileError(f"{where} is not valid YAML ({error}): export it again") from error
    if isinstance(content, dict) and "kpt_shape" in content:
        raise DamagedFileError(f"{where} declares key points: export outlines")
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not all(isinstance(key, int) and isinstance(v, str) for key, v in names.items()):
        raise DamagedFileError(f"{where} has no list of class names: export it again")
    if not any(class_of(name) == "crater" for name in names.values()):
        raise DamagedFileError(f"{where} has no class crater, only {', '.join(names.values())}: export that class too")
    return names


def _outlines(
    archive: ExportArchive, entry: str, names: dict[int, str], size: tuple[int, int], ignored: dict[str, int]
) -> tuple[Outline, ...]:
    height, width = size
    problems: list[str] = []
    outlines = []
    for number, line in enumerate(archive.text(entry).splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        known = words[0].isascii() and words[0].isdigit() and len(words[0]) < 10
        name = names.get(int(words[0])) if known else None
        values = _numbers(words[1:])
        if name is None:
            problems.append(f"line {number} has the unknown class {words[0][:40]!r}")
        elif class_of(name) != "crater":
            ignored[name] = ignored.get(name, 0) + 1
        elif values is None:
            problems.append(f"line {number} has coordinates that are not numbers or are far outside the image")
        elif len(values) == 4:
            problems.append(f"line {number} is a box: export outlines")
        elif len(values) < 6 or len(values) % 2:
            problems.append(f"line {number} has an outline of {len(values)} numbers")
        else:
            outlines.append({"polygons": [[v * (height if k % 2 else width) for k, v in enumerate(values)]]})
    if problems:
        raise DamagedFileError(f"{archive.path.name}: {entry}: {listed(problems)}. Export it again")
    return tuple(outlines)


def _numbers(words: list[str]) -> list[float] | None:
    try:
        values = [float(word) for word in words]
    except ValueError:
        return None
    return values if all(math.isfinite(value) and abs(value) <= _FAR for value in values) else None
