"""The foundation model's weights."""

from typing import Literal

import dagster as dg
from pydantic import Field

from mars_assets.assets.reporting import mendable, progress_of, table, where
from mars_assets.resources import LakeResource

GROUP = "foundation"


class PrithviWeightsConfig(dg.Config):
    """Which weights, and where from."""

    source: Literal["sample", "huggingface", "file"] = Field(
        "sample",
        description="sample: the tiny encoder that this package ships, pretrained on synthetic terrain. huggingface: the "
        "published weights. file: a checkpoint on this machine.",
    )
    variant: str = Field(
        "sample", description="v1_100, v2_300, v2_300_tl, v2_600, v2_600_tl, v2_100_tl, v2_tiny_tl, or sample."
    )
    path: str = Field("", description="The checkpoint, for source file.")
    revision: str = Field("", description="Commit of the Hugging Face repository; empty: its main branch.")


@dg.asset(group_name=GROUP, kinds={"pytorch", "huggingface"}, code_version="1")
def prithvi_weights(
    context: dg.AssetExecutionContext, config: PrithviWeightsConfig, lake: LakeResource
) -> dg.MaterializeResult:
    """Prithvi's weights, verified, with the architecture, bands and statistics that belong to them.

    Every tensor of the checkpoint is accounted for: loaded, recomputed or named as unused. Anything missing, unknown or of
    another shape is an error that lists all of it. Nothing is unpickled but tensors.
    """
    import pandas as pd

    from mars_assets.lake import read_json
    from mars_assets.models import set_current_weights
    from mars_assets.prithvi.weights import install, open_weights

    with mendable():
        here = lake.open()
        folder = install(
            here,
            config.variant,
            config.source,
            path=config.path,
            revision=config.revision,
            progress=progress_of(context),
        )
        weights = open_weights(folder)
        report = read_json(folder / "load_report.json")
        set_current_weights(here, folder, weights.sha256)
    architecture = weights.config
    rows = pd.DataFrame(
        {"band": architecture.bands, "mean": architecture.statistics.means, "std": architecture.statistics.stds}
    )
    return dg.MaterializeResult(
        metadata={
            "variant": architecture.variant,
            "sha256": weights.sha256,
            "parameters": report["parameters"],
            "encoder": f"{architecture.embed_dim} wide, {architecture.depth} deep, {architecture.num_heads} heads, "
            f"patch {architecture.patch_size}",
            "bands and statistics": table(rows),
            "load report": dg.MetadataValue.json(report),
            "folder": where(folder),
        },
        data_version=dg.DataVersion(weights.sha256[:16]),
    )
