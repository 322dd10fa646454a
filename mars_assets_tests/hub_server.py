"""As much of Hugging Face's hub as downloads take, on loopback."""

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
import pytest


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hugging Face hub as a download takes: one file, with range requests."""

    content = b""
    status = 200
    commit = "a" * 40
    break_after: int | None = None
    authorisation: list[str | None] = []  # noqa: RUF012 - shared on purpose: one record of all requests
    starts: list[int] = []  # noqa: RUF012 - likewise

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        self.authorisation.append(self.headers.get("Authorization"))
        if self.status != 200 or "/resolve/" not in self.path:
            status = self.status if self.status != 200 else 404
            self.send_response(status)
            if status == 404:
                self.send_header("X-Error-Code", "RevisionNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.send_header("ETag", '"0123456789"')
        self.send_header("X-Repo-Commit", self.commit)
        self.end_headers()
        if body:
            self.starts.append(start)
            end = self.break_after if start == 0 else None
            self.wfile.write(self.content[start:end])

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Serve a file under every name, and let downloads ask here and store in a cache of their own."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.delenv("HF_TOKEN", raising=False)
    download: Callable = huggingface_hub.hf_hub_download
    here = {"endpoint": f"http://127.0.0.1:{server.server_port}", "cache_dir": cache}
    monkeypatch.setattr("mars_assets.hub.hf_hub_download", lambda *args, **kwargs: download(*args, **kwargs, **here))
    Hub.content = file.read_bytes()
    Hub.status = 200
    Hub.authorisation.clear()
    yield
    server.shutdown()
    server.server_close()
