"""Validation of the labelled crops before training."""

from __future__ import annotations

from typing import Any

import numpy as np

from mars_assets.errors import DamagedFileError
from mars_assets.imagery.products import unused_ids
from mars_assets.images import read_label_image
from mars_assets.labels.class_names import how_to_state
from mars_assets.labels.duplicates import near_duplicates
from mars_assets.labels.masks import MASK_KINDS
from mars_assets.labels.splits import divided_groups
from mars_assets.labels.table import ASSET, mask_path, read_labelled_crops
from mars_assets.lake import Lake
from mars_assets.storage.files import read_provenance, read_table
from mars_assets.storage.schema import violations


def schema_problems(lake: Lake) -> tuple[list[str], int]:
    """List problems of the table itself, and count its rows."""
    from mars_assets.labels.schema import LabelledCrops

    rows = read_table(lake.labelled_crops, ASSET)
    if problems := violations(rows, LabelledCrops):
        return problems, len(rows)
    unlabelled = rows["label"].isna() & rows["n_craters"].isna()
    problems = [f"{image} has neither a class nor outlines" for image in rows.loc[unlabelled, "image_id"]]
    problems += [f"{file} is missing" for file in rows["file"] if not lake.inside(file).exists()]
    for task, labelled in (("classified", rows["label"].notna()), ("outlined", rows["n_craters"].notna())):
        splits = set(rows.loc[labelled, "split"])
        problems += [f"no {task} image in {split}" for split in ("train", "valid") if splits and split not in splits]
    return problems, len(rows)


def mask_problems(lake: Lake, newest: int = 1000, others: int = 64) -> tuple[list[str], int]:
    """List problems of the masks.

    All masks must exist; the most recently drawn ones, and an even sample of the others, are read.

    Args:
        lake: the lake.
        newest: how many of the most recently drawn images are read.
        others: how many other images are sampled.

    Returns:
        The problems, and the number of images whose masks were read.
    """
    rows = read_labelled_crops(lake).dropna(subset="n_craters")
    problems, drawn = [], []
    there = {kind: {path.name: path.stat().st_mtime for path in lake.masks.glob(f"{kind}/*")} for kind in MASK_KINDS}
    for row in rows.itertuples():
        names = {kind: mask_path(lake, kind, row).name for kind in there}
        missing = [kind for kind, name in names.items() if name not in there[kind]]
        problems += [f"{names[kind]} ({kind}) is missing" for kind in missing]
        drawn.append(np.nan if missing else there["filled"][names["filled"]])
    whole = rows.assign(drawn=drawn).dropna(subset="drawn").sort_values("drawn", kind="stable")
    rest = max(0, len(whole) - newest)
    sample = np.unique(np.linspace(0, rest - 1, min(others, rest)).astype(int))
    read = whole.iloc[[*sample, *range(rest, len(whole))]]
    for row in read.itertuples():
        problems += [problem for kind in there if (problem := _problem_of_mask(lake, kind, row))]
    if len(rows) and not (rows["n_craters"] > 0).any():
        problems.append("no image has an outlined crater")
    return problems, len(read)


def _problem_of_mask(lake: Lake, kind: str, row: Any) -> str | None:
    path = mask_path(lake, kind, row)
    try:
        mask = read_label_image(path)
    except DamagedFileError as error:
        return f"{path.name} ({kind}) cannot be read: {error.__cause__}"
    highest = int(mask.max(initial=0))
    if mask.shape != (row.height, row.width) or (kind != "instances" and highest > 1):
        return f"{path.name} ({kind}) is not a mask of {row.width} x {row.height} pixels with values 0 and 1"
    if kind == "instances":
        return None if highest == row.n_craters else f"{path.name} ({kind}) has {highest} of {row.n_craters} craters"
    if highest and row.n_craters == 0:
        return f"{path.name} ({kind}) is not empty although the image has no crater"
    # A rim mask may be empty: a crater larger than the image has no rim in it.
    if not highest and row.n_craters > 0 and kind == "filled":
        return f"{path.name} ({kind}) is empty although the image has {row.n_craters} craters"
    return None


def contradicted_images(lake: Lake) -> tuple[list[str], int]:
    """List images left out because of contradictions, and count all images."""
    conflicts = list(read_provenance(lake.labelled_crops).get("conflicts", ()))
    return [f"left out, {conflict}" for conflict in conflicts], len(read_labelled_crops(lake)) + len(conflicts)


def unknown_classes(lake: Lake) -> tuple[list[str], int]:
    """List classes whose meaning is not known, and count the images of the table."""
    unknown = read_provenance(lake.labelled_crops).get("report", {}).get("unknown_classes", ())
    path = lake.class_names_csv
    problems = [how_to_state(path, row["project"], row["class"], row["images"]) for row in unknown]
    return problems, len(read_labelled_crops(lake))


def unusable_images(lake: Lake) -> tuple[list[str], int]:
    """List images that are left out for a fault or lack of labels; count all."""
    report = read_provenance(lake.labelled_crops).get("report", {})
    left_out = list(report.get("left_out", ()))
    return [f"left out, {image}" for image in left_out], len(read_labelled_crops(lake)) + len(left_out)


def leaking_groups(lake: Lake) -> tuple[list[str], int]:
    """List groups that were exported in several splits, and count all groups."""
    labels = read_labelled_crops(lake)
    if "exported_split" not in labels:
        return ["the table is from an earlier version of the code: materialize labelled_crops again"], len(labels)
    return [
        f"{leak['group']}: exported in {leak['exported']}, now all in {leak['now']}" for leak in divided_groups(labels)
    ], labels["group"].nunique()


def straddling_duplicates(lake: Lake) -> tuple[list[str], int]:
    """List images in different splits that look the same, and count all images."""
    labels = read_labelled_crops(lake)
    if "phash" not in labels:
        return ["the table is from an earlier version of the code: materialize labelled_crops again"], len(labels)
    pairs = near_duplicates(labels).query("split_a != split_b")
    return [
        f"{row.image_a} ({row.split_a}) looks like {row.image_b} ({row.split_b})" for row in pairs.itertuples()
    ], len(labels)


def unused_observation_ids(lake: Lake) -> tuple[list[str], int]:
    """List names with an observation id that is not used, and count all images."""
    names = read_labelled_crops(lake, ["original"])["original"]
    found = {name: ids for name in names if (ids := unused_ids(name))}
    problems = [f"{name}: {', '.join(ids)} is not used as its observation" for name, ids in sorted(found.items())]
    return problems, len(names)
