"""The tensor stages: labelled images to reflectance units, and those to six bands. One chip an image, made once.

Images of 8 bits become B, G, R by the paper's scale. Crops of COLOR products have a second source, their calibrated DN,
which become green, red and near infrared by physics; ``spectral`` makes six bands of these.

A chip carries the fingerprint of all that it was made from: pixels, place on Mars, settings. A stage computes the chips
whose fingerprint is not there yet: a killed run continues, a changed setting recomputes, a new label costs nothing where
the pixels are the same. A manifest never names a chip that is something else: what is made again leaves it before the
first write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
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
from mars_assets.lake import Lake
from mars_assets.progress import SILENT, Progress
from mars_assets.storage.files import read_provenance, sweep
from mars_assets.storage.hashing import fingerprint
from mars_assets.storage.schema import columns_of, read_checked, write_checked
from mars_assets.tensors.geotiff import read_chip, read_fingerprint, read_placed_chip, write_chip

BGR = HLS_BANDS[:3]
CALIBRATED = "calibrated"
HIGHEST_INCIDENCE = 80.0
"""Degrees. Where the sun is lower, a level surface's reflectance is mostly what the slopes make of it."""
_HIGHEST_REFLECTANCE = 30_000.0  # a slope that faces a low sun reflects more than level ground may
_LACKING = "lacking"
"""In a manifest's provenance: how many of its chips are being made again."""


class Chip(NamedTuple):
    """What is to be written of a chip: values (bands, H, W), and rasterio's CRS and transform, None without georeference."""

    values: Float32
    crs: Any
    transform: Any


@dataclass(frozen=True)
class StageResult:
    """What a stage did.

    Args:
        manifest: one row for each chip, see :class:`mars_assets.tensors.schema.Chips`.
        provenance: the settings, as stored in the manifest.
        computed: how many chips were made in this run; the others were there.
    """

    manifest: pd.DataFrame
    provenance: dict[str, Any]
    computed: int


def settings_before(lake: Lake, stage: str) -> dict[str, Any]:
    """The settings that a stage's chips were made with; empty where there are none."""
    manifest = lake.chips(stage)
    return read_provenance(manifest) if manifest.exists() else {}


def make_reflectance(
    lake: Lake,
    images: pd.DataFrame,
    label_version: str,
    *,
    statistics: str = "v1",
    truncate: bool = False,
    progress: Progress = SILENT,
) -> StageResult:
    """Scales every labelled image to B, G, R in HLS reflectance units.

    Args:
        lake: where chips go.
        images: ``labelled_crops``.
        label_version: of these images; travels in the manifest.
        statistics: whose means and stds set the scale, a key of ``bands.STATISTICS``.
        truncate: integer truncation as in the paper's published code.
        progress: of the chips.
    """
    settings = {"computation": REFLECTANCE, "statistics": statistics, "truncate": truncate}
    chosen = STATISTICS[statistics]

    crops = _Crops(lake)

    def compute(row: Any) -> Chip:
        rgb = read_rgb(lake.inside(row.file))
        return Chip(scale_to_reflectance(rgb, chosen, truncate), *crops.georeference(row))

    images = images.assign(source_sha=[crops.placed_sha(row) for row in images.itertuples()])
    return _run_stage(lake, "reflectance", images, BGR, settings, label_version, compute, progress)


def make_calibrated(
    lake: Lake, images: pd.DataFrame, label_version: str, *, progress: Progress = SILENT
) -> StageResult:
    """Calibrates every labelled crop of a COLOR product: green, red and near infrared in HLS reflectance units.

    Crops with pixels that have no data or are saturated, and scenes lit from lower than ``HIGHEST_INCIDENCE``, are left
    out, and said so.

    Args:
        lake: where chips go.
        images: ``labelled_crops``.
        label_version: of these images; travels in the manifest.
        progress: of the chips.
    """
    crops = _Crops(lake)
    sources = {row.image_id: crops.calibrated_source(row) for row in images.itertuples()}
    complete = {image: source for image, source in sources.items() if source is not None and source.usable}
    left_out = sum(source is not None for source in sources.values()) - len(complete)
    if left_out:
        progress.say(
            f"{CALIBRATED}: {left_out} crops have pixels without data or saturated ones, or the sun below "
            f"{90 - HIGHEST_INCIDENCE:.0f} degrees, and are left out"
        )

    def compute(row: Any) -> Chip:
        return Chip(complete[row.image_id].read(), *crops.georeference(row))

    images = images[images["image_id"].isin(complete)]
    images = images.assign(source_sha=[complete[image].sha for image in images["image_id"]])
    settings = {"computation": CALIBRATION}
    return _run_stage(lake, CALIBRATED, images, CALIBRATED_BANDS, settings, label_version, compute, progress)


def make_spectral(lake: Lake, *, progress: Progress = SILENT) -> StageResult:
    """Makes six bands of every calibrated chip."""
    source, provenance = read_manifest(lake, CALIBRATED)
    settings = {"computation": SPECTRAL_IMPUTATION, "method": SPECTRAL}
    compute = _chip_by_chip(lake, CALIBRATED_BANDS, impute_spectral)
    source = source.assign(source_sha=source["chip_sha"])
    return _run_stage(
        lake, f"imputed_{SPECTRAL}", source, HLS_BANDS, settings, provenance["label_version"], compute, progress
    )


def make_imputed(
    lake: Lake, method: ImputationMethod, *, statistics: str = "v1", progress: Progress = SILENT
) -> StageResult:
    """Imputes the missing bands of every reflectance chip.

    Raises:
        ProvenanceError: the reflectance was scaled with other statistics.
    """
    source, provenance = read_manifest(lake, "reflectance")
    if provenance["statistics"] != statistics:
        raise ProvenanceError(
            f"imputed_{method} is set to the statistics {statistics!r} and reflectance was scaled with "
            f"{provenance['statistics']!r}: use the same for both"
        )
    settings = {
        "computation": IMPUTATION,
        "method": method,
        "statistics": statistics,
        "truncate": provenance["truncate"],
    }
    chosen = STATISTICS[statistics]
    compute = _chip_by_chip(lake, BGR, lambda bgr: impute(bgr, method, chosen))
    source = source.assign(source_sha=source["chip_sha"])
    return _run_stage(
        lake, f"imputed_{method}", source, HLS_BANDS, settings, provenance["label_version"], compute, progress
    )


def _chip_by_chip(lake: Lake, bands: tuple[str, ...], function: Callable[[Float32], Float32]) -> Callable[[Any], Chip]:
    """A stage's computation on the chip of the stage before, whose position stays."""

    def compute(row: Any) -> Chip:
        values, crs, transform = read_placed_chip(lake.inside(row.file), bands)
        return Chip(function(values), crs, transform)

    return compute


def read_manifest(lake: Lake, stage: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A stage's manifest and its provenance.

    Raises:
        MissingInputError: the stage has not been made.
        MarsError: its last run made chips again and was stopped, or has not ended.
    """
    from mars_assets.tensors.schema import Chips

    path = lake.chips(stage)
    manifest, provenance = read_checked(path, stage, Chips), read_provenance(path)
    if lacking := provenance.get(_LACKING):
        raise MarsError(
            f"{path} lacks {lacking} chips: the run that makes them again was stopped, or is at it. Let it end, or "
            f"make {stage if stage != CALIBRATED else 'reflectance'} again"
        )
    return manifest, provenance


def _run_stage(
    lake: Lake,
    stage: str,
    images: pd.DataFrame,
    bands: Iterable[str],
    settings: dict[str, Any],
    label_version: str,
    compute: Callable[[Any], Chip],
    progress: Progress,
) -> StageResult:
    from mars_assets.tensors.schema import Chips

    folder, bands = lake.tensors(stage), tuple(bands)
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    manifest_path = lake.chips(stage)
    known: dict[str, str] = {}
    old = None
    if manifest_path.exists():
        old = read_checked(manifest_path, stage, Chips)
        known = dict(zip(old["image_id"], old["chip_sha"], strict=True))
    present = {path.stem for path in folder.glob("*.tif")}

    rows, todo = [], []
    for row in images.itertuples():
        chip_sha = fingerprint(settings, row.source_sha)
        path = folder / f"{row.image_id}.tif"
        there = row.image_id in present and (known.get(row.image_id) or read_fingerprint(path)) == chip_sha
        if not there:
            todo.append((row, path, chip_sha))
        rows.append(
            {
                "image_id": row.image_id,
                "file": lake.relative(path),
                "height": row.height,
                "width": row.width,
                "chip_sha": chip_sha,
            }
        )
    replaced = {row.image_id for row, _, chip_sha in todo if known.get(row.image_id, chip_sha) != chip_sha}
    if old is not None and replaced:
        left = old[~old["image_id"].isin(replaced)]
        before = read_provenance(manifest_path)
        write_checked(manifest_path, left, Chips, {**before, _LACKING: before.get(_LACKING, 0) + len(replaced)})
    for row, path, chip_sha in progress.track(todo, f"{stage}: computing chips"):
        chip = compute(row)
        write_chip(path, chip.values, bands, crs=chip.crs, transform=chip.transform, fingerprint=chip_sha)
    progress.say(f"{stage}: {len(todo)} chips computed, {len(rows) - len(todo)} were there")

    manifest = pd.DataFrame(rows, columns=list(columns_of(Chips)))
    provenance = {**settings, "bands": list(bands), "label_version": label_version}
    write_checked(manifest_path, manifest, Chips, provenance)
    return StageResult(manifest, provenance, len(todo))


@dataclass(frozen=True)
class _CalibratedSource:
    """A crop's DN: where they lie, a name for their values, and whether all of them are reflectance."""

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
            raise DamagedFileError(f"{self.path} cannot be read ({error}): make 'crops' again") from error


class _Crops:
    """The lake's own crops: where they lie on the map, and their calibrated DN."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._manifests: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}

    def georeference(self, row: Any) -> tuple[Any, Any]:
        """CRS and transform of an image that is a crop of a map-projected product; (None, None) of others."""
        if row.origin != "crop":
            return None, None
        crop, _ = self._of(row)
        if not isinstance(crop.crs, str):  # a missing text is NaN where others of the column are not missing
            return None, None
        from rasterio import Affine

        return crop.crs, Affine(*crop.transform)

    def placed_sha(self, row: Any) -> str:
        """Names an image's pixels and its place; where it has none, the pixels alone."""
        crs, transform = self.georeference(row)
        return row.pixels_sha if crs is None else fingerprint(row.pixels_sha, crs, list(transform)[:6])

    def calibrated_source(self, row: Any) -> _CalibratedSource | None:
        """The DN of an image that is a crop of a COLOR product."""
        if row.origin != "crop":
            return None
        crop, cut = self._of(row)
        if crop.product != "COLOR" or not isinstance(crop.dn_file, str):
            return None
        path = self._lake.crops(row.observation) / crop.dn_file
        usable = crop.invalid_fraction == 0 and crop.saturated_fraction == 0
        usable = usable and cut["label"]["incidence_angle"] <= HIGHEST_INCIDENCE
        return _CalibratedSource(path, fingerprint(cut["fingerprint"], crop.crop_id), usable)

    def _of(self, row: Any) -> tuple[Any, dict[str, Any]]:
        """A crop's row of its manifest, and how its scene was cut."""
        from mars_assets.imagery.schema import Crops

        if row.observation not in self._manifests:
            path = self._lake.crops_manifest(row.observation)
            columns = ["crop_id", "product", "dn_file", "invalid_fraction", "saturated_fraction", "crs", "transform"]
            table = read_checked(path, "crops", Crops, columns)
            rows = {crop.crop_id: crop for crop in table.itertuples()}
            self._manifests[row.observation] = rows, read_provenance(path)
        crops, cut = self._manifests[row.observation]
        if row.original not in crops:
            raise MarsError(
                f"{row.original} is no longer among the crops of {row.observation}, which were cut anew: make "
                "'labelled_crops' again"
            )
        return crops[row.original], cut


def chip_problems(lake: Lake, stage: str, looked_at: int = 64) -> tuple[list[str], int]:
    """What is wrong with a stage's chips: all are looked for, an evenly chosen sample is read.

    Returns:
        The problems, and how many chips were read.
    """
    manifest, provenance = read_manifest(lake, stage)
    bands = tuple(provenance["bands"])
    there = np.array([lake.inside(file).exists() for file in manifest["file"]], bool)
    problems = [f"{file} is missing" for file in manifest.loc[~there, "file"]]
    manifest = manifest[there]
    sample = manifest.iloc[np.unique(np.linspace(0, len(manifest) - 1, min(looked_at, len(manifest))).astype(int))]
    for row in sample.itertuples():
        try:
            path = lake.inside(row.file)
            chip = read_chip(path, bands)
        except DamagedFileError as error:
            problems.append(str(error))
            continue
        if read_fingerprint(path) != row.chip_sha:
            problems.append(
                f"{row.file} was made from something else than the manifest says: delete {path.parent} and make it again"
            )
        problems += [f"{row.file}: {problem}" for problem in _problems_of(chip, row, provenance)]
    return problems, len(sample)


def _problems_of(chip: Float32, row: Any, provenance: dict[str, Any]) -> Iterator[str]:
    if chip.shape != (len(provenance["bands"]), row.height, row.width):
        yield f"shape {chip.shape}"
        return
    if not np.isfinite(chip).all():
        yield "values that are not finite"
        return
    if "statistics" not in provenance:
        yield from _problems_of_calibrated(chip, provenance)
        return
    statistics = STATISTICS[provenance["statistics"]]
    # One part in a million above white is float32 rounding.
    if chip[:3].min() < 0 or (chip[:3] > statistics.white * np.float32(1 + 1e-6)).any():
        yield f"reflectance outside 0 … {statistics.white.ravel().tolist()}"
    elif "method" in provenance and not np.array_equal(chip, impute(chip[:3], provenance["method"], statistics)):
        yield f"the imputed bands are not what {provenance['method']} says"


def _problems_of_calibrated(chip: Float32, provenance: dict[str, Any]) -> Iterator[str]:
    if chip.min() < 0 or chip.max() > _HIGHEST_REFLECTANCE:
        yield f"reflectance {chip.min():.0f} … {chip.max():.0f}, outside 0 … {_HIGHEST_REFLECTANCE:.0f}"
    elif "method" in provenance and not np.array_equal(chip, impute_spectral(chip[1:4])):
        yield f"the imputed bands are not what {provenance['method']} says"
