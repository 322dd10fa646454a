"""Builds the table of labelled crops from the exports in force: images, masks, rows and a report."""

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
from mars_assets.labels.formats.image import ExportedImage, listed
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
"""The text chunk of a mask that names the label it shows."""


@dataclass(frozen=True)
class LabelReport:
    """What a label version holds, for people.

    Args:
        version: sha256 over the exports in force.
        exports: a row for each: project, version, format, images, warnings.
        counts: a row for each project and split.
        new, changed, removed: images against the last version.
        leaks: groups that the exports have in more than one split: name, images, their splits, and the one they are in now.
        leaked: how many images the exports have in valid or test although their group is in train too.
        conflicts: images that two projects label differently; left out of the table.
        duplicates: pairs of images that look the same and are not of one group; those in two splits first.
        outside: images with outlines that lie outside of them, at least in part.
        rejected: zips that were put aside, now or before, and why.
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
    """What the table before says, so that masks of the same outlines are not drawn again.

    Args:
        rows: by image id.
        provenance: the table's.
    """

    def __init__(self, rows: Mapping[str, Mapping[Any, Any]], provenance: Mapping[str, Any]) -> None:
        self.exports = {project_slug(e["project"]): int(e["version"]) for e in provenance.get("exports", ())}
        self.labels = {image_id: str(row["labels_sha"]) for image_id, row in rows.items()}
        if provenance.get("computation") != LABELS:
            rows = {}
        self.rows = rows


def _known(lake: Lake, progress: Progress) -> _Known:
    """What the table before says; nothing where there is none, or it is damaged."""
    if not lake.labelled_crops.exists():
        return _Known({}, {})
    try:
        rows = read_labelled_crops(lake).to_dict("records")
        return _Known({row["image_id"]: row for row in rows}, read_provenance(lake.labelled_crops))
    except (MarsError, KeyError) as error:
        progress.say(f"the table before is of no use, everything is read again: {error}")
        return _Known({}, {})


@dataclass(frozen=True)
class _Inputs:
    """All that table and report follow from.

    Args:
        exports: name, which gives the project, and sha256 of each export in force.
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
    """Id, file and time of change of each crop, in nanoseconds."""
    return sorted((name, lake.relative(path), _changed(path)) for name, (path, _, _) in crops.items())


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:  # which matters if the image is labelled, and is said then
        return 0


def update_labelled_crops(lake: Lake, progress: Progress = SILENT) -> tuple[pd.DataFrame, LabelReport]:
    """Bring the table up to date: build it if its inputs have changed or a file of it is missing.

    Returns:
        The table in force and the report of its build, in which nothing is new if it was up to date.

    Raises:
        MarsError: as :func:`build_labelled_crops`.
    """
    return _up_to_date(lake) or build_labelled_crops(lake, progress)


def _up_to_date(lake: Lake) -> tuple[pd.DataFrame, LabelReport] | None:
    try:
        rows, provenance = read_labelled_crops(lake), read_provenance(lake.labelled_crops)
    except MarsError:  # none yet, or damaged
        return None
    exports = [(path.name, digest(path)) for path in exports_in_force(lake.inbox)]
    inputs = _Inputs.of(lake, exports, _versions(lake, _own_crops(lake)))
    if provenance.get("built_from") != inputs.fingerprint() or not all(file.exists() for file in files_of(lake, rows)):
        return None
    return rows, replace(LabelReport(**provenance["report"]), new=0, changed=0, removed=0)


def build_labelled_crops(lake: Lake, progress: Progress = SILENT) -> tuple[pd.DataFrame, LabelReport]:
    """Read the exports in force, write images and masks that are new, and the table.

    An export that is broken or hostile is moved to ``inbox/rejected`` with a text that says why; its project's version
    before it counts again, if it is still there.

    Raises:
        MarsError: no export is left in the inbox, or none of a project whose newest one is broken or not whole yet; or all
            images are labelled in two ways. The last table stays in force.
    """
    from mars_assets.labels.schema import LabelledCrops

    known, own = _known(lake, progress), _own_crops(lake)
    crops = _versions(lake, own)  # before they are read: what changes meanwhile is another version
    with Cache(lake.cache("appearance"), LABELS, progress=progress) as cache:
        exports, images = _read_all(_Reading(lake, own, known, cache, progress))
    inputs = _Inputs.of(lake, [(export.path.name, export.sha256) for export in exports], crops)
    _refuse_losses(lake, exports, known.exports)
    # Only now: masks of an export that is put aside would take the place of those in force.
    for path, content in (mask for image in images for mask in image.masks.items()):
        write_bytes(path, content)
    merged, conflicts = _merge([image.row for image in images])
    if not merged:
        raise MarsError(
            f"no image is left, all are labelled in two ways: {listed(conflicts)}. Correct them in Roboflow"
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
    """What exports are read with.

    Args:
        lake: where images go.
        own: its crops, see :func:`_own_crops`.
        known: the table before.
        cache: appearances of images.
        progress: where it is said.
    """

    lake: Lake
    own: Mapping[str, tuple[Path, int, int]]
    known: _Known
    cache: Cache
    progress: Progress


@dataclass(frozen=True)
class _LabelledImage:
    """What an image of an export becomes.

    Args:
        row: of the table.
        masks: PNGs that are to be written.
    """

    row: dict[str, Any]
    masks: Mapping[Path, bytes]


def _read_all(reading: _Reading) -> tuple[list[Export], list[_LabelledImage]]:
    """Read the exports in force and their images; what cannot be read is put aside.

    Raises:
        MarsError: none is left.
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
                reading.progress.say(f"put aside as {lake.relative(target)}: {error}")
        in_force = exports_in_force(lake.inbox)
    found = [read[path] for path in in_force]
    if not found:
        waiting = [path.name for path in being_copied(lake.inbox)]
        aside = [f"{name}: {reason}" for name, reason in rejections(lake.inbox)]
        raise MarsError(
            f"no export in {lake.inbox}: put the zip of a Roboflow export there, named as Roboflow names it "
            "(PROJECT.vN.FORMAT.zip)"
            + (f". Still being copied: {', '.join(waiting)}" if waiting else "")
            + (f". Put aside: {'; '.join(aside)}" if aside else "")
        )
    return [export for export, _ in found], [image for _, images in found for image in images]


def _refuse_losses(lake: Lake, exports: Sequence[Export], before: Mapping[str, int]) -> None:
    """Of the projects of the last table, ``before``, with their versions, none may get lost unnoticed.

    Raises:
        MarsError: one would, only because its newer export cannot be used, or not yet.
    """
    there = {export.project for export in exports}
    unusable = [*being_copied(lake.inbox), *lake.rejected.glob("*.zip")]
    newer = {
        project: path.name
        for path in unusable
        for project, version in [export_identity(path)]
        if version >= before.get(project, version + 1)
    }
    lost = [f"{project} (there is {newer[project]})" for project in before if project not in there and project in newer]
    if lost:
        raise MarsError(
            f"the labels in force stay: the inbox has no usable export any more of {', '.join(lost)}, which is still being copied "
            "or was put aside. Put a whole one into the inbox; or, if the project is to go, delete that file"
        )


def _read(reading: _Reading, path: Path) -> tuple[Export, list[_LabelledImage]]:
    export = read_export(path)
    copies = _Copies()
    with open_splits(path) as archive:
        images = reading.progress.track(export.images, f"reading {path.name}")
        labelled = [_labelled(reading, export, archive, image, copies) for image in images]
    return replace(export, warnings=(*export.warnings, *copies.warnings())), labelled


class _Copies:
    """What an export has made of the lake's crops: which image of it stands for each, and which for none."""

    def __init__(self) -> None:
        self._standing: dict[str, tuple[str, str | None]] = {}
        self._altered: list[str] = []
        self._further: list[str] = []

    def alter(self, original: str) -> None:
        """Notes an image that shows something else than the crop it is named after."""
        self._altered.append(original)

    def stands_for(self, original: str, content_sha: str, outlines_sha: str | None) -> bool:
        """Whether an image stands for its crop. Only one of augmented copies does, if their outlines differ."""
        first = self._standing.setdefault(original, (content_sha, outlines_sha))
        if first[1] == outlines_sha or first[0] == content_sha:
            return True
        self._further.append(original)
        return False

    def warnings(self) -> list[str]:
        """What a person should know of it."""
        said = []
        if self._altered:
            said.append(
                f"{len(self._altered)} images are named as crops of this lake and show something else, such as a crop "
                f"turned, mirrored, cut or equalised: the export's pixels are used for {listed(self._altered)}"
            )
        if self._further:
            said.append(
                f"{len(self._further)} images are further copies of a crop with other outlines: the export's pixels are "
                f"used for {listed(self._further)}"
            )
        return said


def _mask_names_in_force(lake: Lake) -> set[str]:
    """Those of the table in force; all that are there if it is damaged."""
    try:
        return _mask_names(read_labelled_crops(lake))
    except (MarsError, KeyError):
        return {path.name for path in lake.masks.glob("*/*.png")}


def _own_crops(lake: Lake) -> Mapping[str, tuple[Path, int, int]]:
    """crop_id -> (file, height, width) of every crop this lake cut."""
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
        n_craters, crater_fraction, masks = _masks(lake, image, image_id, height, width, outlines_sha, before)
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
    lake: Lake,
    image: ExportedImage,
    image_id: str,
    height: int,
    width: int,
    outlines_sha: str,
    before: Mapping[Any, Any],
) -> tuple[int, float, dict[Path, bytes]]:
    """Crater count and covered share of an image, and its masks as PNGs, unless they are there for the same outlines.

    ``before`` is its row in the table before, empty where there is none.
    """
    paths = {name: lake.masks / name / _mask_name(image_id, outlines_sha) for name in (*ANNOTATIONS, "instances")}
    if before.get("outlines_sha") == outlines_sha and all(
        png_text(path, _LABEL) == outlines_sha for path in paths.values()
    ):
        return int(before["n_craters"]), float(before["crater_fraction"]), {}
    instances = instance_masks(image.outlines or (), height, width)
    labels = label_image(instances)
    drawn = {name: annotation_mask(instances, name) for name in ANNOTATIONS} | {"instances": labels}
    masks = {paths[name]: encode_png(mask, _LABEL, outlines_sha) for name, mask in drawn.items()}
    return int(labels.max()), float((labels > 0).mean()), masks


def _safe(name: str) -> str:
    """An original name as part of a file name: what is not a letter, digit, '.', '_' or '-' becomes '_'."""
    return "".join(c if (c.isascii() and c.isalnum()) or c in "._-" else "_" for c in name).lstrip(".")[:120] or "image"


def _reaches_outside(image: ExportedImage) -> bool:
    """Whether an outline has a point more than a pixel beyond the image, as none has that was drawn on it."""
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
