"""Reading of crater catalogues in all formats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from affine import Affine

from mars_assets.craters.catalogues.columns import (
    UNITS,
    About,
    Layout,
    beside,
    knows_place,
    knows_size,
    layout_of,
    read_about,
)
from mars_assets.craters.catalogues.crater_list import (
    COLUMNS,
    GROUND,
    PIXELS,
    Area,
    Counted,
    CraterList,
    Float64,
    Mask,
    crater_table,
)
from mars_assets.craters.catalogues.formats import AREA_LAYER, READERS, Raw, read_layer
from mars_assets.craters.crater_map import IAU_RADIUS
from mars_assets.errors import MarsError
from mars_assets.lake import CRATERS_TABLE, GEOPACKAGE, PROVENANCE
from mars_assets.storage.files import read_json, read_table, shown

_BLANK = ("", "nan", "none", "null", "na", "n/a", "-")
"""What stands for a missing number, in any case."""
_LARGEST_M = 5e6
"""No crater is wider, in metres."""


def read_craters(path: Path, about: About | None = None) -> CraterList:
    """Read a crater catalogue, or the folder of a crater map.

    Args:
        path: a GeoPackage, shapefile, CSV, (Geo)Parquet or ``.scc``, or a folder that ``mars-assets map`` wrote.
        about: what its columns are; by default what ``NAME.yaml`` beside it states.

    Raises:
        DamagedFileError: the file cannot be read.
        MarsError: its columns are not known or have what no crater has, or it is in another format.
    """
    if path.is_dir():
        return _read_map(path)
    if not path.exists():
        raise MarsError(f"{shown(path)} does not exist: name a catalogue, or the folder of a crater map")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise MarsError(f"{shown(path)} is none of the catalogues that are read: {', '.join(READERS)}")
    about = read_about(path) if about is None else about
    raw = _drawn(reader(path), about)
    layout = layout_of(path, [str(name) for name in raw.table], about)
    ground, radius = (raw.area, raw.scenes), raw.radius
    if about.image is not None:
        raw = raw.selected((raw.table[layout.others["image"]].astype(str) == about.image).to_numpy(bool))
        if raw.table.empty:
            raise MarsError(f"{shown(path)} has no rows of image: {about.image}, which {beside(path).name} states")
    if raw.table.empty:
        raise MarsError(f"{shown(path)} lists no crater: there is nothing to compare with")
    values = _Numbers(path, raw).values(layout)
    known = np.asarray(np.isfinite(np.column_stack(list(values.values()))).all(axis=1))
    if not known.any():
        raise MarsError(
            f"{shown(path)}: no row has numbers in {', '.join(_number_columns(layout))}: look whether these are the "
            "right columns"
        )
    notes = _left_out(path, raw, known)
    raw, values = raw.selected(known), {name: column[known] for name, column in values.items()}
    numbers = _Numbers(path, raw)
    numbers.check(values)
    columns: dict[str, object] = {"row": raw.line.astype(int), **_placed(values, about, radius)}
    for name, column in layout.others.items():
        if name in ("probability", "confidence"):
            columns[name] = numbers.score(column)
        else:
            columns[name] = raw.table[column].fillna("").astype(str).str.strip().to_numpy()
    craters = crater_table(columns, len(raw.table))
    _check_annotators(path, craters, about)
    return _complete(path, craters, about, ground, notes)


class _Numbers:
    """Reads the numbers of a file's rows, and refuses what no crater has."""

    def __init__(self, path: Path, raw: Raw) -> None:
        self._path, self._raw = path, raw

    def values(self, layout: Layout) -> dict[str, Float64]:
        """Read places and sizes, diameters in metres and pixels; NaN where there is none."""
        if layout.boxes:
            left, top, right, bottom = map(self._column, layout.boxes)
            self._refuse((right <= left) | (bottom <= top), "has a box whose end is not after its beginning")
            return {
                "x_px": (left + right) / 2,
                "y_px": (top + bottom) / 2,
                "diameter_px": (right - left + bottom - top) / 2,
            }
        ground, pixels = {}, {}
        if layout.ground:
            *names, unit = layout.ground
            ground = {key: self._column(str(name)) for key, name in zip(GROUND, names, strict=True)}
            ground["diameter_m"] = ground["diameter_m"] * unit
        if layout.pixels:
            pixels = {key: self._column(name) for key, name in zip(PIXELS, layout.pixels, strict=True)}
        both = [part for part in (ground, pixels) if part]
        # A map of a raster without a projection has the columns of both, those of the ground empty.
        filled = [part for part in both if all(np.isfinite(column).any() for column in part.values())] or both[:1]
        return {name: column for part in filled for name, column in part.items()}

    def score(self, name: str) -> Float64:
        """Read a probability; NaN where there is none."""
        values = self._column(name)
        self._refuse((values < 0) | (values > 1), f"has a {name} outside 0 to 1")
        return values

    def check(self, values: dict[str, Float64]) -> None:
        """Check places and sizes.

        Raises:
            MarsError: a place is not on Mars, or a diameter is not above 0 or larger than Mars.
        """
        for name in ("diameter_m", "diameter_px"):
            if name in values:
                self._refuse(values[name] <= 0, "has a diameter of 0 or less")
        if "latitude" in values:
            self._refuse(np.abs(values["latitude"]) > 90, "has a latitude beyond 90 degrees")
            self._refuse(np.abs(values["longitude"]) > 360, "has a longitude beyond 360 degrees")
            self._refuse(values["diameter_m"] > _LARGEST_M, "has a diameter larger than Mars")

    def _column(self, name: str) -> Float64:
        """Read a column's numbers; NaN where there is none.

        Raises:
            MarsError: it has something else.
        """
        column = self._raw.table[name]
        if pd.api.types.is_numeric_dtype(column):
            return np.asarray(column.to_numpy(np.float64, na_value=np.nan))
        text = column.fillna("").astype(str).str.strip()
        numbers = pd.to_numeric(text, errors="coerce").to_numpy(np.float64)
        wrong = np.isnan(numbers) & ~text.str.casefold().isin(_BLANK).to_numpy(bool)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise MarsError(
                f"{self._where(row)}: {name} is {text.iloc[row]!r} and no number: correct it, with a point before "
                "decimals, or leave it blank"
            )
        return np.asarray(numbers)

    def _refuse(self, wrong: Mask, what: str) -> None:
        if wrong.any():
            more = f", as have {int(wrong.sum()) - 1} others" if wrong.sum() > 1 else ""
            raise MarsError(
                f"{self._where(int(np.argmax(wrong)))} {what}{more}: correct the file, or state its columns and units "
                f"in {beside(self._path).name}"
            )

    def _where(self, row: int) -> str:
        return f"{shown(self._path)}, {self._raw.what} {self._raw.line[row]:.0f}"


def _drawn(raw: Raw, about: About) -> Raw:
    """Add what the geometry says to the columns, where these say nothing."""
    if raw.circles is None or about.unit == "px" or about.boxes:
        return raw
    names = [str(name) for name in raw.table]
    longitude, latitude, diameter = raw.circles
    table = raw.table
    if not knows_place(names, about):
        table = table.assign(longitude=longitude, latitude=latitude)
    if not knows_size(names, about) and np.isfinite(diameter).all():
        table = table.assign(diameter_iau_m=diameter)
    return replace(raw, table=table, circles=None)


def _number_columns(layout: Layout) -> list[str]:
    ground = layout.ground[:3] if layout.ground else ()
    return list(dict.fromkeys([*ground, *(layout.pixels or ()), *(layout.boxes or ())]))


def _left_out(path: Path, raw: Raw, known: Mask) -> list[str]:
    """Say which rows have no numbers, if there are any."""
    if known.all():
        return []
    missing = raw.line[~known]
    rows = ", ".join(f"{line:.0f}" for line in missing[:5]) + (" and others" if len(missing) > 5 else "")
    return [
        f"{len(missing)} of {len(known)} rows of {shown(path.name)} have no place or size and are left out: {raw.what} "
        f"{rows}"
    ]


def _placed(values: dict[str, Float64], about: About, radius: float) -> dict[str, Float64]:
    """Turn longitudes to the east, and bring diameters onto IAU 2015's sphere."""
    if "longitude" not in values:
        return values
    own = radius if about.radius_km is None else about.radius_km * 1000
    longitude = -values["longitude"] if about.west_positive else values["longitude"]
    return values | {"longitude": longitude % 360, "diameter_m": values["diameter_m"] * (IAU_RADIUS / own)}


def _check_annotators(path: Path, craters: pd.DataFrame, about: About) -> None:
    """Refuse several lists in one file without saying which one is the truth.

    Raises:
        MarsError: there is no reference, or none of that name.
    """
    names = sorted(set(craters["annotator"]))
    if about.reference is None and len(names) > 1:
        raise MarsError(
            f"{shown(path)} has the craters of {', '.join(names)}: write reference: and the one whose craters are true "
            f"into {beside(path).name}"
        )
    if about.reference is not None and about.reference not in names:
        raise MarsError(
            f"{shown(path)} has no craters of {about.reference}, the reference that {beside(path).name} states: choose "
            f"one of {', '.join(names)}"
        )


def _complete(
    path: Path,
    craters: pd.DataFrame,
    about: About,
    ground: tuple[Area | None, Sequence[Counted]],
    notes: Sequence[str],
) -> CraterList:
    """Add where craters were looked for, and from which size on."""
    area, scenes = ground
    marked = craters[craters["annotator"] == about.reference] if about.reference else craters
    smallest = {"m": float(marked["diameter_m"].min()), "px": float(marked["diameter_px"].min())}
    stated = {}
    if about.smallest_m is not None:
        stated["m"] = about.smallest_m
    elif about.smallest is not None:
        unit = about.unit or "px"
        stated["px" if unit == "px" else "m"] = about.smallest * UNITS[unit]
    smallest |= stated
    counted = [Counted(area, smallest_m=smallest["m"], smallest_px=smallest["px"])]
    if scenes and not stated:
        counted = list(scenes)
    states_size = bool(stated or scenes)
    return CraterList(shown(path.name), craters, counted, about.reference or "", states_size, tuple(notes))


def _read_map(folder: Path) -> CraterList:
    """Read the map of a scene.

    Raises:
        MarsError: the folder has no finished map.
    """
    import shapely

    if not all((folder / name).exists() for name in (PROVENANCE, CRATERS_TABLE, GEOPACKAGE)):
        raise MarsError(f"{shown(folder)} has no finished crater map ({PROVENANCE}): name the folder of one, or a file")
    about = read_json(folder / PROVENANCE)
    table = read_table(folder / CRATERS_TABLE, "crater_maps")
    columns: dict[str, object] = {name: table[name].to_numpy() for name in COLUMNS if name in table}
    craters = crater_table(columns | {"diameter_m": table["diameter_iau_m"].to_numpy()}, len(table))
    crs, transform = about["grid"]["crs"], about["grid"]["transform"]
    # Of an image without a projection, the layers are drawn upright.
    a, b, c, d, e, f = (Affine.scale(1, -1) if crs is None else ~Affine(*transform))[:6]
    drawn = shapely.union_all(read_layer(folder / GEOPACKAGE, AREA_LAYER).geometry.to_numpy())
    area = shapely.transform(drawn, lambda points: points @ np.array([[a, d], [b, e]]) + [c, f])
    smallest = float(about["smallest_px"])
    metres = float((craters["diameter_m"] / craters["diameter_px"]).max()) if len(craters) else 0.0
    counted = Counted(
        Area(area, crs, None if crs is None else tuple(transform)),
        smallest_m=0.0 if np.isnan(metres) else smallest * metres,
        smallest_px=smallest,
    )
    return CraterList(str(about["scene"]), craters, [counted])
