"""Tensors: labelled crops in HLS reflectance units, and imputed to Prithvi's six bands by each method."""

from typing import TYPE_CHECKING, Literal

import dagster as dg
from pydantic import Field

from mars_assets.assets.labels import labelled_crops
from mars_assets.assets.reporting import mendable, picture, progress_of, table, where
from mars_assets.bands import HLS_BANDS, IMPUTATION_METHODS, STATISTICS, ImputationMethod
from mars_assets.lake import fingerprint
from mars_assets.resources import LakeResource

if TYPE_CHECKING:
    from mars_assets.lake import Lake
    from mars_assets.tensors import StageResult

GROUP = "tensors"


class ReflectanceConfig(dg.Config):
    """How 8-bit values become reflectance."""

    statistics: Literal["v1", "v2"] = Field(
        "v1",
        description="Normalisation statistics of the weights that will see the chips: Prithvi v1's or v2's.",
    )
    truncate: bool = Field(False, description="Truncate to integers, as the paper's published code did.")


@dg.asset(group_name=GROUP, kinds={"geotiff"}, code_version="1", deps=[labelled_crops])
def reflectance(
    context: dg.AssetExecutionContext, config: ReflectanceConfig, lake: LakeResource
) -> dg.MaterializeResult:
    """Blue, green and red of every labelled crop in HLS reflectance units (reflectance x 10000).

    Channel i of the 8-bit image times `(mean_i + 2 * std_i) / 255`, with the means and standard deviations that Prithvi
    is normalised with, as in Patel et al. 2024. Float32 GeoTIFFs; a chip that is there for the same pixels and settings
    is not made again.
    """
    from mars_assets.labels.table import current_label_version, read_labelled_crops
    from mars_assets.tensors import make_reflectance

    with mendable():
        here = lake.open()
        result = make_reflectance(
            here,
            read_labelled_crops(here),
            current_label_version(here),
            statistics=config.statistics,
            truncate=config.truncate,
            progress=progress_of(context),
        )
        metadata = _describe(here, "reflectance", result)
    return dg.MaterializeResult(metadata=metadata, data_version=_version(result))


class ImputationConfig(dg.Config):
    """Statistics of an imputation."""

    statistics: Literal["v1", "v2"] = Field("v1", description="Must be those that reflectance was scaled with.")


_EXPLAINED: dict[ImputationMethod, str] = {
    "means": "The three missing bands are their own means: exactly 0 after normalisation (Blumenstiel et al. 2024).",
    "pre_norm": "The three missing bands are blue, green and red again, copied in reflectance units, before normalisation.",
    "post_norm": "The three missing bands are what gives blue, green and red again after normalisation: the paper's best.",
}


def _imputed(method: ImputationMethod) -> dg.AssetsDefinition:
    @dg.asset(
        name=f"imputed_{method}",
        group_name=GROUP,
        kinds={"geotiff"},
        code_version="1",
        deps=[reflectance],
        description=(
            f"Six-band chips by the method `{method}`. {_EXPLAINED[method]}\n\nBands: {', '.join(HLS_BANDS)}, float32, HLS "
            "reflectance units. Normalised with the published statistics a chip is the method's tensor."
        ),
    )
    def imputed(
        context: dg.AssetExecutionContext, config: ImputationConfig, lake: LakeResource
    ) -> dg.MaterializeResult:
        from mars_assets.tensors import make_imputed

        with mendable():
            here = lake.open()
            result = make_imputed(here, method, statistics=config.statistics, progress=progress_of(context))
            metadata = _describe(here, f"imputed_{method}", result)
        return dg.MaterializeResult(metadata=metadata, data_version=_version(result))

    return imputed


imputed_assets = [_imputed(method) for method in IMPUTATION_METHODS]


def _version(result: "StageResult") -> dg.DataVersion:
    return dg.DataVersion(fingerprint(sorted(result.manifest["chip_sha"]))[:16])


def _describe(lake: "Lake", stage: str, result: "StageResult") -> dict:
    from mars_assets.evaluation.chips import chip_sheet, value_ranges

    folder = lake.tensors(stage)
    statistics = STATISTICS[result.provenance["statistics"]]
    sample = result.manifest.iloc[:: max(1, len(result.manifest) // 6)].head(6)
    paths = [lake.inside(file) for file in sample["file"]]
    ranges = value_ranges(paths, result.provenance["bands"])
    return {
        "dagster/row_count": len(result.manifest),
        "computed in this run": result.computed,
        "were there": len(result.manifest) - result.computed,
        "chips": picture(
            chip_sheet(paths, result.provenance["bands"], statistics), f"{stage}, every band of six chips"
        ),
        "values of these chips": table(ranges),
        "statistics": statistics.name,
        "label version": result.provenance["label_version"],
        "folder": where(folder),
        "manifest": where(folder / "manifest.parquet"),
    }
