"""Exports as public bug reports have them: annotations, classes and tables."""

import shutil
from pathlib import Path

import pytest

from mars_assets.errors import MarsError
from mars_assets.labels.build import build_labelled_crops
from mars_assets.lake import Lake

WHOLE = {"train": 4, "valid": 2}
ONE_LESS = {"train": 3, "valid": 2}
"""Numbers of images in the splits."""


@pytest.fixture
def reported(shared: Path, lake: Lake, request: pytest.FixtureRequest) -> Lake:
    lake.inbox.mkdir(parents=True)
    for path in (shared / "data/reported" / request.param).iterdir():
        shutil.copy(path, lake.inbox)
    return lake


@pytest.mark.parametrize(
    ("reported", "images"),
    [
        *((name, WHOLE) for name in ("C3_flat_polygon", "C4_rle_float", "C7_string_ids", "C8_float_size")),
        *((name, WHOLE) for name in ("C11_duplicate_ann", "C16_file_name_dot", "C19_names_no", "C20_semicolon")),
        *((name, WHOLE) for name in ("C6_coco_class_impact", "C6_coco_class_trailing_space", "E1_half_typo_class")),
        *((name, ONE_LESS) for name in ("C1_one_box_only", "C2_two_points")),
        ("E2_good_and_bad_project", {"train": 8, "valid": 4}),
    ],
    indirect=["reported"],
)
def test_outlines(reported: Lake, images: dict[str, int]) -> None:
    table, report = build_labelled_crops(reported)
    assert table["split"].value_counts().to_dict() == images
    assert (table["n_craters"] == 1).all()
    assert report.unknown_classes == []
    assert len(report.left_out) == (images == ONE_LESS)
    assert all("train/ESP_020000_1755_RED-0000" in image for image in report.left_out)


@pytest.mark.parametrize(
    "reported",
    ["C6_folder_class_trailing_space", "C21_blank_tail", "C22_folder_neg_background"],
    indirect=True,
)
def test_classes(reported: Lake) -> None:
    table, report = build_labelled_crops(reported)
    counts = table.groupby("split")["label"].value_counts().to_dict()
    assert counts == {
        ("train", "crater"): 2,
        ("train", "no_crater"): 2,
        ("valid", "crater"): 1,
        ("valid", "no_crater"): 1,
    }
    assert report.unknown_classes == []


@pytest.mark.parametrize(
    ("reported", "message"),
    [
        ("C19_obb", "outlines have four corners, as boxes and oriented boxes have"),
        ("C19_same_stem", "share the label file"),
    ],
    indirect=["reported"],
)
def test_what_is_refused(reported: Lake, message: str) -> None:
    with pytest.raises(MarsError, match=message):
        build_labelled_crops(reported)
