import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from mars_assets.craters.frequency import bin_edges, frequency_table, raw_numbers
from mars_assets.craters.frequency_figures import frequency_figure, rates_figure
from mars_assets.craters.rates import Rate
from mars_assets_tests.craters.counts import catalogue_of, power_law, scene


def table() -> pd.DataFrame:
    catalogue = catalogue_of(power_law(np.random.default_rng(0), 500, 100.0), [scene(smallest_m=100)])
    sizes = catalogue.craters["diameter_m"].to_numpy()
    edges = bin_edges(sizes, 1000.0)
    raw = frequency_table(sizes, edges, catalogue.area_m2, raw_numbers(sizes, edges, catalogue.area_m2))
    corrected = raw.assign(counts="labels", at_least_per_km2=np.nan, r=2 * raw["r"], r_high=3 * raw["r_high"])
    return pd.concat([raw.assign(counts="raw"), corrected], ignore_index=True)


def points(axis: Axes, label: str) -> np.ndarray:
    (found,) = (bars for bars in axis.containers if bars.get_label() == label)
    return np.asarray(found[0].get_xydata())


def test_the_four_presentations_show_the_table() -> None:
    rows = table()
    cumulative, differential, relative, hartmann = frequency_figure(rows, None).axes
    raw = rows[(rows["counts"] == "raw") & ~rows["partial"]]
    middle = np.sqrt(raw["diameter_from_m"] * raw["diameter_to_m"])
    some = raw["craters"] > 0
    for axis, column, at in (
        (cumulative, "at_least_per_km2", raw["diameter_from_m"]),
        (differential, "per_km2_km", middle[some]),
        (relative, "r", middle[some]),
        (hartmann, "per_km2", middle[some]),
    ):
        shown = points(axis, "as counted")
        assert shown[:, 0] == pytest.approx(at.to_numpy())
        assert shown[:, 1] == pytest.approx(raw.loc[at.index, column].to_numpy())
    assert points(relative, "corrected (labels)")[:, 1] == pytest.approx(2 * points(relative, "as counted")[:, 1])
    assert len(points(relative, "bin listed in part")) == 1
    assert not [bars for bars in cumulative.containers if bars.get_label() == "corrected (labels)"], "all are missing"
    looks = {bars.get_label(): bars[0].get_fillstyle() for bars in relative.containers}
    assert looks == {"as counted": "full", "bin listed in part": "full", "corrected (labels)": "none"}


def test_what_is_not_complete_is_shaded() -> None:
    for axis in frequency_figure(table(), 250.0).axes:
        (shade,) = (patch for patch in axis.patches if isinstance(patch, Rectangle))
        assert shade.get_x() + shade.get_width() == pytest.approx(250)
        assert shade.get_x() == pytest.approx(axis.get_xlim()[0])
    assert not frequency_figure(table(), None).axes[0].patches
    assert not frequency_figure(table(), 10.0).axes[0].patches


def test_rates_are_drawn_at_their_trials() -> None:
    rates = {
        name: Rate(np.array([8.0, 16, 40]), np.array([11.0, 25]), np.array([30, 40]), np.array(found))
        for name, found in (("injection", [15, 40]), ("precision", [27, 36]))
    }
    (axis,) = rates_figure(pd.concat([rate.table().assign(rate_of=name) for name, rate in rates.items()])).axes
    assert points(axis, "precision").tolist() == [pytest.approx([11, 0.9]), pytest.approx([25, 0.9])]
    assert points(axis, "completeness by injection")[:, 1].tolist() == [0.5, 1]
    assert axis.get_xscale() == "log"
    assert axis.get_yscale() == "linear"
