"""Units of the quantities in PDS3 labels.

A label states a unit after a value (``0.5 <METERS/PIXEL>``) or for a column of a table (``UNIT = DEGREE``), in several
spellings. A quantity without a unit is in the one that HiRISE's labels use, which is the one it is read in here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

Wanted = Literal["degrees", "metres per pixel", "kilometres", "nanometres", "pixels", "a pure number"]

_METRES = {"KM": 3, "KILOMETER": 3, "M": 0, "METER": 0, "CM": -2, "CENTIMETER": -2, "MM": -3, "MILLIMETER": -3}
_METRES |= {"UM": -6, "MICROMETER": -6, "MICRON": -6, "NM": -9, "NANOMETER": -9, "A": -10, "ANGSTROM": -10}
"""Lengths as powers of ten of a metre."""
_PIXEL = ("PIXEL", "PIX", "PX", "P")


def _lengths(power: int) -> dict[str, float]:
    return {name: 10.0 ** (own - power) for name, own in _METRES.items()}


_FACTORS: Mapping[Wanted, Mapping[str, float]] = {
    "degrees": dict.fromkeys(("DEG", "DEGREE", "°"), 1.0) | dict.fromkeys(("RAD", "RADIAN"), math.degrees(1)),
    "metres per pixel": {
        f"{name}{per}": factor for name, factor in _lengths(0).items() for per in ("", *(f"/{p}" for p in _PIXEL))
    },
    "kilometres": _lengths(3),
    "nanometres": _lengths(-9),
    "pixels": dict.fromkeys((*_PIXEL, "LINE", "SAMPLE", "BAND", "BIT"), 1.0),
    "a pure number": dict.fromkeys(("N/A", "NONE", "DIMENSIONLESS", "UNITLESS", "I/F", "DN"), 1.0),
}

MISSING = ("", "NULL", "N/A", "NA", "UNK", "UNKNOWN", "NAN")
"""Words for a missing value, in capitals: those of the PDS3 standard and their usual misspellings."""


class UnitError(ValueError):
    """A unit that is not known for its quantity."""


def factor_of(name: str, unit: str | None, wanted: Wanted) -> float:
    """Look up the factor that converts a quantity's unit to the wanted one.

    Args:
        name: the quantity, for the error message.
        unit: the stated unit; None or empty if there is none, which means the wanted one.
        wanted: the unit to convert to.

    Raises:
        UnitError: the unit is unknown, or is one of another kind of quantity.
    """
    if not (unit or "").strip():
        return 1.0
    if (factor := _FACTORS[wanted].get(_plain(unit or ""))) is None:
        raise UnitError(f"{name} is stated in {unit!r}, but should be {wanted}, or in a known unit that converts to it")
    return factor


def number_of(name: str, value: Any, wanted: Wanted) -> float:
    """Convert a value from a label, with or without a unit.

    Args:
        name: the keyword, for error messages.
        value: a number, or pvl's pair of value and units.
        wanted: the unit to convert to.

    Raises:
        ValueError: it is no finite number.
        UnitError: its unit is unknown.
    """
    number = getattr(value, "value", value)
    factor = factor_of(name, getattr(value, "units", None), wanted)
    try:
        converted = float(number) * factor
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name} is {number!r}, not a number") from error
    if not math.isfinite(converted):
        raise ValueError(f"{name} is {number!r}, not a finite number")
    return converted


def is_missing(value: Any) -> bool:
    """Test whether a value from a label stands for no value."""
    value = getattr(value, "value", value)
    return value is None or (isinstance(value, str) and value.strip().upper() in MISSING)


def _plain(unit: str) -> str:
    """Spell a unit as the table does: capitals, American, singular, with a slash."""
    text = unit.strip().strip("<>").replace("\N{MICRO SIGN}", "u").upper().replace(" PER ", "/")
    text = text.removesuffix(" EAST").removesuffix(" NORTH")
    words = (word.strip().replace("METRE", "METER") for word in text.split("/"))
    return "/".join(word.removesuffix("S") if len(word) > 2 else word for word in words)
