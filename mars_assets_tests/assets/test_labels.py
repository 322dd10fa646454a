"""What labelled_crops shows: from a cache or not, the table is the same, and so is what is said of it."""

import shutil
from typing import Any

import dagster as dg
import pytest

from mars_assets.assets import labels as module
from mars_assets.definitions import build_defs
from mars_assets.labels import build
from mars_assets.lake import Lake
from mars_assets.resources import LakeResource


def _materialized(lake: Lake) -> tuple[dict[str, Any], str]:
    """The metadata of a run without the number of changed images, and the data version."""
    job = build_defs({"lake": LakeResource(root=str(lake.root))}).resolve_implicit_global_asset_job_def()
    run = job.execute_in_process(asset_selection=[dg.AssetKey("labelled_crops")])
    (event,) = run.get_asset_materialization_events()
    metadata = {name: value.value for name, value in event.materialization.metadata.items()}
    for name in ("new", "changed", "removed"):
        metadata.pop(name)
    return metadata, event.materialization.tags["dagster/data_version"]


@pytest.mark.parametrize("first", [True, False], ids=["nothing was shown before", "it was shown before"])
def test_deleting_what_is_shown_changes_nothing(lake: Lake, write_zip, coco_entries, first: bool, monkeypatch) -> None:
    drawn: list[int] = []
    sheet = module._describe
    monkeypatch.setattr(module, "_describe", lambda *arguments: drawn.append(1) or sheet(*arguments))
    lake.inbox.mkdir(parents=True)
    shutil.move(write_zip("c.v1.coco-segmentation.zip", coco_entries), lake.inbox)
    if first:
        build.build_labelled_crops(lake)
    shown = _materialized(lake)
    assert drawn == [1]
    monkeypatch.setattr(build, "build_labelled_crops", lambda *_: pytest.fail("computed again"))
    table = lake.labelled_crops.read_bytes()
    assert _materialized(lake) == shown
    assert drawn == [1], "taken from the cache"
    shutil.rmtree(lake.root / "shown")
    assert _materialized(lake) == shown
    assert drawn == [1, 1]
    assert lake.labelled_crops.read_bytes() == table


def test_what_is_shown_does_not_hide_what_changed(lake: Lake, write_zip, coco_entries) -> None:
    lake.inbox.mkdir(parents=True)
    shutil.move(write_zip("c.v1.coco-segmentation.zip", coco_entries), lake.inbox)
    before = _materialized(lake)
    next(lake.masks.glob("filled/*")).unlink()
    assert _materialized(lake) == before
    assert len(list(lake.masks.glob("filled/*"))) == 3, "drawn again"
    (lake.inbox / "d.v1.folder.zip").write_bytes(b"PK")
    assert _materialized(lake)[0]["still being copied"] == "d.v1.folder.zip"
