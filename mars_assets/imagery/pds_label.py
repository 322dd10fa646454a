"""Detached PDS3 labels of HiRISE products.

They state size, bands, special values and I/F scaling.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pvl
from pvl.exceptions import ParseError, QuantityError

from mars_assets.errors import DamagedFileError


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


@contextmanager
def parsed_label(path: Path, what: str) -> Iterator[Any]:
    """Yield the content of a label.

    Args:
        path: the file.
        what: name of what the file should be, for the error message.

    Raises:
        DamagedFileError: the file is truncated, not PVL, or lacks something that the block looks for.
    """
    try:
        text = path.read_bytes().decode("latin-1")
        if text.rstrip()[-4:].strip() != "END":
            raise ValueError("it lacks the closing END")
        yield pvl.loads(text)
    except (AttributeError, KeyError, TypeError, ValueError, StopIteration, ParseError, QuantityError) as error:
        raise DamagedFileError(f"{path} is not {what} ({type(error).__name__}: {error}). Fetch it again") from error


def read_label(path: Path) -> ProductLabel:
    """Read a detached label.

    Raises:
        DamagedFileError: the file is not a PDS3 label, lacks a keyword, or contradicts itself.
    """
    with parsed_label(path, "the PDS3 label of a HiRISE image") as label:
        image = label["UNCOMPRESSED_FILE"]["IMAGE"]
        projection = label.get("IMAGE_MAP_PROJECTION")
        read = ProductLabel(
            observation=str(label["OBSERVATION_ID"]),
            lines=int(image["LINES"]),
            samples=int(image["LINE_SAMPLES"]),
            bands=int(image["BANDS"]),
            band_names=tuple(str(name) for name in _several(image["FILTER_NAME"])),
            wavelengths_nm=tuple(_number(value) for value in _several(image.get("CENTER_FILTER_WAVELENGTH", []))),
            sample_bits=int(image["SAMPLE_BITS"]),
            significant_bits=_significant_bits(image),
            scaling_factor=_of_all_bands(image, "SCALING_FACTOR"),
            offset=_of_all_bands(image, "OFFSET"),
            core_null=int(_of_all_bands(image, "CORE_NULL")),
            low_saturation=_saturation(image, "LOW"),
            high_saturation=_saturation(image, "HIGH"),
            incidence_angle=_number(label["VIEWING_PARAMETERS"]["INCIDENCE_ANGLE"]),
            map_scale=None if projection is None else _number(projection["MAP_SCALE"]),
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
    return read


def _several(value: Any) -> tuple[Any, ...]:
    # A value with a unit is a named tuple in pvl; a sequence of values is a list.
    return tuple(value) if isinstance(value, list) else (value,)


def _number(value: Any) -> float:
    """Take the number from a value that may carry a unit, ``0.5 <METERS/PIXEL>``."""
    return float(getattr(value, "value", value))


def _of_all_bands(image: Mapping[str, Any], key: str) -> float:
    values = {_number(value) for value in _several(image[key])}
    if len(values) != 1:
        raise ValueError(f"{key} differs between the bands: {sorted(values)}")
    return values.pop()


def _significant_bits(image: Mapping[str, Any]) -> int:
    if "SAMPLE_BIT_MASK" not in image:
        return int(image["SAMPLE_BITS"])
    return int(_of_all_bands(image, "SAMPLE_BIT_MASK")).bit_length()


def _saturation(image: Mapping[str, Any], side: str) -> tuple[int, ...]:
    keys = (f"CORE_{side}_REPR_SATURATION", f"CORE_{side}_INSTR_SATURATION")
    return tuple(sorted(int(_of_all_bands(image, key)) for key in keys if key in image))
