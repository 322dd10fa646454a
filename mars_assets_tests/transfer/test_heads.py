"""Heads on frozen features."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from mars_assets.transfer.baselines import histograms, pixels
from mars_assets.transfer.heads import HEADS, NEIGHBOURS, REGULARISATION, cross_entropy, tuned

pytestmark = pytest.mark.slow


def drawn(n: int, seed: int, width: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.4).astype(np.int64)
    return (rng.standard_normal((n, width)) + 0.7 * labels[:, None]).astype(np.float32), labels


def test_a_linear_probe_is_scikit_learns():
    (features, labels), (others, _) = drawn(80, 0), drawn(30, 1)
    scaler = StandardScaler().fit(features)
    for strength, found in HEADS["linear"](features, labels, others):
        model = LogisticRegression(C=strength, class_weight="balanced", max_iter=5000, tol=1e-9)
        expected = model.fit(scaler.transform(features), labels).predict_proba(scaler.transform(others))[:, 1]
        assert found == pytest.approx(expected, abs=2e-3)


def test_neighbours_are_those_of_scikit_learn():
    """With classes of equal size every vote counts one, and two are added."""
    features, labels = drawn(60, 0)
    some = np.concatenate([np.flatnonzero(labels == value)[:20] for value in (0, 1)])
    features, labels = features[some], labels[some]
    others, _ = drawn(30, 1)
    for number, found in HEADS["knn"](features, labels, others):
        model = KNeighborsClassifier(int(number), metric="cosine").fit(features, labels)
        share = model.predict_proba(others)[:, 1]
        assert found == pytest.approx((share * number + 1) / (number + 2))


def test_votes_of_the_rarer_class_count_more():
    features, labels = np.eye(10, dtype=np.float32), np.array([1] + [0] * 9)
    *_, (number, found) = HEADS["knn"](features, labels, np.ones((1, 10), np.float32))
    assert number == 9  # of ten images
    assert found[0] > 0.3


def test_the_number_of_neighbours_is_at_most_that_of_images():
    features = drawn(4, 2)[0]
    assert [number for number, _ in HEADS["knn"](features, np.array([0, 1, 0, 1]), features)] == [1, 3]


@pytest.mark.parametrize("way", ["linear", "knn"])
def test_validation_images_choose_and_held_out_ones_do_not(way: str):
    labelled, validation, held_out = drawn(60, 0), drawn(40, 1), drawn(25, 2)[0]
    found = tuned(way, labelled, validation, held_out)
    losses = {s: cross_entropy(validation[1], p) for s, p in HEADS[way](*labelled, validation[0])}
    assert found.setting == min(losses, key=losses.get)
    assert found.validation_loss == pytest.approx(min(losses.values()))
    assert len(found.probabilities) == 25
    more = tuned(way, labelled, validation, np.concatenate([held_out, 100 + held_out]))
    assert more.setting == found.setting
    assert more.probabilities[:25] == pytest.approx(found.probabilities)


def test_every_head_has_the_same_budget():
    assert len(REGULARISATION) == len(NEIGHBOURS)


def test_cross_entropy_weighs_classes_alike():
    half = np.full(4, 0.5)
    assert cross_entropy(np.array([0, 0, 0, 1]), half) == pytest.approx(np.log(2))
    assert cross_entropy(np.array([0, 0, 0, 1]), np.full(4, 0.1)) == pytest.approx(-np.log([0.9, 0.1]).mean())
    assert np.isfinite(cross_entropy(np.array([0, 1]), np.array([1.0, 0.0])))


def test_baselines_see_what_they_should():
    flat, stripes = np.zeros((112, 112), np.float32), np.tile(np.arange(112, dtype=np.float32) % 16 // 8, (112, 1))
    assert pixels(flat).shape == (256,)
    assert pixels(np.eye(112, dtype=np.float32)).reshape(16, 16).argmax(1).tolist() == list(range(16))
    assert histograms(flat).shape == histograms(stripes).shape == (1296,)
    # Vertical stripes and horizontal ones have gradients in directions that are five of nine apart.
    across, along = (histograms(picture).reshape(-1, 9).sum(0).argmax() for picture in (stripes, stripes.T))
    assert across != along
