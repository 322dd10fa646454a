"""Masked pretraining on random textures, in seconds."""

import os
import shutil
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from mars_assets.checkpoints import read_checkpoint
from mars_assets.errors import DamagedFileError, MarsError, MissingInputError, ProvenanceError
from mars_assets.lake import MARS_WEIGHTS, Lake
from mars_assets.models.seen import held_out, seen_by
from mars_assets.models.starting_point import start_from_weights
from mars_assets.models.versions import ModelVersion, make_current, set_current_weights
from mars_assets.pretraining.data import (
    RandomCrops,
    Unlabelled,
    read_pixels,
    split_groups,
    unlabelled_images,
)
from mars_assets.pretraining.figures import curve_figure, reconstructions_figure
from mars_assets.pretraining.recipe import PretrainRecipe
from mars_assets.pretraining.train import MaskedPretraining, pretrain, say_what_is_missing
from mars_assets.prithvi.config import PrithviConfig
from mars_assets.prithvi.model import PrithviMAE
from mars_assets.prithvi.weights import load_encoder, open_weights, save_weights
from mars_assets.progress import Progress
from mars_assets.storage.claims import has_work
from mars_assets.storage.files import read_json, read_table, write_table
from mars_assets.storage.hashing import sha256_file
from mars_assets.training.compute import Compute
from mars_assets.training.run_folder import TrainingJob

CPU = Compute("cpu", "fp32", 1, seed=5)
CONFIG = PrithviConfig(
    "small", img_size=32, embed_dim=32, depth=2, num_heads=2, decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=2
)
RECIPE = PretrainRecipe(
    steps=12, warmup_steps=2, batch_size=8, evaluate_every=4, lr=1e-3, hold_out=0.2, mask_ratio=0.5, visible_weight=0.5
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights") / "small"
    save_weights(folder, PrithviMAE(CONFIG), {})
    return folder


@pytest.fixture(scope="module")
def textures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty images of ten observations, grey and coloured, of two sizes."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:60, :60]
    for number in range(40):
        side = 40 if number % 2 else 60
        wave = 128 + 100 * np.sin((x * np.cos(number) + y * np.sin(number)) / 5 + number)[:side, :side]
        pixels = (wave[..., None] + rng.normal(0, 5, (side, side, 3))).clip(0, 255).astype(np.uint8)
        image = Image.fromarray(pixels)
        name = f"ESP_0000{number % 10:02d}_1800_{number:02d}.png"
        (image.convert("L") if number % 3 == 0 else image).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def unlabelled(textures: Path) -> Unlabelled:
    return unlabelled_images(Lake.at(textures / "none"), textures)


# images


def test_images_of_a_zip_are_those_of_the_folder(lake: Lake, textures: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        for path in textures.glob("*.png"):
            archive.write(path, f"deep/{path.name}")
        archive.writestr("README.txt", "no image")
        archive.writestr("__MACOSX/deep/._a.png", "no image either")
    found = unlabelled_images(lake, tmp_path / "more.zip")
    assert len(found.images) == 40
    assert found.images["group"].nunique() == 10
    assert found.images["path"].map(lambda path: path.is_relative_to(lake.root)).all()
    before = {path: path.stat().st_mtime_ns for path in found.images["path"]}
    (found.images["path"].iloc[0].parent / ".a.tmp-12345678.png").write_bytes(b"of a killed run")
    again = unlabelled_images(lake, tmp_path / "more.zip")
    assert again.sha == found.sha
    assert {path: path.stat().st_mtime_ns for path in again.images["path"]} == before


def test_the_lakes_own_crops_and_what_models_are_judged_on(lake: Lake, textures: Path) -> None:
    folder = lake.crops("ESP_000099_1800")
    folder.mkdir(parents=True)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 40)).save(folder / name)
    table = pd.DataFrame(
        {"crop_id": ["a", "b"], "observation": "ESP_000099_1800", "file": ["a.png", "b.png"], "kept": [True, False]}
    )
    write_table(folder / "crops.parquet", table)
    assert list(unlabelled_images(lake).images["image_id"]) == ["a"]
    labels = pd.DataFrame(
        {"group": ["ESP_000001_1800", "ESP_000002_1800", "ESP_000003_1800"], "split": ["valid", "test", "train"]}
    )
    write_table(lake.labelled_crops, labels)
    found = unlabelled_images(lake, textures)
    assert found.left_out == 8
    assert not set(found.images["group"]) & {"ESP_000001_1800", "ESP_000002_1800"}
    assert "ESP_000003_1800" in set(found.images["group"])


def picture(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), value).save(path)
    return path


def test_any_part_of_a_path_tells_the_observation_else_the_path_is_the_group(lake: Lake, tmp_path: Path) -> None:
    names = ["ESP_000001_1800/t.png", "ESP_000002_1800/t.png", "ESP_000003_1800_RED/a/t.png", "x/t.png", "y/t.png",
             "train/crop_png.rf.1a.png", "train/other_png.rf.2b.png", "flat_png.rf.3c.png",
             "ESP_000001_1800/ESP_000004_1800_0.png"]  # fmt: skip
    for name in names:
        picture(tmp_path / "more" / name)
    labels = pd.DataFrame(
        {"group": ["ESP_000001_1800", "crop", "ESP_000002_1800"], "split": ["test", "valid", "train"]}
    )
    write_table(lake.labelled_crops, labels)
    found = unlabelled_images(lake, tmp_path / "more")
    assert dict(zip(found.images["image_id"], found.images["group"], strict=True)) == {
        "ESP_000001_1800/ESP_000004_1800_0.png": "ESP_000004_1800",
        "ESP_000002_1800/t.png": "ESP_000002_1800",
        "ESP_000003_1800_RED/a/t.png": "ESP_000003_1800",
        "flat_png.rf.3c.png": "flat",
        "train/other_png.rf.2b.png": "train/other",
        "x/t.png": "x/t",
        "y/t.png": "y/t",
    }
    assert (found.left_out, found.unknown) == (2, 4)


def test_images_that_cannot_be_read_are_left_out_and_the_others_known_by_content(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        picture(tmp_path / "a" / f"{number}.png", number)
    whole = unlabelled_images(lake, tmp_path / "a")
    (tmp_path / "a" / "broken.png").write_bytes((tmp_path / "a" / "0.png").read_bytes()[:36])
    found = unlabelled_images(lake, tmp_path / "a")
    assert list(found.images["image_id"]) == ["0.png", "1.png", "2.png"]
    assert list(found.broken) == ["broken.png"]
    assert "is not a JPEG or PNG file" in found.broken["broken.png"]
    assert found.sha == whole.sha
    with monkeypatch.context() as patched:
        patched.setattr("mars_assets.pretraining.data.read_pixels", lambda path: pytest.fail(f"{path} is read again"))
        assert unlabelled_images(lake, tmp_path / "a").broken == found.broken
    for path in (tmp_path / "a").iterdir():  # as cp -r does, which keeps no times
        os.utime(path, (1, 1))
    assert unlabelled_images(lake, tmp_path / "a").sha == whole.sha
    picture(tmp_path / "a" / "1.png", 99)
    assert unlabelled_images(lake, tmp_path / "a").sha != whole.sha
    for name in ("0.png", "1.png", "2.png"):
        (tmp_path / "a" / name).write_bytes(b"no image")
    with pytest.raises(MarsError, match="None of its 4 images can be read"):
        unlabelled_images(lake, tmp_path / "a")


def test_names_and_kinds_of_files_are_read_or_named(lake: Lake, tmp_path: Path) -> None:
    folder = tmp_path / "more"
    folder.mkdir()
    deep = np.random.default_rng(0).integers(0, 2**16, (8, 8), np.uint16)
    turned = Image.Exif()
    turned[0x0112] = 6
    names = ["a.tif", os.fsdecode(b"caf\xe9.bmp"), "caf\\xe9.bmp", "n" * 251 + ".gif", "c.webp"]
    for name, kind in zip(names, ("TIFF", "BMP", "BMP", "GIF", "WEBP"), strict=True):
        Image.new("L", (8, 8), 90).save(folder / name, kind)
    Image.fromarray(deep).save(folder / "deep.tif")
    Image.fromarray(deep >> 6).save(folder / "ten_bits.png")
    Image.new("LA", (8, 8)).save(folder / "transparent.png")
    Image.new("RGB", (8, 12)).save(folder / "turned.png", exif=turned)
    (folder / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "notes.txt").write_text("no image")
    for name in ("lost.png", "round.png"):
        (folder / name).symlink_to("round.png")
    found = unlabelled_images(lake, folder)
    assert set(found.images["image_id"]) == {
        *("a.tif", "caf\\xe9.bmp", "caf\\\\xe9.bmp", "n" * 251 + ".gif", "c.webp", "deep.tif", "turned.png")
    }
    assert found.broken.keys() == {"ten_bits.png", "transparent.png", "photo.heic", "lost.png", "round.png"}
    by_id = dict(zip(found.images["image_id"], found.images["path"], strict=True))
    assert read_pixels(by_id["turned.png"]).shape == (8, 12, 3)
    np.testing.assert_array_equal(read_pixels(by_id["deep.tif"])[..., 0], deep >> 8)


def test_a_zip_may_have_names_of_any_length_and_other_formats(lake: Lake, tmp_path: Path) -> None:
    image = tmp_path / "image"
    Image.new("L", (8, 8)).save(image, "TIFF")
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        for name in ("a/b.tif", "n" * 251 + ".tif", "n" * 300 + ".tif", "m" * 300 + ".tif"):
            archive.write(image, name)
    old = lake.unlabelled(sha256_file(tmp_path / "more.zip"))
    old.mkdir(parents=True)
    (old / ".complete").touch()  # of a version that passed over TIFF
    assert len(unlabelled_images(lake, tmp_path / "more.zip").images) == 4


def test_a_path_that_is_too_long_is_said(lake: Lake, tmp_path: Path) -> None:
    image = picture(tmp_path / "a.png")
    with zipfile.ZipFile(tmp_path / "deep.zip", "w") as archive:
        archive.write(image, "/".join(["d" * 50] * 100) + "/a.png")
    with pytest.raises(MarsError, match="name is too long: shorten it"):
        unlabelled_images(lake, tmp_path / "deep.zip")


def test_without_images(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(MarsError, match="no image to pretrain on"):
        unlabelled_images(lake)
    with pytest.raises(MarsError, match=r"no folder and no zip .*: correct the path"):
        unlabelled_images(lake, tmp_path / "none.zip")
    (tmp_path / "bad.zip").write_bytes(b"PK")
    with pytest.raises(DamagedFileError, match=r"bad\.zip"):
        unlabelled_images(lake, tmp_path / "bad.zip")


@pytest.mark.parametrize("names", [("a", "a/b.png"), ("deep/a.png/c.tif", "deep/a.png"), ("x/y", "x\\y\\z\\b.png")])
def test_a_name_of_a_file_and_of_a_folder(lake: Lake, tmp_path: Path, names: tuple[str, str]) -> None:
    content = picture(tmp_path / "p.png").read_bytes()
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in names:
            archive.writestr(name, content)
    with pytest.raises(DamagedFileError, match=r"x\.zip has .* as a file and as a folder"):
        unlabelled_images(lake, tmp_path / "x.zip")


def test_hostile_zips_write_nothing_outside(lake: Lake, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("../../out.png", b"x")
    with pytest.raises(DamagedFileError, match="points outside"):
        unlabelled_images(lake, tmp_path / "x.zip")
    assert not list(tmp_path.rglob("out.png"))


def _labels(lake: Lake, **splits: str) -> None:
    write_table(lake.labelled_crops, pd.DataFrame({"group": list(splits), "split": list(splits.values())}))


def test_zips_of_other_computers_hold_back_what_models_are_judged_on(lake: Lake, tmp_path: Path) -> None:
    names = [
        "more\\ESP_000001_1800_RED\\t.png",
        "more\\esp_000001_1800-7.png",
        "more\\Mars ESP-000001-1800.png",
        "more\\tile_JPG.rf.1a.png",
        "more\\tile_HEIC.rf.2b.png",
        "more\\a_png.rf.1_jpg.rf.2.png",
        "more\\Kra\u0308ter.png",
        "more\\PSP_000002_1800.png",
        "more\\other.png",
    ]
    content = picture(tmp_path / "p.png").read_bytes()
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        for name in [*names, "more\\"]:
            archive.writestr(name, content if name.endswith(".png") else b"")
    _labels(lake, ESP_000001_1800="test", tile="valid", a="valid", Kräter="test", PSP_000002_1800="train")
    for again in range(2):
        found = unlabelled_images(lake, tmp_path / "more.zip")
        assert dict(zip(found.images["image_id"], found.images["group"], strict=True)) == {
            "more/PSP_000002_1800.png": "PSP_000002_1800",
            "more/other.png": "more/other",
        }, again
        assert found.left_out == 7
        found.images["path"].iloc[0].unlink()  # is taken out of the zip again


def test_an_id_in_another_place_or_form_holds_an_image_back(lake: Lake, tmp_path: Path) -> None:
    held = [
        "ESP_000002_1800_ESP_000001_1800.png",  # a mosaic
        "psp-000002-1800 and esp-000001-1800.png",
        "ESP0000011800.png",
        "x/esp000001_1800/t.png",
    ]
    others = ["ESP_000002_1800_ESP_000003_1800.png", "ESP0000031800.png", "ESP_000001_1800/ESP_000004_1800_0.png"]
    for name in [*held, *others]:
        picture(tmp_path / "more" / name)
    _labels(lake, ESP_000001_1800="valid", ESP_000002_1800="train", ESP_000003_1800="train")
    found = unlabelled_images(lake, tmp_path / "more")
    assert sorted(found.images["image_id"]) == sorted(others)
    assert found.left_out == len(held)
    write_table(tmp_path / "run" / "images.parquet", found.images[["image_id", "group"]])
    seen = seen_by(lake, tmp_path / "run", {})
    assert {"ESP_000002_1800", "ESP_000003_1800", "ESP_000004_1800"} <= seen
    assert "ESP_000001_1800" not in seen


def test_what_an_earlier_version_took_apart_otherwise_is_not_read(lake: Lake, tmp_path: Path) -> None:
    content = picture(tmp_path / "p.png").read_bytes()
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.writestr("train\\a.png", content)
    folder = lake.unlabelled(sha256_file(tmp_path / "more.zip"))
    picture(folder / "train\\a.png")
    (folder / ".complete").write_bytes(b"")
    assert list(unlabelled_images(lake, tmp_path / "more.zip").images["image_id"]) == ["train/a.png"]


def _label_image(path: Path, values: list[int], mode: str = "L") -> Path:
    pixels = np.zeros((40, 40), np.uint8)
    for n, value in enumerate(values):
        pixels[4 * n : 4 * n + 3, 4:12] = value
    image = Image.fromarray(pixels)
    if mode == "P":
        image.putpalette([n * 7 % 256 for n in range(768)])
    path.parent.mkdir(parents=True, exist_ok=True)
    (image.convert(mode) if mode != "P" else image).save(path)
    return path


@pytest.mark.parametrize(
    "name",
    [
        *("mask_a.jpg", "Mask.jpg", "mask0001.jpg", "a_mask_1.jpg", "a-mask-02.jpg", "a (mask).jpg", "masks.jpg"),
        *("a_GT.jpg", "a_groundtruth.jpg", "a_segmentation.jpg", "gt/a.jpg", "ground_truth/a.jpg", "train_masks/a.jpg"),
        *("images-mask/a.jpg", "x/masks png/a.jpg", "mask_jpg.rf.1.jpg"),
    ],
)
def test_masks_are_known_by_name(lake: Lake, tmp_path: Path, name: str) -> None:
    (tmp_path / "more" / name).parent.mkdir(parents=True)
    Image.new("L", (16, 16)).save(tmp_path / "more" / name)
    pictures = ["unmasked/a.png", "maskelyne_crater.png", "with masks/images/a.png", "a_masked.png", "bight.png"]
    for other in pictures:
        picture(tmp_path / "more" / other)
    found = unlabelled_images(lake, tmp_path / "more")
    assert list(found.broken) == [name]
    assert "rename it if it is a picture" in found.broken[name]
    assert sorted(found.images["image_id"]) == sorted(pictures)


@pytest.mark.parametrize("packed", [False, True])
def test_masks_are_no_pictures(lake: Lake, textures: Path, tmp_path: Path, packed: bool) -> None:
    folder = tmp_path / "more"
    (folder / "train").mkdir(parents=True)
    for path in sorted(textures.glob("*.png"))[:2]:
        shutil.copy(path, folder / "train")
    name = "tile_png.rf.0a"
    for place in (f"train/{name}.png", "train/flat.png"):
        picture(folder / place)  # of one value
    for place in (f"train/{name}_mask.png", f"train/{name}_MASK.PNG", "train/x_label.png", "train/x-masks.png",
                  "train/x_mask_png.rf.1b.png", "masks/x.png", "Labels/train/x.png",
                  "SegmentationObject/x.png"):  # fmt: skip
        picture(folder / place)
    _label_image(folder / "train/binary.png", [255])
    _label_image(folder / "train/numbered.png", [1, 2, 3, 4, 5])
    _label_image(folder / "train/palette.png", [1, 2], "P")
    _label_image(folder / "train/deep.png", [1, 2, 3], "I;16")
    _label_image(folder / "train/bits.png", [255], "1")
    _label_image(folder / "train/colours.png", [200, 90], "RGB")
    extra = folder
    if packed:
        extra = tmp_path / "more.zip"
        with zipfile.ZipFile(extra, "w") as archive:
            for path in folder.rglob("*.*"):
                archive.writestr(str(path.relative_to(folder)).replace("/", "\\"), path.read_bytes())
    found = unlabelled_images(lake, extra)
    assert len(found.images) == 4
    assert sum("is a mask by its name" in reason for reason in found.broken.values()) == 8
    assert sum("it is a mask or label image" in reason for reason in found.broken.values()) == 5
    assert "16" in found.broken["train/deep.png"]
    said: list[str] = []
    say_what_is_missing(found, Progress(said.append))
    assert "14 images cannot be read or are masks, and are left out" in said[-1]
    assert "and 4 more" in said[-1]


def test_methods_that_cannot_be_unpacked_are_named(lake: Lake, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.png", b"x")
    content = bytearray((tmp_path / "x.zip").read_bytes())
    content[content.index(b"PK\x01\x02") + 10] = 9
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(DamagedFileError, match="Deflate64"):
        unlabelled_images(lake, tmp_path / "x.zip")


def test_groups_stay_together_and_further_images_move_none(unlabelled: Unlabelled) -> None:
    images = unlabelled.images
    train, valid = split_groups(images, 0.2)
    assert len(train) + len(valid) == 40
    assert not set(images["group"].iloc[train]) & set(images["group"].iloc[valid])
    fewer = images[images["group"] != images["group"].iloc[0]].reset_index(drop=True)
    _, valid_of_fewer = split_groups(fewer, 0.2)
    held, still = set(images["group"].iloc[valid]), set(fewer["group"].iloc[valid_of_fewer])
    assert still == held - {images["group"].iloc[0]}
    for share in (1e-9, 0.4999):
        train, valid = split_groups(images, share)
        assert len(train)
        assert len(valid)
    with pytest.raises(MarsError, match="one observation"):
        split_groups(images[:1], 0.1)


def test_crops_follow_from_seed_step_and_image(unlabelled: Unlabelled) -> None:
    paths = unlabelled.images["path"].tolist()
    crops, again = (RandomCrops(paths, 32, 0.5, 1) for _ in range(2))
    first = crops[3, 7]
    assert first.shape == (3, 32, 32)
    assert first.dtype == torch.uint8
    assert torch.equal(first, again[3, 7])
    assert not torch.equal(first, crops[3, 8])
    assert not torch.equal(first, RandomCrops(paths, 32, 0.5, 2)[3, 7])
    forgetful = RandomCrops(paths, 32, 0.5, 1, memory_gb=0)
    assert torch.equal(first, forgetful[3, 7])


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 256, 65535]], np.uint16)).save(tmp_path / "a.png")
    assert read_pixels(tmp_path / "a.png").ravel().tolist() == [0, 1, 255]


def test_the_centre_is_the_picture(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 50, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    centre = RandomCrops([tmp_path / "a.png"], 32, 1.0, 0).centre(0)
    np.testing.assert_array_equal(centre.permute(1, 2, 0).numpy(), pixels[:, 9:41])


def test_processes_share_a_batch(unlabelled: Unlabelled) -> None:
    crops = RandomCrops(unlabelled.images["path"].tolist()[:10], 32, 0.5, 5)
    training = MaskedPretraining(RECIPE, CPU, crops, (torch.zeros(0), []))
    parts = [training.batches(range(4), rank, 2) for rank in range(2)]
    for batch, first, second in zip(training.batches(range(4), 0, 1), *parts, strict=True):
        assert torch.equal(batch[::2], first)
        assert torch.equal(batch[1::2], second)


# training


def run(
    folder: Path, unlabelled: Unlabelled, weights: Path, recipe: PretrainRecipe = RECIPE, **options: Any
) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    return pretrain(TrainingJob(recipe, unlabelled, weights, folder, CPU, {"why": "test"}, **options))


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    return open_weights(folder / MARS_WEIGHTS).load().state_dict()


@pytest.mark.slow
def test_it_learns_and_leaves_weights_in_the_published_layout(
    unlabelled: Unlabelled, weights: Path, tmp_path: Path
) -> None:
    report = run(tmp_path / "a", unlabelled, weights, RECIPE.model_copy(update={"steps": 60, "evaluate_every": 20}))
    assert report["last"]["valid_loss"] < 0.8 * report["first"]["valid_loss"]
    assert report["n_train"] + report["n_valid"] == 40
    history = read_table(tmp_path / "a" / "history.parquet", "mars_weights")
    assert history["step"].tolist() == [0, 20, 40, 60]
    assert history["valid_loss"].iloc[-1] == report["last"]["valid_loss"]
    keys = read_checkpoint(tmp_path / "a" / MARS_WEIGHTS / "model.safetensors")
    assert {key.split(".")[0] for key in keys} == {"encoder", "decoder"}
    assert load_encoder(tmp_path / "a" / MARS_WEIGHTS).config == CONFIG
    assert read_json(tmp_path / "a" / "config.json")["provenance"] == {"why": "test"}
    assert not has_work(tmp_path / "a" / "training")
    assert (
        run(tmp_path / "a", unlabelled, weights, RECIPE.model_copy(update={"steps": 60, "evaluate_every": 20}))
        == report
    )
    assert curve_figure(history).axes
    figure = reconstructions_figure(
        unlabelled, {"before": weights, "after": tmp_path / "a" / MARS_WEIGHTS}, RECIPE, CPU
    )
    assert [axis.get_title() for axis in figure.axes[:4]] == ["original", "masked", "before", "after"]


def test_steps_and_validations_compute_in_the_same_precision_and_masks_and_targets_are_not_rounded(
    unlabelled: Unlabelled, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.dtype] = []
    forward = PrithviMAE.forward

    def watched(mae: PrithviMAE, x: torch.Tensor, mask_ratio: float, noise: torch.Tensor) -> Any:
        found = forward(mae, x, mask_ratio, noise)
        seen.extend([x.dtype, noise.dtype, found.pred.dtype])
        return found

    monkeypatch.setattr(PrithviMAE, "forward", watched)
    recipe = RECIPE.model_copy(update={"steps": 1, "warmup_steps": 1})
    (tmp_path / "a").mkdir()
    pretrain(TrainingJob(recipe, unlabelled, weights, tmp_path / "a", Compute("cpu", "bf16", 1, 5), {}))
    validation, step = ([torch.float32, noise, torch.bfloat16] for noise in (torch.float64, torch.float32))
    assert seen == [*validation, *step, *validation]


def test_other_settings_are_refused(unlabelled: Unlabelled, weights: Path, tmp_path: Path) -> None:
    run(tmp_path / "a", unlabelled, weights)
    with pytest.raises(ProvenanceError, match=r"lr 0\.001 there, 0\.5 now"):
        run(tmp_path / "a", unlabelled, weights, RECIPE.model_copy(update={"lr": 0.5}))
    with pytest.raises(MarsError, match="multiple of accumulate"):
        run(tmp_path / "b", unlabelled, weights, RECIPE.model_copy(update={"accumulate": 3}))


def test_random_weights_are_another_beginning(unlabelled: Unlabelled, weights: Path, tmp_path: Path) -> None:
    known = run(tmp_path / "a", unlabelled, weights)
    fresh = run(tmp_path / "b", unlabelled, weights, RECIPE.model_copy(update={"from_random": True}))
    assert fresh["first"] != known["first"]


@pytest.mark.slow
def test_two_processes_share_the_steps(unlabelled: Unlabelled, weights: Path, tmp_path: Path) -> None:
    # As Dagster's log does, this does not travel to another process.
    lock = threading.Lock()
    said = Progress(lambda line: lock.acquire() and lock.release())
    report = run(tmp_path / "a", unlabelled, weights, RECIPE.model_copy(update={"devices": 2}), progress=said)
    alone = run(tmp_path / "b", unlabelled, weights)
    assert report["steps"] == 12
    assert report["first"] == alone["first"]
    assert report["last"]["valid_loss"] == pytest.approx(alone["last"]["valid_loss"], rel=0.1)


def test_layers_have_their_rates(weights: Path) -> None:
    recipe = RECIPE.model_copy(update={"layer_decay": 0.5, "lr": 1.0})
    mae = PrithviMAE(CONFIG)
    optimizer = MaskedPretraining(recipe, CPU, RandomCrops([], 32, 1.0, 1), (torch.zeros(0), [])).optimizer(mae)
    rate = {id(p): group["initial_lr"] for group in optimizer.param_groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    named = dict(mae.named_parameters())
    assert len(rate) == sum(parameter.requires_grad for parameter in named.values())
    order = ["decoder.decoder_pred.weight", "encoder.blocks.1.mlp.fc1.weight", "encoder.blocks.0.mlp.fc1.weight"]
    assert [rate[id(named[name])] for name in order] == [1, 1, 0.5]
    assert rate[id(named["encoder.patch_embed.proj.weight"])] == rate[id(named["encoder.cls_token"])] == 0.25
    assert decay[id(named["encoder.cls_token"])] == decay[id(named["decoder.mask_token"])] == 0
    assert decay[id(named["decoder.decoder_pred.weight"])] == recipe.weight_decay


# use


def test_models_choose_their_encoder_by_name(lake: Lake, unlabelled: Unlabelled, weights: Path) -> None:
    with pytest.raises(MissingInputError, match="mars_weights"):
        start_from_weights(lake, "mars_weights")
    folder = lake.foundation("small")
    save_weights(folder, open_weights(weights).load(), {})
    set_current_weights(lake, folder, open_weights(folder).sha256)
    version = lake.model("mars_weights") / "v1"
    version.parent.mkdir(parents=True)
    run(version, unlabelled, folder)
    make_current(lake, "mars_weights", "v1", {})
    named = {name: start_from_weights(lake, name) for name in ("prithvi_weights", "random", "mars_weights")}
    assert named["prithvi_weights"].folder == named["random"].folder == folder
    assert named["mars_weights"].folder == version / MARS_WEIGHTS
    assert (
        named["mars_weights"].sha256 == open_weights(version / MARS_WEIGHTS).sha256 != named["prithvi_weights"].sha256
    )
    assert named["mars_weights"].name == "mars_weights v1"


def test_a_model_is_not_judged_on_what_its_encoder_saw(lake: Lake, unlabelled: Unlabelled, weights: Path) -> None:
    """Labels that come after the pretraining may put an observation that it saw into test."""
    version = lake.model("mars_weights") / "v1"
    version.parent.mkdir(parents=True)
    run(version, unlabelled, weights)
    seen = unlabelled.images["group"].iloc[0]
    folder = lake.model("cls_model") / "m"
    write_table(folder / "images.parquet", pd.DataFrame({"image_id": ["a"], "split": ["train"], "observation": ["o"]}))
    images = pd.DataFrame({"image_id": ["b", "c"], "split": ["test", "test"], "observation": [seen, "ESP_777777_1800"]})
    own = version / "images.parquet"
    table = pd.read_parquet(own)
    write_table(own, pd.concat([table, pd.DataFrame({"image_id": ["deep/crop_png.rf.1.png"], "group": ["deep/crop"]})]))
    assert "crop" in seen_by(lake, version, {})  # as labels, which know no folder, name its group
    # Earlier versions of the code stored these as groups of their own.
    old = pd.DataFrame(
        {"image_id": ["x\\esp_77.png", "b_HEIC.rf.2.png"], "group": ["x/esp_000077_1800", "b_HEIC.rf.2"]}
    )
    write_table(own, pd.concat([table, old]))
    assert {"ESP_000077_1800", "b"} <= seen_by(lake, version, {})
    for provenance, left in (({"mars_weights_version": "v1"}, ["c"]), ({}, ["b", "c"])):
        judged, left_out = held_out(lake, ModelVersion("cls_model", "m", folder, {"provenance": provenance}), images)
        assert list(judged["image_id"]) == left
        assert left_out == 2 - len(left)
