"""Merging of the labels that several projects give to the same image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mars_assets.labels.formats.image import SPLITS
from mars_assets.storage.hashing import fingerprint


def merge_projects(rows: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Merge rows to one per image, and describe the conflicts.

    Projects may complement each other (one classifies, another outlines) or agree, but must not contradict.
    """
    images: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        images.setdefault(row["image_id"], []).append(row)
    merged, conflicts = [], []
    for same in images.values():
        contradiction = _contradiction(same)
        if contradiction:
            conflicts.append(f"{same[0]['original']}: {contradiction}")
        else:
            merged.append(_combined(same))
    return merged, sorted(conflicts)


def _contradiction(same: Sequence[Mapping[str, Any]]) -> str | None:
    """Describe how the rows of one image contradict each other; None if they do not."""
    labels = _sayings(same, "label")
    outlines = _sayings(same, "outlines_sha")
    counts = {row["outlines_sha"]: row["n_craters"] for row in same}
    if len(labels) > 1:
        return "label " + " or ".join(f"{label} ({by})" for label, by in labels.items())
    if len(outlines) > 1:
        said = [f"{counts[sha]} ({by})" for sha, by in outlines.items()]
        return f"n_craters {' or '.join(said)}, outlined differently"
    for label, classified_by in labels.items():
        for sha, outlined_by in outlines.items():
            if (label == "crater") != (counts[sha] > 0):
                return f"label {label} ({classified_by}) and n_craters {counts[sha]} ({outlined_by})"
    return None


def _sayings(same: Sequence[Mapping[str, Any]], column: str) -> dict[Any, str]:
    """Map each value in a column, other than None, to the projects that give it."""
    values = dict.fromkeys(row[column] for row in same if row[column] is not None)
    return {value: ", ".join(dict.fromkeys(row["project"] for row in same if row[column] == value)) for value in values}


def _combined(same: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Combine the consistent rows of one image."""
    row = {key: next((one[key] for one in same if one[key] is not None), None) for key in same[0]}
    row["project"] = "+".join(dict.fromkeys(one["project"] for one in same))
    # An image that any project evaluates on must not be trained on.
    row["exported_split"] = max((one["exported_split"] for one in same), key=SPLITS.index)
    if row["label"] is not None and row["outlines_sha"] is not None:
        row["labels_sha"] = fingerprint(fingerprint(row["label"], None), row["outlines_sha"])
    return row
