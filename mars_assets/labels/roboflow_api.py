"""Downloads of exports from Roboflow's API into the inbox, whole or not at all.

The key travels in the query, so it is in every address. No message contains an address, no exception of ``requests``
(which quotes them) is passed on, and the key is removed from what urllib3 logs meanwhile.
"""

from __future__ import annotations

import logging
import re
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from tenacity import Retrying, wait_exponential

from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.progress import SILENT, Progress
from mars_assets.retries import AttemptError, State, attempts, error_of, retry_after
from mars_assets.storage.files import atomic_path

API = "https://api.roboflow.com"
FORMATS = {
    "coco-segmentation": "coco-segmentation",
    "png-mask-semantic": "png-mask-semantic",
    "yolo": "yolov8",
    "folder": "folder",
    "multi-label": "multiclass",
}
"""Formats that the inbox reads, and Roboflow's names for them."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_LONGEST_WAIT = 300.0
_CHUNK = 1 << 20
_A_DAY = 86400


@dataclass(frozen=True)
class Project:
    """A project at Roboflow.

    Args:
        workspace, name: as in its address, ``app.roboflow.com/WORKSPACE/NAME``.
    """

    workspace: str
    name: str

    @classmethod
    def named(cls, text: str) -> Project:
        """Parse ``WORKSPACE/NAME``.

        Raises:
            MarsError: it is not of that form.
        """
        workspace, _, name = text.strip().partition("/")
        if not (_NAME.fullmatch(workspace) and _NAME.fullmatch(name)):
            raise MarsError(f"{text!r} names no Roboflow project: give WORKSPACE/PROJECT, as in its address")
        return cls(workspace, name)

    def __str__(self) -> str:
        return f"{self.workspace}/{self.name}"


def known_format(name: str) -> str:
    """Check the name of a format, and return it.

    Raises:
        MarsError: it is none of ``FORMATS``.
    """
    if name not in FORMATS:
        raise MarsError(f"the format {name!r} is none that the inbox reads: choose of {', '.join(FORMATS)}")
    return name


@dataclass(frozen=True)
class Roboflow:
    """Roboflow's API.

    Args:
        key: of the workspace; in no representation of this object.
        base_url: of the API.
        timeouts: seconds to connect, and seconds without a byte received.
        attempts: at each request that fails for a while: a limit on the rate, an error of the server, a broken line.
        wait: seconds between two checks of an export in preparation, and before a second attempt, doubled each time.
        patience: seconds within which an export must be ready.
    """

    key: str = field(repr=False)
    base_url: str = API
    timeouts: tuple[float, float] = (10.0, 60.0)
    attempts: int = 5
    wait: float = 5.0
    patience: float = 1800.0

    def versions(self, project: Project) -> list[int]:
        """List the numbers of a project's versions, in order.

        Raises:
            MarsError: the key is refused, the project does not exist, or the API cannot be reached or understood.
        """
        with _cleared_of(self.key):
            status, answer = self._asked(f"{project.workspace}/{project.name}", str(project))
        found = answer.get("versions")
        if status != 200 or not isinstance(found, list):
            raise MarsError(f"Roboflow lists no versions of {project}: its answer has another form than is known")
        numbers = [str(version.get("id", "")).rpartition("/")[2] for version in found if isinstance(version, dict)]
        return sorted(int(number) for number in numbers if number.isascii() and number.isdigit() and len(number) < 10)

    def fetch(self, project: Project, version: int, format_name: str, inbox: Path, progress: Progress = SILENT) -> Path:
        """Export a version and download it as ``PROJECT.vN.FORMAT.zip``, unless it is there already.

        Args:
            project: the project.
            version: its version.
            format_name: one of ``FORMATS``.
            inbox: the folder to download it to.
            progress: reports the preparation by Roboflow, and the download.

        Raises:
            MarsError: as in :meth:`versions`; or the export is not ready in time, or there is no room for it.
            DamagedFileError: what is sent is no whole zip, at every attempt.
        """
        known_format(format_name)
        target = inbox / f"{project.name}.v{version}.{format_name}.zip"
        if target.exists():
            return target
        _sweep(target)
        what = f"version {version} of {project}"

        def download() -> None:
            # A link is good for a while: each attempt asks for one anew.
            link = self._link(project, version, format_name, what, progress)
            self._download(link, target, what, progress)

        def say(attempt: State) -> None:
            progress.say(f"{what}: {error_of(attempt)}; attempt {attempt.attempt_number} of {self.attempts}")

        with _cleared_of(self.key):
            try:
                self._attempts(say)(download)
            except AttemptError as problem:
                raise DamagedFileError(
                    f"{what} could not be downloaded: {problem}. Nothing was put into the inbox; try later"
                ) from problem
        return target

    def _link(self, project: Project, version: int, format_name: str, what: str, progress: Progress) -> str:
        """Wait until the export is ready, and return its link."""
        path = f"{project.workspace}/{project.name}/{version}/{FORMATS[format_name]}"
        until = time.monotonic() + self.patience
        while True:
            status, answer = self._asked(path, what)
            export = answer.get("export")
            link = export.get("link") if isinstance(export, dict) else None
            if status == 200 and isinstance(link, str):
                secure = urlsplit(self.base_url).scheme
                if urlsplit(link).scheme not in {"https", secure}:
                    raise MarsError(f"Roboflow's link to {what} is not encrypted: not followed")
                return link
            done = answer.get("progress")
            if status != 202 and not isinstance(done, int | float):
                raise MarsError(f"Roboflow makes no export of {what}: its answer has another form than is known")
            if time.monotonic() > until:
                raise MarsError(f"Roboflow has not made {what} in {self.patience / 60:.0f} minutes: try again later")
            part = f", {100 * done:.0f} %" if isinstance(done, int | float) else ""
            progress.say(f"Roboflow is making {what}{part}")
            time.sleep(self.wait)

    def _asked(self, path: str, what: str) -> tuple[int, dict[str, Any]]:
        """Return status and content of a definite answer.

        Raises:
            MarsError: see :meth:`versions`.
        """
        try:
            return self._attempts()(self._ask, path, what)
        except AttemptError as problem:
            raise MarsError(f"Roboflow {problem}, {self.attempts} times: try again later") from problem

    def _ask(self, path: str, what: str) -> tuple[int, dict[str, Any]]:
        """Make one attempt of :meth:`_asked`."""
        try:
            answer = requests.get(f"{self.base_url}/{path}", params={"api_key": self.key}, timeout=self.timeouts)
        except requests.RequestException as error:
            broken = type(error).__name__
        else:
            broken = ""
        if broken:  # outside of the clause, so that nothing leads to the error and the address that it quotes
            raise AttemptError(f"cannot be reached ({broken})")
        if answer.status_code == 429:
            after = min(retry_after(answer.headers.get("Retry-After")), _LONGEST_WAIT)
            raise AttemptError("takes no more requests for now", after)
        if answer.status_code >= 500:
            raise AttemptError(f"answers with status {answer.status_code}")
        return answer.status_code, _content(answer, what)

    def _download(self, link: str, target: Path, what: str, progress: Progress) -> None:
        """Make one attempt at downloading into ``target``.

        Raises:
            AttemptError: what came is not whole, or nothing came.
        """
        broken = ""
        try:
            with requests.get(link, timeout=self.timeouts, stream=True) as answer, atomic_path(target) as temporary:
                if answer.status_code != 200:
                    raise AttemptError(f"the link has expired or fails (status {answer.status_code})")
                length = int(answer.headers.get("Content-Length") or 0)
                counter = progress.counter(f"downloading {what}", length // 1_000_000 or None, "MB")
                received = 0
                with temporary.open("wb") as file:
                    for chunk in answer.iter_content(_CHUNK):
                        file.write(chunk)
                        counter.advance((received + len(chunk)) // 1_000_000 - received // 1_000_000)
                        received += len(chunk)
                if length and received != length:
                    raise AttemptError(f"{received} of {length} bytes came")
                if not zipfile.is_zipfile(temporary):
                    raise AttemptError("what came is no whole zip")
                counter.close()
        except requests.RequestException as error:
            broken = type(error).__name__
        if broken:
            raise AttemptError(f"the line broke ({broken})")

    def _attempts(self, failed: Callable[[State], None] = lambda _: None) -> Retrying:
        return attempts(self.attempts, wait_exponential(self.wait, _LONGEST_WAIT), failed)


def _sweep(target: Path) -> None:
    """Remove what killed downloads of a target left.

    Only after a day, so that no download in progress is affected.
    """
    for left in target.parent.glob(f".{target.stem}.*{target.suffix}"):
        if time.time() - left.stat().st_mtime > _A_DAY:
            left.unlink(missing_ok=True)


def _content(answer: requests.Response, what: str) -> dict[str, Any]:
    """Return the content of a definite answer.

    Raises:
        MarsError: it says no.
    """
    if answer.status_code in (401, 403):
        raise MarsError("Roboflow refuses the key: look at ROBOFLOW_API_KEY, and whether it is of this workspace")
    if answer.status_code == 404:
        raise MarsError(f"Roboflow has no {what}, or none that this key may see: look at its name")
    try:
        content = answer.json()
    except ValueError:
        content = None
    if answer.status_code >= 400 or not isinstance(content, dict):
        raise MarsError(f"Roboflow answers with status {answer.status_code} and nothing of use about {what}")
    return content


@contextmanager
def _cleared_of(key: str) -> Iterator[None]:
    """Keep the key out of everything that urllib3 logs meanwhile."""

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
