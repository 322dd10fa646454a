"""The catalogue of all scenes as runs of its asset."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
import torch

from mars_assets.lake import Lake
from mars_assets_tests.assets.runs import Runs, message, metadata
from mars_assets_tests.craters.lakes import field, put_map, scene_around
from mars_assets_tests.segmentation.micro import put_into_use

pytestmark = pytest.mark.slow


@pytest.fixture
def runs(lake: Lake, tmp_path: Path) -> Iterator[Runs]:
    lake.root.mkdir()
    with dg.DagsterInstance.ephemeral() as instance:
        yield Runs(lake, instance, tmp_path, "http://127.0.0.1:9")


def event(result: Any) -> Any:
    (found,) = result.get_asset_materialization_events()
    return found.materialization


def test_what_it_shows(runs: Runs) -> None:
    craters = field(np.random.default_rng(0), 40, (6000, 4000))
    put_map(runs.lake, scene_around("A", (10.0, 5.0), craters))
    put_map(runs.lake, scene_around("B", (10.0, 5.0), craters + np.array([50, 0, 0])))
    first = runs.run("crater_catalogue")
    assert first.success
    shown = metadata(first)
    assert shown["dagster/row_count"] == 40
    assert shown["seen in several scenes"] == 40
    assert shown["number of scenes"] == 2
    assert shown["counted area, each place once (km2)"] == pytest.approx(24, rel=1e-5)
    assert shown["model versions"] == "seg_model v1"
    assert "data:image/" in shown["craters"]
    assert "| A | 40 | 4 | 0.5 | 24 | 24 | seg_model v1 |" in shown["scenes"]
    assert "| A | B | 50" in shown["shifts between scenes"]
    assert shown["file .gpkg"] == str(runs.lake.crater_catalogue(".gpkg"))
    assert "left out" not in shown
    assert max(len(str(value)) for value in shown.values()) < 32_000, "metadata lives in the event log"
    before = runs.lake.crater_catalogue(".json").stat().st_mtime_ns
    again = runs.run("crater_catalogue")
    assert metadata(again) == shown
    assert event(again).tags["dagster/data_version"] == event(first).tags["dagster/data_version"]
    assert runs.lake.crater_catalogue(".json").stat().st_mtime_ns == before
    (runs.lake.all_crater_maps / "unfinished").mkdir()
    assert "| unfinished | its map is not finished" in metadata(runs.run("crater_catalogue"))["left out"]


def test_sizes_are_counted_and_explained(runs: Runs) -> None:
    put_map(runs.lake, scene_around("A", (10.0, 5.0), field(np.random.default_rng(0), 40, (6000, 4000))))
    torch.manual_seed(0)
    put_into_use(runs.lake)
    assert runs.run("crater_catalogue").success
    first = runs.run("size_frequency")
    assert first.success
    shown = metadata(first)
    assert "40 craters have their centre in the counted area, 24 km²" in shown["in words"]
    assert "No craters were drawn into A: observations is missing" in shown["in words"]
    assert "data:image/" in shown["size_frequency"]
    assert shown["computed in this run"] is True
    assert shown["file"] == str(runs.lake.metrics("size_frequency"))
    again = runs.run("size_frequency")
    assert metadata(again) == {**shown, "computed in this run": False}
    assert event(again).tags["dagster/data_version"] == event(first).tags["dagster/data_version"]
    none = runs.run("size_frequency", config={"ops": {"size_frequency": {"config": {"injection": False}}}})
    assert "No craters were drawn" not in metadata(none)["in words"]


def test_without_maps_the_next_command_is_named(runs: Runs) -> None:
    failed = runs.run("crater_catalogue")
    assert not failed.success
    assert "dagster asset materialize --select crater_maps" in message(failed, "crater_catalogue")
