"""The craters of one scene as a web page that needs no network.

The page draws the outlines of the 2000 largest craters in view, and circles for all others. The limit is about 100,000
craters: a file of 30 MB that opens in 5 to 10 seconds, and redraws in 2 seconds without a graphics card.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from mars_assets.craters.crater_map import CraterMap
from mars_assets.craters.figures import (
    BORDER,
    SHARE_OF_VIRIDIS,
    border,
    counted_km2,
    diameters,
    score,
)
from mars_assets.evaluation.counts import poisson_interval
from mars_assets.imagery.geolocation import projected_positions
from mars_assets.images import encode
from mars_assets.plotting import as_image
from mars_assets.storage.files import shown, write_bytes

if TYPE_CHECKING:
    from bokeh.models import Column, ColumnDataSource, CustomJS, FixedTicker, Plot, Range1d, Span

Float64 = npt.NDArray[np.float64]

CHOSEN = "#D55E00"
"""Okabe and Ito's vermillion."""
_LINE = "#0072B2"
_MANY = 20_000
"""Craters from which WebGL draws the circles. Fewer are drawn as fast without it, whatever the graphics card."""
_SQUARE = 0.02
"""Relative difference of width and height up to which a pixel is a square."""
_LONGEST = 8192
"""Longest side of the picture in pixels."""
_BORDER_STEPS = 4000
"""The raster's longer side divided by the tolerance of the counted area's border."""
_ROUNDED = {"longitude": 6, "latitude": 6, "detections": 0, "angle": 1, "scale": 2}
"""Decimals of columns; diameters and places have 2 and others 3."""


def write_page(crater_map: CraterMap, overview: npt.NDArray[np.uint8], path: Path) -> None:
    """Write the page, atomically.

    Args:
        crater_map: the craters.
        overview: the whole scene at any reduction, shape (H, W) or (H, W, 3).
        path: the file to write.
    """
    from bokeh.document import Document
    from bokeh.embed import file_html
    from bokeh.models import ColumnDataSource, CustomJS
    from bokeh.resources import INLINE

    sources = {name: ColumnDataSource(data, name=f"the {name}") for name, data in _tables(crater_map).items()}
    curve, mark = _curve(crater_map, sources)
    plot = _map(crater_map, overview, sources)
    filters, widgets = _filters(crater_map)
    pixel = _pixel_size(crater_map)
    counted = int(crater_map.craters["counted"].sum())
    low, high = poisson_interval(np.arange(counted + 1))
    arguments: dict[str, Any] = {
        **sources,
        **widgets,
        "map": plot,
        "ground": _add_scale_bar(plot, pixel) if pixel else None,
        "mark": mark,
        "metres_per_pixel": pixel[0] if pixel else None,
        "samples": crater_map.samples,
        "lines": crater_map.lines,
        "area": counted_km2(crater_map) or 1,
        "low": low.astype(np.float32),
        "high": high.astype(np.float32),
        "score_name": score(crater_map).name,
        "fields": _fields(crater_map),
    }
    document = Document()
    for root in (plot, curve, filters):
        document.add_root(root)
    document.js_on_event("document_ready", CustomJS(args=arguments, code=_beside("page.js")))
    page = file_html(
        document,
        INLINE,
        title=f"Craters of {shown(crater_map.scene)}",
        template=_beside("page.html"),
        template_variables={
            "scene": shown(crater_map.scene),
            "facts": _facts(crater_map),
            "border_colour": BORDER,
            "chosen_colour": CHOSEN,
        },
    )
    write_bytes(path, page.encode())


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _facts(crater_map: CraterMap) -> list[tuple[str, str]]:
    """State what the page is about."""
    craters = crater_map.craters
    unit = diameters(crater_map).unit
    whole = crater_map.lines * crater_map.samples
    share = f"{crater_map.counted.area / whole:.1%} of the scene"
    km2 = counted_km2(crater_map)
    smallest = f"{crater_map.smallest_px:.3g} px"
    if unit != "px" and len(craters):
        metres = crater_map.smallest_px * float((craters["diameter_m"] / craters["diameter_px"]).median())
        smallest += f" (about {metres:.3g} m)"
    values = score(crater_map)
    return [
        ("craters listed", f"{len(craters):,} ({int(craters['counted'].sum()):,} centred in the counted area)"),
        ("counted area", f"{km2:.4g} km², {share}" if km2 else share),
        ("smallest diameter", smallest),
        ("ground sizes", "known, on the projection's own sphere" if unit != "px" else "unknown: not map projected"),
        (
            "colour",
            "calibrated probability" if values.name == "probability" else "the model's confidence (not calibrated)",
        ),
        ("raster", f"{crater_map.samples:,} x {crater_map.lines:,} px"),
    ]


def _tables(crater_map: CraterMap) -> dict[str, dict[str, Any]]:
    """Lay out the tables of the page.

    These are all craters, the largest first, and empty tables for what the page draws.
    """
    sizes, values = diameters(crater_map).values, score(crater_map).values
    order = np.argsort(-sizes, kind="stable")
    table = crater_map.craters.iloc[order]
    columns: dict[str, Any] = {str(name): _typed(table[name]) for name in table}
    starts, vertices = _simplified([crater_map.outlines[i] for i in order], table["diameter_px"].to_numpy(np.float64))
    columns |= {
        "size": sizes[order].astype(np.float32),
        "score": values[order].astype(np.float32),
        "radius": columns["diameter_px"] / 2,
        "alpha": np.where(columns["counted"], 1, 0.45).astype(np.float32),
        "start": starts,
    }
    points = {name: np.empty(0, np.float32) for name in ("size", "n", "value", "low", "high")}
    lines: dict[str, Any] = {"xs": [], "ys": [], "score": [], "alpha": []}
    return {
        "craters": columns,
        "vertices": {"x": vertices[:, 0].astype(np.float32), "y": vertices[:, 1].astype(np.float32)},
        "circles": {"x": [], "y": [], "radius": [], "score": [], "alpha": []},
        "outlines": lines,
        "chosen": {"xs": [], "ys": []},
        "curve": points,
        "band": {name: points[name] for name in ("size", "low", "high")},
        "everything": dict(points),
    }


def _typed(column: pd.Series) -> npt.NDArray[Any] | list[str]:
    """Convert a column to what a browser reads fast.

    Numbers but degrees are of single precision.
    """
    if column.dtype == bool:
        return column.to_numpy(np.uint8)
    if not pd.api.types.is_numeric_dtype(column):
        return [str(value) for value in column]
    return column.to_numpy(np.float64 if column.name in ("longitude", "latitude") else np.float32)


def _simplified(outlines: list[Float64], diameter: Float64) -> tuple[npt.NDArray[np.int32], Float64]:
    """Simplify outlines to what a screen can show.

    The tolerance is 0.4 % of a crater's diameter, which is a few screen pixels where it fills the window, and at least
    0.3 pixels of the raster.

    Returns:
        The first vertex of each outline, and the vertices of all, shape (n, 2).
    """
    import shapely

    lengths = [len(outline) for outline in outlines]
    points = np.concatenate([np.empty((0, 2)), *outlines])
    lines = shapely.linestrings(points, indices=np.repeat(np.arange(len(outlines)), lengths))
    simple = shapely.simplify(lines, np.maximum(0.004 * diameter, 0.3), preserve_topology=False)
    counts = shapely.get_num_coordinates(simple)
    return (np.cumsum(counts) - counts).astype(np.int32), shapely.get_coordinates(simple)


def _fields(crater_map: CraterMap) -> list[tuple[str, str, int | str]]:
    """List what the panel shows of a crater.

    Returns:
        Name, description and number of decimals of each column, or "yes or no".
    """
    from mars_assets.craters.schema import MappedCraters

    described = MappedCraters.to_schema().columns
    fields: list[tuple[str, str, int | str]] = []
    for name, column in crater_map.craters.items():
        decimals = _ROUNDED.get(str(name), 2 if str(name).endswith(("_px", "_m")) else 3)
        description = described[name].description if name in described else ""
        fields.append((str(name), description or "", "yes or no" if column.dtype == bool else decimals))
    return fields


def _pixel_size(crater_map: CraterMap) -> tuple[float, float] | None:
    """Compute width and height in metres of the pixel in the middle of the scene.

    None if they are unknown.
    """
    if crater_map.crs is None:
        return None
    from pyproj import CRS, Geod

    middle = np.array([crater_map.samples, crater_map.lines]) / 2
    x, y = crater_map.on_the_map(middle + np.array([[-0.5, 0], [0, -0.5], [0.5, 0], [0, 0.5]])).T
    longitude, latitude = projected_positions(crater_map.crs, x, y)
    ellipsoid = CRS.from_user_input(crater_map.crs).ellipsoid
    if ellipsoid is None or not np.isfinite([*longitude, *latitude]).all():
        return None
    radius = ellipsoid.semi_major_metre
    lengths = Geod(a=radius, b=radius).inv(longitude[:2], latitude[:2], longitude[2:], latitude[2:])[2]
    return float(lengths[0]), float(lengths[1])


def _call(method: str, argument: str = "") -> CustomJS:
    """Call a method of the page, which exists once the document is ready."""
    from bokeh.models import CustomJS

    return CustomJS(code=f"window.craterPage?.{method}({argument})")


def _map(crater_map: CraterMap, overview: npt.NDArray[np.uint8], sources: Mapping[str, ColumnDataSource]) -> Plot:
    """Draw the scene with its craters."""
    from bokeh.models import BoxZoomTool, ColorBar, LinearColorMapper, Range1d, WheelZoomTool
    from bokeh.palettes import Viridis256
    from bokeh.plotting import figure
    from bokeh.transform import transform

    plot = figure(
        name="map",
        sizing_mode="stretch_both",
        x_range=Range1d(0, crater_map.samples),
        y_range=Range1d(crater_map.lines, 0),
        x_axis_label="x (pixels)",
        y_axis_label="y (pixels)",
        tools="pan,reset,save",
        output_backend="webgl" if len(crater_map.craters) > _MANY else "canvas",
        background_fill_color="#2b2b2b",
    )
    plot.add_tools(BoxZoomTool(match_aspect=True))
    plot.toolbar.active_scroll = WheelZoomTool(zoom_on_axis=False)
    plot.add_tools(plot.toolbar.active_scroll)
    plot.toolbar.logo = None
    plot.grid.visible = False
    plot.axis.formatter.use_scientific = False
    plot.image_url(
        [_data_uri(overview)], x=0, y=0, w=crater_map.samples, h=crater_map.lines, anchor="top_left", level="image"
    )
    rings = border(crater_map, max(crater_map.samples, crater_map.lines) / _BORDER_STEPS)
    plot.multi_line([ring[:, 0] for ring in rings], [ring[:, 1] for ring in rings], line_color=BORDER, line_width=2)
    colours = LinearColorMapper(Viridis256[round(255 * SHARE_OF_VIRIDIS) :], low=0, high=1)
    look: dict[str, Any] = {
        "line_color": transform("score", colours),
        "line_alpha": "alpha",
        "line_width": 1.75,
        "fill_color": None,
    }
    plot.circle("x", "y", radius="radius", source=sources["circles"], **look)
    # Not multi_line, which WebGL draws a hundred times slower where a browser has no graphics card.
    plot.patches("xs", "ys", source=sources["outlines"], **look)
    plot.multi_line("xs", "ys", source=sources["chosen"], line_color=CHOSEN, line_width=3.5)
    plot.add_layout(ColorBar(color_mapper=colours, title=score(crater_map).name, width=10), "right")
    for side in (plot.x_range, plot.y_range):
        side.js_on_change("start", _call("schedule"))
        side.js_on_change("end", _call("schedule"))
    plot.js_on_change("inner_width", _call("fit"))
    plot.js_on_change("inner_height", _call("fit"))
    plot.js_on_event("tap", _call("tap", "cb_obj"))
    plot.js_on_event("mousemove", _call("hover", "cb_obj"))
    plot.js_on_event("mouseleave", _call("leave"))
    return plot


def _add_scale_bar(plot: Plot, pixel: tuple[float, float]) -> Range1d:
    """Add a scale bar, which says so if it holds along x only.

    Args:
        plot: the map.
        pixel: width and height of a pixel in metres.

    Returns:
        What the map shows from left to right, in metres: the axes are in pixels.
    """
    from bokeh.models import MetricLength, Range1d, ScaleBar

    ground = Range1d(0, 1)
    lengths = MetricLength(ticks=[1, 2, 5, 10, 20, 50, 100, 200, 500])
    title = "" if abs(pixel[0] / pixel[1] - 1) < _SQUARE else "along x"
    plot.add_layout(ScaleBar(range=ground, dimensional=lengths, location="bottom_left", bar_length=0.12, title=title))
    return ground


def _data_uri(overview: npt.NDArray[np.uint8]) -> str:
    """Encode the picture for the page."""
    picture = as_image(overview)
    picture.thumbnail((_LONGEST, _LONGEST), Image.Resampling.BOX)  # never enlarges
    grey = overview.ndim == 2
    content = encode(picture.convert("L") if grey else picture, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(content).decode()


def _curve(crater_map: CraterMap, sources: Mapping[str, ColumnDataSource]) -> tuple[Plot, Span]:
    """Draw the size-frequency curve of the craters shown.

    Returns:
        The plot, and the mark at the diameter of the chosen crater.
    """
    from bokeh.models import CustomJSTickFormatter, HoverTool, Range1d, Span
    from bokeh.plotting import figure

    sizes, unit = diameters(crater_map)
    counted = crater_map.craters["counted"].to_numpy(bool)
    area = counted_km2(crater_map)
    high = poisson_interval(max(counted.sum(), 1))[1]
    plot = figure(
        name="curve",
        sizing_mode="stretch_both",
        x_axis_type="log",
        y_axis_type="log",
        x_range=Range1d(sizes.min(initial=np.inf) / 1.2, sizes.max() * 1.2) if len(sizes) else Range1d(1, 10),
        y_range=Range1d(0.15 / (area or 1), 1.3 * float(high) / (area or 1)),
        x_axis_label=f"diameter D ({'pixels' if unit == 'px' else unit})",
        y_axis_label="N(≥ D) per km²" if area else "number of craters ≥ D",
        tools="",
        toolbar_location=None,
        min_border=2,
    )
    for axis, side in ((plot.xaxis, plot.x_range), (plot.yaxis, plot.y_range)):
        axis.ticker = _ticks(side.start, side.end)
        axis.formatter = CustomJSTickFormatter(code="return String(Number(tick.toPrecision(3)))")
    plot.step("size", "value", source=sources["everything"], mode="before", line_color="#999999")
    # Not varea_step, which in bokeh 3.9 never returns from drawing nothing.
    plot.varea("size", "low", "high", source=sources["band"], color=_LINE, alpha=0.2)
    plot.segment("size", "low", "size", "high", source=sources["curve"], line_color=_LINE, line_alpha=0.25)
    plot.step("size", "value", source=sources["curve"], mode="before", line_color=_LINE, line_width=1.5)
    dots = plot.scatter("size", "value", source=sources["curve"], size=3, color=_LINE)
    tips = [("D", f"@size{{0.[000]}} {unit}"), ("N(≥ D)", "@n")]
    if area:
        tips.append(("per km²", "@value{0.000e+0} (@low{0.000e+0} to @high{0.000e+0})"))
    plot.add_tools(HoverTool(renderers=[dots], tooltips=tips, mode="vline", limit=1))
    mark = Span(dimension="height", line_color=CHOSEN, line_width=1.5)
    plot.add_layout(mark)
    plot.js_on_event("tap", _call("onCurve", "cb_obj"))
    return plot, mark


def _ticks(start: float, end: float) -> FixedTicker:
    """Choose the ticks of a logarithmic axis.

    They are at 1, 2, 5, 10 and so on, or at powers of ten if these are many.
    """
    from bokeh.models import FixedTicker

    decades = 10.0 ** np.arange(np.floor(np.log10(start)), np.ceil(np.log10(end)))
    labelled = (1, 2, 5) if len(decades) <= 3 else (1,)
    return FixedTicker(
        ticks=np.outer(decades, labelled).ravel().tolist(),
        minor_ticks=np.outer(decades, range(1, 10)).ravel().tolist(),
    )


def _filters(crater_map: CraterMap) -> tuple[Column, dict[str, Any]]:
    """Build the filters.

    Returns:
        All, and each by its name in the script.
    """
    from bokeh.layouts import column
    from bokeh.models import CustomJSTickFormatter, RadioButtonGroup, RangeSlider, Slider

    sizes, unit = diameters(crater_map)
    powers = np.log10(sizes) * 100 if len(sizes) else np.array([0.0, 100.0])
    start, end = np.floor(powers.min()) / 100, np.ceil(powers.max() + 1e-6) / 100
    size_range = RangeSlider(
        name="size_range",
        title=f"Diameter ({'pixels' if unit == 'px' else unit})",
        start=start,
        end=end,
        value=(start, end),
        step=0.01,
        format=CustomJSTickFormatter(code="return String(Number((10 ** tick).toPrecision(3)))"),
        sizing_mode="stretch_width",
    )
    name = score(crater_map).name
    at_least = Slider(
        name="at_least",
        title=f"{name.capitalize()} at least",
        start=0,
        end=1,
        value=0,
        step=0.01,
        sizing_mode="stretch_width",
    )
    style = RadioButtonGroup(
        name="style", labels=["outlines", "circles", "none"], active=0, sizing_mode="stretch_width"
    )
    for widget in (size_range, at_least):
        widget.js_on_change("value", _call("filter"))
    style.js_on_change("active", _call("schedule"))
    widgets = {"size_range": size_range, "at_least": at_least, "style": style}
    return column(size_range, at_least, style, name="filters", sizing_mode="stretch_width"), widgets
