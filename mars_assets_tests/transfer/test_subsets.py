"""Nested subsets of training images."""

import numpy as np
import pandas as pd
import pytest

from mars_assets.transfer.subsets import drawn_order, sizes


@pytest.fixture
def images() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    observations = rng.integers(0, 20, 200)
    frame = pd.DataFrame(
        {"image_id": [f"i{i:03d}" for i in range(200)], "observation": [f"o{i}" for i in observations]}
    )
    return frame.assign(label=rng.random(200) < 0.2).astype({"label": int})


def test_it_is_an_order_of_all_images(images: pd.DataFrame):
    assert sorted(drawn_order(images, 3)) == list(range(200))


def test_the_first_images_have_both_classes(images: pd.DataFrame):
    for seed in range(20):
        assert set(images["label"].iloc[drawn_order(images, seed)[:2]]) == {0, 1}


def test_few_images_are_those_of_few_observations(images: pd.DataFrame):
    chosen = images.iloc[drawn_order(images, 1)[:50]]
    whole = images.groupby("observation").size()
    taken = chosen.groupby("observation").size()
    # All but the last observation, and the first images of the classes, are taken whole.
    assert (taken < whole[taken.index]).sum() <= 3


def test_the_order_of_the_rows_changes_nothing(images: pd.DataFrame):
    mixed = images.sample(frac=1, random_state=1)
    ids = images["image_id"].to_numpy()[drawn_order(images, 5)]
    assert list(mixed["image_id"].to_numpy()[drawn_order(mixed, 5)]) == list(ids)


def test_seeds_draw_different_observations(images: pd.DataFrame):
    first = {images["observation"].iloc[drawn_order(images, seed)[10]] for seed in range(20)}
    assert len(first) > 5


@pytest.mark.parametrize(
    ("images", "fraction", "expected"),
    [(421, 0.01, 5), (421, 1.0, 421), (100, 0.07, 7), (100, 0.29, 29), (10, 0.01, 2), (1, 0.5, 1)],
)
def test_sizes(images: int, fraction: float, expected: int):
    assert sizes(images, 2, [fraction]) == [expected]
