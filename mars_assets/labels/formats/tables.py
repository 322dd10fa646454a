"""Readers of the two formats with a ``SPLIT/_classes.csv``.

Its header distinguishes them. Multi-label classification has ``filename, Crater, NoCrater`` with 0 and 1. Semantic
masks have ``Pixel Value, Class``, and an ``X_mask.png`` with those values next to each ``X.jpg``.
"""

from __future__ import annotations

import csv
import io
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
    Outline,
    Split,
    class_of,
    is_image,
    listed,
    original_name,
)
from mars_assets.labels.formats.layout import require_labels
from mars_assets.labels.zip_archive import ExportArchive

CLASSES_FILE = "_classes.csv"
_MASK = "_mask.png"
_MOST_CRATERS = 2000
"""Most craters in one mask; the most densely cratered ground has a few hundred."""
_FILE_NAME, _PIXEL_VALUE = "filename", "pixel value"


def is_multilabel(archive: ExportArchive) -> bool:
    """Test whether the archive's class files have a row per image."""
    return _first_column(archive) == _FILE_NAME


def is_masks(archive: ExportArchive) -> bool:
    """Test whether the archive's class files have a row per pixel value."""
    return _first_column(archive) == _PIXEL_VALUE


def read_multilabel(archive: ExportArchive, warnings: list[str]) -> Iterator[ExportedImage]:
    """Read the images that have exactly one class.

    If there is only a column for craters, 0 means no crater. With two columns, images with both or neither set are left
    out and reported.

    Raises:
        DamagedFileError: no column is a known class, values are not 0 and 1, or images are missing or named twice.
    """
    require_labels(archive, CLASSES_FILE)
    for split, header, rows in _tables(archive):
        where = f"{archive.path.name}: {split}/{CLASSES_FILE}"
        known = [(label, number) for number, name in enumerate(header[1:], start=1) if (label := class_of(name))]
        columns = dict(known)
        if len(columns) < len(known):
            raise DamagedFileError(
                f"{where} has two columns for the same class: {', '.join(header[1:])}. Export it again"
            )
        if "crater" not in columns:
            raise DamagedFileError(
                f"{where} has no column for craters, only {', '.join(header[1:])}: export that class too"
            )
        problems, unclear, seen = [], 0, set()
        for row in rows:
            entry = f"{split}/{row[0]}"
            values = [row[number] for number in columns.values() if number < len(row)]
            if entry not in archive:
                problems.append(f"the image {row[0]!r} is not in the archive")
            elif entry in seen:
                problems.append(f"the image {row[0]!r} occurs twice")
            elif len(values) != len(columns) or not set(values) <= {"0", "1"}:
                problems.append(f"the image {row[0]!r} has {', '.join(row[1:])} where 0 and 1 are expected")
            else:
                chosen = [label for label, value in zip(columns, values, strict=True) if value == "1"]
                if len(columns) == 1 and not chosen:
                    chosen = ["no_crater"]
                if len(chosen) == 1:
                    yield ExportedImage(entry, split, original_name(entry), label=chosen[0])
                else:
                    unclear += 1
                    archive.account_for(entry)
            seen.add(entry)
        if problems:
            raise DamagedFileError(f"{where}: {listed(problems)}. Export it again")
        if unclear:
            warnings.append(f"{split}: {unclear} images with both classes or neither were left out")


def read_masks(archive: ExportArchive, warnings: list[str]) -> Iterator[ExportedImage]:
    """Read the images that have a mask; each 4-connected component is a crater.

    Raises:
        DamagedFileError: no class is crater, or a mask cannot be read, has another size than its image, or has
            undeclared values.
    """
    from scipy import ndimage

    require_labels(archive, CLASSES_FILE)
    touching = False
    for split, _, rows in _tables(archive):
        where = f"{archive.path.name}: {split}/"
        values = {_value(row[0], where): row[1] for row in rows if len(row) > 1}
        craters = [value for value, name in values.items() if class_of(name) == "crater"]
        if not craters:
            raise DamagedFileError(
                f"{where}{CLASSES_FILE} has no class crater, only {', '.join(values.values())}: export that class too"
            )
        bare = 0
        for entry in archive.names:
            name = PurePosixPath(entry)
            if name.parts[:1] != (split,) or not is_image(name) or entry.endswith(_MASK):
                continue
            mask_entry = entry.removesuffix(name.suffix) + _MASK
            if mask_entry not in archive:
                bare += 1
                archive.account_for(entry)
                continue
            size = image_size(archive.read(entry), EXPORT_AGAIN, f"{archive.path.name}: {entry}")
            mask = _mask(archive, mask_entry, size, set(values))
            numbers, count = ndimage.label(np.isin(mask, craters))
            if count > _MOST_CRATERS:
                raise DamagedFileError(
                    f"{archive.path.name}: {mask_entry} has {count} separate craters, more than the limit of "
                    f"{_MOST_CRATERS}: remove the speckles and export it again"
                )
            touching |= count > 0
            outlines = tuple(
                _run_lengths(numbers[box] == number, box, size)
                for number, box in enumerate(ndimage.find_objects(numbers), start=1)
            )
            yield ExportedImage(entry, split, original_name(entry), outlines=outlines, size=size)
        if bare:
            warnings.append(f"{split}: {bare} images without a mask were left out")
    if touching:
        warnings.append("semantic masks do not separate adjacent craters: craters that touch count as one")


def _first_column(archive: ExportArchive) -> str | None:
    return next((header[0].lower() for _, header, _ in _tables(archive) if header), None)


def _tables(archive: ExportArchive) -> Iterator[tuple[Split, list[str], list[list[str]]]]:
    """Read the class files: split, header and rows of each."""
    for split in SPLITS:
        entry = f"{split}/{CLASSES_FILE}"
        if entry in archive:
            try:
                rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(archive.text(entry))) if row]
            except csv.Error as error:
                raise DamagedFileError(
                    f"{archive.path.name}: {entry} is not a valid CSV file ({error}): export it again"
                ) from error
            yield split, rows[0] if rows else [], rows[1:]


def _value(text: str, where: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and int(text) < 256):
        raise DamagedFileError(
            f"{where}{CLASSES_FILE} has the pixel value {text[:40]!r}, not one of 0 to 255: export it again"
        )
    return int(text)


def _mask(archive: ExportArchive, entry: str, size: tuple[int, int], known: set[int]) -> npt.NDArray[np.uint8]:
    where = f"{archive.path.name}: {entry}"
    content = archive.read(entry)
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
