"""The command `mars-assets`."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from mars_assets.checkpoints import read_checkpoint
from mars_assets.cli import main
from mars_assets.craters.geometry import craters_of_mask
from mars_assets.lake import Lake
from mars_assets.models.versions import current_model, make_current, set_current_weights
from mars_assets.prithvi.config import PrithviConfig
from mars_assets.prithvi.weights import Origin, install, load_encoder, load_encoder_state, open_weights
from mars_assets.segmentation.prediction_file import read_mask
from mars_assets.segmentation.task import smallest_evaluated
from mars_assets.storage.files import read_json, write_json
from mars_assets_tests.segmentation.known import ground, placed, state, write


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_an_exported_encoder_is_the_one_in_use(lake: Lake, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = install(lake, Origin("sample", "sample"))
    set_current_weights(lake, folder, open_weights(folder).sha256)
    target = lake.root / "out" / f"encoder{suffix}"
    assert main(["--lake", str(lake.root), "export", "prithvi_weights", str(target)]) == 0
    assert str(target) in capsys.readouterr().out
    config = PrithviConfig.from_dict(read_json(target.with_name(target.name + ".json"))["prithvi"])
    encoder, report = load_encoder_state(config, read_checkpoint(target))
    assert report.layout == "prefixed"
    x = torch.randn(1, 6, 32, 32)
    with torch.inference_mode():
        assert torch.equal(encoder(x).tokens, load_encoder(folder)(x).tokens)


def test_what_is_missing_is_said_without_a_traceback(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--lake", str(lake.root), "export", "cls_model", "encoder.pt"]) == 1
    assert "dagster asset materialize --select cls_model" in capsys.readouterr().err


def test_another_suffix(lake: Lake, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = install(lake, Origin("sample", "sample"))
    set_current_weights(lake, folder, open_weights(folder).sha256)
    assert main(["--lake", str(lake.root), "export", "prithvi_weights", str(tmp_path / "encoder.bin")]) == 1
    assert ".pt or .safetensors" in capsys.readouterr().err
    assert list(tmp_path.glob("encoder*")) == []


def _segmenter(lake: Lake, **recipe: Any) -> None:
    """A seg_model of a micro network, untrained, in use."""
    from mars_assets.segmentation.mmseg_setup import mmseg_ready
    from mars_assets.segmentation.recipe import SegRecipe
    from mars_assets.training.compute import Compute

    chosen = SegRecipe(neck_channels=8, head_channels=8, layers=1, unet_channels=2, unet_stages=2, **recipe)
    micro = PrithviConfig(variant="micro", img_size=32, embed_dim=16, depth=2, num_heads=2)
    folder = lake.model("seg_model") / "v1"
    folder.mkdir(parents=True)
    with mmseg_ready():
        from mmseg.registry import MODELS

        from mars_assets.segmentation.mmseg_config import mmseg_config

        config = mmseg_config(chosen, micro, Compute("cpu", "fp32", 1, 0))
        state = MODELS.build(config.model).state_dict()
    torch.save({"meta": {}, "state_dict": state}, folder / "model.pth")
    (folder / "config.py").write_text(config.pretty_text)
    statistics = micro.to_dict()["statistics"]
    write_json(folder / "config.json", {"recipe": chosen.model_dump(), "statistics": statistics})
    make_current(lake, "seg_model", "v1", {})


def test_the_encoder_of_a_segmenter_goes_out_with_how_its_input_is_normalised(lake: Lake, tmp_path: Path) -> None:
    _segmenter(lake, normalize="image")
    target = tmp_path / "encoder.pt"
    assert main(["--lake", str(lake.root), "export", "seg_model", str(target)]) == 0
    about = read_json(tmp_path / "encoder.pt.json")
    assert about["prithvi"]["embed_dim"] == 16
    assert "of the image's own values" in about["input"]


def test_a_unet_has_no_encoder_to_go_out(lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _segmenter(lake, architecture="unet")
    assert main(["--lake", str(lake.root), "export", "seg_model", str(tmp_path / "encoder.pt")]) == 1
    assert "has no encoder of Prithvi's, and only these can be exported" in capsys.readouterr().err


def test_craters_of_a_folder_are_a_table(lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _segmenter(lake, crop_size=32, window=32, stride=16)
    pictures, masks, out = tmp_path / "pictures", tmp_path / "masks", tmp_path / "craters.csv"
    (pictures / "deeper").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)
    Image.fromarray(noise).save(pictures / "a.png")
    Image.fromarray(noise.T.copy()).save(pictures / "deeper" / "b.jpg")
    (pictures / "broken.png").write_bytes(b"no picture")
    arguments = ["--lake", str(lake.root), "outline", str(pictures), "--out", str(out), "--masks", str(masks)]
    assert main(arguments) == 0
    assert "not evaluated, so craters of every size are listed" in capsys.readouterr().out
    assert main([*arguments, "--smallest", "0"]) == 0
    said = capsys.readouterr().out
    assert "broken.png was skipped: " in said
    assert "deeper/b.jpg is left out" not in said
    table = pd.read_csv(out)
    assert list(table.columns) == ["image", "crater", "x_px", "y_px", "diameter_px", "probability", "cut"]
    shapes = {path.relative_to(masks).as_posix(): Image.open(path).size for path in masks.rglob("*.png")}
    assert shapes == {"a.png.png": (50, 40), "deeper/b.jpg.png": (40, 50)}
    expected = {name: craters_of_mask(read_mask(masks / f"{name}.png")) for name in ("a.png", "deeper/b.jpg")}
    assert table["image"].value_counts().to_dict() == {name: len(some) for name, some in expected.items() if some}
    assert main([*arguments, "--smallest", "1000"]) == 0
    assert len(pd.read_csv(out)) == 0


def test_outlines_of_pictures_of_any_name_and_format(lake: Lake, tmp_path: Path) -> None:
    from mars_assets.bands import HLS_BANDS, impute, scale_to_reflectance
    from mars_assets.tensors.geotiff import write_chip

    _segmenter(lake, crop_size=32, window=32, stride=16)
    pictures, masks, out = tmp_path / "pictures", tmp_path / "deep" / "masks", tmp_path / "craters.JSON"
    pictures.mkdir()
    rgb = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    image = Image.fromarray(rgb)
    same = ["a.tif", "b.bmp", os.fsdecode(b"caf\xe9.png"), "n" * 251 + ".png", "c"]
    for name in same:
        image.save(pictures / name, {"a.tif": "TIFF", "b.bmp": "BMP"}.get(name, "PNG"))
    chip = impute(scale_to_reflectance(rgb), "post_norm")
    write_chip(pictures / "chip.tif", chip, HLS_BANDS)
    write_chip(pictures / "fraction.tif", chip / 10_000, HLS_BANDS)
    image.crop((0, 0, 1, 1)).save(pictures / "one.png")
    arguments = ["--lake", str(lake.root), "outline", str(pictures), "--masks", str(masks), "--out", str(out)]
    assert main([*arguments, "--smallest", "0"]) == 0
    predicted = {path.name: read_mask(path) for path in masks.iterdir()}
    assert len(predicted) == 6
    assert predicted.keys() > {"a.tif.png", "b.bmp.png", "caf\\xe9.png.png", "c.png", "chip.tif.png"}
    for mask in predicted.values():
        np.testing.assert_array_equal(mask, predicted["a.tif.png"])
    craters = craters_of_mask(predicted["a.tif.png"])
    expected = {*("a.tif", "b.bmp", "caf\\xe9.png", "n" * 251 + ".png", "c", "chip.tif")} if craters else set()
    assert {row["image"] for row in read_json(out)} == expected


def test_what_cannot_be_written_is_said_before_any_work(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _segmenter(lake)
    monkeypatch.setattr("mars_assets.cli.outline_pictures", lambda *_: pytest.fail("work was done"))
    (tmp_path / "file").write_text("")
    wrong = {
        ("--out", "x.geojson"): "has the suffix '.geojson'",
        ("--out", "none/x.csv"): "name a folder that exists",
        ("--out", "x.csv", "--masks", "file"): "nothing can be written into",
        ("--out", "x.csv", "--masks", "file/deeper"): "nothing can be written into",
    }
    monkeypatch.chdir(tmp_path)
    for options, said in wrong.items():
        assert main(["--lake", str(lake.root), "outline", str(tmp_path), *options]) == 1
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["P1_kinds", "P2_exif", "P3_formats"])
def test_reported_pictures_are_outlined_or_named(
    lake: Lake, shared: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _segmenter(lake, crop_size=32, window=32, stride=16)
    folder = shared / "data" / "reported" / "pictures" / kind
    out = tmp_path / "craters.csv"
    arguments = [
        "--lake",
        str(lake.root),
        "outline",
        str(folder),
        "--out",
        str(out),
        "--masks",
        str(tmp_path / "masks"),
    ]
    assert main(arguments) == 0
    found = {path.stem for path in (tmp_path / "masks").iterdir()}
    skipped = {line.split(" was skipped")[0] for line in capsys.readouterr().out.splitlines() if "skipped" in line}
    assert found | skipped == {path.name for path in folder.iterdir()}
    assert not found & skipped


def test_a_folder_without_a_picture_is_named(lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _segmenter(lake)
    (tmp_path / "empty").mkdir()
    inside = ["--lake", str(lake.root), "outline", str(tmp_path), "--masks", str(tmp_path / "masks")]
    assert main(inside) == 1
    assert "name a folder elsewhere" in capsys.readouterr().err
    for folder, said in (("empty", "no JPEG or PNG"), ("nowhere", "is not a folder")):
        assert main(["--lake", str(lake.root), "outline", str(tmp_path / folder)]) == 1
        assert said in capsys.readouterr().err


@pytest.mark.slow
def test_the_map_of_a_scene(lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _segmenter(lake, crop_size=32, window=32, stride=16)
    raster, out = placed(tmp_path / "scene.tif"), tmp_path / "new" / "out"
    arguments = ["--lake", str(lake.root), "map", str(raster), "--out", str(out), "--device", "cpu"]
    assert main(arguments) == 0
    said = capsys.readouterr()
    about = read_json(out / "provenance.json")
    assert about["smallest_px"] == 10
    assert f"{out}: {about['craters']} craters of scene by seg_model v1" in said.out
    assert "craters narrower than 10.0 pixels are left out" in said.out
    assert "not evaluated, so that is a guess" in said.out
    assert f"counted over {about['counted_m2'] / 1e6:.4g} km2" in said.out
    assert f"to look at it: {out / 'map.html'}, or {out / 'craters.gpkg'} in QGIS" in said.out
    assert "seg_model v1 is not calibrated" in said.err
    before = state(out)
    assert main(arguments) == 0
    assert "the map of scene exists" in capsys.readouterr().err
    assert state(out) == before
    rows = [{"model_version": "v1", "label_version": "l1", "split": "valid", "smallest_px": 2.5}]
    write_json(lake.metrics("seg_evaluation").with_suffix(".json"), rows)
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert "craters narrower than 4.0 pixels" in said.out
    assert "guess" not in said.out
    unplaced = write(tmp_path / "nowhere.tif", ground())
    assert main([*arguments[:3], str(unplaced), *arguments[4:], "--smallest", "12", "--nodata", "70"]) == 0
    assert "the raster is not map projected" in capsys.readouterr().out
    assert (read_json(out / "provenance.json")["smallest_px"], list(out.glob("*.scc"))) == (12, [])


def test_maps_that_cannot_be_made_are_refused(lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raster, out = placed(tmp_path / "scene.tif"), tmp_path / "out"

    def refused(*arguments: str | Path, said: str) -> None:
        assert main(["--lake", str(lake.root), "map", *map(str, arguments)]) == 1
        assert said in capsys.readouterr().err
        assert not out.exists()

    refused(raster, "--out", out, said="--select seg_model")
    _segmenter(lake, crop_size=32, window=32, stride=16)
    for size in ("2", "nan", "inf", "-5"):
        refused(raster, "--out", out, "--smallest", size, said="give at least 4 pixels")
    refused(raster, "--out", out, "--bands", "2", said="scene.tif")
    refused(raster, "--out", out, "--nodata", "700", said="cannot be no data")
    refused(raster, "--out", out, "--label", tmp_path / "scene.LBL", said="scene.LBL does not exist")
    refused(tmp_path / "missing.tif", "--out", out, said="missing.tif does not exist")
    refused(tmp_path, "--out", out, said="is a folder: name the raster in it")
    refused(raster, "--out", raster, said="nothing can be written into")
    refused(raster, "--out", raster / "deeper", said="nothing can be written into")
    (tmp_path / "text.tif").write_text("no raster")
    refused(tmp_path / "text.tif", "--out", out, said="text.tif cannot be opened as a raster")


def test_a_model_of_rims_makes_no_map(lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _segmenter(lake, annotation="outline_5", crop_size=32, window=32, stride=16)
    raster = placed(tmp_path / "scene.tif")
    assert main(["--lake", str(lake.root), "map", str(raster), "--out", str(tmp_path / "out")]) == 1
    assert "predicts the rims of craters, and maps need a model that predicts craters" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_what_was_judged_is_the_smallest_that_is_listed(lake: Lake) -> None:
    _segmenter(lake)
    model = current_model(lake, "seg_model")
    assert smallest_evaluated(lake, model) == 0
    names = ("model_version", "label_version", "split", "smallest_px")
    values = [
        ("v1", "l1", "test", 4.0),
        ("v1", "l2", "valid", 6.5),
        ("v1", "l2", "test", 7.5),
        ("v0", "l2", "test", 3.0),
    ]
    rows = [dict(zip(names, row, strict=True)) for row in values]
    write_json(lake.metrics("seg_evaluation").with_suffix(".json"), rows)
    assert smallest_evaluated(lake, model) == 6.5


def test_an_export_that_cannot_be_written_is_refused_before_any_work(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mars_assets.cli.current_weights", lambda _: pytest.fail("work was done"))
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.pt").mkdir()
    wrong = {
        "file/encoder.pt": "Not a directory",
        "file/deeper/encoder.pt": "Not a directory",
        "folder.pt": "is a folder: name a file",
        "n" * 249 + ".pt": "its name is too long",  # with .json after it
    }
    for target, said in wrong.items():
        assert main(["--lake", str(lake.root), "export", "prithvi_weights", str(tmp_path / target)]) == 1
        assert said in capsys.readouterr().err


def test_paths_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MARS_LAKE", "~/lake")
    _segmenter(Lake.at(tmp_path / "lake"), crop_size=32, window=32, stride=16)
    (tmp_path / "pictures").mkdir()
    Image.fromarray(np.full((32, 32), 90, np.uint8)).save(tmp_path / "pictures" / "a.png")
    assert main(["outline", "~/pictures", "--out", "~/craters.csv", "--masks", "~/masks"]) == 0
    assert (tmp_path / "craters.csv").exists()
    assert (tmp_path / "masks" / "a.png.png").exists()
    assert main(["outline", "~nobody_at_all/pictures"]) == 1
    assert "~nobody_at_all/pictures" in capsys.readouterr().err
    assert main(["--lake", "s3://bucket/lake", "outline", "~/pictures"]) == 1
    assert "must be a local folder" in capsys.readouterr().err
