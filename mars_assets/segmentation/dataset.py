"""Chips and masks as an mmseg dataset, and the training batches drawn from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from mars_assets.segmentation.recipe import CLASSES
from mars_assets.training.sampler import batches_of_steps


class Draw(NamedTuple):
    """One image of a training batch.

    Args:
        image: index in the dataset.
        seed: of the image's random transforms.
    """

    image: int
    seed: tuple[int, ...]


@dataclass(frozen=True)
class SeededBatches:
    """Batches that follow from the seed and the step alone.

    Torch's data loader takes them.

    They do not depend on the number of loader processes, and a resumed training draws the same batches as an
    uninterrupted one.

    Args:
        n: number of images.
        batch_size: images per step.
        steps: range of steps to draw batches for.
        seed: of the training.
    """

    n: int
    batch_size: int
    steps: range
    seed: int

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[Draw]]:
        drawn = batches_of_steps(self.n, self.batch_size, self.steps, self.seed)
        for step, images in zip(self.steps, drawn, strict=True):
            # Places count from 1: numpy seeds alike with and without a last 0, and (seed, step) seeds the dropout.
            yield [Draw(image, (self.seed, step, place)) for place, image in enumerate(images, start=1)]


@DATASETS.register_module()
class CraterDataset(BaseSegDataset):
    """Chips and masks from an explicit list.

    An item is fetched by its index, or by a :class:`Draw`, whose generator the random transforms find in ``rng``.

    Args:
        items: dicts with ``img_path`` and ``seg_map_path``.
        kwargs: arguments of mmseg's base class.
    """

    METAINFO = {"classes": CLASSES, "palette": [[160, 120, 90], [255, 200, 40]]}  # noqa: RUF012 - mmseg's interface

    def __init__(self, items: Sequence[dict[str, str]], **kwargs: Any) -> None:
        self.items = list(items)
        super().__init__(serialize_data=False, **kwargs)  # a list this short needs no compact copy

    def load_data_list(self) -> list[dict[str, Any]]:
        """List what mmseg's pipeline starts from, one entry per image."""
        shared = {"label_map": self.label_map, "reduce_zero_label": self.reduce_zero_label}
        return [{**item, **shared, "seg_fields": []} for item in self.items]

    def prepare_data(self, idx: int | Draw) -> Any:
        """Run the pipeline on one image."""
        if isinstance(idx, int):
            return super().prepare_data(idx)
        return self.pipeline({**self.get_data_info(idx.image), "rng": np.random.default_rng(idx.seed)})
