"""Chips and masks as an mmseg dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from mars_assets.segmentation.recipe import CLASSES


@DATASETS.register_module()
class CraterDataset(BaseSegDataset):
    """Chips and masks from an explicit list.

    Args:
        items: dicts with ``img_path`` and ``seg_map_path``.
        kwargs: mmseg's.
    """

    METAINFO = {"classes": CLASSES, "palette": [[160, 120, 90], [255, 200, 40]]}  # noqa: RUF012 - mmseg's interface

    def __init__(self, items: Sequence[dict[str, str]], **kwargs: Any) -> None:
        self.items = list(items)
        super().__init__(serialize_data=False, **kwargs)  # a list this short needs no compact copy

    def load_data_list(self) -> list[dict[str, Any]]:
        """What mmseg's pipeline starts from, an entry an image."""
        shared = {"label_map": self.label_map, "reduce_zero_label": self.reduce_zero_label}
        return [{**item, **shared, "seg_fields": []} for item in self.items]
