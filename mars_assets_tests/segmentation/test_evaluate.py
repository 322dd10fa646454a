from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, f1_score, jaccard_score

from mars_assets.craters.geometry import craters_of_labels, craters_of_mask
from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.labels.masks import RIM_WIDTHS, Annotation, annotation_mask, label_image
from mars_assets.segmentation.evaluate import confusion, evaluate, evaluate_together
from mars_assets.segmentation.figures import error_overlay, evaluation_figure, overlay_sheet, training_figure, worst


class Scenes:
    """Pairs of true and predicted masks as files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[dict] = []

    def add(
        self,
        truth: np.ndarray,
        predicted: np.ndarray,
        instances: np.ndarray | None = None,
        observation: str | None = None,
    ) -> None:
        name = f"image_{len(self.rows)}"
        row = {
            "image_id": name,
            "split": "valid",
            "observation": observation,
            "mask": self.folder / f"{name}_truth.png",
        }
        Image.fromarray(truth.astype(np.uint8)).save(row["mask"])
        if instances is not None:
            row["instances"] = self.folder / f"{name}_instances.png"
            Image.fromarray(instances.astype(np.uint16)).save(row["instances"])
        row["prediction"] = self.folder / f"{name}.png"
        Image.fromarray((255 * predicted).astype(np.uint8)).save(row["prediction"])
        self.rows.append(row)

    @property
    def images(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows)


@pytest.fixture
def scenes(tmp_path: Path) -> Scenes:
    return Scenes(tmp_path)


def _boxes(*boxes: tuple[int, int, int]) -> np.ndarray:
    """Squares (top, left, side) on 100 x 120 pixels."""
    mask = np.zeros((100, 120), np.uint8)
    for top, left, side in boxes:
        mask[top : top + side, left : left + side] = 1
    return mask


def _random(scenes: Scenes, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random masks with ignored pixels. Returns all valid pixels, true and predicted."""
    rng = np.random.default_rng(seed)
    true, said = [], []
    for _ in range(count):
        shape = tuple(rng.integers(10, 40, 2))
        truth = rng.choice([0, 1, 255], shape, p=[0.6, 0.3, 0.1])
        predicted = rng.random(shape) < 0.2 + 0.5 * (truth == 1)
        scenes.add(truth, predicted)
        true.append(truth[truth != 255])
        said.append(predicted[truth != 255])
    return np.concatenate(true), np.concatenate(said)


def test_pixel_scores_are_scikit_learns(scenes: Scenes):
    true, said = _random(scenes, 5, seed=0)
    row = evaluate(scenes.images, "valid", resamples=10).row
    assert row["iou_crater"] == pytest.approx(jaccard_score(true, said))
    assert row["iou_background"] == pytest.approx(jaccard_score(true, said, pos_label=0))
    assert row["miou"] == pytest.approx(jaccard_score(true, said, average="macro"))
    assert row["dice_crater"] == pytest.approx(f1_score(true, said))
    assert row["pixel_accuracy"] == pytest.approx(accuracy_score(true, said))


def test_each_image_has_its_own_scores(scenes: Scenes):
    _random(scenes, 3, seed=1)
    by_image = evaluate(scenes.images, "valid", resamples=10).images
    for row in by_image.to_dict("records"):
        truth = np.asarray(Image.open(row["mask"]))
        said = np.asarray(Image.open(row["prediction"])) >= 128
        assert row["iou_crater"] == pytest.approx(jaccard_score(truth[truth != 255], said[truth != 255]))


def test_images_of_several_models_together_are_one_split(scenes: Scenes):
    rng = np.random.default_rng(4)
    for number in range(8):
        boxes = [(int(row), int(column), int(side)) for row, column, side in rng.integers(3, 60, (3, 3))]
        scenes.add(
            _boxes(*boxes), _boxes(*boxes[:2], (2, 2, int(rng.integers(4, 30)))), observation=f"ESP_{number % 5}"
        )
    whole = evaluate(scenes.images, "valid", resamples=50)
    halves = [evaluate(part, "valid").evidence for part in (scenes.images[:3], scenes.images[3:])]
    assert evaluate_together(pd.concat(halves, ignore_index=True), "valid", resamples=50) == whole.row


def test_ignored_pixels_count_nowhere():
    truth = np.array([[0, 1, 255, 255]], np.uint8)
    predicted = np.array([[True, True, True, False]])
    assert confusion(truth, predicted).tolist() == [0, 1, 0, 1]


def test_craters_by_size_by_hand(scenes: Scenes):
    # sides 10, 20, 40 are diameters 11.3, 22.6, 45.1
    scenes.add(_boxes((10, 10, 10), (10, 40, 20), (50, 10, 40)), _boxes((10, 10, 10), (12, 40, 20), (60, 80, 30)))
    result = evaluate(scenes.images, "valid", resamples=10)
    sizes = result.sizes.set_index("diameter_px")
    assert sizes[["found", "missed", "false_alarms"]].to_numpy().tolist() == [
        [1, 0, 0],
        [1, 0, 0],
        [0, 1, 1],
        [0, 0, 0],
    ]
    assert sizes.loc["16-32", "recall"] == 1
    assert np.isnan(sizes.loc[">=64", "f1"])
    assert result.row["crater_precision"] == pytest.approx(2 / 3)
    assert result.row["crater_recall"] == pytest.approx(2 / 3)
    assert result.row["crater_f1"] == pytest.approx(2 / 3)
    assert result.row["n_craters"] == 3


def test_nothing_smaller_than_the_labels_is_a_false_alarm(scenes: Scenes):
    truth = _boxes((10, 10, 10), (0, 60, 3))  # the second is cut by the border: it does not say how small labels go
    scenes.add(truth, _boxes((10, 10, 10), (50, 50, 9), (70, 50, 11)))
    result = evaluate(scenes.images, "valid", resamples=10)
    assert result.row["smallest_px"] == pytest.approx(2 * np.sqrt(100 / np.pi))
    assert (result.row["n_false_alarms"], result.row["n_too_small"]) == (1, 1)
    assert result.images[["found", "missed", "false_alarms", "too_small"]].to_numpy().tolist() == [[1, 1, 1, 1]]


def test_touching_craters_are_told_apart_by_their_instances(scenes: Scenes):
    truth = _boxes((10, 10, 20), (10, 30, 20))
    instances = truth.astype(np.uint16)
    instances[:, 30:] *= 2
    scenes.add(truth, _boxes((10, 10, 20)), instances)
    row = evaluate(scenes.images, "valid", resamples=10).row
    assert (row["n_craters"], row["crater_recall"], row["crater_precision"]) == (2, 0.5, 1.0)


@pytest.mark.parametrize("annotation", ["outline_5", "outline_15"])
def test_rims_are_judged_by_the_craters_that_they_enclose(scenes: Scenes, annotation: Annotation):
    """The annotation's own mask finds every crater: small ones, neighbours, those cut by a border or in another one."""
    places = [(6, 60, 8), (7, 30, 30), (5, 12, 60), (10, 70, 100), (10, 92, 100), (22, 150, 0), (30, 199, 160)]
    places += [(45, 110, 200), (9, 110, 200)]
    y, x = np.mgrid[:200, :260]
    discs = np.stack([np.hypot(y - row, x - column) <= radius for radius, row, column in places]).astype(np.uint8)
    truth = annotation_mask(discs, annotation) == 1
    scenes.add(truth, truth, label_image(discs))
    rim = RIM_WIDTHS[annotation]
    row = evaluate(scenes.images, "valid", rim=rim, resamples=10).row
    assert (row["n_craters"], row["crater_f1"]) == (len(places), 1)
    seen = sorted(crater.diameter for crater in craters_of_mask(truth, rim))
    labelled = sorted(crater.diameter for crater in craters_of_labels(label_image(discs)))
    assert seen == pytest.approx(labelled, abs=1)
    assert evaluate(scenes.images, "valid", resamples=10).row["crater_f1"] < 0.5


def test_what_a_split_leaves_undefined_is_none(scenes: Scenes):
    scenes.add(_boxes(), _boxes())
    row = evaluate(scenes.images, "valid", resamples=10).row
    assert row["iou_crater"] is row["crater_f1"] is row["iou_crater_low"] is None
    assert row["miou"] == row["iou_background"] == 1
    assert "iou_crater" in row["undefined"]


def test_intervals_hold_the_score_and_shrink_with_more_images(scenes: Scenes):
    widths = []
    for count in (6, 30):
        _random(scenes, count, seed=count)
        row = evaluate(scenes.images, "valid", resamples=200).row
        for name in [name.removesuffix("_low") for name in row if name.endswith("_low")]:
            assert row[name] is None or row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
        widths.append(row["iou_crater_high"] - row["iou_crater_low"])
    assert widths[1] < widths[0]


def test_observations_are_resampled_where_there_are_several(scenes: Scenes):
    for observation in ("ESP_1", "ESP_1", "ESP_2"):
        scenes.add(_boxes((10, 10, 10)), _boxes((10, 10, 10)), observation=observation)
    assert evaluate(scenes.images, "valid", resamples=10).row["resampled"] == "observations"
    one = scenes.images.assign(observation="ESP_1")
    assert evaluate(one, "valid", resamples=10).row["resampled"] == "images"


def test_what_is_missing_is_named(scenes: Scenes):
    scenes.add(_boxes(), _boxes())
    with pytest.raises(MarsError, match="'test'"):
        evaluate(scenes.images, "test")
    with pytest.raises(MarsError, match="image_0"):
        evaluate(scenes.images.assign(prediction=None), "valid")
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(scenes.images["prediction"][0])
    with pytest.raises(DamagedFileError, match=r"\(5, 5\)"):
        evaluate(scenes.images, "valid")


def test_errors_are_coloured_by_kind():
    rgb = np.full((1, 5, 3), 100, np.uint8)
    truth = np.array([[1, 0, 1, 0, 255]], np.uint8)
    overlay = error_overlay(rgb, truth, np.array([[True, True, False, False, True]]))
    found, false, missed, background, ignored = overlay[0].astype(int)
    assert found.argmax() == 1
    assert false.argmax() == 0
    assert missed.argmax() == 2
    assert background.tolist() == ignored.tolist() == [100, 100, 100]


def test_figures_show_what_was_evaluated(squares: pd.DataFrame, tmp_path: Path):
    from mars_assets.bands import PRITHVI_V1
    from mars_assets.plotting import to_png

    rng = np.random.default_rng(0)
    predictions = {}
    for name, mask in zip(squares["image_id"], squares["mask"], strict=True):
        predictions[name] = tmp_path / f"{name}.png"
        truth = np.asarray(Image.open(mask)) == 1
        Image.fromarray(np.where(rng.random(truth.shape) < 0.9, truth, ~truth).astype(np.uint8) * 255).save(
            predictions[name]
        )
    evaluation = evaluate(squares.assign(prediction=squares["image_id"].map(predictions)), "valid", resamples=20)
    history = pd.DataFrame(
        {
            "iteration": [1, 2, 3, 4],
            "loss": [1.0, 0.8, np.nan, 0.5],
            "lr": 1e-3,
            "miou": [np.nan, 0.5, 0.6, np.nan],
            "iou_background": [np.nan, 0.9, 0.9, np.nan],
            "iou_crater": [np.nan, 0.1, 0.3, np.nan],
        }
    )
    figure = evaluation_figure(evaluation, history)
    loss = figure.axes[0].lines[0]
    assert loss.get_ydata().tolist() == [1.0, 0.8, 0.5]
    assert len(training_figure(history).axes) == 2
    bad = worst(evaluation, 2)
    assert bad["pixel_accuracy"].tolist() == evaluation.images["pixel_accuracy"].nsmallest(2).tolist()
    sheet = overlay_sheet(bad, PRITHVI_V1)
    assert len(sheet.axes) == 2 * 4
    to_png(sheet, tmp_path / "sheet.png", dpi=50)
    assert Image.open(tmp_path / "sheet.png").width > 100
