"""Labels, indexes and lists of observations with random changes: right, or refused with a message."""

import csv
import functools
import io
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars_assets.imagery.index import INDEX_FILES, read_index
from mars_assets.imagery.pds_label import ProductLabel, read_label
from mars_assets.imagery.products import PRODUCT_TYPES, parse_observation_id, read_observations_csv
from mars_assets.labels.class_names import read_class_names
from mars_assets.progress import Progress
from mars_assets.sample.index import _COLUMNS, write_index
from mars_assets.sample.products import MapPosition, _label
from mars_assets.sample.terrain import Scene, SceneSpec
from mars_assets_tests.changes import changed_bytes, changed_text, fuzz, outcome

pytestmark = pytest.mark.slow


# labels


@functools.cache
def _product_label() -> str:
    spec = SceneSpec("ESP_990000_1700", 64, 48, 0)
    scene = Scene(spec, np.zeros((3, 64, 48), np.float32), np.zeros((64, 48), np.float32), [])
    return _label(scene, MapPosition.of_observation(spec.observation, 100.0), 1e-4, 0.01)


def _read_label(content: bytes) -> ProductLabel:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.LBL"
        path.write_bytes(content)
        return read_label(path)


READ = {
    *("OBSERVATION_ID", "LINES", "LINE_SAMPLES", "BANDS", "FILTER_NAME", "CENTER_FILTER_WAVELENGTH", "SAMPLE_BITS"),
    *("SAMPLE_BIT_MASK", "SCALING_FACTOR", "OFFSET", "CORE_NULL", "CORE_LOW_REPR_SATURATION", "MAP_SCALE", "OBJECT"),
    *("CORE_HIGH_INSTR_SATURATION", "INCIDENCE_ANGLE", "A_AXIS_RADIUS", "CENTER_LONGITUDE", "END_OBJECT", "END"),
}


@st.composite
def labels(draw: st.DrawFn) -> bytes:
    """A label with up to four changes, most of them in lines that are read."""
    lines = _product_label().splitlines(keepends=True)
    read = [number for number, line in enumerate(lines) if line.split("=")[0].strip() in READ]
    for _ in range(draw(st.integers(1, 4))):
        number = draw(st.sampled_from([*read, *read, *range(len(lines))]))
        lines[number] = changed_text(draw, lines[number])
    text = "".join(lines)
    content = text.encode("utf-8", "surrogatepass")
    return content if draw(st.integers(0, 3)) else changed_bytes(draw, content)


@given(content=labels())
@fuzz
def test_a_changed_label_is_read_or_refused(content: bytes) -> None:
    read, refusal = outcome(lambda: _read_label(content))
    if read is None:
        assert "a.LBL" in refusal
        assert len(refusal) < 600
        return
    assert min(read.lines, read.samples, read.bands) >= 1
    assert read.scaling_factor > 0
    assert abs(read.scaling_factor) + abs(read.offset) < float("inf")
    assert 0 <= read.incidence_angle <= 180
    for number in (read.map_scale, read.radius_km):
        assert number is None or 0 < number < float("inf")


UNITS = {
    "MAP_SCALE": {"METERS/PIXEL": 1, "m/px": 1, "KM/PIXEL": 1000, "KILOMETRES PER PIXEL": 1000, "CM/PIX": 0.01},
    "A_AXIS_RADIUS": {"KM": 1, "kilometers": 1, "M": 0.001, "MICRONS": 1e-9},
    "INCIDENCE_ANGLE": {"DEG": 1, "degrees": 1, "RAD": 57.29577951308232},
    "SCALING_FACTOR": {"I/F": 1, "N/A": 1},
    "LINES": {"PIXELS": 1, "lines": 1},
}
FIELDS = {
    "MAP_SCALE": "map_scale",
    "A_AXIS_RADIUS": "radius_km",
    "INCIDENCE_ANGLE": "incidence_angle",
    "SCALING_FACTOR": "scaling_factor",
    "LINES": "lines",
}


PLAUSIBLE = {"MAP_SCALE": (0.05, 50), "A_AXIS_RADIUS": (3100, 3900), "LINES": (1, 1e6)}


@given(key=st.sampled_from(sorted(UNITS)), data=st.data())
@fuzz
def test_a_stated_number_is_read_in_its_unit(key: str, data: st.DataObject) -> None:
    number = data.draw(st.floats(*PLAUSIBLE.get(key, (1e-3, 1))))
    unit, factor = data.draw(st.sampled_from(sorted(UNITS[key].items())))
    value = float(round(number)) if key == "LINES" else number / factor
    form = data.draw(st.sampled_from(["{0!r}", "{0:.17e}", "+{0!r}", "{0:.25f}"]))
    line = next(line for line in _product_label().splitlines() if line.split("=")[0].strip() == key)
    text = _product_label().replace(line, f"{key} = {form.format(value)} <{unit}>")
    assert getattr(_read_label(text.encode()), FIELDS[key]) == pytest.approx(value * factor, rel=1e-12)


# the index


@functools.cache
def _index() -> tuple[bytes, bytes, pd.DataFrame]:
    specs = [SceneSpec(f"ESP_99000{n}_{target}", 2048, 1024, n) for n, target in enumerate((1700, 1905, 2300))]
    with tempfile.TemporaryDirectory() as folder:
        write_index(Path(folder), [(spec, 100.0 * n + 0.001) for n, spec in enumerate(specs)])
        table, label = (Path(folder) / name for name in INDEX_FILES.addresses)
        return table.read_bytes(), label.read_bytes(), read_index(table, label)


def _places() -> dict[str, tuple[int, int]]:
    """The first and last byte of each column's cell, with its quotation marks."""
    places, start = {}, 0
    for name, kind, width in _COLUMNS:
        stop = start + width + 2 * (kind == "CHARACTER")
        places[name] = (start, stop)
        start = stop + 1
    return places


def _read_index(table: bytes, label: bytes) -> tuple[pd.DataFrame, list[str]]:
    said: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, content in zip(("a.TAB", "a.LBL"), (table, label), strict=True):
            (Path(folder) / name).write_bytes(content)
        return read_index(Path(folder) / "a.TAB", Path(folder) / "a.LBL", Progress(said.append)), said


PIECES = st.one_of(
    st.sampled_from([b'"', b",", b'","', b'",', b',"', b'""', b'"a, b"', b"-", b"N/A", b"\0", b"\xff", b"  ", b"'"]),
    st.binary(max_size=5).filter(lambda part: not {*b"\r\n"} & {*part}),
)


@given(row=st.integers(0, 2), at=st.floats(0, 1), piece=PIECES, replaced=st.booleans(), others=st.lists(PIECES))
@fuzz
def test_a_changed_row_is_right_or_left_out(
    row: int, at: float, piece: bytes, replaced: bool, others: list[bytes]
) -> None:
    """A change costs its own row at most, and of a row that is read no other column is shifted."""
    table, label, before = _index()
    lines = table.splitlines()
    start = int(at * (len(lines[row]) - len(piece)))
    stop = start + len(piece) * replaced
    lines[row] = lines[row][:start] + piece + lines[row][stop:]
    after, said = _read_index(b"\r\n".join(lines), label)
    untouched = [name for name, (first, last) in _places().items() if last < start or first > stop]
    kept = [number for number in range(3) if number != row or not said]
    assert len(after) == len(kept)
    assert len(said) == 3 - len(kept)
    for place, number in enumerate(kept):
        columns = untouched if number == row else list(before)
        expected = before[columns].iloc[number].astype(object)
        found = after[columns].iloc[place].astype(object)
        pd.testing.assert_series_equal(found, expected, check_names=False, check_index_type=False)


@given(data=st.data())
@fuzz
def test_a_changed_index_is_read_or_refused(data: st.DataObject) -> None:
    table, label, before = _index()
    if data.draw(st.booleans()):
        label = changed_text(data.draw, label.decode("latin-1")).encode("latin-1", "replace")
    table = changed_bytes(data.draw, table)
    read, refusal = outcome(lambda: _read_index(table, label))
    if read is None:
        assert "a.TAB" in refusal or "a.LBL" in refusal
    else:
        assert len(read[0]) + len(read[1]) == len(before)


# tables that a user writes


@given(st.sampled_from(["id,product,note\nESP_011472_1225,,a\n", "project;class;meaning\n;a;crater\n"]), st.data())
@fuzz
def test_a_changed_table_is_read_or_refused(text: str, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(1, 4))):
        text = changed_text(data.draw, text)
    content = text.encode("utf-8", "surrogatepass")
    content = content if data.draw(st.integers(0, 3)) else changed_bytes(data.draw, content)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        path.write_bytes(content)
        for read in (read_observations_csv, read_class_names):
            found, refusal = outcome(lambda read=read: read(path))
            assert found is not None or "a.csv" in refusal


TARGETS = st.integers(0, 3599)
CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=8).map(str.strip)


@given(
    rows=st.dictionaries(
        st.builds(
            "{}_{:06d}_{:04d}".format, st.sampled_from(["PSP", "ESP"]), st.integers(0, 999999), st.integers(0, 3599)
        ),
        st.tuples(st.sampled_from(["", *PRODUCT_TYPES]), CELLS),
        min_size=1,
        max_size=5,
    ),
    separator=st.sampled_from(",;\t"),
    end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    order=st.permutations(["id", "product", "note"]),
)
@fuzz
def test_a_list_of_observations_is_read_as_written(
    rows: dict[str, tuple[str, str]], separator: str, end: str, quoting: int, order: list[str]
) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, order, delimiter=separator, lineterminator=end, quoting=quoting)  # type: ignore[arg-type]
    writer.writeheader()
    for name, (product, note) in rows.items():
        writer.writerow({"id": name, "product": product, "note": note})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        path.write_bytes(text.getvalue().encode())
        table = read_observations_csv(path)
    assert table["observation"].tolist() == [str(parse_observation_id(name)) for name in rows]
    assert table["product"].tolist() == [product or "RGB.NOMAP.browse" for product, _ in rows.values()]
    assert table["note"].tolist() == [note for _, note in rows.values()]
