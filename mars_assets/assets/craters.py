"""Assets of group craters: maps of whole scenes."""

from typing import Any

import dagster as dg
import pandas as pd
from pydantic import Field

from mars_assets.assets.imagery import each_observation, hirise_images, product_of
from mars_assets.assets.metadata import mendable, picture, progress_of, table, where
from mars_assets.code_versions import SCENES
from mars_assets.lake import COUNTS_BY_SIZE, OVERVIEW, PAGE, SIZE_FREQUENCY
from mars_assets.models.versions import current_model
from mars_assets.partitions import observation_partitions
from mars_assets.resources import ComputeResource, LakeResource
from mars_assets.resources.compute import GPU_POOL
from mars_assets.segmentation.maps import LEAST_MAPPED, SMALLEST_MAPPED, MapRequest, map_scene
from mars_assets.segmentation.task import SEGMENTATION, smallest_mapped

GROUP = "craters"
_SHOWN = 3
_OPEN = """Open `map.html` in a browser, `craters.gpkg` and `probability.tif` in QGIS, and the files `.scc`, `.diam` or
`_CRATER.shp` in craterstats. `craters.csv` has Robbins and Hynek's column names."""


class CraterMapsConfig(dg.Config):
    """Settings of crater maps."""

    smallest_px: float | None = Field(
        None,
        ge=LEAST_MAPPED,
        allow_inf_nan=False,
        description="Smallest diameter to map, in pixels. By default that of the smallest crater in the model's "
        f"evaluation, or {SMALLEST_MAPPED:g} without one.",
    )


@dg.asset(
    group_name=GROUP,
    kinds={*SEGMENTATION.libraries, "geopackage"},
    code_version=SCENES,
    deps=[hirise_images, dg.AssetKey(SEGMENTATION.model), dg.AssetKey(SEGMENTATION.evaluation)],
    partitions_def=observation_partitions,
    backfill_policy=dg.BackfillPolicy.single_run(),
    pool=GPU_POOL,
)
def crater_maps(
    context: dg.AssetExecutionContext, config: CraterMapsConfig, lake: LakeResource, compute: ComputeResource
) -> dg.MaterializeResult:
    """The craters of each observation's whole product, and the counted area.

    The segmentation model in use slides over the product, at full resolution and at halves of it, so that craters from
    the smallest that it was evaluated on up to half of the scene's width are seen whole, each once. Places and sizes
    are those on the ground if the product is map projected, in pixels otherwise. No data, saturated pixels, missing
    bands and wide shadows are not counted. The files are for QGIS, for craterstats and to look at. A map of the same
    product, model and settings is not made again, and a killed run goes on where it was.
    """
    progress = progress_of(context)
    pictures: dict[str, dg.MetadataValue] = {}
    with mendable():
        here = lake.open()
        model = current_model(here, SEGMENTATION.model)
        smallest = config.smallest_px or smallest_mapped(here, model)
        chosen = compute.choose()

        def mapped(row: dict[str, Any]) -> list[dict[str, Any]]:
            key = row["observation"]
            out = here.crater_map(key)
            image, label = product_of(here, row)
            made = map_scene(model, MapRequest(image, smallest, label), out, chosen, progress)
            if len(pictures) < 3 * _SHOWN:
                pictures[f"{key}: craters"] = picture(out / OVERVIEW, f"craters of {key}")
                pictures[f"{key}: sizes"] = picture(out / SIZE_FREQUENCY, f"size-frequency plot of {key}")
                pictures[f"{key}: counts by size"] = table(pd.read_csv(out / COUNTS_BY_SIZE))
            area = made["counted_m2"]
            return [
                {
                    "observation": key,
                    "craters": made["craters"],
                    "with their centre in the counted area": made["counted_craters"],
                    "counted area (km2)": None if area is None else area / 1e6,
                    "share counted": made["counted_share"],
                    "page": str(out / PAGE),
                }
            ]

        metadata = each_observation(context, here, "mapped", mapped)
    return dg.MaterializeResult(
        metadata={
            **metadata,
            "model version": model.version,
            "smallest crater (pixels)": round(smallest, 1),
            "folder": where(here.all_crater_maps),
            "how to open": dg.MetadataValue.md(_OPEN),
            **pictures,
        }
    )
