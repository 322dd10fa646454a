"""Readers of the two formats with a ``SPLIT/_classes.csv``.

Its header distinguishes them. Multi-label classification has ``filename, Crater, NoCrater`` with 0 and 1. Semantic
masks have ``Pixel Value, Class``, and an ``X_mask.png`` with those values next to each ``X.jpg``.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from mars_assets.errors import DamagedFileError
from mars_assets.images import image_size, read_stored
from mars_assets.labels.formats.image import (
    EXPORT_AGAIN,
    SPLITS,
    ExportedImage,
    Findings,
    Notes,
    Outline,
    Split,
    is_image,
    listed,
    original_name,
)
from mars_assets.labels.formats.layout import require_labels
from mars_assets.labels.zip_archive import ExportArchive
from mars_assets.storage.files import table_rows

CLASSES_FILE = "_classes.csv"
_MASK = "_mask.png"
_MOST_CRATERS = 2000
"""Most craters in one mask; the most densely cratered ground has a few hundred."""
_FILE_NAMES = ("filename", "file_name", "file name", "file", "image")
_PIXEL_VALUE = "pixel value"


def is_multilabel(archive: ExportArchive) -> bool:
    """Test whether the archive's class files have a row per image."""
    return _first_column(archive) in _FILE_NAMES


def is_masks(archive: ExportArchive) -> bool:
    """Test whether the archive's class files have a row per pixel value."""
    return _first_column(archive) == _PIXEL_VALUE


def read_multilabel(archive: ExportArchive, notes: Notes) -> Iterator[ExportedImage]:
    """Read the images that are of exactly one class, crater or no crater.

    If no column says no crater, an image with no class at all has none. Images with both or neither are left out and
    reported.

    Raises:
        DamagedFileError: no column is a class, or images are missing or named twice.
    """
    require_labels(archive, CLASSES_FILE)
    for split, header, rows in _tables(archive):
        where = f"{archive.path.name}: {split}/{CLASSES_FILE}"
        meanings = {number: notes.class_names.meaning(name) for number, name in enumerate(header) if number}
        if "crater" not in meanings.values() and None not in meanings.values():
            raise DamagedFileError(
                f"{where} has no column for craters, only {', '.join(header[1:])}: export that class too"
            )
        problems, seen = [], set()
        for row in rows:
            entry = archive.entry(split, row[0])
            if entry is None:
                problems.append(f"the image {row[0]!r} is not in the archive")
                continue
            if entry in seen:
                problems.append(f"the image {row[0]!r} occurs twice")
            seen.add(entry)
            values = {number: row[number] if number < len(row) else "" for number in meanings}
            if wrong := [value for number, value in values.items() if meanings[number] and value not in ("0", "1")]:
                notes.left_out[entry] = (
                    f"it has {', '.join(map(repr, wrong))} where 0 and 1 are expected in {CLASSES_FILE}"
                )
                continue
            chosen = {meanings[number] for number, value in values.items() if value == "1"} - {"other"}
            if not chosen and "crater" in meanings.values() and "no_crater" not in meanings.values():
                chosen = {"no_crater"}
            label = next(iter(chosen)) if len(chosen) == 1 else None
            if label == "crater" or label == "no_crater":
                yield ExportedImage(entry, split, original_name(entry), label=label)
                continue
            if None in chosen:
                notes.unknown[entry] = {header[n] for n, value in values.items() if value == "1" and not meanings[n]}
            else:
                notes.unlabelled[entry] = "it is of both classes, or of neither"
        if problems:
            raise DamagedFileError(f"{where}: {listed(problems)}. Export it again")


def read_masks(archive: ExportArchive, notes: Notes) -> Iterator[ExportedImage]:
    """Read the images that have a mask; each 4-connected component is a crater.

    An image is left out if its mask cannot be read, has another size than the image, or has undeclared values.

    Raises:
        DamagedFileError: no class is crater.
    """
    from scipy import ndimage

    require_labels(archive, CLASSES_FILE)
    touching = False
    for split, _, rows in _tables(archive):
        where = f"{archive.path.name}: {split}/"
        names = _pixel_values(rows, where)
        meanings = {value: notes.class_names.meaning(name) for value, name in names.items()}
        craters = [value for value, meaning in meanings.items() if meaning == "crater"]
        if not craters and None not in meanings.values():
            raise DamagedFileError(
                f"{where}{CLASSES_FILE} has no class crater, only {', '.join(names.values())}: export that class too"
            )
        doubtful = notes.doubtful(names.values())
        for entry in archive.names:
            name = PurePosixPath(entry)
            if name.parts[:1] != (split,) or not is_image(name) or entry.endswith(_MASK):
                continue
            mask_entry = entry.removesuffix(name.suffix) + _MASK
            if mask_entry not in archive:
                notes.unlabelled[entry] = f"there is no mask {mask_entry}"
                continue
            archive.account_for(mask_entry)
            size = notes.size_of(entry, archive.read(entry))
            if size is None:
                continue
            content, findings = archive.read(mask_entry), Findings(unknown=set(doubtful))
            try:
                mask = _mask(content, mask_entry, size, set(names))
            except DamagedFileError as error:
                findings.problems.append(str(error))
            else:
                findings.unknown |= {names[value] for value in np.unique(mask).tolist() if meanings[value] is None}
                numbers, count = ndimage.label(np.isin(mask, craters))
                if count > _MOST_CRATERS:
                    findings.problems.append(
                        f"{mask_entry} has {count} separate craters, more than the limit of {_MOST_CRATERS}: remove "
                        "the speckles"
                    )
                touching |= count > 0
                findings.outlines += [
                    _run_lengths(numbers[box] == number, box, size)
                    for number, box in enumerate(ndimage.find_objects(numbers), start=1)
                ]
            yield from notes.outlined(entry, split, size, findings)
    if touching:
        notes.warnings.append("semantic masks do not separate adjacent craters: craters that touch count as one")


def _first_column(archive: ExportArchive) -> str | None:
    return next((header[0].lower() for _, header, _ in _tables(archive) if header), None)


def _tables(archive: ExportArchive) -> Iterator[tuple[Split, list[str], list[list[str]]]]:
    """Read the class files: split, header and rows of each."""
    for split in SPLITS:
        entry = f"{split}/{CLASSES_FILE}"
        if entry in archive:
            try:
                rows = [row for _, row in table_rows(archive.text(entry))]
            except csv.Error as error:
                raise DamagedFileError(
                    f"{archive.path.name}: {entry} is not a valid CSV file ({error}): export it again"
                ) from error
            yield split, rows[0] if rows else [], rows[1:]


def _pixel_values(rows: list[list[str]], where: str) -> dict[int, str]:
    """Map pixel values to the names of their classes.

    Raises:
        DamagedFileError: a value is none or stands for two classes.
    """
    names: dict[int, str] = {}
    for value, name in ((_value(row[0], where), row[1]) for row in rows if len(row) > 1):
        if names.setdefault(value, name) != name:
            raise DamagedFileError(
                f"{where}{CLASSES_FILE} has the pixel value {value} for both {names[value]!r} and {name!r}: export it "
                "again"
            )
    return names


def _value(text: str, where: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and int(text) < 256):
        raise DamagedFileError(
            f"{where}{CLASSES_FILE} has the pixel value {text[:40]!r}, not one of 0 to 255: export it again"
        )
    return int(text)


def _mask(content: bytes, entry: str, size: tuple[int, int], known: set[int]) -> npt.NDArray[np.uint8]:
    where = f"the mask {entry}"
    found = image_size(content, EXPORT_AGAIN, where)  # refuses a huge image before it is decoded
    if found != size:
        raise DamagedFileError(
            f"{where} is {found[1]} x {found[0]} pixels, its image {size[1]} x {size[0]}: export it again"
        )
    mask = read_stored(content, EXPORT_AGAIN, where, formats=("PNG",))
    if mask.ndim == 3 and (mask == mask[..., :1]).all(axis=-1).all():
        mask = mask[..., 0]
    if mask.ndim != 2 or mask.dtype == bool:
        raise DamagedFileError(f"{where} is not an 8-bit image of one channel: export it again as semantic masks")
    unknown = sorted(set(np.unique(mask).tolist()) - known)
    if unknown:
        raise DamagedFileError(
            f"{where} has the values {unknown[:10]}, which {CLASSES_FILE} does not declare: export it again"
        )
    return mask.astype(np.uint8)


def _run_lengths(pixels: npt.NDArray[np.bool_], box: tuple[slice, slice], size: tuple[int, int]) -> Outline:
    """Encode a crater's pixels within its box as COCO's run lengths.

    Runs go column by column and start with the background.
    """
    rows, columns = np.nonzero(pixels)
    places = np.sort((columns + box[1].start) * size[0] + rows + box[0].start)
    breaks = np.flatnonzero(np.diff(places) > 1) + 1
    starts = places[np.append(0, breaks)]
    ends = places[np.append(breaks, len(places)) - 1] + 1
    edges = np.append(np.stack([starts, ends], axis=1).ravel(), size[0] * size[1])
    return {"rle": {"size": list(size), "counts": np.diff(edges, prepend=0).tolist()}}
