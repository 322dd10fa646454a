"""Zips in the lake's ``inbox/``: in use, being copied or rejected; and the rest."""

from __future__ import annotations

import functools
import shutil
import time
import zipfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from mars_assets.errors import DamagedFileError
from mars_assets.labels.class_names import project_slug
from mars_assets.labels.exports import export_identity
from mars_assets.labels.zip_archive import why_no_zip
from mars_assets.lake import REJECTED
from mars_assets.storage.files import printable, short_name, shown, write_bytes
from mars_assets.storage.hashing import sha256_file

SETTLED_SECONDS = 10
"""Automation ignores a zip that changed more recently."""
UNFINISHED_SECONDS = 600
"""An incomplete zip counts as still being copied until it has not changed for this long."""
_LITTER = ("desktop.ini", "thumbs.db")
"""Files that Windows adds to folders."""


def _is_being_copied(path: Path) -> bool:
    """Test whether a zip lacks its end and changed recently."""
    return _age(path) < UNFINISHED_SECONDS and not zipfile.is_zipfile(path)


def unsettled(paths: Iterable[Path]) -> list[Path]:
    """Select the files that have just changed."""
    return [path for path in paths if _age(path) < SETTLED_SECONDS]


def _age(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def digest(path: Path) -> str:
    """Compute a zip's sha256, once for the same size and modification time."""
    status = path.stat()
    return _digest(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=1024)
def _digest(path: Path, size: int, modified: int) -> str:
    return sha256_file(path)


def being_copied(inbox: Path) -> list[Path]:
    """List the zips that are still being copied."""
    return [path for path in zips(inbox) if _is_being_copied(path)]


def current_exports(inbox: Path) -> list[Path]:
    """List the zips in use: each project's newest version, without duplicates.

    If several zips with different content are of a project's newest version, all of them are in use. While a version is
    being copied, the project's previous version is used.
    """
    versions = [(*export_identity(path), path) for path in zips(inbox) if not _is_being_copied(path)]
    newest = {project: version for project, version, _ in sorted(versions)}
    by_content: dict[str, Path] = {}
    for path in sorted(path for project, version, path in versions if version == newest[project]):
        by_content.setdefault(digest(path), path)
    return list(by_content.values())


def unused(inbox: Path) -> list[Path]:
    """List the whole zips that are not in use: older versions, and copies of others."""
    in_use = current_exports(inbox)
    return [path for path in zips(inbox) if path not in in_use and not _is_being_copied(path)]


def passed_over(inbox: Path) -> list[str]:
    """Say of everything in the inbox that is no zip why it is not read.

    Hidden files and those that systems add to folders are not listed.
    """
    if not inbox.is_dir():
        return []
    reasons = ((path.name, _why_not_read(path)) for path in sorted(inbox.iterdir()) if path.name != REJECTED)
    return [f"{shown(name)} {why}" for name, why in reasons if why]


def _why_not_read(path: Path) -> str:
    """Say why something in the inbox is not read, and what to do.

    Empty if it is a zip, hidden, or of the system.
    """
    name = path.name.lower()
    if _is_zip(path) or name.startswith(".") or name in _LITTER:
        return ""
    if why := why_no_zip(path):
        return why
    if zipfile.is_zipfile(path):
        return "is a zip under another name: rename it so that it ends in .zip"
    return "is an incomplete zip: copy it again"


def has_had(inbox: Path, project: str, version: int) -> bool:
    """Test whether the inbox has, or has rejected, a version or a later one."""
    folders = (inbox, inbox / REJECTED)
    identities = [export_identity(path) for folder in folders for path in zips(folder)]
    return any(name == project_slug(project) and number >= version for name, number in identities)


def reject(path: Path, error: DamagedFileError) -> Path:
    """Move a zip to ``rejected/`` next to it, with a text file that says why.

    Returns:
        The zip's new path.
    """
    folder = path.parent / REJECTED
    folder.mkdir(exist_ok=True)
    target, number = folder / path.name, 1
    while target.exists() or _reason(target).exists():
        number += 1
        target = folder / short_name(path.stem, f".{number}{path.suffix}")
    text = (
        f"{path.name} was rejected on {datetime.now(UTC):%Y-%m-%d at %H:%M} UTC: it could not be used.\n\n{error}\n\n"
        f"sha256 {sha256_file(path)}, {path.stat().st_size} bytes.\n"
        "The previous labels remain in use. Put a corrected export into the inbox; this file and its zip can be "
        "deleted.\n"
    )
    write_bytes(_reason(target), printable(text).encode())
    shutil.move(path, target)  # rejected/ may be on another file system
    return target


def rejections(inbox: Path) -> list[tuple[str, str]]:
    """List the names of rejected zips with the reasons, the latest first."""
    folder = inbox / REJECTED
    reasons = [path for path in folder.glob("*.txt") if path.stem.lower().endswith(".zip")]
    reasons.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return [(shown(path.name.removesuffix(".txt")), _reason_in(path)) for path in reasons]


def _reason_in(path: Path) -> str:
    """Extract the reason from a text that :func:`reject` wrote.

    Any other text is returned whole.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    _, begun, rest = text.partition("\n\n")
    reason, ended, _ = rest.rpartition("\n\nsha256 ")
    return reason if begun and ended else text.strip()


def _reason(target: Path) -> Path:
    return target.with_name(short_name(target.name, ".txt"))


def zips(folder: Path) -> list[Path]:
    """List a folder's zips, except hidden ones, sorted by name."""
    return [path for path in sorted(folder.glob("*")) if _is_zip(path)]


def _is_zip(path: Path) -> bool:
    return path.suffix.lower() == ".zip" and path.is_file() and not path.name.startswith(".")
