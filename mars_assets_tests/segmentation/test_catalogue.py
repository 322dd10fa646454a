from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rasterio import Affine
from rasterio.crs import CRS

from mars_assets.bands import HLS_BANDS
from mars_assets.craters.schema import CraterCatalogue
from mars_assets.errors import DamagedFileError
from mars_assets.segmentation.catalogue import crater_catalogue
from mars_assets.segmentation.figures import outlined_sheet, sizes_figure
from mars_assets.storage.schema import columns_of
from mars_assets.tensors.geotiff import write_chip

MARS = CRS.from_proj4("+proj=eqc +lat_ts=0 +lon_0=180 +R=3396190 +units=m +no_defs")


def _image(
    folder: Path, name: str, probability: np.ndarray, georeference: tuple[object, object] = (None, None)
) -> dict[str, object]:
    Image.fromarray(probability.astype(np.uint8)).save(folder / f"{name}.png")
    chip = np.zeros((6, *probability.shape), np.float32)
    write_chip(folder / f"{name}.tif", chip, HLS_BANDS, georeference=georeference)
    return {"image_id": name, "observation": "ESP_1", "chip": folder / f"{name}.tif"}


def _disc(shape: tuple[int, int], x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    return np.hypot(columns - x, rows - y) <= radius


def _catalogue(folder: Path, images: list[dict[str, object]], **options: float) -> pd.DataFrame:
    table = pd.DataFrame(images)
    return crater_catalogue(table.assign(prediction=[folder / f"{name}.png" for name in table["image_id"]]), **options)


def test_centres_diameters_and_probabilities_of_discs(tmp_path: Path) -> None:
    probability = np.zeros((100, 120))
    probability[_disc(probability.shape, 30, 40, 15)] = 204
    probability[_disc(probability.shape, 90.5, 20.5, 6)] = 255
    probability[_disc(probability.shape, 60, 80, 8)] = 100  # less likely than not
    probability[95:, 100:] = 255
    table = _catalogue(tmp_path, [_image(tmp_path, "a", probability)])
    assert list(table.columns) == list(columns_of(CraterCatalogue))
    whole = table[~table["cut"]]
    np.testing.assert_allclose(whole["x_px"], [30, 90.5], atol=1e-9)
    np.testing.assert_allclose(whole["y_px"], [40, 20.5], atol=1e-9)
    np.testing.assert_allclose(whole["diameter_px"], [30, 12], atol=0.4)
    np.testing.assert_allclose(whole["probability"], [0.8, 1.0], atol=1e-6)
    assert table["crater"].tolist() == [1, 2, 3]
    assert table["cut"].sum() == 1
    assert table[["diameter_m", "longitude", "latitude"]].isna().all(axis=None)


def test_places_and_metres_where_the_image_is_map_projected(tmp_path: Path) -> None:
    probability = np.zeros((100, 100))
    probability[_disc(probability.shape, 50, 50, 10)] = 255
    side = 2 * np.pi * 3396190 / 360  # a degree
    image = _image(tmp_path, "a", probability, georeference=(MARS, Affine(0.5, 0, -25, 0, -0.5, 2 * side + 25)))
    table = _catalogue(tmp_path, [image])
    assert table.at[0, "diameter_m"] == pytest.approx(10, abs=0.2)
    assert table.at[0, "longitude"] == pytest.approx(180, abs=1e-6)
    assert table.at[0, "latitude"] == pytest.approx(2, abs=1e-6)


def test_a_place_that_a_table_states_is_as_good_as_the_chips(tmp_path: Path) -> None:
    probability = np.zeros((100, 100))
    probability[_disc(probability.shape, 40, 70, 10)] = 255
    transform = Affine(0.5, 0, -25, 0, -0.5, 1000)
    image = _image(tmp_path, "a", probability, georeference=(MARS, transform))
    stated = {
        **image,
        "chip": tmp_path / "no such chip",
        "crs": CRS.from_user_input(MARS).to_wkt(),
        "transform": list(transform)[:6],
    }
    pd.testing.assert_frame_equal(_catalogue(tmp_path, [stated]), _catalogue(tmp_path, [image]))
    nowhere = {**stated, "crs": np.nan, "transform": None}
    assert _catalogue(tmp_path, [nowhere])[["diameter_m", "longitude"]].isna().all(axis=None)


def test_small_ones_can_be_left_out_and_no_crater_is_an_empty_table(tmp_path: Path) -> None:
    probability = np.zeros((50, 50))
    probability[10:13, 10:13] = 255
    image = _image(tmp_path, "a", probability)
    assert len(_catalogue(tmp_path, [image])) == 1
    empty = _catalogue(tmp_path, [image], smallest_px=8.0)
    assert empty.empty
    assert empty.nlargest(3, "diameter_px").empty, "its columns are numbers all the same"
    assert list(empty.columns) == list(columns_of(CraterCatalogue))


def test_a_prediction_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    image = _image(tmp_path, "a", np.zeros((20, 20)))
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(DamagedFileError, match=r"a\.png"):
        _catalogue(tmp_path, [image])


def test_a_rim_is_as_likely_as_its_own_pixels(tmp_path: Path) -> None:
    probability = np.zeros((100, 100))
    probability[_disc(probability.shape, 50, 50, 32) & ~_disc(probability.shape, 50, 50, 27)] = 255
    table = _catalogue(tmp_path, [_image(tmp_path, "a", probability)], rim=5)
    assert table["probability"].tolist() == [1.0]
    assert table.at[0, "diameter_px"] == pytest.approx(60, abs=0.5)


def test_how_many_are_at_least_as_wide(tmp_path: Path) -> None:
    probability = np.zeros((100, 120))
    for x, y, radius in ((30, 40, 15), (90, 20, 6), (60, 80, 10), (120, 50, 20)):  # the last one is cut
        probability[_disc(probability.shape, x, y, radius)] = 255
    image = _image(tmp_path, "a", probability)
    axis = sizes_figure(_catalogue(tmp_path, [image])).axes[0]
    np.testing.assert_allclose(axis.lines[0].get_xdata(), [12, 20, 30], atol=0.5)
    assert axis.lines[0].get_ydata().tolist() == [3, 2, 1]
    assert "pixels" in axis.get_xlabel()
    side = 2 * np.pi * 3396190 / 360
    placed = _image(tmp_path, "b", probability, georeference=(MARS, Affine(0.5, 0, 0, 0, -0.5, side)))
    assert "(m)" in sizes_figure(_catalogue(tmp_path, [placed])).axes[0].get_xlabel()


def test_no_crater_is_drawn_too(tmp_path: Path) -> None:
    image = _image(tmp_path, "a", np.zeros((20, 30)))
    none = _catalogue(tmp_path, [image])
    assert sizes_figure(none).axes[0].get_title().startswith("0 craters")
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / "picture.png")
    shown = pd.DataFrame([{"image_id": "a", "chip": tmp_path / "picture.png", "prediction": tmp_path / "a.png"}])
    assert outlined_sheet(shown, none).axes[0].get_title() == "a\n0 craters"
