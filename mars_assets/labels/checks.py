"""What must hold of the table of labelled crops before anything is trained on it."""

from __future__ import annotations

import numpy as np

from mars_assets.labels.duplicates import near_duplicates
from mars_assets.labels.formats.image import SPLITS
from mars_assets.labels.masks import ANNOTATIONS
from mars_assets.labels.table import COLUMNS, mask_path, read_labelled_crops
from mars_assets.lake import Lake, read_provenance


def schema_problems(lake: Lake) -> tuple[list[str], int]:
    """What is wrong with the table itself, and how many rows there are."""
    rows = read_labelled_crops(lake)
    problems = [f"the column {column} is missing" for column in COLUMNS if column not in rows]
    if problems:
        return problems, len(rows)
    problems += [f"{image} occurs twice" for image in rows.loc[rows["image_id"].duplicated(), "image_id"]]
    problems += [f"unknown split {split!r}" for split in set(rows["split"]) - set(SPLITS)]
    problems += [f"unknown class {label!r}" for label in set(rows["label"].dropna()) - {"crater", "no_crater"}]
    unlabelled = rows["label"].isna() & rows["n_craters"].isna()
    problems += [f"{image} has neither a class nor outlines" for image in rows.loc[unlabelled, "image_id"]]
    problems += [f"{file} is missing" for file in rows["file"] if not lake.inside(file).exists()]
    for task, labelled in (("classified", rows["label"].notna()), ("outlined", rows["n_craters"].notna())):
        splits = set(rows.loc[labelled, "split"])
        problems += [f"no {task} image in {split}" for split in ("train", "valid") if splits and split not in splits]
    return problems, len(rows)


def mask_problems(lake: Lake) -> tuple[list[str], int]:
    """What is wrong with the masks, and how many images have some."""
    from PIL import Image, UnidentifiedImageError

    rows = read_labelled_crops(lake)
    rows = rows[rows["n_craters"].notna()]
    problems = []
    for row in rows.itertuples():
        for annotation in ANNOTATIONS:
            path = mask_path(lake, annotation, row.image_id)
            try:
                with Image.open(path) as file:
                    mask = np.asarray(file)
            except (FileNotFoundError, UnidentifiedImageError, OSError) as error:
                problems.append(f"{path.name} ({annotation}) cannot be read: {error}")
                continue
            if mask.shape != (row.height, row.width) or mask.max(initial=0) > 1:
                problems.append(
                    f"{path.name} ({annotation}) is no mask of {row.width} x {row.height} pixels with 0 and 1"
                )
            elif mask.any() != (row.n_craters > 0):
                problems.append(
                    f"{path.name} ({annotation}) is {'not ' if mask.any() else ''}empty for {row.n_craters} craters"
                )
    if len(rows) and not (rows["n_craters"] > 0).any():
        problems.append("not one outlined crater in any image")
    return problems, len(rows)


def contradicted_images(lake: Lake) -> tuple[list[str], int]:
    """Images that are left out because projects label them differently, and how many labelled images there are with them."""
    conflicts = list(read_provenance(lake.labelled_crops).get("conflicts", ()))
    return [f"left out, {conflict}" for conflict in conflicts], len(read_labelled_crops(lake)) + len(conflicts)


def leaking_groups(lake: Lake) -> tuple[list[str], int]:
    """Groups that the exports have in several splits, and how many groups there are."""
    labels = read_labelled_crops(lake)
    if "exported_split" not in labels:
        return ["the table was made before splits were by observation: make labelled_crops again"], len(labels)
    exported = labels.groupby("group")["exported_split"].unique()
    now = labels.groupby("group")["split"].first()
    return [
        f"{group}: exported in {', '.join(sorted(values))}, now all in {now[group]}"
        for group, values in exported.items()
        if len(values) > 1
    ], len(exported)


def straddling_duplicates(lake: Lake) -> tuple[list[str], int]:
    """Images that look the same and lie in two splits, and how many images there are."""
    labels = read_labelled_crops(lake)
    if "phash" not in labels:
        return ["the table was made before images were compared: make labelled_crops again"], len(labels)
    pairs = near_duplicates(labels)
    pairs = pairs[pairs["split_a"] != pairs["split_b"]]
    return [
        f"{row.image_a} ({row.split_a}) looks like {row.image_b} ({row.split_b})" for row in pairs.itertuples()
    ], len(labels)
