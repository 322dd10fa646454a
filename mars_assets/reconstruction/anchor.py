"""Checks of a chip of Earth: units, gaps, and order of the bands.

A chip of HLS contains surface reflectance x 10000 in the order of ``HLS_BANDS``. Other units or another order give
losses that look like results, so what a real surface cannot reflect is refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mars_assets.bands import HLS_BANDS, VALID, WANTED, Float32
from mars_assets.errors import MarsError

_HIGHEST_8_BIT = 255.0
_LIT = 500.0  # reflectance 0.05, which only water and shadows stay below
_OFFSETS = ((1000.0, 2000.0), (7200.0, VALID[1]))
"""Where a scene's lowest value lies if it contains the offset of Sentinel-2 since 2022 (1000) or of Landsat (7273)."""
_MOSTLY, _FEW = 0.5, 0.01  # shares of pixels

_NAMES: dict[str, tuple[str, ...]] = {
    "BLUE": ("BLUE", "B02", "B2"),
    "GREEN": ("GREEN", "B03", "B3"),
    "RED": ("RED", "B04", "B4"),
    "NIR_NARROW": ("NIRNARROW", "NIR", "NIR1", "NIR08", "NEARINFRARED", "B8A", "B08A", "B08", "B8"),
    "SWIR_1": ("SWIR1", "SWIR16"),
    "SWIR_2": ("SWIR2", "SWIR22", "B12"),
    "coastal aerosol": ("COASTAL", "COASTALAEROSOL", "B01", "B1"),
    "a red edge": ("REDEDGE", "REDEDGE1", "REDEDGE2", "REDEDGE3", "REDEDGE4", "RE1", "RE2", "RE3", "RE4"),
    "cirrus or water vapour": ("CIRRUS", "WATERVAPOR", "WATERVAPOUR", "B09", "B9"),
}
_LANDSAT = {"NIR_NARROW": ("B05", "B5"), "SWIR_1": ("B06", "B6"), "SWIR_2": ("B07", "B7"), "thermal": ("B10", "B11")}
_SENTINEL = {"a red edge": ("B05", "B5", "B06", "B6", "B07", "B7"), "cirrus": ("B10",), "SWIR_1": ("B11",)}
_ONLY_SENTINEL = ("B8A", "B08A", "B08", "B8", "B12")
_MISTAKES = {"in reverse order": [5, 4, 3, 2, 1, 0], "as red, green, blue first": [2, 1, 0, 3, 4, 5]}
"""Usual other orders, as positions in the right one."""


def check_units(path: Path, chip: Float32, dtype: str, scalings: Collection[tuple[float, float]]) -> Iterator[str]:
    """Refuse values that are not reflectance x 10000.

    Args:
        path: the file, for messages.
        chip: float32, shape (6, H, W).
        dtype: data type of the file.
        scalings: the scales and offsets that the file states for its bands.

    Yields:
        Warnings.

    Raises:
        MarsError: the values are in other units, or contain a fill value.
    """
    low, high = float(chip.min()), float(chip.max())
    found = f"the anchor {path} has values from {low:g} to {high:g} ({dtype})"
    for scale, offset in scalings:
        if (scale, offset) in ((1.0, 0.0), (1e-4, 0.0)):
            continue
        raise MarsError(
            f"the anchor {path} states that its values are to be multiplied by {scale:g} and increased by {offset:g}: "
            f"apply that, and write {WANTED}"
        )
    if low < VALID[0]:
        share = float((chip < VALID[0]).any(axis=0).mean())
        raise MarsError(
            f"{found}: {share:.1%} of its pixels lie below {VALID[0]:g}, which is no reflectance; HLS marks pixels "
            "without data by -9999. Choose a chip without gaps, in " + WANTED
        )
    # Glints and clouds may be brighter than white, and are few.
    bright = float(np.percentile(chip.max(axis=0), 99))
    if bright <= VALID[1] / 10_000:
        raise MarsError(f"{found}, as reflectance of 0 to 1 has: multiply it by 10000, since {WANTED} is needed")
    if dtype in ("uint8", "int8") or (bright <= _HIGHEST_8_BIT and not _is_dark(chip)):
        raise MarsError(f"{found}, as 8-bit pictures or percentages have: give {WANTED}")
    if high > VALID[1]:
        share = float((chip > VALID[1]).any(axis=0).mean())
        raise MarsError(
            f"{found}: {share:.1%} of its pixels exceed {VALID[1]:g}, HLS's largest value. Give {WANTED}, without "
            "saturated pixels and fill values"
        )
    alike = chip[0][(chip == chip[0]).all(axis=0)]
    if (fills := np.unique(alike[alike < 0])).size:
        raise MarsError(
            f"{found}: pixels are {fills[0]:g} in all bands, as pixels without data are. Choose a chip without gaps"
        )
    if empty := float((chip == 0).all(axis=0).mean()):
        gaps = f"the anchor {path}: {empty:.1%} of its pixels are 0 in all bands, as pixels without data are"
        if empty > _FEW:
            raise MarsError(f"{gaps}. Choose a chip without gaps")
        yield f"{gaps}; they count as black"
    if any(first <= low < last for first, last in _OFFSETS):
        yield (
            f"{found}, none of them dark: if they contain an offset, as those of Sentinel-2 since 2022 (1000) and of "
            f"Landsat do, subtract it: {WANTED} is needed"
        )
    if bright <= _HIGHEST_8_BIT:
        yield f"{found}: if it does not show water or shadow alone, its units are wrong: {WANTED} is needed"


def check_order(path: Path, chip: Float32, names: Sequence[str | None], bands: Sequence[int]) -> Iterator[str]:
    """Refuse bands in another order than ``HLS_BANDS``.

    The names of the bands decide if the file has them. Otherwise the values do: most pixels of the land must have a
    spectrum that surfaces of Earth have. If usual mistakes cannot be told from the right order, a warning says so.

    Args:
        path: the file, for messages.
        chip: float32, shape (6, H, W).
        names: the descriptions of all bands of the file.
        bands: numbers of the chip's bands, from 1.

    Yields:
        Warnings.

    Raises:
        MarsError: the order is wrong.
    """
    known = _identified(names)
    chosen = [known[band - 1] for band in bands]
    wanted = f"anchor_bands must be the numbers of {', '.join(HLS_BANDS)}, in this order"
    if any(name not in (None, right) for name, right in zip(chosen, HLS_BANDS, strict=True)):
        listed = ", ".join(f"{band} is {names[band - 1]}" for band in bands)
        right = [known.index(name) + 1 if name in known else None for name in HLS_BANDS]
        fix = f": set anchor_bands to {right}" if None not in right else ""
        raise MarsError(f"the anchor {path} names its bands: {listed}. {wanted}{fix}")
    if None not in chosen:
        return
    if _impossible(chip):
        medians = ", ".join(
            f"{band} as {name} {np.median(values):.0f}"
            for band, name, values in zip(bands, HLS_BANDS, chip, strict=True)
        )
        likely = next((mistake for mistake, order in _MISTAKES.items() if not _impossible(chip[order])), "")
        raise MarsError(
            f"the bands of the anchor {path} are not in the order that anchor_bands={list(bands)} gives: no surface of "
            f"Earth has this spectrum (medians of the bands: {medians}). {wanted}"
            + (f"; the values fit bands {likely}" if likely else "")
        )
    if doubtful := [mistake for mistake, order in _MISTAKES.items() if not _impossible(chip[order])]:
        yield (
            f"the bands of the anchor {path} have no known names, and its values would also fit bands "
            f"{' or '.join(doubtful)}: check that {wanted}"
        )


def _identified(names: Sequence[str | None]) -> list[str | None]:
    """Recognise names of bands of HLS, Landsat and Sentinel-2; None for others.

    Names that only count the bands are none.
    """
    words = [re.findall(r"[A-Z0-9]+", (name or "").upper()) for name in names]
    if all(re.findall(r"\d+$", (name or "").strip()) == [str(n)] for n, name in enumerate(names, start=1)):
        return [None] * len(names)
    is_sentinel = any(word in _ONLY_SENTINEL for parts in words for word in parts)
    groups = [*_NAMES.items(), *(_SENTINEL if is_sentinel else _LANDSAT).items()]
    known = {spelling: band for band, spellings in groups for spelling in spellings}
    return [next((known[word] for word in ("".join(parts), *parts) if word in known), None) for parts in words]


def _is_dark(chip: Float32) -> bool:
    """Test for water or shadow.

    They alone reflect less than 2.55 % nearly everywhere. Water absorbs more and more towards longer wavelengths, which
    8-bit pictures of land do not show. In shadows the correction for the atmosphere leaves various negative values,
    which 8-bit pictures do not have, in whole numbers, which percentages are not.
    """
    if np.unique(chip[chip < 0]).size > 1 and (chip == chip.round()).all():
        return True
    blue, green, _, nir, swir_1, swir_2 = np.median(chip, axis=(1, 2))
    return bool(max(blue, green) >= 50 and nir < max(blue, green) and 2 * max(swir_1, swir_2) < max(blue, green))


def _impossible(chip: Float32) -> bool:
    """Test whether most lit pixels have a spectrum that no surface of Earth has.

    Land reflects more in the near infrared than in red, and as much in blue as in red at most. Snow, clouds and water
    are as bright in blue as in green and red, and snow and water are dark in the short-wave infrared. Nothing is red
    enough to reflect three times as much in red as in green.
    """
    blue, green, red, nir, swir_1, _ = chip
    lit = chip[:3].max(axis=0) > _LIT
    if lit.mean() < _FEW:
        return False
    bright = red > 2 * _LIT
    too_red = bright & (red > 3 * green)
    neither_land_nor_water = bright & (blue < 0.95 * green) & (nir < 0.95 * red) & (swir_1 > 0.5 * nir)
    too_blue = (blue > _LIT) & (blue > 1.5 * red) & (swir_1 > blue)
    wrong: npt.NDArray[Any] = too_red | neither_land_nor_water | too_blue
    return bool(wrong[lit].mean() > _MOSTLY)
