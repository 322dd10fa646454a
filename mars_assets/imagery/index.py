"""HiRISE's cumulative index of map-projected products: reading and queries.

It has one row for each JP2 in ``RDR`` and none for products under ``EXTRAS``. An observation has a ``COLOR`` row if its
colour detectors were read. The ``RGB.NOMAP`` products come from the same detectors, so they are selected and located by
that row.
"""

from __future__ import annotations

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
from mars_assets.storage.hashing import lot

INDEX_FILES = ProductFiles("INDEX/RDRCUMINDEX.TAB", "INDEX/RDRCUMINDEX.LBL")

_TABLE = "RDR_INDEX_TABLE"
_NUMBERS = {"ASCII_INTEGER": "int64", "ASCII_REAL": "float64"}
_NOT_APPLICABLE = -9998
_MANY = 5000  # above as many observations a query needs a limit, since nobody wants to download them by accident
_POLAR = 85.0  # latitude above which an observation may span more than 180 degrees of longitude
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


def read_index_label(path: Path) -> tuple[int, dict[str, str]]:
    """Read the label of the index.

    Returns:
        The table's number of rows, and the PDS data type of each column, in order.

    Raises:
        DamagedFileError: the file is not the label of HiRISE's index.
    """
    with parsed_label(path, "the label of HiRISE's cumulative index") as label:
        table = label[_TABLE]
        columns = {str(column["NAME"]): str(column["DATA_TYPE"]) for column in table.getall("COLUMN")}
        if len(columns) != int(table["COLUMNS"]):
            raise ValueError(f"it describes {len(columns)} of {table['COLUMNS']} columns")
        if missing := [name for name in NEEDED if name not in columns]:
            raise ValueError(f"it lacks the columns {', '.join(missing)}")
        return int(table["ROWS"]), columns


def read_index(table: Path, label: Path) -> pd.DataFrame:
    """Read the index.

    Args:
        table: ``RDRCUMINDEX.TAB``: comma-separated, text quoted and padded with blanks.
        label: ``RDRCUMINDEX.LBL``, which names the columns.

    Returns:
        All rows and columns under the label's names: int64, float64 (NaN where not applicable) or str.

    Raises:
        DamagedFileError: the files do not match, or a number cannot be parsed.
    """
    rows, columns = read_index_label(label)
    names = list(columns)
    try:
        read = csv.read_csv(
            table,
            read_options=csv.ReadOptions(column_names=names, encoding="latin-1"),
            convert_options=csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
        )
    except (pa.ArrowInvalid, OSError) as error:
        raise DamagedFileError(f"{table} does not match its label {label.name} ({error}). Fetch both again") from error
    if read.num_rows != rows:
        raise DamagedFileError(
            f"{table} has {read.num_rows} rows, but its label {label.name} says {rows}. Fetch both again"
        )
    values = {name: _values(read[name], name, kind, table) for name, kind in columns.items()}
    frame: pd.DataFrame = pa.table(values).to_pandas()
    return frame


def _values(column: pa.ChunkedArray, name: str, kind: str, table: Path) -> pa.ChunkedArray:
    text = pc.utf8_trim_whitespace(column)
    if kind not in _NUMBERS:
        return text
    try:
        # The archive's indexes write some whole numbers with an exponent or a decimal point.
        numbers = text.cast(pa.float64())
    except pa.ArrowInvalid as error:
        raise DamagedFileError(f"{table}: the column {name} is not numeric ({error}). Fetch it again") from error
    numbers = pc.if_else(pc.equal(numbers, _NOT_APPLICABLE), None, numbers)
    if _NUMBERS[kind] == "int64" and numbers.null_count == 0 and pc.all(pc.equal(pc.trunc(numbers), numbers)).as_py():
        return numbers.cast(pa.int64())
    return numbers


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
    latitude: tuple[float, float] = (-90.0, 90.0)
    longitude: tuple[float, float] = (0.0, 360.0)
    solar_longitude: tuple[float, float] = (0.0, 360.0)
    incidence: tuple[float, float] = (0.0, 180.0)
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
            raise MarsError(f"a query's exclude lists {', '.join(unknown)}, which is no observation id")


def select(index: pd.DataFrame, query: IndexQuery) -> list[str]:
    """Select the observations that match a query and have its product, ordered by id.

    An observation matches if its bounding box overlaps that of the query.

    Raises:
        MarsError: none matches, or thousands do and the query has no limit.
    """
    rows = index[index["PRODUCT_ID"].str.endswith(f"_{_indexed_product(query.product)}")]
    south, north = query.latitude
    fits = (rows["MAXIMUM_LATITUDE"] >= south) & (rows["MINIMUM_LATITUDE"] <= north)
    fits &= _overlaps(rows, query.longitude)
    # Unrestricted bounds keep rows whose value is missing from the index.
    if query.incidence != (0, 180):
        fits &= rows["INCIDENCE_ANGLE"].between(*query.incidence)
    first, last = query.solar_longitude
    if _arc(first, last) < 360:
        fits &= (rows["SOLAR_LONGITUDE"] - first) % 360 <= _arc(first, last)
    matches = set(rows.loc[fits, "OBSERVATION_ID"]).difference(query.exclude)
    found = sorted(name for name in matches if observation_of(name) == name)
    if not found:
        raise MarsError(f"no observation in the index matches {query}: widen the query, or choose another product")
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
