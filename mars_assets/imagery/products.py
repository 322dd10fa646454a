"""HiRISE products: names and addresses in the archive."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal, get_args

import pandas as pd

from mars_assets.errors import MarsError
from mars_assets.storage.files import read_rows

ProductType = Literal["RGB.NOMAP.browse", "RGB.NOMAP", "COLOR", "RED"]
PRODUCT_TYPES: tuple[ProductType, ...] = get_args(ProductType)
DEFAULT_PRODUCT: ProductType = "RGB.NOMAP.browse"

PHASES = ("INT", "CAL", "ATL", "KSC", "LAU", "CRU", "APR", "AEB", "TRA", "PSP", "ESP")
"""Mission phases at the start of an observation id, from integration and test (INT) to the extended science phase."""

_OBSERVATION = re.compile(rf"(?P<phase>{'|'.join(PHASES)})_(?P<orbit>[0-9]{{6}})_(?P<target>[0-9]{{4}})")
_IN_A_NAME = re.compile(
    r"(?<![^\W_])(?P<phase>TRA|AEB|PSP|ESP)[\W_]{1,3}(?P<orbit>[0-9]{6})[\W_]{1,3}(?P<target>[0-9]{4})(?![0-9])",
    re.IGNORECASE,
)
"""An id as people write it: in any case, after a prefix, with dashes or blanks. The phases are those that show Mars's
surface: others, such as CAL and APR, are also words and months."""
_RESEMBLES_ID = re.compile(r"(PSP|ESP)[\W_]*([0-9]{5,7}[\W_]+[0-9]{3,5}|[0-9]{10})(?![0-9])", re.IGNORECASE)
_COLUMNS = ("id", "product", "note")
_EXAMPLE = "id,product,note\nESP_011472_1225,RGB.NOMAP.browse,crater field\nESP_013951_1955,COLOR,\n"


@dataclass(frozen=True, order=True)
class ObservationId:
    """A HiRISE observation id, ``PHASE_ORBIT_TARGET``.

    Args:
        phase: one of ``PHASES``.
        orbit: MRO's orbit number, 0 to 999999.
        target: ten times the orbit angle in degrees from the descending node, 0 to 3599. It is not a latitude.
    """

    phase: str
    orbit: int
    target: int

    def __str__(self) -> str:
        return f"{self.phase}_{self.orbit:06d}_{self.target:04d}"

    @property
    def orbit_folder(self) -> str:
        """Name the archive's folder of a hundred orbits, e.g. ``ORB_011400_011499``."""
        first = self.orbit // 100 * 100
        return f"ORB_{first:06d}_{first + 99:06d}"


@dataclass(frozen=True)
class ProductFiles:
    """The files of a product, as addresses relative to the archive's base.

    Args:
        image: the JPEG or JP2.
        label: the detached PDS3 label; None if the archive has none (all products under EXTRAS).
    """

    image: str
    label: str | None

    @property
    def addresses(self) -> list[str]:
        """The addresses of the files that there are, image first."""
        return [self.image] if self.label is None else [self.image, self.label]


def parse_observation_id(text: str) -> ObservationId:
    """Parse an observation id.

    Raises:
        MarsError: the text is not the id of an observation of Mars's surface.
    """
    match = _OBSERVATION.fullmatch(text)
    if match is None:
        raise MarsError(
            f"{text!r} is not a HiRISE observation id: write PHASE_ORBIT_TARGET such as ESP_011472_1225, "
            f"with a phase of {', '.join(PHASES)}, six digits of orbit and four of target"
        )
    observation = ObservationId(match["phase"], int(match["orbit"]), int(match["target"]))
    if observation.target >= 3600:
        raise MarsError(
            f"{text!r}: target {match['target']} is not an orbit angle (0000 to 3599), so this is not Mars's surface"
        )
    return observation


def observation_of(name: str) -> str | None:
    """Find the observation id in an image file's name.

    For example ``ESP_011425_1775_RED-0029_jpg.rf.0a1b.jpg`` or ``mars esp-011425-1775.png``. An id that is part of a
    longer word or number does not count.

    Returns:
        The id as the archive writes it, the first one if there are several; None if there is none.
    """
    written = (_OBSERVATION.match(name), *_IN_A_NAME.finditer(name))
    return next((str(found) for match in written if match and (found := _observation_at(match))), None)


def _observation_at(match: re.Match[str]) -> ObservationId | None:
    """Return the id that was matched in a name.

    None if a digit follows, or if the target is not on Mars's surface.
    """
    if match.string[match.end() :][:1].isdigit() or int(match["target"]) >= 3600:
        return None
    return ObservationId(match["phase"].upper(), int(match["orbit"]), int(match["target"]))


def unused_ids(name: str) -> list[str]:
    """List what resembles an observation id in a name but is not used.

    For example the second id in the name of a mosaic, or ``ESP_11425_1775``, which lacks a digit.
    """
    used = _digits(observation_of(name) or "")
    return [match.group() for match in _RESEMBLES_ID.finditer(name) if _digits(match.group()) != used]


def further_observations(path: PurePath) -> set[str]:
    """Collect the observations that an image may also show.

    They are those of the ids in its path that are not used.

    They stand in the same part of the path as the one that is used, or, if none is, in the nearest part that has any.
    """
    ids = next((ids for part in reversed(path.parts) if (ids := unused_ids(part)) or observation_of(part)), [])
    digits = {_digits(text): text[:3].upper() for text in ids}
    return {f"{phase}_{number[:6]}_{number[6:]}" for number, phase in digits.items() if len(number) == 10}


def _digits(text: str) -> str:
    return re.sub(r"[^0-9]", "", text)


def parse_product(text: str) -> ProductType:
    """Check the name of a product.

    Raises:
        MarsError: an unknown product, or an annotated one.
    """
    for product in PRODUCT_TYPES:
        if text == product:
            return product
    if "abrowse" in text.lower():
        raise MarsError(
            f"{text!r} is annotated: a model would learn the id and scale bar drawn into the picture. "
            f"Choose from {', '.join(PRODUCT_TYPES)}"
        )
    raise MarsError(f"unknown product {text!r}: choose from {', '.join(PRODUCT_TYPES)}")


def product_files(observation: str, product: ProductType) -> ProductFiles:
    """Compose the addresses of a product in the archive.

    Raises:
        MarsError: not an observation id.
    """
    parsed = parse_observation_id(observation)
    folder = f"RDR/{parsed.phase}/{parsed.orbit_folder}/{observation}"
    if product in ("COLOR", "RED"):
        stem = f"{folder}/{observation}_{product}"
        return ProductFiles(f"{stem}.JP2", f"{stem}.LBL")
    suffix = ".jpg" if product == "RGB.NOMAP.browse" else ".JP2"
    return ProductFiles(f"EXTRAS/{folder}/{observation}_{product}{suffix}", None)


def read_observations_csv(path: Path) -> pd.DataFrame:
    """Read the user's list of observations.

    The file is a CSV with the column ``id`` and optionally ``product`` and ``note``; see
    :func:`mars_assets.storage.files.read_rows`.

    Returns:
        Columns ``observation``, ``product`` (``RGB.NOMAP.browse`` if none is given) and ``note`` (may be empty), all
        str, in the file's order.

    Raises:
        MarsError: no such file, unknown columns, or bad rows: all of them in one message, with their line numbers.
    """
    if not path.is_file():
        raise MarsError(f"{path} does not exist. List the observations in it, one per line, for example:\n{_EXAMPLE}")
    header, *lines = read_rows(path) or [(1, [])]
    columns = [name.casefold() for name in header[1]]
    if "id" not in columns or len(set(columns)) != len(columns) or not set(columns) <= set(_COLUMNS):
        raise MarsError(
            f"{path}: the first line must name the columns id and optionally product and note, separated by commas, "
            f"but it is {','.join(header[1])!r}. For example:\n{_EXAMPLE}"
        )
    rows: list[dict[str, str]] = []
    first_line: dict[str, int] = {}
    problems: list[str] = []
    for line, row in lines:
        try:
            if len(row) > len(columns):
                raise MarsError("more cells than columns (quote a note that contains a comma)")
            cells = dict(zip(columns, row, strict=False))
            observation = str(parse_observation_id(cells.get("id", "")))
            product = parse_product(cells.get("product") or DEFAULT_PRODUCT)
            if observation in first_line:
                raise MarsError(f"{observation} is already in line {first_line[observation]}")
        except MarsError as error:
            problems.append(f"line {line}: {error}")
        else:
            first_line[observation] = line
            rows.append({"observation": observation, "product": product, "note": cells.get("note", "")})
    if problems:
        raise MarsError(f"{path} has {len(problems)} bad rows. Correct them:\n" + "\n".join(problems))
    if not rows:
        raise MarsError(f"{path} lists no observation. For example:\n{_EXAMPLE}")
    return pd.DataFrame(rows, columns=["observation", "product", "note"], dtype=object).astype("str")
