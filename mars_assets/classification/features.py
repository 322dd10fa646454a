"""Cached features of a frozen encoder, computed once for any number of heads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn

from mars_assets.classification.data import load_chip
from mars_assets.classification.model import mean_of_patches
from mars_assets.classification.recipe import ClsRecipe
from mars_assets.code_versions import FEATURES
from mars_assets.encoders.registry import SHUFFLED, is_drawn
from mars_assets.prithvi import PRITHVI
from mars_assets.progress import SILENT, Progress
from mars_assets.storage.cache import Cache
from mars_assets.storage.hashing import fingerprint
from mars_assets.training.augmentation import oriented

if TYPE_CHECKING:
    from mars_assets.encoders.weights import Encoder
    from mars_assets.training.compute import Compute


POOLINGS = ("class_token", "mean")
_BATCH = 32


def are_enough(recipe: ClsRecipe) -> bool:
    """Test whether a recipe can be trained on features.

    It can if nothing before the head is trained or random.
    """
    return recipe.architecture == PRITHVI and recipe.frozen and not recipe.mask_ratio and recipe.augment != "full"


def orientations_of(recipe: ClsRecipe) -> int:
    """Return the number of orientations in which a recipe uses an image."""
    return max(recipe.orientations, 8 if recipe.augment == "flips" else 1)


class FeatureHead(nn.Module):
    """Classifier head: features (B, orientations, poolings, D) -> logits (B,).

    Both are float32. Autocast is not used: its overhead is noticeable in such short steps, and bf16 is too coarse for
    logits.

    Args:
        width: the encoder's width D.
        recipe: selects orientations and pooling. Training with flips uses a random orientation, otherwise the original
            one; :meth:`mean_logits` predicts.
    """

    def __init__(self, width: int, recipe: ClsRecipe) -> None:
        super().__init__()
        self.dropout = nn.Dropout(recipe.dropout)
        self.head = nn.Linear(width, 1)
        self._pooling = POOLINGS.index(recipe.pooling)
        self._flips = recipe.augment == "flips"
        self._orientations = recipe.orientations

    def forward(self, features: Tensor) -> Tensor:
        pooled = features[:, :, self._pooling]
        if self.training and self._flips:
            b, orientations = pooled.shape[:2]
            return self._logits(pooled[torch.arange(b), torch.randint(orientations, (b,))])
        return self._logits(pooled[:, 0])

    def mean_logits(self, features: Tensor) -> Tensor:
        """Average the logits over the recipe's orientations."""
        return self._logits(features[:, : self._orientations, self._pooling]).mean(dim=1)

    def _logits(self, pooled: Tensor) -> Tensor:
        return self.head(self.dropout(pooled)).squeeze(-1)


class FeatureCache:
    """Features from a frozen encoder, in one file per preprocessing.

    Args:
        folder: where the files are.
        weights_sha256: of the encoder's weights.
        recipe: defines preprocessing and the number of orientations.
        compute: precision, and the seed of a random encoder.
    """

    def __init__(self, folder: Path, weights_sha256: str, recipe: ClsRecipe, compute: Compute) -> None:
        self._orientations = orientations_of(recipe)
        self._recipe = recipe
        self._compute = compute
        kind = [SHUFFLED] if recipe.encoder.startswith(SHUFFLED) else []
        random = [*kind, compute.seed, torch.__version__] if is_drawn(recipe.encoder) else None
        read = [recipe.image_size, recipe.normalize, self._orientations]
        name = fingerprint(FEATURES, weights_sha256, random, read, compute.precision)
        self.path = folder / f"{name[:16]}.safetensors"

    def of(self, load: Callable[[], Encoder], images: pd.DataFrame, progress: Progress = SILENT) -> Tensor:
        """Return features of images, computing those that are not cached.

        Args:
            load: returns the frozen encoder, float32; called only if features must be computed.
            images: ``image_id, chip (path), chip_sha``.
            progress: shows how many new images are done.

        Returns:
            float32 (N, orientations, poolings, D), on the CPU.

        Raises:
            DamagedFileError: a chip cannot be read.
        """
        chips, recipe = [Path(chip) for chip in images["chip"]], self._recipe

        def compute(places: list[int]) -> Iterator[npt.NDArray[np.float32]]:
            encoder = load().to(self._compute.device).eval()
            counter = progress.counter("encoding images with the frozen encoder", len(places), "images")
            for start in range(0, len(places), _BATCH):
                batch = [
                    load_chip(chips[place], encoder.config, recipe.image_size, recipe.normalize)
                    for place in places[start : start + _BATCH]
                ]
                yield from self._computed(encoder, torch.stack(batch)).numpy()
                counter.advance(len(batch))
            counter.close()

        with Cache(self.path, FEATURES, keep_all=True, progress=progress) as cache:
            found = cache.get_all(images[["image_id", "chip_sha"]].to_numpy().tolist(), compute)
        return torch.from_numpy(np.stack(found))

    def _computed(self, encoder: Encoder, chips: Tensor) -> Tensor:
        chips = chips.to(self._compute.device)
        views = []
        with torch.inference_mode(), self._compute.autocast():
            for orientation in range(self._orientations):
                tokens = encoder(oriented(chips, orientation)).tokens.float()
                mean = mean_of_patches(tokens, encoder.config)
                # Recipes that would read the class token of an encoder without one are refused.
                views.append(torch.stack([tokens[:, 0] if encoder.config.has_class_token else mean, mean], dim=1))
        return torch.stack(views, dim=1).cpu()
