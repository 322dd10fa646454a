"""Probabilities of craters from what was marked in validation images."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import maximum_filter

from mars_assets.bands import EVALUATED, HLS_BANDS, PRITHVI_V1, impute, scale_to_reflectance
from mars_assets.craters.instances import Instance
from mars_assets.craters.scan import Network
from mars_assets.lake import CALIBRATION, CANDIDATES, MMSEG_CONFIG, SEGMENTER
from mars_assets.segmentation.calibration import Calibration, calibrate, label_trials, read_calibration
from mars_assets.tensors.geotiff import write_chip

pytestmark = pytest.mark.slow

SIDE = 256


class Brightness(Network):
    """A network whose margins are the brightness: 0 at 128, 1 more for each 16."""

    side = 128

    def __init__(self) -> None:
        self.windows = 0

    def margins(self, windows: np.ndarray, good: np.ndarray, places: object) -> np.ndarray:
        self.windows += len(windows)
        return (windows[..., 0].astype(np.float32) - 128) / 16


def draw(folder: Path, name: str, rng: np.random.Generator, marked: Callable[[float], float]) -> dict[str, object]:
    """An image of bright discs on a grid, each marked with a probability by its margin."""
    image, instances = np.full((SIDE, SIDE), 60, np.uint8), np.zeros((SIDE, SIDE), np.uint8)
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    for number, (row, column) in enumerate(np.ndindex(6, 6), start=1):
        margin, radius = rng.uniform(0.5, 7), rng.uniform(5, 14)
        disc = np.hypot(x - 25 - 41 * column, y - 25 - 41 * row) < radius
        image[disc] = round(128 + 16 * margin)
        if rng.random() < marked(margin):
            instances[disc] = number
    write_chip(folder / f"{name}.tif", impute(scale_to_reflectance(np.dstack([image] * 3)), EVALUATED), HLS_BANDS)
    Image.fromarray(instances).save(folder / f"{name}.png")
    return {
        "image_id": name,
        "observation": f"ESP_{name[-1]}",
        "chip": folder / f"{name}.tif",
        "chip_sha": f"sha of {name}",
        "instances": folder / f"{name}.png",
    }


def truth(margin: float) -> float:
    return 1 / (1 + math.exp(-1.5 * (margin - 3.5)))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in (SEGMENTER, MMSEG_CONFIG):
        (folder / name).write_text("a model")
    return folder


def images(folder: Path, count: int = 6, marked: Callable[[float], float] = truth) -> pd.DataFrame:
    rng = np.random.default_rng(4)
    return pd.DataFrame([draw(folder, f"image_{number}", rng, marked) for number in range(count)])


def fitted(model: Path, table: pd.DataFrame) -> Calibration | None:
    calibrate(model, Brightness(), PRITHVI_V1, table)
    return read_calibration(model)


def crater(margin: float, diameter: float = 20.0) -> Instance:
    return Instance(np.empty((0, 2)), 0.0, 0.0, diameter, np.eye(2), roundness=0.995, rim_coverage=1.0, peak=margin)


def test_probabilities_are_the_share_that_is_marked(model: Path, tmp_path: Path) -> None:
    calibration = fitted(model, images(tmp_path))
    assert calibration is not None
    assert 200 <= calibration.candidates <= 6 * 36, "those smaller than any marked one are left out"
    assert calibration.right == calibration.marked
    margins = np.arange(1, 7.1, 0.5)
    found = calibration.probabilities([crater(margin) for margin in margins])
    assert np.abs(found - [truth(margin) for margin in margins]).max() < 0.15
    assert (np.diff(found) > 0).all()
    assert len(calibration.reliability) == 5
    assert sum(row["craters"] for row in calibration.reliability) == calibration.candidates
    within = [row["low"] <= row["probability"] <= row["high"] for row in calibration.reliability]
    assert sum(within) >= 4
    assert calibration.brier < 0.16
    # From the true probabilities: the best F1 that a threshold can reach, in the mean.
    p = np.array([truth(margin) for margin in np.linspace(0.5, 7, 1000)])
    f1 = {at: 2 * p[p >= at].sum() / ((p >= at).sum() + p.sum()) for at in np.linspace(0.05, 0.95, 91)}
    assert f1[min(f1, key=lambda at: abs(at - calibration.listed_from))] > max(f1.values()) - 0.03
    assert calibration.f1 == pytest.approx(max(f1.values()), abs=0.06)


def test_size_matters_where_small_ones_are_rarely_marked(model: Path, tmp_path: Path) -> None:
    table = images(tmp_path)
    for path in table["instances"]:
        instances = np.array(Image.open(path))
        small = np.bincount(instances.ravel()) < np.pi * 9**2
        small[1::6] = False
        instances[small[instances]] = 0
        Image.fromarray(instances).save(path)
    calibration = fitted(model, table)
    assert calibration is not None
    assert calibration.weights[1] > 0.3
    small, large = calibration.probabilities([crater(5, 12), crater(5, 25)])
    assert small < large


def test_recall_and_precision_by_size(model: Path, tmp_path: Path) -> None:
    """Discs of margins above 2 are marked, and in each image a small crater that nobody can see."""
    table = images(tmp_path, marked=lambda margin: float(margin > 2))
    for number, path in enumerate(table["instances"]):
        instances = np.array(Image.open(path))
        y, x = np.mgrid[:SIDE, :SIDE]
        hidden = (np.hypot(x - 45, y - 45) < 4 + number / 2) & (instances == 0)
        instances[hidden] = 250
        Image.fromarray(instances).save(path)
    calibration = fitted(model, table)
    trials = label_trials(model)
    assert calibration is not None
    assert trials is not None
    recall, precision = trials
    assert list(recall) == list(precision) == ["diameter_px", "success", "group"]
    assert set(precision["group"]) <= set(recall["group"])
    assert recall["group"].nunique() == table["observation"].nunique()
    assert len(recall) == calibration.marked
    assert recall["success"].sum() == precision["success"].sum()
    f1 = 2 * precision["success"].sum() / (len(precision) + len(recall))
    assert f1 == pytest.approx(calibration.f1)
    assert len(precision) < calibration.candidates
    small = recall["diameter_px"] < 9.5
    assert small.sum() >= 3
    assert not recall["success"][small].any(), "nothing is seen there"
    assert recall["success"][~small].mean() > 0.85
    assert precision["diameter_px"].between(9, 30).all()
    assert precision["success"].mean() > 0.85


def test_an_older_calibration_has_no_trials(model: Path, tmp_path: Path) -> None:
    assert label_trials(model) is None
    calibration = fitted(model, images(tmp_path))
    stored = json.loads((model / CALIBRATION).read_text())
    assert label_trials(model) is not None
    for parts in (["trials", "recall", "group"], ["trials"]):
        *outer, last = parts
        place = stored
        for part in outer:
            place = place[part]
        del place[last]
        (model / CALIBRATION).write_text(json.dumps(stored))
        assert read_calibration(model) == calibration
        assert label_trials(model) is None


def test_a_crater_found_a_little_smaller_than_it_was_marked_counts(model: Path, tmp_path: Path) -> None:
    """Also if it is the smallest one that was marked."""
    table = images(tmp_path)
    for path in table["instances"]:
        instances = np.array(Image.open(path))
        Image.fromarray(maximum_filter(instances, 3)).save(path)
    calibration = fitted(model, table)
    assert calibration is not None
    assert calibration.right == calibration.marked


def test_cut_craters_neither_count_nor_say_how_small_marked_ones_are(model: Path, tmp_path: Path) -> None:
    table = images(tmp_path)
    expected = fitted(model, table)
    for path in table["instances"]:
        instances = np.array(Image.open(path))
        instances[:2, 100:103] = 250
        instances[100:160, -3:] = 251
        Image.fromarray(instances).save(path)
    assert fitted(model, table) == expected


def test_an_unchanged_image_is_not_looked_at_again(model: Path, tmp_path: Path) -> None:
    table = images(tmp_path)
    first, again, added = Brightness(), Brightness(), Brightness()
    calibrate(model, first, PRITHVI_V1, table[:4])
    before = (model / CALIBRATION).read_bytes()
    calibrate(model, again, PRITHVI_V1, table[:4])
    assert again.windows == 0
    assert (model / CALIBRATION).read_bytes() == before
    calibrate(model, added, PRITHVI_V1, table)
    assert added.windows == first.windows / 2
    assert (model / CALIBRATION).read_bytes() != before
    whole = read_calibration(model)
    (model / CANDIDATES).unlink()
    assert fitted(model, table) == whole
    (model / SEGMENTER).write_text("another model")
    other = Brightness()
    calibrate(model, other, PRITHVI_V1, table)
    assert other.windows == first.windows * 1.5


@pytest.mark.parametrize("case", ["none marked", "all marked", "few craters", "one image", "no images", "flat"])
def test_too_few_craters_give_no_calibration(model: Path, tmp_path: Path, case: str) -> None:
    marks: dict[str, Callable[[float], float]] = {"none marked": lambda _: 0.0, "all marked": lambda _: 1.0}
    table = images(tmp_path, 2, marks.get(case, truth))
    if case == "few craters":
        table = images(tmp_path, 2, lambda margin: float(margin > 6.5))
    if case == "one image":
        table = table[:1]
    if case == "no images":
        table = table[:0]
    if case == "flat":
        for name in ("chip", "instances"):
            table[name] = table[name].map(lambda path: path.with_name(f"flat{path.suffix}"))
        grey = np.full((SIDE, SIDE, 3), 60, np.uint8)
        write_chip(tmp_path / "flat.tif", impute(scale_to_reflectance(grey), EVALUATED), HLS_BANDS)
        Image.fromarray(np.zeros((SIDE, SIDE), np.uint8)).save(tmp_path / "flat.png")
    assert fitted(model, table) is None
    assert label_trials(model) is None
    assert json.loads((model / CALIBRATION).read_text())["calibration"] is None


@pytest.mark.parametrize("right_in", [1, 2])
def test_observations_in_which_all_are_right_or_none(model: Path, tmp_path: Path, right_in: int) -> None:
    """If one of them alone has right ones, no other could be judged by it."""
    rng = np.random.default_rng(0)
    rows = [draw(tmp_path, f"image_{number}", rng, lambda _, n=number: float(n < right_in)) for number in range(4)]
    calibration = fitted(model, pd.DataFrame(rows))
    assert (calibration is None) == (right_in == 1)


def test_images_without_marks_count(model: Path, tmp_path: Path) -> None:
    table = images(tmp_path, 4)
    without_marks = draw(tmp_path, "image_9", np.random.default_rng(9), lambda _: 0.0)
    calibration = fitted(model, pd.concat([table, pd.DataFrame([without_marks])]))
    assert calibration is not None
    with_marks = fitted(model, table)
    assert with_marks is not None
    assert calibration.candidates == with_marks.candidates + 36


def test_nothing_is_read_where_nothing_was_fitted(model: Path) -> None:
    assert read_calibration(model) is None
