"""What a step follows from."""

import numpy as np
import pytest
import torch

from mars_assets.training.sampler import batches_of_steps
from mars_assets.training.schedule import learning_rate_factor, seed_step


def test_schedule_warms_up_to_the_peak_and_falls_to_nothing() -> None:
    factors = [learning_rate_factor(step, 100, 10, "cosine") for step in range(101)]
    assert factors[:10] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0)
    assert learning_rate_factor(99, 100, 10, "constant") == 1


def test_every_step_and_process_has_its_own_random_numbers() -> None:
    drawn = []
    for seed, step, rank in ((1, 0, 0), (1, 0, 0), (1, 1, 0), (2, 0, 0), (1, 0, 1)):
        seed_step(seed, step, rank)
        drawn.append(float(torch.rand(())))
    assert drawn[0] == drawn[1]
    assert len(set(drawn[1:])) == 4


def test_batches_follow_from_seed_and_step_and_every_image_comes_once_in_a_turn() -> None:
    whole = list(batches_of_steps(10, 4, range(15), seed=1))
    resumed = list(batches_of_steps(10, 4, range(7, 15), seed=1))
    assert whole[7:] == resumed
    assert [len(batch) for batch in whole] == [4] * 15
    flat = [image for batch in whole for image in batch]
    turns = [flat[start : start + 10] for start in range(0, 60, 10)]
    assert all(sorted(turn) == list(range(10)) for turn in turns)
    assert turns[0] != turns[1]
    assert whole != list(batches_of_steps(10, 4, range(15), seed=2))


def test_shares_say_how_often_an_image_passes() -> None:
    shares = np.array([0.5, 0.25, 0.125, 0.125])
    batches = list(batches_of_steps(4, 4, range(400), seed=3, shares=shares))
    assert batches == list(batches_of_steps(4, 4, range(400), seed=3, shares=shares))
    counts = np.array([[batch.count(image) for image in range(4)] for batch in batches])
    # Each order has four times the share, rounded up or down.
    assert (counts[:, 0] == 2).all()
    assert (counts[:, 1] == 1).all()
    assert counts[:, 2:].max() == 1
    np.testing.assert_allclose(counts.mean(axis=0), 4 * shares, atol=0.1)
