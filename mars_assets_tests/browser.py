"""Headless Chromium."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Page, expect, sync_playwright

_OFF = ("background-networking", "component-update", "sync", "quic", "gpu")


def chromium() -> str | None:
    """Where it is installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def needed_chromium() -> str:
    """Where it is installed; otherwise the test is skipped, or fails in CI."""
    executable = chromium()
    if executable is None:
        message = "no Chromium on the PATH to drive"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return executable


@contextmanager
def open_page(executable: str, url: str, width: int = 1600, height: int = 1000) -> Iterator[Page]:
    """An empty page whose addresses begin at ``url``; it waits a minute for what it looks for."""
    arguments = ["--no-sandbox", "--no-first-run", *(f"--disable-{what}" for what in _OFF)]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=arguments)
        page = browser.new_page(viewport={"width": width, "height": height}, base_url=url)
        page.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)
        yield page
        browser.close()
