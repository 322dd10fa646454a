"""Scores against scikit-learn and plain formulas, intervals, and splits that lack something."""

import math

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn import metrics

from mars_assets.classification.evaluate import (
    by_crater_size,
    by_observation,
    evaluate,
    scores,
    scores_of_groups,
    scores_of_samples,
    suspected_label_errors,
)
from mars_assets.errors import MarsError


def _table(labels: list[int], observations: list[str | None] | None = None, split: str = "valid") -> pd.DataFrame:
    ids = [f"tile-{number:03d}" for number in range(len(labels))]
    return pd.DataFrame(
        {"image_id": ids, "split": split, "label": labels, "observation": observations or ["ESP_1"] * len(labels)}
    )


@pytest.mark.parametrize("decimals", [1, 16], ids=["ties", "no ties"])
@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_of_scikit_learn_and_plain_formulas(seed, decimals):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 200)
    probabilities = rng.beta(0.7 + labels, 1.0).round(decimals)
    said = probabilities >= 0.5
    expected = {
        "accuracy": metrics.accuracy_score(labels, said),
        "balanced_accuracy": metrics.balanced_accuracy_score(labels, said),
        "precision": metrics.precision_score(labels, said),
        "recall": metrics.recall_score(labels, said),
        "f1": metrics.f1_score(labels, said),
        "auroc": metrics.roc_auc_score(labels, probabilities),
        "average_precision": metrics.average_precision_score(labels, probabilities),
        "loss": metrics.log_loss(labels, probabilities),
    }
    actual = scores(labels, probabilities)
    for name, value in expected.items():
        assert actual[name] == pytest.approx(value, abs=1e-12), name
    if decimals > 1:  # where probabilities fall on the bins' edges, implementations may differ
        bins = [np.floor(probabilities * 15) == number for number in range(15)]
        ece = sum(abs(labels[inside].sum() - probabilities[inside].sum()) for inside in bins) / len(labels)
        assert actual["ece"] == pytest.approx(ece, abs=1e-12)
    assert set(actual) == {*expected, "ece"}


@pytest.mark.parametrize("decimals", [1, 16], ids=["ties", "no ties"])
def test_scores_of_samples_are_those_of_their_images(decimals):
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 2, 30)
    probabilities = rng.random(30).round(decimals)
    counts = rng.integers(0, 3, (40, 30)) * rng.integers(0, 2, (40, 30))
    counts[0] = labels  # one class only
    counts[1] = probabilities < 0.5  # no image is said to be a crater
    together = scores_of_samples(labels, probabilities, counts.astype(float))
    for sample, times in enumerate(counts):
        alone = scores(np.repeat(labels, times), np.repeat(probabilities, times))
        for name, value in alone.items():
            assert together[name][sample] == pytest.approx(value, abs=1e-12, nan_ok=True), name


def test_perfect_and_hopeless_predictions_have_the_scores_one_expects():
    labels = np.array([0, 1, 0, 1])
    perfect = scores(labels, labels.astype(float))
    hopeless = scores(labels, 1.0 - labels)
    assert all(value == 1 for name, value in perfect.items() if name not in ("ece", "loss"))
    assert perfect["ece"] == 0
    assert perfect["loss"] == pytest.approx(0)
    assert hopeless["auroc"] == hopeless["accuracy"] == hopeless["f1"] == 0
    assert hopeless["ece"] == 1
    assert math.isfinite(hopeless["loss"])


def test_the_row_has_each_score_within_its_interval():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 120)
    images = _table(labels.tolist())
    result = evaluate(images.assign(probability=rng.beta(1 + labels, 2 - labels)), "valid", resamples=200)
    row = result.row
    assert (row["split"], row["n"], row["n_craters"], row["n_observations"]) == ("valid", 120, labels.sum(), 1)
    for name in scores(labels, labels.astype(float)):
        assert row[f"{name}_low"] < row[f"{name}_high"], name
        if name != "ece":  # biased upwards in resamples
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"], name
    assert row["undefined"] == ""


def test_observations_are_resampled_whole_where_there_are_several():
    # One observation is wholly right and one wholly wrong: images by themselves are uncertain by sqrt(0.25 / 200), two
    # observations by everything.
    labels = [0, 1] * 100
    images = _table(labels, ["A"] * 100 + ["B"] * 100)
    right = np.array(labels, float)
    probabilities = np.where(images["observation"] == "A", right, 1 - right)
    grouped = evaluate(images.assign(probability=probabilities), "valid", resamples=200).row
    assert (grouped["accuracy_low"], grouped["accuracy_high"], grouped["resampled"]) == (0, 1, "observations")
    single = images.assign(observation="A")
    alone = evaluate(single.assign(probability=probabilities), "valid", resamples=200).row
    assert alone["resampled"] == "images"
    assert alone["accuracy_high"] - alone["accuracy_low"] < 0.2


def test_an_image_without_observation_stands_for_itself():
    images = _table([0, 1, 0, 1], ["A", "B", None, None])
    row = evaluate(images.assign(probability=np.array([0.1, 0.9, 0.2, 0.6])), "valid", resamples=50).row
    assert (row["n_observations"], row["resampled"], row["accuracy"]) == (2, "observations", 1)


@pytest.mark.parametrize(("label", "absent"), [(0, "Crater"), (1, "NoCrater")])
def test_a_class_that_is_absent_leaves_scores_undefined_and_says_so(label, absent):
    images = _table([label] * 6)
    result = evaluate(images.assign(probability=np.linspace(0.1, 0.9, 6)), "valid", resamples=20)
    row = result.row
    for name in ("balanced_accuracy", "auroc"):
        assert row[name] is row[f"{name}_low"] is row[f"{name}_high"] is None
        assert name in row["undefined"]
    assert f"no image of class {absent}" in row["undefined"]
    assert row["accuracy"] == 0.5
    assert result.roc.empty


def test_no_image_said_to_be_a_crater_leaves_precision_undefined():
    images = _table([0, 1, 1])
    row = evaluate(images.assign(probability=np.array([0.1, 0.2, 0.3])), "valid", resamples=20).row
    assert row["precision"] is None
    assert row["undefined"] == "precision: no image is predicted to be a crater"
    assert row["recall"] == row["f1"] == 0


def test_calibration_table_adds_up_to_the_calibration_error():
    rng = np.random.default_rng(3)
    images = _table(rng.integers(0, 2, 300).tolist())
    result = evaluate(images.assign(probability=rng.random(300)), "valid", resamples=10)
    table = result.calibration
    gap = (table["mean_probability"] - table["crater_fraction"]).abs()
    assert (gap * table["n"]).sum() / 300 == pytest.approx(result.row["ece"])
    assert table["mean_probability"].between(table["low"], table["high"]).all()


def test_an_empty_split_and_a_missing_prediction_are_told():
    images = _table([0, 1])
    with pytest.raises(MarsError, match=r"no image is in the split 'test'.*valid"):
        evaluate(images.assign(probability=np.array([0.1, 0.9])), "test")
    with pytest.raises(MarsError, match="1 images of 'valid' have no prediction, such as tile-001"):
        evaluate(images.assign(probability=[0.1, None]), "valid")


def test_each_observation_has_its_share_of_right_answers():
    images = pd.DataFrame(
        {
            "observation": ["a"] * 4 + ["b"] * 2 + [None],
            "label": [1, 1, 0, 0, 1, 0, 1],
            "probability": [0.9, 0.2, 0.1, 0.7, 0.8, 0.1, 0.4],
        }
    )
    table = by_observation(images).set_index("observation")
    assert table["right"].to_dict() == {"–": 0.0, "a": 0.5, "b": 1.0}
    assert table.index[0] == "–"
    assert table.loc["a", "images"] == 4
    # Wilson 1927 at two of four.
    z = 1.959963984540054
    centre, half = (2 + z**2 / 2) / (4 + z**2), z / (4 + z**2) * (4 * 0.25 + z**2 / 4) ** 0.5
    assert table.loc["a", "right_low"] == pytest.approx(centre - half)
    assert table.loc["a", "right_high"] == pytest.approx(centre + half)


def test_flipped_labels_are_suspected():
    rng = np.random.default_rng(0)
    truth = np.tile([0, 1], 100)
    probability = np.where(truth == 1, rng.uniform(0.7, 1, 200), rng.uniform(0, 0.3, 200))
    flipped = rng.choice(200, 10, replace=False)
    label = truth.copy()
    label[flipped] = 1 - label[flipped]
    images = pd.DataFrame({"image_id": [f"{i}" for i in range(200)], "label": label, "probability": probability})
    found = suspected_label_errors(images)
    suspected = set(found["image_id"].astype(int))
    assert len(suspected & set(flipped.tolist())) >= 5
    assert len(suspected - set(flipped.tolist())) == 0
    self_confidence = np.where(found["label"] == 1, found["probability"], 1 - found["probability"])
    assert (np.diff(self_confidence) >= 0).all()
    assert suspected_label_errors(images[images["label"] == 1]).empty


def test_recognised_craters_are_counted_by_the_largest_of_an_image(tmp_path):
    rows = []
    for name, sides, probability in (("a", (10, 30), 0.9), ("b", (40,), 0.2), ("c", (30,), 0.4), ("d", (), 0.9)):
        labels = np.zeros((128, 128), np.uint8)
        for number, side in enumerate(sides, start=1):
            labels[number * 45 - 44 : number * 45 - 44 + side, 2 : 2 + side] = number
        Image.fromarray(labels).save(tmp_path / f"{name}.png")
        rows.append((1, probability, str(tmp_path / f"{name}.png")))
    rows += [(1, 0.9, None), (0, 0.9, str(tmp_path / "a.png"))]
    table = by_crater_size(pd.DataFrame(rows, columns=["label", "probability", "instances"])).set_index("diameter_px")
    assert table["images"].to_dict() == {"32-64": 3}  # a square of 30 has the area of a disc of 33.9
    assert table["found"].to_dict() == {"32-64": 1 / 3}
    assert by_crater_size(pd.DataFrame({"label": [1], "probability": [0.5], "instances": [None]})).empty


def test_scores_of_groups_are_those_of_their_images():
    rng = np.random.default_rng(0)
    labels, probabilities, groups = rng.integers(0, 2, 60), rng.integers(0, 21, 60) / 20, rng.integers(0, 9, 60)
    counts = rng.poisson(0.5, (200, 9)).astype(np.float64)
    counts = counts[counts.sum(1) > 0]
    every = scores_of_samples(labels, probabilities, counts[:, groups])
    found = scores_of_groups(labels, probabilities, groups)(counts)
    assert found.keys() == {"balanced_accuracy", "auroc"}
    for name, values in found.items():
        np.testing.assert_allclose(values, every[name], equal_nan=True)
