"""The client against a loopback server that behaves badly."""

import io
import json
import logging
import threading
import traceback
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.labels.inbox import current_exports
from mars_assets.labels.roboflow_api import Project, Roboflow
from mars_assets.progress import Progress

pytestmark = pytest.mark.slow

KEY = "rf_SECRET_KEY_1234"
PROJECT = Project("mars/craters")


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("train/Crater/a.jpg", b"x" * 5000)
    return buffer.getvalue()


ZIP = _zip()


@dataclass
class Answer:
    """What the server says once. ``content`` is cut to ``sent`` bytes though its length is said in full."""

    status: int = 200
    content: bytes | dict[str, Any] = b""
    headers: dict[str, str] = field(default_factory=dict)
    sent: int | None = None


class Server:
    """Answers from a list for each path; the last one is repeated."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Answer]] = {}
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                address = urlsplit(self.path)
                outer.asked.append(address.path)
                if not address.path.startswith("/storage") and parse_qs(address.query).get("api_key") != [KEY]:
                    answer = Answer(401, {"message": f"bad key in {self.path}"})
                else:
                    answers = outer.answers.get(address.path, [Answer(404, {"error": self.path})])
                    answer = answers.pop(0) if len(answers) > 1 else answers[0]
                content = answer.content if isinstance(answer.content, bytes) else json.dumps(answer.content).encode()
                self.send_response(answer.status)
                self.send_header("Content-Length", str(len(content)))
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content[: answer.sent])

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def exports(self, *downloads: Answer, version: int = 3) -> None:
        self.answers[f"/mars/craters/{version}/coco-segmentation"] = [
            Answer(200, {"export": {"link": f"{self.url}/storage/x.zip"}})
        ]
        self.answers["/storage/x.zip"] = list(downloads) or [Answer(200, ZIP)]


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def api(server: Server) -> Roboflow:
    return Roboflow(KEY, server.url, timeouts=(2.0, 2.0), attempts=3, wait=0.01, patience=1.0)


def _fetch(api: Roboflow, inbox: Path, **options: Any) -> Path:
    return api.fetch(PROJECT, 3, "coco-segmentation", inbox, **options)


def _left(inbox: Path) -> list[str]:
    return [path.name for path in inbox.iterdir()] if inbox.exists() else []


def test_versions_are_numbers_in_order(server: Server, api: Roboflow) -> None:
    ids = ["mars/craters/10", "mars/craters/2", "mars/craters/x", ""]
    server.answers["/mars/craters"] = [Answer(200, {"versions": [*({"id": name} for name in ids), 5]})]
    assert api.versions(PROJECT) == [2, 10]


def test_an_export_that_is_being_made_is_waited_for_and_said(server: Server, api: Roboflow, tmp_path: Path) -> None:
    server.exports()
    ready = server.answers["/mars/craters/3/coco-segmentation"]
    ready[:0] = [Answer(202, {"progress": 0.25}), Answer(200, {"progress": 0.75})]
    lines: list[str] = []
    path = _fetch(api, tmp_path / "inbox", progress=Progress(lines.append))
    assert path.name == "craters.v3.coco-segmentation.zip"
    assert path.read_bytes() == ZIP
    assert current_exports(tmp_path / "inbox") == [path]
    assert [line for line in lines if "is exporting" in line] == [
        "Roboflow is exporting version 3 of mars/craters, 25 %",
        "Roboflow is exporting version 3 of mars/craters, 75 %",
    ]


def test_what_is_there_is_not_fetched_again(server: Server, api: Roboflow, tmp_path: Path) -> None:
    server.exports()
    _fetch(api, tmp_path)
    asked = len(server.asked)
    _fetch(api, tmp_path)
    assert len(server.asked) == asked


@pytest.mark.parametrize(
    "bad",
    [
        Answer(200, ZIP, sent=1000),
        Answer(200, ZIP[:1000]),
        Answer(200, b"<html>sign in</html>"),
        Answer(403, b"<Error>Request has expired</Error>"),
        Answer(404),
        Answer(503),
    ],
    ids=["line broke", "truncated at the source", "no zip", "expired", "gone", "server fails"],
)
def test_a_bad_download_is_tried_again_with_a_new_link(
    server: Server, api: Roboflow, tmp_path: Path, bad: Answer
) -> None:
    server.exports(bad, Answer(200, ZIP))
    assert _fetch(api, tmp_path).read_bytes() == ZIP
    assert server.asked.count("/mars/craters/3/coco-segmentation") == 2
    assert _left(tmp_path) == ["craters.v3.coco-segmentation.zip"]


def test_a_download_that_is_never_whole_leaves_nothing(server: Server, api: Roboflow, tmp_path: Path) -> None:
    server.exports(Answer(200, ZIP, sent=1000))
    with pytest.raises(DamagedFileError, match=r"version 3 of mars/craters could not be downloaded"):
        _fetch(api, tmp_path)
    assert _left(tmp_path) == []


def test_a_limit_on_the_rate_is_kept(server: Server, api: Roboflow) -> None:
    server.answers["/mars/craters"] = [Answer(429, headers={"Retry-After": "0"}), Answer(200, {"versions": []})]
    assert api.versions(PROJECT) == []
    server.answers["/mars/craters"] = [Answer(429)]
    with pytest.raises(MarsError, match="takes no more requests for now, 3 times"):
        api.versions(PROJECT)


def _wrong(api: Roboflow, server: Server, **changes: Any) -> Roboflow:
    return Roboflow(
        **{"key": KEY, "base_url": server.url, "timeouts": (1.0, 1.0), "attempts": 2, "wait": 0.01} | changes
    )


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer(404, {"error": "no"}), "Roboflow has no mars/craters"),
        (Answer(403), "refuses the key"),
        (Answer(500), "answers with status 500, 2 times"),
        (Answer(200, b"<html>"), "answers with status 200 to the request"),
        (Answer(200, [1]), "answers with status 200 to the request"),  # type: ignore[arg-type]
        (Answer(200, {"versions": 3}), "unknown form. Download the zip"),
        (Answer(400, {"error": "bad"}), "status 400"),
    ],
)
def test_answers_that_are_none(server: Server, api: Roboflow, answer: Answer, message: str) -> None:
    server.answers["/mars/craters"] = [answer]
    with pytest.raises(MarsError, match=message):
        _wrong(api, server).versions(PROJECT)


def test_a_wrong_key_and_a_dead_server_are_named(server: Server, api: Roboflow) -> None:
    with pytest.raises(MarsError, match="refuses the key: check that ROBOFLOW_API_KEY"):
        _wrong(api, server, key="wrong").versions(PROJECT)
    with pytest.raises(MarsError, match="cannot be reached"):
        _wrong(api, server, base_url="http://127.0.0.1:9").versions(PROJECT)


def test_an_export_that_is_never_made_ends(server: Server, api: Roboflow, tmp_path: Path) -> None:
    server.answers["/mars/craters/3/coco-segmentation"] = [Answer(202, {"progress": 0.1})]
    with pytest.raises(MarsError, match="has not exported version 3"):
        _fetch(_wrong(api, server, patience=0.05), tmp_path)


def test_a_link_without_encryption_is_not_followed(server: Server, api: Roboflow, tmp_path: Path) -> None:
    server.answers["/mars/craters/3/coco-segmentation"] = [Answer(200, {"export": {"link": "file:///etc/passwd"}})]
    with pytest.raises(MarsError, match="not encrypted"):
        _fetch(api, tmp_path)


@pytest.mark.parametrize("text", ["craters", "a/b/c", "../x", "a/..", "", "a/b?api_key=x"])
def test_names_that_are_no_project(text: str) -> None:
    with pytest.raises(MarsError, match="names no Roboflow project"):
        Project(text)


def test_an_unknown_format_is_refused(api: Roboflow, tmp_path: Path) -> None:
    with pytest.raises(MarsError, match="choose one of coco-segmentation"):
        api.fetch(PROJECT, 3, "voc", tmp_path)


def test_the_key_is_in_nothing_that_is_said_or_kept(
    server: Server, api: Roboflow, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    lines: list[str] = []
    server.exports(Answer(503), Answer(200, ZIP))
    server.answers["/mars/craters/3/coco-segmentation"].insert(0, Answer(202, {"progress": 0.5}))
    _fetch(api, tmp_path, progress=Progress(lines.append))
    said = [repr(api), str(api), *lines]
    for answer in (Answer(404, {"error": KEY}), Answer(500, {"error": KEY}), Answer(200, {"error": KEY}), Answer(403)):
        server.answers["/mars/craters"] = [answer]
        with pytest.raises(MarsError) as caught:
            _wrong(api, server).versions(PROJECT)
        said += traceback.format_exception(caught.value)
    with pytest.raises(MarsError) as caught:
        _wrong(api, server, base_url="http://127.0.0.1:9").versions(PROJECT)
    said += traceback.format_exception(caught.value)
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert any("GET /mars/craters/3" in message for message in caplog.messages)  # urllib3 did log the addresses
    assert KEY not in "\n".join([*said, *caplog.messages, caplog.text])
    assert not any(KEY.encode() in content for content in written)
