from __future__ import annotations

import re
from contextlib import suppress
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


@pytest.fixture
def real(shared: Path) -> str:
    return (shared / "data" / "hirise" / "ESP_013951_1955_RED.LBL").read_text()


def changed(path: Path, text: str, old: str, new: str) -> Path:
    assert old in text, old
    path.write_bytes(text.replace(old, new).encode("latin-1"))
    return path


@pytest.mark.parametrize(
    ("stated", "metres"),
    [
        ("0.0005 <KM/PIXEL>", 0.5),
        ("5.0E-04 <KILOMETERS/PIXEL>", 0.5),
        ("50 <CM/PIX>", 0.5),
        ("0.25 <m/pixel>", 0.25),
        ("1.0 <METERS/PIXEL>", 1.0),
        ("0.25 <metres/px>", 0.25),
        ("0.5 <METERS PER PIXEL>", 0.5),
        ("0.5 <M>", 0.5),
        ("0.5", 0.5),
        ("N/A", None),
        ('"UNK"', None),
    ],
)
def test_units_of_the_map_scale(real: str, tmp_path: Path, stated: str, metres: float | None) -> None:
    path = changed(tmp_path / "x.LBL", real, "= 0.5 <METERS/PIXEL>", f"= {stated}")
    assert read_label(path).map_scale == pytest.approx(metres)


@pytest.mark.parametrize(
    ("old", "new", "field", "value"),
    [
        ("= 49.990076 <DEG>", "= 0.872491 <RAD>", "incidence_angle", 49.9900),
        ("= 49.990076 <DEG>", "= 49.990076 <degrees>", "incidence_angle", 49.990076),
        ("= 700 <NM>", "= 0.7 <MICROMETERS>", "wavelengths_nm", (700,)),
        ("= 700 <NM>", "= 7000 <ANGSTROM>", "wavelengths_nm", (700,)),
        ("= 700 <NM>", "= (700) <NM>", "wavelengths_nm", (700,)),
        ("= 700 <NM>", '= "N/A"', "wavelengths_nm", ()),
        ("= 3394.8398133163 <KM>", "= 3394839.8133163 <M>", "radius_km", 3394.8398133163),
        ("LINES                      = 67395", "LINES = 67395 <LINES>", "lines", 67395),
    ],
)
def test_units_of_other_quantities(
    real: str, tmp_path: Path, old: str, new: str, field: str, value: float | tuple[float, ...]
) -> None:
    read = getattr(read_label(changed(tmp_path / "x.LBL", real, old, new)), field)
    assert read == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("= 0.5 <METERS/PIXEL>", "= 0.5 <FURLONGS/PIXEL>", "MAP_SCALE is stated in 'FURLONGS/PIXEL'"),
        ("= 0.5 <METERS/PIXEL>", "= 0.5 <DEG/PIXEL>", "MAP_SCALE is stated in 'DEG/PIXEL'"),
        ("= 0.5 <METERS/PIXEL>", "= 118502.2 <PIX/DEG>", "MAP_SCALE is stated in 'PIX/DEG'"),
        ("= 49.990076 <DEG>", "= 49.990076 <GRAD>", "INCIDENCE_ANGLE is stated in 'GRAD'"),
        ("= 49.990076 <DEG>", '= "UNK"', "INCIDENCE_ANGLE is 'UNK', not a number"),
        ("= 700 <NM>", "= 700 <THZ>", "CENTER_FILTER_WAVELENGTH is stated in 'THZ'"),
        (
            "SCALING_FACTOR             = 1.07543902665525e-04",
            "SCALING_FACTOR = 1.0 <W/M2>",
            "SCALING_FACTOR is stated",
        ),
        ("= 180.000 <DEG>", "= 3.14159 <RAD>", "CENTER_LONGITUDE is stated in 'RAD'"),
        ("= 1872006.5 <PIXEL>", "= 936003.25 <METERS>", "LINE_PROJECTION_OFFSET is stated in 'METERS'"),
    ],
)
def test_unknown_units_are_refused(real: str, tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(DamagedFileError, match=said) as error:
        read_label(changed(tmp_path / "x.LBL", real, old, new))
    assert "x.LBL" in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("= 0.5 <METERS/PIXEL>", "= 0.0005", "map scale in metres per pixel is 0.0005"),
        ("= 0.5 <METERS/PIXEL>", "= 0.5 <KM/PIXEL>", "map scale in metres per pixel is 500"),
        ("= 0.5 <METERS/PIXEL>", "= -0.5 <METERS/PIXEL>", "map scale in metres per pixel is -0.5"),
        ("= 3394.8398133163 <KM>", "= 3394839.8133163", "radius of the planet in km is 3.39484e+06"),
        ("= 3394.8398133163 <KM>", "= 3.3948398133163 <KM>", "radius of the planet in km is 3.39484"),
    ],
)
def test_a_missing_or_wrong_unit_is_noticed(real: str, tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(DamagedFileError, match=re.escape(said)) as error:
        read_label(changed(tmp_path / "x.LBL", real, old, new))
    assert "Correct the number or its unit" in str(error.value)


@pytest.mark.parametrize("tail", ["\x1a", "\r\n\x1a", "\0" * 512, "\r\n\0\0\x1a\r\n", "   \r\n"])
def test_what_old_systems_write_after_the_end(real: str, tmp_path: Path, tail: str) -> None:
    path = tmp_path / "x.LBL"
    path.write_bytes(real.rstrip().encode("latin-1") + tail.encode())
    assert read_label(path).observation == "ESP_013951_1955"
    path.write_bytes(b"\xef\xbb\xbf" + real.encode("latin-1"))
    assert read_label(path).observation == "ESP_013951_1955"


def test_nul_bytes_within_a_label_are_named(real: str, tmp_path: Path) -> None:
    line = real[: real.index("VIEWING_PARAMETERS")].count("\n") + 1
    path = changed(tmp_path / "x.LBL", real, "VIEWING_PARAMETERS", "\0" * 18)
    with pytest.raises(DamagedFileError, match=f"line {line} contains NUL bytes"):
        read_label(path)


def test_a_bare_quote_anywhere_is_refused(real: str, tmp_path: Path) -> None:
    path = tmp_path / "x.LBL"
    lines = real.splitlines(keepends=True)
    for number in range(0, len(lines), 5):
        for place in (len(lines[number]) // 2, len(lines[number].rstrip())):
            line = lines[number][:place] + '"' + lines[number][place:]
            path.write_text("".join([*lines[:number], line, *lines[number + 1 :]]))
            with suppress(DamagedFileError):  # it may be harmless, as in a comment
                read_label(path)


def test_the_line_of_a_bare_quote_is_named(real: str, tmp_path: Path) -> None:
    path = changed(tmp_path / "x.LBL", real, 'RATIONALE_DESC            = "', 'RATIONALE_DESC = ""')
    line = real[: real.index("RATIONALE_DESC")].count("\n") + 1
    with pytest.raises(DamagedFileError, match=rf"near line {line}: a quotation mark has no partner") as error:
        read_label(path)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("after", ["LINES ", "BANDS ", "END_OBJECT = IMAGE_MAP_PROJECTION", "A_AXIS_RADIUS "])
def test_a_second_equals_sign_ends_in_a_refusal(real: str, tmp_path: Path, after: str) -> None:
    """The parser would try for ever to read it."""
    end = real.index("\n", real.index(after))
    path = tmp_path / "x.LBL"
    path.write_text(f"{real[:end]}\n= NEXT{real[end:]}")
    with pytest.raises(DamagedFileError, match=r"x\.LBL.*near line \d+"):
        read_label(path)


def test_an_empty_assignment_is_still_repaired(real: str, tmp_path: Path) -> None:
    path = changed(tmp_path / "x.LBL", real, 'RATIONALE_DESC            = "', 'NOTHING = \nRATIONALE_DESC = "')
    assert read_label(path).observation == "ESP_013951_1955"


@pytest.mark.parametrize(
    "line",
    [
        *("CORE_NULL = 1e400", "SCALING_FACTOR = 1e400", "OFFSET = -1e400", "LINES = 1e400", "LINES = " + "9" * 400),
        *("MAP_SCALE = 1e400", "A_AXIS_RADIUS = 1e400 <KM>", "SAMPLE_BIT_MASK = 1e400"),
        *("OFFSET = 1e308 <KM>", "BANDS = " + "(" * 5000),
    ],
)
def test_numbers_without_end_are_refused(real: str, tmp_path: Path, line: str) -> None:
    old = next(part for part in real.splitlines() if part.split("=")[0].strip() == line.split(" = ")[0])
    with pytest.raises(DamagedFileError, match=r"x\.LBL") as error:
        read_label(changed(tmp_path / "x.LBL", real, old, line))
    assert len(str(error.value)) < 600
