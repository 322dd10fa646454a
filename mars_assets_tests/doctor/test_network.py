"""Checks of who reaches the webserver and Ray's dashboard."""

import http.server
import json
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from mars_assets.doctor.network import Listener, dashboard, exposed, is_dashboard, is_webserver, listeners
from mars_assets_tests.doctor.bad_states import only, surroundings

pytestmark = pytest.mark.process
WEBSERVER = "/venv/bin/dagster-webserver -h 0.0.0.0"


def reached(*sockets: Listener) -> list[tuple[str, str]]:
    return [(finding.level, finding.what) for finding in exposed("the webserver", sockets, "bind it to 127.0.0.1")]


@pytest.mark.parametrize(
    ("address", "level"),
    [
        ("0.0.0.0", "problem"),
        ("::", "problem"),
        ("10.77.0.1", "note"),
        ("fe80::1", "note"),
        ("127.0.0.1", "ok"),
        ("::1", "ok"),
    ],
)
def test_who_reaches_an_address(address: str, level: str) -> None:
    ((found, what),) = reached(Listener(address, 4000, WEBSERVER))
    assert found == level
    assert f"listens on {address} port 4000" in what


def test_the_process_decides_or_else_the_port() -> None:
    assert reached() == [("ok", "none on this host")]
    assert "by its port" in reached(Listener("0.0.0.0", 3000, ""))[0][1]
    assert is_webserver(Listener("0.0.0.0", 4000, WEBSERVER))
    assert is_webserver(Listener("0.0.0.0", 4000, "python -m dagster_webserver -p 4000"))
    assert not is_webserver(Listener("0.0.0.0", 3000, "nginx"))
    assert is_webserver(Listener("0.0.0.0", 3000, "")), "another user's process has no command"
    assert not is_webserver(Listener("0.0.0.0", 3001, ""))
    ray = "python /venv/ray/dashboard/dashboard.py --host=0.0.0.0 --port=9000 --port-retries=50"
    assert is_dashboard(Listener("0.0.0.0", 9000, ray), 8265)
    assert not is_dashboard(Listener("0.0.0.0", 900, ray), 8265)
    assert is_dashboard(Listener("0.0.0.0", 8265, ""), 8265)


def test_sockets_of_this_host() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        found = only(one for one in listeners() if one.port == port)
    assert found.address == "127.0.0.1"
    assert found.command.startswith(sys.executable)


@contextmanager
def answering(content: bytes) -> Iterator[str]:
    """A server that gives one answer to every request."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def of_dashboard(tmp_path: Path, address: str) -> tuple[str, str]:
    finding = next(iter(dashboard(surroundings(tmp_path, environment={"MARS_RAY_DASHBOARD": address}))))
    return finding.level, finding.what


def test_a_dashboard_that_answers_or_does_not(tmp_path: Path) -> None:
    with answering(json.dumps({"ray_version": "2.60.0"}).encode()) as address:
        level, what = of_dashboard(tmp_path, address)
        assert (level, what) == ("ok", f"Ray 2.60.0 answers at {address}, of this host only")
    level, what = of_dashboard(tmp_path, address)
    assert level == "problem"
    assert "does not answer (ConnectionError)" in what
    with answering(b"<html>") as address:
        assert of_dashboard(tmp_path, address)[0] == "problem", "it is another service"
    level, what = of_dashboard(tmp_path, "http://me:geheim@127.0.0.1:1")
    assert "geheim" not in what
    assert of_dashboard(tmp_path, "head:8265") == ("problem", "MARS_RAY_DASHBOARD=head:8265 is no address")
