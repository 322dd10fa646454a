"""Polite, resumable downloads of HiRISE products; a file under its final name is complete.

A file grows as ``NAME.part`` next to ``NAME.part.json``, which records its source. A resumed transfer requests the last
bytes of the part again and compares them, because a server may answer a range request with the wrong bytes. Only a
verified file gets its final name; ``ledger.json`` records its sha256, address and validators.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.metadata
import io
import os
import random
import re
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from filelock import FileLock, Timeout
from tenacity import wait_random_exponential

from mars_assets.errors import ArchiveError, DamagedFileError, MarsError
from mars_assets.imagery.products import ProductFiles
from mars_assets.imagery.verify import verify_file
from mars_assets.lake import LEDGER
from mars_assets.progress import SILENT, Progress
from mars_assets.retries import AttemptError, State, attempts, error_of, retry_after
from mars_assets.storage.files import read_json, write_json
from mars_assets.storage.hashing import sha256_file

_OVERLAP = 1024  # bytes fetched again and compared when a transfer is resumed
_CHUNK = 1 << 20
_MEGABYTE = 1_000_000
_FLUSH = 64 << 20  # bytes between two calls of fsync
_LONGEST_RETRY_AFTER = 3600.0
_REDIRECTS = 5
_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Archive:
    """A HiRISE archive tree behind HTTP.

    Args:
        base_url: root of the products' addresses, e.g. ``https://hirise-pds.lpl.arizona.edu/PDS``.
        contact: an e-mail address or web page for the User-Agent, so that the archive's operators can write before they
            block.
        timeouts: seconds to connect, and seconds without a byte received.
        retries: attempts after the first; every megabyte of progress resets the count.
        backoff: seconds before the first retry, doubled each time up to ``longest_backoff``, with jitter.
        longest_backoff: upper limit of the wait in seconds.
        connections: simultaneous transfers from this archive, across all processes on this machine.
        lock_folder: folder of the locks that those processes share; by default a folder per user in the system's
            temporary folder.
    """

    base_url: str
    contact: str
    timeouts: tuple[float, float] = (10.0, 60.0)
    retries: int = 6
    backoff: float = 1.0
    longest_backoff: float = 60.0
    connections: int = 2
    lock_folder: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise MarsError(f"the archive's base address {self.base_url!r} must start with https:// or http://")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise MarsError("the archive's base address must have no user, password, query or fragment")

    def address(self, relative: str) -> str:
        """Compose the full address of a file.

        Raises:
            MarsError: the relative address is not a plain path below the base.
        """
        if not all(_SEGMENT.fullmatch(segment) for segment in relative.split("/")):
            raise MarsError(f"{relative!r} is not an address below the archive's base")
        return f"{self.base_url.rstrip('/')}/{relative}"

    @property
    def user_agent(self) -> str:
        """Compose the User-Agent header.

        Raises:
            ArchiveError: no contact was given. Files that are already downloaded need none.
        """
        if not self.contact.strip() or not self.contact.isprintable() or not self.contact.isascii():
            raise ArchiveError(
                "a download needs a contact, so that the archive's operators can reach you: set the variable "
                "MARS_CONTACT, or the archive resource's contact, to your e-mail address or web page"
            )
        return f"mars-assets/{importlib.metadata.version('mars-assets')} ({self.contact})"

    @contextlib.contextmanager
    def connection(self) -> Iterator[None]:
        """Hold one of the ``connections`` slots, waiting until one is free.

        The locks belong to the operating system, so a killed process releases its own.
        """
        user = os.getuid() if hasattr(os, "getuid") else "user"
        folder = self.lock_folder or Path(tempfile.gettempdir()) / f"mars-assets-{user}"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        host = hashlib.sha256(urlsplit(self.base_url).netloc.lower().encode()).hexdigest()[:16]
        while True:
            for place in range(self.connections):
                lock = FileLock(folder / f"{host}-{place}.lock")
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    continue
                try:
                    yield
                finally:
                    lock.release()
                return
            time.sleep(random.uniform(0.02, 0.2))


@dataclass(frozen=True)
class DownloadedFile:
    """A verified file and its origin."""

    path: Path
    address: str
    bytes: int
    sha256: str
    etag: str | None
    last_modified: str | None


class _TransferError(AttemptError):
    """A transfer failed and another attempt may succeed.

    Args:
        cause: description of the failure.
        after: seconds that the archive asks to wait.
        discard: whether the received part must be deleted.
        spurn_ranges: whether later attempts must request the whole file.
    """

    def __init__(self, cause: str, after: float = 0.0, discard: bool = False, spurn_ranges: bool = False) -> None:
        super().__init__(cause, after)
        self.discard = discard
        self.spurn_ranges = spurn_ranges


@dataclass(frozen=True)
class _Download:
    """A file of the archive and where it is stored.

    Args:
        archive: the archive to download from.
        address: the file's full address.
        target: the complete file.
        progress: reports the transfer.
    """

    archive: Archive
    address: str
    target: Path
    progress: Progress

    @property
    def part(self) -> Path:
        """Return the path of the bytes received so far."""
        return self.target.with_name(f"{self.target.name}.part")

    @property
    def state(self) -> Path:
        """Return the path of the record of the part's source."""
        return self.target.with_name(f"{self.target.name}.part.json")


def fetch_product(
    archive: Archive, files: ProductFiles, folder: Path, progress: Progress = SILENT
) -> list[DownloadedFile]:
    """Download and verify a product: the image first, then its label if it has one.

    Existing files are not downloaded again, and an interrupted transfer is resumed.

    Args:
        archive: the archive to download from.
        files: the product's addresses.
        folder: the observation's own folder.
        progress: reports every transfer, its rate and every failed attempt.

    Raises:
        ArchiveError: no request can succeed now: the archive asks for a long wait, or contact or address are unusable.
        MarsError: the archive lacks the file, refuses it, redirects to another host, or all attempts failed. The
            message names the address and the last cause.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Two runs must not append to the same part.
    with FileLock(folder / ".lock"):
        return [
            _fetch_file(_Download(archive, archive.address(relative), folder / Path(relative).name, progress))
            for relative in (files.image, files.label)
            if relative is not None
        ]


def recorded_sha256(path: Path) -> str:
    """Look up a file's sha256 in its folder's ledger, or compute it if size or time differ."""
    entry = _ledger(path.parent).get(path.name)
    if entry is not None and _unchanged(path, entry):
        return str(entry["sha256"])
    return sha256_file(path)


def source_state(archive: Archive, files: ProductFiles, folder: Path) -> dict[str, str]:
    """Compare downloaded files with the archive's: "unchanged", "changed", or why it is unknown.

    Returns:
        The comparison by file name; files that have not been downloaded are left out.
    """
    names = [Path(relative).name for relative in (files.image, files.label) if relative is not None]
    present = [name for name in names if name in _ledger(folder) and (folder / name).is_file()]
    if not present:
        return {}
    try:
        changed = changed_at_source(archive, files, folder)
    except MarsError as error:
        return dict.fromkeys(present, f"unknown: {error}")
    return {
        name: "changed: delete the file to download it again" if name in changed else "unchanged" for name in present
    }


def changed_at_source(archive: Archive, files: ProductFiles, folder: Path) -> list[str]:
    """List downloaded files whose size or validators at the archive differ from the ledger.

    To get the new version, delete the named file and download the product again.

    Raises:
        MarsError: the archive does not answer.
    """
    changed = []
    ledger = _ledger(folder)
    for relative in (files.image, files.label):
        entry = ledger.get(Path(relative).name) if relative else None
        if relative is None or entry is None:
            continue
        address = archive.address(relative)
        broken = ""
        try:
            with archive.connection(), _open(archive, "HEAD", address, {}) as response:
                if response.status_code != 200:
                    raise MarsError(f"{address}: the archive answered {response.status_code} {response.reason}")
                headers = response.headers
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            broken = _cause(error, archive)
        if broken:
            raise MarsError(f"{address}: {broken}")
        now = {"etag": headers.get("ETag"), "last_modified": headers.get("Last-Modified"), "bytes": _length(headers)}
        if any(now[key] is not None and entry[key] is not None and now[key] != entry[key] for key in now):
            changed.append(Path(relative).name)
    return changed


def _fetch_file(download: _Download) -> DownloadedFile:
    if (found := _finished(download)) is not None:
        return found

    archive, part, target = download.archive, download.part, download.target
    best, use_ranges = 0, True
    unusable: set[str] = set()

    def fetch() -> str:
        with archive.connection():
            sha256 = _transfer(download, use_ranges)
        _verify_part(download, sha256, unusable)
        return sha256

    def failed(attempt: State) -> None:
        nonlocal best, use_ranges
        failure = error_of(attempt)
        assert isinstance(failure, _TransferError)
        if failure.discard:
            part.unlink(missing_ok=True)
        use_ranges = use_ranges and not failure.spurn_ranges
        size = part.stat().st_size if part.exists() else 0
        if size >= best + _MEGABYTE:
            attempt.attempt_number, best = 1, size

    def say(attempt: State) -> None:
        download.progress.say(
            f"{target.name}: {error_of(attempt)}; attempt {attempt.attempt_number + 1} in "
            f"{attempt.upcoming_sleep:.1f} s"
        )

    # With full jitter, processes that failed together do not retry together.
    wait = wait_random_exponential(archive.backoff, archive.longest_backoff)
    try:
        sha256 = attempts(archive.retries + 1, wait, failed, say)(fetch)
    except _TransferError as failure:
        raise MarsError(
            f"{download.address} could not be downloaded in {archive.retries + 1} attempts. The last one failed "
            f"because {failure}. Run again later: the transfer resumes where it stopped"
        ) from failure
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MarsError(
                f"no space left for {target}: free some and run again; the transfer resumes where it stopped"
            ) from error
        raise

    state = read_json(download.state)
    with open(part, "rb+") as file:
        os.fsync(file.fileno())
    stat = part.stat()
    entry = {
        "address": download.address,
        "bytes": stat.st_size,
        "sha256": sha256,
        "etag": state["etag"],
        "last_modified": state["last_modified"],
        "mtime_ns": stat.st_mtime_ns,
        "fetched": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    # If the run is killed after the rename, _finished finds the entry in the state file.
    write_json(download.state, {**state, "entry": entry})
    os.replace(part, target)
    return _enter(download, entry)


def _finished(download: _Download) -> DownloadedFile | None:
    """Return the file if it exists and is the verified one."""
    target = download.target
    if not target.is_file():
        return None
    entries = [_ledger(target.parent).get(target.name)]
    if download.state.exists():
        entries.append(read_json(download.state).get("entry"))
    sha256 = None
    for entry in filter(None, entries):
        if _unchanged(target, entry):
            return _enter(download, entry)
        sha256 = sha256 or sha256_file(target)
        if sha256 == entry["sha256"]:
            return _enter(download, {**entry, "mtime_ns": target.stat().st_mtime_ns})
    download.progress.say(f"{target} differs from the file recorded in {LEDGER}: downloading it again")
    return None


def _unchanged(path: Path, entry: dict[str, Any]) -> bool:
    stat = path.stat()
    return bool(stat.st_size == entry["bytes"] and stat.st_mtime_ns == entry["mtime_ns"])


def _ledger(folder: Path) -> dict[str, Any]:
    path = folder / LEDGER
    return read_json(path)["files"] if path.exists() else {}


def _enter(download: _Download, entry: dict[str, Any]) -> DownloadedFile:
    """Record a verified file in its folder's ledger."""
    target = download.target
    files = _ledger(target.parent)
    if files.get(target.name) != entry:
        write_json(target.parent / LEDGER, {"files": {**files, target.name: entry}})
    download.state.unlink(missing_ok=True)
    return DownloadedFile(
        target, entry["address"], entry["bytes"], entry["sha256"], entry["etag"], entry["last_modified"]
    )


def _verify_part(download: _Download, sha256: str, unusable: set[str]) -> None:
    """Verify that the received file is complete.

    Args:
        download: the file.
        sha256: of the part.
        unusable: the sha256 of unusable content received so far; this one is added if it is unusable too.

    Raises:
        _TransferError: the file is unusable.
        MarsError: the same unusable content arrived before, so it is what the archive holds.
    """
    try:
        verify_file(download.part, download.target.name)
    except DamagedFileError as error:
        if sha256 in unusable:
            download.part.unlink()
            raise MarsError(
                f"{download.address} arrived twice with the same unusable content, so it is not requested again. "
                f"{error}"
            ) from error
        unusable.add(sha256)
        raise _TransferError(str(error), discard=True) from error


def _transfer(download: _Download, use_ranges: bool) -> str:
    """Request the file, or the rest of it, once, and append the answer to the part.

    Returns:
        The sha256 of the whole part.
    """
    archive, address, part = download.archive, download.address, download.part
    state = read_json(download.state) if download.state.exists() and part.exists() else {}
    have = part.stat().st_size if state.get("address") == address else 0
    start = max(0, have - _OVERLAP) if use_ranges else 0
    headers = {}
    if start:
        headers["Range"] = f"bytes={start}-"
        # A weak validator promises no equal bytes, and RFC 9110 forbids it here.
        validator = state["etag"] if (state["etag"] or "W/").startswith('"') else state["last_modified"]
        if validator:
            headers["If-Range"] = validator
    broken = ""
    try:
        with _open(archive, "GET", address, headers) as response:
            _refuse_errors(response, address, start)
            total: int | None
            if response.status_code == 206:
                total = _check_range(response, start, state)
            else:
                start, total = 0, _length(response.headers)
                part.unlink(missing_ok=True)
                write_json(
                    download.state,
                    {
                        "address": address,
                        "bytes": total,
                        "etag": response.headers.get("ETag"),
                        "last_modified": response.headers.get("Last-Modified"),
                    },
                )
            sha256 = _receive(download, response, start, have, total)
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        broken = _cause(error, archive)
    if broken:
        raise _TransferError(broken)
    if total is not None and part.stat().st_size != total:
        raise _TransferError(f"{part.stat().st_size} of {total} bytes arrived", discard=part.stat().st_size > total)
    return sha256


def _open(archive: Archive, method: str, address: str, headers: dict[str, str]) -> requests.Response:
    """Send a request, following redirects that stay on the archive's host.

    The libraries' errors quote headers and a proxy's password, and Dagster logs the whole chain of an error. Callers
    therefore raise their own error after the ``except`` block, without a cause.
    """
    home = urlsplit(archive.base_url)
    headers = {"User-Agent": archive.user_agent, "Accept-Encoding": "identity", **headers}
    for _ in range(_REDIRECTS):
        response = None
        # Every library involved raises a ValueError for an unusable address.
        with contextlib.suppress(ValueError):
            response = requests.request(
                method, address, headers=headers, timeout=archive.timeouts, stream=True, allow_redirects=False
            )
        if response is None:
            raise ArchiveError(
                "the address of the archive or of a proxy is invalid: check MARS_HIRISE_ARCHIVE, HTTPS_PROXY, "
                "HTTP_PROXY and ALL_PROXY. In a proxy's user and password write @, :, / and # as %40, %3A, %2F and %23"
            )
        location = response.headers.get("Location")
        if not response.is_redirect or location is None:
            return response
        response.close()
        there = urljoin(address, location)
        parts = urlsplit(there)
        same = (parts.hostname, parts.port) == (home.hostname, home.port) and parts.username is None
        if not same or parts.scheme not in (home.scheme, "https"):
            raise MarsError(
                f"{address} redirects to another host, {parts.scheme}://{parts.hostname}, which is not followed: "
                "if the archive has moved, set its new base address"
            )
        address = there
    raise MarsError(f"{address}: more than {_REDIRECTS} redirects. Check the archive's base address")


def _refuse_errors(response: requests.Response, address: str, start: int) -> None:
    status = response.status_code
    if status in (408, 425, 429) or status >= 500:
        after = retry_after(response.headers.get("Retry-After"))
        if after > _LONGEST_RETRY_AFTER:
            raise ArchiveError(f"{address}: the archive asks for a wait of {after / 3600:.1f} hours. Run again then")
        raise _TransferError(f"the archive answered {status} {response.reason}", after)
    if status == 416 and start:
        raise _TransferError(
            "the archive cannot continue where the last attempt stopped", discard=True, spurn_ranges=True
        )
    if status in (404, 410):
        raise MarsError(
            f"{address}: the archive has no such file ({status}). Not every observation has every product: choose "
            "another in observations.csv, or name the observation in the query's exclude"
        )
    if status == 206 and not start:
        raise _TransferError("the archive sent a part although the whole file was requested")
    if status not in (200, 206):
        raise MarsError(f"{address}: the archive answered {status} {response.reason}. Check the archive's base address")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise _TransferError(f"the archive sent the file encoded as {response.headers['Content-Encoding']}")
    if "html" in response.headers.get("Content-Type", "").lower():
        raise _TransferError("the archive sent a web page instead of the file")


def _check_range(response: requests.Response, start: int, state: dict[str, Any]) -> int:
    """Read the file's length from a 206 answer, which must continue the same version of the file."""
    text = response.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes ([0-9]+)-([0-9]+)/([0-9]+)", text.strip())
    if match is None or int(match[1]) != start or int(match[2]) != int(match[3]) - 1:
        raise _TransferError(
            f"the archive answered a request for bytes {start}- with {text or 'no range'!r}",
            discard=True,
            spurn_ranges=True,
        )
    total = int(match[3])
    etag = response.headers.get("ETag")
    if state["bytes"] not in (None, total) or (etag and state["etag"] and etag != state["etag"]):
        raise _TransferError("the file has changed at the archive since its first part was received", discard=True)
    return total


def _receive(download: _Download, response: requests.Response, start: int, have: int, total: int | None) -> str:
    """Append the body to the part from byte ``start``.

    Its first bytes overlap the part (up to byte ``have``) and must equal it.

    Returns:
        The sha256 of the whole part.
    """
    overlap = b""
    hashed = hashlib.sha256()
    if start:
        with open(download.part, "rb") as file:
            hashed = hashlib.file_digest(file, "sha256")
            file.seek(start)
            overlap = file.read(have - start)
    megabytes = None if total is None else total // _MEGABYTE
    counter = download.progress.counter(f"fetching {download.target.name}", megabytes, "MB")
    counter.done = start // _MEGABYTE
    position, unflushed = start, 0
    # Flushed while more arrives, so that the final fsync has little left to wait for.
    with open(download.part, "ab" if start else "wb", buffering=0) as target, ThreadPoolExecutor(1, "flush") as flusher:
        flushing = flusher.submit(lambda: None)
        # read1 returns whatever has arrived, so that a broken connection loses nothing.
        while chunk := response.raw.read1(_CHUNK, decode_content=False):
            if position == 0 and chunk.lstrip()[:1] == b"<":
                raise _TransferError("the archive sent a web page instead of the file", discard=True)
            known, overlap = overlap[: len(chunk)], overlap[len(chunk) :]
            if chunk[: len(known)] != known:
                raise _TransferError(
                    "the archive sent other bytes than those requested", discard=True, spurn_ranges=True
                )
            fresh = chunk[len(known) :]
            _write_all(target, fresh)
            hashed.update(fresh)
            position, unflushed = position + len(chunk), unflushed + len(fresh)
            if unflushed >= _FLUSH and flushing.done():
                flushing.result()
                flushing, unflushed = flusher.submit(os.fsync, target.fileno()), 0
            counter.advance(position // _MEGABYTE - counter.done)
        flushing.result()
    counter.close()
    return hashed.hexdigest()


def _write_all(file: io.FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _length(headers: Any) -> int | None:
    text = headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() else None


def _cause(error: Exception, archive: Archive) -> str:
    """Describe an error without the headers and proxy passwords that the libraries' messages may quote."""
    connect, read = archive.timeouts
    match error:
        case requests.ConnectTimeout():
            return f"no connection was made within {connect:g} s"
        case requests.ReadTimeout() | urllib3.exceptions.ReadTimeoutError():
            return f"nothing arrived for {read:g} s"
        case requests.exceptions.SSLError():
            return "the host's certificate was not accepted"
        case requests.exceptions.ProxyError():
            return "the proxy cannot be reached or refuses the request"
        case urllib3.exceptions.ProtocolError() | requests.exceptions.ChunkedEncodingError():
            return "the connection broke in the middle of the file"
        case requests.ConnectionError():
            return "the host cannot be reached or closed the connection"
        case _:
            return f"the transfer failed ({type(error).__name__})"
