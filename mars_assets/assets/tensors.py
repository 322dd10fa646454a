"""Assets of group tensors: reflectance and imputed bands."""

from pathlib import Path
from typing import Any, Literal

import dagster as dg
import pandas as pd
from pydantic import Field

from mars_assets.assets.automation_conditions import follows
from mars_assets.assets.labels import labelled_crops
from mars_assets.assets.metadata import cached_metadata, mendable, picture, progress_of, table, where
from mars_assets.assets.run_config import AS_BEFORE
from mars_assets.bands import (
    EVALUATED,
    HLS_BANDS,
    IMPUTATION_METHODS,
    SPECTRAL,
    STATISTICS,
    ImputationMethod,
)
from mars_assets.code_versions import CALIBRATION, IMPUTATION, REFLECTANCE, SPECTRAL_IMPUTATION, code_version
from mars_assets.labels.table import current_label_version, read_labelled_crops
from mars_assets.lake import Lake
from mars_assets.resources import LakeResource
from mars_assets.resources.lake import LAKE_POOL
from mars_assets.storage.hashing import fingerprint
from mars_assets.tensors.figures import chip_sheet, value_ranges
from mars_assets.tensors.stages import (
    CALIBRATED,
    Scale,
    StageResult,
    make_calibrated,
    make_imputed,
    make_reflectance,
    make_spectral,
    settings_before,
)

GROUP = "tensors"


class ReflectanceConfig(dg.Config):
    """Conversion from 8-bit values to reflectance."""

    statistics: Literal["as_before", "v1", "v2"] = Field(
        AS_BEFORE,
        description="Normalisation statistics of the weights that will be used: Prithvi v1's or v2's. as_before: those "
        "of the existing chips, or v1 if there are none.",
    )
    truncate: bool | None = Field(
        None,
        description="Truncate to integers, as the paper's published code does. Unset: as for the existing chips, or no "
        "truncation if there are none.",
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
    """Blue, green and red of every labelled crop in HLS reflectance units (x 10000).

    Channel i of the 8-bit image is multiplied by `(mean_i + 2 * std_i) / 255`, with the means and standard deviations
    that normalise Prithvi's input (Patel et al. 2024). Chips are float32 GeoTIFFs; existing chips for the same pixels
    and settings are not recomputed.

    Crops of COLOR products are calibrated, so that their reflectance need not be estimated: `tensors/calibrated` has
    their green, red and near infrared as I/F / cos(incidence) x 10000, which `imputed_spectral` uses.
    """
    progress = progress_of(context)
    with mendable():
        here = lake.open()
        images, version = read_labelled_crops(here), current_label_version(here)
        truncate = settings_before(here).get("truncate", False) if config.truncate is None else config.truncate
        scale = Scale(_statistics_name(here, config.statistics), truncate)
        result = make_reflectance(here, images, version, scale, progress)
        calibrated = make_calibrated(here, images, version, progress=progress)
        metadata = _describe(here, "reflectance", result)
        metadata["calibrated chips"] = len(calibrated.manifest)
        if len(calibrated.manifest):
            metadata |= cached_metadata(
                here,
                CALIBRATED,
                _content(calibrated),
                lambda: {"calibrated": _chips_picture(here, CALIBRATED, calibrated)},
            )
    return _materialized(metadata, result, calibrated)


class ImputationConfig(dg.Config):
    """Normalisation statistics for an imputation."""

    statistics: Literal["as_before", "v1", "v2"] = Field(
        AS_BEFORE, description="Must equal those that reflectance was scaled with. as_before: those."
    )


_EXPLAINED: dict[ImputationMethod, str] = {
    "means": "The three missing bands are set to their means, exactly 0 after normalisation (Blumenstiel et al. 2024).",
    "pre_norm": "The three missing bands are copies of blue, green and red in reflectance units, before normalisation.",
    "post_norm": "The three missing bands equal blue, green and red after normalisation: the paper's best method.",
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
            f"Six-band chips imputed by the method `{method}`. {_EXPLAINED[method]}\n\nBands: {', '.join(HLS_BANDS)}, "
            "float32, in HLS reflectance units. Normalising a chip with the published statistics gives the method's "
            "tensor."
        ),
    )
    def imputed(
        context: dg.AssetExecutionContext, config: ImputationConfig, lake: LakeResource
    ) -> dg.MaterializeResult:
        with mendable():
            here = lake.open()
            statistics = _statistics_name(here, config.statistics)
            result = make_imputed(here, method, statistics=statistics, progress=progress_of(context))
            metadata = _describe(here, f"imputed_{method}", result)
        return _materialized(metadata, result)

    return imputed


@dg.asset(group_name=GROUP, kinds={"geotiff"}, code_version=SPECTRAL_IMPUTATION, deps=[reflectance], pool=LAKE_POOL)
def imputed_spectral(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    """Six-band chips of the calibrated crops, three bands of which are measured.

    This method is not in the paper. HiRISE's RED (700 nm) becomes B04, BLUE-GREEN (500 nm) B03 and NEAR-INFRARED (900
    nm) the NIR band, all as reflectance x 10000. The other bands are derived: BLUE extrapolates the line through
    BLUE-GREEN and RED to 482 nm; SWIR_1 and SWIR_2 equal the NIR band, since the spectra of Mars vary little there.
    Crops of uncalibrated products and images from elsewhere get no such chip.
    """
    with mendable():
        here = lake.open()
        result = make_spectral(here, progress=progress_of(context))
        metadata = _describe(here, f"imputed_{SPECTRAL}", result)
        calibrated = len(result.manifest)
        counts = {"calibrated": calibrated, "without a calibrated source": len(read_labelled_crops(here)) - calibrated}
        metadata["images"] = table(pd.DataFrame([counts]))
    return _materialized(metadata, result)


imputed_assets = [*(_imputed(method) for method in IMPUTATION_METHODS), imputed_spectral]


def _statistics_name(lake: Lake, statistics: str) -> Any:
    """Resolve ``as_before`` to the statistics of the existing chips."""
    return settings_before(lake).get("statistics", "v1") if statistics == AS_BEFORE else statistics


def _content(result: StageResult) -> str:
    settings = {name: value for name, value in result.provenance.items() if name != "label_version"}
    return fingerprint(settings, result.manifest[["image_id", "chip_sha"]].to_dict("list"))


def _materialized(metadata: dict[str, Any], *results: StageResult) -> dg.MaterializeResult:
    chip_shas = sorted(sha for result in results for sha in result.manifest["chip_sha"])
    return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(fingerprint(chip_shas)[:16]))


def _chips_picture(lake: Lake, stage: str, result: StageResult) -> dg.MetadataValue:
    # Of a stage without statistics, v1's are used for the display alone.
    statistics = STATISTICS[result.provenance.get("statistics", "v1")]
    sheet = chip_sheet(_shown(lake, result), result.provenance["bands"], statistics)
    return picture(sheet, f"{stage}: all bands of six chips")


def _shown(lake: Lake, result: StageResult) -> list[Path]:
    sample = result.manifest.iloc[:: max(1, len(result.manifest) // 6)].head(6)
    return [lake.inside(file) for file in sample["file"]]


def _describe(lake: Lake, stage: str, result: StageResult) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    if len(result.manifest):
        shown = cached_metadata(
            lake,
            stage,
            _content(result),
            lambda: {
                "chips": _chips_picture(lake, stage, result),
                "value ranges of these chips": table(value_ranges(_shown(lake, result), result.provenance["bands"])),
            },
        )
    if "statistics" in result.provenance:
        shown["statistics"] = result.provenance["statistics"]
    return {
        "dagster/row_count": len(result.manifest),
        "computed in this run": result.computed,
        "existed": len(result.manifest) - result.computed,
        **shown,
        "label version": result.provenance["label_version"],
        "folder": where(lake.tensors(stage)),
        "manifest": where(lake.chips(stage)),
    }
