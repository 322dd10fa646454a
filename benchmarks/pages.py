"""What the UI's pages ask of the server: recorded in Chromium, and asked again without it."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import requests

CONNECTIONS = 6
"""That a browser opens to one server."""
PATIENCE = 600.0


@dataclass(frozen=True)
class Request:
    """A request that the UI sent.

    Args:
        operation: name of the GraphQL operation.
        body: what was posted.
    """

    operation: str
    body: str


def recorded(url: str, pages: Mapping[str, str]) -> dict[str, list[Request]]:
    """Open pages in Chromium twice, and list what each then asks of the server.

    The first time loads what the browser keeps.

    Args:
        url: of the server.
        pages: their paths by name.
    """
    from playwright.sync_api import sync_playwright

    found: dict[str, list[Request]] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1600, "height": 1000}, base_url=url)
        page.set_default_timeout(1000 * PATIENCE)
        for name in (*pages, *pages):
            sent: list[Request] = []

            def note(request: Any, sent: list[Request] = sent) -> None:
                if request.method == "POST" and "/graphql" in request.url:
                    sent.append(Request(request.post_data_json["operationName"], request.post_data))

            page.on("request", note)
            start = time.perf_counter()
            page.goto(pages[name])
            page.wait_for_load_state("networkidle")
            rested = time.perf_counter() - start
            page.remove_listener("request", note)
            print(f"  {name:10} in Chromium: {len(sent)} requests, at rest after {rested:.1f} s", flush=True)
            found[name] = sent
        browser.close()
    return found


def data_seconds(url: str, asked: Sequence[Request]) -> tuple[float, dict[str, float]]:
    """Ask again what a page asked, as many at once as a browser does.

    Returns:
        The seconds until the last answer has come, and those of the longest answer of each operation.
    """

    def ask(request: Request) -> tuple[str, float]:
        start = time.perf_counter()
        answer = requests.post(
            f"{url}/graphql", request.body.encode(), headers={"content-type": "application/json"}, timeout=PATIENCE
        )
        if b'"errors"' in answer.content[:1000]:
            sys.exit(f"{request.operation} is refused: {answer.text[:500]}")
        return request.operation, time.perf_counter() - start

    start = time.perf_counter()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        each = list(pool.map(ask, asked))
    whole = time.perf_counter() - start
    return whole, {name: max(seconds for other, seconds in each if other == name) for name, _ in each}
