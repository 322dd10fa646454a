"""Overview, size-frequency plots and counts by size of one scene's craters.

Craters are counted if their centre is inside the counted area. Those outside are drawn in overviews alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from mars_assets.craters.crater_map import CraterMap
from mars_assets.craters.frequency import bin_edges, bin_numbers, relative
from mars_assets.evaluation.counts import poisson_interval
from mars_assets.plotting import as_image, make_logarithmic, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mars_assets.plotting import Picture

Float64 = npt.NDArray[np.float64]
Unit = Literal["m", "km", "px"]

BORDER = "#CC79A7"
"""Okabe and Ito's reddish purple for the border of the counted area, which viridis does not contain."""
SHARE_OF_VIRIDIS = 0.15
"""Where the colours of craters begin in viridis, whose darkest ones vanish on dark ground."""

_KILOMETRES_FROM = 10_000.0
"""Diameter in metres of the largest crater from which kilometres are the better unit."""
_SIDES = (1000, 2000)
"""Shortest and longest length of an overview's longer side in pixels."""
_FINE = 2
"""Factor by which overviews are drawn too large, for smooth circles."""
_STRIP = 46
"""Height of an overview's legend in pixels."""
_LEGEND_WIDTH = 560


class Diameters(NamedTuple):
    """The diameters of a scene's craters, and their unit."""

    values: Float64
    unit: Unit


class Score(NamedTuple):
    """How sure the model is of each crater, and the column that says so."""

    values: Float64
    name: Literal["probability", "confidence"]


def diameters(crater_map: CraterMap) -> Diameters:
    """Choose the diameters to show.

    They are along the ground if all are known, otherwise in pixels.
    """
    craters = crater_map.craters
    ground = craters["diameter_m"].to_numpy(np.float64)
    if crater_map.crs is None or np.isnan(ground).any():
        return Diameters(craters["diameter_px"].to_numpy(np.float64), "px")
    if ground.max(initial=0) >= _KILOMETRES_FROM:
        return Diameters(ground / 1000, "km")
    return Diameters(ground, "m")


def score(crater_map: CraterMap) -> Score:
    """Choose the calibrated probability.

    It is the confidence if the model is not calibrated.
    """
    probability = crater_map.craters["probability"].to_numpy(np.float64)
    if np.isnan(probability).any() or not len(probability):
        return Score(crater_map.craters["confidence"].to_numpy(np.float64), "confidence")
    return Score(probability, "probability")


def counted_km2(crater_map: CraterMap) -> float | None:
    """Compute the counted area in square kilometres.

    None if it is empty, or if sizes on the ground are unknown.
    """
    if diameters(crater_map).unit == "px" or not crater_map.counted_m2:
        return None
    return crater_map.counted_m2 / 1e6


def counts_by_size(crater_map: CraterMap) -> pd.DataFrame:
    """Count the craters of each size.

    Sizes are bins from d to sqrt(2) d with a border at 1 km, or at 1 pixel if sizes on the ground are unknown.

    Returns:
        A row for each bin from the smallest crater to the largest: ``diameter_from``, ``diameter_to``, ``unit`` (m, km
        or px), ``craters``, ``sqrt_n``, ``partial`` (whether craters are listed from within the bin only, so that its
        number is too low), ``at_least`` (craters of at least ``diameter_from``) and ``per_km2`` (the same by area;
        missing if that is unknown), both with the ends ``_low`` and ``_high`` of their exact 68 % Poisson interval.
    """
    sizes, unit = diameters(crater_map)
    counted = sizes[crater_map.craters["counted"].to_numpy(bool)]
    edges = bin_edges(counted, 1000.0 if unit == "m" else 1.0)
    numbers = np.bincount(bin_numbers(counted, edges), minlength=len(edges) - 1)
    at_least = numbers[::-1].cumsum()[::-1]
    low, high = poisson_interval(at_least)
    area = counted_km2(crater_map) or np.nan
    return pd.DataFrame(
        {
            "diameter_from": edges[:-1],
            "diameter_to": edges[1:],
            "unit": unit,
            "craters": numbers,
            "sqrt_n": np.sqrt(numbers),
            "partial": edges[:-1] < _smallest(crater_map, sizes),
            "at_least": at_least,
            "at_least_low": low,
            "at_least_high": high,
            "per_km2": at_least / area,
            "per_km2_low": low / area,
            "per_km2_high": high / area,
        }
    )


def _smallest(crater_map: CraterMap, sizes: Float64) -> float:
    """Compute the diameter from which craters are listed everywhere.

    It is in the unit of ``sizes``. Pixels need not have the same size in the whole scene.
    """
    in_pixels = crater_map.craters["diameter_px"].to_numpy(np.float64)
    return crater_map.smallest_px * float((sizes / in_pixels).max(initial=0))


def size_frequency_figure(crater_map: CraterMap) -> Figure:
    """Plot cumulative numbers and relative ones (R plot) against diameter.

    Both are by area if it is known.
    """
    figure, axes = new_figure(10, 4.2, columns=2)
    sizes, unit = diameters(crater_map)
    counted = np.sort(sizes[crater_map.craters["counted"].to_numpy(bool)])
    area = counted_km2(crater_map)
    _draw_cumulative(axes[0, 0], counted, area)
    _draw_relative(axes[0, 1], counts_by_size(crater_map), crater_map.counted.area if unit == "px" else area)
    for axis in (axes[0, 0], axes[0, 1]):
        axis.set_xlabel(f"diameter D ({'pixels' if unit == 'px' else unit})")
        axis.grid(alpha=0.25, which="both")
    where = f"{area:.4g} km²" if area else f"{crater_map.counted.area:,.0f} square pixels"
    figure.suptitle(f"{len(counted):,} craters with their centre in the counted area ({where}); 68 % Poisson intervals")
    return figure


def _draw_cumulative(axis: Axes, sizes: Float64, area: float | None) -> None:
    axis.set_ylabel("craters of at least D per km²" if area else "craters of at least D")
    if not len(sizes):
        say_none(axis)
        return
    numbers = np.arange(len(sizes), 0, -1)
    low, high = (end / (area or 1) for end in poisson_interval(numbers))
    axis.fill_between(sizes, low, high, step="pre", alpha=0.25, linewidth=0)
    axis.step(sizes, numbers / (area or 1), where="pre", marker="." if len(sizes) < 100 else "")
    make_logarithmic(axis)


def _draw_relative(axis: Axes, bins: pd.DataFrame, area: float | None) -> None:
    """Draw the R plot.

    Args:
        axis: where to draw.
        bins: from :func:`counts_by_size`. A partial bin is hollow.
        area: in square kilometres, or in square pixels if the bins are in pixels.
    """
    axis.set_ylabel("R")
    bins = bins[bins["craters"] > 0]
    if bins.empty or not area:
        say_none(axis)
        return
    to_km = np.where(bins["unit"] == "m", 1e-3, 1.0)
    start, end = bins["diameter_from"] * to_km, bins["diameter_to"] * to_km
    per_crater = relative(start, end) / area
    numbers = bins["craters"].to_numpy()
    values = per_crater * numbers
    low, high = (per_crater * side for side in poisson_interval(numbers))
    middle = (bins["diameter_from"] * bins["diameter_to"]).to_numpy() ** 0.5
    for partial in (False, True):
        some = bins["partial"].to_numpy(bool) == partial
        if some.any():
            errors = np.stack([values - low, high - values])[:, some]
            axis.errorbar(
                middle[some],
                values[some],
                errors,
                fmt="o",
                color="C0",
                fillstyle="none" if partial else "full",
                label="bin listed in part" if partial else None,
            )
    if bins["partial"].any():
        axis.legend()
    make_logarithmic(axis)


def say_none(axis: Axes) -> None:
    """Write into an empty plot that there are no craters."""
    axis.text(0.5, 0.5, "no craters counted", ha="center", va="center", transform=axis.transAxes, color="0.4")


def overview_picture(crater_map: CraterMap, overview: npt.NDArray[np.uint8]) -> Picture:
    """Draw the craters over the whole scene, with a legend.

    Circles are coloured by probability, or by confidence if the model is not calibrated. They are the thinner the more
    there are, and none is so small that it cannot be seen.

    Args:
        crater_map: the craters.
        overview: the scene at any reduction, shape (H, W) or (H, W, 3).

    Returns:
        A picture whose longer side has at most 2000 pixels without the legend.
    """
    image = as_image(overview)
    longest = max(crater_map.samples, crater_map.lines)
    factor = float(np.clip(max(image.size), *_SIDES)) / longest
    size = (max(1, round(crater_map.samples * factor)), max(1, round(crater_map.lines * factor)))
    image = image.resize((size[0] * _FINE, size[1] * _FINE), Image.Resampling.BICUBIC)
    scale = factor * _FINE
    draw = ImageDraw.Draw(image)
    _draw_circles(draw, crater_map, scale)
    for ring in border(crater_map, 0.5 / scale):
        draw.line([*map(tuple, ring * scale)], fill=BORDER, width=2 * _FINE, joint="curve")
    return _with_legend(image.resize(size, Image.Resampling.BOX), crater_map)


def border(crater_map: CraterMap, tolerance: float) -> list[Float64]:
    """List the rings around the counted area.

    Args:
        crater_map: the craters.
        tolerance: of their simplification, in pixels of the raster.
    """
    import shapely

    rings = shapely.get_parts(crater_map.counted.boundary)
    return [shapely.get_coordinates(ring) for ring in shapely.simplify(rings, tolerance)]


def _draw_circles(draw: ImageDraw.ImageDraw, crater_map: CraterMap, scale: float) -> None:
    """Draw the craters, the surest last."""
    craters, values = crater_map.craters, score(crater_map).values
    width = _FINE * (3 if len(craters) <= 100 else 2 if len(craters) <= 2000 else 1)
    colours = viridis(values)
    order = np.argsort(values, kind="stable")
    centres = craters[["x_px", "y_px"]].to_numpy(np.float64) * scale
    radii = np.maximum(craters["diameter_px"].to_numpy(np.float64) * scale / 2, 2 * _FINE) + width / 2
    for (x, y), radius, colour in zip(centres[order], radii[order], colours[order], strict=True):
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], outline=tuple(colour), width=width)


def viridis(values: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Convert values from 0 to 1 to the colours of craters, RGB from 0 to 255."""
    from matplotlib import colormaps

    place = SHARE_OF_VIRIDIS + (1 - SHARE_OF_VIRIDIS) * np.asarray(values, np.float64)
    return (np.asarray(colormaps["viridis"](place))[..., :3] * 255).round().astype(np.int64)


def _with_legend(picture: Image.Image, crater_map: CraterMap) -> Image.Image:
    """Put the colours of circles and border below a picture."""
    result = Image.new("RGB", (max(picture.width, _LEGEND_WIDTH), picture.height + _STRIP), "white")
    result.paste(picture, (0, 0))
    draw, font = ImageDraw.Draw(result), ImageFont.load_default(15)
    top, bar = picture.height + 8, 200
    result.paste(Image.fromarray(np.tile(viridis(np.linspace(0, 1, bar)).astype(np.uint8), (12, 1, 1))), (10, top))
    for place, text, anchor in ((10, "0", "lt"), (10 + bar // 2, score(crater_map).name, "mt"), (10 + bar, "1", "rt")):
        draw.text((place, top + 16), text, fill="black", font=font, anchor=anchor)
    draw.line([250, top + 6, 280, top + 6], fill=BORDER, width=3)
    draw.text((288, top + 6), "counted area", fill="black", font=font, anchor="lm")
    draw.text((400, top + 6), f"{len(crater_map.craters):,} craters", fill="black", font=font, anchor="lm")
    return result
