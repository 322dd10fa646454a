"""The lake's ``inbox/``: which zips count, which are still being copied, and where those go that cannot be read."""

from __future__ import annotations

import functools
import os
import shutil
import time
import zipfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from mars_assets.errors import DamagedFileError
from mars_assets.labels.exports import export_identity, project_slug
from mars_assets.lake import REJECTED
from mars_assets.storage.files import write_bytes
from mars_assets.storage.hashing import sha256_file

SETTLED_SECONDS = 10
"""What works unasked leaves a zip alone that changed more recently."""
UNFINISHED_SECONDS = 600
"""A file that is no whole zip is taken for one that is being copied until it has not changed for this long."""


def is_being_copied(path: Path) -> bool:
    """Whether a zip is not whole yet: it lacks its end, and changed not long ago."""
    return _age(path) < UNFINISHED_SECONDS and not zipfile.is_zipfile(path)


def unsettled(paths: Iterable[Path]) -> list[Path]:
    """Those that have just changed."""
    return [path for path in paths if _age(path) < SETTLED_SECONDS]


def _age(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def digest(path: Path) -> str:
    """The sha256 of a zip, computed once for as long as its size and time stay the same."""
    status = path.stat()
    return _digest(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=1024)
def _digest(path: Path, size: int, modified: int) -> str:
    return sha256_file(path)


def being_copied(inbox: Path) -> list[Path]:
    """The zips that are left alone for now."""
    return [path for path in _zips(inbox) if is_being_copied(path)]


def exports_in_force(inbox: Path) -> list[Path]:
    """The zips that count: of every project the newest version, of identical files one.

    Hidden and part files are left out, and what is being copied: the project's version before it counts as long.
    """
    newest: dict[str, tuple[int, str, Path]] = {}
    for path in _zips(inbox):
        if is_being_copied(path):
            continue
        project, version = export_identity(path)
        if project not in newest or (version, path.name) > newest[project][:2]:
            newest[project] = (version, path.name, path)
    paths, seen = [], set()
    for _, _, path in sorted(newest.values(), key=lambda item: item[1]):
        if (sha256 := digest(path)) not in seen:
            seen.add(sha256)
            paths.append(path)
    return paths


def has_had(inbox: Path, project: str, version: int) -> bool:
    """Whether a project's version, or a later one, is in the inbox or was put aside."""
    folders = (inbox, inbox / REJECTED)
    identities = [export_identity(path) for folder in folders for path in folder.glob("*.zip")]
    return any(name == project_slug(project) and number >= version for name, number in identities)


def reject(path: Path, error: DamagedFileError) -> Path:
    """Moves a zip to ``rejected/`` beside it, with a text file that says why. Returns where it is now."""
    folder = path.parent / REJECTED
    folder.mkdir(exist_ok=True)
    target, number = folder / path.name, 1
    while target.exists() or _reason(target).exists():
        number += 1
        target = folder / f"{path.stem}.{number}{path.suffix}"
    text = (
        f"{path.name} was put aside on {datetime.now(UTC):%Y-%m-%d at %H:%M} UTC: it could not be "
        f"used.\n\n{error}\n\nsha256 {sha256_file(path)}, {path.stat().st_size} bytes.\nThe labels that were in "
        "force before it still are. Put a corrected export into the inbox; this file and its zip can be deleted.\n"
    )
    write_bytes(_reason(target), text.encode())
    try:
        os.replace(path, target)
    except OSError:  # a zip that is a mount or a link to another file system
        shutil.move(path, target)
    return target


def rejections(inbox: Path) -> list[tuple[str, str]]:
    """Name of each zip that was put aside, and why, the latest first."""
    folder = inbox / REJECTED
    reasons = sorted(folder.glob("*.zip.txt"), key=lambda path: path.stat().st_mtime, reverse=True)
    return [(path.name.removesuffix(".txt"), _reason_in(path)) for path in reasons]


def _reason_in(path: Path) -> str:
    """Of a text that :func:`reject` wrote; the whole of any other."""
    text = path.read_text(encoding="utf-8", errors="replace")
    _, begun, rest = text.partition("\n\n")
    reason, ended, _ = rest.rpartition("\n\nsha256 ")
    return reason if begun and ended else text.strip()


def _reason(target: Path) -> Path:
    return target.with_name(f"{target.name}.txt")


def _zips(inbox: Path) -> list[Path]:
    return [path for path in sorted(inbox.glob("*.zip")) if path.is_file() and not path.name.startswith(".")]
