import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
from PIL import Image

from mars_assets.bands import (
    CALIBRATED_BANDS,
    HLS_BANDS,
    PRITHVI_V1,
    STATISTICS,
    impute,
    normalize,
    scale_to_reflectance,
)
from mars_assets.errors import DamagedFileError, MarsError, MissingInputError, ProvenanceError
from mars_assets.lake import Lake
from mars_assets.progress import Progress
from mars_assets.storage.files import write_table
from mars_assets.storage.geotiff import georeference
from mars_assets.storage.named_files import KEPT_SECONDS
from mars_assets.tensors import stages as tensors
from mars_assets.tensors.geotiff import read_chip
from mars_assets.tensors.stages import (
    Scale,
    chip_problems,
    make_calibrated,
    make_imputed,
    make_reflectance,
    make_spectral,
    read_manifest,
)


def images(lake: Lake, count: int = 4, side: int = 24, observation: str | None = None) -> pd.DataFrame:
    """Rows of labelled_crops with random pixels."""
    rows = []
    for n in range(count):
        path = lake.labels / "images" / f"i{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(n).integers(0, 256, (side, side + 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        rows.append(
            {
                "image_id": f"i{n}",
                "file": lake.relative(path),
                "height": side,
                "width": side + 8,
                "pixels_sha": f"sha{n}",
                "origin": "crop" if observation else "export",
                "observation": observation,
                "original": f"crop{n}",
            }
        )
    return pd.DataFrame(rows)


def pixels(lake: Lake, row: pd.Series) -> np.ndarray:
    return np.asarray(Image.open(lake.root / row["file"]))


def test_chips_are_the_formulas_of_the_pixels(lake: Lake) -> None:
    table = images(lake)
    result = make_reflectance(lake, table, "v")
    assert result.computed == 4
    for row, chip in zip(table.to_dict("records"), result.manifest.to_dict("records"), strict=True):
        np.testing.assert_array_equal(
            read_chip(lake.root / chip["file"], HLS_BANDS[:3]), scale_to_reflectance(pixels(lake, row))
        )
    for method in ("means", "pre_norm", "post_norm"):
        manifest = make_imputed(lake, method).manifest
        chip = read_chip(lake.root / manifest.at[2, "file"], HLS_BANDS)
        bgr = scale_to_reflectance(pixels(lake, table.iloc[2]))
        np.testing.assert_array_equal(chip, impute(bgr, method))
        assert normalize(chip, PRITHVI_V1).shape == (6, 24, 32)
        assert chip_problems(lake, f"imputed_{method}") == ([], 4)


def test_a_killed_stage_goes_on(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    table = images(lake)
    _killed_after(2, monkeypatch, lambda: make_reflectance(lake, table, "v"))
    with pytest.raises(MissingInputError):
        read_manifest(lake, "reflectance")
    assert make_reflectance(lake, table, "v").computed == 2
    assert make_reflectance(lake, table, "v").computed == 0


def test_a_killed_change_of_settings_leaves_the_chips_in_force(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """v1, then v2 killed part-way, then v1 again, as a run without a configuration asks for."""
    table = images(lake)
    before = make_reflectance(lake, table, "v").manifest
    wanted = _contents(lake, before)
    _killed_after(2, monkeypatch, lambda: make_reflectance(lake, table, "v", Scale("v2")))
    pd.testing.assert_frame_equal(read_manifest(lake, "reflectance")[0], before)
    assert _contents(lake, before) == wanted
    assert make_imputed(lake, "means").computed == 4
    assert tensors.settings_before(lake)["statistics"] == "v1"

    assert make_reflectance(lake, table, "v").computed == 0
    assert make_imputed(lake, "means").computed == 0
    assert make_reflectance(lake, table, "v", Scale("v2")).computed == 2, "those that were not made before"


def test_a_change_of_settings_leaves_the_chips_that_a_training_reads(lake: Lake) -> None:
    before = make_reflectance(lake, images(lake), "v").manifest
    wanted = _contents(lake, before)
    for file in before["file"]:
        os.utime(lake.root / file, (0, 0))  # computed long ago
    later = make_reflectance(lake, images(lake), "v", Scale("v2")).manifest
    assert _contents(lake, before) == wanted
    assert not set(before["file"]) & set(later["file"])
    for file in before["file"]:
        os.utime(lake.root / file, (0, time.time() - 2 * KEPT_SECONDS))
    make_reflectance(lake, images(lake, 6), "v", Scale("v2"))
    assert len(list(lake.tensors("reflectance").glob("*.tif"))) == 6, "the others were not used for a while"
    assert _contents(lake, later) != wanted


def test_chips_that_are_named_by_their_image_alone_are_used(lake: Lake) -> None:
    """As earlier versions named them."""
    manifest, provenance = make_reflectance(lake, images(lake), "v").manifest, read_manifest(lake, "reflectance")[1]
    for row in manifest.itertuples():
        (lake.root / row.file).rename(lake.tensors("reflectance") / f"{row.image_id}.tif")
    files = [lake.relative(lake.tensors("reflectance") / f"{image}.tif") for image in manifest["image_id"]]
    write_table(lake.chips("reflectance"), manifest.assign(file=files), provenance)
    more = make_reflectance(lake, images(lake, 5), "w")
    assert more.computed == 1
    assert more.manifest["file"].tolist()[:4] == files
    assert chip_problems(lake, "reflectance") == ([], 5)
    assert make_reflectance(lake, images(lake), "v", Scale("v2")).computed == 4


def _contents(lake: Lake, manifest: pd.DataFrame) -> list[bytes]:
    return [(lake.root / file).read_bytes() for file in manifest["file"]]


def _killed_after(count: int, monkeypatch: pytest.MonkeyPatch, run: Callable[[], object]) -> None:
    """Runs a stage that is killed when it has written ``count`` chips."""
    write, written = tensors.write_chip, []

    def dying(path: Path, *arguments: object, **options: object) -> None:
        if len(written) == count:
            raise KeyboardInterrupt
        written.append(path)
        write(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(tensors, "write_chip", dying)
        with pytest.raises(KeyboardInterrupt):
            run()


def test_new_images_leave_the_chips_in_force_while_they_are_made(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    make_reflectance(lake, images(lake), "v")
    _killed_after(1, monkeypatch, lambda: make_reflectance(lake, images(lake, 6), "w"))
    assert len(read_manifest(lake, "reflectance")[0]) == 4
    assert make_reflectance(lake, images(lake, 6), "w").computed == 1


def test_an_unchanged_stage_opens_no_chip(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    make_reflectance(lake, images(lake), "v")
    monkeypatch.setattr(rasterio, "open", lambda path, *_, **__: pytest.fail(f"{path} is opened"))
    assert make_reflectance(lake, images(lake), "v").computed == 0


def test_a_chip_that_is_not_what_the_manifest_says_is_found(lake: Lake) -> None:
    make_reflectance(lake, images(lake), "v")
    path = lake.root / read_manifest(lake, "reflectance")[0].set_index("image_id").at["i1", "file"]
    tensors.write_chip(path, read_chip(path, HLS_BANDS[:3]) * np.float32(0.5), HLS_BANDS[:3], fingerprint="other")
    problems, _ = chip_problems(lake, "reflectance")
    assert len(problems) == 1
    assert f"{path.name} was computed from other inputs" in problems[0]


def test_only_what_is_new_or_changed_is_computed(lake: Lake) -> None:
    table = images(lake)
    make_reflectance(lake, table, "v1")
    make_imputed(lake, "means")
    table.loc[1, "pixels_sha"] = "other pixels"
    more = pd.concat([table, images(lake, 6).iloc[4:]], ignore_index=True)
    assert make_reflectance(lake, more, "v2").computed == 3
    assert make_imputed(lake, "means").computed == 3
    assert read_manifest(lake, "imputed_means")[1]["label_version"] == "v2"


def test_another_setting_makes_every_chip_again(lake: Lake) -> None:
    table = images(lake)
    make_reflectance(lake, table, "v")
    assert make_reflectance(lake, table, "v", Scale(truncate=True)).computed == 4
    assert make_reflectance(lake, table, "v", Scale("v2")).computed == 4
    with pytest.raises(ProvenanceError, match=r"'v1'.*'v2'"):
        make_imputed(lake, "means", statistics="v1")
    assert make_imputed(lake, "means", statistics="v2").provenance["statistics"] == "v2"


def test_own_crops_keep_their_place_on_mars(lake: Lake) -> None:
    place = [0.5, 0.0, 1000.0, 0.0, -0.5, 2000.0]
    table = placed_images(lake, place)
    make_reflectance(lake, table, "v")
    manifest = make_imputed(lake, "post_norm").manifest
    with rasterio.open(lake.root / manifest.at[0, "file"]) as file:
        assert file.crs.to_string() == "IAU_2015:49910"
        assert list(file.transform)[:6] == place
    with rasterio.open(lake.root / manifest.at[1, "file"]) as file:
        assert file.crs is None
    assert manifest.at[1, "chip_sha"] == _without_a_place(lake, table).at[1, "chip_sha"]


def test_a_crop_whose_place_was_corrected_has_it_in_its_chips(lake: Lake) -> None:
    table = placed_images(lake, [0.5, 0.0, 1000.0, 0.0, -0.5, 2000.0])
    make_reflectance(lake, table, "v")
    make_imputed(lake, "post_norm")
    corrected = [0.5, 0.0, 1100.0, 0.0, -0.5, 2000.0]
    placed_images(lake, corrected)
    assert make_reflectance(lake, table, "v").computed == 1
    result = make_imputed(lake, "post_norm")
    assert result.computed == 1
    assert list(georeference(lake.root / result.manifest.at[0, "file"])[1])[:6] == corrected
    assert make_reflectance(lake, table, "v").computed == 0


def placed_images(lake: Lake, place: list[float]) -> pd.DataFrame:
    """Two crops of the lake's own: a map projected one, whose transform is ``place``, and one without a place."""
    observation = "ESP_011472_1225"
    crops = pd.DataFrame(
        {
            "crop_id": [f"crop{n}" for n in range(2)],
            "product": ["RED", "RGB.NOMAP"],
            "dn_file": [None, None],
            "invalid_fraction": [0.0, 0.0],
            "saturated_fraction": [0.0, 0.0],
            "crs": ["IAU_2015:49910", None],
            "transform": [place, None],
        }
    )
    write_table(lake.crops(observation) / "crops.parquet", crops)
    return images(lake, 2, observation=observation)


def _without_a_place(lake: Lake, table: pd.DataFrame) -> pd.DataFrame:
    """The manifest of the same images, were they from elsewhere."""
    make_reflectance(lake, table.assign(origin="export"), "v")
    return make_imputed(lake, "post_norm").manifest


def write_dn(path: Path, dn: np.ndarray, scale: float = 2e-4, offset: float = 0.03, incidence: float = 60.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", count=3, height=dn.shape[1], width=dn.shape[2], dtype="uint16", nodata=0
    ) as file:
        file.write(dn)
        file.scales, file.offsets = (scale,) * 3, (offset,) * 3
        file.update_tags(INCIDENCE_ANGLE=incidence)


def colour_crops(
    lake: Lake, observation: str, count: int, *, invalid: float = 0.0, saturated: float = 0.0, incidence: float = 60.0
) -> list[np.ndarray]:
    """Crops of a COLOR product with random DN, in the order of their ids; the last lacks data or is saturated."""
    folder = lake.crops(observation)
    every = [np.random.default_rng(n).integers(3, 1021, (3, 24, 32), np.uint16) for n in range(count)]
    for n, dn in enumerate(every):
        write_dn(folder / f"crop{n}.tif", dn)
    crops = pd.DataFrame(
        {
            "crop_id": [f"crop{n}" for n in range(count)],
            "product": "COLOR",
            "dn_file": [f"crop{n}.tif" for n in range(count)],
            "invalid_fraction": [0.0] * (count - 1) + [invalid],
            "saturated_fraction": [0.0] * (count - 1) + [saturated],
            "crs": None,
            "transform": None,
        }
    )
    write_table(folder / "crops.parquet", crops, {"fingerprint": "cut", "label": {"incidence_angle": incidence}})
    return every


def test_calibrated_crops_are_i_over_f(lake: Lake) -> None:
    observation = "ESP_013951_1955"
    every = colour_crops(lake, observation, 3)
    others = images(lake, 5).iloc[3:]
    table = pd.concat([images(lake, 3, observation=observation), others], ignore_index=True)
    result = make_calibrated(lake, table, "v")
    assert list(result.manifest["image_id"]) == ["i0", "i1", "i2"], "images from elsewhere have no calibrated source"
    assert result.provenance["label_version"] == "v"
    for dn, row in zip(every, result.manifest.itertuples(), strict=True):
        nir, red, blue_green = (dn.astype(np.float64) * 2e-4 + 0.03) / np.cos(np.pi / 3) * 10_000
        chip = read_chip(lake.root / row.file, CALIBRATED_BANDS)
        np.testing.assert_allclose(chip, np.stack([blue_green, red, nir]), rtol=1e-6)
        np.testing.assert_allclose(chip, (dn[::-1] * 2.0 + 300) * 2, rtol=1e-6)
    assert chip_problems(lake, "calibrated") == ([], 3)
    assert make_calibrated(lake, table, "v").computed == 0

    spectral = make_spectral(lake)
    assert list(spectral.manifest["image_id"]) == ["i0", "i1", "i2"]
    chip = read_chip(lake.root / spectral.manifest.at[0, "file"], HLS_BANDS)
    np.testing.assert_array_equal(chip[1:4], read_chip(lake.root / result.manifest.at[0, "file"], CALIBRATED_BANDS))
    assert chip_problems(lake, "imputed_spectral") == ([], 3)
    assert make_spectral(lake).computed == 0

    damaged, sha = lake.root / spectral.manifest.at[0, "file"], spectral.manifest.at[0, "chip_sha"]
    _write(damaged, np.where(np.arange(6)[:, None, None] == 0, chip + 1, chip), sha)
    assert "differ from those that spectral gives" in chip_problems(lake, "imputed_spectral")[0][0]
    _write(damaged, chip * 100, sha)
    assert "outside 0" in chip_problems(lake, "imputed_spectral")[0][0]


def test_a_crop_cut_anew_is_calibrated_anew(lake: Lake) -> None:
    observation = "ESP_013951_1955"
    colour_crops(lake, observation, 2)
    table = images(lake, 2, observation=observation)
    make_calibrated(lake, table, "v")
    write_table(
        lake.crops(observation) / "crops.parquet",
        pd.read_parquet(lake.crops(observation) / "crops.parquet"),
        {"fingerprint": "cut otherwise", "label": {"incidence_angle": 60.0}},
    )
    assert make_calibrated(lake, table, "v").computed == 2


@pytest.mark.parametrize(
    ("flaw", "left"), [({"invalid": 0.01}, ["i0"]), ({"saturated": 0.001}, ["i0"]), ({"incidence": 85.0}, [])]
)
def test_what_is_no_reflectance_is_not_calibrated(lake: Lake, flaw: dict[str, float], left: list[str]) -> None:
    observation = "ESP_013951_1955"
    colour_crops(lake, observation, 2, **flaw)
    said: list[str] = []
    result = make_calibrated(lake, images(lake, 2, observation=observation), "v", progress=Progress(said.append))
    assert list(result.manifest["image_id"]) == left
    assert any(f"left out {2 - len(left)} crops that have no-data" in line for line in said)


def test_a_crop_that_is_no_longer_cut_is_named(lake: Lake) -> None:
    observation = "ESP_013951_1955"
    colour_crops(lake, observation, 1)
    with pytest.raises(MarsError, match=r"crop1 is no longer among the crops.*materialize 'labelled_crops' again"):
        make_reflectance(lake, images(lake, 2, observation=observation), "v")


def test_nothing_calibrated_is_no_error(lake: Lake) -> None:
    assert make_calibrated(lake, images(lake, 2), "v").manifest.empty
    assert make_spectral(lake).manifest.empty
    assert chip_problems(lake, "imputed_spectral") == ([], 0)


def test_a_lost_dn_file_is_named(lake: Lake) -> None:
    observation = "ESP_013951_1955"
    colour_crops(lake, observation, 1)
    (lake.crops(observation) / "crop0.tif").unlink()
    with pytest.raises(DamagedFileError, match=r"crop0\.tif.*materialize 'crops' again"):
        make_calibrated(lake, images(lake, 1, observation=observation), "v")


def test_bands_that_follow_from_one_another_take_little_space(lake: Lake) -> None:
    table = images(lake, 1, side=256)
    grey = np.repeat(pixels(lake, table.iloc[0])[..., :1], 3, axis=2)
    Image.fromarray(grey).save(lake.root / table.at[0, "file"])
    make_reflectance(lake, table, "v")
    path = lake.root / make_imputed(lake, "post_norm").manifest.at[0, "file"]
    assert path.stat().st_size < grey.nbytes, "six float bands in less than three bytes a pixel, even of noise"
    np.testing.assert_array_equal(read_chip(path, HLS_BANDS), impute(scale_to_reflectance(grey), "post_norm"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path, chip, sha: path.unlink(), r"i0-\w+\.tif is missing"),
        (lambda path, chip, sha: path.write_bytes(b"II*"), r"i0-\w+\.tif cannot be read"),
        (lambda path, chip, sha: _write(path, chip[:, :-1], sha), r"i0-\w+\.tif: has the shape"),
        (lambda path, chip, sha: _write(path, chip + 1e4, sha), r"i0-\w+\.tif: has reflectance outside"),
        (
            lambda path, chip, sha: _write(path, np.concatenate([chip[:3], chip[:3] * 0]), sha),
            r"i0-\w+\.tif: .*differ from those that post_norm gives",
        ),
        (lambda path, chip, sha: _write(path, chip, "another"), r"i0-\w+\.tif was computed from other inputs"),
    ],
)
def test_damaged_chips_are_found(lake: Lake, damage, message: str) -> None:
    make_reflectance(lake, images(lake), "v")
    row = make_imputed(lake, "post_norm").manifest.iloc[0]
    path = lake.root / row["file"]
    damage(path, read_chip(path, HLS_BANDS), row["chip_sha"])
    problems, looked_at = chip_problems(lake, "imputed_post_norm")
    assert len(problems) == 1
    assert re.search(message, problems[0])
    assert looked_at == (3 if "missing" in message else 4)


def _write(path: Path, chip: np.ndarray, sha: str) -> None:
    tensors.write_chip(path, chip.astype(np.float32), HLS_BANDS, fingerprint=sha)


def test_every_statistics_has_its_own_white() -> None:
    whites = {name: statistics.white.ravel().tolist() for name, statistics in STATISTICS.items()}
    assert whites["v1"] != whites["v2"]
