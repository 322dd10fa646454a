"""Reader of folder classification: ``SPLIT/CLASS/IMAGE``.

Images may lie in further folders below their class's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath

from mars_assets.labels.formats.image import ExportedImage, Notes, is_image, original_name, split_of
from mars_assets.labels.zip_archive import ExportArchive

_NO_CLASSES = ("images", "image", "img", "imgs", "labels", "masks", "annotations", "jpegimages")
"""Folders of formats that keep images and labels apart."""


def is_folders(archive: ExportArchive) -> bool:
    """Test whether an archive has images in ``SPLIT/CLASS`` folders."""
    return any(_is_labelled(PurePosixPath(name)) for name in archive.names)


def read_folders(archive: ExportArchive, notes: Notes) -> Iterator[ExportedImage]:
    """Read the images of all splits.

    Classes other than crater and no crater are left out and reported.
    """
    others: Counter[str] = Counter()
    for entry in archive.names:
        name = PurePosixPath(entry)
        split = split_of(name)
        if split is None or not _is_labelled(name):
            continue
        meaning = notes.class_names.meaning(name.parts[1])
        if meaning is None or meaning == "other":
            if meaning is None:
                notes.unknown[entry] = {name.parts[1]}
            else:
                others[name.parts[1]] += 1
                archive.account_for(entry)
            continue
        yield ExportedImage(entry, split, original_name(entry), label=meaning)
    if others:
        notes.warnings.append(f"images of classes other than crater and no crater were left out: {dict(others)}")


def _is_labelled(name: PurePosixPath) -> bool:
    return len(name.parts) > 2 and split_of(name) is not None and is_image(name) and name.parts[1] not in _NO_CLASSES
