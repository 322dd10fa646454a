import io
import json
import os
import shutil
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mars_assets.datasets import segmentation_dataset
from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.labels import appearance as looks
from mars_assets.labels import build as table_module
from mars_assets.labels.build import LabelReport, build_labelled_crops, update_labelled_crops
from mars_assets.labels.checks import (
    contradicted_images,
    leaking_groups,
    mask_problems,
    schema_problems,
    straddling_duplicates,
    unusable_images,
    unused_observation_ids,
)
from mars_assets.labels.inbox import reject
from mars_assets.labels.splits import whole_groups
from mars_assets.labels.table import current_label_version, files_of, mask_path, read_labelled_crops
from mars_assets.lake import CROPS, Lake
from mars_assets.storage.files import read_provenance, write_table
from mars_assets.storage.named_files import KEPT_SECONDS
from mars_assets.tensors.stages import make_imputed, make_reflectance
from mars_assets_tests.labels.conftest import SQUARE, coco, image_bytes


@pytest.mark.slow
def test_real_exports_end_up_in_the_table(shared: Path, lake: Lake) -> None:
    lake.inbox.mkdir(parents=True)
    for name in ("craters.v1.coco-segmentation.zip", "crater-tiles.v1.folder.zip"):
        shutil.copy(shared / "data/exports" / name, lake.inbox)
    table, report = build_labelled_crops(lake)
    outlined, classified = table[table["n_craters"].notna()], table[table["label"].notna()]
    assert outlined["split"].value_counts().to_dict() == {"train": 121, "valid": 24}
    assert classified["split"].value_counts().to_dict() == {"train": 526, "valid": 110}
    assert report.new == len(table) == 145 + 636
    assert not report.conflicts
    assert classified["observation"].str.match(r"^(ESP|PSP|TRA)_\d{6}_\d{4}$").all()
    assert schema_problems(lake) == ([], 781)
    assert mask_problems(lake) == ([], 145)
    assert leaking_groups(lake)[0] == []

    again, second = build_labelled_crops(lake)
    assert (second.new, second.changed, second.removed) == (0, 0, 0)
    assert again.equals(table)

    shutil.copy(shared / "data/exports/craters.v2.coco-segmentation.zip", lake.inbox)
    newer, third = build_labelled_crops(lake)
    assert (third.new, third.removed) == (30, 0)
    assert third.version != report.version == second.version
    assert newer["n_craters"].notna().sum() == 175


def test_masks_are_drawn(filled: Lake) -> None:
    table = read_labelled_crops(filled).set_index("original")
    mask = np.asarray(Image.open(mask_path(filled, "filled", table.loc["train0"])))
    assert mask[8:24, 8:24].all()
    assert mask.sum() == 16 * 16
    assert table.at["train1", "n_craters"] == 0
    assert table.at["train0", "crater_fraction"] == pytest.approx(256 / 48**2)


def test_labels_and_imagery_may_lie_on_another_disk(lake: Lake, tmp_path: Path, write_zip, coco_entries) -> None:
    for folder in (lake.labels, lake.all_crops.parent):
        (tmp_path / "disk" / folder.name).mkdir(parents=True)
        lake.root.mkdir(exist_ok=True)
        folder.symlink_to(tmp_path / "disk" / folder.name)
    crop = pd.DataFrame([{"crop_id": "train0", "observation": "o", "height": 48, "width": 48, "kept": True}])
    write_table(lake.crops("o") / "crops.parquet", crop.assign(file="train0.png"))
    name = next(name for name in coco_entries if name.startswith("train/train0"))
    Image.open(io.BytesIO(coco_entries[name])).save(lake.crops("o") / "train0.png")
    lake.inbox.mkdir(parents=True)
    shutil.move(write_zip("c.v1.coco-segmentation.zip", coco_entries), lake.inbox)
    rows = build_labelled_crops(lake)[0].set_index("original")
    assert rows.at["train0", "file"] == "imagery/crops/o/train0.png"
    assert rows.at["train1", "file"].startswith("labels/images/train1-")
    assert schema_problems(lake) == mask_problems(lake) == ([], 3)


def test_empty_inbox_says_what_to_do(lake: Lake) -> None:
    with pytest.raises(MarsError, match="put the zip of a Roboflow export there"):
        build_labelled_crops(lake)


def test_a_corrected_label_is_a_change_and_its_mask_is_redrawn(filled: Lake, write_zip, coco_entries) -> None:
    key = "train/_annotations.coco.json"
    corrected = coco_entries | {key: str(coco_entries[key]).replace("24.0", "40.0")}
    shutil.move(write_zip("c.v2.coco-segmentation.zip", corrected), filled.inbox)
    table, report = build_labelled_crops(filled)
    assert (report.new, report.changed, report.removed) == (0, 1, 0)
    row = table.set_index("original").loc["train0"]
    assert np.asarray(Image.open(mask_path(filled, "filled", row))).sum() == 32 * 32


def _correct(lake: Lake, write_zip, coco_entries, name: str, corner: str = "40.0") -> None:
    key = "train/_annotations.coco.json"
    entries = coco_entries | {key: str(coco_entries[key]).replace("24.0", corner)}
    shutil.move(write_zip(name, entries), lake.inbox)


def _dataset(lake: Lake) -> pd.DataFrame:
    """What a training on the rims of 5 pixels is given now."""
    make_reflectance(lake, read_labelled_crops(lake), current_label_version(lake))
    make_imputed(lake, "post_norm")
    return segmentation_dataset(lake, "outline_5").images


def test_a_corrected_label_leaves_the_masks_that_a_training_reads(filled: Lake, write_zip, coco_entries) -> None:
    before = {path: path.read_bytes() for path in filled.masks.rglob("*.png")}
    for path in before:
        os.utime(path, (0, 0))  # drawn long ago
    training = _dataset(filled)
    assert set(map(Path, [*training["mask"], *training["instances"]])) < set(before)
    _correct(filled, write_zip, coco_entries, "c.v2.coco-segmentation.zip")
    build_labelled_crops(filled)
    assert {path: path.read_bytes() for path in before} == before
    later = _dataset(filled)
    assert (later["mask"] != training["mask"]).tolist() == (later["instances"] != training["instances"]).tolist()
    assert (later["mask"] != training["mask"]).sum() == 1
    assert all(Path(path).exists() for path in [*later["mask"], *later["instances"]])
    assert len(list(filled.masks.rglob("*.png"))) == len(before) + 4
    assert mask_problems(filled) == ([], 3)


def test_masks_that_no_table_names_go_after_a_while(filled: Lake, write_zip, coco_entries) -> None:
    old = mask_path(filled, "filled", read_labelled_crops(filled).set_index("original").loc["train0"])
    _correct(filled, write_zip, coco_entries, "c.v2.coco-segmentation.zip")
    build_labelled_crops(filled)
    os.utime(old, (0, time.time() - 2 * KEPT_SECONDS))
    _correct(filled, write_zip, coco_entries, "c.v3.coco-segmentation.zip", "36.0")
    build_labelled_crops(filled)
    assert not old.exists()
    assert len(list((filled.masks / "filled").iterdir())) == 4, "three in use, and that of version 2 for a while"


def test_a_run_killed_before_the_table_leaves_its_masks_as_they_were(
    filled: Lake, write_zip, coco_entries, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = read_labelled_crops(filled).set_index("original").loc["train0"]
    _correct(filled, write_zip, coco_entries, "c.v2.coco-segmentation.zip")

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(table_module, "write_checked", killed)
        with pytest.raises(KeyboardInterrupt):
            build_labelled_crops(filled)
    assert read_labelled_crops(filled).set_index("original").loc["train0"].equals(row)
    assert np.asarray(Image.open(mask_path(filled, "filled", row))).sum() == 16 * 16


def test_a_table_from_before_masks_had_the_name_of_their_outlines(filled: Lake) -> None:
    table, _ = build_labelled_crops(filled)
    provenance = read_provenance(filled.labelled_crops)
    for path in filled.masks.rglob("*.png"):
        path.rename(path.with_name(path.stem.rpartition("-")[0] + ".png"))
    write_table(filled.labelled_crops, table.drop(columns="outlines_sha"), provenance | {"computation": "labels 1"})
    assert mask_problems(filled) == ([], 3)
    assert all(path.exists() for path in files_of(filled, read_labelled_crops(filled)))

    again, report = build_labelled_crops(filled)
    pd.testing.assert_frame_equal(again, table)
    assert (report.new, report.changed, report.removed) == (0, 0, 0)
    assert mask_problems(filled) == ([], 3)
    assert len(list((filled.masks / "filled").iterdir())) == 6, "the old ones, for a while"


def test_a_crater_that_fills_its_image_has_no_rim_and_that_is_right(lake: Lake, write_zip, coco_entries) -> None:
    lake.inbox.mkdir(parents=True)
    key = "train/_annotations.coco.json"
    whole = [0, 0, 24, 0, 48, 0, 48, 48, 0, 48]
    assert str(SQUARE) in str(coco_entries[key])
    entries = coco_entries | {key: str(coco_entries[key]).replace(str(SQUARE), str(whole))}
    shutil.move(write_zip("c.v1.coco-segmentation.zip", entries), lake.inbox)
    row = build_labelled_crops(lake)[0].set_index("original").loc["train0"]
    assert not np.asarray(Image.open(mask_path(lake, "outline_15", row))).any()
    assert mask_problems(lake) == ([], 3)


@pytest.mark.parametrize(
    ("kind", "original", "mask", "message"),
    [
        ("filled", "train0", np.zeros((48, 48), np.uint8), "(filled) is empty although the image has 1 craters"),
        ("instances", "train0", np.zeros((48, 48), np.uint16), "(instances) has 0 of 1 craters"),
        (
            "outline_5",
            "train1",
            np.eye(48, dtype=np.uint8),
            "(outline_5) is not empty although the image has no crater",
        ),
        ("filled", "train0", np.full((48, 48), 255, np.uint8), "is not a mask of 48 x 48 pixels with values 0 and 1"),
        ("outline_15", "train0", np.zeros((48, 40), np.uint8), "is not a mask of 48 x 48 pixels"),
        ("filled", "train0", None, "(filled) is missing"),
    ],
)
def test_damaged_masks_are_found(filled: Lake, kind: str, original: str, mask: np.ndarray | None, message: str) -> None:
    path = mask_path(filled, kind, read_labelled_crops(filled).set_index("original", drop=False).loc[original])
    path.unlink()
    if mask is not None:
        Image.fromarray(mask).save(path)
    problems, _ = mask_problems(filled)
    assert len(problems) == 1
    assert message in problems[0]


def test_masks_drawn_last_and_a_sample_of_the_others_are_read(filled: Lake) -> None:
    rows = read_labelled_crops(filled).set_index("original")
    for age, original in enumerate(("valid0", "train0", "train1")):  # the last one is the oldest
        path = mask_path(filled, "filled", rows.loc[original])
        path.write_bytes(b"no PNG")
        os.utime(path, (0, 1e9 - age))

    def found(newest: int, others: int) -> tuple[list[bool], int]:
        problems, count = mask_problems(filled, newest, others)
        return [any(name in problem for problem in problems) for name in ("valid0", "train0", "train1")], count

    assert found(1, 0) == ([True, False, False], 1)
    assert found(1, 1) == ([True, False, True], 2)
    assert found(2, 5) == ([True, True, True], 3)


def test_masks_of_an_export_that_is_put_aside_take_no_effect(filled: Lake, write_zip, coco_entries) -> None:
    """Its first image has another label, a later one is damaged: by then nothing may have been written."""
    before, _ = build_labelled_crops(filled)
    masks = {path: path.read_bytes() for path in (filled.labels / "masks").rglob("*.png")}
    key = "train/_annotations.coco.json"
    entries = coco_entries | {key: str(coco_entries[key]).replace("24.0", "40.0")}
    path = write_zip("c.v2.coco-segmentation.zip", entries)
    damaged = next(name for name in coco_entries if name.startswith("valid/") and name.endswith(".jpg"))
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo(damaged).header_offset + 200
    content = bytearray(path.read_bytes())
    content[place] ^= 255
    path.write_bytes(content)
    shutil.move(path, filled.inbox)
    table, report = build_labelled_crops(filled)
    assert [row["zip"] for row in report.rejected] == ["c.v2.coco-segmentation.zip"]
    pd.testing.assert_frame_equal(table, before)
    assert {path: path.read_bytes() for path in masks} == masks


def test_a_mask_of_another_label_is_drawn_again(filled: Lake) -> None:
    """As a run leaves it that was killed before it wrote the table."""
    table, _ = build_labelled_crops(filled)
    path = mask_path(filled, "outline_5", table.set_index("original").loc["train0"])
    content = path.read_bytes()
    Image.fromarray(np.zeros((48, 48), np.uint8)).save(path)
    build_labelled_crops(filled)
    assert path.read_bytes() == content


def test_a_damaged_or_incomplete_table_is_made_again(filled: Lake) -> None:
    table, _ = build_labelled_crops(filled)
    write_table(filled.labelled_crops, pd.DataFrame({"image_id": ["a"]}), {"label_version": "x"})
    pd.testing.assert_frame_equal(build_labelled_crops(filled)[0], table)
    filled.labelled_crops.write_bytes(b"no table")
    pd.testing.assert_frame_equal(build_labelled_crops(filled)[0], table)


def test_an_image_of_another_size_than_its_annotation_is_left_out(lake: Lake, write_zip, coco_entries) -> None:
    lake.inbox.mkdir(parents=True)
    key = "train/_annotations.coco.json"
    entries = coco_entries | {key: str(coco_entries[key]).replace('"height": 48', '"height": 47', 1)}
    shutil.move(write_zip("c.zip", entries), lake.inbox)
    table, report = build_labelled_crops(lake)
    assert sorted(table["original"]) == ["train1", "valid0"]
    assert len(report.left_out) == 1
    assert "c: train/train0_png" in report.left_out[0]
    assert "it is 48 x 48 pixels and its annotations are for 48 x 47" in report.left_out[0]
    assert unusable_images(lake) == ([f"left out, {report.left_out[0]}"], 3)


@pytest.mark.parametrize(
    ("outlines", "reason"),
    [
        ([[5, 5, 5, 5, 5, 5]], "none of its 1 outlines covers a pixel"),
        ([[60, 60, 70, 60, 65, 70]], "none of its 1 outlines covers a pixel"),
        ({"size": [48, 40], "counts": [1920]}, "a run-length mask"),
        ({"size": [48, 48], "counts": "\u00e9"}, "a run-length mask has invalid characters"),
    ],
)
def test_an_outline_that_cannot_be_drawn_costs_its_image(
    lake: Lake, write_zip, coco_entries, outlines: Any, reason: str
) -> None:
    """Without it, its image would be a negative."""
    lake.inbox.mkdir(parents=True)
    key = "train/_annotations.coco.json"
    entries = coco_entries | {key: str(coco_entries[key]).replace(str([SQUARE]), json.dumps(outlines))}
    shutil.move(write_zip("c.zip", entries), lake.inbox)
    table, report = build_labelled_crops(lake)
    assert sorted(table["original"]) == ["train1", "valid0"]
    (said,) = report.left_out
    assert said.startswith("c: train/train0_png")
    assert reason in said
    assert not list(lake.label_images.glob("train0*"))


def test_outlines_that_do_not_count_are_said(lake: Lake, write_zip) -> None:
    """Also if nothing is drawn again."""
    small = [[10, 10, 16, 10, 24, 10, 24, 24, 10, 24], [5, 5, 5, 5, 5, 5], [10, 10, 24, 10, 24, 20, 24, 24, 10, 24]]
    _put(lake, write_zip, "c.v1.coco.zip", _outlined({"a.jpg": (_scene(1), [SQUARE, *small])}))
    for _ in range(2):
        table, report = build_labelled_crops(lake)
        assert table["n_craters"].tolist() == [2]
        assert "do not count: train/a.jpg (2)" in report.exports[0]["warnings"]


def test_two_projects_may_add_to_each_other_but_not_contradict(lake: Lake, write_zip, coco_entries) -> None:
    lake.inbox.mkdir(parents=True)
    shutil.move(write_zip("outlines.v1.coco-segmentation.zip", coco_entries), lake.inbox)
    images = {name.split("/")[1]: content for name, content in coco_entries.items() if name.endswith(".jpg")}
    train0, train1, valid0 = sorted(images)
    classes = {
        f"train/Crater/{train0}": images[train0],
        f"train/NoCrater/{train1}": images[train1],
        f"train/Crater/{valid0}": images[valid0],  # the other project has it in valid
    }
    shutil.move(write_zip("classes.v1.folder.zip", classes), lake.inbox)
    rows = build_labelled_crops(lake)[0].set_index("original")
    assert rows.at["train0", "label"] == "crater"
    assert rows.at["train0", "n_craters"] == 1
    assert rows.at["train1", "label"] == "no_crater"
    assert rows.at["valid0", "split"] == "valid"  # what one project judges on, no model is trained on

    contradicting = {f"train/NoCrater/{train0}": images[train0]}
    shutil.move(write_zip("others.v1.folder.zip", contradicting), lake.inbox)
    table, report = build_labelled_crops(lake)
    assert "train0" not in set(table["original"])
    assert len(report.conflicts) == 1
    assert "label crater (classes) or no_crater (others)" in report.conflicts[0]


ROWS = st.lists(
    st.tuples(st.integers(0, 12), st.sampled_from(["train", "valid", "test"]), st.sampled_from(["class", "outline"])),
    min_size=1,
    max_size=80,
)


def _labels(rows: list[tuple[int, str, str]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["group", "exported_split", "task"])
    table["group"] = "ESP_" + table["group"].astype(str)
    table["label"] = np.where(table["task"] == "class", "crater", None)
    table["n_craters"] = np.where(table["task"] == "outline", 1.0, np.nan)
    return table


@pytest.mark.slow
@settings(deadline=None)
@given(ROWS)
def test_no_group_is_divided_and_whole_ones_stay(rows: list[tuple[int, str, str]]) -> None:
    table = _labels(rows)
    table["split"] = whole_groups(table)
    assert (table.groupby("group")["split"].nunique() == 1).all()
    for _, group in table.groupby("group"):
        assert set(group["split"]) <= set(group["exported_split"])
    shuffled = table.sample(frac=1, random_state=0)
    assert whole_groups(shuffled).sort_index().equals(table["split"])


@pytest.mark.slow
@settings(deadline=None)
@given(st.integers(2, 6), st.integers(2, 6), st.integers(0, 99))
def test_no_task_loses_its_training_or_validation(classified: int, outlined: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = []
    for task, first, count in (("class", 0, classified), ("outline", 20, outlined)):
        for group in range(first, first + count):
            rows += [
                (group, split, task)
                for split in ["train"] * int(rng.integers(2, 40)) + ["valid"] * int(rng.integers(1, 9))
            ]
    table = _labels(rows)
    table["split"] = whole_groups(table)
    for task in ("class", "outline"):
        assert set(table.loc[table["task"] == task, "split"]) == {"train", "valid"}


def test_a_split_image_by_image_becomes_one_by_observation_and_new_observations_move_no_old_ones() -> None:
    rng = np.random.default_rng(0)
    rows = [
        (int(rng.integers(0, 300)), str(rng.choice(["train", "valid", "test"], p=[0.7, 0.2, 0.1])), "class")
        for _ in range(3000)
    ]
    table = _labels(rows)
    splits = whole_groups(table)
    shares = splits.value_counts(normalize=True)
    assert abs(shares["train"] - 0.7) < 0.08
    assert abs(shares["valid"] - 0.2) < 0.08
    more = whole_groups(_labels([*rows, *((400 + n // 30, ("train", "valid")[n % 2], "class") for n in range(300))]))
    assert more.iloc[: len(rows)].equals(splits)


def test_what_the_exports_split_would_have_leaked_is_reported(lake: Lake, write_zip, coco_entries) -> None:
    renamed = {
        name.replace("train0", "ESP_011472_1225_a").replace("valid0", "ESP_011472_1225_b"): (
            content.replace("train0", "ESP_011472_1225_a").replace("valid0", "ESP_011472_1225_b")
            if isinstance(content, str)
            else content
        )
        for name, content in coco_entries.items()
    }
    lake.inbox.mkdir(parents=True)
    shutil.move(write_zip("c.v1.coco-segmentation.zip", renamed), lake.inbox)
    table, report = build_labelled_crops(lake)
    of_group = table[table["group"] == "ESP_011472_1225"]
    assert set(of_group["exported_split"]) == {"train", "valid"}
    assert of_group["split"].nunique() == 1
    assert report.leaked == 1
    assert [(leak["group"], leak["images"]) for leak in report.leaks] == [("ESP_011472_1225", 2)]
    assert len(leaking_groups(lake)[0]) == 1


def test_the_same_picture_under_two_names_is_reported(lake: Lake, write_zip, coco_entries) -> None:
    lake.inbox.mkdir(parents=True)
    buffer = io.BytesIO()
    coarse = np.random.default_rng(4).integers(0, 256, (10, 10), dtype=np.uint8)
    Image.fromarray(coarse).resize((48, 48), Image.Resampling.BICUBIC).save(buffer, "PNG")
    classes = {"train/Crater/one.png": buffer.getvalue(), "valid/NoCrater/two.png": buffer.getvalue()}
    shutil.move(write_zip("classes.v1.folder.zip", classes), lake.inbox)
    _, report = build_labelled_crops(lake)
    (pair,) = report.duplicates
    assert (pair["image_a"][:3], pair["image_b"][:3], pair["split_a"], pair["split_b"]) == (
        "one",
        "two",
        "train",
        "valid",
    )
    problems, count = straddling_duplicates(lake)
    assert count == 2
    assert "looks like" in problems[0]


def test_outlines_that_leave_their_image_are_said(lake: Lake, write_zip, coco_entries) -> None:
    lake.inbox.mkdir(parents=True)
    key = "train/_annotations.coco.json"
    entries = coco_entries | {key: str(coco_entries[key]).replace("24.0", "60.0")}
    shutil.move(write_zip("c.zip", entries), lake.inbox)
    assert build_labelled_crops(lake)[1].outside == ["c: train0"]


OBSERVATION = "ESP_011472_1225"


def _scene(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12), dtype=np.uint8)
    return Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC).convert("RGB")


def _cut(lake: Lake, *names: str) -> dict[str, Image.Image]:
    """Crops as the lake cuts them."""
    folder = lake.crops(OBSERVATION)
    folder.mkdir(parents=True)
    scenes = {f"{OBSERVATION}_{name}": _scene(number) for number, name in enumerate(names)}
    for name, scene in scenes.items():
        scene.save(folder / f"{name}.png")
    rows = [
        {"crop_id": name, "observation": OBSERVATION, "file": f"{name}.png", "kept": True, "height": 96, "width": 96}
        for name in scenes
    ]
    write_table(folder / CROPS, pd.DataFrame(rows), {})
    return scenes


def _jpeg(image: Image.Image, quality: int = 75) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _outlined(images: dict[str, tuple[Image.Image, list[list[float]]]], split: str = "train") -> dict:
    """A COCO export of pictures with their outlines."""
    entries: dict[str, bytes | str] = {f"{split}/{name}": _jpeg(image) for name, (image, _) in images.items()}
    rows = [{"id": n, "file_name": name, "height": 96, "width": 96} for n, name in enumerate(images)]
    outlines = [
        {"id": 0, "image_id": n, "category_id": 1, "segmentation": [ring]}
        for n, (_, rings) in enumerate(images.values())
        for ring in rings
    ]
    return entries | {f"{split}/_annotations.coco.json": coco(rows, outlines)}


def _put(lake: Lake, write_zip, name: str, entries: dict) -> None:
    lake.inbox.mkdir(parents=True, exist_ok=True)
    shutil.move(write_zip(name, entries), lake.inbox)


CHANGES = {
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "turned": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "upside down": lambda image: image.transpose(Image.Transpose.ROTATE_180),
    "cut": lambda image: image.crop((20, 10, 96, 86)).resize((96, 96)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_outlines_of_a_crop_that_was_turned_or_cut_stay_on_the_exports_image(
    lake: Lake, write_zip, change: str
) -> None:
    scenes = _cut(lake, "a", "b")
    (a, scene), (b, other) = scenes.items()
    images = {f"{a}_png.rf.1.jpg": (CHANGES[change](scene), [SQUARE]), f"{b}_png.rf.2.jpg": (other, [SQUARE])}
    _put(lake, write_zip, "c.v1i.coco.zip", _outlined(images))
    table, report = build_labelled_crops(lake)
    rows = table.set_index("original")
    assert rows.at[a, "origin"] == "export"
    assert rows.at[b, "origin"] == "crop"
    assert lake.inside(rows.at[a, "file"]).read_bytes() == _jpeg(CHANGES[change](scene))
    assert "1 images are named after crops of this lake but differ from them" in report.exports[0]["warnings"]
    assert a in report.exports[0]["warnings"]


@pytest.mark.parametrize(
    "same",
    [lambda image: image, lambda image: image.point(lambda value: int(value * 0.7 + 20)), lambda i: i.convert("L")],
    ids=["compressed", "darker", "grey"],
)
def test_a_crop_that_was_only_compressed_or_lit_otherwise_is_the_lakes_own(lake: Lake, write_zip, same) -> None:
    ((name, scene),) = _cut(lake, "a").items()
    _put(lake, write_zip, "c.v1i.coco.zip", _outlined({f"{name}_png.rf.1.jpg": (same(scene), [SQUARE])}))
    table, report = build_labelled_crops(lake)
    assert table["origin"].tolist() == ["crop"]
    assert not report.exports[0]["warnings"]


def test_augmented_copies_do_not_make_their_original_vanish(lake: Lake, write_zip) -> None:
    ((name, scene),) = _cut(lake, "a").items()
    shifted = [value + 1 for value in SQUARE]
    images = {
        f"{name}_png.rf.1.jpg": (scene, [SQUARE]),
        f"{name}_png.rf.2.jpg": (scene.point(lambda value: int(value * 0.8)), [shifted]),
        f"{name}_png.rf.3.jpg": (CHANGES["mirrored"](scene), [SQUARE]),
    }
    _put(lake, write_zip, "c.v1i.coco.zip", _outlined(images))
    table, report = build_labelled_crops(lake)
    assert sorted(table["origin"]) == ["crop", "export", "export"]
    assert table["split"].nunique() == table["group"].nunique() == 1
    assert not report.conflicts
    warnings = report.exports[0]["warnings"]
    assert "1 images are named after crops of this lake but differ from them" in warnings
    assert "1 images are further copies of a crop with different outlines" in warnings
    assert mask_problems(lake) == ([], 3)


def test_projects_that_say_the_same_do_not_contradict_each_other(lake: Lake, write_zip) -> None:
    """Whatever a third one adds, and in whatever order they are read."""
    one, two = (
        {"x_png.rf.1.jpg": (_scene(1), [SQUARE])},
        {"x_png.rf.1.jpg": (_scene(1), [SQUARE, [value + 20 for value in SQUARE]])},
    )
    classes = {"train/Crater/x_png.rf.1.jpg": _jpeg(_scene(1))}
    for name, entries in (
        ("a.v1.folder", classes),
        ("b.v1.coco", _outlined(one)),
        ("c.v1.coco", _outlined(one, "test")),
    ):
        _put(lake, write_zip, f"{name}.zip", entries | {"README.dataset.txt": name})
    table, report = build_labelled_crops(lake)
    assert not report.conflicts
    (row,) = table.to_dict("records")
    assert (row["project"], row["label"], row["n_craters"], row["split"]) == ("a+b+c", "crater", 1, "test")
    _put(lake, write_zip, "more.v1.coco.zip", _outlined({"y_png.rf.1.jpg": (_scene(2), [])}))
    _put(lake, write_zip, "d.v1.coco.zip", _outlined(two))
    table, report = build_labelled_crops(lake)
    assert report.conflicts == ["x: n_craters 1 (b, c) or 2 (d), outlined differently"]
    assert table["original"].tolist() == ["y"]


@pytest.mark.parametrize(
    ("label", "rings", "said"),
    [
        ("NoCrater", [SQUARE], "x: label no_crater (a) and n_craters 1 (b)"),
        ("Crater", [], "x: label crater (a) and n_craters 0 (b)"),
    ],
)
def test_a_class_that_the_outlines_contradict_is_said(
    lake: Lake, write_zip, label: str, rings: list, said: str
) -> None:
    _put(lake, write_zip, "a.v1.folder.zip", {f"train/{label}/x.jpg": _jpeg(_scene(1))})
    _put(lake, write_zip, "b.v1.coco.zip", _outlined({"x.jpg": (_scene(1), rings)}))
    with pytest.raises(MarsError, match="projects contradict each other on every image: x: label"):
        build_labelled_crops(lake)
    _put(lake, write_zip, "c.v1.folder.zip", {"train/Crater/y.jpg": _jpeg(_scene(2))})
    assert build_labelled_crops(lake)[1].conflicts == [said]
    assert contradicted_images(lake) == ([f"left out, {said}"], 2)


def test_nothing_is_decoded_or_drawn_again(lake: Lake, write_zip, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither own crops, nor those that were turned, nor what two projects label together."""
    scenes = _cut(lake, "a", "b")
    (a, scene), (b, other) = scenes.items()
    names = [f"{a}_png.rf.1.jpg", f"{b}_png.rf.2.jpg", "x_png.rf.3.jpg"]
    pictures = [scene, CHANGES["turned"](other), _scene(5)]
    _put(lake, write_zip, "c.v1.coco.zip", _outlined({n: (p, [SQUARE]) for n, p in zip(names, pictures, strict=True)}))
    classes = {f"train/Crater/{n}": _jpeg(p, 60) for n, p in zip(names[:2], pictures, strict=False)}
    _put(lake, write_zip, "k.v1.folder.zip", classes | {f"train/Crater/{names[2]}": _jpeg(pictures[2])})
    before, _ = build_labelled_crops(lake)
    assert set(before["project"]) == {"c", "k", "c+k"}

    def refuse(*_: object) -> None:
        raise AssertionError("again")

    monkeypatch.setattr(looks, "_looked_at", refuse)
    monkeypatch.setattr(looks, "_shows_the_same", refuse)
    monkeypatch.setattr(table_module, "instance_masks", refuse)
    pd.testing.assert_frame_equal(build_labelled_crops(lake)[0], before)
    monkeypatch.undo()
    lake.cache("appearance").write_bytes(b"damaged")
    pd.testing.assert_frame_equal(build_labelled_crops(lake)[0], before)


def test_an_export_of_images_of_more_than_8_bits_alone_is_put_aside(lake: Lake, write_zip) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 2**16, (96, 96), dtype=np.uint16)).save(buffer, "PNG")
    _put(lake, write_zip, "k.v1.folder.zip", {"train/Crater/x.png": buffer.getvalue()})
    with pytest.raises(
        MarsError, match=r"Rejected: k\.v1\.folder\.zip: .*train/Crater/x\.png: it has more than 8 bits"
    ):
        build_labelled_crops(lake)


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[LabelReport]:
    """The reports of what :func:`update_labelled_crops` built."""
    reports: list[LabelReport] = []
    real = table_module._build

    def counted(*arguments: Any) -> tuple[pd.DataFrame, LabelReport]:
        rows, report = real(*arguments)
        reports.append(report)
        return rows, report

    monkeypatch.setattr(table_module, "_build", counted)
    return reports


@pytest.mark.slow
def test_a_table_that_is_up_to_date_is_not_built_and_its_report_stays(
    shared: Path, lake: Lake, builds: list[LabelReport]
) -> None:
    lake.inbox.mkdir(parents=True)
    shutil.copy(shared / "data/exports/craters.v1.coco-segmentation.zip", lake.inbox)
    (lake.inbox / "broken.v1.folder.zip").write_bytes(b"PK, but not for long")
    os.utime(lake.inbox / "broken.v1.folder.zip", (0, 1e9))
    table, report = update_labelled_crops(lake)
    assert report.new == len(table) == 145
    assert len(report.rejected) == 1
    before = lake.labelled_crops.stat().st_ino
    again, second = update_labelled_crops(lake)
    pd.testing.assert_frame_equal(again, table)
    assert second == replace(report, new=0)
    assert len(builds) == 1
    assert lake.labelled_crops.stat().st_ino == before


CHANGED: dict[str, Callable[[Lake], object]] = {
    "an export": lambda lake: next(lake.inbox.glob("c.v1*")).rename(lake.inbox / "d.v1.coco-segmentation.zip"),
    "a zip that is being copied": lambda lake: (lake.inbox / "e.v1.folder.zip").write_bytes(b"PK"),
    "a rejection": lambda lake: reject(
        shutil.copy(next(lake.inbox.glob("c.v1*")), lake.inbox / "f.v1.zip"), DamagedFileError("no")
    ),
    "a crop": lambda lake: os.utime(next(lake.crops(OBSERVATION).glob("*.png"))),
    "a mask": lambda lake: next(lake.masks.glob("outline_5/*")).unlink(),
    "an image": lambda lake: next((lake.labels / "images").iterdir()).unlink(),
    "the table": lambda lake: lake.labelled_crops.write_bytes(b"no table"),
    "the way of computing": lambda lake: write_table(
        lake.labelled_crops,
        read_labelled_crops(lake),
        {**read_provenance(lake.labelled_crops), "built_from": "what an earlier version was built from"},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGED)
def test_a_changed_input_or_a_missing_file_is_built_again(filled: Lake, builds: list[LabelReport], change: str) -> None:
    _cut(filled, "a")
    table, _ = update_labelled_crops(filled)
    CHANGED[change](filled)
    builds.clear()
    for _ in range(2):
        again, _ = update_labelled_crops(filled)
    assert len(builds) == 1
    assert set(again["image_id"]) == set(table["image_id"])
    assert mask_problems(filled) == ([], 3)


def _copies(lake: Lake, write_zip, names: dict[str, list[str]]) -> tuple[pd.DataFrame, LabelReport]:
    """Build the table of a classification export with these names, by split."""
    entries = {
        f"{split}/{('Crater', 'NoCrater')[n % 2]}/{name}": image_bytes(seed)
        for seed, (split, n, name) in enumerate(
            (split, n, name) for split, of_split in names.items() for n, name in enumerate(of_split)
        )
    }
    lake.inbox.mkdir(parents=True)
    shutil.move(write_zip("c.v1.folder.zip", entries), lake.inbox)
    return build_labelled_crops(lake)


@pytest.mark.parametrize("suffix", ["_JPEG", "_Png", "_heif", "_AVIF", "_gif", "_xyz", ""])
def test_copies_of_one_upload_are_one_group_whatever_its_suffix(lake: Lake, write_zip, suffix: str) -> None:
    uploads = [f"{upload}{suffix}.rf" for upload in ("north_rim", "south_rim", "floor_1", "floor_2")]
    names = {
        "train": [f"{upload}.{copy}a.jpg" for upload in uploads for copy in range(2)],
        "valid": [f"{upload}.{copy}b.jpg" for upload in uploads[:2] for copy in range(2)],
    }
    table, report = _copies(lake, write_zip, names)
    assert table.groupby("group").size().tolist() == [2, 2, 4, 4]
    assert table.groupby("group")["split"].nunique().tolist() == [1] * 4
    assert report.leaked == 4
    assert len(leaking_groups(lake)[0]) == 2


def test_a_copy_that_was_uploaded_again_belongs_to_its_picture(lake: Lake, write_zip) -> None:
    names = {
        "train": ["a_jpg.rf.1.jpg", "a_jpg.rf.2_jpg.rf.3.jpg", "b_png.rf.4.jpg"],
        "valid": ["a_PNG.rf.5_JPG.rf.6.jpg"],
    }
    table, report = _copies(lake, write_zip, names)
    assert table.groupby("group").size().to_dict() == {"a": 3, "b": 1}
    assert sorted(table["original"]) == ["a", "a_PNG.rf.5", "a_jpg.rf.2", "b"]
    assert report.leaked == 1


def test_observations_are_recognised_as_people_write_them(lake: Lake, write_zip) -> None:
    names = {
        "train": ["esp_011472_1225_red-0.jpg", "mars PSP-001333-2485 a.jpg", "marsESP_011472_1225.jpg"],
        "valid": ["Tile_ESP 011472 1225_1_JPG.rf.0a.jpg", "psp_001333_2485.jpg", "XPSP_001334_2485.jpg"],
    }
    table, report = _copies(lake, write_zip, names)
    assert table["observation"].value_counts().to_dict() == {"ESP_011472_1225": 2, "PSP_001333_2485": 2}
    assert report.leaked == 2
    problems, count = unused_observation_ids(lake)
    assert problems == [
        "XPSP_001334_2485: PSP_001334_2485 is not used as its observation",
        "marsESP_011472_1225: ESP_011472_1225 is not used as its observation",
    ]
    assert count == 6


@pytest.mark.parametrize("kind", ["D1_copies_HEIC", "D1_copies_JPG"])
def test_reported_copies_are_one_group(lake: Lake, shared: Path, kind: str) -> None:
    shutil.copytree(shared / "data/reported" / kind, lake.inbox)
    table, report = build_labelled_crops(lake)
    assert table.groupby("group").size().to_dict() == {"tile_alpha": 3, "tile_beta": 3}
    assert table.groupby("group")["split"].nunique().tolist() == [1, 1]
    assert report.leaked == 2


@pytest.mark.parametrize("kind", ["D2_obs_lower", "D2_obs_prefix"])
def test_reported_observations_are_recognised(lake: Lake, shared: Path, kind: str) -> None:
    shutil.copytree(shared / "data/reported" / kind, lake.inbox)
    table, report = build_labelled_crops(lake)
    assert set(table["observation"]) == set(table["group"]) == {"ESP_011425_1775"}
    assert table["split"].nunique() == 1
    assert report.leaked == 2
