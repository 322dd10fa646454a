"""The cumulative index: read, queried, and what follows for observations and positions."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars_assets.errors import DamagedFileError, MarsError, MissingInputError
from mars_assets.imagery.index import (
    CORNERS,
    INDEX_FILES,
    IndexQuery,
    missing_values,
    observation_facts,
    read_index,
    read_index_label,
    select,
)
from mars_assets.imagery.observations import choose_observations, query_before, write_observations
from mars_assets.imagery.products import product_files
from mars_assets.lake import Lake
from mars_assets.progress import Progress
from mars_assets.sample.index import _COLUMNS, write_index
from mars_assets.sample.terrain import SceneSpec
from mars_assets.storage.files import write_table

# Rows of the real index: product, corners 1 to 4 as latitude and longitude.
REAL = {
    "ESP_011400_1680_COLOR": [-12.0828, 241.439, -12.0848, 241.421, -11.8342, 241.39, -11.8321, 241.407],
    "ESP_030831_1335_RED": [-46.3981, 38.0734, -46.406, 37.9435, -46.1322, 37.9086, -46.1242, 38.0378],
    "ESP_018301_2505_COLOR": [70.0663, 103.136, 70.0631, 103.073, 70.3287, 102.954, 70.332, 103.018],
}


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, Path]:
    specs = [SceneSpec(f"ESP_99000{n}_{target}", 2048, 1024, n) for n, target in enumerate((1700, 1905, 2300))]
    write_index(tmp_path, [(spec, 100.0 * n + 0.001) for n, spec in enumerate(specs)])
    assert INDEX_FILES.label is not None
    return tmp_path / INDEX_FILES.image, tmp_path / INDEX_FILES.label


WIDTHS = {name: width for name, _, width in _COLUMNS}


def table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    plain = {
        "FILE_NAME_SPECIFICATION": "",
        "INCIDENCE_ANGLE": 50.0,
        "SOLAR_LONGITUDE": 100.0,
        "MINIMUM_LATITUDE": 0.0,
        "MAXIMUM_LATITUDE": 0.2,
        "MINIMUM_LONGITUDE": 10.0,
        "MAXIMUM_LONGITUDE": 10.1,
        **dict.fromkeys(CORNERS, 1.0),
    }
    frame = pd.DataFrame([plain | row for row in rows])
    return frame.assign(PRODUCT_ID=[row.get("PRODUCT_ID", f"{row['OBSERVATION_ID']}_COLOR") for row in rows])


# reading


def test_the_real_forms_are_read(written: tuple[Path, Path]) -> None:
    index = read_index(*written)
    assert len(index.columns) == 54
    assert list(index["OBSERVATION_ID"]) == ["ESP_990000_1700", "ESP_990001_1905", "ESP_990002_2300"]
    assert list(index["PRODUCT_ID"].str.len()) == [21] * 3, "padding is taken off"
    assert index["ORBIT_NUMBER"].dtype == "int64"
    assert index["INCIDENCE_ANGLE"].dtype == "float64"
    assert index["SOLAR_LONGITUDE"].isna().all(), "not applicable is no number"
    assert index["MAXIMUM_LATITUDE"].iloc[0] == pytest.approx(170 - 180, abs=0.01)


def test_columns_come_from_the_label(written: tuple[Path, Path]) -> None:
    """A table whose columns stand in another order is read right if its label says so."""
    tab, label = written
    lines = [line.split(",") for line in tab.read_text().splitlines()]
    tab.write_text("".join(",".join(reversed(line)) + "\r\n" for line in lines))
    head, *columns = label.read_text().split("  OBJECT = COLUMN\n")
    last, tail = columns[-1].split("  END_OBJECT\nEND_OBJECT")
    columns[-1] = f"{last}  END_OBJECT\n"
    label.write_text(
        head + "".join(f"  OBJECT = COLUMN\n{column}" for column in reversed(columns)) + "END_OBJECT" + tail
    )
    assert list(read_index(tab, label)["OBSERVATION_ID"]) == ["ESP_990000_1700", "ESP_990001_1905", "ESP_990002_2300"]


def test_commas_in_quoted_text(written: tuple[Path, Path]) -> None:
    tab, label = written
    tab.write_text(tab.read_text().replace("SYNTHETIC: computed", "Gullies, dunes, and"))
    assert read_index(tab, label)["RATIONALE_DESC"].iloc[0].startswith("Gullies, dunes, and")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tab, label: tab.write_bytes(tab.read_bytes()[: tab.stat().st_size // 2]), "Fetch"),
        (lambda tab, label: tab.write_text("".join(tab.read_text().splitlines(keepends=True)[:2])), "has 2 rows"),
        (lambda tab, label: tab.write_text(tab.read_text().replace("50.000000", "5O.000000")), "is not numeric"),
        (lambda tab, label: tab.write_text("<html>no</html>\n"), "does not match"),
        (lambda tab, label: label.write_text("<html>no</html>"), "is not the label"),
        (lambda tab, label: label.write_text("RDR_INDEX_TABLE = 5\nEND\n"), "is not the label"),
        (lambda tab, label: label.write_text(label.read_text()[:-200]), "closing END"),
        (lambda tab, label: label.write_text(label.read_text().replace("NAME = PRODUCT_ID", "NAME = X")), "PRODUCT_ID"),
        (lambda tab, label: label.write_text(label.read_text().replace("COLUMNS = 54", "COLUMNS = 53")), "54 of 53"),
    ],
)
def test_damage_is_named(written: tuple[Path, Path], damage, message: str) -> None:
    damage(*written)
    with pytest.raises(DamagedFileError, match=message):
        read_index(*written)


def test_the_label_says_what_the_table_holds(written: tuple[Path, Path]) -> None:
    rows, columns = read_index_label(written[1])
    assert rows == 3
    assert list(columns.items())[1] == ("FILE_NAME_SPECIFICATION", "CHARACTER")


def with_cell(written: tuple[Path, Path], column: str, cell: str, row: int = 1) -> tuple[Path, Path]:
    """Replace a cell of the table."""
    tab, label = written
    place = list(read_index_label(label)[1]).index(column)
    lines = [line.split(",") for line in tab.read_text().splitlines()]
    lines[row][place] = cell
    tab.write_text("".join(",".join(line) + "\r\n" for line in lines))
    return tab, label


@pytest.mark.parametrize("word", ["NULL", "N/A", '"N/A"', "UNK", "unk", "'UNK'", " " * 14, "", "NA", "nan", "-9998.0"])
@pytest.mark.parametrize("column", ["INCIDENCE_ANGLE", "MINIMUM_LATITUDE", "CORNER2_LONGITUDE", "ORBIT_NUMBER"])
def test_a_missing_value_is_missing(written: tuple[Path, Path], column: str, word: str) -> None:
    index = read_index(*with_cell(written, column, word))
    assert index[column].isna().tolist() == [False, True, False]
    assert missing_values(index).get(column) == (1 if column != "ORBIT_NUMBER" else None)
    assert len(select(index, IndexQuery(product="COLOR"))) == 3, "nothing is asked of it"
    facts = observation_facts(index, ["ESP_990001_1905"], ["COLOR"])
    assert (facts["corners"].iloc[0] is None) == (column == "CORNER2_LONGITUDE")


def test_rows_without_a_value_are_counted_where_it_is_needed(written: tuple[Path, Path]) -> None:
    index = read_index(*with_cell(written, "INCIDENCE_ANGLE", "NULL"))
    said: list[str] = []
    found = select(index, IndexQuery(product="COLOR", incidence=(1, 89)), Progress(said.append))
    assert found == ["ESP_990000_1700", "ESP_990002_2300"]
    assert said == ["1 observations are left out, since the index has no value of INCIDENCE_ANGLE for them"]
    with pytest.raises(MarsError, match="no value of SOLAR_LONGITUDE"):
        select(index, IndexQuery(product="COLOR", solar_longitude=(0, 90)))
    index = read_index(*with_cell(written, "MAXIMUM_LATITUDE", "UNK"))
    assert len(select(index, IndexQuery(product="COLOR", longitude=(99, 300)), Progress(said.append))) == 1
    assert "MAXIMUM_LATITUDE" in said[-1]


@pytest.mark.parametrize("tail", ["\x1a", "\0" * 300, "\r\n"])
def test_what_old_systems_write_after_the_last_row(written: tuple[Path, Path], tail: str) -> None:
    tab, _ = written
    tab.write_text(tab.read_text() + tail)
    assert len(read_index(*written)) == 3


@pytest.mark.parametrize("cell", ['5"', "5O.0", "50.0.0", "1_000", "-", "50 N"])
def test_what_is_no_number_costs_its_row(written: tuple[Path, Path], cell: str) -> None:
    said: list[str] = []
    index = read_index(*with_cell(written, "INCIDENCE_ANGLE", cell), Progress(said.append))
    assert list(index["OBSERVATION_ID"]) == ["ESP_990000_1700", "ESP_990002_2300"]
    assert said == [f"row 2 of RDRCUMINDEX.TAB is left out: its INCIDENCE_ANGLE is not numeric: {cell!r}"]


TEXTS = (
    *('Rim 5", wide', 'a ", "b", c', '"quoted", and more', 'ends with "', '",', '""",', 'say "hill", "dune" and "rim"'),
    *('two "dunes"', "Arsia, Olympus", 'x","y', 'x,"y",z'),
)


@pytest.mark.parametrize("text", TEXTS)
def test_quotation_marks_and_commas_in_a_text(written: tuple[Path, Path], text: str) -> None:
    """The text has the width that the label states."""
    before, said = read_index(*written), []
    after = read_index(*with_cell(written, "RATIONALE_DESC", f'"{text:75}"'), Progress(said.append))
    assert after["RATIONALE_DESC"].iloc[1] == text
    pd.testing.assert_frame_equal(after.drop(columns="RATIONALE_DESC"), before.drop(columns="RATIONALE_DESC"))
    assert not said


@pytest.mark.parametrize("text", [text for text in TEXTS if "," in text and '"' in text])
@pytest.mark.parametrize("stated", [True, False], ids=["another width", "no widths"])
def test_a_row_that_can_be_read_in_two_ways_costs_itself(written: tuple[Path, Path], text: str, stated: bool) -> None:
    before, said = read_index(*written), []
    tab, label = with_cell(written, "RATIONALE_DESC", f'"{text:{70 if stated else 75}}"')
    if not stated:
        label.write_text(re.sub(r"\n *(START_BYTE|BYTES) = .*", "", label.read_text()))
    after = read_index(tab, label, Progress(said.append))
    pd.testing.assert_frame_equal(after, before.drop(index=1).reset_index(drop=True))
    (line,) = said
    assert line.startswith('row 2 of RDRCUMINDEX.TAB is left out: its cells cannot be told apart: "SYNTHETIC')


def test_marks_without_a_comma_are_part_of_their_text(written: tuple[Path, Path]) -> None:
    for text in ('Rim 5" wide', 'the "hill', '"dune"'):
        index = read_index(*with_cell(written, "RATIONALE_DESC", f'"{text}"'))
        assert index["RATIONALE_DESC"].iloc[1] == text
        assert index["PRODUCT_ID"].iloc[1] == "ESP_990001_1905_COLOR"


@pytest.mark.parametrize("column", ["VOLUME_ID", "RATIONALE_DESC", "MAP_PROJECTION_TYPE"])
@pytest.mark.parametrize("side", [0, -1], ids=["opening", "closing"])
def test_a_lost_quotation_mark_costs_no_other_row(written: tuple[Path, Path], column: str, side: int) -> None:
    before = read_index(*written)
    cell = bytearray(f'"{before[column].iloc[1]:{WIDTHS[column]}}"'.encode())
    cell[side] = ord(" ")
    after = read_index(*with_cell(written, column, cell.decode()))
    pd.testing.assert_frame_equal(after, before)


def test_whole_numbers_without_end(written: tuple[Path, Path]) -> None:
    index = read_index(*with_cell(written, "ORBIT_NUMBER", "1e30"))
    assert index["ORBIT_NUMBER"].iloc[1] == 1e30
    index = read_index(*with_cell(written, "ORBIT_NUMBER", "1e400"))
    assert np.isnan(index["ORBIT_NUMBER"].iloc[1])


@pytest.mark.parametrize("column", ["OBSERVATION_ID", "PRODUCT_ID"])
def test_a_row_without_an_id_is_left_out(written: tuple[Path, Path], column: str) -> None:
    index = read_index(*with_cell(written, column, '"NULL"'))
    assert missing_values(index)[column] == 1
    assert select(index, IndexQuery(product="COLOR")) == ["ESP_990000_1700", "ESP_990002_2300"]


@pytest.mark.parametrize("number", ["-9999", "-32768", "1E32"])
def test_what_is_no_angle_is_missing(written: tuple[Path, Path], number: str) -> None:
    index = read_index(*with_cell(written, "CORNER2_LONGITUDE", number))
    assert index["CORNER2_LONGITUDE"].isna().tolist() == [False, True, False]
    assert observation_facts(index, ["ESP_990001_1905"], ["COLOR"])["corners"].iloc[0] is None


def restated(label: Path, column: str, lines: str) -> None:
    text = label.read_text()
    assert f"NAME = {column}\n" in text
    label.write_text(text.replace(f"NAME = {column}\n", f"NAME = {column}\n    {lines}\n"))


def test_constants_of_a_column_are_its_own(written: tuple[Path, Path]) -> None:
    tab, label = with_cell(written, "INCIDENCE_ANGLE", "  -1.000000")
    assert read_index(tab, label)["INCIDENCE_ANGLE"].iloc[1] == -1
    restated(label, "INCIDENCE_ANGLE", 'MISSING_CONSTANT = -1\n    UNKNOWN_CONSTANT = "no idea"')
    assert np.isnan(read_index(tab, label)["INCIDENCE_ANGLE"].iloc[1])
    tab, label = with_cell((tab, label), "INCIDENCE_ANGLE", "No idea")
    assert np.isnan(read_index(tab, label)["INCIDENCE_ANGLE"].iloc[1])


@pytest.mark.parametrize(
    ("column", "unit", "factor"),
    [
        ("MAP_SCALE", "KM/PIXEL", 1000),
        ("MAP_SCALE", '"KILOMETERS/PIXEL"', 1000),
        ("MAP_SCALE", '"<METERS/PIXEL>"', 1),
        ("MAP_SCALE", '"N/A"', 1),
        ("INCIDENCE_ANGLE", "DEGREE", 1),
        ("MINIMUM_LONGITUDE", '"DEGREES EAST"', 1),
    ],
)
def test_units_of_columns(written: tuple[Path, Path], column: str, unit: str, factor: float) -> None:
    before = read_index(*written)
    restated(written[1], column, f"UNIT = {unit}")
    after = read_index(*written)
    np.testing.assert_allclose(after[column], before[column] * factor)
    pd.testing.assert_frame_equal(after.drop(columns=column), before.drop(columns=column))


def test_a_column_in_radians(written: tuple[Path, Path]) -> None:
    tab, label = with_cell(written, "INCIDENCE_ANGLE", "0.872665")
    restated(label, "INCIDENCE_ANGLE", "UNIT = RADIANS")
    assert read_index(tab, label)["INCIDENCE_ANGLE"].iloc[1] == pytest.approx(50, abs=1e-4)


@pytest.mark.parametrize(("column", "unit"), [("MAP_SCALE", "DEG/PIXEL"), ("SOLAR_LONGITUDE", "HOURS")])
def test_unknown_units_of_columns(written: tuple[Path, Path], column: str, unit: str) -> None:
    restated(written[1], column, f"UNIT = {unit}")
    with pytest.raises(DamagedFileError, match=f"the column {column} is stated in '{unit}'"):
        read_index(*written)


# querying


def test_every_bound_bounds() -> None:
    index = table(
        [
            {"OBSERVATION_ID": "ESP_000001_1800"},
            {"OBSERVATION_ID": "ESP_000002_1800", "INCIDENCE_ANGLE": 75.0},
            {"OBSERVATION_ID": "ESP_000003_1800", "SOLAR_LONGITUDE": 355.0},
            {"OBSERVATION_ID": "ESP_000004_1800", "MINIMUM_LATITUDE": 40.0, "MAXIMUM_LATITUDE": 40.3},
            {"OBSERVATION_ID": "ESP_000005_1800", "MINIMUM_LONGITUDE": 200.0, "MAXIMUM_LONGITUDE": 200.1},
            {"OBSERVATION_ID": "ESP_000006_1800", "PRODUCT_ID": "ESP_000006_1800_RED"},
            {"OBSERVATION_ID": "not an id"},
        ]
    )

    def found(**query: Any) -> list[int]:
        return [int(name[4:10]) for name in select(index, IndexQuery(**query))]

    assert found() == [1, 2, 3, 4, 5]
    assert found(product="RED") == [6]
    assert found(product="RGB.NOMAP") == [1, 2, 3, 4, 5]
    assert found(incidence=(70, 90)) == [2]
    assert found(solar_longitude=(330, 30)) == [3]
    assert found(solar_longitude=(90, 180)) == [1, 2, 4, 5]
    assert found(latitude=(40.2, 60)) == [4]
    assert found(longitude=(199, 200.05)) == [5]
    assert found(longitude=(-170, -150)) == [5]
    with pytest.raises(MarsError, match="no observation in the index matches"):
        found(latitude=(-90, -80))


def test_unknown_values_fit_where_nothing_is_asked() -> None:
    index = table([{"OBSERVATION_ID": "ESP_000001_1800", "INCIDENCE_ANGLE": np.nan, "SOLAR_LONGITUDE": np.nan}])
    assert select(index, IndexQuery()) == ["ESP_000001_1800"]
    with pytest.raises(MarsError):
        select(index, IndexQuery(incidence=(0, 80)))
    with pytest.raises(MarsError):
        select(index, IndexQuery(solar_longitude=(0, 180)))


@pytest.mark.parametrize(
    ("interval", "box", "expected"),
    [
        ((359.9, 0.1), (350, 10), True),
        ((0.05, 359.95), (350, 10), True),  # across the meridian, smaller number first
        ((0.05, 359.95), (100, 200), False),
        ((5, 6), (350, 10), True),
        ((20, 21), (350, 10), False),
        ((100, 101), (0, 360), True),
        ((100, 101), (101, 99), True),
        ((100, 101), (102, 99), False),
        ((190, 191), (-171, -160), True),
    ],
)
def test_boxes_on_the_circle(interval: tuple[float, float], box: tuple[float, float], expected: bool) -> None:
    index = table(
        [{"OBSERVATION_ID": "ESP_000001_1800", "MINIMUM_LONGITUDE": interval[0], "MAXIMUM_LONGITUDE": interval[1]}]
    )
    if expected:
        assert select(index, IndexQuery(longitude=box)) == ["ESP_000001_1800"]
    else:
        with pytest.raises(MarsError):
            select(index, IndexQuery(longitude=box))


def test_around_the_pole() -> None:
    rows = [
        {"MINIMUM_LONGITUDE": 0.0, "MAXIMUM_LONGITUDE": 360.0},
        {"MINIMUM_LONGITUDE": 10.0, "MAXIMUM_LONGITUDE": 300.0},
        {"MINIMUM_LONGITUDE": 10.0, "MAXIMUM_LONGITUDE": 90.0},
    ]
    index = table(
        [
            row | {"OBSERVATION_ID": f"ESP_00000{n}_0950", "MINIMUM_LATITUDE": -89.0, "MAXIMUM_LATITUDE": -86.0}
            for n, row in enumerate(rows)
        ]
    )
    assert select(index, IndexQuery(longitude=(100, 200))) == ["ESP_000000_0950", "ESP_000001_0950"]
    assert len(select(index, IndexQuery(longitude=(350, 20)))) == 3


@given(west=st.floats(0, 359), width=st.floats(0.01, 2), start=st.floats(0, 359), span=st.floats(0.1, 300))
def test_overlap_is_that_of_points(west: float, width: float, start: float, span: float) -> None:
    """Against a dense sampling of the observation's meridians."""
    index = table(
        [
            {
                "OBSERVATION_ID": "ESP_000001_1800",
                "MINIMUM_LONGITUDE": west,
                "MAXIMUM_LONGITUDE": (west + width) % 360,
            }
        ]
    )
    offsets = (west + np.linspace(0, width, 2001) - start) % 360
    inside = offsets <= span
    if np.abs(offsets - span).min() < 0.01 or np.minimum(offsets, 360 - offsets).min() < 0.01:
        return  # a touch is decided by rounding
    try:
        found = bool(select(index, IndexQuery(longitude=(start, (start + span) % 360))))
    except MarsError:
        found = False
    assert found == bool(inside.any())


def test_a_limit_draws_by_seed_and_spreads() -> None:
    index = table([{"OBSERVATION_ID": f"ESP_{n:06d}_1800"} for n in range(200)])
    drawn = select(index, IndexQuery(limit=20))
    assert len(set(drawn)) == 20
    assert drawn == sorted(drawn)
    assert drawn == select(index, IndexQuery(limit=20))
    assert drawn != select(index, IndexQuery(limit=20, seed=1))
    assert int(drawn[-1][4:10]) > 100
    assert len(select(index, IndexQuery(limit=500))) == 200


def test_a_draw_outlives_a_longer_index() -> None:
    """The cumulative index grows every month: what was drawn is downloaded and cut, so a new draw must be nearly the
    same.
    """
    names = [f"ESP_{n:06d}_1800" for n in range(3100)]
    # New rows are not only at the end: released late, or of another phase.
    before = set(select(table([{"OBSERVATION_ID": name} for name in names[100:]]), IndexQuery(limit=50, seed=4)))
    after = set(select(table([{"OBSERVATION_ID": name} for name in names]), IndexQuery(limit=50, seed=4)))
    assert len(after) == 50
    assert len(before & after) >= 45
    assert after - before <= set(names[:100]), "only new ones take a place"


def test_nobody_means_the_whole_planet() -> None:
    index = table([{"OBSERVATION_ID": f"ESP_{n:06d}_1800"} for n in range(6000)])
    with pytest.raises(MarsError, match=r"6000 observations in the index match.*limit"):
        select(index, IndexQuery())
    assert len(select(index, IndexQuery(limit=5500))) == 5500


def test_what_is_excluded_makes_room_for_the_next() -> None:
    index = table([{"OBSERVATION_ID": f"ESP_{n:06d}_1800"} for n in range(60)])
    drawn = select(index, IndexQuery(limit=20))
    without = select(index, IndexQuery(limit=20, exclude=(drawn[3],)))
    assert len(without) == 20
    assert set(drawn) - set(without) == {drawn[3]}


@pytest.mark.parametrize(
    "query",
    [
        {"latitude": (10, -10)},
        {"latitude": (-91, 0)},
        {"longitude": (0, 400)},
        {"solar_longitude": (-10, 20)},
        {"incidence": (0, 190)},
        {"exclude": ("ESP_011472",)},
    ],
)
def test_senseless_queries(query: dict[str, Any]) -> None:
    with pytest.raises(MarsError, match="a query's"):
        IndexQuery(**query)


# real addresses


def test_addresses_are_those_of_the_archive(shared: Path) -> None:
    """All 2000 real COLOR products: their addresses follow from their observation's id."""
    real = pd.read_csv(shared / "data" / "hirise" / "color_products.csv")
    base = "https://hirise-pds.lpl.arizona.edu/PDS/"
    for row in real.itertuples():
        files = product_files(row.FILE_NAME[:15], "COLOR")
        assert (base + files.image, base + str(files.label)) == (row.IMG_URL, row.LABEL_URL)


# observations


def test_listed_and_found_observations(lake: Lake) -> None:
    write_table(lake.index, table([{"OBSERVATION_ID": f"ESP_00000{n}_1800"} for n in range(4)]))
    lake.observations_csv.write_text("id,product,note\nESP_000002_1800,COLOR,mine\nESP_011472_1225,,\n")
    chosen = choose_observations(lake, IndexQuery())
    assert list(chosen["observation"]) == [
        "ESP_000002_1800",
        "ESP_011472_1225",
        "ESP_000000_1800",
        "ESP_000001_1800",
        "ESP_000003_1800",
    ]
    assert list(chosen["note"])[:3] == ["mine", "", "from the index"]
    assert chosen["label"].iloc[0].endswith("ESP_000002_1800_COLOR.LBL")
    assert chosen["label"].iloc[1] is None
    assert chosen["corners"].iloc[0] == [1.0] * 8
    assert chosen["corners"].iloc[1] is None, "the index does not have it"
    assert np.isnan(chosen["incidence_angle"].iloc[1])
    lake.observations_csv.unlink()
    assert len(choose_observations(lake, IndexQuery(limit=2))) == 2
    with pytest.raises(MarsError, match=r"observations\.csv"):
        choose_observations(lake)


def test_the_query_stands_beside_what_it_chose(lake: Lake) -> None:
    write_table(lake.index, table([{"OBSERVATION_ID": "ESP_000001_1800"}]))
    assert query_before(lake) is None
    query = IndexQuery(product="COLOR", longitude=(0, 20), limit=3, exclude=("ESP_000002_1800",))
    write_observations(lake, choose_observations(lake, query), query)
    assert query_before(lake) == query
    write_observations(lake, choose_observations(lake, query), None)
    assert query_before(lake) is None
    lake.observations.write_bytes(b"PAR1 cut off")
    with pytest.raises(DamagedFileError, match=r"observations\.parquet.*delete the file"):
        query_before(lake)


def test_without_an_index(lake: Lake) -> None:
    lake.root.mkdir()
    lake.observations_csv.write_text("id\nESP_011472_1225\n")
    chosen = choose_observations(lake)
    assert chosen["corners"].iloc[0] is None
    with pytest.raises(MissingInputError, match="hirise_index"):
        choose_observations(lake, IndexQuery())


def test_uncalibrated_colour_is_placed_by_the_colour_row() -> None:
    rows = [
        {"OBSERVATION_ID": name[:15], "PRODUCT_ID": name, **dict(zip(CORNERS, corners, strict=True))}
        for name, corners in REAL.items()
    ]
    facts = observation_facts(
        table(rows),
        ["ESP_011400_1680", "ESP_030831_1335", "ESP_030831_1335"],
        ["RGB.NOMAP.browse", "RGB.NOMAP.browse", "RED"],
    )
    assert facts["corners"].iloc[0] == REAL["ESP_011400_1680_COLOR"]
    assert facts["corners"].iloc[1] is None, "its colour detectors were not read"
    assert facts["corners"].iloc[2] == REAL["ESP_030831_1335_RED"]
