"""Building of the table ``labelled_crops``, its images and its masks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mars_assets.code_versions import LABELS
from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.imagery.crops import kept_crops
from mars_assets.imagery.products import observation_of
from mars_assets.images import encode_png, png_text
from mars_assets.labels.appearance import look_of, shows_crop
from mars_assets.labels.duplicates import near_duplicates
from mars_assets.labels.exports import Export, export_identity, label_version, open_splits, project_slug, read_export
from mars_assets.labels.formats.image import ExportedImage, Outline, listed
from mars_assets.labels.inbox import being_copied, digest, exports_in_force, reject, rejections
from mars_assets.labels.masks import (
    ANNOTATIONS,
    annotation_mask,
    instance_masks,
    label_image,
    retire_masks,
    sweep_masks,
)
from mars_assets.labels.merge import _merge
from mars_assets.labels.splits import whole_groups
from mars_assets.labels.table import _mask_name, _mask_names, files_of, read_labelled_crops
from mars_assets.labels.zip_archive import ExportArchive
from mars_assets.lake import Lake
from mars_assets.progress import SILENT, Progress
from mars_assets.storage.cache import Cache
from mars_assets.storage.files import read_provenance, write_bytes
from mars_assets.storage.hashing import fingerprint, sha256_file
from mars_assets.storage.schema import columns_of, write_checked

_LABEL = "label"
"""Keyword of the PNG text entry in which a mask stores the fingerprint of its outlines."""


@dataclass(frozen=True)
class LabelReport:
    """Summary of a label version for people.

    Args:
        version: the label version, a sha256 of the set of exports in use.
        exports: a row per export: project, version, format, images, warnings.
        counts: a row per project and split.
        new, changed, removed: numbers of images, compared with the previous version.
        leaks: groups exported in more than one split: name, images, exported splits, and the assigned split.
        leaked: number of images exported in valid or test although their group is also in train.
        conflicts: images that projects label differently, which are left out of the table.
        duplicates: pairs of images of different groups that look the same; those in different splits first.
        outside: images with outlines that extend beyond the image.
        rejected: zips that were rejected, now or earlier, and why.
        left_alone: zips that are still being copied.
    """

    version: str
    exports: list[dict[str, Any]]
    counts: list[dict[str, Any]]
    new: int
    changed: int
    removed: int
    leaks: list[dict[str, Any]]
    leaked: int
    conflicts: list[str]
    duplicates: list[dict[str, Any]]
    outside: list[str]
    rejected: list[dict[str, str]]
    left_alone: list[str]


class _Known:
    """Content of the previous table, whose unchanged masks are not redrawn.

    Args:
        rows: the table's rows by image id.
        provenance: the table's provenance.
    """

    def __init__(self, rows: Mapping[str, Mapping[Any, Any]], provenance: Mapping[str, Any]) -> None:
        self.exports = {project_slug(e["project"]): int(e["version"]) for e in provenance.get("exports", ())}
        self.labels = {image_id: str(row["labels_sha"]) for image_id, row in rows.items()}
        if provenance.get("computation") != LABELS:
            rows = {}
        self.rows = rows


def _known(lake: Lake, progress: Progress) -> _Known:
    """Read the previous table; treat a missing or damaged one as empty."""
    if not lake.labelled_crops.exists():
        return _Known({}, {})
    try:
        rows = read_labelled_crops(lake).to_dict("records")
        return _Known({row["image_id"]: row for row in rows}, read_provenance(lake.labelled_crops))
    except (MarsError, KeyError) as error:
        progress.say(f"the previous table cannot be used ({error}): all masks are redrawn")
        return _Known({}, {})


@dataclass(frozen=True)
class _Inputs:
    """Everything that determines the table and the report.

    Args:
        exports: name, which gives the project, and sha256 of each export in use.
        left_alone: names of the zips that are still being copied.
        rejected: see :func:`mars_assets.labels.inbox.rejections`.
        crops: see :func:`_versions`.
    """

    exports: list[tuple[str, str]]
    left_alone: list[str]
    rejected: list[tuple[str, str]]
    crops: list[tuple[str, str, int]]

    @classmethod
    def of(cls, lake: Lake, exports: list[tuple[str, str]], crops: list[tuple[str, str, int]]) -> _Inputs:
        return cls(exports, [path.name for path in being_copied(lake.inbox)], rejections(lake.inbox), crops)

    def fingerprint(self) -> str:
        from mars_assets.labels.schema import LabelledCrops

        return fingerprint(
            LABELS, list(columns_of(LabelledCrops)), [field.name for field in fields(LabelReport)], asdict(self)
        )


def _versions(lake: Lake, crops: Mapping[str, tuple[Path, int, int]]) -> list[tuple[str, str, int]]:
    """List each crop's id, file and modification time in nanoseconds."""
    return sorted((name, lake.relative(path), _changed(path)) for name, (path, _, _) in crops.items())


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:  # reported later if the image is labelled
        return 0


def update_labelled_crops(lake: Lake, progress: Progress = SILENT) -> tuple[pd.DataFrame, LabelReport]:
    """Build the table if its inputs have changed or one of its files is missing.

    Returns:
        The current table and the report of its build; if it was up to date, without new, changed or removed images.

    Raises:
        MarsError: as for :func:`build_labelled_crops`.
    """
    return _up_to_date(lake) or build_labelled_crops(lake, progress)


def _up_to_date(lake: Lake) -> tuple[pd.DataFrame, LabelReport] | None:
    try:
        rows, provenance = read_labelled_crops(lake), read_provenance(lake.labelled_crops)
    except MarsError:  # missing or damaged: build it
        return None
    exports = [(path.name, digest(path)) for path in exports_in_force(lake.inbox)]
    inputs = _Inputs.of(lake, exports, _versions(lake, _own_crops(lake)))
    if provenance.get("built_from") != inputs.fingerprint() or not all(file.exists() for file in files_of(lake, rows)):
        return None
    return rows, replace(LabelReport(**provenance["report"]), new=0, changed=0, removed=0)


def build_labelled_crops(lake: Lake, progress: Progress = SILENT) -> tuple[pd.DataFrame, LabelReport]:
    """Read the exports in use, and write new images and masks, and the table.

    A damaged or hostile export is moved to ``inbox/rejected`` with a text that says why; if the inbox still has the
    project's previous version, that one is used.

    Raises:
        MarsError: there is no usable export, or none of a project whose newest export is damaged or still being
            copied, or all labels are contradictory. The previous table remains in use.
    """
    from mars_assets.labels.schema import LabelledCrops

    known, own = _known(lake, progress), _own_crops(lake)
    crops = _versions(lake, own)  # before the crops are read, so that a later change counts as a new version
    with Cache(lake.cache("appearance"), LABELS, progress=progress) as cache:
        exports, images = _read_all(_Reading(lake, own, known, cache, progress))
    inputs = _Inputs.of(lake, [(export.path.name, export.sha256) for export in exports], crops)
    _refuse_losses(lake, exports, known.exports)
    # Not before all exports were read: masks of a rejected one would replace those in use.
    for path, content in (mask for image in images for mask in image.masks.items()):
        write_bytes(path, content)
    merged, conflicts = _merge([image.row for image in images])
    if not merged:
        raise MarsError(
            f"projects contradict each other on every image: {listed(conflicts)}. Correct the labels in Roboflow"
        )
    table = pd.DataFrame(merged, columns=list(columns_of(LabelledCrops))).sort_values("image_id", ignore_index=True)
    table["n_craters"] = table["n_craters"].astype("Int32")
    table["split"] = whole_groups(table)
    report = _report(exports, inputs, table, known.labels, conflicts)
    named = _mask_names(table)
    retire_masks(lake.masks, _mask_names_in_force(lake) - named)
    write_checked(
        lake.labelled_crops,
        table,
        LabelledCrops,
        {
            "computation": LABELS,
            "label_version": report.version,
            "exports": [{"project": e.project, "version": e.version, "sha256": e.sha256} for e in exports],
            "conflicts": conflicts,
            "built_from": inputs.fingerprint(),
            "report": asdict(report),
        },
    )
    sweep_masks(lake.masks, named)
    return table, report


@dataclass(frozen=True)
class _Reading:
    """Context for reading exports.

    Args:
        lake: where images are written.
        own: the lake's crops, see :func:`_own_crops`.
        known: the previous table.
        cache: cached appearances of images.
        progress: shows progress and rejections.
    """

    lake: Lake
    own: Mapping[str, tuple[Path, int, int]]
    known: _Known
    cache: Cache
    progress: Progress


@dataclass(frozen=True)
class _LabelledImage:
    """A row of the table and its masks.

    Args:
        row: the row.
        masks: content of the PNGs that must be written.
    """

    row: dict[str, Any]
    masks: Mapping[Path, bytes]


def _read_all(reading: _Reading) -> tuple[list[Export], list[_LabelledImage]]:
    """Read the exports in use and their images, and reject those that cannot be read.

    Raises:
        MarsError: no export is usable.
    """
    lake = reading.lake
    read: dict[Path, tuple[Export, list[_LabelledImage]]] = {}
    in_force = exports_in_force(lake.inbox)
    while new := [path for path in in_force if path not in read]:
        for path in new:
            try:
                read[path] = _read(reading, path)
            except DamagedFileError as error:
                target = reject(path, error)
                reading.progress.say(f"rejected, moved to {lake.relative(target)}: {error}")
        in_force = exports_in_force(lake.inbox)
    found = [read[path] for path in in_force]
    if not found:
        waiting = [path.name for path in being_copied(lake.inbox)]
        aside = [f"{name}: {reason}" for name, reason in rejections(lake.inbox)]
        raise MarsError(
            f"no usable export in {lake.inbox}: put the zip of a Roboflow export there, named as by Roboflow "
            "(PROJECT.vN.FORMAT.zip)"
            + (f". Still being copied: {', '.join(waiting)}" if waiting else "")
            + (f". Rejected: {'; '.join(aside)}" if aside else "")
        )
    return [export for export, _ in found], [image for _, images in found for image in images]


def _refuse_losses(lake: Lake, exports: Sequence[Export], before: Mapping[str, int]) -> None:
    """Check that no project is lost only because its export is unusable.

    Args:
        lake: the lake.
        exports: the usable exports.
        before: projects of the previous table and their versions.

    Raises:
        MarsError: a project would vanish because its newer export is damaged or still being copied.
    """
    there = {export.project for export in exports}
    unusable = [*being_copied(lake.inbox), *lake.rejected.glob("*.zip")]
    newer = {
        project: path.name
        for path in unusable
        for project, version in [export_identity(path)]
        if version >= before.get(project, version + 1)
    }
    lost = [f"{project} ({newer[project]})" for project in before if project not in there and project in newer]
    if lost:
        raise MarsError(
            f"the inbox no longer has a usable export of {', '.join(lost)}: the file named is still being copied or "
            "was rejected. The previous labels remain in use. Put a complete export into the inbox or, to remove the "
            "project, delete that file"
        )


def _read(reading: _Reading, path: Path) -> tuple[Export, list[_LabelledImage]]:
    export = read_export(path)
    copies = _Copies()
    with open_splits(path) as archive:
        images = reading.progress.track(export.images, f"reading {path.name}")
        labelled = [_labelled(reading, export, archive, image, copies) for image in images]
    return replace(export, warnings=(*export.warnings, *copies.warnings())), labelled


class _Copies:
    """Matching of an export's images with the lake's crops."""

    def __init__(self) -> None:
        self._standing: dict[str, tuple[str, str | None]] = {}
        self._altered: list[str] = []
        self._further: list[str] = []

    def alter(self, original: str) -> None:
        """Record an image that does not show the crop it is named after."""
        self._altered.append(original)

    def stands_for(self, original: str, content_sha: str, outlines_sha: str | None) -> bool:
        """Test whether an image may use its crop's pixels.

        Of several copies with different outlines, only the first may.
        """
        first = self._standing.setdefault(original, (content_sha, outlines_sha))
        if first[1] == outlines_sha or first[0] == content_sha:
            return True
        self._further.append(original)
        return False

    def warnings(self) -> list[str]:
        """Describe the images for which the export's own pixels are used."""
        said = []
        if self._altered:
            said.append(
                f"{len(self._altered)} images are named after crops of this lake but differ from them, for example "
                f"rotated, mirrored, cropped or equalised: the exported pixels are used for {listed(self._altered)}"
            )
        if self._further:
            said.append(
                f"{len(self._further)} images are further copies of a crop with different outlines: the exported "
                f"pixels are used for {listed(self._further)}"
            )
        return said


def _mask_names_in_force(lake: Lake) -> set[str]:
    """List the current table's masks; all masks if it is missing or damaged."""
    try:
        return _mask_names(read_labelled_crops(lake))
    except (MarsError, KeyError):
        return {path.name for path in lake.masks.glob("*/*.png")}


def _own_crops(lake: Lake) -> Mapping[str, tuple[Path, int, int]]:
    """Map the id of every crop in the lake to its file, height and width."""
    crops = kept_crops(lake, ["height", "width"])
    return {row.crop_id: (row.path, int(row.height), int(row.width)) for row in crops.itertuples()}


def _labelled(
    reading: _Reading, export: Export, archive: ExportArchive, image: ExportedImage, copies: _Copies
) -> _LabelledImage:
    lake = reading.lake
    content = archive.read(image.entry)
    content_sha = hashlib.sha256(content).hexdigest()
    height, width, phash = look_of(content, content_sha, f"{export.path.name}: {image.entry}", reading.cache)
    if image.size is not None and image.size != (height, width):
        raise DamagedFileError(
            f"{export.path.name}: {image.entry} is {width} x {height} pixels and its annotations are for "
            f"{image.size[1]} x {image.size[0]}: export it again"
        )
    labels_sha = fingerprint(image.label, image.outlines)
    outlines_sha = None if image.outlines is None else fingerprint(None, image.outlines)
    crop = reading.own.get(image.original)
    own_sha = None
    if crop is not None and crop[1:] == (height, width):
        crop_sha = sha256_file(crop[0])
        if not shows_crop(content, content_sha, crop[0], crop_sha, reading.cache):
            copies.alter(image.original)
        elif copies.stands_for(image.original, content_sha, outlines_sha):
            own_sha = crop_sha
    if crop is not None and own_sha is not None:
        file, origin, pixels_sha = crop[0], "crop", own_sha
        image_id = f"{image.original}-{pixels_sha[:8]}"
    else:
        origin, pixels_sha = "export", content_sha
        image_id = f"{_safe(image.original)}-{pixels_sha[:8]}"
        file = lake.label_images / f"{image_id}{Path(image.entry).suffix.lower()}"
        if not file.exists():
            write_bytes(file, content)
    observation = observation_of(image.original)
    n_craters, crater_fraction = None, None
    masks: dict[Path, bytes] = {}
    if outlines_sha is not None:
        before = reading.known.rows.get(image_id, {})
        name = _mask_name(image_id, outlines_sha)
        paths = {kind: lake.masks / kind / name for kind in (*ANNOTATIONS, "instances")}
        n_craters, crater_fraction, masks = _masks(image.outlines or (), (height, width), outlines_sha, paths, before)
    row = {
        "image_id": image_id,
        "project": export.project,
        "split": image.split,
        "exported_split": image.split,
        "observation": observation,
        "group": observation or image.original,
        "original": image.original,
        "origin": origin,
        "file": lake.relative(file),
        "height": height,
        "width": width,
        "label": image.label,
        "n_craters": n_craters,
        "crater_fraction": crater_fraction,
        "labels_sha": labels_sha,
        "outlines_sha": outlines_sha,
        "pixels_sha": pixels_sha,
        "phash": phash,
    }
    return _LabelledImage(row, masks)


def _masks(
    outlines: Sequence[Outline],
    size: tuple[int, int],
    outlines_sha: str,
    paths: Mapping[str, Path],
    before: Mapping[Any, Any],
) -> tuple[int, float, dict[Path, bytes]]:
    """Draw an image's masks, unless they exist for the same outlines.

    Args:
        outlines: of the image's craters.
        size: height and width in pixels.
        outlines_sha: fingerprint of the outlines.
        paths: the masks' files by annotation.
        before: the image's row in the previous table, empty if it has none.

    Returns:
        The number of craters, the share of pixels inside craters, and the PNGs that must be written.
    """
    if before.get("outlines_sha") == outlines_sha and all(
        png_text(path, _LABEL) == outlines_sha for path in paths.values()
    ):
        return int(before["n_craters"]), float(before["crater_fraction"]), {}
    instances = instance_masks(outlines, *size)
    labels = label_image(instances)
    drawn = {name: annotation_mask(instances, name) for name in ANNOTATIONS} | {"instances": labels}
    masks = {paths[name]: encode_png(mask, _LABEL, outlines_sha) for name, mask in drawn.items()}
    return int(labels.max()), float((labels > 0).mean()), masks


def _safe(name: str) -> str:
    """Replace all but ASCII letters, digits, '.', '_' and '-' by '_'."""
    return "".join(c if (c.isascii() and c.isalnum()) or c in "._-" else "_" for c in name).lstrip(".")[:120] or "image"


def _reaches_outside(image: ExportedImage) -> bool:
    """Test whether an outline extends more than a pixel beyond the image."""
    if image.size is None:
        return False
    limits = np.array([image.size[1], image.size[0]])
    rings = [ring for outline in image.outlines or () for ring in outline.get("polygons", ())]
    points = [np.asarray(ring).reshape(-1, 2) for ring in rings]
    return any(bool(((ring < -1) | (ring > limits + 1)).any()) for ring in points)


def _report(
    exports: Sequence[Export],
    inputs: _Inputs,
    table: pd.DataFrame,
    known: Mapping[str, str],
    conflicts: list[str],
) -> LabelReport:
    now = dict(zip(table["image_id"], table["labels_sha"], strict=True))
    divided = table.groupby("group")["exported_split"].transform("nunique") > 1
    leaks = [
        {
            "group": group,
            "images": len(rows),
            "exported": ", ".join(sorted(set(rows["exported_split"]))),
            "now": rows["split"].iloc[0],
        }
        for group, rows in table[divided].groupby("group")
    ]
    trained = set(table.loc[table["exported_split"] == "train", "group"])
    counts = (
        table.groupby(["project", "split"])
        .agg(
            images=("image_id", "size"),
            crater=("label", lambda v: int((v == "crater").sum())),
            no_crater=("label", lambda v: int((v == "no_crater").sum())),
            outlined=("n_craters", lambda v: int(v.notna().sum())),
            craters=("n_craters", lambda v: int(v.fillna(0).sum())),
            groups=("group", "nunique"),
        )
        .reset_index()
    )
    return LabelReport(
        version=label_version([export.sha256 for export in exports]),
        exports=[
            {
                "file": e.path.name,
                "project": e.project,
                "version": e.version,
                "format": e.format,
                "images": len(e.images),
                "sha256": e.sha256[:12],
                "warnings": "; ".join(e.warnings),
            }
            for e in exports
        ],
        counts=counts.to_dict("records"),
        new=len(now.keys() - known.keys()),
        changed=sum(1 for key in now.keys() & known.keys() if now[key] != known[key]),
        removed=len(known.keys() - now.keys()),
        leaks=leaks,
        leaked=int(((table["exported_split"] != "train") & table["group"].isin(trained)).sum()),
        conflicts=conflicts,
        duplicates=near_duplicates(table).to_dict("records"),
        outside=[
            f"{export.project}: {image.original}"
            for export in exports
            for image in export.images
            if _reaches_outside(image)
        ],
        rejected=[{"zip": name, "why": reason} for name, reason in inputs.rejected],
        left_alone=inputs.left_alone,
    )
