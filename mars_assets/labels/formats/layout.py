"""Where things lie in an export: names as Roboflow gives them, whatever a zip was packed with, and what lies elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from mars_assets.errors import DamagedFileError
from mars_assets.labels.formats.image import SPLITS, is_image, listed
from mars_assets.labels.zip_archive import ExportArchive

_ALSO = {"val": "valid", "validation": "valid"}
"""Other names that tools give to splits."""


def name_as_roboflow(archive: ExportArchive) -> None:
    """Gives an archive's entries the names that Roboflow gives them.

    A folder around everything is taken off, ``val`` is ``valid``, and what a Mac adds when it packs a folder is not seen.

    Raises:
        DamagedFileError: two entries have one name then.
    """
    paths = {name: PurePosixPath(name).parts for name in archive.names}
    paths = {name: parts for name, parts in paths.items() if not _is_of_a_mac(parts)}
    while len(tops := {parts[0] for parts in paths.values()}) == 1 and not tops <= {*SPLITS, *_ALSO}:
        if any(len(parts) == 1 for parts in paths.values()):
            break
        paths = {name: parts[1:] for name, parts in paths.items()}
    entries: dict[str, str] = {}
    for name, parts in paths.items():
        top = _ALSO.get(parts[0], parts[0]) if len(parts) > 1 else parts[0]
        known = "/".join((top, *parts[1:]))
        if known in entries:
            raise DamagedFileError(
                f"{archive.path.name} has {entries[known]!r} and {name!r}, which are the same: pack it again without one "
                "of them"
            )
        entries[known] = name
    archive.rename(entries)


def _is_of_a_mac(parts: Sequence[str]) -> bool:
    return "__MACOSX" in parts or parts[-1] == ".DS_Store" or parts[-1].startswith("._")


def require_labels(archive: ExportArchive, file: str) -> None:
    """Every split that has images must have its file of labels, and there must be none elsewhere.

    Args:
        archive: with names as Roboflow gives them.
        file: the file's name, as ``_annotations.coco.json``.

    Raises:
        DamagedFileError: images would be left out unnoticed.
    """
    paths = [PurePosixPath(name) for name in archive.names]
    imaged = {path.parts[0] for path in paths if len(path.parts) > 1 and is_image(path)}
    if bare := [split for split in SPLITS if split in imaged and f"{split}/{file}" not in archive]:
        raise DamagedFileError(
            f"{archive.path.name} has images in {', '.join(bare)} and no {file} beside them: export it again"
        )
    homes = {f"{split}/{file}" for split in SPLITS}
    if astray := [str(path) for path in paths if path.name == file and str(path) not in homes]:
        raise DamagedFileError(
            f"{archive.path.name} has labels outside of {', '.join(SPLITS)}: {listed(astray)}. Its folders must have these "
            "names"
        )


def leftover_warnings(archive: ExportArchive) -> list[str]:
    """What to say of files that were neither read nor accounted for."""
    rest = [name for name in archive.unaccounted if not name.startswith("README")]
    images = [name for name in rest if is_image(PurePosixPath(name))]
    others = [name for name in rest if name not in set(images)]
    warnings = []
    if images:
        warnings.append(
            f"{len(images)} images outside of {', '.join(SPLITS)}, or without a label, left out: {listed(images)}"
        )
    if others:
        warnings.append(f"{len(others)} files that no export has, left out: {listed(others)}")
    return warnings
