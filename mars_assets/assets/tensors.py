"""Tensors: labelled crops in HLS reflectance units, and imputed to Prithvi's six bands by each method."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg
import pandas as pd
from pydantic import Field

from mars_assets.assets.automation_conditions import follows
from mars_assets.assets.labels import labelled_crops
from mars_assets.assets.metadata import kept, mendable, picture, progress_of, table, where
from mars_assets.assets.run_config import AS_BEFORE
from mars_assets.bands import (
    EVALUATED,
    HLS_BANDS,
    IMPUTATION_METHODS,
    SPECTRAL,
    STATISTICS,
    BandStatistics,
    ImputationMethod,
)
from mars_assets.code_versions import CALIBRATION, IMPUTATION, REFLECTANCE, SPECTRAL_IMPUTATION, code_version
from mars_assets.labels.table import current_label_version, read_labelled_crops
from mars_assets.resources import LakeResource
from mars_assets.resources.lake import LAKE_POOL
from mars_assets.storage.hashing import fingerprint
from mars_assets.tensors.figures import chip_sheet, value_ranges
from mars_assets.tensors.stages import (
    CALIBRATED,
    make_calibrated,
    make_imputed,
    make_reflectance,
    make_spectral,
    settings_before,
)

if TYPE_CHECKING:
    from mars_assets.lake import Lake
    from mars_assets.tensors.stages import StageResult


GROUP = "tensors"


class ReflectanceConfig(dg.Config):
    """How 8-bit values become reflectance."""

    statistics: Literal["as_before", "v1", "v2"] = Field(
        AS_BEFORE,
        description="Normalisation statistics of the weights that will see the chips: Prithvi v1's or v2's. as_before: "
        "those of the chips that are there, v1 where there are none.",
    )
    truncate: bool | None = Field(
        None,
        description="Truncate to integers, as the paper's published code did. Not given: as the chips that are there, "
        "or not.",
    )


@dg.asset(
    group_name=GROUP,
    kinds={"geotiff"},
    code_version=code_version(REFLECTANCE, CALIBRATION),
    deps=[labelled_crops],
    pool=LAKE_POOL,
    automation_condition=follows(),
)
def reflectance(
    context: dg.AssetExecutionContext, config: ReflectanceConfig, lake: LakeResource
) -> dg.MaterializeResult:
    """Blue, green and red of every labelled crop in HLS reflectance units (reflectance x 10000).

    Channel i of the 8-bit image times `(mean_i + 2 * std_i) / 255`, with the means and standard deviations that Prithvi
    is normalised with, as in Patel et al. 2024. Float32 GeoTIFFs; a chip that is there for the same pixels and settings
    is not made again.

    Crops of COLOR products are calibrated, so for them there is no need to guess: in `tensors/calibrated` they have
    green, red and near infrared as I/F / cos(incidence) x 10000, which `imputed_spectral` uses.
    """
    progress = progress_of(context)
    with mendable():
        here = lake.open()
        images, version = read_labelled_crops(here), current_label_version(here)
        before = settings_before(here, "reflectance")
        result = make_reflectance(
            here,
            images,
            version,
            statistics=_asked_for(here, config.statistics),
            truncate=before.get("truncate", False) if config.truncate is None else config.truncate,
            progress=progress,
        )
        calibrated = make_calibrated(here, images, version, progress=progress)
        metadata = _describe(here, "reflectance", result)
        metadata["calibrated chips"] = len(calibrated.manifest)
        if len(calibrated.manifest):
            metadata |= kept(
                here,
                CALIBRATED,
                _content(calibrated),
                lambda: {"calibrated": _chips_picture(here, CALIBRATED, calibrated)},
            )
    shas = [*result.manifest["chip_sha"], *calibrated.manifest["chip_sha"]]
    return dg.MaterializeResult(metadata=metadata, data_version=_version(shas))


class ImputationConfig(dg.Config):
    """Statistics of an imputation."""

    statistics: Literal["as_before", "v1", "v2"] = Field(
        AS_BEFORE, description="Must be those that reflectance was scaled with; as_before: these."
    )


_EXPLAINED: dict[ImputationMethod, str] = {
    "means": "The three missing bands are their own means: exactly 0 after normalisation (Blumenstiel et al. 2024).",
    "pre_norm": "The three missing bands are blue, green and red again, copied in reflectance units, before "
    "normalisation.",
    "post_norm": "The three missing bands are what gives blue, green and red again after normalisation: the paper's "
    "best.",
}


def _imputed(method: ImputationMethod) -> dg.AssetsDefinition:
    @dg.asset(
        name=f"imputed_{method}",
        group_name=GROUP,
        kinds={"geotiff"},
        code_version=IMPUTATION,
        deps=[reflectance],
        pool=LAKE_POOL,
        automation_condition=follows() if method == EVALUATED else None,
        description=(
            f"Six-band chips by the method `{method}`. {_EXPLAINED[method]}\n\nBands: {', '.join(HLS_BANDS)}, float32, "
            "HLS reflectance units. Normalised with the published statistics a chip is the method's tensor."
        ),
    )
    def imputed(
        context: dg.AssetExecutionContext, config: ImputationConfig, lake: LakeResource
    ) -> dg.MaterializeResult:

        with mendable():
            here = lake.open()
            statistics = _asked_for(here, config.statistics)
            result = make_imputed(here, method, statistics=statistics, progress=progress_of(context))
            metadata = _describe(here, f"imputed_{method}", result)
        return dg.MaterializeResult(metadata=metadata, data_version=_version(list(result.manifest["chip_sha"])))

    return imputed


@dg.asset(group_name=GROUP, kinds={"geotiff"}, code_version=SPECTRAL_IMPUTATION, deps=[reflectance], pool=LAKE_POOL)
def imputed_spectral(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    """Six-band chips of the crops with a calibrated source, beyond the paper.

    Three bands are measured, none guessed.

    HiRISE's RED (700 nm) is B04, BLUE-GREEN (500 nm) is B03, NEAR-INFRARED (900 nm) is the NIR band, all as reflectance
    x 10000. The rest follows by a rule: BLUE continues the line through BLUE-GREEN and RED to 482 nm; SWIR_1 and SWIR_2
    equal the NIR band, since Mars's spectra change little there. Crops of uncalibrated products and images from
    elsewhere have no such chip.
    """
    with mendable():
        here = lake.open()
        result = make_spectral(here, progress=progress_of(context))
        metadata = _describe(here, f"imputed_{SPECTRAL}", result)
        calibrated = len(result.manifest)
        counts = {"calibrated": calibrated, "without a calibrated source": len(read_labelled_crops(here)) - calibrated}
        metadata["images"] = table(pd.DataFrame([counts]))
    return dg.MaterializeResult(metadata=metadata, data_version=_version(list(result.manifest["chip_sha"])))


imputed_assets = [*(_imputed(method) for method in IMPUTATION_METHODS), imputed_spectral]


def _asked_for(lake: "Lake", statistics: str) -> Any:
    """The statistics that a configuration names, or those of the chips that are there."""
    return settings_before(lake, "reflectance").get("statistics", "v1") if statistics == AS_BEFORE else statistics


def _content(result: "StageResult") -> str:
    settings = {name: value for name, value in result.provenance.items() if name != "label_version"}
    return fingerprint(settings, result.manifest[["image_id", "chip_sha"]].to_dict("list"))


def _version(chip_shas: list[str]) -> dg.DataVersion:
    return dg.DataVersion(fingerprint(sorted(chip_shas))[:16])


def _chips_picture(lake: "Lake", stage: str, result: "StageResult") -> dg.MetadataValue:

    sheet = chip_sheet(_shown(lake, result), result.provenance["bands"], _statistics(result))
    return picture(sheet, f"{stage}, every band of six chips")


def _shown(lake: "Lake", result: "StageResult") -> list[Path]:
    sample = result.manifest.iloc[:: max(1, len(result.manifest) // 6)].head(6)
    return [lake.inside(file) for file in sample["file"]]


def _statistics(result: "StageResult") -> BandStatistics:
    """Those that a stage was made with; v1's, for display only, of one that needs none."""
    return STATISTICS[result.provenance.get("statistics", "v1")]


def _describe(lake: "Lake", stage: str, result: "StageResult") -> dict:

    folder = lake.tensors(stage)
    shown: dict[str, Any] = {}
    if len(result.manifest):
        shown = kept(
            lake,
            stage,
            _content(result),
            lambda: {
                "chips": _chips_picture(lake, stage, result),
                "values of these chips": table(value_ranges(_shown(lake, result), result.provenance["bands"])),
            },
        )
    if "statistics" in result.provenance:
        shown["statistics"] = result.provenance["statistics"]
    return {
        "dagster/row_count": len(result.manifest),
        "computed in this run": result.computed,
        "were there": len(result.manifest) - result.computed,
        **shown,
        "label version": result.provenance["label_version"],
        "folder": where(folder),
        "manifest": where(lake.chips(stage)),
    }
