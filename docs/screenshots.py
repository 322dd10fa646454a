"""The pictures of the README and the manual, taken from the lake that ``make demo`` left: ``make screenshots``.

Needs Chromium on the PATH.
"""

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

from mars_assets_tests.browser import chromium, open_page
from mars_assets_tests.shell import PROJECT, clean_environment, dagster_dev

PICTURES = Path(__file__).parent / "images"
OPENED = ("labels", "models", "evaluation")
SEGMENTATION = "seg_evaluation_images"
SECOND_ROW = (0.348, 0.672)
"""Where the second of its three rows lies, as shares of the height: the README shows it alone."""


def graph(page: Page) -> None:
    """Save the graph with some of its groups opened: all of them do not fit into a picture."""
    size = page.viewport_size
    page.set_viewport_size({"width": 1700, "height": 1300})
    page.goto("/asset-groups?expanded=" + ",".join(f"global@global:{group}" for group in OPENED))
    page.get_by_text("cls_evaluation", exact=True).first.wait_for(state="attached")
    page.wait_for_timeout(8000)  # it is laid out, and states arrive
    screenshot(page, "graph")
    if size is not None:
        page.set_viewport_size(size)


def page_of(page: Page, asset: str) -> None:
    """Save the page of an asset."""
    page.goto(f"/assets/{asset}")
    page.get_by_text("[Show Markdown]").first.wait_for()
    page.wait_for_timeout(2000)
    screenshot(page, asset)


def crater_map(page: Page, lake: Path) -> None:
    """Save the page of the scene that the demonstration mapped."""
    (path,) = lake.glob("craters/*/map.html")
    page.goto(path.as_uri())
    page.locator("canvas").first.wait_for()
    page.wait_for_timeout(3000)  # it is drawn
    screenshot(page, "crater_map")


def figure(metrics: Path, name: str) -> None:
    """Save a figure that an asset's page shows, as it lies in the lake; GitHub shows it as wide as its text."""
    with Image.open(metrics / f"{name}.png") as image:
        image.thumbnail((1000, 4000), Image.Resampling.LANCZOS)
        save(image, name)
        if name == SEGMENTATION:
            top, bottom = (round(image.height * share) for share in SECOND_ROW)
            save(image.crop((0, top, image.width, bottom)), "segmentation_example")


def screenshot(page: Page, name: str) -> None:
    """Save what the browser shows."""
    with Image.open(io.BytesIO(page.screenshot())) as image:
        save(image, name)


def save(image: Image.Image, name: str) -> None:
    """Save a picture of the manual, in few colours, which makes it small."""
    PICTURES.mkdir(exist_ok=True)
    path = PICTURES / f"{name}.png"
    image.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE, colors=128).save(path, optimize=True)
    print(path.relative_to(PROJECT))


def main() -> int:
    """Take all pictures. Returns 0, or 1 where Chromium or the lake is missing."""
    executable = chromium()
    if executable is None:
        print("no Chromium on the PATH: install chromium", file=sys.stderr)
        return 1
    if not (PROJECT / "data_lake/metrics/cls_evaluation.parquet").exists():
        print("the lake is empty: run make demo first", file=sys.stderr)
        return 1
    with dagster_dev(PROJECT, clean_environment(), daemon=False) as url, open_page(executable, url, 1400, 900) as page:
        graph(page)
        page_of(page, "cls_evaluation")
        crater_map(page, PROJECT / "data_lake")
    for name in ("reconstruction_examples", SEGMENTATION):
        figure(PROJECT / "data_lake/metrics", name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
