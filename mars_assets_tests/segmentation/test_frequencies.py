"""Size-frequency statistics of a lake: trials, what they are of, and what is measured again."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mars_assets.craters.catalogue_files import update_catalogue
from mars_assets.errors import MarsError, MissingInputError
from mars_assets.lake import CALIBRATION, Lake
from mars_assets.models.versions import ModelVersion, current_model, make_current
from mars_assets.progress import Progress
from mars_assets.segmentation import frequencies
from mars_assets.segmentation.frequencies import Frequencies, FrequencyRequest, size_frequencies
from mars_assets.segmentation.maps import MapRequest, map_scene
from mars_assets.storage.files import write_json
from mars_assets_tests.craters.lakes import field, put_map, scene_around
from mars_assets_tests.segmentation.known import placed
from mars_assets_tests.segmentation.micro import CPU, finished, put_into_use

pytestmark = pytest.mark.slow

NOT_HERE = Path("/not/here/python")


@pytest.fixture
def model(lake: Lake) -> ModelVersion:
    torch.manual_seed(0)
    put_into_use(lake)
    return current_model(lake, "seg_model")


def words(found: Frequencies) -> str:
    return str(found.report.facts["in words"])


def measured(lake: Lake, model: ModelVersion, request: FrequencyRequest, said: list[str] | None = None) -> Frequencies:
    return size_frequencies(lake, model, request, CPU, Progress([].append if said is None else said.append))


def test_counts_alone(lake: Lake, model: ModelVersion) -> None:
    craters = field(np.random.default_rng(0), 200, (6000, 4000))
    put_map(lake, scene_around("A", (10.0, 5.0), craters))
    update_catalogue(lake)
    first = measured(lake, model, FrequencyRequest(None))
    table = pd.read_parquet(lake.metrics("size_frequency"))
    assert (table["counts"] == "raw").all()
    assert table["craters"].sum() == 200
    assert pd.read_csv(lake.metrics("size_frequency", ".csv"))["craters"].tolist() == table["craters"].tolist()
    assert "200 craters have their centre in the counted area" in words(first)
    assert "What seg_model v1 finds of labelled craters is not known: materialize 'seg_evaluation'." in words(first)
    assert "Completeness by injection is not known" in words(first)
    assert first.report.figures["size_frequency"].exists()
    again = measured(lake, model, FrequencyRequest(None))
    assert (first.computed, again.computed, again.key) == (True, False, first.key)
    assert words(again) == words(first)


def test_an_age_is_computed_once_craterstats_is_there(
    lake: Lake, model: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_map(lake, scene_around("A", (10.0, 5.0), field(np.random.default_rng(0), 20, (6000, 4000))))
    update_catalogue(lake)
    keys = []
    for installed in (False, True):
        monkeypatch.setattr(frequencies, "is_installed", lambda installed=installed: installed)
        keys.append(measured(lake, model, FrequencyRequest(None)).key)
    assert keys[0] != keys[1], "or else the page would go on saying that it is not installed"


def test_labels_correct_counts(lake: Lake, model: ModelVersion) -> None:
    """Half of all marked craters are found, and all that is found was marked: twice as many are there."""
    put_map(lake, scene_around("A", (10.0, 5.0), field(np.random.default_rng(0), 200, (6000, 4000))))
    update_catalogue(lake)
    sizes = np.geomspace(5, 2000, 400).tolist()
    trials = {
        "recall": {"diameter_px": sizes, "success": [True, False] * 200, "group": ["A", "A", "B", "B"] * 100},
        "precision": {"diameter_px": sizes, "success": [True] * 400, "group": ["A", "B"] * 200},
    }
    write_json(model.folder / CALIBRATION, {"computation": "", "calibration": None, "trials": trials})
    found = measured(lake, model, FrequencyRequest(None))
    table = pd.read_parquet(lake.metrics("size_frequency")).set_index("counts")
    raw, corrected = (table.loc[name, "at_least"].iloc[0] for name in ("raw", "labels"))
    assert raw == 200
    assert corrected == pytest.approx(400, rel=0.1)
    assert "By labels the count is complete from no diameter on" in words(found)
    assert found.report.figures["completeness"].exists()
    trials["recall"]["success"] = [True] * 400
    write_json(model.folder / CALIBRATION, {"computation": "", "calibration": None, "trials": trials})
    assert measured(lake, model, FrequencyRequest(None)).computed, "the trials are others"


def test_craters_are_drawn_into_maps_of_this_model_alone(lake: Lake, model: ModelVersion, tmp_path: Path) -> None:
    raster = placed(tmp_path / "A.tif")
    map_scene(model, MapRequest(raster, 8.0), lake.crater_map("A"), CPU)
    put_map(lake, scene_around("B", (10.0, 5.0), field(np.random.default_rng(0), 20, (6000, 4000))))
    put_map(lake, scene_around("C", (20.0, 5.0), field(np.random.default_rng(1), 20, (6000, 4000))))
    update_catalogue(lake)

    def product(scene: str) -> tuple[Path, None]:
        if scene == "C":
            raise MissingInputError("hirise_images --partition C", "C.JP2")
        return raster, None

    said: list[str] = []
    found = measured(lake, model, FrequencyRequest(product), said)
    assert any("looking for drawn craters" in line for line in said)
    assert (lake.crater_map("A") / "injected.parquet").exists()
    assert not (lake.crater_map("B") / "injected.parquet").exists()
    assert "No craters were drawn into B: its map was made by another model" in words(found)
    assert "No craters were drawn into C: hirise_images --partition C is missing" in words(found)
    assert "injection" in set(found.report.tables["rates by size"]["rate_of"])
    said.clear()
    again = measured(lake, model, FrequencyRequest(product), said)
    assert not again.computed
    assert not any("looking for" in line for line in said)
    map_b = lake.crater_map("B") / "provenance.json"
    there = map_b.read_bytes()
    map_b.unlink()  # as while it is made again
    assert "No craters were drawn into B: its map is not finished" in words(
        measured(lake, model, FrequencyRequest(product))
    )
    map_b.write_bytes(there)
    before = (lake.crater_map("A") / "provenance.json").read_bytes()
    finished(lake.version("seg_model", "v2"))
    make_current(lake, "seg_model", "v2", {})
    other = measured(lake, current_model(lake, "seg_model"), FrequencyRequest(product))
    assert "No craters were drawn into A: its map was made by another model" in words(other)
    assert (lake.crater_map("A") / "provenance.json").read_bytes() == before, "its map is not replaced"


@pytest.mark.parametrize(("smallest", "largest", "message"), [(1.0, None, "belong together"), (2.0, 1.0, "no range")])
def test_ranges_that_are_none(
    lake: Lake, model: ModelVersion, smallest: float, largest: float | None, message: str
) -> None:
    put_map(lake, scene_around("A", (10.0, 5.0), field(np.random.default_rng(0), 20, (6000, 4000))))
    update_catalogue(lake)
    with pytest.raises(MarsError, match=message):
        measured(lake, model, FrequencyRequest(None, smallest, largest))


def test_an_interpreter_that_is_not_there(lake: Lake, model: ModelVersion) -> None:
    put_map(lake, scene_around("A", (10.0, 5.0), field(np.random.default_rng(0), 20, (6000, 4000), smallest=20.0)))
    update_catalogue(lake)
    with pytest.raises(MarsError, match="craterstats cannot be run by"):
        measured(lake, model, FrequencyRequest(None, python=NOT_HERE))


def test_without_a_catalogue(lake: Lake, model: ModelVersion) -> None:
    with pytest.raises(MissingInputError, match="crater_catalogue"):
        measured(lake, model, FrequencyRequest(None))
