"""The loopback archive speaks HTTP as the downloader needs it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests

from mars_assets.errors import MarsError
from mars_assets.sample.server import serve

CONTENT = np.random.default_rng(0).bytes(300_001)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("archive")
    (folder / "RDR").mkdir()
    (folder / "RDR" / "X.JP2").write_bytes(CONTENT)
    (folder.parent / "outside.txt").write_text("not served")
    with serve(folder) as base:
        assert base.startswith("http://127.0.0.1:")
        yield f"{base}/RDR/X.JP2"


def test_whole_file_with_length_and_validators(url: str) -> None:
    answer = requests.get(url, timeout=5)
    assert answer.status_code == 200
    assert answer.content == CONTENT
    assert int(answer.headers["Content-Length"]) == len(CONTENT)
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["ETag"].startswith('"')
    assert "Last-Modified" in answer.headers
    head = requests.head(url, timeout=5)
    assert head.content == b""
    assert head.headers["Content-Length"] == answer.headers["Content-Length"]


@pytest.mark.parametrize(
    ("header", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=1000-", 1000, 300_001),
        ("bytes=-7", 299_994, 300_001),
        ("bytes=5-999999", 5, 300_001),
    ],
)
def test_range(url: str, header: str, start: int, stop: int) -> None:
    answer = requests.get(url, headers={"Range": header}, timeout=5)
    assert answer.status_code == 206
    assert answer.content == CONTENT[start:stop]
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(CONTENT)}"
    assert int(answer.headers["Content-Length"]) == stop - start


def test_range_beyond_the_end(url: str) -> None:
    answer = requests.get(url, headers={"Range": f"bytes={len(CONTENT)}-"}, timeout=5)
    assert answer.status_code == 416
    assert answer.headers["Content-Range"] == f"bytes */{len(CONTENT)}"


def test_if_range_continues_only_the_same_file(url: str) -> None:
    tag = requests.head(url, timeout=5).headers["ETag"]
    same = requests.get(url, headers={"Range": "bytes=10-", "If-Range": tag}, timeout=5)
    other = requests.get(url, headers={"Range": "bytes=10-", "If-Range": '"another"'}, timeout=5)
    assert (same.status_code, same.content) == (206, CONTENT[10:])
    assert (other.status_code, other.content) == (200, CONTENT)


def test_only_the_folder_is_served(url: str) -> None:
    base = url.removesuffix("/RDR/X.JP2")
    assert requests.get(f"{base}/RDR/Y.JP2", timeout=5).status_code == 404
    request = requests.Request("GET", base).prepare()
    request.url = f"{base}/%2e%2e/outside.txt"
    with requests.Session() as session:
        assert session.send(request, timeout=5).status_code == 404


def test_connections_at_the_same_time(url: str) -> None:
    answers: list[bytes] = []
    threads = [threading.Thread(target=lambda: answers.append(requests.get(url, timeout=5).content)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [CONTENT] * 4


def test_the_server_ends_with_the_block(tmp_path: Path) -> None:
    with serve(tmp_path) as base:
        assert requests.get(base, timeout=5).status_code == 404
    with pytest.raises(requests.ConnectionError):
        requests.get(base, timeout=1)


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MarsError, match="write the sample"), serve(tmp_path / "absent"):
        pass
    with (
        serve(tmp_path) as base,
        pytest.raises(MarsError, match="choose another"),
        serve(tmp_path, int(base.split(":")[-1])),
    ):
        pass
