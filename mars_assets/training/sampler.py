"""Images of each training step: a function of the seed and the step's number alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch


class BatchesOfSteps(torch.utils.data.Sampler[list[int]]):
    """Batches of a stretch of steps, each a function of the seed and the step's number alone.

    The images pass in one random order after another; a batch may take the end of one and the beginning of the next.

    Args:
        n: number of images.
        batch_size: images per step.
        steps: the stretch, counted from the start of the training.
        seed: seed of the orders.
        shares: relative frequency of each image; None: each once per order. An order of n then has an image n times its
            share, rounded up or down at random.
    """

    def __init__(
        self, n: int, batch_size: int, steps: range, seed: int, shares: npt.NDArray[np.float64] | None = None
    ) -> None:
        self._n = n
        self._shares = shares
        self._batch_size = batch_size
        self._steps = steps
        self._seed = seed

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[list[int]]:
        start, stop = self._steps.start * self._batch_size, self._steps.stop * self._batch_size
        first = start // self._n
        images = np.concatenate([self._order(turn) for turn in range(first, (stop - 1) // self._n + 1)])
        images = images[start - first * self._n :]
        for place in range(0, stop - start, self._batch_size):
            yield images[place : place + self._batch_size].tolist()

    def _order(self, turn: int) -> npt.NDArray[np.intp]:
        random = np.random.default_rng([self._seed, turn])
        if self._shares is None:
            return random.permutation(self._n)
        # Systematic sampling: evenly spaced points on the shares laid end to end.
        ends = np.cumsum(self._shares) / self._shares.sum()
        points = (np.arange(self._n) + random.random()) / self._n
        return random.permutation(np.minimum(np.searchsorted(ends, points, side="right"), self._n - 1))
