"""Runs of the assets of observations, on small products."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
from PIL import Image

from mars_assets.definitions import build_defs
from mars_assets.imagery.products import product_files
from mars_assets.lake import Lake
from mars_assets.resources import ArchiveResource, ComputeResource, LakeResource
from mars_assets.sample.index import write_index
from mars_assets.sample.server import serve
from mars_assets.sample.terrain import SceneSpec

IDS = [f"ESP_99000{n}_{target}" for n, target in enumerate((1700, 1800, 1900))]


class Runs:
    """Runs of assets on one lake and one instance."""

    def __init__(self, lake: Lake, instance: dg.DagsterInstance, archive: Path, url: str) -> None:
        self.lake, self.instance, self.archive = lake, instance, archive
        resources = {
            "lake": LakeResource(root=str(lake.root)),
            "archive": ArchiveResource(base_url=url, contact="tests"),
            "compute": ComputeResource(device="cpu", precision="fp32"),
        }
        self.job = build_defs(resources).resolve_implicit_global_asset_job_def()

    def run(self, *assets: str, config: dict[str, Any] | None = None, **options: Any) -> Any:
        return self.job.execute_in_process(
            asset_selection=[dg.AssetKey(name) for name in assets],
            instance=self.instance,
            run_config=config or {},
            raise_on_error=False,
            **options,
        )

    def choose(self, **config: Any) -> Any:
        return self.run("observations", config={"ops": {"observations": {"config": config}}} if config else None)

    def of_all(self, *assets: str, config: dict[str, Any] | None = None) -> Any:
        """One run of all partitions, as a backfill starts it."""
        keys = self.partitions()
        span = {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}
        return self.run(*assets, config=config, tags=span)

    def partitions(self) -> list[str]:
        return list(self.instance.get_dynamic_partitions("observation"))

    def made(self, asset: str) -> set[str]:
        return self.instance.get_materialized_partitions(dg.AssetKey(asset))

    def put(self, observation: str, content: bytes) -> None:
        """A browse product into the archive."""
        path = self.archive / product_files(observation, "RGB.NOMAP.browse").image
        path.parent.mkdir(parents=True)
        path.write_bytes(content)


@pytest.fixture
def runs(lake: Lake, tmp_path: Path) -> Iterator[Runs]:
    lake.root.mkdir()
    archive = tmp_path / "archive"
    write_index(archive, [(SceneSpec(name, 2048, 1024, n), 100.0 + n) for n, name in enumerate(IDS)])
    with serve(archive) as url, dg.DagsterInstance.ephemeral() as instance:
        yield Runs(lake, instance, archive, url)


def jpeg(seed: int, lines: int = 200, samples: int = 128) -> bytes:
    pixels = np.random.default_rng(seed).integers(60, 200, (lines, samples, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


def message(result: Any, asset: str) -> str:
    return str(result.failure_data_for_node(asset).user_failure_data.description)


def metadata(result: Any) -> dict[str, Any]:
    """What the only materialization of a run shows."""
    (event,) = result.get_asset_materialization_events()
    return {name: value.value for name, value in event.materialization.metadata.items()}
