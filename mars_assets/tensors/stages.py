"""Tensor stages: scaling labelled images to reflectance, and imputing six bands.

8-bit images are scaled to blue, green and red as in the paper. Crops of COLOR products have a second source, calibrated
DN, which physics converts to green, red and near infrared; ``spectral`` derives six bands from these.

Each chip has in its name a fingerprint of its inputs: pixels, position on Mars, settings. A stage computes only the
chips that do not exist: a killed run continues, a changed setting recomputes, and a new label for the same pixels costs
nothing. No chip is ever replaced, so a manifest that was read stays true, see :mod:`mars_assets.storage.named_files`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mars_assets.bands import (
    CALIBRATED_BANDS,
    HLS_BANDS,
    SPECTRAL,
    STATISTICS,
    Float32,
    ImputationMethod,
    calibrated_reflectance,
    impute,
    impute_spectral,
    scale_to_reflectance,
)
from mars_assets.code_versions import CALIBRATION, IMPUTATION, REFLECTANCE, SPECTRAL_IMPUTATION
from mars_assets.errors import DamagedFileError, MarsError, ProvenanceError
from mars_assets.images import read_rgb
from mars_assets.lake import CROPS, Lake
from mars_assets.progress import SILENT, Progress
from mars_assets.storage.claims import claim
from mars_assets.storage.files import read_provenance, sweep
from mars_assets.storage.geotiff import georeference
from mars_assets.storage.hashing import fingerprint
from mars_assets.storage.named_files import replacing_table
from mars_assets.storage.published import version_in_use
from mars_assets.storage.schema import columns_of, read_checked, write_checked
from mars_assets.tensors.geotiff import read_chip, read_fingerprint, write_chip
from mars_assets.threads import in_threads

BGR = HLS_BANDS[:3]
CALIBRATED = "calibrated"
HIGHEST_INCIDENCE = 80.0
"""Degrees. With a lower sun, slopes rather than the material determine the reflectance computed for level ground."""
_HIGHEST_REFLECTANCE = 30_000.0  # a slope facing a low sun exceeds the maximum for level ground
_LOOKED_AT = 64  # chips of a stage that are read to find problems
_WORK = ".computing"


@dataclass(frozen=True)
class StageResult:
    """Result of a stage.

    Args:
        manifest: one row per chip, see :class:`mars_assets.tensors.schema.Chips`.
        provenance: the settings, as stored in the manifest.
        computed: how many chips this run computed; the others existed.
    """

    manifest: pd.DataFrame
    provenance: dict[str, Any]
    computed: int


@dataclass(frozen=True)
class Scale:
    """Scale from 8-bit values to reflectance.

    Args:
        statistics: whose means and standard deviations set the scale, a key of ``bands.STATISTICS``.
        truncate: truncate to integers, as the paper's published code does.
    """

    statistics: str = "v1"
    truncate: bool = False


@dataclass(frozen=True)
class _Stage:
    """A stage's name, bands, settings, and computation of a row's chip.

    The computation returns values, and the CRS and transform or None.
    """

    name: str
    bands: tuple[str, ...]
    settings: dict[str, Any]
    compute: Callable[[Any], tuple[Float32, tuple[Any, Any]]]


def settings_before(lake: Lake) -> dict[str, Any]:
    """Read the settings of the existing chips in reflectance.

    They are empty if there are none.
    """
    manifest = lake.chips("reflectance")
    return read_provenance(manifest) if manifest.exists() else {}


def make_reflectance(
    lake: Lake,
    images: pd.DataFrame,
    label_version: str,
    scale: Scale = Scale(),
    progress: Progress = SILENT,
) -> StageResult:
    """Scale every labelled image to B, G, R in HLS reflectance units.

    Args:
        lake: where the chips are written.
        images: ``labelled_crops``.
        label_version: of these images; stored in the manifest.
        scale: how values become reflectance.
        progress: shows how many chips are done.
    """
    statistics = STATISTICS[scale.statistics]
    crops = _Crops(lake)

    def compute(row: Any) -> tuple[Float32, tuple[Any, Any]]:
        rgb = read_rgb(lake.inside(row.file))
        return scale_to_reflectance(rgb, statistics, scale.truncate), crops.georeference(row)

    images = images.assign(source_sha=[crops.placed_sha(row) for row in images.itertuples()])
    stage = _Stage("reflectance", BGR, {"computation": REFLECTANCE, **asdict(scale)}, compute)
    return _run_stage(lake, stage, images, label_version, progress)


def make_calibrated(
    lake: Lake, images: pd.DataFrame, label_version: str, *, progress: Progress = SILENT
) -> StageResult:
    """Calibrate labelled crops of COLOR products to green, red and NIR.

    Values are in HLS reflectance units. Crops with no-data or saturated pixels, and scenes with an incidence angle
    above ``HIGHEST_INCIDENCE``, are left out and reported.

    Args:
        lake: where the chips are written.
        images: ``labelled_crops``.
        label_version: of these images; stored in the manifest.
        progress: shows how many chips are done.
    """
    crops = _Crops(lake)
    sources = {row.image_id: crops.calibrated_source(row) for row in images.itertuples()}
    complete = {image: source for image, source in sources.items() if source is not None and source.usable}
    left_out = sum(source is not None for source in sources.values()) - len(complete)
    if left_out:
        progress.say(
            f"{CALIBRATED}: left out {left_out} crops that have no-data or saturated pixels, or the sun lower than "
            f"{90 - HIGHEST_INCIDENCE:.0f} degrees above the horizon"
        )

    def compute(row: Any) -> tuple[Float32, tuple[Any, Any]]:
        return complete[row.image_id].read(), crops.georeference(row)

    images = images[images["image_id"].isin(complete)]
    images = images.assign(source_sha=[complete[image].sha for image in images["image_id"]])
    stage = _Stage(CALIBRATED, CALIBRATED_BANDS, {"computation": CALIBRATION}, compute)
    return _run_stage(lake, stage, images, label_version, progress)


def make_spectral(lake: Lake, *, progress: Progress = SILENT) -> StageResult:
    """Derive six bands from every calibrated chip."""
    settings = {"computation": SPECTRAL_IMPUTATION, "method": SPECTRAL}
    return _impute_chips(lake, CALIBRATED, settings, impute_spectral, progress)


def make_imputed(
    lake: Lake, method: ImputationMethod, *, statistics: str = "v1", progress: Progress = SILENT
) -> StageResult:
    """Impute the missing bands of every reflectance chip.

    Raises:
        ProvenanceError: the reflectance was scaled with other statistics.
    """
    _, provenance = read_manifest(lake, "reflectance")
    if provenance["statistics"] != statistics:
        raise ProvenanceError(
            f"imputed_{method} is set to the statistics {statistics!r}, but reflectance was scaled with "
            f"{provenance['statistics']!r}: use the same for both"
        )
    settings = {
        "computation": IMPUTATION,
        "method": method,
        "statistics": statistics,
        "truncate": provenance["truncate"],
    }
    chosen = STATISTICS[statistics]
    return _impute_chips(lake, "reflectance", settings, lambda bgr: impute(bgr, method, chosen), progress)


def _impute_chips(
    lake: Lake, source: str, settings: dict[str, Any], function: Callable[[Float32], Float32], progress: Progress
) -> StageResult:
    """Compute the chips of a method, in ``settings``.

    The function is applied to the chips of the stage ``source``.
    """
    chips, provenance = read_manifest(lake, source)

    def compute(row: Any) -> tuple[Float32, tuple[Any, Any]]:
        path = lake.inside(row.file)
        return function(read_chip(path, provenance["bands"])), georeference(path)

    stage = _Stage(f"imputed_{settings['method']}", HLS_BANDS, settings, compute)
    return _run_stage(lake, stage, chips.assign(source_sha=chips["chip_sha"]), provenance["label_version"], progress)


def read_manifest(lake: Lake, stage: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read a stage's manifest and its provenance.

    Raises:
        MissingInputError: the stage has not been materialized.
    """
    from mars_assets.tensors.schema import Chips

    path = lake.chips(stage)
    return read_checked(path, stage, Chips), read_provenance(path)


def _run_stage(lake: Lake, stage: _Stage, images: pd.DataFrame, label_version: str, progress: Progress) -> StageResult:
    """Compute a stage's missing and outdated chips, and write its manifest.

    Args:
        lake: where the chips are written.
        stage: what to compute.
        images: the stage's input: ``image_id, height, width, source_sha`` and what ``stage.compute`` uses.
        label_version: of the images; stored in the manifest.
        progress: shows how many chips are done.
    """
    from mars_assets.tensors.schema import Chips

    folder = lake.tensors(stage.name)
    with claim(folder, lake.all_tensors / _WORK / stage.name, progress) as mine:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        old = read_checked(lake.chips(stage.name), stage.name, Chips) if lake.chips(stage.name).exists() else None
        manifest, computed = _computed(lake, stage, images, old, progress)
        provenance = {**stage.settings, "bands": list(stage.bands), "label_version": label_version}
        with mine.publishing(), replacing_table(folder.glob("*.tif"), _names(old), _names(manifest)):
            write_checked(lake.chips(stage.name), manifest, Chips, provenance)
    return StageResult(manifest, provenance, computed)


def _names(manifest: pd.DataFrame | None) -> set[str]:
    return set() if manifest is None else {Path(file).name for file in manifest["file"]}


def _computed(
    lake: Lake, stage: _Stage, images: pd.DataFrame, old: pd.DataFrame | None, progress: Progress
) -> tuple[pd.DataFrame, int]:
    """Compute a stage's missing chips.

    Returns:
        The manifest, and how many chips were computed.
    """
    from mars_assets.tensors.schema import Chips

    folder = lake.tensors(stage.name)
    # Earlier versions named chips by the image alone.
    known: dict[tuple[str, str], Path] = {}
    if old is not None:
        names = zip(old["image_id"], old["chip_sha"], strict=True)
        known = dict(zip(names, map(lake.inside, old["file"]), strict=True))
    rows: list[Any] = list(images.itertuples())
    chip_shas = [fingerprint(stage.settings, row.source_sha) for row in rows]
    paths = [
        known.get((row.image_id, chip_sha), folder / f"{row.image_id}-{chip_sha[:8]}.tif")
        for row, chip_sha in zip(rows, chip_shas, strict=True)
    ]
    present = set(folder.glob("*.tif"))
    todo = [job for job in zip(rows, paths, chip_shas, strict=True) if job[1] not in present]

    def write(job: tuple[Any, Path, str]) -> None:
        row, path, chip_sha = job
        values, place = stage.compute(row)
        write_chip(path, values, stage.bands, georeference=place, fingerprint=chip_sha)

    counter = progress.counter(f"{stage.name}: computing chips", len(todo))
    for _ in in_threads(write, todo, ahead=8):
        counter.advance()
    counter.close()
    progress.say(f"{stage.name}: {len(todo)} chips computed, {len(rows) - len(todo)} existed")

    manifest = images.assign(file=[lake.relative(path) for path in paths], chip_sha=chip_shas)
    return manifest[list(columns_of(Chips))].reset_index(drop=True), len(todo)


@dataclass(frozen=True)
class _CalibratedSource:
    """A crop's DN: file, fingerprint, and whether they can be calibrated."""

    path: Path
    sha: str
    usable: bool

    def read(self) -> Float32:
        import rasterio
        from rasterio.errors import RasterioError

        try:
            with rasterio.open(self.path) as file:
                incidence = float(file.tags()["INCIDENCE_ANGLE"])
                return calibrated_reflectance(file.read(), file.scales[0], file.offsets[0], incidence)
        except (RasterioError, KeyError) as error:
            raise DamagedFileError(f"{self.path} cannot be read ({error}): materialize 'crops' again") from error


class _CropVersion(NamedTuple):
    """A version of an observation's crops.

    It has its folder, and the manifest's rows by id and provenance.
    """

    folder: Path
    crops: dict[str, Any]
    provenance: dict[str, Any]


class _Crops:
    """Georeference and calibrated DN of the lake's crops."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._versions: dict[str, _CropVersion] = {}

    def georeference(self, row: Any) -> tuple[Any, Any]:
        """Return a map-projected crop's CRS and transform, or (None, None)."""
        if row.origin != "crop":
            return None, None
        crop, _ = self._of(row)
        if not isinstance(crop.crs, str):  # missing text is NaN in a column that has some
            return None, None
        from rasterio import Affine

        return crop.crs, Affine(*crop.transform)

    def placed_sha(self, row: Any) -> str:
        """Compute a fingerprint of an image's pixels and, if known, its position."""
        crs, transform = self.georeference(row)
        return row.pixels_sha if crs is None else fingerprint(row.pixels_sha, crs, list(transform)[:6])

    def calibrated_source(self, row: Any) -> _CalibratedSource | None:
        """Return the DN of an image that is a crop of a COLOR product, otherwise None."""
        if row.origin != "crop":
            return None
        crop, version = self._of(row)
        if crop.product != "COLOR" or not isinstance(crop.dn_file, str):
            return None
        cut = version.provenance
        usable = crop.invalid_fraction == 0 and crop.saturated_fraction == 0
        usable = usable and cut["label"]["incidence_angle"] <= HIGHEST_INCIDENCE
        return _CalibratedSource(version.folder / crop.dn_file, fingerprint(cut["fingerprint"], crop.crop_id), usable)

    def _of(self, row: Any) -> tuple[Any, _CropVersion]:
        """Return a crop's row in the manifest, and the version of crops."""
        from mars_assets.imagery.schema import Crops

        if row.observation not in self._versions:
            folder = version_in_use(self._lake.crops(row.observation))
            path = folder / CROPS
            columns = ["crop_id", "product", "dn_file", "invalid_fraction", "saturated_fraction", "crs", "transform"]
            table = read_checked(path, "crops", Crops, columns)
            crops = dict(zip(table["crop_id"], table.itertuples(), strict=True))
            self._versions[row.observation] = _CropVersion(folder, crops, read_provenance(path))
        version = self._versions[row.observation]
        if row.original not in version.crops:
            raise MarsError(
                f"{row.original} is no longer among the crops of {row.observation}, which were cut again: materialize "
                "'labelled_crops' again"
            )
        return version.crops[row.original], version


def chip_problems(lake: Lake, stage: str) -> tuple[list[str], int]:
    """List problems of a stage's chips: all must exist, an even sample is read.

    Returns:
        The problems, and how many chips were read.
    """
    manifest, provenance = read_manifest(lake, stage)
    there = np.array([lake.inside(file).exists() for file in manifest["file"]], bool)
    problems = [f"{file} is missing" for file in manifest.loc[~there, "file"]]
    manifest = manifest[there]
    sample = manifest.iloc[np.unique(np.linspace(0, len(manifest) - 1, min(_LOOKED_AT, len(manifest))).astype(int))]
    row: Any
    for row in sample.itertuples():
        try:
            path = lake.inside(row.file)
            chip = read_chip(path, provenance["bands"])
        except DamagedFileError as error:
            problems.append(str(error))
            continue
        if read_fingerprint(path) != row.chip_sha:
            problems.append(
                f"{row.file} was computed from other inputs than the manifest states: delete {path.parent} and "
                "materialize its asset again"
            )
        if problem := _problem_of(chip, row, provenance):
            problems.append(f"{row.file}: {problem}")
    return problems, len(sample)


def _problem_of(chip: Float32, row: Any, provenance: dict[str, Any]) -> str:
    """Describe the first problem of a chip; empty if there is none."""
    if chip.shape != (len(provenance["bands"]), row.height, row.width):
        return f"has the shape {chip.shape}"
    if not np.isfinite(chip).all():
        return "has values that are not finite"
    method = provenance.get("method")
    if "statistics" in provenance:
        statistics = STATISTICS[provenance["statistics"]]
        # Rounding in float32 can exceed white by one part in a million.
        if chip[:3].min() < 0 or (chip[:3] > statistics.white * np.float32(1 + 1e-6)).any():
            return f"has reflectance outside 0 … {statistics.white.ravel().tolist()}"
        differs = method and not np.array_equal(chip, impute(chip[:3], method, statistics))
    else:
        if chip.min() < 0 or chip.max() > _HIGHEST_REFLECTANCE:
            return f"has reflectance {chip.min():.0f} … {chip.max():.0f}, outside 0 … {_HIGHEST_REFLECTANCE:.0f}"
        differs = method and not np.array_equal(chip, impute_spectral(chip[1:4]))
    return f"the imputed bands differ from those that {method} gives" if differs else ""
