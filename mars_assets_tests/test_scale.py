"""The page on scale has the figures that the benchmarks recorded."""

import dataclasses
from typing import Any

import pytest

from mars_assets_tests.scripts import benchmark

scale: Any = benchmark("scale")


def test_the_page_has_the_tables_of_what_was_recorded() -> None:
    page = scale.PAGE.read_text()
    assert scale.filled(page) == page, "run benchmarks/scale.py"


def test_mars_at_five_metres_has_its_pixels() -> None:
    mars, hirise = scale.tasks()
    assert mars.pixels == pytest.approx(5.8e12, rel=0.005)
    assert hirise.scenes == 100_000


def test_demands_grow_with_the_scenes() -> None:
    for task in scale.tasks():
        found = scale.demands(task)
        twice = scale.demands(dataclasses.replace(task, scenes=2 * task.scenes))
        for name, value in found.items():
            assert twice[name] == pytest.approx(2 * value, rel=1e-3), name
        # A map is its network and more.
        assert found["map"] > found["gpu default"]
        assert found["gpu paper"] > found["gpu default"] > 0
