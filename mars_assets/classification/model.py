"""The classifiers: Prithvi's encoder with one pooled token, dropout and one linear unit; a segmentation network and what it is
surest of; or a model of timm's, to compare.
"""

from __future__ import annotations

import abc
import difflib
from typing import Any, Literal, cast

import timm
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mars_assets.classification.recipe import STRONGEST
from mars_assets.errors import MarsError
from mars_assets.prithvi.config import PrithviConfig
from mars_assets.prithvi.model import PrithviEncoder
from mars_assets.segmentation.networks import channels_together
from mars_assets.training.augmentation import oriented


def logits_of(head: nn.Module, dropout: nn.Module, features: Tensor) -> Tensor:
    """Logits (...) of features (..., D) in float32, also under autocast.

    bf16 has 128 values between a logit and its double: too few to sort images by.
    """
    with torch.autocast(features.device.type, enabled=False):
        return head(dropout(features.float())).squeeze(-1)


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

    @property
    @abc.abstractmethod
    def without_decay(self) -> tuple[str, ...]:
        """Names in ``layers`` of parameters without weight decay, beside biases and norms."""

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

    @property
    def without_decay(self) -> tuple[str, ...]:
        return ("encoder.cls_token",)

    def freeze(self) -> None:
        self.encoder.requires_grad_(False)

    def forward(self, chips: Tensor) -> Tensor:
        tokens = self.encoder(chips, self.mask_ratio if self.training else 0.0).tokens
        pooled = tokens[:, 0] if self.pooling == "class_token" else tokens[:, 1:].mean(dim=1)
        return logits_of(self.head, self.dropout, pooled)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Which parameters are a layer, as timm describes it for layer-wise rates. The norm belongs to the last block."""
        return {
            "stem": r"^encoder\.(?:cls_token|patch_embed)",
            "blocks": [(r"^encoder\.blocks\.(\d+)", None), (r"^encoder\.norm", (99999,))],
        }


_PACE = 50.0
"""How much faster than the network its scale and its offset are learnt. Both begin where a guess puts them, and the network's
rates, made to keep what it knows, would leave them there.
"""


class OutlineClassifier(Classifier):
    """A segmentation network's opinion of an image: by how much it prefers crater to background where it does so most.

    The mean of the strongest of those margins, in the logits of its decode head, times a scale, plus an offset. Its batch
    norms keep the statistics of the outlined images, beside which a batch of tiles is too few.

    Args:
        network: mmseg's encoder-decoder of two classes. Its decode head answers in float32 from here on.
        config: bands and statistics of its input.

    Raises:
        MarsError: it tells other classes apart.
    """

    def __init__(self, network: nn.Module, config: PrithviConfig) -> None:
        super().__init__(config)
        head = cast(Any, network).decode_head
        if head.conv_seg.out_channels != 2:
            raise MarsError(
                f"the segmentation model tells {head.conv_seg.out_channels} classes apart: one of two is needed, crater and "
                "background"
            )
        self._frozen = False
        head.conv_seg = _Float32Convolution.of(head.conv_seg)
        self.network = network.requires_grad_(True)
        self.head = nn.Linear(1, 1)
        nn.init.constant_(self.head.weight, 0.5 / _PACE)
        nn.init.constant_(self.head.bias, -1.0 / _PACE)

    @property
    def encoder(self) -> nn.Module:
        return cast(Any, self.network).backbone.encoder

    @property
    def without_decay(self) -> tuple[str, ...]:
        return ("network.backbone.encoder.cls_token",)

    def freeze(self) -> None:
        self._frozen = True
        self.network.requires_grad_(False)

    def train(self, mode: bool = True) -> OutlineClassifier:
        super().train(mode)
        for module in self.network.modules():
            if self._frozen or isinstance(module, _BatchNorm):
                module.eval()
        return self

    def forward(self, chips: Tensor) -> Tensor:

        network = cast(Any, self.network)
        logits = network.decode_head(network.extract_feat(channels_together(chips)))
        margins = (logits[:, 1] - logits[:, 0]).flatten(1)
        strongest = margins.topk(min(STRONGEST, margins.shape[1]), dim=1).values.mean(dim=1, keepdim=True)
        return _PACE * logits_of(self.head, nn.Identity(), strongest)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """As :meth:`CraterClassifier.group_matcher`; what comes after the encoder, or another backbone, learns like the head."""
        encoder = r"^network\.backbone\.encoder\."
        return {
            "stem": encoder + r"(?:cls_token|patch_embed)",
            "blocks": [(encoder + r"blocks\.(\d+)", None), (encoder + r"norm", (99999,))],
        }


class _Float32Convolution(nn.Conv2d):
    """A convolution in float32, also under autocast; see :func:`logits_of`."""

    @classmethod
    def of(cls, convolution: nn.Conv2d) -> _Float32Convolution:
        """One with the parameters of a plain convolution of single pixels."""
        own = cls(convolution.in_channels, convolution.out_channels, kernel_size=1)
        own.weight, own.bias = convolution.weight, convolution.bias
        return own

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())


class TimmClassifier(Classifier):
    """A model of timm's, its pooled features, dropout, and its own classifier as one linear unit.

    Args:
        name: timm's name.
        config: bands and statistics of its input.
        dropout: before the linear unit.
        image_size: side of its input.
        imagenet: start from ImageNet weights.

    Raises:
        MarsError: timm has no such model, it does not end in one linear unit, or its weights cannot be fetched.
    """

    def __init__(self, name: str, config: PrithviConfig, dropout: float, image_size: int, imagenet: bool) -> None:

        super().__init__(config)
        self._frozen = False
        if not timm.is_model(name):
            similar = difflib.get_close_matches(name, timm.list_models(), 8) or ["resnet18", "vit_tiny_patch16_224"]
            raise MarsError(f"timm has no model {name!r}; it has {', '.join(similar)}, and others")
        options: dict[str, Any] = {}
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
        if not isinstance(self._head, nn.Linear):
            raise MarsError(f"timm's {name} does not end in one linear unit: choose another, such as resnet18")
        self.dropout = nn.Dropout(dropout)  # not timm's: the statistics of a frozen model stay, its dropout does not

    @property
    def _head(self) -> nn.Module:
        return cast(Any, self.model).get_classifier()

    @property
    def layers(self) -> nn.Module:
        return self.model

    @property
    def without_decay(self) -> tuple[str, ...]:
        return tuple(getattr(self.model, "no_weight_decay", tuple)())

    def freeze(self) -> None:
        self._frozen = True
        self.model.requires_grad_(False)
        self._head.requires_grad_(True)

    def train(self, mode: bool = True) -> TimmClassifier:
        """A frozen model stays as it is: the statistics of its batch norms are part of it."""
        super().train(mode)
        if self._frozen:
            self.model.eval()
        return self

    def forward(self, chips: Tensor) -> Tensor:
        model = cast(Any, self.model)
        return logits_of(self._head, self.dropout, model.forward_head(model.forward_features(chips), pre_logits=True))
