"""Reader of YOLO polygons.

``data.yaml`` names the classes; ``SPLIT/labels/X.txt`` has one line per crater in ``SPLIT/images/X.jpg``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import cast

import yaml

from mars_assets.errors import DamagedFileError
from mars_assets.labels.formats.image import (
    ExportedImage,
    Findings,
    Notes,
    Split,
    is_image,
    refuse_half_characters,
    split_of,
)
from mars_assets.labels.zip_archive import ExportArchive

DATA_FILE = "data.yaml"
_MAX_YAML = 2**20
_FAR = 4.0
"""Largest accepted normalised coordinate, of which 0 to 1 lie in the image; parts outside it are clipped later."""


def is_yolo(archive: ExportArchive) -> bool:
    """Test whether an archive has label files.

    Raises:
        DamagedFileError: it has no ``data.yaml`` beside them.
    """
    places = [PurePosixPath(name) for name in archive.names]
    if not any(split_of(place) and place.parts[1:-1] == ("labels",) and place.suffix == ".txt" for place in places):
        return False
    if DATA_FILE not in archive:
        raise DamagedFileError(f"{archive.path.name} has label files, but no {DATA_FILE} that names classes: add it")
    return True


def read_yolo(archive: ExportArchive, notes: Notes) -> Iterator[ExportedImage]:
    """Read the images that have a label file, which is empty if there is no crater.

    An image with a line that cannot be used is left out.

    Raises:
        DamagedFileError: the class names cannot be read, or two images share a label file.
    """
    names = _class_names(archive, notes)
    images: dict[str, str] = {}
    for entry in archive.names:
        name = PurePosixPath(entry)
        split = split_of(name)
        if split is None or not is_image(name) or name.parts[1:-1] != ("images",):
            continue
        labels = f"{split}/labels/{name.stem}.txt"
        if labels not in archive:
            notes.unlabelled[entry] = f"there is no label file {labels}"
        elif labels in images:
            raise DamagedFileError(
                f"{archive.path.name}: {images[labels]} and {entry} share the label file {labels}: rename one of the "
                "images and export again"
            )
        else:
            images[labels] = entry
    doubtful = notes.doubtful(names.values())
    for labels, entry in images.items():
        size = notes.size_of(entry, archive.read(entry))
        archive.account_for(labels)
        if size is not None:
            findings = _findings(archive, labels, names, size, notes)
            findings.unknown.update(doubtful)
            yield from notes.outlined(entry, cast("Split", PurePosixPath(entry).parts[0]), size, findings)


def _class_names(archive: ExportArchive, notes: Notes) -> dict[int, str]:
    where = f"{archive.path.name}: {DATA_FILE}"
    text = archive.text(DATA_FILE)
    if len(text) > _MAX_YAML:
        raise DamagedFileError(f"{where} is {len(text)} characters long: this is not a YOLO export")
    try:
        # All values as text, since YAML takes a class called "no" for a truth value and one called "0" for a number.
        content = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506 - it builds nothing but text
    except (yaml.YAMLError, RecursionError) as error:
        raise DamagedFileError(f"{where} is not valid YAML ({error}): export it again") from error
    if isinstance(content, dict) and "kpt_shape" in content:
        raise DamagedFileError(f"{where} declares key points: export outlines")
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, list):
        names = dict(zip(map(str, range(len(names))), names, strict=True))
    if not isinstance(names, dict) or not all(_is_index(key) and isinstance(v, str) for key, v in names.items()):
        raise DamagedFileError(f"{where} has no list of class names: export it again")
    refuse_half_characters(names, where)
    meanings = [notes.class_names.meaning(name) for name in names.values()]
    if "crater" not in meanings and None not in meanings:
        raise DamagedFileError(f"{where} has no class crater, only {', '.join(names.values())}: export that class too")
    numbered = {int(key): name for key, name in names.items()}
    if len(numbered) < len(names):
        raise DamagedFileError(f"{where} gives several names to one class: export it again")
    return numbered


def _findings(
    archive: ExportArchive, entry: str, names: dict[int, str], size: tuple[int, int], notes: Notes
) -> Findings:
    height, width = size
    findings = Findings()
    problems = findings.problems
    for number, line in enumerate(archive.text(entry).splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        index = words[0].removesuffix(".0")
        name = names.get(int(index)) if _is_index(index) else None
        values = _numbers(words[1:])
        if name is None:
            problems.append(f"line {number} has the unknown class {words[0][:40]!r}")
        elif not notes.means_crater(name, findings):
            continue
        elif values is None:
            problems.append(f"line {number} has coordinates that are not numbers or are far outside the image")
        elif len(values) == 4:
            problems.append(f"line {number} is a box: outline the crater")
        elif len(values) < 6 or len(values) % 2:
            problems.append(f"line {number} has {len(values)} numbers, which are no outline: outline the crater")
        else:
            findings.outlines.append({"polygons": [[v * (height if k % 2 else width) for k, v in enumerate(values)]]})
    return findings


def _is_index(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def _numbers(words: list[str]) -> list[float] | None:
    try:
        values = [float(word) for word in words]
    except ValueError:
        return None
    return values if all(math.isfinite(value) and abs(value) <= _FAR for value in values) else None
