"""A local HTTP server for an archive tree.

It supports ranges and validators, so that the real downloader works with it. ``python -m mars_assets.sample.server
FOLDER`` serves until it is interrupted.
"""

from __future__ import annotations

import argparse
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from mars_assets.errors import MarsError

HOST = "127.0.0.1"


@contextmanager
def serve(folder: Path, port: int = 0, host: str = HOST) -> Iterator[str]:
    """Serve a folder for the duration of the ``with`` block.

    Args:
        folder: root of the tree, which contains ``RDR`` and ``EXTRAS``.
        port: TCP port; 0 selects a free one.
        host: the address to listen at.

    Yields:
        The base address, e.g. ``http://127.0.0.1:43210``.

    Raises:
        MarsError: there is no such folder, or the port is taken.
    """
    if not folder.is_dir():
        raise MarsError(f"{folder} is not a folder: write the sample first")
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise MarsError(
                f"port {port} cannot be used ({error.strerror}): choose another, or 0 for a free one"
            ) from error
        listener.listen()
        app = Starlette(routes=[Mount("/", StaticFiles(directory=folder))])
        config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="sample-archive", daemon=True)
        thread.start()
        try:
            yield f"http://{host}:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Serve a HiRISE-like archive tree on 127.0.0.1.")
    parser.add_argument("folder", type=Path, help="root of the tree")
    parser.add_argument("--port", type=int, default=0, help="default: a free port")
    arguments = parser.parse_args()
    try:
        with serve(arguments.folder, arguments.port) as base:
            print(f"serving {arguments.folder} at {base}; press Ctrl-C to stop", flush=True)
            while True:
                time.sleep(3600)
    except KeyboardInterrupt:
        pass
    except MarsError as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
