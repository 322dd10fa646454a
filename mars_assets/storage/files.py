"""Atomic reading and writing of files.

Every write goes to a temporary file in the target's folder, which is flushed to disk and renamed. A run killed at any
moment leaves the last complete file; its temporary file (``.NAME.tmp-…``) is removed by the first process that writes
into the folder at least a day later.
"""

from __future__ import annotations

import codecs
import csv
import errno
import hashlib
import io
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mars_assets.errors import DamagedFileError, MarsError, MissingInputError
from mars_assets.storage.runs import refuse_given_up

TEMPORARY = ".tmp-"
"""Part of the name of every file that is being written."""
_LEFT = re.compile(rf"\..+{re.escape(TEMPORARY)}[0-9a-f]{{8}}(\..*)?")
_LONGEST_NAME = 255
"""Of a file, in bytes, on all common file systems."""
_LONGEST_STEM, _LONGEST_SUFFIX = 40, 16
"""What a shorter name retains, in characters of up to four bytes."""
_SURROGATES = re.compile("[\ud800-\udfff]")
"""Characters that are no text: the bytes of a file's name that are not UTF-8, and halves of characters in JSON."""
_ESCAPE = re.compile(r"\\x[89a-f][0-9a-f]|\\ud[89a-f][0-9a-f]{2}")
_A_DAY = 24 * 3600
_swept: set[Path] = set()


def user_path(address: str | Path) -> Path:
    """Resolve the ``~`` of a path that a user stated.

    Raises:
        MarsError: it names an unknown user.
    """
    try:
        return Path(address).expanduser()
    except RuntimeError as error:
        raise MarsError(f"{address}: {error} Write the path in full") from error


@contextmanager
def explained_errors(target: Path) -> Iterator[None]:
    """Translate file-system errors into errors that say what to do.

    Raises:
        MarsError: the disk is full, the file exceeds the size limit, the folder is not writable, or a name is too long
            or that of a file and a folder.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MarsError(
                f"no space left to write {target}: free some and run again; finished work is retained"
            ) from error
        if error.errno == errno.EFBIG:
            raise MarsError(
                f"{target} exceeds the file size limit: raise the limit (ulimit -f) or move the lake to another "
                "file system, and run again; finished work is retained"
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM) and error.filename is not None:
            raise MarsError(f"{target} cannot be written ({error.strerror}): check the lake's permissions") from error
        if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
            raise MarsError(
                f"{target} cannot be written, since a file and a folder have the same name: rename one"
            ) from error
        if error.errno == errno.ENAMETOOLONG:
            raise MarsError(f"{target} cannot be written, since its name is too long: shorten it") from error
        raise


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces ``target`` unless the block fails.

    It has the target's suffix, from which writers (GDAL, Pillow) infer the format, and a short name even if the target
    has the longest that the file system allows.

    Raises:
        MarsError: the disk is full, the folder is not writable, the target's name is too long, or this process's run
            was given up.
    """
    refuse_given_up()
    with explained_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep_old(target.parent)
        name = f".{target.stem[:_LONGEST_STEM]}{TEMPORARY}{uuid.uuid4().hex[:8]}{target.suffix[:_LONGEST_SUFFIX]}"
        temporary = target.with_name(name)
        try:
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_files(targets: Mapping[str, Path]) -> Iterator[Path]:
    """Yield a temporary folder whose files replace others together.

    They do not if the block fails.

    A killed run leaves all of the former files, all of the new ones, or neither's last: what was there is removed in
    reverse order before the new files appear in order, so the last file never stands among the parts of another.

    Args:
        targets: by the names that the block writes in the temporary folder, all in one folder.

    Raises:
        MarsError: the disk is full, the folder is not writable, a target's name is too long, or this process's run was
            given up.
    """
    refuse_given_up()
    last = list(targets.values())[-1]
    with explained_errors(last):
        last.parent.mkdir(parents=True, exist_ok=True)
        _sweep_old(last.parent)
        # Without the target's name, which need not be text that writers take.
        temporary = last.with_name(f".files{TEMPORARY}{uuid.uuid4().hex[:8]}")
        temporary.mkdir()
        try:
            yield temporary
            for name in targets:
                with open(temporary / name, "rb+") as file:
                    os.fsync(file.fileno())
            if len(targets) > 1:
                for target in reversed(list(targets.values())):
                    target.unlink(missing_ok=True)
            for name, target in targets.items():
                os.replace(temporary / name, target)
        finally:
            shutil.rmtree(temporary)


def shown(name: str | PurePath) -> str:
    r"""Make a file's name writable as text.

    Bytes that are not UTF-8 are escaped (``\xe9``); any other name stays as it is. Where a name has such an escape,
    written here or its own, its backslashes are doubled, so that no two names look the same.
    """
    name = str(name)
    if _SURROGATES.search(name) or _ESCAPE.search(name):
        name = name.replace("\\", "\\\\")
    return printable(name)


def printable(text: str) -> str:
    r"""Make a message that may contain names of files writable as text.

    Bytes that are not UTF-8 are escaped (``\xe9``).
    """
    return _SURROGATES.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return rf"\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else rf"\u{code:04x}"


def short_name(name: str, ending: str = "") -> str:
    """Join a file name and its ending.

    A name that is too long is shortened to its beginning, a hash and its suffix.
    """
    if len(os.fsencode(name + ending)) <= _LONGEST_NAME:
        return name + ending
    path = PurePath(name)
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:8]
    return f"{path.stem[:_LONGEST_STEM]}-{digest}{path.suffix[:_LONGEST_SUFFIX]}{ending}"


def first_bytes(path: Path, count: int = 512) -> bytes:
    """Read the beginning of a file."""
    with path.open("rb") as file:
        return file.read(count)


def downloaded_instead(start: bytes) -> str:
    """Name what a download may have left in a file's place, by its first bytes.

    Empty if it is neither a web page nor a pointer.
    """
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer"
    if start.removeprefix(codecs.BOM_UTF8).lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page"
    return ""


def _sweep_old(folder: Path) -> None:
    """Remove temporary files older than a day.

    Done once per folder and process, since listing a large folder is slow.
    """
    if folder in _swept:
        return
    _swept.add(folder)
    oldest = time.time() - _A_DAY
    for entry in os.scandir(folder):
        if _LEFT.fullmatch(entry.name) and not entry.is_symlink():
            with suppress(OSError):  # already gone, or another user's: neither prevents writing
                if entry.stat().st_mtime < oldest:
                    shutil.rmtree(entry.path) if entry.is_dir() else Path(entry.path).unlink()


def sweep(folder: Path) -> None:
    """Remove killed runs' temporary files from a folder, if it exists.

    The folder must have one writer.
    """
    for path in folder.glob(f".*{TEMPORARY}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_bytes(target: Path, content: bytes) -> None:
    """Write a file atomically."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)


def write_json(target: Path, content: Any) -> None:
    """Write indented JSON atomically; NaN and infinity raise ValueError."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False, default=str)
    text = _SURROGATES.sub(lambda match: rf"\u{ord(match[0]):04x}", text)  # which UTF-8 cannot encode, but JSON can
    write_bytes(target, (text + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DamagedFileError: the file is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DamagedFileError(
            f"{path} is not valid JSON ({error}): delete it and materialize its asset again"
        ) from error


def write_table(target: Path, table: pd.DataFrame, provenance: Mapping[str, Any] | None = None) -> None:
    """Write a Parquet file, with ``provenance`` as JSON in its metadata."""
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    if provenance is not None:
        metadata = dict(arrow.schema.metadata or {})
        metadata[b"mars_assets"] = json.dumps(provenance, default=str).encode()
        arrow = arrow.replace_schema_metadata(metadata)
    with atomic_path(target) as temporary:
        pq.write_table(arrow, temporary, compression="zstd")


def write_csv(target: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV, atomically."""
    write_bytes(target, table.to_csv(index=False).encode())


def read_table(path: Path, asset: str, columns: list[str] | None = None) -> pd.DataFrame:
    """Read a table that ``asset`` wrote.

    Raises:
        MissingInputError: it does not exist.
        DamagedFileError: it cannot be read as Parquet.
    """
    if not path.exists():
        raise MissingInputError(asset, path)
    try:
        return pd.read_parquet(path, columns=columns)
    except (pa.ArrowInvalid, pa.ArrowException, OSError) as error:
        raise DamagedFileError(f"{path} cannot be read as Parquet ({error}): materialize '{asset}' again") from error


def as_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """List a table's rows, each by the names of its columns."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def read_provenance(path: Path) -> dict[str, Any]:
    """Read the provenance that :func:`write_table` stored, or an empty one."""
    metadata = pq.read_schema(path).metadata or {}
    provenance: dict[str, Any] = json.loads(metadata.get(b"mars_assets", b"{}"))
    return provenance


def table_rows(text: str) -> list[tuple[int, list[str]]]:
    """Read the rows of a CSV with their line numbers, without blank rows.

    Spreadsheets also write semicolons or tabs between cells, and end lines in other ways.

    Raises:
        csv.Error: it is not a valid CSV.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    first = text.lstrip().partition("\n")[0]
    separator = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text), delimiter=separator, strict=True, skipinitialspace=True)
    rows = ((reader.line_num, [cell.strip() for cell in row]) for row in reader)
    return [(line, row) for line, row in rows if any(row)]


def read_rows(path: Path) -> list[tuple[int, list[str]]]:
    """Read the rows of a CSV that a user wrote, as :func:`table_rows` does.

    Blank cells at the end of a row, where spreadsheets write blank columns, are left out.

    Raises:
        MarsError: it is not UTF-8 text, or not a valid CSV.
    """
    try:
        # Excel writes a byte-order mark.
        rows = table_rows(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise MarsError(f"{path} is not UTF-8 text ({error}). Save it as CSV with UTF-8 encoding") from error
    except csv.Error as error:
        raise MarsError(
            f"{path} is not a valid CSV ({error}): check that each quotation mark has its partner, and double those "
            "within a cell"
        ) from error
    except OSError as error:
        raise MarsError(f"{path} cannot be read ({error.strerror}): check the file") from error
    for _, row in rows:
        while not row[-1]:
            row.pop()
    return rows
