"""The catalogues of a lake, compared each once."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyproj
import pytest
import shapely

from mars_assets.craters.agreement import compare_lists
from mars_assets.craters.catalogue import Catalogue, CountedScene
from mars_assets.craters.catalogue_comparison import CatalogueComparison, compare_catalogues, listed
from mars_assets.craters.catalogue_files import read_catalogue, update_catalogue
from mars_assets.craters.catalogues.reading import read_craters
from mars_assets.errors import MissingInputError
from mars_assets.lake import Lake
from mars_assets.storage.files import read_json
from mars_assets_tests.craters.lakes import LOCAL, field, put_map, scene_around, seen
from mars_assets_tests.craters.test_agreement_files import make_map

pytestmark = pytest.mark.slow


def catalogue(key: str = "k1") -> Catalogue:
    """Craters on two scenes that touch, of other resolution."""
    rng = np.random.default_rng(0)
    count = 200
    craters = pd.DataFrame(
        {
            "longitude": rng.uniform(10, 12, count),
            "latitude": rng.uniform(0, 1, count),
            "diameter_m": 100 * rng.uniform(0.1, 1, count) ** -1,
            "probability": rng.uniform(0.3, 1, count),
            "confidence": rng.uniform(0.3, 1, count),
        }
    )
    scenes = [
        CountedScene(
            f"s{n}", smallest, 5, shapely.MultiPolygon([shapely.box(10 + n, 0, 11 + n, 1)]), 1e9, 1e9, key, "m"
        )
        for n, smallest in enumerate((100.0, 300.0))
    ]
    return Catalogue(craters, scenes)


@pytest.fixture
def filled(lake: Lake) -> Lake:
    """A lake with catalogues of three kinds: on the ground, in pixels of a map, and a shapefile's parts."""
    lake.catalogues.mkdir(parents=True)
    craters = catalogue().craters
    craters.drop(columns=["probability", "confidence"]).iloc[::2].to_csv(lake.catalogues / "theirs.csv", index=False)
    folder = make_map(lake.crater_map("ESP_1"), projected=False)
    about = read_json(folder / "provenance.json")
    pd.Series({**about, "key": "k", "scene": "ESP_1_COLOR"}).to_json(folder / "provenance.json")
    table = pd.read_parquet(folder / "craters.parquet")[["x_px", "y_px", "diameter_px"]]
    table.assign(obs="ESP_1").to_csv(lake.catalogues / "people.csv", index=False)
    (lake.catalogues / "people.yaml").write_text("columns: {image: obs}\n")
    (lake.catalogues / "README.txt").write_text("from whom")
    return lake


def run(lake: Lake, key: str = "k1") -> CatalogueComparison:
    return compare_catalogues(lake, lambda: catalogue(key))


def test_each_catalogue_is_compared_with_what_shows_its_craters(filled: Lake) -> None:
    compared = run(filled)
    assert compared.problems == []
    assert compared.ignored == ["README.txt"]
    assert list(compared.folders) == ["people.csv ESP_1", "theirs.csv"]
    main = compared.rows[(compared.rows["group"] == "all") & (compared.rows["value"] == "")].set_index("catalogue")
    assert main["recall"].tolist() == [1, 1]
    assert main.loc["people.csv ESP_1", "precision"] == 1
    craters = catalogue().craters
    counted = (craters["longitude"] < 11) | (craters["diameter_m"] >= 300)
    assert (
        main.loc["theirs.csv", "ours"] == counted[craters["diameter_m"] >= craters["diameter_m"].iloc[::2].min()].sum()
    )
    matches = pd.read_parquet(filled.metrics("catalogue_comparison_matches"))
    assert set(matches["catalogue"]) == set(compared.folders)
    assert len(pd.read_csv(filled.metrics("catalogue_comparison", ".csv"))) == len(compared.rows)


def test_what_has_not_changed_is_not_compared_again(filled: Lake) -> None:
    first, again = run(filled), run(filled)
    assert (first.computed, again.computed) == (2, 0)
    pd.testing.assert_frame_equal(first.rows, again.rows)
    assert first.key == again.key
    assert run(filled, "k2").computed == 1, "the scenes changed, and the map in pixels did not"
    stated = filled.catalogues / "theirs.yaml"
    stated.write_text("smallest_m: 500\n")
    assert run(filled, "k2").computed == 1
    (next(iter(first.folders.values())) / "comparison.json").write_text("{")
    assert run(filled, "k2").computed == 1, "damaged results are made again"


def test_results_of_a_catalogue_that_is_gone_go_too(filled: Lake) -> None:
    folder = run(filled).folders["theirs.csv"]
    assert folder.exists()
    (filled.catalogues / "theirs.csv").unlink()
    compared = run(filled)
    assert not folder.exists()
    assert set(compared.rows["catalogue"]) == {"people.csv ESP_1"}
    assert compared.key != run(filled, "k2").key or compared.computed == 0


def test_one_that_cannot_be_read_does_not_stop_the_others(filled: Lake) -> None:
    (filled.catalogues / "a.csv").write_text("lon,lat,diam\n1,2,x\n")
    (filled.catalogues / "b.gpkg").write_bytes(b"no")
    (filled.catalogues / "c.csv").write_text("x,y,diameter_px\n1,2,3\n")
    compared = run(filled)
    assert len(compared.folders) == 2
    assert [Path(problem.partition(",")[0].partition(" ")[0]).name for problem in compared.problems] == [
        "a.csv",
        "b.gpkg",
        "c.csv",
    ]
    assert "is in the pixels of an image that it does not name" in compared.problems[2]


def test_parts_of_a_shapefile_are_one_catalogue(lake: Lake, shared: Path) -> None:
    lake.catalogues.mkdir(parents=True)
    for path in (shared / "data/scenes/counts").glob("ejecta01*"):
        (lake.catalogues / path.name).symlink_to(path)
    compared = run(lake)
    assert list(compared.folders) == ["ejecta01_CRATER.shp"]
    assert compared.ignored == []
    assert compared.rows.loc[0, "ours"] == 0, "elsewhere on Mars"


@pytest.mark.parametrize("place", [(0.0, 20.0), (180.0, -60.0), (33.0, 89.99)])
def test_scenes_that_overlap_against_the_truth(lake: Lake, place: tuple[float, float]) -> None:
    """A fine scene and a coarse one, across a meridian and at a pole: as the files of the catalogue say, too."""
    rng = np.random.default_rng(1)
    local = pyproj.Proj(LOCAL.format(*place))
    true = field(rng, 500, side := (12000.0, 8000.0), 20)
    for name, shift, smallest in (("fine", -2000.0, 40.0), ("coarse", 2000.0, 80.0)):
        found, _ = seen(rng, true, side, 0.8, 0.9)
        found = (found - [shift, 0, 0])[(np.abs(found[:, 0] - shift) < 4000) & (np.abs(found[:, 1]) < 4000)]
        middle = local(shift, 0, inverse=True)
        put_map(lake, scene_around(name, middle, found, side=(8000, 8000), smallest_px=smallest, crs=local.srs))
    update_catalogue(lake)
    longitude, latitude = local(*true[:, :2].T, inverse=True)
    lake.catalogues.mkdir()
    table = pd.DataFrame({"lon": longitude, "lat": latitude, "diam": true[:, 2] / 1000})
    table.to_csv(lake.catalogues / "truth.csv", index=False)
    (row, *_) = compare_catalogues(lake, lambda: read_catalogue(lake)).rows.to_dict("records")
    theirs = read_craters(lake.catalogues / "truth.csv")
    ours = listed(read_catalogue(lake))
    assert row["theirs"] == compare_lists(ours, theirs).row("all")["theirs"]
    # On the fine scene from 20 m, on what the coarse one adds from 40 m.
    on_fine = (true[:, 0] > -6000) & (true[:, 0] < 2000)
    count = ((true[:, 2] >= 20) & on_fine | (true[:, 2] >= 40) & ~on_fine).sum()
    assert row["theirs"] == pytest.approx(count, abs=3)
    assert row["recall"] > 0.7
    file = compare_lists(read_craters(lake.crater_catalogue(".gpkg")), theirs).row("all")
    assert (file["ours"], file["theirs"], file["found"]) == (row["ours"], row["theirs"], row["found"])


def test_no_catalogues_are_no_rows(lake: Lake) -> None:
    compared = compare_catalogues(lake, lambda: read_catalogue(lake))
    assert (len(compared.rows), compared.problems) == (0, [])
    assert len(pd.read_parquet(lake.metrics("catalogue_comparison"))) == 0


def test_a_missing_catalogue_of_scenes_is_said_once(lake: Lake) -> None:
    lake.catalogues.mkdir(parents=True)
    for name in "ab":
        (lake.catalogues / f"{name}.csv").write_text("lon,lat,diam\n1,2,3\n")

    def missing() -> Catalogue:
        raise MissingInputError("crater_catalogue", "nowhere")

    (problem,) = compare_catalogues(lake, missing).problems
    assert "dagster asset materialize --select crater_catalogue" in problem
