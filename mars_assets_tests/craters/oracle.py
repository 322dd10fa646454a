"""Scenes of which every crater is known, and a network that knows them."""

from __future__ import annotations

import numpy as np

from mars_assets.craters.scan import Network, Place

Known = list[tuple[float, float, float]]
"""Column and row of the centre, and diameter, in pixels."""


class FlatScene:
    """A scene without anything to see, since the network knows it."""

    channels = 1

    def __init__(self, good: np.ndarray) -> None:
        self.good = good
        self.shape = good.shape

    def read(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        return np.full((last - first, self.shape[1], 3), 100, np.uint8), self.good[first:last]


class Oracle(Network):
    """Margins as a good network gives them: by the distance to the rim, and lower along the rims of nested craters.

    It sees craters of 5 pixels up to a little more than its window.
    """

    def __init__(self, craters: Known, side: int = 256) -> None:
        self.craters = sorted(craters, key=lambda crater: -crater[2])
        self.side = side
        self.windows: list[Place] = []

    def margins(self, windows: np.ndarray, good: np.ndarray, places: list[Place]) -> np.ndarray:
        assert windows.shape == (len(places), self.side, self.side, 3)
        assert good.shape == windows.shape[:3]
        self.windows += places
        return np.stack([self._window(place) for place in places])

    def _window(self, place: Place) -> np.ndarray:
        y, x = np.mgrid[: self.side, : self.side] + 0.5
        margins = np.full(x.shape, -5, np.float32)
        for crater in self.craters:
            column, row, diameter = (value / place.factor for value in crater)
            column, row = column - place.left, row - place.top
            reach = (self.side + diameter) / 2 + 4
            if (
                not 5 <= diameter <= 1.2 * self.side
                or max(abs(column - self.side / 2), abs(row - self.side / 2)) > reach
            ):
                continue
            inside = diameter / 2 - np.hypot(x - column, y - row)
            rim = np.clip(2 * np.abs(inside) - 0.5, 0.5, 6)
            alone = np.clip(2 * inside, -5, 6)
            margins = np.where(
                margins > 0, np.where(inside > 0, rim, np.minimum(margins, rim)), np.maximum(margins, alone)
            )
        return margins.astype(np.float32)


def draw(rng: np.random.Generator, shape: tuple[int, int], count: int, largest: float | None = None) -> Known:
    """Draw craters that lie within a scene, beside each other or nested."""
    height, width = shape
    craters: Known = []
    for diameter in np.sort(np.exp(rng.uniform(np.log(8), np.log(largest or width / 2), count)))[::-1].tolist():
        for _ in range(40):
            x, y = rng.uniform(diameter / 2, width - diameter / 2), rng.uniform(diameter / 2, height - diameter / 2)
            if all(_apart((x, y, diameter), other) for other in craters):
                craters.append((x, y, diameter))
                break
    return craters


def _apart(one: tuple[float, float, float], other: tuple[float, float, float]) -> bool:
    distance = np.hypot(one[0] - other[0], one[1] - other[1])
    beside = distance > (one[2] + other[2]) / 2 + 2
    return bool(beside or (distance + one[2] / 2 < 0.85 * other[2] / 2 and one[2] < 0.3 * other[2]))
