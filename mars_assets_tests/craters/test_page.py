"""The page of a scene's craters, without a browser and in one."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, Route, expect
from shapely.geometry import LineString, MultiPolygon

from mars_assets.craters.crater_map import CraterMap
from mars_assets.craters.page import write_page
from mars_assets.errors import MarsError
from mars_assets.evaluation.counts import poisson_interval
from mars_assets_tests.browser import needed_chromium, open_page
from mars_assets_tests.craters.maps import METRES, ground_of, random_map

HOSTILE = '</script><script>window.harm = 1</script><img src=x onerror="window.harm = 1">{{ 1 }}$$x^2$$ é\udce9'


@contextmanager
def opened(crater_map: CraterMap, path: Path) -> Iterator[Page]:
    """The page in Chromium, from its file and with nothing else to be had. Errors in the console fail the test."""
    write_page(crater_map, ground_of(crater_map), path)
    wrong: list[str] = []

    def only_local(route: Route) -> None:
        if route.request.url.startswith(("file:", "data:", "blob:")):
            route.continue_()
        else:
            wrong.append(route.request.url)
            route.abort()

    with open_page(needed_chromium(), "file:///", 1400, 900) as page:
        page.route("**/*", only_local)
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(path.as_uri())
        page.wait_for_function("window.craterPage")
        yield page
        page.wait_for_timeout(200)
    assert wrong == []


def model(page: Page, name: str, expression: str) -> Any:
    """What an expression of a model ``m`` of bokeh is."""
    return page.evaluate(
        f"(() => {{ const m = Bokeh.documents[0].get_model_by_name('{name}'); return {expression} }})()"
    )


def view(page: Page) -> list[float]:
    """What the map shows: left, right, top, bottom."""
    return model(page, "map", "[m.x_range.start, m.x_range.end, m.y_range.end, m.y_range.start]")


def curve_of(page: Page) -> dict[str, list[float]]:
    return model(page, "the curve", "Object.fromEntries(Object.entries(m.data).map(([k, v]) => [k, [...v]]))")


def on_screen(page: Page, x: float, y: float, name: str = "map") -> tuple[float, float]:
    """Where a point of a plot lies in the window."""
    left, top = model(
        page,
        name,
        "(() => { const v = Bokeh.index.find_one(m); const b = v.el.getBoundingClientRect(); "
        f"const f = v.frame; return [b.x + f.x_scale.compute({x}), b.y + f.y_scale.compute({y})] }})()",
    )
    return left, top


def shown(page: Page) -> tuple[int, int]:
    """The numbers of craters shown and in the curve, as the page says."""
    match = re.match(r"([\d,]+) of [\d,]+ craters shown, ([\d,]+) in the curve", page.locator("#shown").inner_text())
    assert match
    return int(match[1].replace(",", "")), int(match[2].replace(",", ""))


@pytest.mark.ui
def test_the_page_shows_the_scene_and_zooms_filters_and_answers(tmp_path: Path) -> None:
    crater_map = random_map(500)
    craters = crater_map.craters
    with opened(crater_map, tmp_path / "map.html") as page:
        assert page.title() == "Craters of ESP_011472_1225"
        header = page.locator("header").inner_text()
        for text in ("ESP_011472_1225", "500 (", "1.342 km²", "8 px (about 4 m)", "known", "calibrated probability"):
            assert text in header
        assert shown(page) == (500, craters["counted"].sum())

        left, right, top, bottom = view(page)
        assert left < 0 < 2000 < right
        assert top < 0 < 3000 < bottom
        width, height = model(page, "map", "[m.inner_width, m.inner_height]")
        assert (right - left) / width == pytest.approx((bottom - top) / height)
        corner, end = on_screen(page, 0, 0), on_screen(page, 100, 300)
        assert end[0] > corner[0]
        assert end[1] > corner[1], "y is downwards"

        zoom_by_the_wheel(page)
        filter_by_probability(page, crater_map)
        filter_by_size(page, crater_map)
        choose_on_the_map(page, crater_map)
        choose_on_the_curve(page)
        resize(page)


def zoom_by_the_wheel(page: Page) -> None:
    before = view(page)
    page.mouse.move(*on_screen(page, 1000, 1500))
    page.mouse.wheel(0, -480)
    page.wait_for_function(
        f"{before[1] - before[0]} > 1.2 * (() => {{ const r = Bokeh.documents[0]"
        ".get_model_by_name('map').x_range; return r.end - r.start })()"
    )
    left, right, top, bottom = view(page)
    assert left < 1000 < right
    assert (right - left) / (bottom - top) == pytest.approx((before[1] - before[0]) / (before[3] - before[2]))
    page.wait_for_timeout(300)
    drawn = model(page, "the outlines", "m.data.xs.length") + model(page, "the circles", "m.data.x.length")
    assert 0 < drawn < 500, "only those around the view are drawn"
    ground = model(page, "map", "m.center.find((a) => a.type == 'ScaleBar').range.end")
    latitude = (-5e5 - METRES * 1500) / 3396190
    assert ground == pytest.approx((right - left) * METRES * np.cos(latitude), rel=1e-6)


def filter_by_probability(page: Page, crater_map: CraterMap) -> None:
    craters = crater_map.craters
    before = curve_of(page)
    assert before["n"][0] == craters["counted"].sum()
    slider = page.locator(".noUi-handle").nth(2)
    for _ in range(10):
        slider.press("PageUp")
    least = model(page, "at_least", "m.value")
    assert 0.3 < least < 0.9
    sure = craters["probability"].astype(np.float32) >= least - 1e-6
    assert shown(page) == (sure.sum(), (sure & craters["counted"]).sum())
    after = curve_of(page)
    sizes = craters.loc[sure & craters["counted"], "diameter_m"]
    assert after["n"][0] == len(sizes) < before["n"][0]
    for size, n, value, low, high in zip(*(after[key] for key in ("size", "n", "value", "low", "high")), strict=True):
        assert n == (sizes.astype(np.float32) >= np.float32(size)).sum()
        ends = [float(end) for end in poisson_interval(n)]
        assert [value, low, high] == pytest.approx(np.array([n, *ends]) / (crater_map.counted_m2 / 1e6), rel=1e-5)
    for _ in range(10):
        slider.press("PageDown")
    assert shown(page)[0] == 500


def filter_by_size(page: Page, crater_map: CraterMap) -> None:
    handle = page.locator(".noUi-handle").nth(0)
    for _ in range(5):
        handle.press("PageUp")
    smallest = 10 ** model(page, "size_range", "m.value[0]")
    assert smallest > 4.5
    assert shown(page)[0] == (crater_map.craters["diameter_m"] >= smallest).sum() < 500
    for _ in range(5):
        handle.press("PageDown")
    assert shown(page)[0] == 500


def choose_on_the_map(page: Page, crater_map: CraterMap) -> None:
    page.get_by_text("none", exact=True).click()
    page.get_by_text("circles", exact=True).click()
    page.wait_for_timeout(300)
    assert model(page, "the outlines", "m.data.xs.length") == 0
    page.get_by_text("outlines", exact=True).click()
    left, right, top, bottom = view(page)
    x, y, d = (crater_map.craters[name] for name in ("x_px", "y_px", "diameter_px"))
    # Of those in view the smallest, which no other covers.
    index = int(d[(x > left + 50) & (x < right - 50) & (y > top + 50) & (y < bottom - 50)].index[-1])
    row = crater_map.craters.loc[index]
    place = on_screen(page, row["x_px"], row["y_px"])
    page.mouse.move(*place)
    expect(page.locator("#hover")).to_contain_text(f"{row['longitude']:.5f}° E")
    expect(page.locator("#hover")).to_contain_text(f"probability {row['probability']:.2f}")
    page.mouse.click(*place)
    table = page.locator("#row tr")
    expect(table).to_have_count(len(crater_map.craters.columns))
    expect(table.nth(0)).to_contain_text(row["crater_id"])
    cells = row_of(page)
    assert float(cells["diameter_m"]) == pytest.approx(row["diameter_m"], abs=0.006)
    assert float(cells["latitude"]) == pytest.approx(row["latitude"], abs=1e-6)
    assert cells["counted"] == ("yes" if row["counted"] else "no")
    assert "calibrated probability" in (page.locator("#row tr", has_text="probability").get_attribute("title") or "")
    drawn = np.column_stack(model(page, "the chosen", "[[...m.data.xs[0]], [...m.data.ys[0]]]"))
    off = LineString(drawn).hausdorff_distance(LineString(crater_map.outlines[index]))
    assert off < max(0.3, 0.004 * row["diameter_px"]) + 1e-3
    assert len(drawn) < 40


def row_of(page: Page) -> dict[str, str]:
    """The row in the panel."""
    names, values = (page.locator(f"#row td:{which}-child").all_inner_texts() for which in ("first", "last"))
    return dict(zip(names, values, strict=True))


def choose_on_the_curve(page: Page) -> None:
    points = curve_of(page)
    page.mouse.click(*on_screen(page, points["size"][-1], points["value"][-1], "curve"))
    expect(page.locator("#row tr", has_text="diameter_m")).to_contain_text(f"{points['size'][-1]:.2f}")
    x, y = (
        float(page.locator("#row tr", has_text=name).locator("td").nth(1).inner_text()) for name in ("x_px", "y_px")
    )
    left, right, top, bottom = view(page)
    assert left < x < right
    assert top < y < bottom, "the map moves to it"


def resize(page: Page) -> None:
    page.set_viewport_size({"width": 1200, "height": 900})
    page.wait_for_timeout(500)
    left, right, top, bottom = view(page)
    width, height = model(page, "map", "[m.inner_width, m.inner_height]")
    assert (right - left) / width == pytest.approx((bottom - top) / height)


@pytest.mark.ui
def test_a_raster_without_a_projection_is_in_pixels(tmp_path: Path) -> None:
    with opened(random_map(40, projected=False, calibrated=False), tmp_path / "map.html") as page:
        header = page.locator("header").inner_text()
        assert "unknown: not map projected" in header
        assert "confidence (not calibrated)" in header
        assert "km" not in header
        assert model(page, "curve", "m.below[0].axis_label") == "diameter D (pixels)"
        assert model(page, "curve", "m.left[0].axis_label") == "number of craters ≥ D"
        assert curve_of(page)["value"][0] == shown(page)[1]
        assert not model(page, "map", "m.center.some((a) => a.type == 'ScaleBar')")
        page.mouse.move(*on_screen(page, *random_map(40).craters.loc[0, ["x_px", "y_px"]]))
        expect(page.locator("#hover")).to_contain_text(re.compile(r"^D [\d.]+ px\nconfidence [\d.]+"))


@pytest.mark.ui
@pytest.mark.parametrize("projected", [True, False])
def test_no_crater_is_a_page_of_the_scene(tmp_path: Path, projected: bool) -> None:
    nothing = replace(random_map(0, projected=projected), counted=MultiPolygon(), counted_m2=0.0 if projected else None)
    with opened(nothing, tmp_path / "map.html") as page:
        assert page.locator("#shown").inner_text() == "0 of 0 craters shown, 0 in the curve"
        page.mouse.click(*on_screen(page, 1000, 1500))
        page.locator(".noUi-handle").nth(2).press("PageUp")
        expect(page.locator("#hint")).to_be_visible()
        page.screenshot()


@pytest.mark.ui
def test_the_scale_bar_says_where_pixels_are_not_square(tmp_path: Path) -> None:
    crater_map = random_map(5)
    a, b, c, d, e, f = crater_map.transform or ()
    for height, title in ((e, ""), (2 * e, "along x")):
        with opened(replace(crater_map, transform=(a, b, c, d, height, f)), tmp_path / "map.html") as page:
            assert model(page, "map", "m.center.find((a) => a.type == 'ScaleBar').title") == title


@pytest.mark.ui
def test_names_are_text(tmp_path: Path) -> None:
    crater_map = random_map(3)
    crater_map = replace(
        crater_map,
        scene=HOSTILE,
        craters=crater_map.craters.assign(crater_id=[f"<b>{i}</b>{HOSTILE[:-2]}" for i in range(3)]),
    )
    with opened(crater_map, tmp_path / "map.html") as page:
        name = HOSTILE.replace("\udce9", r"\xe9")
        assert page.locator("h1").inner_text() == name
        assert page.title() == f"Craters of {name}"
        page.mouse.click(*on_screen(page, *crater_map.craters.loc[0, ["x_px", "y_px"]]))
        expect(page.locator("#row tr").nth(0)).to_contain_text("<b>0</b></script>")
        assert page.evaluate("window.harm") is None


@pytest.mark.ui
def test_thirty_thousand_craters_open_in_seconds(tmp_path: Path) -> None:
    crater_map = random_map(30_000)
    with opened(crater_map, tmp_path / "map.html") as page:
        assert (tmp_path / "map.html").stat().st_size < 15e6
        start = time.monotonic()
        page.reload()
        page.wait_for_function("window.craterPage")
        page.screenshot()
        assert time.monotonic() - start < 30
        assert shown(page)[0] == 30_000
        outlines = model(page, "the outlines", "m.data.xs.length")
        assert 1000 < outlines <= 2000
        assert outlines + model(page, "the circles", "m.data.x.length") == 30_000
        for _ in range(10):
            page.locator(".noUi-handle").nth(2).press("PageUp")
        assert 0 < shown(page)[0] < 30_000


def test_the_page_needs_no_other_file_and_is_whole_or_absent(tmp_path: Path) -> None:
    crater_map = random_map(20)
    write_page(crater_map, np.repeat(ground_of(crater_map)[..., None], 3, axis=2), tmp_path / "new" / "map.html")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["map.html"]
    html = (tmp_path / "new" / "map.html").read_text()
    assert re.findall(r"<(?:link|img|iframe)[^>]*>|<script[^>]*\bsrc=", html.partition("<script")[0]) == []
    assert "data:image/jpeg;base64" in html
    (tmp_path / "file").touch()
    with pytest.raises(MarsError, match="a file and a folder have the same name"):
        write_page(crater_map, ground_of(crater_map), tmp_path / "file" / "map.html")
