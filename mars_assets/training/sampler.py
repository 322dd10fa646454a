"""Images of each training step.

They are a function of the seed and the step's number alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt


def batches_of_steps(
    n: int, batch_size: int, steps: range, seed: int, shares: npt.NDArray[np.float64] | None = None
) -> Iterator[list[int]]:
    """Yield the batches of a stretch of steps.

    Each is a function of the seed and the step's number alone.

    The images pass in one random order after another; a batch may take the end of one and the beginning of the next.

    Args:
        n: number of images.
        batch_size: images per step.
        steps: the stretch, counted from the start of the training.
        seed: seed of the orders.
        shares: relative frequency of each image; None: each once per order. An order of n then has an image n times its
            share, rounded up or down at random.
    """

    def order(turn: int) -> npt.NDArray[np.intp]:
        random = np.random.default_rng([seed, turn])
        if shares is None:
            return random.permutation(n)
        # Systematic sampling: evenly spaced points on the shares laid end to end.
        ends = np.cumsum(shares) / shares.sum()
        points = (np.arange(n) + random.random()) / n
        return random.permutation(np.minimum(np.searchsorted(ends, points, side="right"), n - 1))

    start, stop = steps.start * batch_size, steps.stop * batch_size
    first = start // n
    images = np.concatenate([order(turn) for turn in range(first, (stop - 1) // n + 1)])[start - first * n :]
    for place in range(0, stop - start, batch_size):
        yield images[place : place + batch_size].tolist()
