from __future__ import annotations

from pathlib import Path

import pytest

from mars_assets.errors import DamagedFileError
from mars_assets.imagery.pds_label import read_label


def test_the_real_label(shared: Path) -> None:
    label = read_label(shared / "data" / "hirise" / "ESP_013951_1955_RED.LBL")
    assert (label.observation, label.lines, label.samples, label.bands) == ("ESP_013951_1955", 67395, 19243, 1)
    assert (label.band_names, label.wavelengths_nm) == (("RED",), (700.0,))
    assert (label.sample_bits, label.significant_bits) == (16, 10)
    assert (label.core_null, label.low_saturation, label.high_saturation) == (0, (1, 2), (1022, 1023))
    assert label.scaling_factor == 1.07543902665525e-04
    assert label.offset == 0.081203337858079
    assert label.incidence_angle == 49.990076
    assert label.map_scale == 0.5


def test_bands_of_a_colour_product(shared: Path, tmp_path: Path) -> None:
    text = (shared / "data" / "hirise" / "ESP_013951_1955_RED.LBL").read_text()
    text = text.replace("BANDS                      = 1", "BANDS = 3")
    text = text.replace('FILTER_NAME                = "RED"', 'FILTER_NAME = ("NEAR-INFRARED", "RED", "BLUE-GREEN")')
    text = text.replace("= 700 <NM>", "= (900 <NM>, 700 <NM>, 500 <NM>)")
    path = tmp_path / "x_COLOR.LBL"
    path.write_text(text)
    label = read_label(path)
    assert label.band_names == ("NEAR-INFRARED", "RED", "BLUE-GREEN")
    assert label.wavelengths_nm == (900.0, 700.0, 500.0)


@pytest.mark.parametrize("wrong", [b"", b"<html></html>", b"\x00\xff" * 99, b"PDS_VERSION_ID = PDS3\nEND", b'A = "'])
def test_what_is_no_label_is_refused(tmp_path: Path, wrong: bytes) -> None:
    path = tmp_path / "x.LBL"
    path.write_bytes(wrong)
    with pytest.raises(DamagedFileError, match=r"x\.LBL"):
        read_label(path)


def test_a_label_that_contradicts_itself_is_refused(shared: Path, tmp_path: Path) -> None:
    real = (shared / "data" / "hirise" / "ESP_013951_1955_RED.LBL").read_text()
    path = tmp_path / "x.LBL"
    for old, new in (
        ("BANDS                      = 1", "BANDS = 3"),
        ("SCALING_FACTOR             = 1.07", "SCALING_FACTOR = -1.07"),
        ("INCIDENCE_ANGLE   = 49", "INCIDENCE_ANGLE = 249"),
    ):
        assert old in real
        path.write_text(real.replace(old, new))
        with pytest.raises(DamagedFileError):
            read_label(path)
    # Cut anywhere, it is refused.
    for length in range(0, len(real) - 200, 701):
        path.write_text(real[:length])
        with pytest.raises(DamagedFileError):
            read_label(path)
