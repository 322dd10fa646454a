"""Downloads of HiRISE products.

They are polite and resumable, and a file with its final name is whole.

A file grows as ``NAME.part`` next to ``NAME.part.json``, which names the file that the part belongs to. A resumed
transfer asks for the part's last bytes again and compares them, because a server may answer a range request with other
bytes than those asked for. Only a verified file gets its name; ``ledger.json`` has its sha256, address and validators.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.metadata
import os
import random
import re
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
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
from mars_assets.progress import SILENT, Counter, Progress
from mars_assets.retries import AttemptError, State, attempts, concealing_errors, error_of, retry_after
from mars_assets.storage.files import read_json, write_json
from mars_assets.storage.hashing import sha256_file
from mars_assets.storage.locks import lock_of

_OVERLAP = 1024  # bytes fetched again and compared when a transfer is resumed
_CHUNK = 1 << 20
_MEGABYTE = 1_000_000
_FLUSH = 64 << 20  # bytes after which the disk is asked to have them, so that the end has little left to wait for
_LONGEST_RETRY_AFTER = 3600.0
_REDIRECTS = 5
_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Archive:
    """A HiRISE archive tree behind HTTP.

    Args:
        base_url: what the products' addresses are relative to, e.g. ``https://hirise-pds.lpl.arizona.edu/PDS``.
        contact: an e-mail address or web page in the User-Agent, so that the archive can write before it blocks.
        timeouts: seconds to connect, and seconds without a byte received.
        retries: further attempts after the first; every megabyte of progress earns them anew.
        backoff: seconds before the first retry, doubled each time up to ``longest_backoff``, with jitter.
        connections: transfers at a time from this archive, over all processes of this machine.
        lock_folder: where those processes meet; a folder of the user's own in the system's temporary folder by default.
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
            raise MarsError(f"the archive's base address {self.base_url!r} must begin with https:// or http://")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise MarsError("the archive's base address must have no user, password, query or fragment")

    def address(self, relative: str) -> str:
        """Build a file's address.

        Raises:
            MarsError: the relative address is not a plain path below the base.
        """
        if not all(_SEGMENT.fullmatch(segment) for segment in relative.split("/")):
            raise MarsError(f"{relative!r} is not an address below the archive's base")
        return f"{self.base_url.rstrip('/')}/{relative}"

    @property
    def user_agent(self) -> str:
        """The User-Agent with the contact.

        Raises:
            ArchiveError: no contact was given. What is downloaded already needs none.
        """
        if not self.contact.strip() or not self.contact.isprintable() or not self.contact.isascii():
            raise ArchiveError(
                "the archive's people must be able to reach you before a download: set the variable MARS_CONTACT, or "
                "the archive resource's contact, to your e-mail address or web page"
            )
        return f"mars-assets/{importlib.metadata.version('mars-assets')} ({self.contact})"

    @contextlib.contextmanager
    def connection(self, progress: Progress = SILENT) -> Iterator[None]:
        """Wait for one of the ``connections`` places.

        The locks are the operating system's: a killed process frees its own.

        Args:
            progress: told once that all places are taken.
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
            progress.say(f"waiting for one of the {self.connections} downloads from this archive to end")
            progress = SILENT
            time.sleep(random.uniform(0.02, 0.2))


@dataclass(frozen=True)
class DownloadedFile:
    """A verified file and where it came from."""

    path: Path
    address: str
    bytes: int
    sha256: str


class _UselessError(AttemptError):
    """A transfer failed, and what was received is of no use."""


class _RangeError(_UselessError):
    """A transfer failed, and no further part may be asked for."""


def fetch_product(
    archive: Archive, files: ProductFiles, folder: Path, progress: Progress = SILENT
) -> list[DownloadedFile]:
    """Fetch and verify a product's files: image first, then its label if it has one.

    Files that exist are not fetched again. What an earlier run left unfinished is continued.

    Args:
        archive: where from.
        files: the product's addresses.
        folder: the observation's own folder.
        progress: told of every transfer, its rate and every failed attempt.

    Raises:
        ArchiveError: nothing can be asked for now: the archive asks to come back much later, or contact or address
            are unusable.
        MarsError: the archive lacks the file, refuses it, redirects to another host, or all attempts failed. The
            message names the address and the last cause.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # One writer a folder, so that two runs do not append to the same part.
    lock = lock_of(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress.say(f"{folder}: waiting for another run, which downloads into it")
        lock.acquire()
    try:
        return [_Transfer(archive, relative, folder, progress).file() for relative in files.addresses]
    finally:
        lock.release()


def recorded_sha256(path: Path) -> str:
    """Look up a file's sha256 in the ledger next to it.

    It is computed where size or time differ.
    """
    entry = _ledger(path.parent).get(path.name)
    if entry is not None and _unchanged(path, entry):
        return str(entry["sha256"])
    return sha256_file(path)


def source_state(archive: Archive, files: ProductFiles, folder: Path) -> dict[str, str]:
    """Ask the archive whether fetched files have changed there.

    Returns:
        "unchanged", "changed", or why that is unknown, by file name; files that are yet to be fetched are left out.
    """
    names = [Path(relative).name for relative in files.addresses]
    present = [name for name in names if name in _ledger(folder) and (folder / name).is_file()]
    try:
        changed = changed_at_source(archive, files, folder) if present else []
    except MarsError as error:
        return dict.fromkeys(present, f"not asked: {error}")
    return {name: "changed: delete it here to fetch it again" if name in changed else "unchanged" for name in present}


def changed_at_source(archive: Archive, files: ProductFiles, folder: Path) -> list[str]:
    """Name the fetched files that have changed at the archive.

    Their size or validators differ from those in the ledger.

    To get the new version, delete the named file and fetch the product again.

    Raises:
        MarsError: the archive does not answer.
    """
    changed = []
    ledger = _ledger(folder)
    for relative in files.addresses:
        if entry := ledger.get(Path(relative).name):
            now = _validators_at_source(archive, archive.address(relative))
            if any(now[key] is not None and entry[key] is not None and now[key] != entry[key] for key in now):
                changed.append(Path(relative).name)
    return changed


def _validators_at_source(archive: Archive, address: str) -> dict[str, Any]:
    def ask() -> dict[str, Any]:
        with archive.connection(), _open(archive, "HEAD", address, {}) as response:
            if response.status_code != 200:
                raise MarsError(
                    f"{address}: the archive answers {response.status_code} {response.reason}. "
                    "Check the archive's base address"
                )
            return _validators(response)

    return concealing_errors(ask, lambda error: MarsError(f"{address}: {_cause(error, archive)}"))


class _Transfer:
    """One file on its way from the archive into an observation's folder.

    Args:
        archive: where from.
        relative: the file's address below the archive's base.
        folder: where to.
        progress: reports the transfer and every failed attempt.
    """

    def __init__(self, archive: Archive, relative: str, folder: Path, progress: Progress) -> None:
        self._archive, self._progress = archive, progress
        self._address, self._name = archive.address(relative), relative.rsplit("/", 1)[-1]
        self._target = folder / self._name
        self._part, self._state_path = folder / f"{self._name}.part", folder / f"{self._name}.part.json"
        self._received = 0
        self._use_ranges = True
        self._unusable: set[str] = set()
        """sha256 of what came whole and could not be used."""

    def file(self) -> DownloadedFile:
        """Fetch the file, unless it exists.

        Raises:
            ArchiveError: nothing can be asked for now.
            MarsError: the file cannot be had, or the disk is full.
        """
        if (found := self._finished()) is not None:
            return found
        # "Full jitter": processes that failed together do not come back together.
        wait = wait_random_exponential(self._archive.backoff, self._archive.longest_backoff)
        most = self._archive.retries + 1
        try:
            sha256 = attempts(most, wait, after=self._failed, before_sleep=self._say)(self._fetch)
        except AttemptError as failure:
            raise MarsError(
                f"{self._address} could not be downloaded in {most} attempts. The last one failed because {failure}. "
                "Run again later: what was received is kept"
            ) from failure
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise MarsError(
                    f"no space left for {self._target}: free some and run again; what was received is kept"
                ) from error
            raise
        return self._named(sha256)

    def _failed(self, attempt: State) -> None:
        """Decide what the next attempt starts from.

        A megabyte of progress earns the attempts anew.
        """
        failure = error_of(attempt)
        if isinstance(failure, _UselessError):
            self._part.unlink(missing_ok=True)
        self._use_ranges = self._use_ranges and not isinstance(failure, _RangeError)
        size = self._part.stat().st_size if self._part.exists() else 0
        if size >= self._received + _MEGABYTE:
            attempt.attempt_number, self._received = 1, size

    def _say(self, attempt: State) -> None:
        number, wait = attempt.attempt_number + 1, attempt.upcoming_sleep
        self._progress.say(f"{self._name}: {error_of(attempt)}; attempt {number} in {wait:.1f} s")

    def _fetch(self) -> str:
        """Make one attempt. Returns the part's sha256."""
        with self._archive.connection(self._progress):
            sha256 = concealing_errors(self._transfer, lambda error: AttemptError(_cause(error, self._archive)))
        try:
            verify_file(self._part, self._name)
        except DamagedFileError as error:
            if sha256 in self._unusable:
                self._part.unlink()
                raise MarsError(
                    f"{self._address} arrived twice with the same unusable content, so it is not downloaded again: "
                    f"{error}. Choose another product, or exclude the observation"
                ) from error
            self._unusable.add(sha256)
            raise _UselessError(str(error)) from error
        return sha256

    def _transfer(self) -> str:
        """Ask for the file, or for the rest of it, and write what comes.

        Returns the whole part's sha256.
        """
        part = self._part
        state = read_json(self._state_path) if self._state_path.exists() and part.exists() else {}
        have = part.stat().st_size if state.get("address") == self._address else 0
        start = max(0, have - _OVERLAP) if self._use_ranges else 0
        headers = {}
        if start:
            headers["Range"] = f"bytes={start}-"
            # A weak validator promises no equal bytes, and RFC 9110 forbids it here.
            validator = state["etag"] if (state["etag"] or "W/").startswith('"') else state["last_modified"]
            if validator:
                headers["If-Range"] = validator
        with _open(self._archive, "GET", self._address, headers) as response:
            _refuse_errors(response, self._address, start)
            if response.status_code == 206:
                total: int | None = _check_range(response, start, state)
            else:
                start, have = 0, 0
                part.unlink(missing_ok=True)
                state = {"address": self._address, **_validators(response)}
                total = state["bytes"]
                write_json(self._state_path, state)
            counter = self._progress.counter(f"fetching {self._name}", (total or 0) // _MEGABYTE, "MB")
            sha256 = _receive(response, part, start, have, counter)
        if total is not None and (size := part.stat().st_size) != total:
            raise (_UselessError if size > total else AttemptError)(f"{size} of {total} bytes arrived")
        return sha256

    def _named(self, sha256: str) -> DownloadedFile:
        """Give a verified part its name and enter it in the ledger."""
        state = read_json(self._state_path)
        with open(self._part, "rb+") as file:
            os.fsync(file.fileno())
        stat = self._part.stat()
        entry = {
            "address": self._address,
            "bytes": stat.st_size,
            "sha256": sha256,
            "etag": state["etag"],
            "last_modified": state["last_modified"],
            "mtime_ns": stat.st_mtime_ns,
            "fetched": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        # The entry waits in the state file while the part becomes the file: _finished recognises a run killed here.
        write_json(self._state_path, {**state, "entry": entry})
        os.replace(self._part, self._target)
        return self._entered(entry)

    def _finished(self) -> DownloadedFile | None:
        """Find the file if it is the one that was verified."""
        target = self._target
        if not target.is_file():
            return None
        entries = [_ledger(target.parent).get(target.name)]
        if self._state_path.exists():
            entries.append(read_json(self._state_path).get("entry"))
        for entry in filter(None, entries):
            if _unchanged(target, entry):
                return self._entered(entry)
            if sha256_file(target) == entry["sha256"]:
                return self._entered({**entry, "mtime_ns": target.stat().st_mtime_ns})
        self._progress.say(f"{target} is not what {LEDGER} says was fetched: fetching it again")
        return None

    def _entered(self, entry: dict[str, Any]) -> DownloadedFile:
        """Enter the file in the ledger unless it is there already."""
        files = _ledger(self._target.parent)
        if files.get(self._name) != entry:
            write_json(self._target.parent / LEDGER, {"files": {**files, self._name: entry}})
        self._state_path.unlink(missing_ok=True)
        return DownloadedFile(self._target, entry["address"], entry["bytes"], entry["sha256"])


def _unchanged(path: Path, entry: dict[str, Any]) -> bool:
    stat = path.stat()
    return bool(stat.st_size == entry["bytes"] and stat.st_mtime_ns == entry["mtime_ns"])


def _ledger(folder: Path) -> dict[str, Any]:
    path = folder / LEDGER
    return read_json(path)["files"] if path.exists() else {}


def _open(archive: Archive, method: str, address: str, headers: dict[str, str]) -> requests.Response:
    """Ask, and follow redirects as long as they stay on the archive's host."""
    home = urlsplit(archive.base_url)
    headers = {"User-Agent": archive.user_agent, "Accept-Encoding": "identity", **headers}
    how: dict[str, Any] = {"timeout": archive.timeouts, "stream": True, "allow_redirects": False}
    for _ in range(_REDIRECTS):
        response = concealing_errors(
            partial(requests.request, method, address, headers=headers, **how),
            lambda _: ArchiveError(
                "the archive's address or a proxy's cannot be used: look at MARS_HIRISE_ARCHIVE, HTTPS_PROXY, "
                "HTTP_PROXY and ALL_PROXY. In a proxy's user and password write @, :, / and # as %40, %3A, %2F and %23"
            ),
            (ValueError,),  # an address that cannot be used is one, of whichever library it is
        )
        if not response.is_redirect:
            return response
        response.close()
        there = urljoin(address, response.headers["Location"])
        parts = urlsplit(there)
        same = (parts.hostname, parts.port) == (home.hostname, home.port) and parts.username is None
        if not same or parts.scheme not in (home.scheme, "https"):
            raise MarsError(
                f"{address} redirects to another host, {parts.scheme}://{parts.hostname}. That is not followed: "
                "if the archive has moved, set its new base address"
            )
        address = there
    raise MarsError(f"{address}: more than {_REDIRECTS} redirects. Check the archive's base address")


def _refuse_errors(response: requests.Response, address: str, start: int) -> None:
    status = response.status_code
    if status in (408, 425, 429) or status >= 500:
        after = retry_after(response.headers.get("Retry-After"))
        if after > _LONGEST_RETRY_AFTER:
            raise ArchiveError(f"{address}: the archive asks to come back in {after / 3600:.1f} hours. Run again then")
        raise AttemptError(f"the archive answers {status} {response.reason}", after)
    if status == 416 and start:
        raise _RangeError("the archive cannot continue where the last attempt ended")
    if status in (404, 410):
        raise MarsError(
            f"{address}: the archive has no such file ({status}). Not every observation has every product: choose "
            "another in observations.csv, or name the observation in the query's exclude"
        )
    if status == 206 and not start:
        raise AttemptError("the archive sent a part where the whole was asked for")
    if status not in (200, 206):
        raise MarsError(f"{address}: the archive answers {status} {response.reason}. Check the archive's base address")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise AttemptError(f"the archive sent it encoded as {response.headers['Content-Encoding']}")
    if "html" in response.headers.get("Content-Type", "").lower():
        raise AttemptError("the archive sent a web page in the file's place")


def _check_range(response: requests.Response, start: int, state: dict[str, Any]) -> int:
    """Read the file's whole length from a 206 answer.

    It must continue the very file that the part is of.
    """
    text = response.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes ([0-9]+)-([0-9]+)/([0-9]+)", text.strip())
    if match is None or int(match[1]) != start or int(match[2]) != int(match[3]) - 1:
        raise _RangeError(f"the archive answers bytes {start}- with {text or 'no range'!r}")
    total = int(match[3])
    etag = response.headers.get("ETag")
    if state["bytes"] not in (None, total) or (etag and state["etag"] and etag != state["etag"]):
        raise _UselessError("the file has changed at the archive since its first part was received")
    return total


def _receive(response: requests.Response, part: Path, start: int, have: int, counter: Counter) -> str:
    """Append the body to the part from byte ``start``.

    What overlaps the part (up to ``have``) must equal it.

    Returns:
        The whole part's sha256.
    """
    overlap, hashed = b"", hashlib.sha256()
    if start:
        with open(part, "rb") as file:
            hashed = hashlib.file_digest(file, "sha256")
            file.seek(start)
            overlap = file.read(have - start)
    position, unflushed = start, 0
    counter.done = start // _MEGABYTE
    # The disk takes what is written while more arrives, so that the end has little left to wait for.
    with open(part, "ab" if start else "wb", buffering=0) as target, ThreadPoolExecutor(1, "flush") as flusher:
        flushing = flusher.submit(lambda: None)
        # read1 hands over what has arrived: a connection that breaks loses nothing of it.
        while chunk := response.raw.read1(_CHUNK, decode_content=False):
            if position == 0 and chunk.lstrip()[:1] == b"<":
                raise _UselessError("the archive sent a web page in the file's place")
            known, overlap = overlap[: len(chunk)], overlap[len(chunk) :]
            if chunk[: len(known)] != known:
                raise _RangeError("the archive sent other bytes than those asked for")
            fresh = unwritten = memoryview(chunk)[len(known) :]
            while unwritten:
                unwritten = unwritten[target.write(unwritten) :]
            hashed.update(fresh)
            position, unflushed = position + len(chunk), unflushed + len(fresh)
            if unflushed >= _FLUSH and flushing.done():
                flushing.result()
                flushing, unflushed = flusher.submit(os.fsync, target.fileno()), 0
            counter.advance(position // _MEGABYTE - counter.done)
        flushing.result()
    counter.close()
    return hashed.hexdigest()


def _validators(response: requests.Response) -> dict[str, Any]:
    """Read what tells versions of a file apart.

    It is None for what the archive does not say.
    """
    length = response.headers.get("Content-Length", "")
    return {
        "bytes": int(length) if length.isascii() and length.isdigit() else None,
        "etag": response.headers.get("ETag"),
        "last_modified": response.headers.get("Last-Modified"),
    }


def _cause(error: Exception, archive: Archive) -> str:
    """Say what went wrong without secrets.

    The libraries' own words may have headers and a proxy's password.
    """
    connect, read = archive.timeouts
    causes: list[tuple[type[Exception], str]] = [  # subclasses first
        (requests.ConnectTimeout, f"no connection was made within {connect:g} s"),
        (requests.ReadTimeout, f"nothing arrived for {read:g} s"),
        (urllib3.exceptions.ReadTimeoutError, f"nothing arrived for {read:g} s"),
        (requests.exceptions.SSLError, "the host's certificate is not accepted"),
        (requests.exceptions.ProxyError, "the proxy cannot be reached or refuses"),
        (urllib3.exceptions.ProtocolError, "the connection broke in the middle of the file"),
        (requests.exceptions.ChunkedEncodingError, "the connection broke in the middle of the file"),
        (requests.ConnectionError, "the host cannot be reached or closed the connection"),
        (Exception, f"the transfer failed ({type(error).__name__})"),
    ]
    return next(words for kind, words in causes if isinstance(error, kind))
