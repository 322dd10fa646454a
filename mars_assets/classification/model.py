"""Classifiers from an encoder, a segmentation network or timm."""

from __future__ import annotations

import abc
import difflib
from typing import TYPE_CHECKING, Any, Literal, cast

import timm
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mars_assets.classification.recipe import STRONGEST
from mars_assets.encoders.config import EncoderConfig
from mars_assets.encoders.matchers import below
from mars_assets.errors import MarsError
from mars_assets.segmentation.fusion import channels_together
from mars_assets.training.augmentation import oriented

if TYPE_CHECKING:
    from mars_assets.encoders.weights import Encoder


def logits_of(head: nn.Module, dropout: nn.Module, features: Tensor) -> Tensor:
    """Compute logits (...) from features (..., D) in float32, even under autocast.

    bf16 has only 128 values between a logit and its double, too few for ranking images.
    """
    with torch.autocast(features.device.type, enabled=False):
        return head(dropout(features.float())).squeeze(-1)


def mean_of_patches(tokens: Tensor, config: EncoderConfig) -> Tensor:
    """Average an encoder's tokens (B, N, D), but for its class token, to (B, D)."""
    return tokens[:, int(config.has_class_token) :].mean(dim=1)


class Classifier(nn.Module, abc.ABC):
    """Base of the classifiers: normalised chips (B, C, H, W) -> logits (B,).

    Args:
        config: bands and statistics of the input.
    """

    without_decay: tuple[str, ...]
    """Names in ``layers`` of parameters without weight decay; biases and norms have none either."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def layers(self) -> nn.Module:
        """The module whose ``group_matcher`` defines layers for layer-wise rates."""
        return self

    @abc.abstractmethod
    def freeze(self) -> None:
        """Freeze everything except the linear unit."""

    def mean_logits(self, chips: Tensor, orientations: int) -> Tensor:
        """Average logits over the first orientations, (B, C, H, H) -> (B,)."""
        return torch.stack([self(oriented(chips, orientation)) for orientation in range(orientations)]).mean(dim=0)


class CraterClassifier(Classifier):
    """An encoder, one pooled token, dropout, one linear unit.

    Args:
        encoder: computes tokens from chips.
        pooling: the class token, or the mean of the patch tokens.
        dropout: dropout rate of the pooled token.
        mask_ratio: share of patches removed from the encoder's input in training; none are removed in evaluation.
    """

    def __init__(
        self,
        encoder: Encoder,
        pooling: Literal["class_token", "mean"],
        dropout: float,
        mask_ratio: float = 0.0,
    ) -> None:
        super().__init__(encoder.config)
        self.encoder = encoder
        self.without_decay = tuple(f"encoder.{name}" for name in encoder.WITHOUT_DECAY)
        self.pooling = pooling
        self.mask_ratio = mask_ratio
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(encoder.config.embed_dim, 1)
        self._frozen = False

    def freeze(self) -> None:
        self._frozen = True
        self.encoder.requires_grad_(False)

    def train(self, mode: bool = True) -> CraterClassifier:
        """Set the mode; a frozen encoder stays in evaluation mode.

        That fixes the statistics of its batch norms.
        """
        super().train(mode)
        if self._frozen:
            self.encoder.eval()
        return self

    def forward(self, chips: Tensor) -> Tensor:
        tokens = self.encoder(chips, self.mask_ratio if self.training else 0.0).tokens
        pooled = tokens[:, 0] if self.pooling == "class_token" else mean_of_patches(tokens, self.config)
        return logits_of(self.head, self.dropout, pooled)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Define layers in timm's format, for layer-wise learning rates."""
        return below("encoder.", self.encoder.group_matcher())


_PACE = 50.0
"""Factor by which scale and offset learn faster than the network. They start from a guess, and the network's learning
rates, low to preserve its pretraining, would leave them there.
"""


class OutlineClassifier(Classifier):
    """A segmentation network used as a classifier, by its most confident pixels.

    The logit of an image is the mean of the largest margins between crater and background in the logits of the decode
    head, times a learnt scale, plus a learnt offset. Batch norms keep the statistics of the outlined images, since
    those of a batch of tiles would be too noisy.

    Args:
        network: mmseg's encoder-decoder with two classes. Its decode head is changed to compute in float32.
        config: bands and statistics of the input.

    Raises:
        MarsError: the network has other classes.
    """

    def __init__(self, network: nn.Module, config: EncoderConfig) -> None:
        super().__init__(config)
        head = cast(Any, network).decode_head
        if head.conv_seg.out_channels != 2:
            raise MarsError(
                f"the segmentation model has {head.conv_seg.out_channels} classes: use one with two, crater and "
                "background"
            )
        self._frozen = False
        head.conv_seg = _Float32Convolution.of(head.conv_seg)
        self.network = network.requires_grad_(True)
        names = getattr(self.encoder, "WITHOUT_DECAY", ())  # a U-Net's has none
        self.without_decay = tuple(f"network.backbone.encoder.{name}" for name in names)
        self.head = nn.Linear(1, 1)
        nn.init.constant_(self.head.weight, 0.5 / _PACE)
        nn.init.constant_(self.head.bias, -1.0 / _PACE)

    @property
    def encoder(self) -> nn.Module:
        """The encoder of the network's backbone."""
        return cast(Any, self.network).backbone.encoder

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
        """Define layers in timm's format, for layer-wise learning rates.

        Everything except the encoder learns at the head's rate.
        """
        matcher = getattr(self.encoder, "group_matcher", None)
        # A U-Net's encoder has no layers of its own: nothing is called so.
        return below("network.backbone.encoder.", matcher()) if matcher is not None else {"stem": "^$"}


class _Float32Convolution(nn.Conv2d):
    """A float32 convolution even under autocast, see :func:`logits_of`."""

    @classmethod
    def of(cls, convolution: nn.Conv2d) -> _Float32Convolution:
        """Build one that shares the parameters of a 1 x 1 convolution."""
        own = cls(convolution.in_channels, convolution.out_channels, kernel_size=1)
        own.weight, own.bias = convolution.weight, convolution.bias
        return own

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())


class TimmClassifier(Classifier):
    """A timm model with dropout before its classifier, which is one linear unit.

    Args:
        name: timm's name of the model.
        config: bands and statistics of the input.
        dropout: dropout rate before the linear unit.
        image_size: side of the input in pixels.
        imagenet: initialise from ImageNet weights.

    Raises:
        MarsError: timm has no such model, it does not end in one linear unit, or its weights cannot be downloaded.
    """

    def __init__(self, name: str, config: EncoderConfig, dropout: float, image_size: int, imagenet: bool) -> None:
        super().__init__(config)
        self._frozen = False
        if not timm.is_model(name):
            similar = difflib.get_close_matches(name, timm.list_models(), 8) or ["resnet18", "vit_tiny_patch16_224"]
            raise MarsError(f"timm has no model {name!r}: choose another, such as {', '.join(similar)}")
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
                f"the ImageNet weights of {name} cannot be downloaded ({error}): connect this machine to the network "
                "or set imagenet to false"
            ) from error
        if not isinstance(self._head, nn.Linear):
            raise MarsError(f"timm's {name} does not end in one linear unit: choose another, such as resnet18")
        self.without_decay = tuple(getattr(self.model, "no_weight_decay", tuple)())
        self.dropout = nn.Dropout(dropout)  # not timm's, which a frozen model in evaluation mode would switch off

    @property
    def _head(self) -> nn.Module:
        return cast(Any, self.model).get_classifier()

    @property
    def layers(self) -> nn.Module:
        return self.model

    def freeze(self) -> None:
        self._frozen = True
        self.model.requires_grad_(False)
        self._head.requires_grad_(True)

    def train(self, mode: bool = True) -> TimmClassifier:
        """Set the mode; a frozen model stays in evaluation mode.

        That fixes the statistics of its batch norms.
        """
        super().train(mode)
        if self._frozen:
            self.model.eval()
        return self

    def forward(self, chips: Tensor) -> Tensor:
        model = cast(Any, self.model)
        return logits_of(self._head, self.dropout, model.forward_head(model.forward_features(chips), pre_logits=True))
