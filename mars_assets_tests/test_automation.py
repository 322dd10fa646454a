import os
import time
import zipfile

import dagster as dg
import pandas as pd
import pytest

from mars_assets.automation import new_labels
from mars_assets.labels import inbox
from mars_assets.labels.exports import label_version
from mars_assets.lake import Lake, sha256_file, write_json, write_table
from mars_assets.resources import LakeResource


@pytest.fixture
def evaluated(lake: Lake) -> Lake:
    """A lake with labels in force and both models."""
    put(lake, "craters.v1.zip", b"one")
    write_table(
        lake.labelled_crops, pd.DataFrame({"image_id": ["a"]}), {"label_version": version(lake, "craters.v1.zip")}
    )
    for name in ("cls_model", "seg_model"):
        write_json(lake.model(name) / "v1/config.json", {})
        write_json(lake.model(name) / "current.json", {"version": "v1"})
    return lake


def put(lake: Lake, name: str, content: bytes, age: float = 60) -> None:
    lake.inbox.mkdir(parents=True, exist_ok=True)
    path = lake.inbox / name
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("content", content)
    os.utime(path, (time.time() - age,) * 2)


def version(lake: Lake, *names: str) -> str:
    return label_version([sha256_file(lake.inbox / name) for name in names])


def tick(lake: Lake, cursor: str | None = None) -> dg.SensorResult | dg.SkipReason:
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(instance=instance, cursor=cursor)
        return new_labels(context, lake=LakeResource(root=str(lake.root)))


def test_nothing_new_is_nothing_to_do(evaluated: Lake) -> None:
    assert isinstance(tick(evaluated), dg.SkipReason)
    (evaluated.inbox / "craters.v1.zip").rename(evaluated.inbox / "craters.v2.zip")
    assert isinstance(tick(evaluated), dg.SkipReason), "the same file under another name is the same"


def test_new_labels_request_one_evaluation(evaluated: Lake) -> None:
    put(evaluated, "craters.v2.zip", b"two")
    result = tick(evaluated)
    assert isinstance(result, dg.SensorResult)
    assert len(result.run_requests or []) == 1
    assert result.cursor == version(evaluated, "craters.v2.zip")
    assert isinstance(tick(evaluated, result.cursor), dg.SkipReason)


def test_a_zip_that_has_just_arrived_is_looked_at_next_time(evaluated: Lake) -> None:
    put(evaluated, "craters.v2.zip", b"two", age=inbox.SETTLED_SECONDS / 10)
    result = tick(evaluated)
    assert isinstance(result, dg.SkipReason)
    assert "craters.v2.zip" in (result.skip_message or "")


def test_a_zip_that_is_still_being_copied_is_left_alone(evaluated: Lake) -> None:
    put(evaluated, "craters.v2.zip", b"two")
    whole = evaluated.inbox / "craters.v2.zip"
    content = whole.read_bytes()
    for age in (60, inbox.UNFINISHED_SECONDS / 2):  # also where the copying has stalled
        whole.write_bytes(content[:-10])
        os.utime(whole, (time.time() - age,) * 2)
        result = tick(evaluated)
        assert isinstance(result, dg.SkipReason)
        assert "still being copied: craters.v2.zip" in (result.skip_message or "")
    whole.write_bytes(content)
    os.utime(whole, (time.time() - 60,) * 2)
    assert isinstance(tick(evaluated), dg.SensorResult)


def test_a_lake_without_labels_or_models_waits(lake: Lake, evaluated: Lake) -> None:
    put(evaluated, "craters.v2.zip", b"two")
    (evaluated.model("seg_model") / "current.json").unlink()
    result = tick(evaluated)
    assert isinstance(result, dg.SkipReason)
    assert "seg_model" in (result.skip_message or "")
    evaluated.labelled_crops.unlink()
    assert isinstance(tick(evaluated), dg.SkipReason)
