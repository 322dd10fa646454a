"""Ages by craterstats, in a process of its own.

Importing it sets up plots, and some of its errors end the process. This file is run by the interpreter that has
craterstats, which need not have this package. It reads a request from its input as JSON and writes the answer; see
:func:`mars_assets.craters.ages.model_ages`.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from typing import Any

import numpy as np


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Date craters, with sizes and densities as they are and varied."""
    import craterstats

    functions = craterstats.Functionslist().functions
    production = craterstats.Productionfn(functions, request["production"])
    chronology = craterstats.Chronologyfn(functions, request["chronology"])
    # Beyond this range it would evaluate a polynomial that is not meant for it.
    start = max(request["within_km"][0], float(production.range[0]))
    end = min(request["within_km"][1], float(production.range[1]))
    result: dict[str, Any] = {"within_km": [start, end], "version": craterstats.__version__, "ages": []}
    if start >= end:
        return result
    diameters = np.array(request["diameters_km"])
    # Areas that are listed from some size on, as one that expects the same number of craters.
    sizes, areas = np.array(request["area_km2"]).T
    edges = np.clip([*sizes, np.inf], start, end)
    expected = -np.diff(production.evaluate("cumulative", edges))
    count = craterstats.Cratercount()
    for size_factor, density_factor in request["variants"]:
        found = diameters / size_factor
        craters = int(((found >= start) & (found < end)).sum())
        count.area = float((expected * areas).sum() / expected.sum() / density_factor)
        ages = craterstats.Craterpdf(production, chronology, count, [start, end], k=craters).median1sigma()
        result["ages"].append([craters, *map(float, ages)])
    return result


def main() -> None:
    """Answer the request on the input."""
    request = json.load(sys.stdin)
    with contextlib.redirect_stdout(io.StringIO()):
        result = answer(request)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
