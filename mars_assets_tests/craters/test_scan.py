import json
from pathlib import Path

import numpy as np
import pytest

from mars_assets.craters.levels import RowFile, halved
from mars_assets.craters.scan import LevelMap, Network, Place, count_windows, dequantized, factors, quantized, scan
from mars_assets_tests.craters.oracle import FlatScene, Oracle, draw


def _margins(levels: list[LevelMap]) -> list[np.ndarray]:
    return [np.where(level.read(0, level.shape[0])[1], level.read(0, level.shape[0])[0], -99) for level in levels]


@pytest.fixture
def scene() -> tuple[FlatScene, list]:
    rng = np.random.default_rng(3)
    good = np.ones((700, 500), bool)
    good[:150, :90] = False
    return FlatScene(good), draw(rng, good.shape, 40)


def test_levels_end_where_the_scene_fits_a_window() -> None:
    assert factors((700, 500), 256) == [1, 2, 4]
    assert factors((256, 256), 256) == [1]
    assert factors((10, 4000), 64) == [1, 2, 4, 8, 16, 32, 64]


@pytest.mark.parametrize("shape", [(700, 500), (128, 128), (90, 300), (129, 128)])
def test_windows_are_counted_as_they_are_looked_at(shape: tuple[int, int], tmp_path: Path) -> None:
    oracle = Oracle([], 128)
    scan(FlatScene(np.ones(shape, bool)), oracle, tmp_path)
    assert count_windows(shape, 128) == len(oracle.windows)


def test_margins_are_the_networks(scene, tmp_path: Path) -> None:
    flat, craters = scene
    small = [crater for crater in craters if crater[2] < 60]
    levels = scan(flat, Oracle(small, 128), tmp_path)
    assert [level.shape for level in levels] == [(700, 500), (350, 250), (175, 125), (88, 63)]
    # One window that sees everything.
    truth = Oracle(small, 700)._window(Place(1, 0, 0))[:, :500]
    margins, seen = levels[0].read(0, 700)
    assert np.array_equal(seen, flat.good)
    assert np.abs(margins - truth)[seen].max() <= 1 / 32 + 1e-5


def test_blending_of_equal_margins_changes_nothing(tmp_path: Path) -> None:
    class Ramp(Network):
        side = 64

        def margins(self, windows, good, places):
            y, x = np.mgrid[:64, :64]
            return np.stack([((y + place.top) + (x + place.left)) * place.factor / 100 for place in places])

    good = np.ones((333, 201), bool)
    for shift in ((0, 0), (17, 5)):
        levels = scan(FlatScene(good), Ramp(), tmp_path / str(shift), shift=shift)
        y, x = np.mgrid[:333, :201]
        assert np.abs(levels[0].read(0, 333)[0] - (y + x) / 100).max() <= 1 / 32 + 1e-5


@pytest.mark.parametrize("after", [0, 1, 3, 4, 5, 9])
def test_a_killed_scan_goes_on_at_its_strip(scene, tmp_path: Path, after: int) -> None:
    class Killed(Exception):
        pass

    class Dying(Oracle):
        def margins(self, windows, good, places):
            if len({(place.factor, place.top) for place in [*self.windows, *places]}) > after:
                raise Killed
            return super().margins(windows, good, places)

    flat, craters = scene
    whole = _margins(scan(flat, Oracle(craters, 128), tmp_path / "whole"))
    with pytest.raises(Killed):
        scan(flat, Dying(craters, 128), tmp_path / "killed")
    rest = Oracle(craters, 128)
    for one, other in zip(whole, _margins(scan(flat, rest, tmp_path / "killed")), strict=True):
        assert np.array_equal(one, other)
    every = Oracle(craters, 128)
    scan(flat, every, tmp_path / "again")
    # At most the strip that was not finished, and the one before it, which it overlaps, are computed twice.
    assert len(set(every.windows) - set(rest.windows)) >= (max(after - 2, 0)) * 3
    nothing = Oracle(craters, 128)
    scan(flat, nothing, tmp_path / "killed")
    assert nothing.windows == []


def test_parts_without_data_are_not_looked_at(tmp_path: Path) -> None:
    good = np.zeros((600, 600), bool)
    good[500:, 500:] = True
    oracle = Oracle([], 64)
    levels = scan(FlatScene(good), oracle, tmp_path)
    assert all(place.top + 64 > 500 / place.factor - 1 for place in oracle.windows)
    assert np.array_equal(levels[0].read(0, 600)[1], good)


def test_a_scene_smaller_than_a_window_is_mirrored(tmp_path: Path) -> None:
    class Mean(Network):
        side = 64

        def margins(self, windows, good, places):
            assert windows.shape == (1, 64, 64, 3)
            assert good.all()
            return np.full(good.shape, 1.5, np.float32)

    levels = scan(FlatScene(np.ones((20, 33), bool)), Mean(), tmp_path)
    assert [level.shape for level in levels] == [(20, 33)]
    assert (levels[0].read(0, 20)[0] == 1.5).all()


def test_halves_are_means_of_good_pixels() -> None:
    rng = np.random.default_rng(0)
    pixels, good = rng.integers(0, 256, (7, 9, 3)).astype(np.uint8), rng.random((7, 9)) < 0.6
    half, is_good = halved(pixels, good)
    assert half.shape == (4, 5, 3)
    for row in range(4):
        for column in range(5):
            rows, columns = [min(2 * row + k, 6) for k in (0, 1)], [min(2 * column + k, 8) for k in (0, 1)]
            four = [(r, c) for r in rows for c in columns]
            kept = [pixels[place].astype(float) for place in four if good[place]]
            assert is_good[row, column] == (len(kept) >= 2)
            if kept:
                assert np.abs(half[row, column] - np.mean(kept, axis=0)).max() <= 0.5


def test_bytes_hold_margins_to_a_sixteenth() -> None:
    margins = np.linspace(-12, 12, 1001, dtype=np.float32)
    good = np.arange(1001) % 7 > 0
    stored = quantized(margins, good)
    assert np.array_equal(stored > 0, good)
    assert np.abs(dequantized(stored) - np.clip(margins, -7.9375, 7.9375))[good].max() <= 1 / 32 + 1e-6


def test_rows_are_read_where_they_were_written(tmp_path: Path) -> None:
    rows = np.arange(5 * 4 * 2, dtype=np.uint8).reshape(5, 4, 2)
    file = RowFile(tmp_path / "rows", (5, 4, 2))
    file.write(2, rows[2:])
    file.write(0, rows[:2])
    assert np.array_equal(RowFile(tmp_path / "rows", (5, 4, 2)).read(1, 4), rows[1:4])


def test_the_state_names_level_and_row(scene, tmp_path: Path) -> None:
    flat, craters = scene
    levels = scan(flat, Oracle(craters, 128), tmp_path)
    assert json.loads((tmp_path / "state.json").read_text()) == [len(levels) - 1, levels[-1].shape[0]]
