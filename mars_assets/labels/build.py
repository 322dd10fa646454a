"""Building of the table ``labelled_crops``, its images and its masks."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd

from mars_assets.code_versions import LABELS
from mars_assets.errors import DamagedFileError, MarsError, MissingInputError
from mars_assets.imagery.crops import kept_crops
from mars_assets.imagery.products import observation_of
from mars_assets.images import encode_png, is_turned, png_text
from mars_assets.labels.appearance import look_of, shows_crop
from mars_assets.labels.class_names import ClassNames, how_to_state, project_slug, read_class_names
from mars_assets.labels.duplicates import near_duplicates
from mars_assets.labels.exports import Export, export_identity, label_version, open_splits, read_export, without
from mars_assets.labels.formats.image import EXPORT_AGAIN, ExportedImage, Outline, listed, picture_of
from mars_assets.labels.inbox import (
    being_copied,
    current_exports,
    digest,
    passed_over,
    reject,
    rejections,
    unused,
    zips,
)
from mars_assets.labels.masks import (
    ANNOTATIONS,
    MASK_KINDS,
    annotation_mask,
    instance_masks,
    label_image,
)
from mars_assets.labels.merge import merge_projects
from mars_assets.labels.splits import divided_groups, whole_groups
from mars_assets.labels.table import files_of, mask_name, mask_names, read_labelled_crops
from mars_assets.lake import Lake
from mars_assets.progress import SILENT, Progress
from mars_assets.storage.cache import Cache
from mars_assets.storage.claims import Claim, claim
from mars_assets.storage.files import as_rows, read_provenance, shown, write_bytes
from mars_assets.storage.hashing import fingerprint, sha256_file
from mars_assets.storage.named_files import replacing_table
from mars_assets.storage.schema import columns_of, write_checked

_WORK = ".building"
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
        left_out: images that cannot be used, each with the reason.
        unknown_classes: a row per class whose meaning is not known: project, class, images.
        rejected: zips that were rejected, now or earlier, and why.
        left_alone: zips that are still being copied.
        unused: zips that are not read: older versions, and copies of others.
        passed_over: what else is in the inbox, and why it is not read.
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
    left_out: list[str]
    unknown_classes: list[dict[str, Any]]
    rejected: list[dict[str, str]]
    left_alone: list[str]
    unused: list[str]
    passed_over: list[str]


class _Previous(NamedTuple):
    """Content of the previous table, whose unchanged masks are not redrawn.

    Args:
        exports: project and version of each export.
        labels: fingerprint of the labels of each image.
        rows: the table's rows by image id; empty if another version of the code drew the masks.
        masks: the names of its masks.
    """

    exports: Sequence[tuple[str, int]]
    labels: Mapping[str, str]
    rows: Mapping[str, Mapping[Any, Any]]
    masks: Set[str]


def _previous(lake: Lake, progress: Progress) -> _Previous:
    """Read the previous table; a missing or damaged one is empty, but owns all masks."""
    try:
        table, provenance = read_labelled_crops(lake), read_provenance(lake.labelled_crops)
        rows = {row["image_id"]: row for row in table.to_dict("records")}
        return _Previous(
            [(project_slug(e["project"]), int(e["version"])) for e in provenance.get("exports", ())],
            {image_id: str(row["labels_sha"]) for image_id, row in rows.items()},
            rows if provenance.get("computation") == LABELS else {},
            mask_names(table),
        )
    except MissingInputError:
        pass
    except (MarsError, KeyError) as error:
        progress.say(f"the previous table cannot be used ({error}): all masks are redrawn")
    return _Previous([], {}, {}, {path.name for path in lake.masks.glob("*/*.png")})


def _inputs(
    lake: Lake, class_names: ClassNames, exports: list[tuple[str, str]], crops: list[tuple[str, str, int]]
) -> tuple[dict[str, list[Any]], str]:
    """Collect everything that determines the table and the report.

    Args:
        lake: has the inbox.
        class_names: what the user stated about class names.
        exports: name, which gives the project, and sha256 of each export in use.
        crops: see :func:`_versions`.

    Returns:
        These, with ``left_alone``, the zips that are still being copied, and ``rejected``, ``unused`` and
        ``passed_over``, see :mod:`mars_assets.labels.inbox`; and a fingerprint of them and of the form of the results.
    """
    from mars_assets.labels.schema import LabelledCrops

    inputs: dict[str, list[Any]] = {"exports": exports, "crops": crops, "rejected": rejections(lake.inbox)}
    inputs["class_names"] = class_names.key
    inputs["left_alone"] = [path.name for path in being_copied(lake.inbox)]
    inputs["unused"] = [path.name for path in unused(lake.inbox)]
    inputs["passed_over"] = passed_over(lake.inbox)
    form = list(columns_of(LabelledCrops)), [part.name for part in fields(LabelReport)]
    return inputs, fingerprint(LABELS, *form, inputs)


def _versions(lake: Lake, crops: Mapping[str, tuple[Path, int, int]]) -> list[tuple[str, str, int]]:
    """List each crop's id, file and modification time in nanoseconds.

    The time of a missing file is 0; if the image is labelled, it is reported later.
    """
    return sorted(
        (name, lake.relative(path), path.stat().st_mtime_ns if path.exists() else 0)
        for name, (path, _, _) in crops.items()
    )


def update_labelled_crops(lake: Lake, progress: Progress = SILENT) -> tuple[pd.DataFrame, LabelReport]:
    """Build the table if its inputs have changed or one of its files is missing.

    Returns:
        The current table and the report of its build; if it was up to date, without new, changed or removed images.

    Raises:
        MarsError: as for :func:`build_labelled_crops`.
    """
    if (current := _up_to_date(lake)) is not None:
        _say_what_is_passed_over(lake, progress)
        return current
    with _claimed(lake, progress) as mine:
        # Another process may have built it while this one waited.
        return _up_to_date(lake) or _build(lake, mine, progress)


def _up_to_date(lake: Lake) -> tuple[pd.DataFrame, LabelReport] | None:
    """Read the table; None if it has to be built."""
    with suppress(MarsError):  # a missing or damaged table is built
        rows, provenance = read_labelled_crops(lake), read_provenance(lake.labelled_crops)
        exports = [(path.name, digest(path)) for path in current_exports(lake.inbox)]
        class_names = read_class_names(lake.class_names_csv)
        _, key = _inputs(lake, class_names, exports, _versions(lake, _own_crops(lake)))
        if provenance.get("built_from") == key and all(file.exists() for file in files_of(lake, rows)):
            return rows, replace(LabelReport(**provenance["report"]), new=0, changed=0, removed=0)
    return None


def _claimed(lake: Lake, progress: Progress) -> AbstractContextManager[Claim]:
    return claim(lake.labelled_crops, lake.labels / _WORK, progress)


def build_labelled_crops(lake: Lake, progress: Progress = SILENT) -> tuple[pd.DataFrame, LabelReport]:
    """Read the exports in use, and write new images and masks, and the table.

    A damaged or hostile export is moved to ``inbox/rejected`` with a text that says why; if the inbox still has the
    project's previous version, that one is used.

    Raises:
        MarsError: there is no usable export, or none of a project whose newest export is damaged or still being
            copied, or all labels are contradictory. The previous table remains in use.
    """
    with _claimed(lake, progress) as mine:
        return _build(lake, mine, progress)


def _build(lake: Lake, mine: Claim, progress: Progress) -> tuple[pd.DataFrame, LabelReport]:
    from mars_assets.labels.schema import LabelledCrops

    _say_what_is_passed_over(lake, progress)
    previous, own = _previous(lake, progress), _own_crops(lake)
    class_names = read_class_names(lake.class_names_csv)
    crops = _versions(lake, own)  # before the crops are read, so that a later change counts as a new version
    with Cache(lake.cache("appearance"), LABELS, progress=progress) as cache:
        exports, images = _read_all(_Reading(lake, own, class_names, previous, cache, progress))
    inputs, key = _inputs(lake, class_names, [(export.path.name, export.sha256) for export in exports], crops)
    _refuse_unknown_alone(lake, exports)
    _refuse_losses(lake, exports, previous.exports)
    # Not before all exports were read: masks of a rejected one would replace those in use.
    for path, content in (mask for _, masks in images for mask in masks.items()):
        write_bytes(path, content)
    merged, conflicts = merge_projects([row for row, _ in images])
    if not merged:
        raise MarsError(
            f"projects contradict each other on every image: {listed(conflicts)}. Correct the labels in Roboflow, or "
            "take one of the exports out of the inbox"
        )
    table = pd.DataFrame(merged, columns=list(columns_of(LabelledCrops))).sort_values("image_id", ignore_index=True)
    table["n_craters"] = table["n_craters"].astype("Int32")
    table["split"] = whole_groups(table)
    report = _report(exports, inputs, table, previous.labels, conflicts)
    named = mask_names(table)
    about = {
        "computation": LABELS,
        "label_version": report.version,
        "exports": [{"project": e.project, "version": e.version, "sha256": e.sha256} for e in exports],
        "conflicts": conflicts,
        "built_from": key,
        "report": asdict(report),
    }
    with mine.publishing(), replacing_table(lake.masks.glob("*/*"), previous.masks, named):
        write_checked(lake.labelled_crops, table, LabelledCrops, about)
    return table, report


@dataclass(frozen=True)
class _Reading:
    """Context for reading exports.

    Args:
        lake: where images are written.
        own: the lake's crops, see :func:`_own_crops`.
        class_names: what the user stated about class names.
        previous: the previous table.
        cache: cached appearances of images.
        progress: shows progress and rejections.
    """

    lake: Lake
    own: Mapping[str, tuple[Path, int, int]]
    class_names: ClassNames
    previous: _Previous
    cache: Cache
    progress: Progress


_LabelledImage: TypeAlias = tuple[dict[str, Any], dict[Path, bytes]]
"""A row of the table, and the content of its masks' PNGs that must be written."""


def _read_all(reading: _Reading) -> tuple[list[Export], list[_LabelledImage]]:
    """Read the exports in use and their images, and reject those that cannot be read.

    Raises:
        MarsError: no export is usable.
    """
    lake = reading.lake
    read: dict[Path, tuple[Export, list[_LabelledImage]]] = {}
    while unread := sorted(set(in_use := current_exports(lake.inbox)) - read.keys()):
        try:
            read[unread[0]] = _read(reading, unread[0])
        except DamagedFileError as error:
            target = reject(unread[0], error)
            reading.progress.say(f"rejected, moved to {lake.relative(target)}: {error}")
    found = _told_apart([read[path] for path in in_use])
    if not found:
        waiting = [path.name for path in being_copied(lake.inbox)]
        aside = [f"{name}: {reason.removeprefix(f'{name}: ')}" for name, reason in rejections(lake.inbox)]
        raise MarsError(
            f"no usable export in {lake.inbox}: put the zip of a Roboflow export there, named as by Roboflow "
            "(PROJECT.vN.FORMAT.zip)"
            + (f". Still being copied: {', '.join(waiting)}" if waiting else "")
            + (f". Rejected: {'; '.join(aside)}" if aside else "")
            + (f". Not read: {'; '.join(others)}" if (others := passed_over(lake.inbox)) else "")
        )
    return [export for export, _ in found], [image for _, images in found for image in images]


def _told_apart(found: Sequence[tuple[Export, list[_LabelledImage]]]) -> list[tuple[Export, list[_LabelledImage]]]:
    """Tell exports of the same project and version apart by their files.

    Two people may have given their projects one title: both exports are read. A person may have downloaded a version in
    two formats: the last of these exports is read.
    """
    instead = {
        export.path: other.path.name
        for place, (export, _) in enumerate(found)
        for other, _ in found[place + 1 :]
        if _is_the_same_version(export, other)
    }
    apart = []
    for export, images in found:
        namesakes = [e.path.name for e, _ in found if e.project == export.project and e.path not in instead]
        if export.path in instead:
            warning = f"it has the same images as {instead[export.path]}, which is read instead: remove one of them"
            export, images = replace(export, warnings=(*export.warnings, warning)), []
        elif len(namesakes) > 1:
            warning = (
                f"{' and '.join(namesakes)} have the same project and version and other content, and all are read: "
                "remove one if it is the same version, or rename the file if it is another project"
            )
            export = replace(export, warnings=(*export.warnings, warning))
            for row, _ in images:
                row["project"] = f"{export.project} ({shown(export.path.name)})"
        apart.append((export, images))
    return apart


def _is_the_same_version(one: Export, other: Export) -> bool:
    """Test whether two exports are a project's version in two formats."""
    sides = [
        {(export.project, image.split, image.original, image.outlines is None) for image in export.images}
        for export in (one, other)
    ]
    return one.format != other.format and sides[0] == sides[1]


def _say_what_is_passed_over(lake: Lake, progress: Progress) -> None:
    for line in passed_over(lake.inbox):
        progress.say(f"not read: {lake.relative(lake.inbox)}/{line}")


def _refuse_losses(lake: Lake, exports: Sequence[Export], before: Sequence[tuple[str, int]]) -> None:
    """Check that no export of a project is lost only because it is unusable.

    Args:
        lake: the lake.
        exports: the usable exports.
        before: project and version of each export of the previous table.

    Raises:
        MarsError: a project would vanish because its newer export is damaged or still being copied.
    """
    versions, had = dict(before), Counter(project for project, _ in before)
    there = Counter(export.project for export in exports)
    renewed = {export.project for export in exports if export.version > versions.get(export.project, export.version)}
    newer = {
        project: path.name
        for path in (*being_copied(lake.inbox), *zips(lake.rejected))
        for project, version in [export_identity(path)]
        if version >= versions.get(project, version + 1)
    }
    missing = [project for project in had if there[project] < had[project] and project not in renewed]
    lost = [f"{project} ({newer[project]})" for project in missing if project in newer]
    if lost:
        raise MarsError(
            f"the inbox no longer has a usable export of {', '.join(lost)}: the file named is still being copied or "
            "was rejected. The previous labels remain in use. Put a complete export into the inbox or, to remove the "
            "project, delete that file"
        )


def _refuse_unknown_alone(lake: Lake, exports: Sequence[Export]) -> None:
    """Check that there is a labelled image.

    Raises:
        MarsError: there is none, since the meanings of all classes are unknown.
    """
    if not any(export.images for export in exports):
        unknown = [(export.project, name, count) for export in exports for name, count in export.unknown.items()]
        raise MarsError("; ".join(how_to_state(lake.class_names_csv, *one) for one in unknown))


def _read(reading: _Reading, path: Path) -> tuple[Export, list[_LabelledImage]]:
    export = read_export(path, reading.class_names)
    copies = _Copies()
    labelled: list[_LabelledImage] = []
    left_out: dict[str, str] = {}
    unseen: list[str] = []
    with open_splits(path) as archive:
        for image in reading.progress.track(export.images, f"reading {path.name}"):
            content = archive.read(image.entry)
            try:
                row, masks = _labelled(reading, export, image, content, copies)
            except DamagedFileError as error:
                left_out[image.entry] = str(error)
                continue
            labelled.append((row, masks))
            if image.outlines and row["n_craters"] < len(image.outlines):
                unseen.append(f"{image.entry} ({len(image.outlines) - row['n_craters']})")
    warnings = [*export.warnings, *copies.warnings()]
    if unseen:
        warnings.append(f"outlines that cover no pixel or lie wholly under smaller ones do not count: {listed(unseen)}")
    return replace(without(export, left_out), warnings=tuple(warnings)), labelled


@dataclass(frozen=True)
class _Copies:
    """Matching of an export's images with the lake's crops.

    Args:
        standing: sha256 of the first image of each crop, and of its outlines.
        altered: images that do not show the crop they are named after.
        further: further images of a crop, with other outlines than the first.
    """

    standing: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    altered: list[str] = field(default_factory=list)
    further: list[str] = field(default_factory=list)

    def stands_for(self, original: str, content_sha: str, outlines_sha: str | None) -> bool:
        """Test whether an image may use its crop's pixels.

        Of several copies with different outlines, only the first may.
        """
        first = self.standing.setdefault(original, (content_sha, outlines_sha))
        if first[1] == outlines_sha or first[0] == content_sha:
            return True
        self.further.append(original)
        return False

    def warnings(self) -> list[str]:
        """Describe the images for which the export's own pixels are used."""
        altered = (
            "are named after crops of this lake but differ from them, for example rotated, mirrored, cropped or "
            "equalised"
        )
        groups = ((altered, self.altered), ("are further copies of a crop with different outlines", self.further))
        return [
            f"{len(names)} images {what}: the exported pixels are used for {listed(names)}"
            for what, names in groups
            if names
        ]


def _own_crops(lake: Lake) -> Mapping[str, tuple[Path, int, int]]:
    """Map the id of every crop in the lake to its file, height and width."""
    crops = kept_crops(lake, ["height", "width"])
    sizes = zip(crops["path"], crops["height"].astype(int), crops["width"].astype(int), strict=True)
    return dict(zip(crops["crop_id"], sizes, strict=True))


def _labelled(
    reading: _Reading, export: Export, image: ExportedImage, content: bytes, copies: _Copies
) -> _LabelledImage:
    """Decode an image, write it unless it shows a crop, and draw its masks.

    Raises:
        DamagedFileError: it or one of its outlines cannot be used.
    """
    lake = reading.lake
    content_sha = hashlib.sha256(content).hexdigest()
    height, width, phash = look_of(content, content_sha, "it", reading.cache)
    turned = is_turned(content)
    if image.size is not None and image.size != (height, width):
        remedy = "its orientation in EXIF turns it: save it upright and label that" if turned else EXPORT_AGAIN
        raise DamagedFileError(
            f"it is {width} x {height} pixels and its annotations are for {image.size[1]} x {image.size[0]}: {remedy}"
        )
    outlines_sha = None if image.outlines is None else fingerprint(None, image.outlines)
    # Masks and chips of a turned image are others than before orientations were applied.
    file, pixels_sha = None, fingerprint("upright", content_sha) if turned else content_sha
    crop = reading.own.get(image.original)
    if crop is not None and crop[1:] == (height, width):
        crop_sha = sha256_file(crop[0])
        if not shows_crop(content, content_sha, crop[0], crop_sha, reading.cache):
            copies.altered.append(image.original)
        elif copies.stands_for(image.original, content_sha, outlines_sha):
            file, pixels_sha = crop[0], crop_sha
    origin = "crop" if file else "export"
    # Letters, digits, '.', '_' and '-' alone, as in the names of crops.
    name = re.sub(r"[^A-Za-z0-9._-]", "_", image.original).lstrip(".")[:120] or "image"
    image_id = f"{name}-{pixels_sha[:8]}"
    n_craters, crater_fraction = None, None
    masks: dict[Path, bytes] = {}
    if image.outlines is not None and outlines_sha is not None:
        size = height, width
        n_craters, crater_fraction, masks = _masks(reading, image_id, image.outlines, outlines_sha, size)
        if image.outlines and not n_craters:
            raise DamagedFileError(f"none of its {len(image.outlines)} outlines covers a pixel: outline the craters")
    if file is None:
        file = lake.label_images / f"{image_id}{Path(image.entry).suffix.lower()}"
        if not file.exists():
            write_bytes(file, content)
    observation = observation_of(image.original)
    row = {
        "image_id": image_id,
        "project": export.project,
        "split": image.split,
        "exported_split": image.split,
        "observation": observation,
        "group": observation or picture_of(image.original),
        "original": image.original,
        "origin": origin,
        "file": lake.relative(file),
        "height": height,
        "width": width,
        "label": image.label,
        "n_craters": n_craters,
        "crater_fraction": crater_fraction,
        "labels_sha": fingerprint(image.label, image.outlines),
        "outlines_sha": outlines_sha,
        "pixels_sha": pixels_sha,
        "phash": phash,
    }
    return row, masks


def _masks(
    reading: _Reading, image_id: str, outlines: Sequence[Outline], outlines_sha: str, size: tuple[int, int]
) -> tuple[int, float, dict[Path, bytes]]:
    """Draw an image's masks, unless they exist for the same outlines.

    Args:
        reading: has the previous table.
        image_id: the image's id.
        outlines: of the image's craters.
        outlines_sha: fingerprint of the outlines.
        size: height and width in pixels.

    Returns:
        The number of craters, the share of pixels inside craters, and the PNGs that must be written.
    """
    before = reading.previous.rows.get(image_id, {})
    paths = {kind: reading.lake.masks / kind / mask_name(image_id, outlines_sha) for kind in MASK_KINDS}
    if before.get("outlines_sha") == outlines_sha and all(
        png_text(path, _LABEL) == outlines_sha for path in paths.values()
    ):
        return int(before["n_craters"]), float(before["crater_fraction"]), {}
    instances = instance_masks(outlines, *size)
    labels = label_image(instances)
    drawn = {name: annotation_mask(instances, name) for name in ANNOTATIONS} | {"instances": labels}
    masks = {paths[name]: encode_png(mask, _LABEL, outlines_sha) for name, mask in drawn.items()}
    return int(labels.max()), float((labels > 0).mean()), masks


def _reaches_outside(image: ExportedImage) -> bool:
    """Test whether an outline extends more than a pixel beyond the image."""
    rings = [ring for outline in image.outlines or () for ring in outline.get("polygons", ())]
    if image.size is None or not rings:
        return False
    points = np.concatenate(rings).reshape(-1, 2)
    return bool(((points < -1) | (points > np.array(image.size[::-1]) + 1)).any())


def _report(
    exports: Sequence[Export],
    inputs: Mapping[str, list[Any]],
    table: pd.DataFrame,
    before: Mapping[str, str],
    conflicts: list[str],
) -> LabelReport:
    now = dict(zip(table["image_id"], table["labels_sha"], strict=True))
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
        version=label_version([export.sha256 for export in exports], inputs["class_names"]),
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
        counts=as_rows(counts),
        new=len(now.keys() - before.keys()),
        changed=sum(now[key] != before[key] for key in now.keys() & before.keys()),
        removed=len(before.keys() - now.keys()),
        leaks=divided_groups(table),
        leaked=int(((table["exported_split"] != "train") & table["group"].isin(trained)).sum()),
        conflicts=conflicts,
        duplicates=as_rows(near_duplicates(table)),
        outside=[
            f"{export.project}: {image.original}"
            for export in exports
            for image in export.images
            if _reaches_outside(image)
        ],
        left_out=[f"{export.project}: {image}" for export in exports for image in export.left_out],
        unknown_classes=[
            {"project": export.project, "class": name, "images": images}
            for export in exports
            for name, images in export.unknown.items()
        ],
        rejected=[{"zip": name, "why": reason} for name, reason in inputs["rejected"]],
        left_alone=inputs["left_alone"],
        unused=inputs["unused"],
        passed_over=inputs["passed_over"],
    )
