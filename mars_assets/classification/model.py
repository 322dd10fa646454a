"""The classifiers: Prithvi's encoder with one pooled token, dropout and one linear unit; or a model of timm's, to compare."""

from __future__ import annotations

import abc
import difflib
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from mars_assets.errors import MarsError
from mars_assets.prithvi.config import PrithviConfig
from mars_assets.prithvi.model import PrithviEncoder
from mars_assets.views import oriented


class Classifier(nn.Module, abc.ABC):
    """Whether a chip shows a crater, as a logit: normalised chips (B, C, H, W) -> logits (B,).

    Args:
        config: bands and statistics of its input.
    """

    def __init__(self, config: PrithviConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def layers(self) -> nn.Module:
        """The module whose ``group_matcher`` tells its layers, for layer-wise rates."""
        return self

    @abc.abstractmethod
    def freeze(self) -> None:
        """Leaves only the linear unit to be trained."""

    def mean_logits(self, chips: Tensor, orientations: int) -> Tensor:
        """The mean over the first ``orientations`` orientations of a square, (B, C, H, H) -> (B,)."""
        return torch.stack([self(oriented(chips, orientation)) for orientation in range(orientations)]).mean(dim=0)


class CraterClassifier(Classifier):
    """Prithvi's encoder, one pooled token, dropout, one linear unit.

    Args:
        encoder: what turns a chip into tokens.
        pooling: the class token, or the mean of the patch tokens.
        dropout: of the pooled token.
        mask_ratio: share of the patches that training removes; the encoder does not see them. Evaluation removes none.
    """

    def __init__(
        self,
        encoder: PrithviEncoder,
        pooling: Literal["class_token", "mean"],
        dropout: float,
        mask_ratio: float = 0.0,
    ) -> None:
        super().__init__(encoder.config)
        self.encoder = encoder
        self.pooling = pooling
        self.mask_ratio = mask_ratio
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(encoder.config.embed_dim, 1)

    def freeze(self) -> None:
        self.encoder.requires_grad_(False)

    def forward(self, chips: Tensor) -> Tensor:
        tokens = self.encoder(chips, self.mask_ratio if self.training else 0.0).tokens
        pooled = tokens[:, 0] if self.pooling == "class_token" else tokens[:, 1:].mean(dim=1)
        # bf16 has 256 values between a logit and its double: too few to sort images by.
        with torch.autocast(pooled.device.type, enabled=False):
            return self.head(self.dropout(pooled.float())).squeeze(-1)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Which parameters are a layer, as timm describes it for layer-wise rates. The norm belongs to the last block."""
        return {
            "stem": r"^encoder\.(?:cls_token|patch_embed)",
            "blocks": [(r"^encoder\.blocks\.(\d+)", None), (r"^encoder\.norm", (99999,))],
        }


class TimmClassifier(Classifier):
    """A model of timm's with one linear unit.

    Args:
        name: timm's name.
        config: bands and statistics of its input.
        dropout: before the linear unit.
        image_size: side of its input.
        imagenet: start from ImageNet weights.

    Raises:
        MarsError: timm has no such model, or its weights cannot be fetched.
    """

    def __init__(self, name: str, config: PrithviConfig, dropout: float, image_size: int, imagenet: bool) -> None:
        import timm

        super().__init__(config)
        self._frozen = False
        if not timm.is_model(name):
            similar = difflib.get_close_matches(name, timm.list_models(), 8) or ["resnet18", "vit_tiny_patch16_224"]
            raise MarsError(f"timm has no model {name!r}; it has {', '.join(similar)}, and others")
        options: dict[str, Any] = {"drop_rate": dropout}
        published = timm.get_pretrained_cfg(name)
        if published is not None and published.fixed_input_size:
            options["img_size"] = image_size
        try:
            self.model = timm.create_model(name, imagenet, in_chans=len(config.bands), num_classes=1, **options)
        except (OSError, RuntimeError) as error:
            if not imagenet:
                raise
            raise MarsError(
                f"the ImageNet weights of {name} cannot be fetched ({error}): connect this machine, or set imagenet to false"
            ) from error

    @property
    def layers(self) -> nn.Module:
        return self.model

    def freeze(self) -> None:
        self._frozen = True
        self.model.requires_grad_(False)
        cast(Any, self.model).get_classifier().requires_grad_(True)

    def train(self, mode: bool = True) -> TimmClassifier:
        """A frozen model stays as it is: the statistics of its batch norms are part of it."""
        super().train(mode)
        if self._frozen:
            self.model.eval()
        return self

    def forward(self, chips: Tensor) -> Tensor:
        return self.model(chips).squeeze(-1)
