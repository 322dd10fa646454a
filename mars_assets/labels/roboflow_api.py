"""Download of exports from Roboflow's API, without leaking the key.

The key is a query parameter and therefore part of every URL. No message contains a URL, no exception of ``requests``
(which quotes URLs) is passed on, and the key is removed from what urllib3 logs meanwhile.
"""

from __future__ import annotations

import logging
import re
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from tenacity import Retrying, wait_exponential

from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.progress import SILENT, Progress
from mars_assets.retries import AttemptError, State, attempts, concealing_errors, error_of, retry_after
from mars_assets.storage.files import atomic_path

API = "https://api.roboflow.com"
FORMATS = {
    "coco-segmentation": "coco-segmentation",
    "png-mask-semantic": "png-mask-semantic",
    "yolo": "yolov8",
    "folder": "folder",
    "multi-label": "multiclass",
}
"""Formats that the inbox accepts, and Roboflow's names for them."""
_PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*/[A-Za-z0-9][A-Za-z0-9_-]*")
_LONGEST_WAIT = 300.0
_BY_HAND = "Download the zip from the website, and put it into the inbox"
_CHUNK = 1 << 20


class Project(str):
    """A Roboflow project, named as in its address.

    ``WORKSPACE/NAME`` stands for ``app.roboflow.com/WORKSPACE/NAME``.

    Raises:
        MarsError: the text has another form.
    """

    def __new__(cls, text: str) -> Project:
        if not _PROJECT.fullmatch(text.strip()):
            raise MarsError(f"{text!r} names no Roboflow project: give WORKSPACE/PROJECT, as in its address")
        return super().__new__(cls, text.strip())

    @property
    def name(self) -> str:
        """The project's name in its workspace."""
        return self.partition("/")[2]


def known_format(name: str) -> str:
    """Return a format's name if it is one of ``FORMATS``.

    Raises:
        MarsError: it is not.
    """
    if name not in FORMATS:
        raise MarsError(f"the inbox does not accept the format {name!r}: choose one of {', '.join(FORMATS)}")
    return name


@dataclass(frozen=True)
class Roboflow:
    """Client of Roboflow's API.

    Args:
        key: the workspace's API key, hidden in the object's representation.
        base_url: address of the API.
        timeouts: seconds for connecting, and seconds without a received byte.
        attempts: attempts per request in case of rate limits, server errors and broken connections.
        wait: seconds between polls while Roboflow generates an export, and before the second attempt at a request;
            doubled for each further attempt.
        patience: seconds within which Roboflow must have generated an export.
    """

    key: str = field(repr=False)
    base_url: str = API
    timeouts: tuple[float, float] = (10.0, 60.0)
    attempts: int = 5
    wait: float = 5.0
    patience: float = 1800.0

    def versions(self, project: Project) -> list[int]:
        """List the numbers of a project's versions, in ascending order.

        Raises:
            MarsError: the key is refused, the project does not exist, or the API is unreachable or answers in an
                unknown form.
        """
        with _cleared_of(self.key):
            status, answer = self._asked(project, project)
        found = answer.get("versions")
        if status != 200 or not isinstance(found, list):
            raise MarsError(f"Roboflow lists no versions of {project}: its answer has an unknown form. {_BY_HAND}")
        numbers = [str(version.get("id", "")).rpartition("/")[2] for version in found if isinstance(version, dict)]
        return sorted(int(number) for number in numbers if number.isascii() and number.isdigit() and len(number) < 10)

    def fetch(self, project: Project, version: int, format_name: str, inbox: Path, progress: Progress = SILENT) -> Path:
        """Export and download ``PROJECT.vN.FORMAT.zip``, unless it exists.

        Args:
            project: the project.
            version: its version.
            format_name: one of ``FORMATS``.
            inbox: the target folder.
            progress: shows the progress of the export and of the download.

        Returns:
            The zip.

        Raises:
            MarsError: as for :meth:`versions`; or the export takes too long, or the disk is full.
            DamagedFileError: no attempt received a complete zip.
        """
        known_format(format_name)
        target = inbox / f"{project.name}.v{version}.{format_name}.zip"
        if target.exists():
            return target
        what = f"version {version} of {project}"

        def download() -> None:
            # Links expire, so each attempt asks for a new one.
            link = self._link(project, version, format_name, what, progress)
            concealing_errors(
                lambda: self._download(link, target, what, progress),
                lambda error: AttemptError(f"the connection broke ({type(error).__name__})"),
            )

        def say(attempt: State) -> None:
            progress.say(f"{what}: {error_of(attempt)}; attempt {attempt.attempt_number} of {self.attempts}")

        with _cleared_of(self.key):
            try:
                self._attempts(after=say)(download)
            except AttemptError as problem:
                raise DamagedFileError(
                    f"{what} could not be downloaded ({problem}), and nothing was put into the inbox: try again later"
                ) from problem
        return target

    def _link(self, project: Project, version: int, format_name: str, what: str, progress: Progress) -> str:
        """Wait until the export has been generated and return its download link."""
        path = f"{project}/{version}/{FORMATS[format_name]}"
        until = time.monotonic() + self.patience
        while True:
            status, answer = self._asked(path, what)
            export = answer.get("export")
            link = export.get("link") if isinstance(export, dict) else None
            if status == 200 and isinstance(link, str):
                if urlsplit(link).scheme not in {"https", urlsplit(self.base_url).scheme}:
                    raise MarsError(f"Roboflow's link to {what} is not encrypted. {_BY_HAND}")
                return link
            done = answer.get("progress")
            if status != 202 and not isinstance(done, int | float):
                raise MarsError(f"Roboflow does not export {what}: its answer has an unknown form. {_BY_HAND}")
            if time.monotonic() > until:
                raise MarsError(
                    f"Roboflow has not exported {what} within {self.patience / 60:.0f} minutes: try again later"
                )
            part = f", {100 * done:.0f} %" if isinstance(done, int | float) else ""
            progress.say(f"Roboflow is exporting {what}{part}")
            time.sleep(self.wait)

    def _asked(self, path: str, what: str) -> tuple[int, dict[str, Any]]:
        """Send a request, repeating it after transient errors; return status and content.

        Raises:
            MarsError: as for :meth:`versions`.
        """
        try:
            return self._attempts()(self._ask, path, what)
        except AttemptError as problem:
            raise MarsError(f"Roboflow {problem}, {self.attempts} times: try again later") from problem

    def _ask(self, path: str, what: str) -> tuple[int, dict[str, Any]]:
        """Make one attempt at a request."""
        answer = concealing_errors(
            lambda: requests.get(f"{self.base_url}/{path}", params={"api_key": self.key}, timeout=self.timeouts),
            lambda error: AttemptError(f"cannot be reached ({type(error).__name__})"),
        )
        if answer.status_code == 429:
            after = min(retry_after(answer.headers.get("Retry-After")), _LONGEST_WAIT)
            raise AttemptError("takes no more requests for now", after)
        if answer.status_code >= 500:
            raise AttemptError(f"answers with status {answer.status_code}")
        return answer.status_code, _content(answer, what)

    def _download(self, link: str, target: Path, what: str, progress: Progress) -> None:
        """Make one attempt at downloading into ``target``.

        Raises:
            AttemptError: nothing or an incomplete file was received.
        """
        with requests.get(link, timeout=self.timeouts, stream=True) as answer, atomic_path(target) as temporary:
            if answer.status_code != 200:
                raise AttemptError(f"the link has expired or fails (status {answer.status_code})")
            length = int(answer.headers.get("Content-Length") or 0)
            counter = progress.counter(f"downloading {what}", length // 1_000_000 or None, "MB")
            received = 0
            with temporary.open("wb") as file:
                for chunk in answer.iter_content(_CHUNK):
                    received += file.write(chunk)
                    counter.advance(received // 1_000_000 - counter.done)
            if length and received != length:
                raise AttemptError(f"received {received} of {length} bytes")
            if not zipfile.is_zipfile(temporary):
                raise AttemptError("received an incomplete zip")
            counter.close()

    def _attempts(self, **callbacks: Any) -> Retrying:
        return attempts(self.attempts, wait_exponential(self.wait, _LONGEST_WAIT), **callbacks)


def _content(answer: requests.Response, what: str) -> dict[str, Any]:
    """Read the content of an answer.

    Raises:
        MarsError: the answer is a refusal or is not JSON.
    """
    if answer.status_code in (401, 403):
        raise MarsError("Roboflow refuses the key: check that ROBOFLOW_API_KEY is set and belongs to this workspace")
    if answer.status_code == 404:
        raise MarsError(f"Roboflow has no {what}, or this key has no access to it: check its name")
    try:
        content = answer.json()
    except ValueError:
        content = None
    if answer.status_code >= 400 or not isinstance(content, dict):
        raise MarsError(f"Roboflow answers with status {answer.status_code} to the request for {what}: try again later")
    return content


@contextmanager
def _cleared_of(key: str) -> Iterator[None]:
    """Remove the key from what urllib3 logs in this context."""

    def clear(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if key and key in message:
            record.msg, record.args = message.replace(key, "***"), None
        return True

    loggers = [logging.getLogger(f"urllib3.{name}") for name in ("connectionpool", "util.retry")]
    for logger in loggers:
        logger.addFilter(clear)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(clear)
