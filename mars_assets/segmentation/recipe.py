"""Settings of a segmentation training, apart from its data, weights and seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from mars_assets.encoders.config import EncoderConfig
from mars_assets.errors import MarsError
from mars_assets.training.recipe import (
    AllOrientations,
    AverageWeights,
    BatchSize,
    EvaluateEvery,
    FineTuningRecipe,
    LayerDecay,
    Normalization,
    Steps,
    WarmupSteps,
)

CLASSES = ("background", "crater")
"""Names of label 0 and label 1; 255 is ignored."""

IGNORE = 255
"""Label of pixels that neither training nor evaluation counts."""

UNET = "unet"
"""The architecture without Prithvi's encoder."""


class SegRecipe(FineTuningRecipe):
    """Recipe for fine-tuning a segmentation network.

    The defaults are this project's; the paper's six runs are ``recipes/seg_paper.yaml`` with the changes in
    ``recipes/seg_paper/``.
    """

    FORMER_NAMES: ClassVar = {"iterations": "steps", "warmup_iterations": "warmup_steps"}
    RETIRED: ClassVar = {"authors_pairing": False, "boundary_weight": 0.0}

    annotation: Literal["filled", "outline_5", "outline_15"] = Field(
        "filled", description="Masks to learn: filled craters, or their rims, 5 or 15 pixels wide."
    )
    smallest_crater: float = Field(
        0.0,
        ge=0,
        description="Filled craters with a smaller diameter in pixels are ignored in training: neither crater nor "
        "background.",
    )
    drop_empty: bool = Field(False, description="Leave out training images without craters, as the paper's code did.")

    architecture: Literal["prithvi", "unet"] = Field(
        "prithvi",
        description="prithvi: the encoder with a neck. unet: MMSegmentation's U-Net from random weights, a baseline, "
        "for which settings of the neck and learning rates by block have no effect, and encoder only provides the "
        "statistics.",
    )
    unet_channels: int = Field(
        16, ge=1, description="Width of the U-Net at full resolution; it doubles at each halving."
    )
    unet_stages: int = Field(5, ge=2, le=7, description="Number of resolutions in the U-Net, including the full one.")

    magnify: float = Field(
        1,
        ge=0.25,
        le=4,
        description="Factor by which the encoder's input is magnified. Above 1 its patches cover less ground; at 0.5 "
        "there are a quarter as many, and small craters are left to the detail neck's branch on the input.",
    )

    neck: Literal["deconvolution", "detail", "pyramid"] = Field(
        "detail",
        description="deconvolution: the paper's, four transposed convolutions from the last block's map to full "
        "resolution. detail: maps of several blocks, upsampled step by step to half resolution and joined with those "
        "of a shallow convolutional branch on the input. pyramid: maps of four blocks at four scales, for "
        "MMSegmentation's UPerNet head.",
    )
    neck_channels: int = Field(
        64,
        ge=1,
        description="Width of the neck; the paper's is 768, as its encoder's. The pyramid always has its encoder's.",
    )
    detail_channels: int = Field(
        16,
        ge=1,
        description="Width at half resolution of the detail neck's branch on the input; it doubles at each halving.",
    )
    local_contrast: int = Field(
        0,
        ge=0,
        description="Side in pixels, an odd number, of a square around each pixel: the detail neck's branch also gets "
        "the pixel's contrast to it, for faint craters on bright slopes and in shadow. 0: off.",
    )
    layers: int = Field(
        4, ge=1, description="Number of encoder blocks that the detail neck uses, evenly spaced up to the last."
    )
    head_channels: int = Field(32, ge=1, description="Width of the fully convolutional heads.")
    head_convolutions: int = Field(
        1, ge=1, description="Number of 3 x 3 convolutions in the decode head; UPerNet's has its own."
    )
    auxiliary_head: bool = Field(
        False,
        description="Add a second head with two convolutions in training, as in the paper: on the same map, or on the "
        "pyramid's coarsest.",
    )

    loss: Literal["dice", "weighted_cross_entropy", "dice_cross_entropy", "focal"] = Field(
        "dice_cross_entropy",
        description="dice: mean of the Dice losses of background and crater. weighted_cross_entropy: with "
        "class_weights. dice_cross_entropy: that cross entropy plus the crater's Dice loss over the whole batch. "
        "focal: with class_weights.",
    )
    craterwise_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of an additional loss, 1 - Dice of each crater in its surroundings, in which a crater of "
        "ten pixels counts as much as one of four hundred.",
    )
    crater_prior: float = Field(
        0.5, gt=0, lt=1, description="Probability of a crater that the untrained heads predict."
    )
    class_weights: list[float] = Field(
        [1.0, 1.0], description="Weights of background and crater in cross entropy and focal loss."
    )

    crop_size: int = Field(224, ge=16, description="Side in pixels of a training crop.")
    flip: bool = Field(True, description="Mirror left-right with probability 0.5.")
    rotate: bool = Field(True, description="Draw from the eight orientations of a square, mirrored ones included.")
    light: bool = Field(False, description="Change brightness and contrast at random and add grain.")
    normalize: Normalization = "statistics"
    scale: float = Field(
        1.0,
        gt=0,
        description="Factor by which training crops are magnified: at 0.5 a crop covers four times the ground. Set "
        "scales to match.",
    )
    scale_jitter: float = Field(
        1.4, ge=1, description="Magnify training crops also by a random factor between 1 / this and this; 1: off."
    )
    crater_crops: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of training crops that are placed on a crater pixel, where the image has one.",
    )

    batch_size: BatchSize = 4
    steps: Steps = 300
    encoder_lr: float = Field(
        0.2, gt=0, le=1, description="Learning rate of the encoder's last block, as a factor of lr."
    )
    layer_decay: LayerDecay = 0.8
    clip_grad: float = Field(1.0, ge=0, description="Norm to which gradients are clipped; 0: off.")
    warmup_steps: WarmupSteps = 50
    schedule: Literal["constant", "poly", "cosine"] = Field(
        "cosine",
        description="Learning rate after the warm-up: constant, or falling to 0 linearly (poly) or as half a cosine.",
    )
    average_weights: AverageWeights = 0.0
    evaluate_every: EvaluateEvery = 150

    window: int = Field(224, ge=16, description="Side in pixels of the sliding window in inference.")
    stride: int = Field(112, ge=1, description="Step in pixels of the sliding window.")
    scales: list[float] = Field(
        [1.0],
        min_length=1,
        description="Factors by which an image is magnified in inference; predictions are averaged over them.",
    )
    all_orientations: AllOrientations = False
    threshold: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="Probability from which a pixel counts as crater. Below 0.5 more craters are found, and they are "
        "larger. Predictions are shifted accordingly, so that stored and displayed ones are split at 0.5. Validation "
        "selects the best state with it, so another threshold is another training.",
    )
    peak: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Probability that a crater must reach in at least one pixel: components that stay below it "
        "everywhere count as background, and their stored probability is lowered to just below 0.5. Off unless it is "
        "above the threshold, which defines the outlines.",
    )
    mmseg_options: dict[str, Any] = Field(
        {},
        description="Changes to the MMSegmentation config by dotted name, in the form of its --cfg-options; any of "
        "its heads and losses can be named, e.g. {model.decode_head.loss_decode: {_delete_: true, type: FocalLoss}}. "
        "A training with random transforms of MMSegmentation's own in train_pipeline does not resume exactly.",
    )

    @field_validator("magnify")
    @classmethod
    def _plain(cls, magnify: float) -> float:
        """Write 1.0 as 1, as when versions were named by whole numbers only."""
        return int(magnify) if magnify == int(magnify) else magnify

    @model_validator(mode="after")
    def _consistent(self) -> SegRecipe:
        problems = []
        if len(self.class_weights) != len(CLASSES) or min(self.class_weights, default=0) <= 0:
            problems.append(f"class_weights={self.class_weights}: give {len(CLASSES)} positive numbers, for {CLASSES}")
        if self.smallest_crater and self.annotation != "filled":
            problems.append(
                "smallest_crater needs annotation='filled': the size of a crater does not follow from its rim"
            )
        if not all(0.1 <= scale <= 8 for scale in self.scales):
            problems.append(f"scales={self.scales}: give factors between 0.1 and 8")
        if self.local_contrast and self.local_contrast % 2 == 0:
            problems.append(
                f"local_contrast={self.local_contrast}: give an odd number, the side of a square around a pixel"
            )
        if self.local_contrast == 1:
            problems.append("local_contrast=1: give at least 3, since a pixel has no contrast to itself")
        if self.local_contrast and (self.architecture == UNET or self.neck != "detail"):
            problems.append("local_contrast needs architecture='prithvi' and neck='detail': nothing else uses it")
        if self.neck == "pyramid" and self.batch_size == 1:
            problems.append(
                "neck='pyramid' needs a batch_size of at least 2: UPerNet normalises single pixels over the batch"
            )
        if self.stride > self.window:
            problems.append(
                f"stride={self.stride} leaves gaps between windows of {self.window}: give at most {self.window}"
            )
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def refuse_sizes(self, prithvi: EncoderConfig, sides: Mapping[str, int]) -> None:
        """Refuse sizes of images that the network cannot process.

        Args:
            prithvi: the network's encoder.
            sides: of the images, in pixels, by the name of the setting.

        Raises:
            MarsError: one of them does not fit.
        """
        unet = self.architecture == UNET
        steps = (2 ** (self.unet_stages - 1),) if unet else prithvi.patch_size[1:]
        why = f"the U-Net halves it {self.unet_stages - 1} times" if unet else f"{prithvi.variant} cuts it into patches"
        magnify = 1 if unet else self.magnify
        for name, side in sides.items():
            if any(side * magnify % step for step in steps):
                multiple = f"{max(steps) / magnify:g}"
                magnified = f", magnified {magnify:g} times" if magnify != 1 else ""
                raise MarsError(f"{name}={side} must be a multiple of {multiple} pixels, because {why}{magnified}")
