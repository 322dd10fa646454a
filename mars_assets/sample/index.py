"""The synthetic archive's cumulative index.

It has HiRISE's format: a table and its label.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mars_assets.imagery.index import CORNERS, INDEX_FILES
from mars_assets.imagery.products import parse_observation_id, product_files
from mars_assets.sample.products import METRES, NOTE, MapPosition
from mars_assets.sample.terrain import SceneSpec
from mars_assets.storage.files import write_bytes

_TEXT, _INTEGER, _REAL, _TIME = "CHARACTER", "ASCII_INTEGER", "ASCII_REAL", "TIME"

# Name, data type and width of the real index's columns, in its order.
_COLUMNS = (
    ("VOLUME_ID", _TEXT, 10),
    ("FILE_NAME_SPECIFICATION", _TEXT, 67),
    ("INSTRUMENT_HOST_ID", _TEXT, 3),
    ("INSTRUMENT_ID", _TEXT, 6),
    ("OBSERVATION_ID", _TEXT, 15),
    ("PRODUCT_ID", _TEXT, 21),
    ("PRODUCT_VERSION_ID", _TEXT, 3),
    ("TARGET_NAME", _TEXT, 32),
    ("ORBIT_NUMBER", _INTEGER, 6),
    ("MISSION_PHASE_NAME", _TEXT, 30),
    ("RATIONALE_DESC", _TEXT, 75),
    ("OBSERVATION_START_TIME", _TIME, 24),
    ("OBSERVATION_START_COUNT", _TEXT, 20),
    ("START_TIME", _TIME, 24),
    ("SPACECRAFT_CLOCK_START_COUNT", _TEXT, 20),
    ("STOP_TIME", _TIME, 24),
    ("SPACECRAFT_CLOCK_STOP_COUNT", _TEXT, 20),
    ("IMAGE_LINES", _INTEGER, 8),
    ("LINE_SAMPLES", _INTEGER, 8),
    *((name, _REAL, 14) for name in (
        "SPACECRAFT_ALTITUDE", "TARGET_CENTER_DISTANCE", "SLANT_DISTANCE", "EMISSION_ANGLE", "INCIDENCE_ANGLE",
        "PHASE_ANGLE", "NORTH_AZIMUTH", "SUB_SOLAR_AZIMUTH", "SUB_SOLAR_LATITUDE", "SUB_SOLAR_LONGITUDE",
        "SUB_SPACECRAFT_LATITUDE", "SUB_SPACECRAFT_LONGITUDE", "SOLAR_DISTANCE", "SOLAR_LONGITUDE", "LOCAL_TIME",
    )),
    ("STEREO_FLAG", _TEXT, 3),
    *((name, _REAL, 14) for name in (
        "MINIMUM_LATITUDE", "MAXIMUM_LATITUDE", "MINIMUM_LONGITUDE", "MAXIMUM_LONGITUDE", "MAP_SCALE", "MAP_RESOLUTION",
    )),
    ("MAP_PROJECTION_TYPE", _TEXT, 20),
    *((name, _REAL, 14) for name in (
        "PROJECTION_CENTER_LATITUDE", "PROJECTION_CENTER_LONGITUDE", "LINE_PROJECTION_OFFSET",
        "SAMPLE_PROJECTION_OFFSET", *CORNERS,
    )),
)  # fmt: skip


def write_index(archive: Path, scenes: Iterable[tuple[SceneSpec, float]]) -> None:
    """Write ``INDEX/RDRCUMINDEX.TAB`` and ``.LBL``.

    There is a row for each COLOR product.

    Args:
        archive: root of the tree.
        scenes: the spec of each scene, and its assumed longitude in degrees east.
    """
    rows = [_row(spec, longitude) for spec, longitude in scenes]
    table = b"".join(
        ",".join(_cell(row.get(name), kind, width) for name, kind, width in _COLUMNS).encode("ascii") + b"\r\n"
        for row in rows
    )
    assert INDEX_FILES.label is not None
    write_bytes(archive / INDEX_FILES.image, table)
    write_bytes(archive / INDEX_FILES.label, _label(len(rows), len(table) // max(1, len(rows))).encode("ascii"))


def _row(spec: SceneSpec, longitude: float) -> dict[str, Any]:
    observation = parse_observation_id(spec.observation)
    position = MapPosition.of_observation(spec.observation, longitude)
    north, south = position.latitude(0), position.latitude(spec.height)
    west, east = position.longitude(0), position.longitude(spec.width)
    corners = north, west, north, east, south, east, south, west
    return {
        "VOLUME_ID": "SYNTHETIC",
        "FILE_NAME_SPECIFICATION": product_files(spec.observation, "COLOR").image,
        "INSTRUMENT_HOST_ID": "MRO",
        "INSTRUMENT_ID": "HIRISE",
        "OBSERVATION_ID": spec.observation,
        "PRODUCT_ID": f"{spec.observation}_COLOR",
        "PRODUCT_VERSION_ID": "1",
        "TARGET_NAME": "MARS",
        "ORBIT_NUMBER": observation.orbit,
        "RATIONALE_DESC": NOTE[:75],
        "IMAGE_LINES": spec.height,
        "LINE_SAMPLES": spec.width,
        "EMISSION_ANGLE": 0.0,
        "INCIDENCE_ANGLE": spec.incidence,
        "PHASE_ANGLE": spec.incidence,
        "NORTH_AZIMUTH": 270.0,
        "SUB_SOLAR_AZIMUTH": (spec.sun_azimuth - 90) % 360,
        "STEREO_FLAG": "NO",
        "MINIMUM_LATITUDE": south,
        "MAXIMUM_LATITUDE": north,
        "MINIMUM_LONGITUDE": west,
        "MAXIMUM_LONGITUDE": east,
        "MAP_SCALE": METRES,
        "MAP_RESOLUTION": position.pixels_per_degree,
        "MAP_PROJECTION_TYPE": "EQUIRECTANGULAR",
        "PROJECTION_CENTER_LATITUDE": position.center_latitude,
        "PROJECTION_CENTER_LONGITUDE": 180.0,
        "LINE_PROJECTION_OFFSET": position.top - 0.5,
        "SAMPLE_PROJECTION_OFFSET": -position.left - 0.5,
        **dict(zip(CORNERS, corners, strict=True)),
    }


def _cell(value: Any, kind: str, width: int) -> str:
    if kind == _REAL:
        return f"{-9998 if value is None else value:{width}.6f}"
    if kind == _INTEGER:
        return f"{-9998 if value is None else value:{width}d}"
    text = f"{'UNK' if value is None else value:{width}}"
    return text if kind == _TIME else f'"{text}"'


def _label(rows: int, row_bytes: int) -> str:
    lines = [
        "PDS_VERSION_ID = PDS3",
        f"/* {NOTE}. */",
        "RECORD_TYPE = FIXED_LENGTH",
        f"RECORD_BYTES = {row_bytes}",
        f"FILE_RECORDS = {rows}",
        '^RDR_INDEX_TABLE = "RDRCUMINDEX.TAB"',
        "OBJECT = RDR_INDEX_TABLE",
        "  INDEX_TYPE = CUMULATIVE",
        "  INTERCHANGE_FORMAT = ASCII",
        f"  ROWS = {rows}",
        f"  ROW_BYTES = {row_bytes}",
        f"  COLUMNS = {len(_COLUMNS)}",
    ]
    start = 1
    for name, kind, width in _COLUMNS:
        quoted = kind == _TEXT
        lines += [
            "  OBJECT = COLUMN",
            f"    NAME = {name}",
            f"    DATA_TYPE = {kind}",
            f"    START_BYTE = {start + quoted}",
            f"    BYTES = {width}",
            "  END_OBJECT",
        ]
        start += width + 2 * quoted + 1
    return "\r\n".join([*lines, "END_OBJECT", "END", ""])
