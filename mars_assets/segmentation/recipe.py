"""What decides a segmentation run, besides its data, its weights and its seed."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

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

UNET = "unet"
"""The architecture that is not Prithvi's."""


class SegRecipe(FineTuningRecipe):
    """Recipe for fine-tuning a segmentation network.

    The defaults are this project's; the paper's six runs are ``recipes/seg_paper.yaml`` with the changes in
    ``recipes/seg_paper/``.
    """

    FORMER_NAMES: ClassVar = {"iterations": "steps", "warmup_iterations": "warmup_steps"}
    RETIRED: ClassVar = {"authors_pairing": False, "boundary_weight": 0.0}

    annotation: Literal["filled", "outline_5", "outline_15"] = Field(
        "filled", description="Masks to learn: craters filled, or their rims 5 or 15 pixels wide."
    )
    smallest_crater: float = Field(
        0.0,
        ge=0,
        description="Filled craters of a smaller diameter in pixels are ignored in training: neither crater nor background.",
    )
    drop_empty: bool = Field(
        False, description="Leave training images without any crater out, as the paper's code did."
    )

    architecture: Literal["prithvi", "unet"] = Field(
        "prithvi",
        description="prithvi: the encoder with a neck. unet: MMSegmentation's U-Net from random weights, a baseline; the "
        "settings of neck and learning rates by block have no effect then, and encoder only gives the statistics.",
    )
    unet_channels: int = Field(16, ge=1, description="Width of the U-Net at full resolution; doubles at each halving.")
    unet_stages: int = Field(5, ge=2, le=7, description="Resolutions of the U-Net, the full one among them.")

    magnify: float = Field(
        1,
        ge=0.25,
        le=4,
        description="The encoder sees its input magnified so much. Above 1 its patches cover less ground; at 0.5 it has a quarter "
        "of the patches, and the detail neck's branch on the input sees what is small.",
    )

    neck: Literal["deconvolution", "detail", "pyramid"] = Field(
        "detail",
        description="deconvolution: the paper's, four transposed convolutions from the last block's map to full "
        "resolution. detail: maps of several blocks, upsampled step by step and joined with those of a shallow "
        "convolutional branch on the input, to half resolution. pyramid: maps of four blocks at four scales, into MMSegmentation's "
        "UPerNet head.",
    )
    neck_channels: int = Field(
        64, ge=1, description="Width of the neck; the paper's is the encoder's, 768. The pyramid has its encoder's."
    )
    detail_channels: int = Field(
        16,
        ge=1,
        description="Width at half resolution of the detail neck's branch on the input; doubles at each halving.",
    )
    local_contrast: int = Field(
        0,
        ge=0,
        description="The detail neck's branch also sees each pixel's contrast to a square of this side in pixels, an odd number, "
        "around it: faint craters on bright slopes and in shadow; 0: it does not.",
    )
    layers: int = Field(
        4, ge=1, description="How many of the encoder's blocks the detail neck sees, evenly spaced up to the last."
    )
    head_channels: int = Field(32, ge=1, description="Width of the fully convolutional heads.")
    head_convolutions: int = Field(1, ge=1, description="3 x 3 convolutions of the decode head; UPerNet's has its own.")
    auxiliary_head: bool = Field(
        False,
        description="A second head, of two convolutions, in training, as in the paper: on the same map, with the pyramid on the "
        "coarsest.",
    )

    loss: Literal["dice", "weighted_cross_entropy", "dice_cross_entropy", "focal"] = Field(
        "dice_cross_entropy",
        description="Dice, mean over background and crater; cross entropy with class_weights; the sum of that cross entropy "
        "and the crater's Dice over the whole batch; or focal loss with class_weights.",
    )
    craterwise_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of a further loss: 1 - Dice of each crater in its surroundings, where one of ten pixels counts for as "
        "much as one of four hundred.",
    )
    crater_prior: float = Field(
        0.5, gt=0, lt=1, description="The probability of a crater that the untrained heads start from."
    )
    class_weights: list[float] = Field(
        [1.0, 1.0], description="Weights of background and crater in the cross entropy or focal loss."
    )

    crop_size: int = Field(224, ge=16, description="Side in pixels of a training crop.")
    flip: bool = Field(True, description="Mirror left-right, probability 0.5.")
    rotate: bool = Field(True, description="Mirror up-down and turn by a random multiple of 90 degrees.")
    light: bool = Field(False, description="Change brightness and contrast at random, and add grain.")
    normalize: Normalization = "statistics"
    scale: float = Field(
        1.0,
        gt=0,
        description="Training crops are magnified by this: at 0.5 a crop shows four times the ground. Goes with scales.",
    )
    scale_jitter: float = Field(
        1.4, ge=1, description="And by a random factor between 1 / this and this; 1: by no other."
    )
    crater_crops: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of the crops that are placed to hold a pixel of a crater, where there is one.",
    )

    batch_size: BatchSize = 4
    steps: Steps = 300
    encoder_lr: float = Field(
        0.2, gt=0, le=1, description="The learning rate of the encoder's last block, as a factor of lr."
    )
    layer_decay: LayerDecay = 0.8
    clip_grad: float = Field(1.0, ge=0, description="Largest norm of the gradient; 0: not clipped.")
    warmup_steps: WarmupSteps = 50
    schedule: Literal["constant", "poly", "cosine"] = Field(
        "cosine", description="Learning rate after the warm-up: constant, or falling to 0 linearly or as a half cosine."
    )
    average_weights: AverageWeights = 0.0
    evaluate_every: EvaluateEvery = 150

    window: int = Field(224, ge=16, description="Side in pixels of the sliding window in inference.")
    stride: int = Field(112, ge=1, description="Step in pixels of the sliding window.")
    scales: list[float] = Field(
        [1.0], min_length=1, description="Inference is the mean over the image magnified by each of these."
    )
    all_orientations: AllOrientations = False
    threshold: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="The probability from which a pixel counts as a crater's. Below 0.5 craters are seen larger, and more of them. "
        "Predictions are shifted by as much, so that what is stored and shown is split at 0.5. Validation chooses the best state "
        "with it: another threshold is another training.",
    )
    peak: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="The probability that a crater must reach in one of its pixels at least: what stays below it everywhere is "
        "background, however large. Off where it is not above the threshold, which draws the outlines. What is stored and shown of "
        "a crater that does not reach it has its highest probability just below 0.5.",
    )
    mmseg_options: dict[str, Any] = Field(
        {},
        description="Changes to the MMSegmentation config, by dotted name, as its --cfg-options takes them: any of its "
        "heads and losses can be named, e.g. {model.decode_head.loss_decode: {_delete_: true, type: FocalLoss}}.",
    )

    @field_validator("magnify")
    @classmethod
    def _plain(cls, magnify: float) -> float:
        """1.0 as 1: versions are named by a recipe's values, and those of before it took fractions had whole numbers."""
        return int(magnify) if magnify == int(magnify) else magnify

    @model_validator(mode="after")
    def _consistent(self) -> SegRecipe:
        problems = []
        if len(self.class_weights) != len(CLASSES) or min(self.class_weights, default=0) <= 0:
            problems.append(f"class_weights={self.class_weights}: give {len(CLASSES)} positive numbers, for {CLASSES}")
        if self.smallest_crater and self.annotation != "filled":
            problems.append("smallest_crater is for filled craters: of an outline it is not known what it encloses")
        if not all(0.1 <= scale <= 8 for scale in self.scales):
            problems.append(f"scales={self.scales}: between 0.1 and 8")
        if self.local_contrast and self.local_contrast % 2 == 0:
            problems.append(f"local_contrast={self.local_contrast}: the side of a square around a pixel is odd")
        if self.local_contrast == 1:
            problems.append("local_contrast=1: a pixel has no contrast to itself")
        if self.local_contrast and (self.architecture == UNET or self.neck != "detail"):
            problems.append("local_contrast is for the detail neck of architecture prithvi: nothing else would see it")
        if self.neck == "pyramid" and self.batch_size == 1:
            problems.append(
                "the pyramid needs a batch_size of 2 at least: UPerNet normalises single pixels over the batch"
            )
        if self.stride > self.window:
            problems.append(f"stride={self.stride} leaves gaps between windows of {self.window}: at most the window")
        if problems:
            raise ValueError("; ".join(problems))
        return self
