from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mars_assets.craters.formats.robbins import write_robbins_csv
from mars_assets_tests.craters.formats.scenes import PROJECTIONS, random_map, transform_at

THEIRS = [
    "CRATER_ID",
    "LATITUDE_CIRCLE_IMAGE",
    "LONGITUDE_CIRCLE_IMAGE",
    "DIAM_CIRCLE_IMAGE",
    "DIAM_ELLIPSE_MAJOR_IMAGE",
    "DIAM_ELLIPSE_MINOR_IMAGE",
    "DIAM_ELLIPSE_ECCEN_IMAGE",
    "DIAM_ELLIPSE_ELLIP_IMAGE",
    "DIAM_ELLIPSE_ANGLE_IMAGE",
]
OURS = [
    "x_px",
    "y_px",
    "diameter_px",
    "diameter_iau_m",
    "roundness",
    "rim_coverage",
    "confidence",
    "probability",
    "counted",
    "counted_share",
    "cut",
    "scale",
    "detections",
]


@pytest.mark.parametrize("name", ["across 0", "across 180"])
def test_their_columns_in_their_units(tmp_path: Path, name: str) -> None:
    crs, place = PROJECTIONS[name]
    crater_map = random_map(crs, transform_at(crs, place))
    write_robbins_csv(tmp_path / "craters.csv", crater_map)
    table, craters = pd.read_csv(tmp_path / "craters.csv"), crater_map.craters
    assert [*table.columns] == THEIRS + OURS
    assert table["CRATER_ID"].tolist() == craters["crater_id"].tolist()
    longitude = table["LONGITUDE_CIRCLE_IMAGE"]
    assert longitude.between(-180, 180).all()
    assert longitude.min() < 0 < longitude.max()
    np.testing.assert_allclose((longitude - craters["longitude"] + 180) % 360, 180, atol=1e-9)
    np.testing.assert_allclose(table["DIAM_CIRCLE_IMAGE"], craters["diameter_m"] / 1000)
    major, minor = table["DIAM_ELLIPSE_MAJOR_IMAGE"], table["DIAM_ELLIPSE_MINOR_IMAGE"]
    np.testing.assert_allclose(minor / major, craters["axis_ratio"])
    np.testing.assert_allclose(major * minor, table["DIAM_CIRCLE_IMAGE"] ** 2)
    np.testing.assert_allclose(table["DIAM_ELLIPSE_ELLIP_IMAGE"], major / minor)
    np.testing.assert_allclose(table["DIAM_ELLIPSE_ECCEN_IMAGE"] ** 2, 1 - (minor / major) ** 2, atol=1e-12)
    pd.testing.assert_frame_equal(table[OURS], craters[OURS], check_dtype=False)


def test_without_a_projection_there_are_pixels_only(tmp_path: Path) -> None:
    crater_map = random_map(None, None)
    write_robbins_csv(tmp_path / "craters.csv", crater_map)
    table = pd.read_csv(tmp_path / "craters.csv")
    assert table[[*THEIRS[1:6], "diameter_iau_m"]].isna().all(axis=None)
    assert table[[*THEIRS[6:], "x_px", "y_px", "diameter_px"]].notna().all(axis=None)
