"""Safe reading of untrusted zip files.

Entries are read one by one and never extracted, so that no name in a zip can reach the file system.
"""

from __future__ import annotations

import lzma
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from mars_assets.errors import DamagedFileError

MAX_ENTRIES = 50_000
MAX_ENTRY_BYTES = 256 * 2**20
MAX_TOTAL_BYTES = 16 * 2**30
MAX_RATIO = 200
"""Uncompressed to compressed size. JPEG and PNG hardly compress; JSON and text do by a factor of ten to twenty."""
_DAMAGE = (
    zipfile.BadZipFile,
    EOFError,
    OSError,
    NotImplementedError,
    ValueError,
    MemoryError,
    zlib.error,
    lzma.LZMAError,
)
"""Exceptions of zipfile and the decompressors on damaged data."""


class ExportArchive:
    """An open zip whose entries have harmless names and plausible sizes."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path = path
        self._archive = archive
        self._accounted: set[str] = set()
        entries = archive.infolist()
        if len(entries) > MAX_ENTRIES:
            raise DamagedFileError(
                f"{path.name} has {len(entries)} entries, more than the limit of {MAX_ENTRIES}: split the project"
            )
        self._entries: dict[str, zipfile.ZipInfo] = {}
        for entry in entries:
            if entry.is_dir():
                continue
            self._refuse_hostile(entry)
            if entry.filename in self._entries:
                raise DamagedFileError(f"{path.name} has the entry {entry.filename!r} twice: export it again")
            self._entries[entry.filename] = entry
        total = sum(entry.file_size for entry in self._entries.values())
        if total > MAX_TOTAL_BYTES:
            raise DamagedFileError(
                f"{path.name} unpacks to {total / 2**30:.1f} GiB, more than the limit of {MAX_TOTAL_BYTES >> 30} GiB: "
                "split the project"
            )

    def _refuse_hostile(self, entry: zipfile.ZipInfo) -> None:
        name, where = entry.filename, f"{self.path.name}: the entry {entry.filename!r}"
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if name.startswith(("/", "\\")) or ".." in parts or (parts and parts[0].endswith(":")) or "\x00" in name:
            raise DamagedFileError(f"{where} points outside the archive: this is not a Roboflow export")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise DamagedFileError(f"{where} is a link: this is not a Roboflow export")
        if entry.flag_bits & 0x1:
            raise DamagedFileError(f"{where} is encrypted: export it without a password")
        if entry.file_size > MAX_ENTRY_BYTES:
            raise DamagedFileError(
                f"{where} unpacks to {entry.file_size >> 20} MiB, more than the limit of {MAX_ENTRY_BYTES >> 20} MiB: "
                "this is not a Roboflow export"
            )
        if entry.file_size > MAX_RATIO * max(entry.compress_size, 1) and entry.file_size > 2**20:
            raise DamagedFileError(
                f"{where} unpacks to {entry.file_size // max(entry.compress_size, 1)} times its size: "
                "this is not a Roboflow export"
            )

    @property
    def names(self) -> list[str]:
        """The names of all files, in the archive's order."""
        return list(self._entries)

    def rename(self, entries: Mapping[str, str]) -> None:
        """Rename the files, and hide those without a new name.

        Args:
            entries: maps new names to names in the zip.
        """
        self._entries = {new: self._entries[name] for new, name in entries.items()}

    def account_for(self, *names: str) -> None:
        """Mark files as known although they are not read."""
        self._accounted.update(names)

    @property
    def unaccounted(self) -> list[str]:
        """The files neither read nor accounted for, in the archive's order."""
        return [name for name in self._entries if name not in self._accounted]

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def read(self, name: str) -> bytes:
        """Read an entry and check its CRC.

        Raises:
            DamagedFileError: the entry is damaged or its size differs from the stated one.
        """
        entry = self._entries[name]
        self._accounted.add(name)
        try:
            with self._archive.open(entry) as file:
                content = file.read(entry.file_size + 1)
        except _DAMAGE as error:
            raise DamagedFileError(
                f"{self.path.name}: the entry {name!r} is damaged ({error}): copy the zip again"
            ) from error
        if len(content) != entry.file_size:
            raise DamagedFileError(
                f"{self.path.name}: the size of the entry {name!r} differs from the stated one: copy the zip again"
            )
        return content

    def text(self, name: str) -> str:
        """Read an entry as UTF-8 text, with or without a byte order mark.

        Raises:
            DamagedFileError: as for :meth:`read`, or it is not UTF-8.
        """
        try:
            return self.read(name).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DamagedFileError(
                f"{self.path.name}: {name!r} is not UTF-8 text ({error}): export it again"
            ) from error


@contextmanager
def open_export(path: Path) -> Iterator[ExportArchive]:
    """Open a zip and check its entries.

    Raises:
        DamagedFileError: it is not a zip, half-copied, or has entries that no export has.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise DamagedFileError(
            f"{path} cannot be opened as a zip ({error}) and may be half-copied: copy it again under another name and "
            "then rename it"
        ) from error
    with archive:
        yield ExportArchive(path, archive)
