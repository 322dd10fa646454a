"""What runs that nobody configures make of the tensors."""

import shutil
from typing import Any

import dagster as dg
import pytest

from mars_assets.definitions import build_defs
from mars_assets.labels.schema import LabelledCrops
from mars_assets.lake import Lake
from mars_assets.resources import LakeResource
from mars_assets.storage.files import write_table
from mars_assets.tensors.stages import read_manifest
from mars_assets_tests.tables import complete
from mars_assets_tests.tensors.test_stages import images

STAGES = ["reflectance", "imputed_post_norm"]


@pytest.mark.slow
def test_a_run_without_configuration_goes_on_with_what_was_chosen_before(lake: Lake) -> None:
    job = build_defs({"lake": LakeResource(root=str(lake.root))}).resolve_implicit_global_asset_job_def()
    keys = [dg.AssetKey(name) for name in STAGES]
    chosen = {"reflectance": {"config": {"statistics": "v2", "truncate": True}}}
    with dg.DagsterInstance.ephemeral() as instance:
        for version, count, config in (("1", 2, chosen), ("2", 3, {})):
            write_table(lake.labelled_crops, complete(images(lake, count), LabelledCrops), {"label_version": version})
            run = job.execute_in_process(asset_selection=keys, instance=instance, run_config={"ops": config})
            assert run.success
            for event in run.get_asset_materialization_events():
                made = event.materialization.metadata["computed in this run"].value
                assert made == (2 if version == "1" else 1), event.asset_key
    for stage in STAGES:
        _, provenance = read_manifest(lake, stage)
        assert (provenance["statistics"], provenance["truncate"]) == ("v2", True)


def test_deleting_what_is_shown_changes_nothing(lake: Lake) -> None:
    job = build_defs({"lake": LakeResource(root=str(lake.root))}).resolve_implicit_global_asset_job_def()
    write_table(lake.labelled_crops, complete(images(lake, 3), LabelledCrops), {"label_version": "1"})

    def materialized() -> dict[str, tuple[dict[str, Any], str]]:
        run = job.execute_in_process(asset_selection=[dg.AssetKey(name) for name in STAGES])
        return {
            str(event.asset_key): (
                {name: value.value for name, value in event.materialization.metadata.items()},
                event.materialization.tags["dagster/data_version"],
            )
            for event in run.get_asset_materialization_events()
        }

    materialized()
    cached = materialized()
    files = {path: path.stat().st_mtime_ns for path in (lake.root / "tensors").rglob("*.tif")}
    assert len(files) == 3 * len(STAGES)
    shutil.rmtree(lake.root / "shown")
    assert materialized() == cached
    assert all(metadata["computed in this run"] == 0 for metadata, _ in cached.values())
    assert {path: path.stat().st_mtime_ns for path in files} == files
