"""Model ages of surfaces, by craterstats.

Production and chronology functions are those of craterstats; none is defined here.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mars_assets.craters import craterstats_process
from mars_assets.errors import MarsError

Float64 = npt.NDArray[np.float64]

PRODUCTION = "Mars, Ivanov (2001)"
CHRONOLOGY = "Mars, Hartmann & Neukum (2001)"
_SYSTEM = "neukumivanov"
"""What craterstats' command calls both functions together."""
INSTALL = "pip install 'craterstats>=3.6.11'"


class NoAgeError(MarsError):
    """Craters that have no age, since none is in the range."""


@dataclass(frozen=True)
class Age:
    """A model age in billions of years (Ga), with its 68 % Poisson interval.

    Args:
        median: of its posterior.
        minus: from there down to the lower end of the interval.
        plus: up to the upper end.
        craters: number of craters that it is from.
        within_km: their diameters, from the first up to but without the second.
        production: name of the production function.
        chronology: name of the chronology function.
        software: what computed it.
    """

    median: float
    minus: float
    plus: float
    craters: int
    within_km: tuple[float, float]
    production: str
    chronology: str
    software: str


def is_installed() -> bool:
    """Test whether this environment has craterstats."""
    return find_spec("craterstats") is not None


def model_age(
    diameters_km: npt.ArrayLike,
    area_km2: float | Mapping[float, float],
    within_km: tuple[float, float],
    python: Path | None = None,
) -> Age:
    """Date a surface, see :func:`model_ages`."""
    return model_ages(diameters_km, area_km2, within_km, python=python)[0]


def model_ages(
    diameters_km: npt.ArrayLike,
    area_km2: float | Mapping[float, float],
    within_km: tuple[float, float],
    variants: Sequence[tuple[float, float]] = ((1.0, 1.0),),
    python: Path | None = None,
) -> list[Age]:
    """Date a surface by craterstats' Poisson method.

    Args:
        diameters_km: of the craters with their centre in the area.
        area_km2: the area; or where craters of different sizes are listed on different areas, the areas by the diameter
            in kilometres from which they hold.
        within_km: smallest and largest diameter. Craters of the largest are not counted, so that a range may end at the
            largest crater: if it counted in a range that is chosen by it, few craters would seem too old.
        variants: by what diameters are divided and densities multiplied, for ages under other assumptions.
        python: interpreter that has craterstats; by default that of this process.

    Returns:
        An age for each variant. Its range is cut to that of the production function.

    Raises:
        NoAgeError: there are no craters in the range in any variant.
        MarsError: craterstats is not installed or refuses the craters.
    """
    if python is None and not is_installed():
        raise MarsError(f"craterstats is not installed: install it with Python 3.12 or later by {INSTALL}")
    areas = area_km2 if isinstance(area_km2, Mapping) else {0.0: area_km2}
    if not min(areas.values(), default=0) > 0:
        raise MarsError(f"the counted area is {min(areas.values(), default=0):g} km2, and dates need one above 0")
    request = {
        "production": PRODUCTION,
        "chronology": CHRONOLOGY,
        "diameters_km": np.asarray(diameters_km, np.float64).tolist(),
        "area_km2": sorted(areas.items()),
        "within_km": within_km,
        "variants": variants,
    }
    answer = _asked(request, python or Path(sys.executable))
    start, end = answer["within_km"]
    ages = [
        Age(
            median,
            median - low,
            high - median,
            int(craters),
            (start, end),
            PRODUCTION,
            CHRONOLOGY,
            f"craterstats {answer['version']}",
        )
        for craters, median, low, high in answer["ages"]
    ]
    if not any(age.craters for age in ages):
        raise NoAgeError(
            f"no crater of {within_km[0]:g} to {within_km[1]:g} km is in the range of the production function, from "
            "which an age could be computed"
        )
    return ages


def _asked(request: Mapping[str, object], python: Path) -> dict[str, Any]:
    """Run craterstats.

    Raises:
        MarsError: it cannot be run, or refuses the craters.
    """
    try:
        ended = subprocess.run(  # noqa: S603 - our own file, no shell
            [python, "-P", craterstats_process.__file__],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"MPLBACKEND": "Agg"},
        )
    except OSError as error:
        raise MarsError(f"craterstats cannot be run by {python} ({error}): name an interpreter that has it") from error
    if ended.returncode:
        said = ended.stderr.strip().splitlines()[-1:] or ["it says nothing"]
        raise MarsError(f"craterstats cannot date these craters ({said[0]}): {python} must have craterstats 3.6.11")
    result: dict[str, Any] = json.loads(ended.stdout)
    return result


def craterstats_command(scc: Path, within_km: tuple[float, float]) -> str:
    """Write the command by which craterstats dates and draws the craters of a file."""
    source, plot = f"source={scc}", f"type=poisson,range=[{within_km[0]:.6g},{within_km[1]:.6g}]"
    words = ["craterstats", "-cs", _SYSTEM, "-ep", "mars", "-pr", "cumulative", "-f", "png", "csv", "-o", "age"]
    return shlex.join([*words, "-p", source, "-p", plot])
