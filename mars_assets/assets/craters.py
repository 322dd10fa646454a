"""Assets of group craters: maps of whole scenes, and all as one catalogue."""

from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
from pydantic import Field

from mars_assets.assets.imagery import each_observation, hirise_images, product_of, selected_observations
from mars_assets.assets.metadata import cached_metadata, listing, mendable, picture, progress_of, reported, table, where
from mars_assets.cluster.ranges import backfill_policy
from mars_assets.code_versions import CATALOGUE, COMPARISON, FREQUENCIES, INJECTION, SCENES, code_version
from mars_assets.craters.agreement_files import main_rows, shown_rows
from mars_assets.craters.catalogue_comparison import TABLE, CatalogueComparison, compare_catalogues
from mars_assets.craters.catalogue_files import read_catalogue, update_catalogue
from mars_assets.errors import MarsError, MissingInputError
from mars_assets.lake import (
    COMPARISON_FIGURE,
    COMPARISON_SUMMARY,
    COUNTS_BY_SIZE,
    OVERVIEW,
    PAGE,
    SHIFTS,
    SIZE_FREQUENCY,
    Lake,
)
from mars_assets.models.task import Report
from mars_assets.models.versions import current_model
from mars_assets.partitions import observation_partitions
from mars_assets.resources import ComputeResource, LakeResource
from mars_assets.resources.compute import GPU_POOL
from mars_assets.segmentation.frequencies import TABLE as FREQUENCY_TABLE
from mars_assets.segmentation.frequencies import FrequencyRequest, size_frequencies
from mars_assets.segmentation.maps import LEAST_MAPPED, SMALLEST_MAPPED, MapRequest, map_scene
from mars_assets.segmentation.task import SEGMENTATION, smallest_mapped
from mars_assets.storage.files import read_json
from mars_assets.storage.published import for_people

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
    backfill_policy=backfill_policy("crater_maps"),
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
            made = map_scene(model, MapRequest(image, smallest, label, versions=True), out, chosen, progress)
            files = for_people(out)
            if len(pictures) < 3 * _SHOWN:
                pictures[f"{key}: craters"] = picture(files / OVERVIEW, f"craters of {key}")
                pictures[f"{key}: sizes"] = picture(files / SIZE_FREQUENCY, f"size-frequency plot of {key}")
                pictures[f"{key}: counts by size"] = table(pd.read_csv(files / COUNTS_BY_SIZE))
            area = made["counted_m2"]
            return [
                {
                    "observation": key,
                    "craters": made["craters"],
                    "with their centre in the counted area": made["counted_craters"],
                    "counted area (km2)": None if area is None else area / 1e6,
                    "share counted": made["counted_share"],
                    "page": str(files / PAGE),
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


@dg.asset(group_name=GROUP, kinds={"geopackage", "parquet"}, code_version=CATALOGUE, deps=[crater_maps])
def crater_catalogue(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    """All scenes as one catalogue: each crater once, and the ground counted.

    A crater that several scenes show is one row that names them all, with the values of the scene that shows it best.
    Before craters are compared, the shift between two scenes that overlap is estimated from their craters. The counted
    areas are united: each scene adds what none of finer resolution counts. Sizes and areas are those on IAU 2015's
    sphere. Scenes without a projection or a counted area are left out, and named. If no map changed, nothing is
    written.
    """
    with mendable():
        here = lake.open()
        about = update_catalogue(here, progress_of(context))
        shown = cached_metadata(here, "crater_catalogue", about["key"], lambda: _described(here, about))
    left_out = [{"scene": name, "reason": reason} for name, reason in about["left_out"].items()]
    return dg.MaterializeResult(
        metadata={**shown, **({"left out": listing(left_out)} if left_out else {})},
        data_version=dg.DataVersion(about["key"][:16]),
    )


def _described(lake: Lake, about: dict[str, Any]) -> dict[str, Any]:
    scenes = pd.DataFrame(about["scenes"])
    in_km2 = scenes[["counted_m2", "added_m2"]] / 1e6
    scenes = scenes.assign(counted_km2=in_km2["counted_m2"], added_km2=in_km2["added_m2"])
    return {
        "craters": picture(lake.crater_catalogue(".png"), "counted areas and craters of all scenes"),
        "dagster/row_count": about["craters"],
        "with their centre in the counted area": about["counted_craters"],
        "seen in several scenes": about["in_several_scenes"],
        "number of scenes": len(scenes),
        "counted area, each place once (km2)": about["counted_m2"] / 1e6,
        "scenes": table(scenes[["scene", "craters", "smallest_m", "pixel_m", "counted_km2", "added_km2", "model"]]),
        "shifts between scenes": table(pd.read_csv(lake.crater_catalogue(SHIFTS))),
        "model versions": ", ".join(sorted(set(scenes["model"]))),
        **{f"file {suffix}": where(lake.crater_catalogue(suffix)) for suffix in about["files"]},
    }


class SizeFrequencyConfig(dg.Config):
    """Settings of size-frequency statistics."""

    injection: bool = Field(
        True, description="Draw craters of known size into the scenes and look for them, for the completeness by size."
    )
    smallest_km: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Smallest diameter that the model age is from, in kilometres. By default that from which the count "
        "is complete, or else the smallest that all scenes list.",
    )
    largest_km: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="The largest one. By default that of the largest crater."
    )
    craterstats: str = Field(
        "",
        description="Python of an environment that has craterstats, which needs Python 3.12. By default that of this "
        "process.",
    )


@dg.asset(
    group_name=GROUP,
    kinds={*SEGMENTATION.libraries, "parquet"},
    code_version=code_version(FREQUENCIES, INJECTION),
    deps=[crater_catalogue, dg.AssetKey(SEGMENTATION.evaluation)],
    pool=GPU_POOL,
)
def size_frequency(
    context: dg.AssetExecutionContext, config: SizeFrequencyConfig, lake: LakeResource, compute: ComputeResource
) -> dg.MaterializeResult:
    """Sizes of the craters of all scenes, how complete their count is, and its age.

    Cumulative, differential, R and Hartmann's presentation over the counted area, with Poisson intervals, of craters
    whose centre is in it. How complete the count is by size comes from craters of known size that are drawn into the
    scenes and looked for, and from the labelled craters that the model finds in validation images. Counts corrected
    for that and for false alarms stand beside the raw ones. The age is craterstats', if that is installed. What was
    measured for the same maps is not measured again.
    """
    with mendable():
        here = lake.open()
        selected = cache(selected_observations)

        def product(key: str) -> tuple[Path, Path | None]:
            if key not in selected(here):
                raise MissingInputError("observations", here.observations)
            return product_of(here, selected(here)[key])

        request = FrequencyRequest(
            product if config.injection else None,
            config.smallest_km,
            config.largest_km,
            Path(config.craterstats) if config.craterstats else None,
        )
        model = current_model(here, SEGMENTATION.model)
        found = size_frequencies(here, model, request, compute.choose(), progress_of(context))
        shown = cached_metadata(here, FREQUENCY_TABLE, found.key, lambda: _shown_frequencies(found.report))
    return dg.MaterializeResult(
        metadata={
            **shown,
            "computed in this run": found.computed,
            "model version": model.version,
            "file": where(here.metrics(FREQUENCY_TABLE)),
        },
        data_version=dg.DataVersion(found.key[:16]),
    )


def _shown_frequencies(report: Report) -> dict[str, Any]:
    return {
        **reported("size-frequency statistics", report),
        "in words": dg.MetadataValue.md(str(report.facts["in words"])),
    }


@dg.asset(
    group_name=GROUP,
    kinds={"parquet"},
    code_version=COMPARISON,
    deps=[crater_catalogue],
)
def catalogue_comparison(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    """How far the mapped craters agree with the catalogues that somebody else made.

    Each file in `catalogues/` of the lake (GeoPackage, shapefile, CSV, GeoParquet, `.scc`) is compared with the
    catalogue of all scenes, on ground that both counted and from the larger of both smallest sizes; a file in pixels
    with the maps of the images that it names. Precision, recall, F1 and average precision with 95 % intervals, by
    size, latitude and terrain; bias and spread of sizes and places; reliability of the probabilities; and people by
    each other, where a file has several. A comparison of unchanged inputs is not made again.
    """
    with mendable():
        here = lake.open()
        compared = compare_catalogues(here, lambda: read_catalogue(here), progress_of(context))
        shown = cached_metadata(here, TABLE, compared.key, lambda: _shown(compared))
        if compared.problems:
            raise MarsError(
                f"{len(compared.problems)} catalogues could not be compared, the others were:\n"
                + "\n".join(compared.problems)
            )
    if not compared.folders:
        shown = {
            "no catalogues": f"put catalogues into {here.catalogues}: GeoPackage, shapefile, CSV, GeoParquet or .scc; "
            "NAME.yaml beside one states columns and units that its names do not say"
        }
    return dg.MaterializeResult(
        metadata={
            **shown,
            "dagster/row_count": len(compared.rows),
            "catalogues": len(compared.folders),
            "compared in this run": compared.computed,
            **({"not read": ", ".join(compared.ignored)} if compared.ignored else {}),
            "file": where(here.metrics(TABLE)),
            "folder": where(here.catalogue_comparisons),
        },
        data_version=dg.DataVersion(compared.key[:16]),
    )


def _shown(compared: CatalogueComparison) -> dict[str, Any]:
    """Show the scores of all comparisons, and the first ones in full."""
    shown: dict[str, Any] = {"scores": table(main_rows(compared.rows))} if len(compared.rows) else {}
    for name, folder in list(compared.folders.items())[:_SHOWN]:
        said = read_json(folder / COMPARISON_SUMMARY)
        shown[f"{name}: in words"] = dg.MetadataValue.md("\n".join(f"- {s}" for s in said["in words"] + said["notes"]))
        shown[f"{name}: figure"] = picture(folder / COMPARISON_FIGURE, f"scores against {name}")
        shown[f"{name}: scores"] = table(shown_rows(compared.rows[compared.rows["catalogue"] == name], said["unit"]))
    return shown
