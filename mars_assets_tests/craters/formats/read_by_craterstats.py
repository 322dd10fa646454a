"""What craterstats makes of the files below a folder, as JSON: run by an interpreter that has it."""

import contextlib
import io
import json
import sys
from pathlib import Path

import craterstats


def median_age(path: Path, smallest_km: float, largest_km: float) -> list[float]:
    """The age in Ga, and the two ends of its 95 % interval."""
    functions = craterstats.Functionslist().functions
    production = craterstats.Productionfn(functions, "Mars, Ivanov (2001)")
    chronology = craterstats.Chronologyfn(functions, "Mars, Hartmann & Neukum (2001)")
    count = craterstats.Cratercount(str(path))
    pdf = craterstats.Craterpdf(production, chronology, count, [smallest_km, largest_km])
    return [float(pdf.t(quantile)) for quantile in (0.5, 0.025, 0.975)]


def read(path: Path) -> dict[str, object]:
    count = craterstats.Cratercount(str(path))
    return {
        "area": float(count.area),
        "diameters": sorted(map(float, count.diam)),
        "whole": all(fraction == 1 for fraction in count.fraction) if path.suffix != ".shp" else None,
        # Of the boundary, which is for maps.
        "boundary_area": float(craterstats.Spatialcount(str(path)).area) if path.suffix == ".scc" else None,
        "age": median_age(path, 0.2, 50.0) if path.parent.name.startswith("dated") else None,
    }


def drawn(age: float, smallest_km: float, area_km2: float, seed: int) -> list[float]:
    """Diameters of a surface of some age, from the production function of Neukum and Ivanov."""
    import numpy as np

    functions = craterstats.Functionslist().functions
    system = next(s for s in functions["chronology_system"] if s["name"] == "Mars, Neukum-Ivanov (2001)")
    production = craterstats.Productionfn(functions, system["pf"])
    rate = craterstats.Chronologyfn(functions, system["cf"]).a0(age)
    grid = np.geomspace(smallest_km, 50, 4000)
    cumulative = production.evaluate("cumulative", grid, rate)
    rng = np.random.default_rng(seed)
    share = rng.uniform(size=rng.poisson(cumulative[0] * area_km2))
    return np.interp(share, (cumulative / cumulative[0])[::-1], grid[::-1]).tolist()


def main(command: str, *arguments: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        if command == "draw":
            age, smallest, area, seed = arguments
            result: object = drawn(float(age), float(smallest), float(area), int(seed))
        else:
            files = sorted(Path(arguments[0]).glob("*/*"))
            readable = (path for path in files if path.name.endswith((".scc", ".diam", "_CRATER.shp")))
            result = {"/".join(path.parts[-2:]): read(path) for path in readable}
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
