"""The downloader against a server that misbehaves as a seed tells it to."""

from __future__ import annotations

import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mars_assets.errors import MarsError
from mars_assets.imagery.download import Archive, changed_at_source, fetch_product, recorded_sha256
from mars_assets.imagery.products import ProductFiles, product_files
from mars_assets.lake import LEDGER
from mars_assets.progress import Progress
from mars_assets.storage.hashing import sha256_file

pytestmark = pytest.mark.slow

Fault = Callable[["Handler", bytes, int], None]


def jpeg(seed: int, size: int = 160) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG", quality=95)
    return file.getvalue()


class Server(ThreadingHTTPServer):
    """Serves ``files``; ``faults`` is asked for the next request's fault."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.next_fault: Callable[[str], Fault | None] = lambda path: None
        self.requests: list[tuple[str, dict[str, str]]] = []

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/PDS"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients hang up on a server that misbehaves."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""

    def do_HEAD(self) -> None:
        self.serve()

    def do_GET(self) -> None:
        self.serve()

    def serve(self) -> None:
        self.server.requests.append((self.path, dict(self.headers)))
        content = self.server.files.get(self.path.removeprefix("/PDS/"))
        if content is None:
            self.send_error(404)
            return
        start = 0
        if (match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))) and self.headers.get(
            "If-Range", self.etag(content)
        ) == self.etag(content):
            start = int(match[1])
        fault = self.server.next_fault(self.path) if self.command == "GET" else None
        (fault or honest)(self, content, start)

    @staticmethod
    def etag(content: bytes) -> str:
        return f'"{hash(content) & 0xFFFFFFFF:x}"'

    def head(self, content: bytes, start: int, length: int | None = None, **other: str) -> None:
        self.send_response(206 if start else 200)
        headers = {
            "Content-Length": str(len(content) - start if length is None else length),
            "ETag": self.etag(content),
            "Accept-Ranges": "bytes",
        }
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        for key, value in {**headers, **other}.items():
            self.send_header(key, value)
        self.end_headers()


def honest(handler: Handler, content: bytes, start: int) -> None:
    handler.head(content, start)
    if handler.command == "GET":
        handler.wfile.write(content[start:])


def drop(handler: Handler, content: bytes, start: int) -> None:
    handler.head(content, start)
    handler.wfile.write(content[start : start + (len(content) - start) * 2 // 3])


def truncate(handler: Handler, content: bytes, start: int) -> None:
    part = content[: max(start + 1, len(content) * 3 // 4)]
    handler.head(content, start, len(part) - start)
    handler.wfile.write(part[start:])


def too_many(handler: Handler, content: bytes, start: int) -> None:
    handler.send_response(429)
    handler.send_header("Retry-After", "0")
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def unavailable(handler: Handler, content: bytes, start: int) -> None:
    handler.send_error(503)


def web_page(handler: Handler, content: bytes, start: int) -> None:
    body = b"<!DOCTYPE html><html><body>down for maintenance</body></html>"
    handler.send_response(200)
    handler.send_header("Content-Type", random.choice(["text/html", "image/jpeg"]))
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def claim_more(handler: Handler, content: bytes, start: int) -> None:
    handler.head(content, start, len(content) - start + 777)
    handler.wfile.write(content[start:])


def ignore_range(handler: Handler, content: bytes, start: int) -> None:
    honest(handler, content, 0)


def wrong_start(handler: Handler, content: bytes, start: int) -> None:
    wrong = max(1, start // 2)
    handler.head(content, wrong)
    handler.wfile.write(content[wrong:])


def wrong_bytes(handler: Handler, content: bytes, start: int) -> None:
    handler.head(content, start)
    handler.wfile.write((content[start // 2 :] + content)[: len(content) - start])


def stall(handler: Handler, content: bytes, start: int) -> None:
    handler.head(content, start)
    handler.wfile.write(content[start : start + (len(content) - start) // 2])
    handler.wfile.flush()
    handler.connection.recv(1)  # until the client hangs up


FAULTS: list[Fault] = [
    drop,
    truncate,
    too_many,
    unavailable,
    web_page,
    claim_more,
    ignore_range,
    wrong_start,
    wrong_bytes,
    stall,
]


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def archive(server: Server, tmp_path: Path) -> Archive:
    return Archive(
        server.base,
        "someone@example.org",
        timeouts=(2, 0.3),
        retries=6,
        backoff=0.002,
        longest_backoff=0.01,
        lock_folder=tmp_path / "locks",
    )


FILES = ProductFiles("EXTRAS/a.jpg", None)


def once(*faults: Fault | None) -> Callable[[str], Fault | None]:
    waiting = iter(faults)
    return lambda path: next(waiting, None)


@pytest.mark.parametrize("seed", range(5))  # 200 downloads
def test_every_file_is_right_or_fails_clearly(server: Server, archive: Archive, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    contents = [jpeg(seed * 1000 + i, 64) for i in range(8)]
    for i in range(40):
        server.files[f"EXTRAS/{i}.jpg"] = contents[i % len(contents)]
    server.next_fault = lambda path: rng.choice(FAULTS) if rng.random() < 0.65 else None

    def fetch(i: int) -> bool:
        folder = tmp_path / f"obs{i}"
        try:
            [file] = fetch_product(archive, ProductFiles(f"EXTRAS/{i}.jpg", None), folder)
        except MarsError as error:
            assert re.search(rf"EXTRAS/{i}\.jpg (could not be downloaded in|arrived twice)", str(error))  # noqa: PT017
            assert not (folder / f"{i}.jpg").exists()
            return False
        assert file.path.read_bytes() == server.files[f"EXTRAS/{i}.jpg"]
        assert file.sha256 == sha256_file(file.path)
        return True

    with ThreadPoolExecutor(6) as pool:
        right = sum(pool.map(fetch, range(40)))
    assert right >= 20
    # Once the server is well, what failed is fetched too.
    server.next_fault = lambda path: None
    assert all(fetch(i) for i in range(40))


def test_two_connections_at_a_time(server: Server, archive: Archive, tmp_path: Path) -> None:
    lock, busy, most = threading.Lock(), 0, 0

    def counted(handler: Handler, content: bytes, start: int) -> None:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        time.sleep(0.03)
        with lock:
            busy -= 1
        honest(handler, content, start)

    server.files["EXTRAS/a.jpg"] = jpeg(0, 16)
    server.next_fault = lambda path: counted
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda i: fetch_product(archive, FILES, tmp_path / f"obs{i}"), range(12)))
    assert len(server.requests) == 12
    assert most == 2


def test_who_waits_for_another_download_is_told(server: Server, archive: Archive, tmp_path: Path) -> None:
    going_on, may_end = threading.Semaphore(0), threading.Event()

    def slow(handler: Handler, content: bytes, start: int) -> None:
        going_on.release()
        may_end.wait(10)
        honest(handler, content, start)

    server.files["EXTRAS/a.jpg"] = jpeg(0, 16)
    server.next_fault = once(slow, slow)
    patient = replace(archive, timeouts=(2, 20))
    said: dict[str, list[str]] = {"place": [], "folder": []}
    with ThreadPoolExecutor(4) as pool:
        for number in range(2):
            pool.submit(fetch_product, patient, FILES, tmp_path / f"obs{number}")
            assert going_on.acquire(timeout=10)
        pool.submit(fetch_product, patient, FILES, tmp_path / "obs2", Progress(said["place"].append))
        last = pool.submit(fetch_product, patient, FILES, tmp_path / "obs0", Progress(said["folder"].append))
        end = time.monotonic() + 10
        while not all(said.values()) and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.3)  # to be told once
        assert {name: len(lines) for name, lines in said.items()} == {"place": 1, "folder": 1}
        may_end.set()
    assert said["place"][0] == "waiting for one of the 2 downloads from this archive to end"
    assert said["folder"][0] == f"{tmp_path / 'obs0'}: waiting for another run, which downloads into it"
    assert last.result()[0].path == tmp_path / "obs0/a.jpg"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_each_fault_is_survived_once(server: Server, archive: Archive, tmp_path: Path, fault: Fault) -> None:
    server.files["EXTRAS/a.jpg"] = jpeg(0)
    server.next_fault = once(drop, fault)
    [file] = fetch_product(archive, FILES, tmp_path / "obs")
    assert file.path.read_bytes() == server.files["EXTRAS/a.jpg"]
    assert sorted(path.name for path in (tmp_path / "obs").iterdir()) == [".lock", "a.jpg", LEDGER]


@pytest.mark.parametrize("fault", [drop, truncate, too_many, unavailable, web_page, claim_more, stall])
def test_a_fault_that_lasts_is_a_clear_error(server: Server, archive: Archive, tmp_path: Path, fault: Fault) -> None:
    server.files["EXTRAS/a.jpg"] = jpeg(0)
    short = replace(archive, retries=2)
    # A broken transfer gains bytes with every attempt: so that it does not end, nothing more comes after the first.
    resumed = fault in (drop, claim_more)
    server.next_fault = lambda path: unavailable if resumed and len(server.requests) > 1 else fault
    message = r"a\.jpg could not be downloaded in 3 attempts\. The last one failed because \w+"
    if fault is truncate:
        message = r"a\.jpg arrived twice with the same unusable content, .* truncated"
    with pytest.raises(MarsError, match=message):
        fetch_product(short, FILES, tmp_path / "obs")
    assert not (tmp_path / "obs" / "a.jpg").exists()


def test_a_broken_transfer_is_resumed(server: Server, archive: Archive, tmp_path: Path) -> None:
    content = server.files["EXTRAS/a.jpg"] = jpeg(0)
    server.next_fault = once(drop)
    fetch_product(archive, FILES, tmp_path / "obs")
    (_, first), (_, second) = server.requests
    assert "Range" not in first
    assert second["Range"] == f"bytes={len(content) * 2 // 3 - 1024}-"
    assert second["If-Range"] == Handler.etag(content)
    assert "someone@example.org" in second["User-Agent"]
    assert second["Accept-Encoding"] == "identity"


def test_a_file_that_changes_between_attempts_is_not_mixed(server: Server, archive: Archive, tmp_path: Path) -> None:
    server.files["EXTRAS/a.jpg"] = jpeg(0)
    new = jpeg(1)

    def drop_and_change(handler: Handler, content: bytes, start: int) -> None:
        drop(handler, content, start)
        server.files["EXTRAS/a.jpg"] = new

    server.next_fault = once(drop_and_change)
    [file] = fetch_product(archive, FILES, tmp_path / "obs")
    assert file.path.read_bytes() == new


def test_a_finished_file_is_not_fetched_again(server: Server, archive: Archive, tmp_path: Path) -> None:
    server.files["EXTRAS/a.jpg"] = jpeg(0)
    [first] = fetch_product(archive, FILES, tmp_path / "obs")
    [again] = fetch_product(archive, FILES, tmp_path / "obs")
    assert first == again
    assert len(server.requests) == 1
    entry = json.loads((tmp_path / "obs" / LEDGER).read_text())["files"]["a.jpg"]
    assert entry["sha256"] == recorded_sha256(first.path) == sha256_file(first.path)
    assert entry["address"] == f"{server.base}/EXTRAS/a.jpg"

    # A copy of the lake has other times and the same bytes.
    os.utime(first.path, (1, 1))
    assert fetch_product(archive, FILES, tmp_path / "obs") == [first]
    assert len(server.requests) == 1
    # A changed file of the same size is fetched again.
    content = bytearray(first.path.read_bytes())
    content[len(content) // 2] ^= 1
    first.path.write_bytes(content)
    assert fetch_product(archive, FILES, tmp_path / "obs") == [first]
    assert first.path.read_bytes() == server.files["EXTRAS/a.jpg"]
    assert len(server.requests) == 2


def test_a_change_at_the_source_is_noticed(server: Server, archive: Archive, tmp_path: Path) -> None:
    server.files["EXTRAS/a.jpg"] = jpeg(0)
    fetch_product(archive, FILES, tmp_path / "obs")
    assert changed_at_source(archive, FILES, tmp_path / "obs") == []
    server.files["EXTRAS/a.jpg"] = jpeg(1)
    assert changed_at_source(archive, FILES, tmp_path / "obs") == ["a.jpg"]


def test_products_with_labels(server: Server, archive: Archive, tmp_path: Path, shared: Path) -> None:
    import rasterio

    rng = np.random.default_rng(0)
    profile = {"driver": "JP2OpenJPEG", "height": 128, "width": 96, "count": 1, "dtype": "uint16"}
    with rasterio.open(tmp_path / "x.jp2", "w", **profile, NBITS=10, REVERSIBLE="YES", QUALITY="100") as dataset:
        dataset.write(rng.integers(3, 1022, (1, 128, 96), np.uint16))
    files = product_files("ESP_013951_1955", "RED")
    assert files.label is not None
    server.files[files.image] = (tmp_path / "x.jp2").read_bytes()
    server.files[files.label] = (shared / "data" / "hirise" / "ESP_013951_1955_RED.LBL").read_bytes()
    server.next_fault = once(truncate, drop, wrong_bytes, claim_more)
    image, label = fetch_product(archive, files, tmp_path / "obs")
    assert image.path.read_bytes() == server.files[files.image]
    assert label.path.read_bytes() == server.files[files.label]


@pytest.mark.parametrize("damage", ["truncated", "appended", "other format", "no end marker"])
def test_damaged_jp2_gets_no_name(server: Server, archive: Archive, tmp_path: Path, damage: str) -> None:
    import rasterio

    profile = {"driver": "JP2OpenJPEG", "height": 64, "width": 64, "count": 1, "dtype": "uint8"}
    with rasterio.open(tmp_path / "x.jp2", "w", **profile, REVERSIBLE="YES", QUALITY="100") as dataset:
        dataset.write(np.random.default_rng(0).integers(0, 256, (1, 64, 64), np.uint8))
    whole = (tmp_path / "x.jp2").read_bytes()
    server.files["EXTRAS/a.JP2"] = {
        "truncated": whole[:-100],
        "appended": whole + b"\x00" * 100,
        "other format": jpeg(0),
        "no end marker": whole[:-2] + b"\x00\x00",
    }[damage]
    with pytest.raises(MarsError, match="JPEG 2000"):
        fetch_product(archive, ProductFiles("EXTRAS/a.JP2", None), tmp_path / "obs")
    assert not (tmp_path / "obs" / "a.JP2").exists()


def test_retry_after_is_honoured(server: Server, archive: Archive, tmp_path: Path) -> None:
    def later(handler: Handler, content: bytes, start: int) -> None:
        handler.send_response(503)
        handler.send_header("Retry-After", "1")
        handler.end_headers()

    server.files["EXTRAS/a.jpg"] = jpeg(0)
    server.next_fault = once(later)
    lines: list[str] = []
    fetch_product(archive, FILES, tmp_path / "obs", Progress(lines.append))
    (wait,) = (float(found[1]) for line in lines if (found := re.search(r"attempt 2 in ([\d.]+) s", line)))
    assert wait >= 1


def test_an_archive_that_says_tomorrow_is_left_alone(server: Server, archive: Archive, tmp_path: Path) -> None:
    def tomorrow(handler: Handler, content: bytes, start: int) -> None:
        handler.send_response(429)
        handler.send_header("Retry-After", "86400")
        handler.end_headers()

    server.files["EXTRAS/a.jpg"] = jpeg(0)
    server.next_fault = once(tomorrow)
    with pytest.raises(MarsError, match=r"24\.0 hours"):
        fetch_product(archive, FILES, tmp_path / "obs")
    assert len(server.requests) == 1


def test_what_the_archive_has_damaged_is_asked_for_twice(server: Server, archive: Archive, tmp_path: Path) -> None:
    server.files["EXTRAS/a.jpg"] = jpeg(0)[:-2] + b"??"
    with pytest.raises(
        MarsError, match=r"a\.jpg arrived twice with the same unusable content.*end-of-image.*Choose another product"
    ):
        fetch_product(archive, FILES, tmp_path / "obs")
    assert len(server.requests) == 2
    assert not list((tmp_path / "obs").glob("a.jpg*.part"))
    # Damage on the way differs from one time to the next.
    server.files["EXTRAS/a.jpg"] = jpeg(1)
    ends = iter([b"??", b"!?", b"?!"])

    def garbled(handler: Handler, content: bytes, start: int) -> None:
        honest(handler, content[:-2] + next(ends), start)

    server.next_fault = once(garbled, garbled, garbled)
    [file] = fetch_product(archive, FILES, tmp_path / "obs")
    assert file.path.read_bytes() == jpeg(1)


PROXIES = [
    "http://user:s3cr3t#x@127.0.0.1:9",
    "http://user:s3c/r3t@127.0.0.1:9",
    "http://user:s3cr3t@127.0.0.1:s3cr3t",
    "http://user:[s3cr3t@127.0.0.1:9",
    "http://user:s3cr3t@127.0.0.1:9",
]


@pytest.mark.parametrize("proxy", PROXIES)
def test_no_error_holds_a_proxys_password(
    server: Server, archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    """In no part of it: Dagster keeps an error with all that it comes from."""
    server.files["EXTRAS/a.jpg"] = jpeg(0)
    fetch_product(archive, FILES, tmp_path / "obs")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, proxy)
    for ask in (
        lambda: fetch_product(replace(archive, retries=1), FILES, tmp_path / "new"),
        lambda: changed_at_source(archive, FILES, tmp_path / "obs"),
    ):
        with pytest.raises(MarsError, match="proxy") as caught:
            ask()
        chain: list[BaseException | None] = [caught.value]
        while (error := chain.pop()) is not None:
            assert "s3c" not in f"{error!r} {error}"
            assert "r3t" not in f"{error!r} {error}"
            chain += [error.__context__ if error.__cause__ is None else error.__cause__]
    assert len(server.requests) == 1


def test_what_the_archive_lacks_is_not_asked_for_twice(server: Server, archive: Archive, tmp_path: Path) -> None:
    with pytest.raises(MarsError, match="no such file"):
        fetch_product(archive, FILES, tmp_path / "obs")
    assert len(server.requests) == 1


@pytest.mark.parametrize("location", ["http://localhost:{port}/PDS/EXTRAS/b.jpg", "//elsewhere.example/b.jpg"])
def test_redirects_to_another_host_are_refused(server: Server, archive: Archive, tmp_path: Path, location: str) -> None:
    def redirect(handler: Handler, content: bytes, start: int) -> None:
        handler.send_response(302)
        handler.send_header("Location", location.format(port=server.server_port))
        handler.end_headers()

    server.files["EXTRAS/a.jpg"] = server.files["EXTRAS/b.jpg"] = jpeg(0)
    server.next_fault = once(redirect)
    with pytest.raises(MarsError, match="another host"):
        fetch_product(archive, FILES, tmp_path / "obs")
    assert len(server.requests) == 1


def test_redirects_on_the_same_host_are_followed(server: Server, archive: Archive, tmp_path: Path) -> None:
    def redirect(handler: Handler, content: bytes, start: int) -> None:
        handler.send_response(301)
        handler.send_header("Location", "/PDS/EXTRAS/b.jpg")
        handler.end_headers()

    server.files["EXTRAS/a.jpg"] = server.files["EXTRAS/b.jpg"] = jpeg(0)
    server.next_fault = once(redirect)
    [file] = fetch_product(archive, FILES, tmp_path / "obs")
    assert file.path == tmp_path / "obs" / "a.jpg"


@pytest.mark.parametrize(
    "hostile",
    ["../a.jpg", "EXTRAS/../../a.jpg", "/etc/passwd", "//elsewhere/a.jpg", "EXTRAS/.hidden", "a.jpg?x=1", "a\\b"],
)
def test_addresses_stay_below_the_base(archive: Archive, tmp_path: Path, hostile: str) -> None:
    with pytest.raises(MarsError, match="not an address below"):
        fetch_product(archive, ProductFiles(hostile, None), tmp_path / "obs")


@pytest.mark.parametrize("base", ["ftp://x/PDS", "file:///etc", "https://user:hunter2@x/PDS", "https://x/PDS?key=1"])
def test_unusable_addresses_are_refused(base: str) -> None:
    with pytest.raises(MarsError) as caught:
        Archive(base, "a@b")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("contact", ["", " ", "a\r\nX-Header: 1", "ü@b"])
def test_nothing_is_asked_for_without_a_contact(server: Server, archive: Archive, tmp_path: Path, contact: str) -> None:
    server.files["EXTRAS/a.jpg"] = jpeg(0)
    anonymous = replace(archive, contact=contact)
    with pytest.raises(MarsError, match="MARS_CONTACT"):
        fetch_product(anonymous, FILES, tmp_path / "obs")
    assert not list((tmp_path / "obs").glob("*.jpg"))
    fetch_product(archive, FILES, tmp_path / "obs")
    assert fetch_product(anonymous, FILES, tmp_path / "obs"), "what is there needs none"


def test_a_killed_download_goes_on_where_it_was(server: Server, archive: Archive, tmp_path: Path) -> None:
    content = server.files["EXTRAS/a.jpg"] = jpeg(0, 300)

    def slow(handler: Handler, content: bytes, start: int) -> None:
        handler.head(content, start)
        for position in range(start, len(content), 4096):
            handler.wfile.write(content[position : position + 4096])
            handler.wfile.flush()
            time.sleep(0.1)

    server.next_fault = once(slow)
    folder = tmp_path / "obs"
    code = (
        "import sys; from pathlib import Path\n"
        "from mars_assets.imagery.download import Archive, fetch_product\n"
        "from mars_assets.imagery.products import ProductFiles\n"
        "archive = Archive(sys.argv[1], 'x', lock_folder=Path(sys.argv[3]))\n"
        "fetch_product(archive, ProductFiles('EXTRAS/a.jpg', None), Path(sys.argv[2]))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, server.base, str(folder), str(tmp_path / "locks")])
    part = folder / "a.jpg.part"
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size > 8192) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "a.jpg").exists()
    received = part.stat().st_size
    assert 0 < received < len(content)
    fetch_product(archive, FILES, folder)
    assert (folder / "a.jpg").read_bytes() == content
    assert server.requests[-1][1]["Range"] == f"bytes={received - 1024}-"


def test_killed_between_naming_and_ledger(
    server: Server, archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mars_assets.imagery import download

    server.files["EXTRAS/a.jpg"] = jpeg(0)

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download._Transfer, "_entered", killed)
        with pytest.raises(KeyboardInterrupt):
            fetch_product(archive, FILES, tmp_path / "obs")
    assert not (tmp_path / "obs" / LEDGER).exists()
    fetch_product(archive, FILES, tmp_path / "obs")
    assert len(server.requests) == 1
    assert "a.jpg" in json.loads((tmp_path / "obs" / LEDGER).read_text())["files"]


def test_a_full_disk_is_a_clear_error(
    server: Server, archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mars_assets.imagery import download

    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full, which refuses every write with ENOSPC")
    server.files["EXTRAS/a.jpg"] = jpeg(0)
    server.next_fault = once(drop, unavailable)
    with pytest.raises(MarsError):
        fetch_product(replace(archive, retries=1), FILES, tmp_path / "obs")
    part = tmp_path / "obs" / "a.jpg.part"
    content = part.read_bytes()

    def full(path: Path, mode: str = "r", **how: Any) -> Any:
        return open("/dev/full", "wb", **how) if mode == "ab" else open(path, mode, **how)

    monkeypatch.setattr(download, "open", full, raising=False)
    with pytest.raises(MarsError, match="no space left"):
        fetch_product(archive, FILES, tmp_path / "obs")
    assert part.read_bytes() == content
    assert not (tmp_path / "obs" / "a.jpg").exists()
