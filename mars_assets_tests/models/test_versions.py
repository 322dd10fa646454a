import shutil
from pathlib import Path

import pandas as pd
import pytest

from mars_assets.errors import MissingInputError
from mars_assets.lake import Lake
from mars_assets.models.seen import held_out
from mars_assets.models.starting_point import start_from_weights
from mars_assets.models.versions import (
    current_model,
    current_weights,
    find_version,
    make_current,
    set_current_weights,
    start_version,
    version_of,
)
from mars_assets.prithvi.weights import open_weights
from mars_assets.storage.files import write_json, write_table
from mars_assets.storage.published import publish

IMAGES = pd.DataFrame(
    {
        "image_id": ["a", "b", "c", "d"],
        "split": ["train", "train", "valid", "test"],
        "observation": ["O1", "O2", "O3", "O4"],
        "chip": ["/one/a.tif", "/one/b.tif", "/one/c.tif", "/one/d.tif"],
        "chip_sha": ["1", "2", "3", "4"],
        "labels_sha": ["x", "x", "y", "y"],
    }
)


def test_a_version_is_what_made_it() -> None:
    first = version_of({"lr": 0.1}, IMAGES, "sha", 1)
    moved = IMAGES.sample(frac=1, random_state=0).assign(chip="/elsewhere")
    assert version_of({"lr": 0.1}, moved, "sha", 1) == first
    others = [
        version_of({"lr": 0.2}, IMAGES, "sha", 1),
        version_of({"lr": 0.1}, IMAGES, "other", 1),
        version_of({"lr": 0.1}, IMAGES, "sha", 2),
        *(
            version_of({"lr": 0.1}, IMAGES.assign(**{c: "other"}), "sha", 1)
            for c in ("split", "chip_sha", "labels_sha")
        ),
    ]
    assert len({first, *others}) == 7


def test_images_that_only_judge_are_no_part_of_a_version() -> None:
    first = version_of({"lr": 0.1}, IMAGES, "sha", 1)
    row = IMAGES.tail(1).assign(image_id="e", labels_sha="z")
    for split in ("test", "held_back"):
        assert version_of({"lr": 0.1}, pd.concat([IMAGES, row.assign(split=split)]), "sha", 1) == first
    for split in ("train", "valid"):
        assert version_of({"lr": 0.1}, pd.concat([IMAGES, row.assign(split=split)]), "sha", 1) != first


@pytest.fixture
def trained(lake: Lake) -> Lake:
    folder = start_version(lake, "cls_model", "v1", IMAGES)
    write_json(folder / "config.json", {"recipe": {}})
    make_current(lake, "cls_model", "v1", {"valid_loss": 0.1})
    return lake


def test_the_current_model_is_found(trained: Lake) -> None:
    assert current_model(trained, "cls_model").version == "v1"


def test_without_a_finished_version_the_command_is_named(trained: Lake) -> None:
    with pytest.raises(MissingInputError, match="--select seg_model"):
        current_model(trained, "seg_model")
    (trained.model("cls_model") / "v1" / "config.json").unlink()
    with pytest.raises(MissingInputError, match="--select cls_model"):
        current_model(trained, "cls_model")
    with pytest.raises(MissingInputError, match="--select prithvi_weights"):
        current_weights(trained)


def test_no_model_is_judged_on_what_it_was_trained_on(trained: Lake) -> None:
    later = pd.DataFrame(
        {
            "image_id": ["a", "c", "e", "f", "g"],
            "split": ["valid", "valid", "test", "test", "train"],
            "observation": ["O1", "O3", "O2", "O9", "O10"],
        }
    )
    judged, left_out = held_out(trained, current_model(trained, "cls_model"), later)
    # a was trained on, e is another image of an observation that was, g is in today's training split.
    assert judged["image_id"].tolist() == ["c", "f"]
    assert left_out == 2


def test_what_a_model_began_as_has_seen_its_own_images(trained: Lake) -> None:
    outlined = pd.DataFrame(
        {"image_id": ["p", "q", "r"], "split": ["train", "valid", "test"], "observation": ["O5", "O6", "O7"]}
    )
    pretrained = pd.DataFrame({"image_id": ["u"], "group": ["O8"]})
    write_table(trained.model("mars_weights") / "m1" / "images.parquet", pretrained)
    write_json(trained.model("mars_weights") / "m1" / "config.json", {"provenance": {"weights": "v1_100"}})
    write_json(
        start_version(trained, "seg_model", "s1", outlined) / "config.json",
        {"provenance": {"mars_weights_version": "m1"}},
    )
    folder = trained.model("cls_model") / "v1"
    write_json(folder / "config.json", {"recipe": {}, "provenance": {"seg_model_version": "s1"}})
    later = pd.DataFrame(
        {
            "image_id": ["a", "b", "c", "d", "e", "f"],
            "split": ["test"] * 6,
            "observation": ["O2", "O5", "O6", "O7", "O8", "O9"],
        }
    )
    judged, left_out = held_out(trained, current_model(trained, "cls_model"), later)
    # O2 it was trained on itself; O5 the segmentation model was, and O8 that one's encoder.
    assert judged["observation"].tolist() == ["O6", "O7", "O9"]
    assert left_out == 3
    (trained.model("seg_model") / "s1" / "config.json").unlink()
    with pytest.raises(MissingInputError, match="seg_model"):
        held_out(trained, current_model(trained, "cls_model"), later)


def test_weights_in_use_are_one_version(lake: Lake, micro_weights: Path) -> None:
    def put(sha256: str) -> Path:
        with publish(lake.foundation("own")) as version:
            for path in micro_weights.iterdir():
                shutil.copy(path, version)
            write_json(version / "load_report.json", {"sha256": sha256})
        set_current_weights(lake, version, sha256)
        return version

    first = put("1" * 64)
    reading = current_weights(lake)
    second = put("2" * 64)
    assert reading == (first, "1" * 64, "own")
    assert open_weights(reading.folder).sha256 == "1" * 64, "what was begun goes on with its weights"
    assert current_weights(lake) == (second, "2" * 64, "own")
    assert start_from_weights(lake, "prithvi_weights").folder == second
    assert start_from_weights(lake, "random").name == "random, of own's architecture"


def test_a_finished_model_of_an_equivalent_way_of_training_is_found(lake: Lake) -> None:
    def name_of(computation: str) -> str:
        return version_of({"lr": 0.1}, IMAGES, "sha", 1, computation)

    ways, (now, before) = ("way 2", "way 1"), (name_of("way 2"), name_of("way 1"))
    assert find_version(lake, "seg_model", ways, name_of) == now
    folder = start_version(lake, "seg_model", before, IMAGES)
    assert find_version(lake, "seg_model", ways, name_of) == now, "it is not finished"
    write_json(folder / "config.json", {})
    assert find_version(lake, "seg_model", ways, name_of) == before
    write_json(start_version(lake, "seg_model", now, IMAGES) / "config.json", {})
    assert find_version(lake, "seg_model", ways, name_of) == now
