"""HiRISE's cumulative index of map-projected products: reading and queries.

It has one row for each JP2 in ``RDR`` and none for products under ``EXTRAS``. An observation has a ``COLOR`` row if its
colour detectors were read. The ``RGB.NOMAP`` products come from the same detectors, so they are selected and located by
that row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.imagery.pds_label import parsed_label
from mars_assets.imagery.products import DEFAULT_PRODUCT, ProductFiles, ProductType, observation_of
from mars_assets.imagery.units import MISSING, Wanted, factor_of, is_missing
from mars_assets.progress import SILENT, Progress
from mars_assets.storage.hashing import lot

INDEX_FILES = ProductFiles("INDEX/RDRCUMINDEX.TAB", "INDEX/RDRCUMINDEX.LBL")

_TABLE = "RDR_INDEX_TABLE"
_NUMBERS = ("ASCII_INTEGER", "ASCII_REAL")
_NOT_APPLICABLE = -9998.0
_CONSTANTS = tuple(f"{name}_CONSTANT" for name in ("MISSING", "NOT_APPLICABLE", "UNKNOWN", "NULL", "INVALID"))
"""Keywords by which a column states its own numbers for missing values."""
_CELL = rb'(?:"[^"]*+(?:""[^"]*+)*+"|[^",]*+)'
_QUOTED = re.compile(rb'"(.*)"')
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_EXACT = 2.0**53
"""Below this, all whole numbers are exact as floating point."""
_PADDING = b"\0\x1a \t\r\n"
"""What old systems write after the last row."""
_SHOWN = 80
"""Characters of a row or value that a message shows."""
_MANY = 5000  # above as many observations a query needs a limit, since nobody wants to download them by accident
_POLAR = 85.0  # latitude above which an observation may span more than 180 degrees of longitude
_ALL_LATITUDES, _ALL_INCIDENCES = (-90.0, 90.0), (0.0, 180.0)
CORNERS = tuple(f"CORNER{i}_{axis}" for i in (1, 2, 3, 4) for axis in ("LATITUDE", "LONGITUDE"))
NEEDED = (
    "OBSERVATION_ID",
    "PRODUCT_ID",
    "FILE_NAME_SPECIFICATION",
    "INCIDENCE_ANGLE",
    "SOLAR_LONGITUDE",
    "MINIMUM_LATITUDE",
    "MAXIMUM_LATITUDE",
    "MINIMUM_LONGITUDE",
    "MAXIMUM_LONGITUDE",
    *CORNERS,
)
_ANGLES = [name for name in NEEDED if name.endswith(("_ANGLE", "_LATITUDE", "_LONGITUDE"))]
_UNITS: Mapping[str, Wanted] = {**dict.fromkeys(_ANGLES, "degrees"), "MAP_SCALE": "metres per pixel"}
"""Columns that are converted from the unit that the label states; others keep theirs."""


@dataclass(frozen=True)
class _Column:
    """A column of the index.

    Args:
        kind: its PDS data type.
        factor: what its numbers are multiplied by.
        missing: its numbers and words for missing values, words in capitals.
        place: the bytes of a row in which it is; empty if the label does not say.
    """

    kind: str
    factor: float
    missing: tuple[float | str, ...]
    place: slice


def read_index_label(path: Path) -> tuple[int, dict[str, str]]:
    """Read the label of the index.

    Returns:
        The table's number of rows, and the PDS data type of each column, in order.

    Raises:
        DamagedFileError: the file is not the label of HiRISE's index.
    """
    rows, columns = _read_columns(path)
    return rows, {name: column.kind for name, column in columns.items()}


def _read_columns(path: Path) -> tuple[int, dict[str, _Column]]:
    with parsed_label(path, "the label of HiRISE's cumulative index") as label:
        table = label[_TABLE]
        columns = {str(column["NAME"]): _column(column) for column in table.getall("COLUMN")}
        if len(columns) != int(table["COLUMNS"]):
            raise ValueError(f"it describes {len(columns)} of {table['COLUMNS']} columns")
        if missing := [name for name in NEEDED if name not in columns]:
            raise ValueError(f"it lacks the columns {', '.join(missing)}")
        return int(table["ROWS"]), columns


def _column(described: Mapping[str, Any]) -> _Column:
    name, unit = str(described["NAME"]), described.get("UNIT")
    wanted = _UNITS.get(name)
    factor = 1.0 if wanted is None or is_missing(unit) else factor_of(f"the column {name}", str(unit), wanted)
    constants = (getattr(described[key], "value", described[key]) for key in _CONSTANTS if key in described)
    own = (value.strip().upper() if isinstance(value, str) else float(value) for value in constants)
    return _Column(str(described["DATA_TYPE"]), factor, (_NOT_APPLICABLE, *MISSING, *own), _place(described))


def _place(described: Mapping[str, Any]) -> slice:
    start, count = described.get("START_BYTE"), described.get("BYTES")
    if not (isinstance(start, int) and isinstance(count, int) and start > 0):
        return slice(0, 0)
    return slice(start - 1, start - 1 + count)  # PDS counts from 1


def read_index(table: Path, label: Path, progress: Progress = SILENT) -> pd.DataFrame:
    """Read the index.

    A row whose quotation marks are not those of a valid CSV is cut at the bytes that the label states, if each
    separator is where it should be, or else at its commas, if none is too many. Where that fails, and where a number
    cannot be parsed, the row is left out.

    Args:
        table: ``RDRCUMINDEX.TAB``: comma-separated, text quoted and padded with blanks.
        label: ``RDRCUMINDEX.LBL``, which names the columns.
        progress: reports each row that was left out, and why.

    Returns:
        All other rows and all columns under the label's names: int64, float64 (NaN where missing or not applicable) or
        str. Angles are in degrees and ``MAP_SCALE`` is in metres per pixel, whatever units the label states.

    Raises:
        DamagedFileError: the files do not match, or most rows cannot be read.
    """
    rows, columns = _read_columns(label)
    try:
        lines = [line for line in table.read_bytes().splitlines() if line.strip(_PADDING)]
    except OSError as error:
        raise DamagedFileError(f"{table} cannot be read ({error.strerror}). Fetch it again") from error
    unreadable: dict[int, str] = {}
    valid = re.compile(rb"%b(?:,%b){%d}" % (_CELL, _CELL, len(columns) - 1))
    for number, line in enumerate(lines):
        if not valid.fullmatch(line):
            cells = _cells_by_place(line, columns) or _cells_by_commas(line, len(columns))
            lines[number] = b",".join(b'"%b"' % cell.replace(b'"', b'""') for cell in cells or [b""] * len(columns))
            if not cells:
                unreadable[number] = f"its cells cannot be told apart: {line[:_SHOWN].decode('latin-1')}"
    try:
        text = csv.read_csv(
            pa.py_buffer(b"\n".join(lines)),
            read_options=csv.ReadOptions(column_names=list(columns), encoding="latin-1"),
            convert_options=csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string())),
        )
    except pa.ArrowInvalid as error:
        raise DamagedFileError(f"{table} does not match its label {label.name} ({error}). Fetch both again") from error
    texts = {name: _text(text[name], column) for name, column in columns.items()}
    for name, column in columns.items():
        if column.kind in _NUMBERS:
            wrong = pc.invert(pc.match_substring_regex(texts[name], _NUMBER)).fill_null(False)
            for number in map(int, np.flatnonzero(wrong)):
                value = texts[name][number].as_py()[:_SHOWN]
                unreadable.setdefault(number, f"its {name} is not numeric: {value!r}")
    if 2 * len(unreadable) > len(lines):
        raise DamagedFileError(
            f"{table} does not match its label {label.name}: {len(unreadable)} of {len(lines)} rows cannot be read. "
            f"Row {min(unreadable) + 1}: {unreadable[min(unreadable)]}. Fetch both again"
        )
    if len(lines) != rows:
        raise DamagedFileError(
            f"{table} has {len(lines)} rows, but its label {label.name} says {rows}. Fetch both again"
        )
    for number in sorted(unreadable):
        progress.say(f"row {number + 1} of {table.name} is left out: {unreadable[number]}")
    whole = pa.table(texts).filter(pa.array([number not in unreadable for number in range(len(lines))]))
    values = {
        name: _numbers(whole[name], name, column) if column.kind in _NUMBERS else whole[name]
        for name, column in columns.items()
    }
    frame: pd.DataFrame = pa.table(values).to_pandas()
    return frame


def _cells_by_place(line: bytes, columns: Mapping[str, _Column]) -> list[bytes]:
    """Cut a row at the bytes that its label states.

    Empty if something else than separators is between them.
    """
    places = [column.place for column in columns.values()]
    starts, stops = [place.start for place in places], [place.stop for place in places]
    first, *between, last = (line[a:b] for a, b in zip([0, *stops], [*starts, len(line)], strict=True))
    ends = not first.strip(b' "') and not last.strip(b' "') and len(line) >= stops[-1]
    fits = ends and all(gap.strip(b' "') == b"," for gap in between)  # a quotation mark may be lost, too
    return [line[place] for place in places] if fits else []


def _cells_by_commas(line: bytes, count: int) -> list[bytes]:
    """Cut a row at its commas if there are just as many as separators; else none."""
    cells = [cell.strip() for cell in line.split(b",")]
    return [_QUOTED.sub(rb"\1", cell) for cell in cells] if len(cells) == count else []


def _text(text: pa.ChunkedArray, column: _Column) -> pa.ChunkedArray:
    """Take blanks off texts, and words for missing values out of numbers."""
    text = pc.utf8_trim_whitespace(text)
    if column.kind not in _NUMBERS:
        return text
    words = [value for value in column.missing if isinstance(value, str)]
    bare = pc.utf8_upper(pc.utf8_trim(text, characters="' \""))
    return pc.if_else(pc.is_in(bare, value_set=pa.array(words)), None, text)


def _numbers(text: pa.ChunkedArray, name: str, column: _Column) -> pa.ChunkedArray:
    # The archive's indexes write some whole numbers with an exponent or a decimal point.
    numbers = text.cast(pa.float64())
    numbers = pc.if_else(pc.is_finite(numbers), numbers, None)
    constants = [value for value in column.missing if isinstance(value, float)]
    numbers = pc.if_else(pc.is_in(numbers, value_set=pa.array(constants)), None, numbers)
    if column.factor != 1:
        numbers = pc.multiply(numbers, column.factor)
    if _UNITS.get(name) == "degrees":  # other numbers for a missing value, such as -9999
        numbers = pc.if_else(pc.greater(pc.abs(numbers), 360), None, numbers)
    whole = numbers.null_count == 0 and pc.all(pc.equal(pc.trunc(numbers), numbers)).as_py()
    if column.kind == "ASCII_INTEGER" and whole and pc.max(pc.abs(numbers)).as_py() < _EXACT:
        return numbers.cast(pa.int64())
    return numbers


def missing_values(index: pd.DataFrame) -> dict[str, int]:
    """Count the rows without a value, for each needed column that has such rows."""
    counts = {}
    for name in NEEDED:
        column = index[name]
        words = column.str.upper().isin(MISSING) if pd.api.types.is_string_dtype(column) else False
        counts[name] = int((column.isna() | words).sum())
    return {name: count for name, count in counts.items() if count}


@dataclass(frozen=True)
class IndexQuery:
    """A query for observations.

    Args:
        product: the product to select for each observation.
        latitude: southern and northern bound, planetocentric degrees.
        longitude: western and eastern bound, degrees east, 0..360 or -180..180; the box extends eastwards from the
            first to the second, so (350, 10) crosses the prime meridian.
        solar_longitude: first and last L_s of the season in degrees: northern spring is (0, 90), southern summer (270,
            360), and (330, 30) includes the vernal equinox.
        incidence: smallest and largest incidence angle in degrees; high ones show relief by long shadows.
        limit: maximum number of observations, drawn at random from all matches. Each observation has a fixed random
            number, so a longer index changes few of those drawn.
        seed: seed of that draw.
        exclude: observations to leave out, for example because the archive lacks their product.
    """

    product: ProductType = DEFAULT_PRODUCT
    latitude: tuple[float, float] = _ALL_LATITUDES
    longitude: tuple[float, float] = (0.0, 360.0)
    solar_longitude: tuple[float, float] = (0.0, 360.0)
    incidence: tuple[float, float] = _ALL_INCIDENCES
    limit: int | None = None
    seed: int = 0
    exclude: tuple[str, ...] = ()

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> IndexQuery:
        """Build a query from a configuration or JSON, in which ranges are lists."""
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()}
        return cls(**values)

    def __post_init__(self) -> None:
        for name in ("latitude", "longitude", "solar_longitude", "incidence"):
            if len(values := getattr(self, name)) != 2:
                raise MarsError(f"the query's {name} is {list(values)}: give two numbers, [from, to]")
        for name, lowest, highest in (("latitude", -90, 90), ("incidence", 0, 180)):
            low, high = getattr(self, name)
            if not lowest <= low <= high <= highest:
                raise MarsError(
                    f"a query's {name} needs two increasing bounds between {lowest} and {highest}, not {low} and {high}"
                )
        for name, lowest in (("longitude", -180), ("solar_longitude", 0)):
            if not all(lowest <= value <= 360 for value in getattr(self, name)):
                raise MarsError(f"a query's {name} must be between {lowest} and 360 degrees, not {getattr(self, name)}")
        if unknown := [name for name in self.exclude if observation_of(name) != name]:
            raise MarsError(f"a query's exclude lists {', '.join(unknown)}, which is no observation id: correct it")


def select(index: pd.DataFrame, query: IndexQuery, progress: Progress = SILENT) -> list[str]:
    """Select the observations that match a query and have its product, ordered by id.

    An observation matches if its bounding box overlaps that of the query. One that lacks a value which the query
    restricts is left out.

    Args:
        index: from :func:`read_index`.
        query: what to select.
        progress: reports how many observations were left out because the index lacks a value of theirs.

    Raises:
        MarsError: none matches, or thousands do and the query has no limit.
    """
    rows = index[index["PRODUCT_ID"].str.endswith(f"_{_indexed_product(query.product)}")]
    lacking = rows[_restricted(query)].isna()
    fits = ~lacking.any(axis=1)
    left_out = ""
    if not fits.all():
        names = ", ".join(lacking.columns[lacking.any()])
        left_out = f"{(~fits).sum()} observations are left out, since the index has no value of {names} for them"
        progress.say(left_out)
    rows = rows[fits]
    south, north = query.latitude
    fits = pd.Series(True, rows.index)
    # Unrestricted bounds keep rows whose value is missing from the index.
    if query.latitude != _ALL_LATITUDES:
        fits &= (rows["MAXIMUM_LATITUDE"] >= south) & (rows["MINIMUM_LATITUDE"] <= north)
    if _arc(*query.longitude) < 360:
        fits &= _overlaps(rows, query.longitude)
    if query.incidence != _ALL_INCIDENCES:
        fits &= rows["INCIDENCE_ANGLE"].between(*query.incidence)
    first, last = query.solar_longitude
    if _arc(first, last) < 360:
        fits &= (rows["SOLAR_LONGITUDE"] - first) % 360 <= _arc(first, last)
    matches = set(rows.loc[fits, "OBSERVATION_ID"]).difference(query.exclude)
    found = sorted(name for name in matches if observation_of(name) == name)
    if not found:
        raise MarsError(
            f"no observation in the index matches {query}: widen the query, or choose another product"
            + (f" ({left_out})" if left_out else "")
        )
    if query.limit is None and len(found) > _MANY:
        raise MarsError(
            f"{len(found)} observations in the index match {query}: narrow the query, or set its limit to draw a sample"
        )
    if query.limit is not None and len(found) > query.limit:
        found = sorted(sorted(found, key=lambda name: lot(f"{query.seed} {name}"))[: query.limit])
    return found


def observation_facts(index: pd.DataFrame, observations: list[str], products: list[ProductType]) -> pd.DataFrame:
    """Look up products in the index.

    Returns:
        One row each, in order: ``incidence_angle`` and ``solar_longitude`` in degrees, and ``corners``, eight numbers:
        latitude and longitude of the swath's corners, clockwise from the first sample of the first line. NaN and None
        if the index lacks the product.
    """
    wanted = index[index["OBSERVATION_ID"].isin(observations)].to_dict("records")
    rows = {(row["OBSERVATION_ID"], row["PRODUCT_ID"].rsplit("_", 1)[-1]): row for row in wanted}
    unknown = dict.fromkeys(NEEDED, np.nan)
    facts = []
    for observation, product in zip(observations, products, strict=True):
        row = rows.get((observation, _indexed_product(product)), unknown)
        corners = [float(row[name]) for name in CORNERS]
        facts.append((row["INCIDENCE_ANGLE"], row["SOLAR_LONGITUDE"], corners if np.isfinite(corners).all() else None))
    return pd.DataFrame(facts, columns=["incidence_angle", "solar_longitude", "corners"])


def _restricted(query: IndexQuery) -> list[str]:
    """List the columns that a query restricts."""
    columns: list[str] = []
    if query.latitude != _ALL_LATITUDES:
        columns += ["MINIMUM_LATITUDE", "MAXIMUM_LATITUDE"]
    if _arc(*query.longitude) < 360:  # the latitudes tell what is polar
        columns += ["MINIMUM_LONGITUDE", "MAXIMUM_LONGITUDE", "MINIMUM_LATITUDE", "MAXIMUM_LATITUDE"]
    if query.incidence != _ALL_INCIDENCES:
        columns += ["INCIDENCE_ANGLE"]
    if _arc(*query.solar_longitude) < 360:
        columns += ["SOLAR_LONGITUDE"]
    return list(dict.fromkeys(columns))


def _indexed_product(product: ProductType) -> str:
    return "RED" if product == "RED" else "COLOR"


def _arc(start: float, end: float) -> float:
    """Compute the eastward angle from one longitude to another.

    It is in degrees, 360 for a full turn.
    """
    return 360.0 if abs(end - start) >= 360 else (end - start) % 360


def _overlaps(rows: pd.DataFrame, box: tuple[float, float]) -> npt.NDArray[np.bool_]:
    """Test which observations share a meridian with the box.

    The index gives the smaller number first even if an observation crosses the prime meridian. Away from the poles no
    observation spans half the planet, so the bounds of a wider interval are swapped.
    """
    west, east = rows["MINIMUM_LONGITUDE"].to_numpy(), rows["MAXIMUM_LONGITUDE"].to_numpy()
    polar = rows[["MINIMUM_LATITUDE", "MAXIMUM_LATITUDE"]].abs().max(axis=1).to_numpy() >= _POLAR
    turned = (east - west > 180) & ~polar
    west, east = np.where(turned, east, west), np.where(turned, west, east)
    width = np.where(east - west >= 360, 360, (east - west) % 360)
    start, span = box[0], _arc(*box)
    return np.asarray(((west - start) % 360 <= span) | ((start - west) % 360 <= width))
