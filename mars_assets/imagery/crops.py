"""Cutting of a HiRISE product into square crops for labelling.

The manifest records for every cell of the grid whether it was cut, or why it was skipped. An overview of the scene
determines the origin of the grid, the stretch to 8 bits and the cells to rule out; a single pass in strips, two at a
time, then tests and cuts the other cells. Whoever cuts claims the target, see :mod:`mars_assets.storage.claims`, and
collects crops in ``.cutting`` next to it, in a folder named by a fingerprint of source and settings. What a killed run
left there is continued, and only a complete set is published, see :mod:`mars_assets.storage.published`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from affine import Affine
from pydantic import BaseModel, Field

from mars_assets.code_versions import CROP_CUT
from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.imagery.download import recorded_sha256
from mars_assets.imagery.geolocation import approximate_positions, projected_positions
from mars_assets.imagery.pds_label import ProductLabel, read_label
from mars_assets.imagery.products import ProductType, parse_observation_id
from mars_assets.imagery.quality import BAND_MISSING, GOOD, NO_DATA, REASONS, SATURATED, Quality, QualityRules, assess
from mars_assets.imagery.scene import Pixels, Scene, open_scene
from mars_assets.lake import CROPS, Lake
from mars_assets.progress import SILENT, Progress
from mars_assets.storage.claims import claim
from mars_assets.storage.files import (
    read_json,
    read_provenance,
    read_table,
    sweep,
    write_bytes,
    write_json,
)
from mars_assets.storage.geotiff import new_geotiff
from mars_assets.storage.hashing import fingerprint
from mars_assets.storage.published import publish_folder, version_in_use
from mars_assets.storage.schema import checked, columns_of, read_checked, write_checked

TAGS: dict[ProductType, str] = {"RGB.NOMAP.browse": "BROWSE", "RGB.NOMAP": "RGB", "COLOR": "COLOR", "RED": "RED"}
"""Short names of products for crop ids, free of dots because Roboflow turns dots into underscores."""

COLOR_BANDS = ("NEAR-INFRARED", "RED", "BLUE-GREEN")

_Cell: TypeAlias = tuple[int, int]
"""Row and column of a cell's upper left pixel."""

_CUTTING = ".cutting"
STRETCH = (0.1, 99.9)
"""Percentiles of the scene's good pixels that become 0 and 255, for products of more than 8 bits."""
_STRIPS_AT_A_TIME = 2
_STRIP_SAMPLES = 50_000_000
"""Pixels times bands in a strip, of which each takes about 13 bytes of memory. It does not affect the crops."""


class CropSettings(BaseModel, frozen=True):
    """Settings for cutting products into crops."""

    size: int = Field(512, ge=16, description="Side of a crop in pixels.")
    stride: int = Field(
        512, ge=1, description="Distance between neighbouring crops in pixels; crops overlap if it is less than size."
    )
    max_invalid: float = Field(
        0.0, ge=0, lt=1, description="Largest share of no-data, damaged or band-missing pixels in a crop."
    )
    max_saturated: float = Field(0.01, ge=0, lt=1, description="Largest share of saturated pixels in a crop.")


DEFAULT_SETTINGS = CropSettings()


def crop_id(observation: str, product: ProductType, row: int, col: int) -> str:
    """Compose the name of a crop, such as ``ESP_011472_1225_BROWSE_r00076_c00000``.

    It is the stem of the crop's file. ``row`` and ``col`` locate the crop's upper left pixel in the product.
    """
    return f"{observation}_{TAGS[product]}_r{row:05d}_c{col:05d}"


def rgb_composite(product: ProductType, bands: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Compose the RGB image that displays a product.

    RGB products are unchanged, and RED becomes grey. COLOR (NIR, RED, BG) becomes HiRISE's own RGB: red is RED, green
    is BG, and blue is synthetic, ``2 * BG - 0.3 * RED``. Computing this from DN instead of I/F adds a constant, which
    the stretch removes again.

    Args:
        product: the product that the bands belong to.
        bands: shape (rows, columns, bands).

    Returns:
        Shape (rows, columns, 3): float64 for COLOR, otherwise the dtype of the bands.

    Raises:
        MarsError: the number of bands does not match the product.
    """
    expected = (1, 3) if product.startswith("RGB") else (1,) if product == "RED" else (3,)
    count = bands.shape[-1]
    if count not in expected:
        raise MarsError(
            f"a {product} product has {' or '.join(map(str, expected))} bands, but this one has {count}: fetch it again"
        )
    if count == 1:
        return np.repeat(bands, 3, axis=-1)
    if product != "COLOR":
        return bands
    red, blue_green = bands[..., 1].astype(np.float64), bands[..., 2].astype(np.float64)
    return np.stack([red, blue_green, 2 * blue_green - 0.3 * red], axis=-1)


def to_8bit(rgb: npt.NDArray[Any], low: list[float], high: list[float]) -> npt.NDArray[np.uint8]:
    """Stretch to 8 bits per band.

    This is ``round((rgb - low) / (high - low) * 255)``, clipped.

    8-bit input with limits 0 and 255 is unchanged.
    """
    if np.issubdtype(rgb.dtype, np.integer):
        # A lookup table is faster: there are far fewer values than pixels.
        values = np.arange(int(rgb.max()) + 1, dtype=np.float64)
        table = to_8bit(np.stack([values] * rgb.shape[-1], axis=-1), low, high)
        return np.stack([table[rgb[..., band], band] for band in range(rgb.shape[-1])], axis=-1)
    scaled: npt.NDArray[np.float64] = (rgb - np.asarray(low)) / (np.asarray(high) - np.asarray(low)) * 255
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Source:
    """A product to cut.

    Args:
        image: the product's JPEG or JP2.
        label: its detached label, if it has one.
        observation: the observation's id.
        product: the type of the product.
        corners: latitude and longitude of the swath's four corners, clockwise from the first sample of the first line,
            for products that are not map projected.
    """

    image: Path
    label: Path | None
    observation: str
    product: ProductType
    corners: list[float] | None = None

    def __post_init__(self) -> None:
        parse_observation_id(self.observation)

    def identity(self) -> dict[str, Any]:
        """Describe everything that the crops depend on, files by their content."""
        return {
            "image": recorded_sha256(self.image),
            "label": None if self.label is None else recorded_sha256(self.label),
            "observation": self.observation,
            "product": self.product,
            "corners": self.corners if self.label is None else None,  # a label gives the position itself
        }


def cut_crops(
    source: Source, target: Path, settings: CropSettings = DEFAULT_SETTINGS, progress: Progress = SILENT
) -> pd.DataFrame:
    """Cut a product into crops.

    Each crop is an 8-bit RGB PNG and, for a labelled product, also a GeoTIFF of its DN. Existing work is reused: for
    the same source and settings the existing manifest is returned, and a killed run continues.

    Args:
        source: the product.
        target: folder of the versions of the crops and their manifest. It should contain nothing else.
        settings: size, stride and thresholds.
        progress: reports the cells.

    Returns:
        The manifest, see :class:`mars_assets.imagery.schema.Crops`.

    Raises:
        MarsError: the image does not decode, does not match label or product, or is smaller than a crop.
    """
    from mars_assets.imagery.schema import Crops

    label = _checked_label(source)
    identity = source.identity()
    chosen = {**settings.model_dump(), "stretch": STRETCH}
    key = fingerprint(CROP_CUT, identity, chosen)

    if (finished := _finished(version_in_use(target), key)) is not None:
        return finished
    with claim(target, target.parent / _CUTTING / target.name, progress) as mine:
        # Another process may have cut it while this one waited.
        if (finished := _finished(version_in_use(target), key)) is not None:
            return finished
        work = mine.folder / key[:16]
        for other in mine.folder.iterdir():
            if other != work:  # of a killed run with another source or other settings
                shutil.rmtree(other)
        work.mkdir(exist_ok=True)
        sweep(work)
        with open_scene(source.image, source.label, progress) as scene:
            cutter = _Cutter(scene, label, source, settings, work)
            manifest = cutter.run(progress)
            provenance = {
                "fingerprint": key,
                "source": identity,
                "settings": chosen,
                "label": None if label is None else asdict(label),
                "scene": {"lines": scene.info.lines, "samples": scene.info.samples, "bits": scene.info.bits},
                "grid_origin": list(cutter.origin),
                "reader": scene.reader,
            }
        for journal in work.glob(".strip-*.json"):
            journal.unlink()
        write_checked(work / CROPS, manifest, Crops, provenance)
        with mine.publishing():
            return read_crops(publish_folder(work, target))


def read_crops(folder: Path) -> pd.DataFrame:
    """Read the manifest of a version of crops, one row for every cell of the grid.

    Raises:
        MissingInputError: the folder has none.
    """
    from mars_assets.imagery.schema import Crops

    return read_checked(folder / CROPS, "crops", Crops)


def crop_folders(lake: Lake) -> dict[str, Path]:
    """List the versions of crops in use, by observation, in their order."""
    folders = sorted(lake.all_crops.iterdir()) if lake.all_crops.is_dir() else []
    versions = {folder.name: version_in_use(folder) for folder in folders if folder.is_dir()}
    return {observation: version for observation, version in versions.items() if (version / CROPS).exists()}


def kept_crops(lake: Lake, columns: Sequence[str] = ()) -> pd.DataFrame:
    """List all crops in a lake, ordered by observation.

    Args:
        lake: contains the crops.
        columns: further columns of the manifests to include.

    Returns:
        ``crop_id, observation, path, cut`` (a fingerprint of source and settings, which distinguishes crops of the same
        name) and ``columns``; empty if there are no crops.
    """
    from mars_assets.imagery.schema import Crops

    wanted = ["crop_id", "observation", *columns]
    tables = [pd.DataFrame(columns=[*wanted, "path", "cut"])]
    for folder in crop_folders(lake).values():
        manifest = folder / CROPS
        crops = read_table(manifest, "crops", [*wanted, "file", "kept"]).query("kept")
        cut = _cut_of(manifest)
        tables.append(crops[wanted].assign(path=[folder / file for file in crops["file"]], cut=cut))
    every = pd.concat([table for table in tables if len(table)] or tables, ignore_index=True)
    return checked(every, lake.all_crops, "crops", Crops, wanted)  # only once: a check takes milliseconds


def _cut_of(manifest: Path) -> str:
    """Read the fingerprint of source and settings from a manifest.

    Raises:
        DamagedFileError: it cannot be read as Parquet.
    """
    try:
        return str(read_provenance(manifest).get("fingerprint", ""))
    except (pa.ArrowException, OSError) as error:
        raise DamagedFileError(
            f"{manifest} cannot be read ({error}): materialize 'crops' of {manifest.parent.name} again"
        ) from error


class _Cutter:
    """One pass over a scene.

    A survey of its overview comes first, then the cells, strip by strip.
    """

    def __init__(
        self, scene: Scene, label: ProductLabel | None, source: Source, settings: CropSettings, work: Path
    ) -> None:
        self.scene, self.label, self.settings, self.work = scene, label, settings, work
        self.observation, self.product, self.corners = source.observation, source.product, source.corners
        self.rules = QualityRules.of(scene.info, label)
        self.origin = (0, 0)
        self.low, self.high = [0.0] * 3, [255.0] * 3
        info = scene.info
        if min(info.lines, info.samples) < settings.size:
            raise MarsError(
                f"{scene.path} has {info.lines} x {info.samples} pixels, too few for crops of {settings.size}: "
                "choose a smaller crop size or a larger product"
            )

    def run(self, progress: Progress) -> pd.DataFrame:
        from mars_assets.imagery.schema import Crops

        surveyed = self._survey()
        records = [record for record in surveyed if record["reason"]]
        records += self._cut([(record["row"], record["col"]) for record in surveyed if record["kept"]], progress)
        records.sort(key=lambda record: (record["row"], record["col"]))
        return self._place(pd.DataFrame(records, columns=list(columns_of(Crops))))

    def _place(self, manifest: pd.DataFrame) -> pd.DataFrame:
        """Add the positions of the crops' centres."""
        info = self.scene.info
        rows = (manifest["row"] + manifest["height"] / 2).to_numpy(float)
        cols = (manifest["col"] + manifest["width"] / 2).to_numpy(float)
        kind = "pixel"
        longitude = latitude = np.full(len(manifest), np.nan)
        if info.crs is not None and info.transform is not None:
            kind = "projected"
            a, b, c, d, e, f = info.transform
            longitude, latitude = projected_positions(info.crs, a * cols + b * rows + c, d * cols + e * rows + f)
        elif self.corners is not None:
            kind = "approximate"
            longitude, latitude = approximate_positions(self.corners, info.lines, info.samples, rows, cols)
        return manifest.assign(position_kind=kind, longitude=longitude, latitude=latitude)

    def _survey(self) -> list[dict[str, Any]]:
        """Survey the overview: set origin and stretch, and list the cells of the grid."""
        from scipy.ndimage import binary_erosion

        info, settings = self.scene.info, self.settings
        factor = info.overview_factor
        overview = self.scene.overview(factor)
        quality = assess(overview, self.rules)
        rgb, good = rgb_composite(self.product, overview), quality == GOOD
        if info.bits > 8 and good.any():
            low, high = np.percentile(rgb[good].astype(np.float64), STRETCH, axis=0)
            self.low, self.high = low.tolist(), np.maximum(high, low + 1).tolist()

        invalid = (quality == NO_DATA) | (quality == BAND_MISSING)
        surely_valid, surely_invalid = ~invalid, invalid
        if factor > 1:
            # A reduced pixel mixes the values of its neighbours, so only the interior of an area is certain.
            inner = np.ones((3, 3), bool)
            surely_valid = binary_erosion(~invalid, inner, border_value=1)
            surely_invalid = binary_erosion(invalid, inner, border_value=1)

        top = self._first_usable(surely_valid.sum(axis=1), factor, info.lines)
        left = self._first_usable(surely_valid.sum(axis=0), factor, info.samples)
        self.origin = (top, left)

        cells = []
        for row in range(top, info.lines - settings.size + 1, settings.stride):
            for col in range(left, info.samples - settings.size + 1, settings.stride):
                # Only reduced pixels that lie entirely within the cell.
                window = tuple(slice(-(-start // factor), (start + settings.size) // factor) for start in (row, col))
                reason = ""
                if factor > 1 and surely_invalid[window].mean() > settings.max_invalid:
                    kinds = quality[window]
                    missing = (kinds == BAND_MISSING).sum() > (kinds == NO_DATA).sum()
                    reason = REASONS[BAND_MISSING if missing else NO_DATA]
                cells.append(self._record(row, col, reason, float(invalid[window].mean()), 0.0))
        return cells

    def _first_usable(self, valid: npt.NDArray[np.int_], factor: int, length: int) -> int:
        """Find the first row (or column) that a crop can begin with.

        At least a crop's width of pixels is valid in all bands there.

        The grid starts there, so that a damaged margin costs no crops. 0 if there is no such row, or none that leaves
        room for a crop.
        """
        wide_enough = np.flatnonzero(valid * factor >= self.settings.size)
        first = int(wide_enough[0]) * factor if wide_enough.size else 0
        return first if first + self.settings.size <= length else 0

    def _cut(self, cells: list[_Cell], progress: Progress) -> list[dict[str, Any]]:
        """Process the strips, two at a time: one is cut while the other is decoded."""
        counter = progress.counter(f"cutting {self.observation}", len(cells), "cells")
        records: list[dict[str, Any]] = []
        with ThreadPoolExecutor(_STRIPS_AT_A_TIME, thread_name_prefix="strip") as pool:
            try:
                for done in as_completed(pool.submit(self._cut_strip, strip) for strip in self._strips(cells)):
                    records.extend(found := done.result())
                    counter.advance(len(found))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        counter.close(f"{sum(record['kept'] for record in records)} cut")
        return records

    def _strips(self, cells: list[_Cell]) -> list[list[_Cell]]:
        """Group the cells by rows of the grid.

        A strip has as many rows as ``_STRIP_SAMPLES`` allows.
        """
        info, settings = self.scene.info, self.settings
        lines = max(settings.size, _STRIP_SAMPLES // (info.samples * info.bands))
        if self.rules.lossy:  # the tests of a JPEG look beyond a cell, and it is in memory anyway
            lines = info.lines
        per_strip = (lines - settings.size) // settings.stride + 1
        by_strip = groupby(cells, lambda cell: (cell[0] - self.origin[0]) // settings.stride // per_strip)
        return [list(strip) for _, strip in by_strip]

    def _cut_strip(self, strip: list[_Cell]) -> list[dict[str, Any]]:
        (top, _), (last, _) = strip[0], strip[-1]
        journal = self.work / f".strip-{top}-{last}.json"
        if journal.exists():
            found: list[dict[str, Any]] = read_json(journal)
            return found
        size = self.settings.size
        left, right = min(col for _, col in strip), max(col for _, col in strip) + size
        if self.rules.lossy:  # the test of a JPEG includes the means of rows
            left, right = 0, self.scene.info.samples
        pixels = self.scene.read((top, last + size), (left, right))
        quality = assess(pixels, self.rules) if self.rules.lossy else None
        records = []
        for row, col in strip:
            window = np.s_[row - top : row - top + size, col - left : col - left + size]
            known = assess(pixels[window], self.rules) if quality is None else quality[window]
            records.append(self._cut_cell(row, col, pixels[window], known))
        write_json(journal, records)
        return records

    def _cut_cell(self, row: int, col: int, pixels: Pixels, quality: Quality) -> dict[str, Any]:
        no_data, missing, saturated = ((quality == kind).mean() for kind in (NO_DATA, BAND_MISSING, SATURATED))
        reason = ""
        if no_data + missing > self.settings.max_invalid:
            reason = REASONS[BAND_MISSING if missing > no_data else NO_DATA]
        elif saturated > self.settings.max_saturated:
            reason = REASONS[SATURATED]
        record = self._record(row, col, reason, float(no_data + missing), float(saturated))
        if record["kept"] and not (self.work / record["file"]).exists():
            picture = to_8bit(rgb_composite(self.product, pixels), self.low, self.high)
            picture[(quality == NO_DATA) | (quality == BAND_MISSING)] = 0
            write_bytes(self.work / record["file"], _png(picture))
        if record["dn_file"] is not None and not (self.work / record["dn_file"]).exists():
            self._write_dn(self.work / record["dn_file"], pixels, record)
        return record

    def _record(self, row: int, col: int, reason: str, invalid: float, saturated: float) -> dict[str, Any]:
        """Describe a cell as a row of the manifest."""
        info, size = self.scene.info, self.settings.size
        name = crop_id(self.observation, self.product, row, col)
        transform = None
        if info.transform is not None:
            a, b, c, d, e, f = info.transform
            transform = [a, b, a * col + b * row + c, d, e, d * col + e * row + f]
        return {
            "crop_id": name,
            "observation": self.observation,
            "product": self.product,
            "row": row,
            "col": col,
            "height": size,
            "width": size,
            "kept": not reason,
            "reason": reason,
            "file": None if reason else f"{name}.png",
            "dn_file": None if reason or self.label is None else f"{name}.tif",
            "invalid_fraction": invalid,
            "saturated_fraction": saturated,
            "stretch_low": self.low,
            "stretch_high": self.high,
            "crs": info.crs,
            "transform": transform,
        }

    def _write_dn(self, path: Path, pixels: Pixels, record: dict[str, Any]) -> None:
        """Write the crop's DN as a GeoTIFF.

        It contains the label's scale, offset and null value, so that GIS programs display I/F.
        """
        assert self.label is not None
        count = pixels.shape[2]
        profile = {
            "height": pixels.shape[0],
            "width": pixels.shape[1],
            "count": count,
            "dtype": pixels.dtype,
            "nodata": self.label.core_null,
            "crs": record["crs"],
            "transform": Affine(*(record["transform"] or Affine.translation(record["col"], record["row"])[:6])),
            "compress": "zstd",
            "predictor": 2,
            "interleave": "band",
        }
        with new_geotiff(path, **profile) as dataset:
            dataset.write(np.moveaxis(pixels, -1, 0))
            dataset.scales = (self.label.scaling_factor,) * count
            dataset.offsets = (self.label.offset,) * count
            dataset.descriptions = self.label.band_names
            dataset.update_tags(OBSERVATION=self.observation, INCIDENCE_ANGLE=self.label.incidence_angle)


def _png(rgb: npt.NDArray[np.uint8]) -> bytes:
    """Encode RGB as PNG, losslessly.

    A fixed filter and run lengths are much faster than the full search, and on terrain no larger.
    """
    import cv2

    how = [
        *(cv2.IMWRITE_PNG_COMPRESSION, 1),
        *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),  # after the level, which resets it
        *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP),
    ]
    _, data = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), how)
    return data.tobytes()


def _checked_label(source: Source) -> ProductLabel | None:
    if source.label is None:
        return None
    label = read_label(source.label)
    if label.observation != source.observation:
        raise MarsError(
            f"{source.label} is the label of {label.observation}, not of {source.observation}. Fetch it again"
        )
    if source.product == "COLOR" and label.band_names != COLOR_BANDS:
        raise MarsError(
            f"{source.label}: a COLOR product has the bands {', '.join(COLOR_BANDS)}, not "
            f"{', '.join(label.band_names)}. Fetch it again"
        )
    return label


def _finished(target: Path, key: str) -> pd.DataFrame | None:
    """Read the target's manifest if it belongs to this source and these settings.

    None if it does not, or is damaged, or if a file is missing.
    """
    with suppress(DamagedFileError):
        if (target / CROPS).exists() and _cut_of(target / CROPS) == key:
            manifest = read_crops(target)
            if {*manifest["file"].dropna(), *manifest["dn_file"].dropna()} <= set(os.listdir(target)):
                return manifest
    return None
