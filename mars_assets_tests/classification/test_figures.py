"""Figures show the numbers they are given."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mars_assets.bands import HLS_BANDS, reflectance_to_rgb
from mars_assets.classification.evaluate import Evaluation, evaluate
from mars_assets.classification.figures import confident_mistakes, evaluation_figure, mistakes_sheet, training_curves
from mars_assets.plotting import to_png
from mars_assets.storage.files import write_table
from mars_assets.tensors.geotiff import read_chip

HISTORY = pd.DataFrame(
    {
        "step": [2, 4, 6],
        "train_loss": [0.7, 0.5, 0.3],
        "valid_loss": [0.7, 0.6, 0.65],
        "valid_accuracy": [0.5, 0.7, 0.8],
        "valid_balanced_accuracy": [0.5, 0.7, 0.8],
    }
)


@pytest.fixture
def evaluation(images) -> Evaluation:
    valid = images[images["split"] == "valid"]
    probabilities = np.array([0.1, 0.9, 0.99, 0.8, 0.2, 0.3, 0.6, 0.7])  # labels alternate 0, 1
    return evaluate(valid.assign(probability=probabilities), "valid", resamples=20)


def test_mistakes_come_most_confident_first(evaluation):
    found = confident_mistakes(evaluation.images)
    assert found["confidence"].tolist() == pytest.approx([0.99, 0.7, 0.6])
    assert found["label"].tolist() == [0, 1, 0]
    assert confident_mistakes(evaluation.images, 1)["image_id"].tolist() == found["image_id"].head(1).tolist()


def test_the_figure_shows_scores_and_counts(evaluation, tmp_path):
    figure = evaluation_figure(evaluation)
    roc, _, confusion, _ = figure.axes
    assert f"AUROC {evaluation.row['auroc']:.3f} [" in roc.get_title()
    assert [text.get_text().split("\n")[0] for text in confusion.texts] == ["2", "2", "1", "3"]
    to_png(figure, tmp_path / "figure.png", dpi=60)
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_a_split_of_one_class_is_drawn_too(images, tmp_path):
    craters = images[(images["split"] == "valid") & (images["label"] == 1)]
    figure = evaluation_figure(evaluate(craters.assign(probability=0.9), "valid", resamples=5))
    assert figure.axes[0].get_title() == "AUROC undefined"
    to_png(figure, tmp_path / "figure.png", dpi=60)


def test_training_curves_show_the_history_and_the_kept_state(tmp_path):
    write_table(tmp_path / "history.parquet", HISTORY)
    loss, accuracy = training_curves(tmp_path).axes
    np.testing.assert_allclose(loss.lines[0].get_ydata(), HISTORY["train_loss"])
    np.testing.assert_allclose(loss.lines[1].get_ydata(), HISTORY["valid_loss"])
    assert loss.lines[2].get_xdata()[0] == 4
    assert [text.get_text() for text in accuracy.get_legend().get_texts()] == ["accuracy", "balanced accuracy"]


def test_the_sheet_has_a_titled_picture_for_each_mistake(evaluation, tmp_path):
    figure = mistakes_sheet(evaluation.images)
    shown = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title().split("\n")[0] for axis in shown] == confident_mistakes(evaluation.images)[
        "image_id"
    ].tolist()
    assert [axis.get_title().split("\n")[1] for axis in shown] == [
        "label NoCrater, p(crater) 0.990",
        "label Crater, p(crater) 0.300",
        "label NoCrater, p(crater) 0.600",
    ]
    rgb = reflectance_to_rgb(read_chip(Path(evaluation.images.loc[2, "chip"]), HLS_BANDS))
    picture = np.asarray(shown[0].images[0].get_array())
    assert np.corrcoef(picture.ravel(), rgb.ravel())[0, 1] > 0.99
    assert "no mistakes" in mistakes_sheet(evaluation.images.head(2)).get_suptitle()
    to_png(figure, tmp_path / "sheet.png", dpi=60)
