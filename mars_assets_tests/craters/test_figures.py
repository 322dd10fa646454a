from dataclasses import replace

import numpy as np
import pytest
from PIL import ImageColor
from shapely.geometry import MultiPolygon, box

from mars_assets.craters.figures import (
    BORDER,
    counts_by_size,
    overview_picture,
    size_frequency_figure,
    viridis,
)
from mars_assets.plotting import as_image
from mars_assets_tests.craters.maps import METRES, random_map


def test_bins_hold_the_counted_craters_of_their_size() -> None:
    crater_map = random_map(500)
    craters = crater_map.craters[crater_map.craters["counted"]]
    assert len(craters) < 500
    bins = counts_by_size(crater_map)
    assert bins["craters"].sum() == len(craters)
    area = crater_map.counted.area * METRES**2 / 1e6
    for row in bins.itertuples():
        size = craters["diameter_m"]
        assert row.craters == ((size >= row.diameter_from) & (size < row.diameter_to)).sum()
        assert row.at_least == (size >= row.diameter_from).sum()
        assert row.per_km2 == pytest.approx(row.at_least / area)
        assert row.per_km2_low < row.per_km2 < row.per_km2_high
        assert row.partial == (row.diameter_from < 8 * METRES)
    assert np.allclose(bins["diameter_to"] / bins["diameter_from"], np.sqrt(2))
    assert set(bins["unit"]) == {"m"}


def test_a_border_between_bins_is_at_one_kilometre() -> None:
    crater_map = random_map(2)
    craters = crater_map.craters.assign(diameter_m=[1000.0, 999.0], counted=True)
    bins = counts_by_size(replace(crater_map, craters=craters))
    assert bins["diameter_from"].tolist() == pytest.approx([1000 / np.sqrt(2), 1000])
    assert bins["craters"].tolist() == [1, 1]


def test_large_craters_are_in_kilometres() -> None:
    crater_map = random_map(2)
    bins = counts_by_size(replace(crater_map, craters=crater_map.craters.assign(diameter_m=[16_000.0, 8_000.0])))
    assert set(bins["unit"]) == {"km"}
    assert bins["diameter_from"].tolist() == pytest.approx([8, 8 * np.sqrt(2), 16])


def test_pixels_are_counted_without_a_projection() -> None:
    bins = counts_by_size(random_map(50, projected=False))
    assert set(bins["unit"]) == {"px"}
    assert bins["diameter_from"].iloc[0] == 8
    assert not bins["partial"].any()
    assert bins["per_km2"].isna().all()
    assert (bins["at_least_low"] < bins["at_least"]).all()


def test_no_crater_is_a_table_without_rows() -> None:
    bins = counts_by_size(random_map(0))
    assert len(bins) == 0
    assert list(bins) == list(counts_by_size(random_map(5)))


def test_the_plots_show_the_numbers_of_the_table() -> None:
    crater_map = random_map(300)
    cumulative, relative = size_frequency_figure(crater_map).axes
    (line,) = cumulative.lines
    bins = counts_by_size(crater_map)
    for row in bins.itertuples():
        last = np.interp(row.diameter_from, line.get_xdata(), np.arange(len(line.get_xdata())), left=0)
        assert line.get_ydata()[int(np.ceil(last))] == pytest.approx(row.per_km2)
    points = np.concatenate([container.lines[0].get_xydata() for container in relative.containers])
    row = bins.iloc[2]
    low, high = row["diameter_from"] / 1000, row["diameter_to"] / 1000
    area = crater_map.counted_m2 / 1e6
    expected = np.sqrt(low * high) ** 3 * row["craters"] / (area * (high - low))
    assert points[np.argmin(np.abs(points[:, 0] - 1000 * np.sqrt(low * high))), 1] == pytest.approx(expected)
    assert relative.get_legend() is not None, "the first bin is partial"


@pytest.mark.parametrize("count", [0, 1, 40])
@pytest.mark.parametrize("projected", [True, False])
def test_plots_of_few_craters_are_drawn(count: int, projected: bool) -> None:
    crater_map = random_map(count, projected=projected)
    assert as_image(size_frequency_figure(crater_map), dpi=50).width == 500
    nothing = replace(crater_map, counted=MultiPolygon(), counted_m2=0.0 if projected else None)
    nothing = replace(nothing, craters=crater_map.craters.assign(counted=False))
    assert as_image(size_frequency_figure(nothing), dpi=50).width == 500


@pytest.mark.parametrize(("count", "calibrated"), [(3, True), (3, False), (30_000, True)])
def test_circles_have_the_colour_of_their_probability(count: int, calibrated: bool) -> None:
    crater_map = random_map(count, calibrated=calibrated)
    craters = crater_map.craters.copy()
    craters.loc[0, ["x_px", "y_px", "diameter_px"]] = [1000, 1500, 600]
    craters.loc[0, "probability" if calibrated else "confidence"] = 1.0
    picture = as_image(overview_picture(replace(crater_map, craters=craters), np.full((750, 500), 90, np.uint8)))
    pixels = np.asarray(picture).astype(int)
    assert picture.width == 667
    assert picture.height > 1000
    right = pixels[500, 430:437]  # (1000 + 300) / 3
    assert np.abs(right - viridis(1.0)).sum(axis=1).min() < 60
    below = np.abs(pixels[900, :600] - ImageColor.getrgb(BORDER)).sum(axis=1)
    assert np.median(below) < 60, "the lower border of the counted area"


@pytest.mark.parametrize(
    ("shape", "raster", "width"),
    [((400, 300, 3), (4000, 3000), 750), ((5000, 50), (50_000, 500), 560), ((3000, 4000), (3000, 4000), 2000)],
)
def test_pictures_have_a_size_for_a_screen(shape: tuple[int, ...], raster: tuple[int, int], width: int) -> None:
    crater_map = replace(random_map(0), lines=raster[0], samples=raster[1], counted=MultiPolygon([box(0, 0, 50, 50)]))
    picture = as_image(overview_picture(crater_map, np.zeros(shape, np.uint8)))
    assert picture.width == width
    assert picture.height <= 2060
