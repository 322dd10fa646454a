"""Layout of files in an export: normalised names, missing and unexpected files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from mars_assets.errors import DamagedFileError
from mars_assets.labels.formats.image import SPLITS, Notes, is_image, listed, split_of
from mars_assets.labels.zip_archive import ExportArchive, split_named

_DATA_FILES = ("data.yaml", "data.yml")
_PARTS = ("images", "labels")
"""Folders of YOLO."""
_LABELS = re.compile(r"^_annotations\.coco\.json$|^_classes\.csv$|_mask\.png$", re.IGNORECASE)
"""Names, or their endings, of the files that hold labels."""
_ASIDE = "outside the export"
"""Folder that stands for the place of a file that has the name of one in the export."""


def name_as_roboflow(archive: ExportArchive) -> None:
    """Normalise the names of an archive's entries to Roboflow's.

    An enclosing folder is removed, also if files lie next to it. ``Train`` becomes ``train``, ``val`` ``valid``,
    ``images/train`` ``train/images``, ``data.yml`` ``data.yaml``, and other names by which readers find labels lose
    their capitals. Files that macOS adds are ignored.

    Raises:
        DamagedFileError: two entries get the same name.
    """
    paths = {name: PurePosixPath(name).parts for name in archive.names}
    paths = {name: parts for name, parts in paths.items() if not _is_of_a_mac(parts)}
    while len(tops := {parts[0] for parts in paths.values() if len(parts) > 1}) == 1:
        inner = {split_named(parts[1]) for parts in paths.values() if len(parts) > 2}
        if split_named(min(tops)) in SPLITS and inner.isdisjoint(SPLITS):  # a project may be called "Test"
            break
        paths = {name: parts[1:] if len(parts) > 1 else parts for name, parts in paths.items()}
    settings = [name for name, parts in paths.items() if len(parts) == 1 and _is_yaml(parts[0])]
    if len(settings) == 1 and any("labels" in map(str.lower, parts[:-1]) for parts in paths.values()):
        paths[settings[0]] = (_DATA_FILES[0],)  # of YOLO, whatever its name
    entries: dict[str, str] = {}
    for name in sorted(paths, key=lambda name: name.count("/"), reverse=True):
        known = "/".join(_as_roboflow(paths[name]))
        if known in entries and name.count("/") < entries[known].count("/"):
            known = f"{_ASIDE}/{name}"
        if known in entries:
            raise DamagedFileError(
                f"{archive.path.name} has both {entries[known]!r} and {name!r}, which mean the same file: remove one "
                "of them from the zip"
            )
        entries[known] = name
    places = {name: place for place, name in enumerate(archive.names)}
    archive.rename(dict(sorted(entries.items(), key=lambda entry: places[entry[1]])))


def _as_roboflow(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Name the parts of a path as Roboflow does, as far as readers look for them."""
    *folders, file = parts
    if not folders:
        return (_DATA_FILES[0],) if file.lower() in _DATA_FILES else parts
    if folders[0].lower() in _PARTS and [split_named(folder) in SPLITS for folder in folders[1:]] == [True]:
        folders.reverse()
    folders[0] = split_named(folders[0])
    if len(folders) > 1 and folders[1].lower() in _PARTS:
        folders[1] = folders[1].lower()
    if folders[1:] == ["labels"]:
        file = str(PurePosixPath(file).with_suffix(PurePosixPath(file).suffix.lower()))
    return (*folders, _LABELS.sub(lambda match: match[0].lower(), file))


def _is_yaml(file: str) -> bool:
    return file.lower().endswith((".yaml", ".yml"))


def _is_of_a_mac(parts: Sequence[str]) -> bool:
    return "__MACOSX" in parts or parts[-1] == ".DS_Store" or parts[-1].startswith("._")


def require_labels(archive: ExportArchive, file: str) -> None:
    """Check that label files exist for every split with images, and nowhere else.

    Args:
        archive: the archive, with normalised names.
        file: the label file's name, such as ``_annotations.coco.json``.

    Raises:
        DamagedFileError: images would be left out unnoticed.
    """
    paths = [PurePosixPath(name) for name in archive.names]
    imaged = {path.parts[0] for path in paths if len(path.parts) > 1 and is_image(path)}
    if bare := [split for split in SPLITS if split in imaged and f"{split}/{file}" not in archive]:
        raise DamagedFileError(
            f"{archive.path.name} has images in {', '.join(bare)} but no {file} next to them: export it again"
        )
    homes = {f"{split}/{file}" for split in SPLITS}
    if astray := [str(path) for path in paths if path.name == file and str(path) not in homes]:
        raise DamagedFileError(
            f"{archive.path.name} has label files outside the folders {', '.join(SPLITS)}: {listed(astray)}. Put "
            "them and their images into one of these folders, or export it again"
        )


def note_leftovers(archive: ExportArchive, notes: Notes) -> None:
    """Note the files that were neither read nor accounted for."""
    rest = [PurePosixPath(name) for name in archive.unaccounted]
    for name in filter(is_image, rest):
        notes.unlabelled[str(name)] = "it has no label" if split_of(name) else f"it is outside {', '.join(SPLITS)}"
    if others := [str(name) for name in rest if not (is_image(name) or _is_readme(name))]:
        notes.warnings.append(f"{len(others)} unexpected files were ignored: {listed(others)}")


def _is_readme(name: PurePosixPath) -> bool:
    return len(name.parts) == 1 and name.name.startswith("README")
