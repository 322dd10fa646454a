"""Detached PDS3 labels of HiRISE products.

They state size, bands, special values and I/F scaling.
"""

from __future__ import annotations

import codecs
import functools
import string
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pvl
from pvl.collections import Quantity
from pvl.exceptions import LexerError, ParseError, QuantityError
from pvl.parser import OmniParser

from mars_assets.errors import DamagedFileError
from mars_assets.imagery.units import UnitError, Wanted, factor_of, is_missing, number_of

_PADDING = string.whitespace + "\0\x1a"
_NONSENSE = (
    *(AttributeError, LookupError, TypeError, ValueError, ArithmeticError, RecursionError, StopIteration),
    *(ParseError, QuantityError),
)
"""Exceptions of pvl and Python on what is no label."""
_MAP_SCALES, _RADII = (0.01, 100.0), (3000.0, 4000.0)
"""Plausible values for HiRISE's images of Mars: 0.25 to 2 metres per pixel and 3376 to 3396 km are usual."""
_READ_BY_GDAL: Mapping[str, Wanted] = {
    "CENTER_LATITUDE": "degrees",
    "CENTER_LONGITUDE": "degrees",
    "MAP_PROJECTION_ROTATION": "degrees",
    "LINE_PROJECTION_OFFSET": "pixels",
    "SAMPLE_PROJECTION_OFFSET": "pixels",
}
"""Quantities of the projection that only GDAL reads, whatever their unit."""


@dataclass(frozen=True)
class ProductLabel:
    """The description of a product's pixels in its label.

    Args:
        observation: id of the observation.
        lines, samples, bands: height and width of the image in pixels, and its number of bands.
        band_names: the filters, in the image's order, e.g. ``("NEAR-INFRARED", "RED", "BLUE-GREEN")``.
        wavelengths_nm: central wavelengths of the filters in nanometres; empty if the label has none.
        sample_bits: storage size of a sample in bits.
        significant_bits: bits that carry a value: 10 of 16 in HiRISE's RDR products.
        scaling_factor, offset: I/F is ``DN * scaling_factor + offset``, in all bands.
        core_null: the DN for no data.
        low_saturation, high_saturation: the DN for values below or above what could be recorded or represented.
        incidence_angle: angle between the sun and the surface normal, degrees.
        map_scale: metres per pixel; None for a product that is not map projected.
        radius_km: equatorial radius of the projection in kilometres; None likewise.
    """

    observation: str
    lines: int
    samples: int
    bands: int
    band_names: tuple[str, ...]
    wavelengths_nm: tuple[float, ...]
    sample_bits: int
    significant_bits: int
    scaling_factor: float
    offset: float
    core_null: int
    low_saturation: tuple[int, ...]
    high_saturation: tuple[int, ...]
    incidence_angle: float
    map_scale: float | None
    radius_km: float | None


@contextmanager
def parsed_label(path: Path, what: str) -> Iterator[Any]:
    """Yield the content of a label.

    Blanks, NUL bytes and the Ctrl-Z of old systems may follow its END.

    Args:
        path: the file.
        what: name of what the file should be, for the error message.

    Raises:
        DamagedFileError: the file is truncated, not PVL, lacks something that the block looks for, or states a value in
            an unknown unit.
    """
    try:
        text = path.read_bytes().removeprefix(codecs.BOM_UTF8).decode("latin-1").rstrip(_PADDING)
        if text[-4:].strip() != "END":
            raise ValueError("it lacks the closing END")
        if "\0" in text:
            number = text.count("\n", 0, text.index("\0")) + 1
            raise ValueError(f"line {number} contains NUL bytes, as an interrupted download leaves them")
        yield _parsed(text)
    except UnitError as error:
        raise DamagedFileError(f"{path}: {error}. Correct the unit in the label, or fetch the label again") from error
    except _NONSENSE as error:
        reason = textwrap.shorten(f"{type(error).__name__}: {error.args[-1] if error.args else ''}", 200)
        raise DamagedFileError(f"{path} is not {what} ({reason}). Fetch it again") from error


class _Parser(OmniParser):  # type: ignore[misc]
    """Parser of pvl that does not loop on an equals sign after a number."""

    def parse_module_post_hook(self, module: Any, tokens: Any) -> tuple[Any, bool]:
        """Repair an empty assignment, as pvl does.

        Raises:
            ValueError: nothing of the label was read.
        """
        before = self._place(tokens)
        read, goes_on = super().parse_module_post_hook(module, tokens)
        if goes_on and self._place(tokens) == before:
            raise ValueError("an equals sign follows a value")
        return read, goes_on

    @staticmethod
    def _place(tokens: Any) -> int | None:
        token = next(tokens, None)
        if token is None:
            return None
        tokens.send(token)
        return int(token.pos)


@functools.lru_cache(maxsize=4)  # a label is read when its product is verified, and again when it is used
def _parsed(text: str) -> Any:
    try:
        return pvl.loads(text, parser=_Parser())
    except LexerError as error:
        reason = "a quotation mark has no partner" if text.count('"') % 2 else error.args[-1]
        raise ValueError(f"near line {error.lineno}: {reason}") from error


def read_label(path: Path) -> ProductLabel:
    """Read a detached label.

    Quantities are converted from the units that the label states.

    Raises:
        DamagedFileError: the file is not a PDS3 label, lacks a keyword, states an unknown unit, or contradicts itself.
    """
    with parsed_label(path, "the PDS3 label of a HiRISE image") as label:
        image = label["UNCOMPRESSED_FILE"]["IMAGE"]
        projection = label.get("IMAGE_MAP_PROJECTION") or {}
        for key, unit in _READ_BY_GDAL.items():
            _check_unit(projection, key, unit)
        read = ProductLabel(
            observation=str(label["OBSERVATION_ID"]),
            lines=_count(image, "LINES"),
            samples=_count(image, "LINE_SAMPLES"),
            bands=_count(image, "BANDS"),
            band_names=tuple(str(name) for name in _several(image["FILTER_NAME"])),
            wavelengths_nm=_wavelengths(image),
            sample_bits=_count(image, "SAMPLE_BITS"),
            significant_bits=_significant_bits(image),
            scaling_factor=_of_all_bands(image, "SCALING_FACTOR"),
            offset=_of_all_bands(image, "OFFSET"),
            core_null=int(_of_all_bands(image, "CORE_NULL")),
            low_saturation=_saturation(image, "LOW"),
            high_saturation=_saturation(image, "HIGH"),
            incidence_angle=number_of("INCIDENCE_ANGLE", label["VIEWING_PARAMETERS"]["INCIDENCE_ANGLE"], "degrees"),
            map_scale=_optional(projection["MAP_SCALE"] if projection else None, "MAP_SCALE", "metres per pixel"),
            radius_km=_optional(projection.get("A_AXIS_RADIUS"), "A_AXIS_RADIUS", "kilometres"),
        )
    if min(read.lines, read.samples, read.bands) < 1 or len(read.band_names) != read.bands:
        raise DamagedFileError(
            f"{path} contradicts itself: {read.lines} x {read.samples} pixels, {read.bands} bands, "
            f"filters {', '.join(read.band_names)}. Fetch it again"
        )
    if not (read.scaling_factor > 0 and 0 <= read.incidence_angle <= 180):
        raise DamagedFileError(
            f"{path}: scaling factor {read.scaling_factor} or incidence angle {read.incidence_angle} is out of range. "
            "Fetch it again"
        )
    for name, value, (lowest, highest) in (
        ("map scale in metres per pixel", read.map_scale, _MAP_SCALES),
        ("radius of the planet in km", read.radius_km, _RADII),
    ):
        if value is not None and not lowest <= value <= highest:
            raise DamagedFileError(
                f"{path}: the {name} is {value:g}, not between {lowest:g} and {highest:g}. Correct the number or its "
                "unit in the label, or fetch the label again"
            )
    return read


def _several(value: Any) -> tuple[Any, ...]:
    """Spread a sequence of values; a unit after the sequence is that of each."""
    # A value with a unit is a named tuple in pvl; a sequence of values is a list.
    if isinstance(each := getattr(value, "value", value), list):
        return tuple(Quantity(one, value.units) if each is not value else one for one in each)
    return (value,)


def _count(block: Mapping[str, Any], key: str) -> int:
    number = number_of(key, block[key], "pixels")
    if not number.is_integer():
        raise ValueError(f"{key} is {number}, not a whole number")
    return int(number)


def _optional(value: Any, key: str, wanted: Wanted) -> float | None:
    return None if is_missing(value) else number_of(key, value, wanted)


def _wavelengths(image: Mapping[str, Any]) -> tuple[float, ...]:
    values = _several(image.get("CENTER_FILTER_WAVELENGTH", []))
    return tuple(
        number_of("CENTER_FILTER_WAVELENGTH", value, "nanometres") for value in values if not is_missing(value)
    )


def _check_unit(block: Mapping[str, Any], key: str, wanted: Wanted) -> None:
    """Raise a UnitError unless a value is in the wanted unit itself, as GDAL assumes."""
    unit = getattr(block.get(key), "units", None)
    if factor_of(key, unit, wanted) != 1:
        raise UnitError(f"{key} is stated in {unit!r}, but is read in {wanted} only")


def _of_all_bands(image: Mapping[str, Any], key: str) -> float:
    values = {number_of(key, value, "a pure number") for value in _several(image[key])}
    if len(values) != 1:
        raise ValueError(f"{key} differs between the bands: {sorted(values)}")
    return values.pop()


def _significant_bits(image: Mapping[str, Any]) -> int:
    if "SAMPLE_BIT_MASK" not in image:
        return _count(image, "SAMPLE_BITS")
    return int(_of_all_bands(image, "SAMPLE_BIT_MASK")).bit_length()


def _saturation(image: Mapping[str, Any], side: str) -> tuple[int, ...]:
    keys = (f"CORE_{side}_REPR_SATURATION", f"CORE_{side}_INSTR_SATURATION")
    return tuple(sorted(int(_of_all_bands(image, key)) for key in keys if key in image))
