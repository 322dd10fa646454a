"""The files for ages, read by craterstats itself, in an environment of its own."""

import dataclasses
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from mars_assets.craters.catalogue_files import read_catalogue, update_catalogue
from mars_assets.craters.crater_map import CraterMap
from mars_assets.craters.formats import write_catalogue
from mars_assets.imagery.geolocation import ground_area
from mars_assets.lake import Lake
from mars_assets_tests.craters.formats.scenes import COUNTED, PROJECTIONS, random_map, transform_at, without_craters
from mars_assets_tests.craters.formats.test_craterstats_files import AROUND_THE_POLE, POLAR, WORLDS
from mars_assets_tests.craters.test_catalogue_files import fill

pytestmark = [pytest.mark.slow, pytest.mark.process]

SCRIPT = Path(__file__).with_name("read_by_craterstats.py")
AGES = {"dated 1 Ga": (1.0, 1), "dated 3 Ga": (3.0, 2), "dated 3.6 Ga": (3.6, 3)}
Command = Callable[..., Any]


@pytest.fixture
def craterstats(craterstats_python: Path) -> Command:
    """The script's commands, by an interpreter that has craterstats."""

    def run(*arguments: object) -> Any:
        command = [str(craterstats_python), str(SCRIPT), *map(str, arguments)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout)

    return run


def maps(craterstats: Command) -> dict[str, CraterMap]:
    """Scenes of all kinds, by the names of folders."""
    made = {}
    for name, (crs, place) in PROJECTIONS.items():
        made[name] = random_map(crs, transform_at(crs, place, turn=0.3), n=60, scene=f"Süd {name}")
        made[f"small {name}"] = random_map(crs, transform_at(crs, place, pixel=0.25), n=60, seed=1, pixel=0.25)
    for name, area in AROUND_THE_POLE.items():
        for pixel in (0.5, 100.0):
            counted = shapely.MultiPolygon([area])
            made[f"{name} {pixel}"] = random_map(
                POLAR, (pixel, 0.0, 0.0, 0.0, -pixel, 0.0), n=60, counted=counted, pixel=pixel
            )
    for name, (crs, transform) in WORLDS.items():
        counted = shapely.MultiPolygon([shapely.box(0, 0, 1000, 500)])
        made[f"world {name}"] = random_map(crs, transform, n=400, counted=counted)
    for name, (age, seed) in AGES.items():
        made[name] = dated(craterstats, age, seed)
    return made


def dated(craterstats: Command, age: float, seed: int) -> CraterMap:
    """A scene with the craters of a surface of some age."""
    crs, place = PROJECTIONS["RDR at 30"]
    transform = transform_at(crs, place)
    diameters = sorted(craterstats("draw", age, 0.2, ground_area(COUNTED, crs, transform) / 1e6, seed), reverse=True)
    crater_map = random_map(crs, transform, n=20 * len(diameters), seed=seed)
    inside = crater_map.craters[crater_map.craters["counted"]].iloc[: len(diameters)]
    table = inside.assign(diameter_m=np.array(diameters) * 1000)
    return dataclasses.replace(
        crater_map, craters=table.reset_index(drop=True), outlines=crater_map.outlines[: len(table)]
    )


def test_craterstats_reads_what_was_written(craterstats: Command, tmp_path: Path) -> None:
    written = maps(craterstats)
    for name, crater_map in written.items():
        write_catalogue(crater_map, tmp_path / name)
    read = craterstats("read", tmp_path)
    assert len(read) == 3 * len(written), "a .scc, a .diam and a shapefile each"
    for file, result in read.items():
        name, _, file_name = file.partition("/")
        crater_map = written[name]
        counted = crater_map.craters[crater_map.craters["counted"]]
        diameters = np.sort(counted["diameter_m"]) / 1000
        assert len(result["diameters"]) == len(diameters), file
        # From polygons, craterstats computes diameters of some metres to a thousandth at best.
        exact = diameters > (0.01 if file_name.endswith(".shp") else 0)
        np.testing.assert_allclose(np.array(result["diameters"])[exact], diameters[exact], rtol=5e-4, err_msg=file)
        assert result["area"] == pytest.approx(crater_map.counted_m2 / 1e6, rel=1e-6), file
        if file_name.endswith(".scc"):
            assert result["boundary_area"] == pytest.approx(crater_map.counted_m2 / 1e6, rel=1e-6), file
        assert result["whole"] in (True, None), file
        if name in AGES:
            median, low, high = result["age"]
            assert low < AGES[name][0] < high, file
            assert 0.5 < median / AGES[name][0] < 2, file


def test_an_area_without_craters_is_read(craterstats: Command, tmp_path: Path) -> None:
    crs, place = PROJECTIONS["RDR at 30"]
    empty = without_craters(random_map(crs, transform_at(crs, place)))
    write_catalogue(empty, tmp_path / "empty")
    for name in ("scc", "diam"):  # without a row craterstats refuses them
        (tmp_path / "empty" / f"{empty.scene}.{name}").unlink()
    ((_, result),) = craterstats("read", tmp_path).items()
    assert result["diameters"] == []
    assert result["area"] == pytest.approx(empty.counted_m2 / 1e6, rel=1e-6)


def test_a_catalogue_is_read(craterstats: Command, tmp_path: Path) -> None:
    lake = Lake.at(tmp_path)
    fill(lake, "ABD")
    update_catalogue(lake)
    catalogue = read_catalogue(lake)
    everywhere = max(scene.smallest_m for scene in catalogue.scenes)
    counted = catalogue.craters[catalogue.craters["counted"]]
    diameters = np.sort(counted.loc[counted["diameter_m"] >= everywhere, "diameter_m"]) / 1000
    files = {lake.relative(lake.crater_catalogue(suffix)) for suffix in (".scc", ".diam")}
    read = {file: result for file, result in craterstats("read", tmp_path).items() if file in files}
    assert read.keys() == files
    for file, result in read.items():
        np.testing.assert_allclose(result["diameters"], diameters, rtol=5e-4, err_msg=file)
        assert result["area"] == pytest.approx(float(catalogue.area_m2(everywhere)) / 1e6, rel=1e-6), file
        if file.endswith(".scc"):
            assert result["boundary_area"] == pytest.approx(result["area"], rel=1e-6)
