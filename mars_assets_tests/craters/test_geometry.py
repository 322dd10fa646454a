import numpy as np
import pytest

from mars_assets.craters.geometry import craters_of_labels, craters_of_mask, iou, match


def _mask(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Rectangles (top, left, height, width) on 40 x 60 pixels."""
    mask = np.zeros((40, 60), bool)
    for top, left, height, width in boxes:
        mask[top : top + height, left : left + width] = True
    return mask


def test_components_are_told_apart_at_corners():
    assert len(craters_of_mask(_mask((0, 0, 5, 5), (5, 5, 5, 5)))) == 2
    assert len(craters_of_mask(_mask((0, 0, 5, 5), (4, 5, 5, 5)))) == 1
    assert craters_of_mask(_mask()) == []


def test_a_diameter_is_that_of_the_disc_of_equal_area():
    y, x = np.mgrid[:200, :200]
    (crater,) = craters_of_mask((y - 100) ** 2 + (x - 100) ** 2 <= 50**2)
    assert crater.diameter == pytest.approx(100, rel=0.005)


def test_a_rim_encloses_its_crater():
    y, x = np.mgrid[:100, :100]
    distance = np.hypot(y - 50, x - 50)
    (crater,) = craters_of_mask((distance <= 40) & (distance > 35), rim=5)
    assert crater.diameter == pytest.approx(2 * 38, abs=0.5)


@pytest.mark.parametrize("width", [5, 15])
def test_a_mask_without_a_gap_or_without_a_rim_has_no_crater_inside(width: int):
    assert craters_of_mask(np.zeros((30, 40), bool), rim=width) == []
    (crater,) = craters_of_mask(np.ones((30, 40), bool), rim=width)
    assert crater.pixels.all()


def test_a_small_crater_does_not_pierce_the_one_it_lies_in():
    labels = np.zeros((40, 60), np.uint16)
    labels[5:35, 5:35] = 3
    labels[15:20, 15:20] = 7
    large, small = craters_of_labels(labels)
    assert large.pixels.sum() == 900
    assert small.pixels.sum() == 25


def test_craters_cut_by_the_border_are_not_whole():
    wholes = [c.is_whole((40, 60)) for c in craters_of_mask(_mask((0, 5, 4, 4), (10, 10, 4, 4), (20, 56, 4, 4)))]
    assert wholes == [False, True, False]


def test_iou_is_that_of_whole_masks():
    rng = np.random.default_rng(0)
    for _ in range(50):
        boxes = rng.integers(1, 20, (2, 4))
        first, second = (_mask(tuple(box)) for box in boxes)
        (a,), (b,) = craters_of_mask(first), craters_of_mask(second)
        assert iou(a, b) == pytest.approx((first & second).sum() / (first | second).sum())


def test_matching_by_hand():
    true = craters_of_mask(_mask((0, 0, 10, 10), (0, 20, 10, 10), (20, 0, 10, 10)))
    predicted = craters_of_mask(
        _mask(
            (0, 24, 10, 10),  # IoU 60 / 140 with the second: not enough
            (2, 0, 10, 10),  # IoU 80 / 120 with the first: found
            (30, 40, 3, 3),  # nothing there
        )
    )
    matching = match(true, predicted)
    assert matching.found.tolist() == [True, False, False]
    assert matching.false.tolist() == [True, False, True]


def test_half_an_overlap_is_enough_and_less_is_not():
    true = craters_of_mask(_mask((0, 0, 10, 10)))
    assert match(true, craters_of_mask(_mask((0, 0, 10, 5)))).found.all()
    assert not match(true, craters_of_mask(_mask((0, 0, 10, 4)))).found.any()


def test_a_predicted_crater_matches_one_true_crater_only_the_best():
    """Two labels of one crater, as two annotators leave them."""
    labels = np.zeros((40, 60), np.uint16)
    labels[0:12, 0:10] = 1
    twice = [*craters_of_labels(labels), *craters_of_mask(_mask((0, 0, 10, 10)))]
    matching = match(twice, craters_of_mask(_mask((0, 0, 10, 10))))
    assert matching.found.tolist() == [False, True]
    assert matching.false.tolist() == [False]


def test_no_craters_on_either_side():
    some = craters_of_mask(_mask((0, 0, 5, 5)))
    assert match([], some).false.tolist() == [True]
    assert match(some, []).found.tolist() == [False]
    assert match([], []).found.tolist() == []
