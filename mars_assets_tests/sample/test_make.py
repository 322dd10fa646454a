"""The whole sample, at a small size: made once, made again identically, and left alone when it is there."""

from __future__ import annotations

import hashlib
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mars_assets.errors import MarsError
from mars_assets.imagery.crops import Source, cut_crops
from mars_assets.imagery.download import Archive, fetch_product
from mars_assets.imagery.products import product_files, read_observations_csv
from mars_assets.labels.exports import read_export
from mars_assets.lake import Lake
from mars_assets.sample import make as make_module
from mars_assets.sample.exports import SEGMENTATION_ZIP, TILES_ZIP
from mars_assets.sample.make import GROUND_TRUTH, SEED, Plan, make_sample, plan_scenes
from mars_assets.sample.server import serve
from mars_assets.sample.terrain import SMALLEST_LABELLED, _place_craters

pytestmark = pytest.mark.slow

SMALL = Plan(train=1, valid=1, test=1, unlabelled=1, height=1180, width=1180)


def _make(folder: Path, seed: int = 3) -> bool:
    return make_sample(Lake.at(folder), seed, SMALL)


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    assert _make(folder)
    return folder


def test_observations_resolve_to_files_and_say_that_they_are_synthetic(sample: Path) -> None:
    table = read_observations_csv(sample / "observations.csv")
    assert table["product"].tolist() == ["COLOR"] * 3 + ["RGB.NOMAP.browse"]
    assert table["note"].str.contains("SYNTHETIC").all()
    assert "SYNTHETIC" in (sample / "sample" / "SYNTHETIC.txt").read_text()
    for observation, product in zip(table["observation"], table["product"], strict=True):
        files = product_files(observation, product)
        assert (sample / "sample" / files.image).exists()
        assert files.label is None or (sample / "sample" / files.label).exists()


def test_exports_cover_the_same_crops_and_split_by_scene(sample: Path) -> None:
    outlines = read_export(sample / "inbox" / SEGMENTATION_ZIP)
    tiles = read_export(sample / "inbox" / TILES_ZIP)
    assert outlines.warnings == tiles.warnings == ()
    truth = pd.read_parquet(sample / "sample" / GROUND_TRUTH)
    split_of = truth.dropna(subset="split").groupby("observation")["split"].unique().map(list).to_dict()
    assert sorted(split_of.values()) == [["test"], ["train"], ["valid"]]
    for image in (*outlines.images, *tiles.images):
        assert split_of[image.original[:15]] == [image.split]
    crops = {image.original for image in outlines.images}
    assert {image.original.rpartition("-t")[0] for image in tiles.images} <= crops


def test_outlines_are_craters_of_the_ground_truth(sample: Path) -> None:
    truth = pd.read_parquet(sample / "sample" / GROUND_TRUTH)
    count = 0
    for image in read_export(sample / "inbox" / SEGMENTATION_ZIP).images:
        row, column = int(image.original[-12:-7]), int(image.original[-5:])
        known = truth[truth["observation"] == image.original[:15]]
        for outline in image.outlines or ():
            polygon = np.reshape(outline["polygons"][0], (-1, 2))
            low, high = polygon.min(axis=0), polygon.max(axis=0)
            if low.min() < 1 or high.max() > 511:
                continue
            count += 1
            x, y = (low + high) / 2
            distance = np.hypot(known["x"] - column - x, known["y"] - row - y)
            nearest = known.loc[distance.idxmin()]
            assert distance.min() < 0.5
            assert high - low == pytest.approx(nearest["diameter"], rel=0.02)
    assert count > 5


def test_ground_truth_lies_inside_the_labels_bounds(sample: Path) -> None:
    import rasterio
    from rasterio.warp import transform

    truth = pd.read_parquet(sample / "sample" / GROUND_TRUTH)
    assert truth["diameter_m"].to_numpy() == pytest.approx(truth["diameter"].to_numpy() / 2)
    observation = truth["observation"].iloc[0]
    craters = truth[truth["observation"] == observation]
    with rasterio.open(sample / "sample" / product_files(observation, "COLOR").image) as file:
        dn = file.read(2)
        radius = file.crs.to_dict()["R"]
        xs, ys = transform(
            f"+proj=longlat +R={radius} +no_defs", file.crs, craters["longitude"].tolist(), craters["latitude"].tolist()
        )
        columns, rows = rasterio.transform.rowcol(file.transform, xs, ys, op=float)[::-1]
    assert columns == pytest.approx(craters["x"].to_numpy(), abs=0.01)
    assert rows == pytest.approx(craters["y"].to_numpy(), abs=0.01)
    assert (dn[rows.astype(int), columns.astype(int)] > 0).all()


def test_the_same_seed_gives_the_same_bytes(sample: Path, tmp_path: Path) -> None:
    assert _make(tmp_path)
    assert _digests(sample) == _digests(tmp_path)


def test_the_downloader_and_the_cutting_find_the_labelled_crops(sample: Path, tmp_path: Path) -> None:
    images = read_export(sample / "inbox" / SEGMENTATION_ZIP).images
    observation = images[0].original[:15]
    with serve(sample / "sample") as base:
        source = Archive(base, "tests@example.org", lock_folder=tmp_path / "locks")
        image, label = fetch_product(source, product_files(observation, "COLOR"), tmp_path / "files")
    manifest = cut_crops(Source(image.path, label.path, observation, "COLOR"), tmp_path / "crops")
    kept = manifest[manifest["kept"]]
    assert set(kept["crop_id"]) == {image.original for image in images if image.original.startswith(observation)}
    assert kept["position_kind"].eq("projected").all()


class _Rendering(Exception):
    """Raised instead of making scenes."""


@pytest.fixture
def no_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise _Rendering

    monkeypatch.setattr(make_module, "_make_scenes", refuse)


@pytest.mark.usefixtures("no_rendering")
def test_what_is_there_is_left_alone(sample: Path) -> None:
    before = _digests(sample)
    assert not _make(sample)
    assert _digests(sample) == before


@pytest.mark.usefixtures("no_rendering")
@pytest.mark.parametrize("change", ["seed", "version", "missing"])
def test_what_is_missing_or_of_other_settings_is_made(
    sample: Path, tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(sample, tmp_path / "copy"))
    if change == "version":
        monkeypatch.setattr(make_module, "VERSION", make_module.VERSION + 1)
    if change == "missing":
        (folder / "inbox" / TILES_ZIP).unlink()
    for _ in range(2):
        # Also after an attempt that came to nothing: what is half made does not count as made.
        with pytest.raises(_Rendering):
            _make(folder, seed=4 if change == "seed" else 3)


def test_real_observations_are_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "observations.csv"
    path.write_text("id,product,note\nESP_011472_1225,COLOR,mine\n")
    with pytest.raises(MarsError, match="ESP_011472_1225"):
        _make(tmp_path)
    assert "mine" in path.read_text()
    assert not (tmp_path / "sample").exists()


def test_scenes_differ_and_are_planned_by_the_seed() -> None:
    scenes = plan_scenes(1)
    assert [scene.split for scene in scenes].count("train") == 7
    assert len(scenes) == 13
    assert len({scene.spec.observation for scene in scenes}) == len({scene.spec.seed for scene in scenes}) == 13
    assert scenes == plan_scenes(1) != plan_scenes(2)


def test_half_the_tiles_have_craters_and_they_cover_a_tenth() -> None:
    covered, with_crater, without = [], [], []
    for scene in [scene for seed in range(2) for scene in plan_scenes(seed)]:
        spec = scene.spec
        craters = _place_craters(np.random.default_rng(spec.seed), spec)
        x, y, r = np.array([(c.x, c.y, c.diameter / 2) for c in craters if c.diameter >= SMALLEST_LABELLED]).T
        inside = (x > 0) & (x < spec.width) & (y > 0) & (y < spec.height)
        covered.append(math.pi * (r[inside] ** 2).sum() / (spec.height * spec.width))
        for left, top in np.ndindex(spec.width // 224, spec.height // 224):
            dx, dy = x - left * 224, y - top * 224
            centred = (dx > 0) & (dx < 224) & (dy > 0) & (dy < 224)
            with_crater.append(bool((centred & (r > 10)).any()))
            gap = np.hypot(np.clip(dx, 0, 224) - dx, np.clip(dy, 0, 224) - dy)
            without.append(not (gap < r).any())
    assert 0.05 < np.mean(covered) < 0.12
    assert 0.35 < np.mean(with_crater) < 0.65
    assert 0.25 < np.mean(without) < 0.6


@pytest.mark.parametrize("kind", ["ripples", "boulders", "knobs", "channels"])
def test_every_kind_of_ground_is_shown_in_training_before_it_is_asked_for(kind: str) -> None:
    scenes = plan_scenes(SEED)
    strengths = {split: [getattr(s.spec, kind) for s in scenes if s.split == split] for split in ("train", "test")}
    assert sum(strength > 0 for strength in strengths["train"]) >= 2
    assert any(strength > 0 for strength in strengths["test"])
