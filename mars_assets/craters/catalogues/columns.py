"""The columns of a catalogue, by the names of the field or as stated.

A YAML file beside a catalogue, ``craters.yaml`` for ``craters.csv``, states what a name does not say.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mars_assets.errors import MarsError, all_problems
from mars_assets.storage.files import shown

Unit = Literal["m", "km", "px"]

UNITS: dict[Unit, float] = {"m": 1.0, "km": 1000.0, "px": 1.0}
"""Metres, or pixels, in each."""
BOXES = ("xmin", "ymin", "xmax", "ymax")

_LONGITUDES = (
    *("longitude", "longitude_circle_image", "lon_circ_img", "lon_circle_image", "longitude_c", "longitude_"),
    *("center_longitude", "center_lon", "lon", "long", "x_coord"),
)
_LATITUDES = (
    *("latitude", "latitude_circle_image", "lat_circ_img", "lat_circle_image", "latitude_c", "latitude_"),
    *("center_latitude", "center_lat", "lat", "y_coord"),
)
_DIAMETERS: dict[str, Unit] = {
    "diameter_iau_m": "m",
    "diameter_m": "m",
    "diam_m": "m",
    "diam_circle_image": "km",
    "diam_circ_img": "km",
    "diam_circl": "km",
    "diameter_km": "km",
    "diam_km": "km",
    "diam": "km",
}
_PIXELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("x_px", ("x_px", "x")),
    ("y_px", ("y_px", "y")),
    ("diameter_px", ("diameter_px", "diameter_pix", "diam_px")),
)
_SCORES = ("probability", "confidence")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Columns(_Strict):
    """Names of a file's columns."""

    longitude: str | None = None
    latitude: str | None = None
    x: str | None = None
    y: str | None = None
    diameter: str | None = None
    probability: str | None = None
    terrain: str | None = None
    annotator: str | None = None
    image: str | None = None


class Boxes(_Strict):
    """Names of the columns of boxes around craters, in pixels."""

    xmin: str
    ymin: str
    xmax: str
    ymax: str


class About(_Strict):
    """What a user states about a catalogue.

    Args:
        columns: names of columns.
        boxes: names of the columns of boxes, in place of centres and diameters.
        unit: of the diameters.
        image: the one to read of several images in a file, by the column ``image``.
        reference: the annotator by whom others are judged.
        smallest: diameter in ``unit`` from which every crater is listed.
        smallest_m: the same in metres.
        radius_km: radius of the sphere on which diameters were measured.
        west_positive: whether longitudes grow to the west.
    """

    columns: Columns = Columns()
    boxes: Boxes | None = None
    unit: Unit | None = None
    image: str | None = None
    reference: str | None = None
    smallest: float | None = Field(None, gt=0, allow_inf_nan=False)
    smallest_m: float | None = Field(None, gt=0, allow_inf_nan=False)
    radius_km: float | None = Field(None, ge=3370, le=3400)
    west_positive: bool = False

    @model_validator(mode="after")
    def _agree(self) -> About:
        columns = self.columns
        if self.smallest is not None and (self.smallest_m is not None or (self.unit is None and self.boxes is None)):
            raise ValueError("smallest needs unit, and excludes smallest_m")
        if self.boxes is not None and (columns.x or columns.y or columns.diameter or self.unit not in (None, "px")):
            raise ValueError("boxes are in pixels, and exclude the columns x, y and diameter, and another unit")
        if self.image is not None and columns.image is None:
            raise ValueError("image needs columns: {image: ...}, the column that names the image of each row")
        if self.reference is not None and columns.annotator is None:
            raise ValueError("reference needs columns: {annotator: ...}, the column that names who marked a crater")
        if columns.diameter is not None and self.unit is None and plain(columns.diameter) not in _DIAMETERS:
            raise ValueError("columns: {diameter: ...} needs unit: m, km or px")
        return self


@dataclass(frozen=True)
class Layout:
    """Which of a file's columns have what.

    Args:
        ground: columns of longitude, latitude and diameter, and the diameters' unit in metres; None without.
        pixels: columns of x, y and diameter; None without.
        boxes: columns of boxes; None without.
        others: columns of probability, confidence, terrain, annotator and image, as far as there are any.
    """

    ground: tuple[str, str, str, float] | None
    pixels: tuple[str, str, str] | None
    boxes: tuple[str, str, str, str] | None
    others: dict[str, str]


def plain(name: str) -> str:
    """Reduce a column's name: ``Diameter (km)`` to ``diameter_km``."""
    return re.sub(r"[^a-z0-9]+", "_", name.casefold().strip()).removesuffix("_") + ("_" if name.endswith("_") else "")


def read_about(path: Path) -> About:
    """Read what is stated beside a catalogue, ``NAME.yaml``.

    Raises:
        MarsError: it is no YAML, or states what there is not.
    """
    stated = beside(path)
    if not stated.exists():
        return About()
    try:
        content: Any = yaml.safe_load(stated.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise MarsError(f"{shown(stated)} is not valid YAML ({error}): correct it, or remove it") from error
    try:
        return About.model_validate({} if content is None else content)
    except ValidationError as error:
        raise MarsError(
            f"{shown(stated)} states what a catalogue does not have: {all_problems(error)}. The keys are "
            f"{', '.join(About.model_fields)}; those of columns {', '.join(Columns.model_fields)}"
        ) from error


def beside(path: Path) -> Path:
    """Locate the file that states what a catalogue's columns are."""
    return path.with_suffix(".yaml")


def layout_of(path: Path, names: Sequence[str], about: About) -> Layout:
    """Find what a file's columns are.

    Raises:
        MarsError: a stated column is missing, or neither places nor sizes are known.
    """
    stated = {key: name for key, name in about.columns if name is not None}
    boxes = tuple(dict(about.boxes).values()) if about.boxes else ()
    if missing := [name for name in (*stated.values(), *boxes) if name not in names]:
        raise MarsError(
            f"{shown(path)} has no column {', '.join(missing)}, which {beside(path).name} states. It has {_some(names)}"
        )
    known: dict[str, str] = {}
    for name in names:
        known.setdefault(plain(name), name)
    others = {key: known[key] for key in (*_SCORES, "terrain") if key in known}
    others |= {key: name for key, name in stated.items() if key in ("probability", "terrain", "annotator", "image")}
    if boxes:
        return Layout(None, None, (boxes[0], boxes[1], boxes[2], boxes[3]), others)
    ground = None if about.unit == "px" else _ground(path, known, stated, about.unit)
    pixels = _pixels(known, stated, about.unit)
    if ground is None and pixels is None:
        raise MarsError(_how_to_state(path, names, known))
    return Layout(ground, pixels, None, others)


def knows_place(names: Sequence[str], about: About) -> bool:
    """Test whether columns have longitude and latitude."""
    known = {plain(name): name for name in names}
    stated = about.columns.longitude is not None and about.columns.latitude is not None
    return stated or (_first(known, _LONGITUDES) is not None and _first(known, _LATITUDES) is not None)


def knows_size(names: Sequence[str], about: About) -> bool:
    """Test whether a column has the diameter on the ground."""
    known = {plain(name): name for name in names}
    stated = about.columns.diameter is not None or (about.unit is not None and "diameter" in known)
    return stated or _first(known, tuple(_DIAMETERS)) is not None


def _ground(
    path: Path, known: dict[str, str], stated: dict[str, str], unit: Unit | None
) -> tuple[str, str, str, float] | None:
    longitude = stated.get("longitude") or _first(known, _LONGITUDES)
    latitude = stated.get("latitude") or _first(known, _LATITUDES)
    diameter, its_unit = _diameter(path, known, stated, unit)
    if longitude is None or latitude is None or diameter is None or its_unit == "px":
        return None
    return longitude, latitude, diameter, UNITS[its_unit]


def _diameter(path: Path, known: dict[str, str], stated: dict[str, str], unit: Unit | None) -> tuple[str | None, Unit]:
    """Choose the column of diameters on the ground, and its unit.

    Raises:
        MarsError: its name says another unit than the one that is stated.
    """
    if "diameter" in stated:
        return stated["diameter"], unit or _DIAMETERS[plain(stated["diameter"])]
    if (name := _first(known, tuple(_DIAMETERS))) is not None:
        its_unit = _DIAMETERS[plain(name)]
        if unit not in (None, its_unit):
            raise MarsError(
                f"{shown(path)}: {beside(path).name} states unit: {unit}, but the name of the column {name} stands for "
                f"{its_unit}: add columns: {{diameter: {name}}} if the unit is right, or correct it"
            )
        return name, its_unit
    return (known.get("diameter"), unit) if unit is not None else (None, "m")


def _pixels(known: dict[str, str], stated: dict[str, str], unit: Unit | None) -> tuple[str, str, str] | None:
    x, y, diameter = (_first(known, names) for _, names in _PIXELS)
    x, y = stated.get("x", x), stated.get("y", y)
    if unit == "px":
        diameter = stated.get("diameter") or diameter or known.get("diameter")
    return None if x is None or y is None or diameter is None else (x, y, diameter)


def _first(known: dict[str, str], names: Sequence[str]) -> str | None:
    return next((known[name] for name in names if name in known), None)


def _how_to_state(path: Path, names: Sequence[str], known: dict[str, str]) -> str:
    stating = f"state them in {shown(beside(path))}, for example:\ncolumns: {{longitude: LON, latitude: LAT, diameter: "
    if "diameter" in known:
        return (
            f"{shown(path)} does not say whether its column {known['diameter']} is in metres, kilometres or pixels: "
            f"write unit: m, km or px into {shown(beside(path))}"
        )
    return (
        f"{shown(path)} has no columns that are known as place and diameter, but {_some(names)}: {stating}D}}\nunit: km"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
