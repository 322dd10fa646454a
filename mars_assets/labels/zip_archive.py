"""Safe reading of untrusted zip files.

Entries are read one by one and never extracted, so that no name in a zip can reach the file system.
"""

from __future__ import annotations

import lzma
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from mars_assets.errors import DamagedFileError
from mars_assets.storage.files import downloaded_instead, first_bytes

MAX_ENTRIES = 50_000
MAX_ENTRY_BYTES = 256 * 2**20
MAX_TOTAL_BYTES = 16 * 2**30
MAX_RATIO = 200
"""Uncompressed to compressed size. JPEG and PNG hardly compress; JSON and text do by a factor of ten to twenty."""
_UNCOMPRESSED = (".bmp", ".dib", ".tif", ".tiff", ".pgm", ".ppm", ".tga")
"""Images that may be stored as they are, and compress a thousandfold where they show nothing."""
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_OTHER_METHODS = {1: "Shrink", 6: "Implode", 9: "Deflate64", 20: "Zstandard", 93: "Zstandard", 95: "XZ", 98: "PPMd"}
"""Names of methods that zipfile cannot unpack. Windows Explorer chooses Deflate64 above 2 GB."""
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "val", "validation"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_UTF8 = 0x800
"""Flag of an entry whose name is declared as UTF-8."""
_UNICODE_NAME = 0x7075
_EXTRA = struct.Struct("<HHBI")
"""Kind and length of an extra field; version, and CRC of the name that a Unicode name replaces."""
_DOWNLOADS = (".crdownload", ".part", ".partial", ".download", ".opdownload", ".filepart", ".tmp")
"""Endings that browsers and file transfers give to unfinished downloads."""
_ARCHIVES = (".tar", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".7z", ".rar")
_ARCHIVE_STARTS = (b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
"""First bytes of 7z, RAR, gzip, bzip2, XZ and Zstandard."""
_TAR = slice(257, 262)
"""Where ``ustar`` stands in a tar."""
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
    """An open zip whose entries have harmless names and plausible sizes.

    Names are compared as on the person's computer: with slashes, and composed as in NFC. Zips made on Windows may have
    backslashes, and names made on macOS are decomposed.
    """

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
        self.undecoded: list[str] = []
        """Names that are read as CP437, since they are not UTF-8."""
        for entry in entries:
            name, is_utf8 = _decoded(entry)
            if not is_utf8:
                self.undecoded.append(name)
            known = _comparable(name)
            if known == "." or name.endswith(("/", "\\")):
                continue
            self._refuse_hostile(entry, name)
            if known in self._entries:
                raise DamagedFileError(f"{path.name} has the entry {known!r} twice: export it again")
            self._entries[known] = entry
        self._folded = _by_folded_name(self._entries)
        total = sum(entry.file_size for entry in self._entries.values())
        if total > MAX_TOTAL_BYTES:
            raise DamagedFileError(
                f"{path.name} unpacks to {total / 2**30:.1f} GiB, more than the limit of {MAX_TOTAL_BYTES >> 30} GiB: "
                "split the project"
            )

    def _refuse_hostile(self, entry: zipfile.ZipInfo, name: str) -> None:
        where = f"{self.path.name}: the entry {name!r}"
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if name.startswith(("/", "\\")) or ".." in parts or (parts and parts[0].endswith(":")) or "\x00" in name:
            raise DamagedFileError(f"{where} points outside the archive: this is not a Roboflow export")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise DamagedFileError(f"{where} is a link: this is not a Roboflow export")
        if entry.flag_bits & 0x1:
            raise DamagedFileError(f"{where} is encrypted: export it without a password")
        if entry.compress_type not in _METHODS:
            method = _OTHER_METHODS.get(entry.compress_type, "a method that is not supported")
            raise DamagedFileError(
                f"{where} is packed with {method} (method {entry.compress_type}), which cannot be read: unpack the zip "
                "and pack it again with Deflate, for example with 7-Zip (format zip, method Deflate), or in parts of "
                "less than 2 GB"
            )
        if entry.file_size > MAX_ENTRY_BYTES:
            raise DamagedFileError(
                f"{where} unpacks to {entry.file_size >> 20} MiB, more than the limit of {MAX_ENTRY_BYTES >> 20} MiB: "
                "this is not a Roboflow export"
            )
        dense = entry.file_size > MAX_RATIO * max(entry.compress_size, 1) and entry.file_size > 2**20
        if dense and not name.lower().endswith(_UNCOMPRESSED):
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
        self._folded = _by_folded_name(self._entries)

    def account_for(self, *names: str) -> None:
        """Mark files as known although they are not read."""
        self._accounted.update(map(_comparable, names))

    @property
    def unaccounted(self) -> list[str]:
        """The files neither read nor accounted for, in the archive's order."""
        return [name for name in self._entries if name not in self._accounted]

    def __contains__(self, name: str) -> bool:
        return _comparable(name) in self._entries

    def entry(self, split: str, name: str) -> str | None:
        """Find the entry that a label file of a split names.

        Names are relative to the split's folder or its folder ``images``. They may begin with './' or with a path to
        that folder, and have backslashes or other capitals.

        Args:
            split: the folder, named as by :func:`split_named`.
            name: of the file, as it stands in the label file.

        Returns:
            The entry's name as in :attr:`names`; None if there is none, or several that differ by capitals alone.
        """
        parts = PurePosixPath(_comparable(name)).parts
        inside = [parts, *(parts[n + 1 :] for n, part in enumerate(parts[:-1]) if split_named(part) == split)]
        inside.append(("images", *parts))
        for known in ("/".join((split, *rest)) for rest in inside):
            alike = [known] if known in self._entries else self._folded.get(known.casefold(), [])
            if len(alike) == 1:
                return alike[0]
        return None

    def read(self, name: str) -> bytes:
        """Read an entry and check its CRC.

        Raises:
            DamagedFileError: the entry is damaged or its size differs from the stated one.
        """
        known = _comparable(name)
        entry = self._entries[known]
        self._accounted.add(known)
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


def split_named(folder: str) -> str:
    """Return train, valid or test for the name of a split's folder.

    Any other name is returned as it is.
    """
    return _SPLITS.get(folder.strip().casefold(), folder)


def _by_folded_name(names: Iterable[str]) -> dict[str, list[str]]:
    folded: dict[str, list[str]] = {}
    for name in names:
        folded.setdefault(name.casefold(), []).append(name)
    return folded


def _decoded(entry: zipfile.ZipInfo) -> tuple[str, bool]:
    """Decode an entry's name, which may be UTF-8 without being declared as such.

    The name may also be given a second time, in UTF-8, in the extra field of Info-ZIP.

    Returns:
        The name, and whether it is UTF-8; if not, it is read as CP437.
    """
    if entry.flag_bits & _UTF8:
        return entry.filename, True
    stored = entry.orig_filename.encode("cp437")  # zipfile decodes an undeclared name as CP437
    extra = entry.extra
    while len(extra) >= _EXTRA.size:
        kind, length, _, checksum = _EXTRA.unpack_from(extra)
        if kind == _UNICODE_NAME and checksum == zlib.crc32(stored):
            stored = extra[_EXTRA.size : 4 + length]
            break
        extra = extra[4 + length :]
    try:
        return stored.decode(), True
    except UnicodeDecodeError:
        return entry.filename, False


def _comparable(name: str) -> str:
    """Write a path with slashes, composed, and without './'."""
    return PurePosixPath(unicodedata.normalize("NFC", name).replace("\\", "/")).as_posix()


def why_no_zip(path: Path) -> str:
    """Say what a file or folder is that is no zip, and what to do.

    Empty if it is a zip or the beginning of one.
    """
    name = path.name.lower()
    if name.endswith(_DOWNLOADS):
        return "is an unfinished download: wait until it is complete, or download it again"
    if path.is_dir():
        return "is a folder: pack it as a zip, or take the zips out of it"
    if zipfile.is_zipfile(path):
        return ""
    try:
        start = first_bytes(path)
    except OSError as error:
        return f"cannot be read ({error.strerror}): check its permissions"
    if name.endswith(_ARCHIVES) or start.startswith(_ARCHIVE_STARTS) or start[_TAR] == b"ustar":
        return "is not packed as a zip: unpack it and pack it again as a zip"
    if what := downloaded_instead(start):
        return f"is {what} instead of a zip: download it again"
    if start.startswith(b"PK") or not start.strip(b"\0"):  # some downloads begin as zeros
        return ""
    return "is not a zip: put a zip in its place, and this file elsewhere"


@contextmanager
def open_export(path: Path) -> Iterator[ExportArchive]:
    """Open a zip and check its entries.

    Raises:
        DamagedFileError: it is not a zip, half-copied, or has entries that no export has.
    """
    try:
        archive = zipfile.ZipFile(path)
    except _DAMAGE as error:
        if why := why_no_zip(path):
            raise DamagedFileError(f"{path} {why}") from error
        raise DamagedFileError(
            f"{path} cannot be opened as a zip ({error}) and may be half-copied: copy it again under another name and "
            "then rename it"
        ) from error
    with archive:
        yield ExportArchive(path, archive)
