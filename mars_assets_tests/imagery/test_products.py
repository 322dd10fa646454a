from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars_assets.errors import MarsError
from mars_assets.imagery.products import (
    PHASES,
    ObservationId,
    observation_of,
    parse_observation_id,
    product_files,
    read_observations_csv,
    unused_ids,
)
from mars_assets.labels.class_names import read_class_names


def test_addresses_are_those_of_the_archive(shared: Path) -> None:
    base = "https://hirise-pds.lpl.arizona.edu/PDS/"
    real = pd.read_csv(shared / "data" / "hirise" / "color_products.csv")
    assert len(real) == 2000
    for image, label in zip(real["IMG_URL"], real["LABEL_URL"], strict=True):
        observation = observation_of(image.rsplit("/", 1)[-1])
        assert observation is not None
        files = product_files(observation, "COLOR")
        assert (base + files.image, base + str(files.label)) == (image, label)


def test_extras_have_no_label() -> None:
    folder = "EXTRAS/RDR/ESP/ORB_011400_011499/ESP_011472_1225"
    browse = product_files("ESP_011472_1225", "RGB.NOMAP.browse")
    assert browse.image == f"{folder}/ESP_011472_1225_RGB.NOMAP.browse.jpg"
    assert browse.label is None
    assert product_files("ESP_011472_1225", "RGB.NOMAP").image == f"{folder}/ESP_011472_1225_RGB.NOMAP.JP2"


@given(st.sampled_from(PHASES), st.integers(0, 999_999), st.integers(0, 3599))
def test_ids_survive_writing_and_reading(phase: str, orbit: int, target: int) -> None:
    observation = ObservationId(phase, orbit, target)
    assert parse_observation_id(str(observation)) == observation
    assert observation_of(f"{observation}_RED-0029_jpg.rf.0a1b.jpg") == str(observation)


@pytest.mark.parametrize(
    "hostile",
    [
        "",
        "ESP_011472_1225/../../../etc/passwd",
        "../ESP_011472_1225",
        "ESP_011472_1225\n",
        " ESP_011472_1225",
        "ESP_011472_1225\x00",
        "esp_011472_1225",
        "XYZ_011472_1225",
        "ESP_11472_1225",
        "ESP_011472_12250",
        "ESP_011472_9010",
        "ESP_٠١١٤٧٢_1225",
        "ESP_011472_1225_RED",
        "https://elsewhere.example/ESP_011472_1225",
    ],
)
def test_what_is_no_id_is_refused(hostile: str) -> None:
    with pytest.raises(MarsError):
        parse_observation_id(hostile)
    with pytest.raises(MarsError):
        product_files(hostile, "RED")


def test_names_of_other_images_have_no_observation() -> None:
    for name in (
        "ctx_0001.jpg",
        "ESP_011472.jpg",
        "ESP_011472_12250.jpg",
        "XESP_011472_1225.jpg",
        "\u00e9esp_011472_1225.jpg",
        "3ESP_011472_1225.jpg",
        "ESP_11472_1225.jpg",
        "ESP_0011472_1225.jpg",
        "esp_011472_122.jpg",
        "mars_ESP_011472_9010.jpg",
        "apr_202304_1200.jpg",
        "scan cal-123456-0001.png",
        "ESP_\u0660\u0661\u0661\u0664\u0667\u0662_1225.jpg",
    ):
        assert observation_of(name) is None, name


@given(
    st.sampled_from(["PSP", "ESP", "TRA", "AEB"]),
    st.integers(0, 999_999),
    st.integers(0, 3599),
    st.sampled_from(["", "mars_", "Mars tile 7 ", "hirise-", "(1) ", "0_"]),
    st.sampled_from(["_", "-", " ", "__", " - ", "."]),
    st.sampled_from([str.upper, str.lower, str.title]),
)
def test_ids_are_found_as_people_write_them(phase, orbit, target, prefix, separator, case) -> None:
    observation = str(ObservationId(phase, orbit, target))
    name = f"{prefix}{case(observation.replace('_', separator))}"
    for rest in ("", ".png", "_red-0000_jpg.rf.0a1b.jpg", " copy.jpg"):
        assert observation_of(name + rest) == observation
        assert unused_ids(name + rest) == []


def test_ids_that_are_not_used_are_named() -> None:
    assert observation_of("ESP_011472_1225_PSP_001333_2485.png") == "ESP_011472_1225"
    assert unused_ids("ESP_011472_1225_PSP_001333_2485.png") == ["PSP_001333_2485"]
    for name in ("ESP_11472_1225", "marsESP_011472_1225", "esp0114721225", "ESP_011472_12250", "ESP-011472_122"):
        assert observation_of(name) is None
        assert len(unused_ids(f"{name}.png")) == 1, name
    for name in ("tile_7.png", "crater_20230412_1530.png", "extra_012345_678.png", "espresso.png"):
        assert unused_ids(name) == []


def test_observations_csv(tmp_path: Path) -> None:
    path = tmp_path / "observations.csv"
    path.write_text('\ufeffid,product,note\nESP_011472_1225,,"a, b"\n\n PSP_001333_2485 ,COLOR,\n', encoding="utf-8")
    table = read_observations_csv(path)
    assert table.to_dict("records") == [
        {"observation": "ESP_011472_1225", "product": "RGB.NOMAP.browse", "note": "a, b"},
        {"observation": "PSP_001333_2485", "product": "COLOR", "note": ""},
    ]
    path.write_text("id\nESP_011472_1225\n")
    assert read_observations_csv(path)["product"].tolist() == ["RGB.NOMAP.browse"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_spreadsheets_write_other_separators(tmp_path: Path, separator: str, end: str) -> None:
    lines = [
        ["ID", "product ", "Note"],
        ["ESP_011472_1225", "RED", f'"a{separator} ""b"""'],
        ["", "", ""],
        ["PSP_001333_2485", "", "c, d" if separator != "," else '"c, d"'],
        ["PSP_001334_2485"],
    ]
    path = tmp_path / "observations.csv"
    path.write_bytes(end.join(map(separator.join, lines)).encode("utf-8-sig"))
    table = read_observations_csv(path)
    assert table["observation"].tolist() == ["ESP_011472_1225", "PSP_001333_2485", "PSP_001334_2485"]
    assert table["product"].tolist() == ["RED", "RGB.NOMAP.browse", "RGB.NOMAP.browse"]
    assert table["note"].tolist() == [f'a{separator} "b"', "c, d", ""]
    path.write_bytes(path.read_bytes().replace(b"PSP_001333", b"PSP_1333"))
    with pytest.raises(MarsError, match=r"line 4: 'PSP_1333_2485'"):
        read_observations_csv(path)


def test_blank_columns_of_a_spreadsheet(tmp_path: Path) -> None:
    path = tmp_path / "observations.csv"
    path.write_text("id;product;;\nESP_011472_1225;RED;;\nESP_011473_1225;;;\n;;;\n")
    assert read_observations_csv(path)["product"].tolist() == ["RED", "RGB.NOMAP.browse"]
    path.write_text("project;class;meaning;;\n;x;crater;;\n")
    assert read_class_names(path).meaning("x") == "crater"
    path.write_text("id;product;;\nESP_011472_1225;RED;;x\n")
    with pytest.raises(MarsError, match="line 2: more cells than columns"):
        read_observations_csv(path)


@pytest.mark.parametrize("text", ['id,note\nESP_011472_1225,"a\nESP_011473_1225,b\n', 'id\n"ESP_011472_1225"x\n'])
def test_a_quotation_mark_without_a_partner_is_no_note(tmp_path: Path, text: str) -> None:
    path = tmp_path / "observations.csv"
    path.write_text(text)
    with pytest.raises(MarsError, match=r"observations\.csv is not a valid CSV .*quotation mark"):
        read_observations_csv(path)
    with pytest.raises(MarsError, match=r"observations\.csv is not a valid CSV .*quotation mark"):
        read_class_names(path)


def test_every_bad_row_is_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "observations.csv"
    path.write_text(
        "id,product\nESP_011472_1225,RED\n../../x,RED\nESP_011473_1225,COLOR.abrowse\n"
        "ESP_011474_1225,BLUE\nESP_011472_1225,COLOR\nESP_011475_1225,RED,too,many\n"
    )
    with pytest.raises(MarsError) as caught:
        read_observations_csv(path)
    message = str(caught.value)
    assert "5 bad rows" in message
    for line in ("line 3", "line 4", "line 5", "line 6", "line 7"):
        assert f"{line}: " in message
    assert "annotated" in message
    assert "already in line 2" in message


@pytest.mark.parametrize("content", ["", "observation\nESP_011472_1225\n", "id,prodcut\nESP_011472_1225,RED\n", "id\n"])
def test_unusable_files_are_explained_with_an_example(tmp_path: Path, content: str) -> None:
    path = tmp_path / "observations.csv"
    path.write_text(content)
    with pytest.raises(MarsError, match=r"ESP_011472_1225,RGB\.NOMAP\.browse"):
        read_observations_csv(path)


def test_a_missing_file_is_explained_with_an_example(tmp_path: Path) -> None:
    with pytest.raises(MarsError, match="id,product,note"):
        read_observations_csv(tmp_path / "observations.csv")
