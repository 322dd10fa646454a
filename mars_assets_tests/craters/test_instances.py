import numpy as np
import pytest

from mars_assets.craters.instances import Instance, instances

CLOSED = (False,) * 4


def _disc(shape: tuple[int, int], x: float, y: float, diameter: float) -> np.ndarray:
    """Distance into a disc, negative outside of it."""
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    return diameter / 2 - np.hypot(columns - x, rows - y)


def _found(margins: np.ndarray, seen: np.ndarray | None = None, smallest: float = 7.0) -> list[Instance]:
    seen = np.ones(margins.shape, bool) if seen is None else seen
    return sorted(instances(margins.astype(np.float32), seen, smallest, CLOSED), key=lambda crater: -crater.diameter)


@pytest.mark.parametrize("diameter", [8, 9.5, 13, 40, 111])
def test_a_disc_is_measured_between_pixels(diameter: float) -> None:
    rng = np.random.default_rng(int(diameter))
    for _ in range(10):
        x, y = 80 + rng.random(2)
        (crater,) = _found(np.clip(2 * _disc((160, 160), x, y, diameter), -5, 6))
        assert crater.diameter == pytest.approx(diameter, rel=0.01)
        assert (crater.x, crater.y) == (pytest.approx(x, abs=0.05), pytest.approx(y, abs=0.05))
        assert crater.rim_coverage == 1
        assert crater.roundness > 0.9
        assert not crater.cut


def test_an_ellipse_has_its_axes() -> None:
    rows, columns = np.mgrid[:200, :200] + 0.5
    u, v = (columns - 100) * 0.8 + (rows - 90) * 0.6, -(columns - 100) * 0.6 + (rows - 90) * 0.8
    (crater,) = _found(np.clip(40 * (1 - np.hypot(u / 60, v / 30)), -5, 6))
    values, vectors = np.linalg.eigh(crater.spread)
    assert 2 * np.sqrt(values) == pytest.approx([30, 60], rel=0.01)
    assert abs(vectors[:, 1] @ [0.8, 0.6]) == pytest.approx(1, abs=1e-3)
    assert crater.diameter == pytest.approx(2 * np.sqrt(30 * 60), rel=0.005)


@pytest.mark.parametrize("dip", [True, False])
def test_craters_that_touch_are_two(dip: bool) -> None:
    one, other = _disc((120, 160), 50, 60, 44), _disc((120, 160), 50 + 22 + 17, 60, 34)
    margins = (
        np.clip(2 * np.maximum(one, other) + 0.4, -5, 6) if dip else np.where(np.maximum(one, other) > -0.4, 5, -5)
    )
    found = _found(margins)
    assert [crater.diameter for crater in found] == [pytest.approx(44, rel=0.04), pytest.approx(34, rel=0.04)]


@pytest.mark.parametrize("valley", [True, False], ids=["rims seen", "one area"])
@pytest.mark.parametrize("diameters", [(60, 60), (60, 45), (90, 40), (24, 16)])
@pytest.mark.parametrize("overlap", [0.15, 0.25, 0.4])
def test_craters_whose_rims_cross_are_two(valley: bool, diameters: tuple[float, float], overlap: float) -> None:
    rng = np.random.default_rng(0)
    large, small = diameters
    distance = (large + small) / 2 - overlap * small
    for angle in rng.uniform(0, 2 * np.pi, 5):
        x, y = 100 + distance * np.cos(angle), 100 + distance * np.sin(angle)
        one, other = _disc((200, 200), 100, 100, large), _disc((200, 200), x, y, small)
        if valley:
            both = np.minimum(np.maximum(one, other), np.abs(other) + 0.1)
            margins = np.clip(2 * np.where(one > 0, both, np.maximum(one, other)), -5, 6)
        else:
            margins = np.where(np.maximum(one, other) > 0, 5, -5)
        found = _found(margins)
        assert [crater.diameter for crater in found] == pytest.approx([large, small], rel=0.05)
        found.sort(key=lambda crater: np.hypot(crater.x - 100, crater.y - 100))
        assert np.hypot(found[0].x - 100, found[0].y - 100) < 0.03 * large
        assert np.hypot(found[1].x - x, found[1].y - y) < 0.05 * small


def test_three_craters_in_a_row_with_one_inside_are_four() -> None:
    discs = [_disc((200, 300), x, 100, diameter) for x, diameter in ((80, 80), (140, 60), (200, 84))]
    margins = np.where(np.max(discs, axis=0) > 0, 5.0, -5)
    inside = _disc((200, 300), 70, 100, 14)
    found = _found(np.minimum(margins, np.clip(2 * np.abs(inside) - 0.5, 0.5, 6)))
    assert [crater.diameter for crater in found] == pytest.approx([84, 80, 60, 14], rel=0.06)


def test_what_is_not_made_of_circles_is_not_parted() -> None:
    rows, columns = np.mgrid[:200, :200] - 99.5
    plus = (np.abs(rows) < 20) & (np.abs(columns) < 60) | (np.abs(columns) < 20) & (np.abs(rows) < 60)
    crescent = (np.hypot(rows, columns) < 70) & (np.hypot(rows, columns - 40) > 50)
    corner = (np.abs(rows) < 60) & (np.abs(columns) < 60) & ((rows < 0) | (columns < 0))
    for shape in (plus, crescent, corner):
        assert len(_found(np.where(shape, 5.0, -5))) <= 1


@pytest.mark.parametrize("level", [-0.02, 0.0, 0.03])
@pytest.mark.parametrize("gaps", [False, True])
def test_noise_gives_roundish_areas_alone_and_does_not_take_forever(level: float, gaps: bool) -> None:
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    noise = gaussian_filter(rng.standard_normal((600, 600)), 3)
    seen = ~gaps | (gaussian_filter(rng.standard_normal(noise.shape), 5) < 0.02)
    found = _found(np.where(noise > level, 5.0, -5), seen)
    assert all(crater.roundness >= 0.65 and np.isfinite(crater.outline).all() for crater in found)


def test_craters_in_craters_are_all_found() -> None:
    margins = np.clip(2 * _disc((300, 300), 150, 150, 260), -5, 6)
    for x, y, diameter in ((120, 120, 70), (110, 118, 12), (220, 170, 20)):
        inside = _disc((300, 300), x, y, diameter)
        margins = np.minimum(margins, np.clip(2 * np.abs(inside) - 0.5, 0.5, 6))
    assert [round(crater.diameter) for crater in _found(margins)] == [260, 70, 20, 12]


def test_noise_within_a_crater_is_none() -> None:
    rng = np.random.default_rng(0)
    inside = _disc((200, 200), 100, 100, 150)
    margins = np.where(inside > 0, 3 + 0.4 * rng.standard_normal(inside.shape), -4)
    (crater,) = _found(margins)
    assert crater.diameter == pytest.approx(150, rel=0.01)


def test_a_crater_with_a_hole_is_whole() -> None:
    inside = _disc((200, 200), 100, 100, 150)
    (crater,) = _found(np.where((inside > 0) & (inside < 40), 4.0, -4))
    assert crater.diameter == pytest.approx(150, rel=0.01)


def test_what_is_not_round_is_none() -> None:
    margins = np.full((200, 200), -4.0)
    margins[95:105, 10:190] = 4
    assert _found(margins) == []


@pytest.mark.parametrize(("x", "seen_share"), [(-5, 0.4), (2, 0.5), (20, 0.8)])
def test_a_cut_crater_has_the_size_of_its_circle(x: float, seen_share: float) -> None:
    (crater,) = _found(np.clip(2 * _disc((200, 200), x, 100, 80), -5, 6))
    assert crater.cut
    assert crater.diameter == pytest.approx(80, rel=0.02)
    assert (crater.x, crater.y) == (pytest.approx(x, abs=1), pytest.approx(100, abs=0.5))


def test_a_crater_of_which_little_is_seen_is_none() -> None:
    assert _found(np.clip(2 * _disc((200, 200), -32, 100, 80), -5, 6)) == []


def test_a_crater_at_the_edge_of_the_data_is_cut() -> None:
    margins = np.clip(2 * _disc((200, 200), 100, 100, 80), -5, 6)
    seen = np.ones(margins.shape, bool)
    seen[:, 115:] = False
    (crater,) = _found(np.where(seen, margins, 0), seen)
    assert crater.cut
    assert crater.diameter == pytest.approx(80, rel=0.02)
    seen[:] = True
    seen[60:63, 98:101] = False  # a few bad pixels on the rim
    (crater,) = _found(np.where(seen, margins, 0), seen)
    assert not crater.cut
    assert crater.diameter == pytest.approx(80, rel=0.01)


def test_what_goes_on_beyond_an_open_side_is_left_to_the_neighbour() -> None:
    margins = np.clip(2 * _disc((200, 200), 3, 100, 40), -5, 6).astype(np.float32)
    seen = np.ones(margins.shape, bool)
    assert list(instances(margins, seen, 7.0, (False, False, True, False))) == []
    assert len(list(instances(margins, seen, 7.0, CLOSED))) == 1


def test_smaller_ones_are_left_out() -> None:
    margins = np.clip(2 * _disc((100, 100), 50, 50, 11), -5, 6)
    assert len(_found(margins, smallest=10)) == 1
    assert _found(margins, smallest=12) == []


def test_an_area_between_data_gaps_is_none() -> None:
    margins = np.full((60, 60), 3.0)
    seen = np.zeros(margins.shape, bool)
    seen[20:40, 20:40] = True
    assert _found(margins, seen) == []
