"""What is said of images without a label."""

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import entropy

from mars_assets.classification.figures import probability_histogram, uncertain_sheet
from mars_assets.classification.predict import predict
from mars_assets.classification.predict_folder import predict_pictures, scale_note, uncertainty
from mars_assets.classification.recipe import ClsRecipe
from mars_assets.classification.train import train_classifier
from mars_assets.cli import main
from mars_assets.datasets import unlabelled_crops
from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.lake import Lake
from mars_assets.models.versions import make_current
from mars_assets.progress import Progress
from mars_assets.storage.files import read_json, read_provenance, write_table
from mars_assets.training.compute import Compute
from mars_assets.training.run_folder import TrainingJob

RECIPE = ClsRecipe(image_size=32, batch_size=4, steps=2, warmup_steps=1, evaluate_every=2, normalize="statistics")


@pytest.fixture(scope="module")
def model(images, weights, tmp_path_factory):
    from mars_assets.training.compute import Compute

    folder = tmp_path_factory.mktemp("model")
    train_classifier(TrainingJob(RECIPE, images, weights, folder, Compute("cpu", "fp32", 1, 1), {}))
    return folder


def test_uncertainty_is_the_entropy_in_bits():
    p = np.random.default_rng(0).random(20)
    np.testing.assert_allclose(uncertainty(p), [entropy([x, 1 - x], base=2) for x in p])
    np.testing.assert_array_equal(uncertainty(np.array([0.0, 0.5, 1.0, np.nan])), [0, 1, 0, np.nan])


def test_a_picture_is_seen_as_the_chip_that_it_would_become(model, images, compute, tmp_path):
    from mars_assets.bands import HLS_BANDS, impute, scale_to_reflectance
    from mars_assets.tensors.geotiff import write_chip

    rgb = np.random.default_rng(3).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(tmp_path / "p.png")
    write_chip(tmp_path / "p.tif", impute(scale_to_reflectance(rgb), "post_norm"), HLS_BANDS)
    table = pd.DataFrame({"image_id": ["picture", "chip"], "chip": [str(tmp_path / "p.png"), str(tmp_path / "p.tif")]})
    found = predict(model, table, tmp_path / "cache.json", compute)
    assert found["probability"][0] == pytest.approx(found["probability"][1], abs=1e-6)


def test_a_folder_of_pictures_the_least_certain_first_and_broken_ones_say_so(model, compute, tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.png", "deep/b.jpg", "c.PNG"):
        Image.fromarray(rng.integers(0, 256, (32, 32), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    (tmp_path / "lying.jpg").write_bytes(b"GIF89a")
    Image.fromarray(rng.integers(0, 65536, (32, 32), dtype=np.uint16)).save(tmp_path / "deep.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    Image.new("L", (100, 100)).save(tmp_path / "huge.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no picture")
    table = predict_pictures(model, tmp_path, compute)
    assert len(table) == 7
    assert set(table["image"]) == {"a.png", "deep/b.jpg", "c.PNG", "broken.png", "lying.jpg", "deep.png", "huge.png"}
    good = table[table["problem"] == ""]
    assert len(good) == 3
    assert good["probability"].between(0, 1).all()
    assert good["uncertainty"].is_monotonic_decreasing
    problems = dict(zip(table["image"], table["problem"], strict=True))
    assert "more than 8 bits" in problems["deep.png"]
    assert "exceeds limit" in problems["huge.png"]
    assert table["problem"].iloc[-1].startswith(str(tmp_path))
    assert table["probability"].isna().tolist() == [False] * 3 + [True] * 4


def test_every_file_of_a_folder_has_a_probability_or_a_problem(model, compute, tmp_path):
    from mars_assets.bands import HLS_BANDS, impute, scale_to_reflectance
    from mars_assets.tensors.geotiff import write_chip

    rgb = np.random.default_rng(3).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    image = Image.fromarray(rgb)
    same = ["a.png", "b.tif", "c.TIFF", "d.bmp", "noextension", os.fsdecode(b"caf\xe9.png"), "n" * 251 + ".png"]
    for name in same:
        kind = {".tif": "TIFF", ".TIFF": "TIFF", ".bmp": "BMP"}.get(Path(name).suffix, "PNG")
        image.save(tmp_path / name, kind)
    chip = impute(scale_to_reflectance(rgb), "post_norm")
    write_chip(tmp_path / "chip.tif", chip, HLS_BANDS)
    write_chip(tmp_path / "bgr.tif", chip[:3], HLS_BANDS[:3])
    write_chip(tmp_path / "fraction.tif", chip / 10_000, HLS_BANDS)
    write_chip(tmp_path / "fill.tif", np.where(np.arange(40) < 2, -9999, chip), HLS_BANDS)
    write_chip(tmp_path / "dn.tif", (chip / 10_000 + 0.2) / 0.0000275, HLS_BANDS)
    write_chip(tmp_path / "glint.tif", np.where(np.arange(1600).reshape(40, 40) == 7, 17_000, chip), HLS_BANDS)
    write_chip(tmp_path / "black.tif", 0 * chip, HLS_BANDS)
    image.crop((0, 0, 1, 1)).save(tmp_path / "one.png")
    image.crop((0, 0, 15, 40)).save(tmp_path / "narrow.png")
    image.save(tmp_path / "caf\\xe9.png")  # another file than the one with this byte
    image.save(tmp_path / os.fsdecode(b"caf\xe9.tif"))
    image.save(tmp_path / "animated.gif", save_all=True, append_images=[image.rotate(90)])
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "lost.jpg").symlink_to("nothing")
    (tmp_path / "lost.tif").symlink_to("nothing")
    table = predict_pictures(model, tmp_path, compute).set_index("image")
    probabilities = table.loc[[*same[:5], "caf\\xe9.png", "caf\\\\xe9.png", same[6], "chip.tif"], "probability"]
    assert probabilities.notna().all()
    assert np.ptp(probabilities) < 1e-6
    problems = table.loc[table["problem"] != "", "problem"].to_dict()
    assert table.loc[list(problems), "probability"].isna().all()
    said = {
        "bgr.tif": "has the bands",
        "fraction.tif": "give HLS surface reflectance x 10000",
        "fill.tif": "values from -9999",
        "dn.tif": "give HLS surface reflectance x 10000",
        "one.png": "1 x 1 pixels, smaller than a model's patch",
        "narrow.png": "15 x 40 pixels, smaller than a model's patch",
        "caf\\xe9.tif": "caf\\xe9.tif cannot be read, since its name is not UTF-8",
        "animated.gif": "2 pages or frames",
        "photo.heic": "is not a JPEG or PNG file, nor TIFF",
        "lost.jpg": "No such file",
        "lost.tif": "lost.tif cannot be read",
    }
    assert problems.keys() == said.keys()
    for name, part in said.items():
        assert part in problems[name]


@pytest.mark.parametrize("by", ["image", "statistics"])
def test_a_single_pixel_has_no_contrast(micro, by, tmp_path):
    from mars_assets.classification.data import load_chip

    Image.new("L", (1, 1)).save(tmp_path / "one.png")
    if by == "statistics":
        assert load_chip(tmp_path / "one.png", micro, 32, by).isfinite().all()
    else:
        with pytest.raises(DamagedFileError, match=r"one\.png is a single pixel"):
            load_chip(tmp_path / "one.png", micro, 32, by)


@pytest.mark.parametrize("name", ["t.csv", "t.PARQUET", "t.json"])
def test_the_table_has_the_format_that_its_suffix_names(model, lake: Lake, tmp_path, name, capsys):
    shutil.copytree(model, lake.model("cls_model") / "v")
    make_current(lake, "cls_model", "v", {})
    folder, out = tmp_path / "pictures", tmp_path / name
    folder.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)).save(folder / "a.png")
    (folder / os.fsdecode(b"\xe9.png")).write_bytes(b"no picture")
    command = ["--lake", str(lake.root), "predict", str(folder), "--precision", "fp32", "--out"]
    assert main([*command, str(out)]) == 0
    read = {".csv": pd.read_csv, ".parquet": pd.read_parquet, ".json": pd.read_json}[out.suffix.lower()]
    table = read(out)
    assert table["image"].tolist() == ["a.png", "\\xe9.png"]
    assert table["probability"].notna().tolist() == [True, False]
    if name == "t.json":
        rows = read_json(out)
        assert rows[1]["probability"] is None
        assert rows[0]["probability"] == predict_pictures(model, folder, Compute("cpu", "fp32", 1, 0))["probability"][0]
    capsys.readouterr()
    before = sorted(tmp_path.iterdir())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("mars_assets.cli.predict_pictures", lambda *_: pytest.fail("work was done"))
        for wrong, said in (
            (tmp_path / "t.xlsx", "has the suffix '.xlsx': name a file that ends in .csv, .parquet, .json"),
            (tmp_path / "t", "has the suffix ''"),
            (tmp_path / "none" / "t.csv", "none (No such file or directory)"),
            (out / "t.csv", f"{name} (Not a directory)"),
            (tmp_path / ("t" * 252 + ".csv"), "its name is too long"),
            ("/proc/t.csv", "nothing can be written into /proc"),
        ):
            assert main([*command, str(wrong)]) == 1
            assert said in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("kind", ["P1_kinds", "P2_exif", "P3_formats"])
def test_reported_pictures_have_one_probability_or_a_problem(model, compute, shared, kind):
    folder = shared / "data" / "reported" / "pictures" / kind
    table = predict_pictures(model, folder, compute)
    assert set(table["image"]) == {path.name for path in folder.iterdir()}
    assert (table["probability"].isna() == (table["problem"] != "")).all()
    assert (table["problem"] != "").sum() == {"P1_kinds": 5}.get(kind, 0)
    assert np.ptp(table["probability"].dropna()) < 0.01


def test_a_folder_without_pictures(model, compute, tmp_path):
    with pytest.raises(MarsError, match="no JPEG or PNG"):
        predict_pictures(model, tmp_path, compute)
    with pytest.raises(MarsError, match="is not a folder"):
        predict_pictures(model, tmp_path / "none", compute)


def crops_of(lake: Lake, observation: str, names: list[str]) -> None:
    folder = lake.crops(observation)
    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(names))
    for name in names:
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    table = pd.DataFrame({"crop_id": [*names, "rejected"], "observation": observation})
    table["file"] = [*(f"{name}.png" for name in names), None]
    table["kept"] = [True] * len(names) + [False]
    write_table(
        folder / "crops.parquet",
        table.assign(position_kind="approximate", longitude=1.0, latitude=2.0),
        {"fingerprint": f"cut of {observation}"},
    )


def test_crops_with_a_class_are_left_out(lake: Lake):
    with pytest.raises(MarsError, match="materialize 'hirise_images' and 'crops'"):
        unlabelled_crops(lake, "label")
    crops_of(lake, "ESP_000001_1800", ["one", "two"])
    crops_of(lake, "ESP_000002_1800", ["three"])
    assert unlabelled_crops(lake, "label")["image_id"].tolist() == ["one", "two", "three"]
    lake.labels.mkdir(parents=True)
    labels = pd.DataFrame({"image_id": ["two-0a", "three-0b"], "original": ["two", "three"], "label": ["crater", None]})
    labels["n_craters"] = pd.array([None, 4], "Int32")
    write_table(lake.labelled_crops, labels)
    without = unlabelled_crops(lake, "n_craters", ["longitude"])
    assert without["image_id"].tolist() == ["one", "two"]
    assert without["longitude"].tolist() == [1.0, 1.0]
    left = unlabelled_crops(lake, "label")
    assert left["image_id"].tolist() == ["one", "three"]  # three has outlines, but no class
    write_table(
        lake.labelled_crops, pd.DataFrame({"image_id": ["one", "two", "three"], "original": "", "label": "crater"})
    )
    with pytest.raises(MarsError, match="all crops already have a class"):
        unlabelled_crops(lake, "label")


def test_a_crop_whose_tiles_have_a_class_has_one(lake: Lake):
    names = [f"ESP_000001_1800_BROWSE_r00000_c{column:05d}" for column in (0, 512, 1024)]
    crops_of(lake, "ESP_000001_1800", names)
    originals = [f"{names[0]}-t03", f"{names[0]}-t04", f"{names[1]}-t00", f"{names[2]}0-t00"]
    labels = pd.DataFrame({"image_id": [f"{name}-0a1b2c3d" for name in originals], "original": originals})
    write_table(lake.labelled_crops, labels.assign(label=["crater", "no_crater", None, "crater"]))
    assert unlabelled_crops(lake, "label")["image_id"].tolist() == names[1:]


def test_pictures_much_larger_than_the_trained_are_told(model, compute, tmp_path):
    for side in (40, 47):
        Image.new("L", (side, side)).save(tmp_path / f"{side}.png")
    assert scale_note(model, sorted(tmp_path.iterdir())) == ""  # trained on 32
    Image.new("L", (90, 40)).save(tmp_path / "60.png")
    (tmp_path / "broken.png").write_bytes(b"")
    assert "1.9 times as large" in scale_note(model, [tmp_path / "60.png", tmp_path / "broken.png"])
    (tmp_path / "40.png").unlink()
    (tmp_path / "47.png").unlink()
    lines: list[str] = []
    predict_pictures(model, tmp_path, compute, Progress(lines.append))
    assert any("60 and 32 pixels" in line for line in lines)


def test_the_commands_table_says_that_pictures_are_too_large(model, lake: Lake, tmp_path):
    shutil.copytree(model, lake.model("cls_model") / "v")
    make_current(lake, "cls_model", "v", {})
    (tmp_path / "pictures").mkdir()
    Image.new("L", (60, 60)).save(tmp_path / "pictures" / "a.png")
    out = tmp_path / "table.parquet"
    assert main(["--lake", str(lake.root), "predict", str(tmp_path / "pictures"), "--out", str(out)]) == 0
    assert "60 and 32 pixels" in read_provenance(out)["scale"]


def test_what_a_labeller_sees(lake: Lake):
    crops_of(lake, "ESP_000001_1800", ["one", "two", "three"])
    table = unlabelled_crops(lake, "label").assign(probability=[0.1, 0.5, 0.8], uncertainty=[0.47, 1.0, 0.72])
    sheet = uncertain_sheet(table, most=2)
    assert [axis.get_title().split("\n")[0] for axis in sheet.axes[:2]] == ["two", "three"]
    assert "2 predicted" in probability_histogram(table).axes[0].get_title()
