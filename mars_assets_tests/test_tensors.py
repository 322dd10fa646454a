from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
from PIL import Image

from mars_assets import tensors
from mars_assets.bands import (
    CALIBRATED_BANDS,
    HLS_BANDS,
    PRITHVI_V1,
    STATISTICS,
    impute,
    normalize,
    scale_to_reflectance,
)
from mars_assets.chips import read_chip
from mars_assets.errors import DamagedFileError, MarsError, MissingInputError, ProvenanceError
from mars_assets.lake import Lake, write_table
from mars_assets.progress import Progress
from mars_assets.tensors import (
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
    table, written = images(lake), []
    write = tensors.write_chip

    def dying(path: Path, *arguments: object, **options: object) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        write(path, *arguments, **options)

    monkeypatch.setattr(tensors, "write_chip", dying)
    with pytest.raises(KeyboardInterrupt):
        make_reflectance(lake, table, "v")
    with pytest.raises(MissingInputError):
        read_manifest(lake, "reflectance")
    monkeypatch.setattr(tensors, "write_chip", write)
    assert make_reflectance(lake, table, "v").computed == 2
    assert make_reflectance(lake, table, "v").computed == 0


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
    assert make_reflectance(lake, table, "v", truncate=True).computed == 4
    assert make_reflectance(lake, table, "v", statistics="v2").computed == 4
    with pytest.raises(ProvenanceError, match=r"'v1'.*'v2'"):
        make_imputed(lake, "means", statistics="v1")
    assert make_imputed(lake, "means", statistics="v2").provenance["statistics"] == "v2"


def test_own_crops_keep_their_place_on_mars(lake: Lake) -> None:
    observation = "ESP_011472_1225"
    place = [0.5, 0.0, 1000.0, 0.0, -0.5, 2000.0]
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
    make_reflectance(lake, images(lake, 2, observation=observation), "v")
    manifest = make_imputed(lake, "post_norm").manifest
    with rasterio.open(lake.root / manifest.at[0, "file"]) as file:
        assert file.crs.to_string() == "IAU_2015:49910"
        assert list(file.transform)[:6] == place
    with rasterio.open(lake.root / manifest.at[1, "file"]) as file:
        assert file.crs is None


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

    damaged = lake.root / spectral.manifest.at[0, "file"]
    _write(damaged, np.where(np.arange(6)[:, None, None] == 0, chip + 1, chip))
    assert "not what spectral says" in chip_problems(lake, "imputed_spectral")[0][0]
    _write(damaged, chip * 100)
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
    assert any(f"{2 - len(left)} crops have pixels without data" in line for line in said)


def test_a_crop_that_is_no_longer_cut_is_named(lake: Lake) -> None:
    observation = "ESP_013951_1955"
    colour_crops(lake, observation, 1)
    with pytest.raises(MarsError, match=r"crop1 is no longer among the crops.*make 'labelled_crops' again"):
        make_reflectance(lake, images(lake, 2, observation=observation), "v")


def test_nothing_calibrated_is_no_error(lake: Lake) -> None:
    assert make_calibrated(lake, images(lake, 2), "v").manifest.empty
    assert make_spectral(lake).manifest.empty
    assert chip_problems(lake, "imputed_spectral") == ([], 0)


def test_a_lost_dn_file_is_named(lake: Lake) -> None:
    observation = "ESP_013951_1955"
    colour_crops(lake, observation, 1)
    (lake.crops(observation) / "crop0.tif").unlink()
    with pytest.raises(DamagedFileError, match=r"crop0\.tif.*make 'crops' again"):
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
        (lambda path, chip: path.unlink(), "is missing"),
        (lambda path, chip: path.write_bytes(b"II*"), "cannot be read"),
        (lambda path, chip: _write(path, chip[:, :-1]), "shape"),
        (lambda path, chip: _write(path, chip + 1e4), "outside"),
        (lambda path, chip: _write(path, np.concatenate([chip[:3], chip[:3] * 0])), "not what post_norm says"),
    ],
)
def test_damaged_chips_are_found(lake: Lake, damage, message: str) -> None:
    make_reflectance(lake, images(lake), "v")
    path = lake.root / make_imputed(lake, "post_norm").manifest.at[0, "file"]
    damage(path, read_chip(path, HLS_BANDS))
    problems, _ = chip_problems(lake, "imputed_post_norm")
    assert problems
    assert all(
        message in problem for problem in problems if "cannot be read" not in problem or message == "cannot be read"
    )


def _write(path: Path, chip: np.ndarray) -> None:
    tensors.write_chip(path, chip.astype(np.float32), HLS_BANDS)


def test_every_statistics_has_its_own_white() -> None:
    whites = {name: statistics.white.ravel().tolist() for name, statistics in STATISTICS.items()}
    assert whites["v1"] != whites["v2"]
