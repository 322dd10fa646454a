"""The tensor stages: labelled images to B, G, R in reflectance units, and those to six bands. One chip an image, made once.

A chip carries the fingerprint of all that it was made from. A stage computes the chips whose fingerprint is not there yet:
a killed run continues, a changed setting recomputes, a new label costs nothing where the pixels are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mars_assets.bands import (
    HLS_BANDS,
    STATISTICS,
    BandStatistics,
    Float32,
    ImputationMethod,
    impute,
    scale_to_reflectance,
)
from mars_assets.chips import read_chip, read_fingerprint, write_chip
from mars_assets.errors import DamagedFileError, ProvenanceError
from mars_assets.lake import Lake, fingerprint, read_provenance, read_table, sweep, write_table
from mars_assets.progress import SILENT, Progress

if TYPE_CHECKING:
    import pandas as pd

BGR = HLS_BANDS[:3]
_SCALING = "hls-reflectance 1"
_IMPUTATION = "imputation 1"
"""Names of the computations, part of every fingerprint: raise the number when the arithmetic changes."""


class Chip(NamedTuple):
    """What is to be written of a chip: values (bands, H, W), and rasterio's CRS and transform, None without georeference."""

    values: Float32
    crs: Any
    transform: Any


@dataclass(frozen=True)
class StageResult:
    """What a stage did.

    Args:
        manifest: image_id, file, height, width, chip_sha; one row a chip.
        provenance: the settings, as stored in the manifest.
        computed: how many chips were made in this run; the others were there.
    """

    manifest: pd.DataFrame
    provenance: dict[str, Any]
    computed: int


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
    settings = {"computation": _SCALING, "statistics": statistics, "truncate": truncate}
    chosen = STATISTICS[statistics]

    georeference = _Georeference(lake)

    def compute(row: Any) -> Chip:
        rgb = read_rgb(lake.inside(row.file))
        return Chip(scale_to_reflectance(rgb, chosen, truncate), *georeference(row))

    images = images.assign(source_sha=images["pixels_sha"])
    return _run_stage(lake, "reflectance", images, BGR, settings, label_version, compute, progress)


def make_imputed(
    lake: Lake, method: ImputationMethod, *, statistics: str = "v1", progress: Progress = SILENT
) -> StageResult:
    """Imputes the missing bands of every reflectance chip.

    Raises:
        ProvenanceError: the reflectance was scaled with other statistics.
    """
    import rasterio

    source, provenance = read_manifest(lake, "reflectance")
    if provenance["statistics"] != statistics:
        raise ProvenanceError(
            f"imputed_{method} is set to the statistics {statistics!r} and reflectance was scaled with "
            f"{provenance['statistics']!r}: use the same for both"
        )
    settings = {
        "computation": _IMPUTATION,
        "method": method,
        "statistics": statistics,
        "truncate": provenance["truncate"],
    }
    chosen = STATISTICS[statistics]

    def compute(row: Any) -> Chip:
        path = lake.inside(row.file)
        bgr = read_chip(path, BGR)
        with rasterio.open(path) as file:
            crs = file.crs
            return Chip(impute(bgr, method, chosen), crs, file.transform if crs else None)

    source = source.assign(source_sha=source["chip_sha"])
    return _run_stage(
        lake, f"imputed_{method}", source, HLS_BANDS, settings, provenance["label_version"], compute, progress
    )


def read_manifest(lake: Lake, stage: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A stage's manifest and its provenance.

    Raises:
        MissingInputError: the stage has not been made.
    """
    path = lake.tensors(stage) / "manifest.parquet"
    return read_table(path, stage), read_provenance(path)


def read_rgb(path: Path) -> np.ndarray:
    """An image file as 8-bit RGB, uint8 (H, W, 3); grey images are repeated to three channels.

    Raises:
        DamagedFileError: it cannot be decoded.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=("JPEG", "PNG")) as image:
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DamagedFileError(f"{path} cannot be decoded ({error}): make 'labelled_crops' again") from error


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
    import pandas as pd

    folder, bands = lake.tensors(stage), tuple(bands)
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    manifest_path = folder / "manifest.parquet"
    known = {}
    if manifest_path.exists():
        old = read_table(manifest_path, stage)
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
    for row, path, chip_sha in progress.track(todo, f"{stage}: computing chips"):
        chip = compute(row)
        write_chip(path, chip.values, bands, crs=chip.crs, transform=chip.transform, fingerprint=chip_sha)
    progress.say(f"{stage}: {len(todo)} chips computed, {len(rows) - len(todo)} were there")

    manifest = pd.DataFrame(rows, columns=["image_id", "file", "height", "width", "chip_sha"])
    provenance = {**settings, "bands": list(bands), "label_version": label_version}
    write_table(manifest_path, manifest, provenance)
    return StageResult(manifest, provenance, len(todo))


class _Georeference:
    """CRS and transform of the lake's own crops where their product is map projected; (None, None) for other images."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._crops: dict[str, dict[str, tuple[Any, Any]]] = {}

    def __call__(self, row: Any) -> tuple[Any, Any]:
        if row.origin != "crop":
            return None, None
        crs, transform = self._of(row.observation)[row.original]
        if not isinstance(crs, str):  # a missing text is NaN where others of the column are not missing
            return None, None
        from rasterio import Affine

        return crs, Affine(*transform)

    def _of(self, observation: str) -> dict[str, tuple[Any, Any]]:
        if observation not in self._crops:
            manifest = self._lake.crops(observation) / "crops.parquet"
            table = read_table(manifest, "crops", ["crop_id", "crs", "transform"])
            self._crops[observation] = {row.crop_id: (row.crs, row.transform) for row in table.itertuples()}
        return self._crops[observation]


def chip_problems(lake: Lake, stage: str, looked_at: int = 64) -> tuple[list[str], int]:
    """What is wrong with a stage's chips: all are looked for, an evenly chosen sample is read.

    Returns:
        The problems, and how many chips were read.
    """
    manifest, provenance = read_manifest(lake, stage)
    statistics, bands = STATISTICS[provenance["statistics"]], tuple(provenance["bands"])
    problems = [f"{file} is missing" for file in manifest["file"] if not lake.inside(file).exists()]
    sample = manifest.iloc[np.unique(np.linspace(0, len(manifest) - 1, min(looked_at, len(manifest))).astype(int))]
    for row in sample.itertuples():
        try:
            chip = read_chip(lake.inside(row.file), bands)
        except DamagedFileError as error:
            problems.append(str(error))
            continue
        problems += [f"{row.file}: {problem}" for problem in _problems_of(chip, row, provenance, statistics)]
    return problems, len(sample)


def _problems_of(chip: Float32, row: Any, provenance: dict[str, Any], statistics: BandStatistics) -> Iterator[str]:
    if chip.shape != (len(provenance["bands"]), row.height, row.width):
        yield f"shape {chip.shape}"
        return
    if not np.isfinite(chip).all():
        yield "values that are not finite"
    # One part in a million above white is float32 rounding.
    elif chip[:3].min() < 0 or (chip[:3] > statistics.white * np.float32(1 + 1e-6)).any():
        yield f"reflectance outside 0 … {statistics.white.ravel().tolist()}"
    elif "method" in provenance and not np.array_equal(chip, impute(chip[:3], provenance["method"], statistics)):
        yield f"the imputed bands are not what {provenance['method']} says"
