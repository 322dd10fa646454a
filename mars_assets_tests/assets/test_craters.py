"""Crater maps as runs of several observations."""

import pandas as pd
import pytest
import torch
from pydantic import ValidationError

from mars_assets.assets.craters import CraterMapsConfig
from mars_assets.storage.files import read_json, write_json
from mars_assets.storage.published import version_in_use
from mars_assets_tests.assets.runs import IDS, Runs, jpeg, message, metadata
from mars_assets_tests.craters.test_agreement_files import make_map
from mars_assets_tests.segmentation.known import state
from mars_assets_tests.segmentation.micro import put_into_use

pytestmark = pytest.mark.slow


@pytest.fixture
def ready(runs: Runs) -> Runs:
    """Two small products, and a model."""
    runs.lake.observations_csv.write_text("id\n" + "\n".join(IDS[:2]))
    assert runs.choose().success
    for seed, name in enumerate(IDS[:2]):
        runs.put(name, jpeg(seed))
    assert runs.of_all("hirise_images").success
    torch.manual_seed(0)
    put_into_use(runs.lake)
    return runs


def test_maps_show_pictures_and_say_where_they_lie(ready: Runs) -> None:
    write_json(
        ready.lake.metrics("seg_evaluation", ".json"),
        [{"model_version": "v1", "label_version": "l1", "split": "valid", "smallest_px": 2.5}],
    )
    first = ready.of_all("crater_maps")
    assert first.success
    (one, *_) = [e for e in first.get_asset_materialization_events() if e.materialization.partition == IDS[0]]
    said = {name: value.value for name, value in one.materialization.metadata.items()}
    for name in IDS[:2]:
        out = version_in_use(ready.lake.crater_map(name))
        about = read_json(out / "provenance.json")
        assert about["smallest_px"] == 4, "smaller craters have no shape, even if the model was evaluated on them"
        assert about["model"]["version"] == "v1"
        assert all((out / file).exists() for file in about["files"])
        assert "data:image/" in said[f"{name}: craters"]
        assert "data:image/" in said[f"{name}: sizes"]
        assert said[f"{name}: counts by size"].startswith("|")
        assert str(ready.lake.crater_map(name) / "current" / "map.html") in said["partitions"]
        assert f"| {name} | {len(pd.read_parquet(out / 'craters.parquet'))} |" in said["partitions"]
    assert said["model version"] == "v1"
    assert said["folder"] == str(ready.lake.all_crater_maps)
    assert "QGIS" in said["how to open"]
    assert max(len(str(value)) for value in said.values()) < 32_000, "metadata lives in the event log"
    before = state(ready.lake.all_crater_maps)
    again = ready.run("crater_maps", partition_key=IDS[1])
    assert again.success
    assert state(ready.lake.all_crater_maps) == before
    assert IDS[0] not in metadata(again)["partitions"]


def test_one_that_fails_does_not_stop_the_others(ready: Runs) -> None:
    (image,) = ready.lake.products(IDS[0]).glob("*.jpg")
    image.write_bytes(image.read_bytes()[:2000])
    config = {"ops": {"crater_maps": {"config": {"smallest_px": 12.0}}}}
    failed = ready.of_all("crater_maps", config=config)
    assert not failed.success
    assert "1 of 2 observations could not be mapped" in message(failed, "crater_maps")
    assert image.name in message(failed, "crater_maps")
    assert ready.made("crater_maps") == {IDS[1]}
    assert read_json(version_in_use(ready.lake.crater_map(IDS[1])) / "provenance.json")["smallest_px"] == 12
    assert not ready.lake.crater_map(IDS[0]).exists()


def test_a_product_that_was_not_downloaded_is_named(ready: Runs) -> None:
    (image,) = ready.lake.products(IDS[0]).glob("*.jpg")
    image.unlink()
    failed = ready.run("crater_maps", partition_key=IDS[0])
    assert f"hirise_images --partition {IDS[0]}" in message(failed, "crater_maps")


@pytest.mark.parametrize("size", [3.9, float("inf"), float("nan")])
def test_sizes_that_no_map_can_have_are_refused(size: float) -> None:
    with pytest.raises(ValidationError, match="smallest_px"):
        CraterMapsConfig(smallest_px=size)


def test_no_catalogues_to_compare_with(runs: Runs) -> None:
    result = runs.run("catalogue_comparison")
    assert result.success
    said = metadata(result)
    assert said["dagster/row_count"] == 0
    assert str(runs.lake.catalogues) in said["no catalogues"]


def test_catalogues_are_compared_before_those_that_cannot_be_read_fail_the_run(runs: Runs) -> None:
    folder = make_map(runs.lake.crater_map("ESP_1"), projected=False)
    write_json(folder / "provenance.json", {**read_json(folder / "provenance.json"), "key": "k"})
    runs.lake.catalogues.mkdir(parents=True)
    craters = pd.read_parquet(folder / "craters.parquet")[["x_px", "y_px", "diameter_px"]]
    craters.assign(image="ESP_1").to_csv(runs.lake.catalogues / "people.csv", index=False)
    (runs.lake.catalogues / "people.yaml").write_text("columns: {image: image}\n")
    result = runs.run("catalogue_comparison")
    assert result.success
    said = metadata(result)
    assert "| people.csv ESP_1 |" in said["scores"]
    assert "data:image/" in said["people.csv ESP_1: figure"]
    assert "recall 1.000" in said["people.csv ESP_1: in words"]
    assert said["people.csv ESP_1: scores"].startswith("| group |")
    assert (said["catalogues"], said["compared in this run"]) == (1, 1)
    assert max(len(str(value)) for value in said.values()) < 32_000
    again = metadata(runs.run("catalogue_comparison"))
    assert again["compared in this run"] == 0
    assert again["scores"] == said["scores"]
    for name in ("a.csv", "b.csv"):
        (runs.lake.catalogues / name).write_text("lon,lat,diam\n1,2,x\n")
    failed = runs.run("catalogue_comparison")
    assert not failed.success
    reason = message(failed, "catalogue_comparison")
    assert "2 catalogues could not be compared, the others were" in reason
    assert "a.csv, line 2: diam is 'x'" in reason
    assert "b.csv, line 2" in reason
    assert len(pd.read_parquet(runs.lake.metrics("catalogue_comparison")))
