"""One large file over loopback: ours, verified, hashed and on disk, against ``curl``, which does none of that.

As fast as loopback goes, which no archive does, and over a line of 1 Gbit/s. Beside it, what a careful person would do:
curl, then sha256sum, then sync.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from cutting import make_scene
from measure import measure, report, verdict

ADDRESS = "RDR/ESP/ORB_990000_990099/ESP_990000_1800/ESP_990000_1800_RED.JP2"


def serve(file: Path, listener: socket.socket, bytes_per_second: float) -> None:
    """Answers every request with the file, by sendfile, so that the server is not what is measured."""

    def answer(connection: socket.socket) -> None:
        with connection, open(file, "rb") as source:
            request = b""
            while b"\r\n\r\n" not in request:
                request += connection.recv(4096)
            size = os.fstat(source.fileno()).st_size
            head = f'HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nETag: "1"\r\nConnection: close\r\n\r\n'
            connection.sendall(head.encode())
            if bytes_per_second == float("inf"):
                connection.sendfile(source)
                return
            start, sent, piece = time.monotonic(), 0, 1 << 20
            while sent < size:
                connection.sendfile(source, sent, min(piece, size - sent))
                sent += piece
                time.sleep(max(0.0, start + sent / bytes_per_second - time.monotonic()))

    while True:
        threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()


def ours(base: str, folder: Path) -> None:
    from mars_assets.imagery.download import Archive, fetch_product
    from mars_assets.imagery.products import ProductFiles

    archive = Archive(base, "benchmark@localhost", lock_folder=folder)
    fetch_product(archive, ProductFiles(ADDRESS, None), folder / "ours")


def curl(base: str, folder: Path) -> None:
    subprocess.run(["curl", "-sS", "-o", str(folder / "curl.JP2"), f"{base}/{ADDRESS}"], check=True)  # noqa: S603, S607


def curl_with_care(base: str, folder: Path) -> None:
    curl(base, folder)
    subprocess.run(["sha256sum", str(folder / "curl.JP2")], check=True, stdout=subprocess.DEVNULL)  # noqa: S603, S607
    subprocess.run(["sync", str(folder / "curl.JP2")], check=True)  # noqa: S603, S607


def warm_up() -> None:
    """Imports what a long run has imported once."""
    import requests  # noqa: F401

    from mars_assets.imagery.scene import load_glymur

    load_glymur()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, help="a JP2 to serve; one of 48000 lines is made by default")
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--base", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        warm_up()
        sides = {"ours": ours, "curl": curl, "curl, sha256sum, sync": curl_with_care}
        work_of = sides[options.side.partition(":")[0]]
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            report(lambda: work_of(options.base, Path(folder)))
        return 0
    work = Path(tempfile.mkdtemp(prefix="mars-bench-"))
    try:
        file = options.file
        if file is None:
            file = work / "scene.jp2"
            print("making a scene of 48000 lines", flush=True)
            make_scene(file, 48000, 8000)
        print(f"{file.name}: {file.stat().st_size / 1e6:.0f} MB")
        arguments = {}
        for line, speed in (("", float("inf")), (": 1 Gbit/s", 125e6)):
            listener = socket.create_server(("127.0.0.1", 0))
            threading.Thread(target=serve, args=(file, listener, speed), daemon=True).start()
            there = ["--base", f"http://127.0.0.1:{listener.getsockname()[1]}", "--folder", str(work)]
            for name in ("ours", "curl") if line else ("ours", "curl", "curl, sha256sum, sync"):
                arguments[name + line] = there
        found = measure(Path(__file__), arguments, options.repeats)
    finally:
        shutil.rmtree(work)
    loopback = found["ours"].seconds
    holds = [
        verdict(
            "curl's time over ours at 1 Gbit/s", found["curl: 1 Gbit/s"].seconds / found["ours: 1 Gbit/s"].seconds, 0.9
        ),
        verdict("curl's time over ours, as fast as loopback goes", found["curl"].seconds / loopback, 0.9),
    ]
    print(f"that of curl, sha256sum and sync over ours: {found['curl, sha256sum, sync'].seconds / loopback:.2f}")
    return 0 if all(holds) else 1


if __name__ == "__main__":
    sys.exit(main())
