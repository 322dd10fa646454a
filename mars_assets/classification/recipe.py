"""What decides a classification run, besides its data, its weights and its seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from mars_assets.prithvi import PRITHVI

OUTLINES = "seg_model"
"""The architecture that is the asset ``seg_model``'s network, see :class:`mars_assets.classification.model.OutlineClassifier`."""

STRONGEST = 8
"""How many pixels of that network's map speak for an image. One alone may be a speck of noise."""

CLASSES = ("NoCrater", "Crater")
"""Names of label 0 and label 1."""


def without_effect(architecture: str) -> frozenset[str]:
    """The settings of a recipe that do nothing with an architecture."""
    of_prithvi = frozenset({"encoder", "pooling", "mask_ratio"})
    if architecture == PRITHVI:
        return frozenset({"imagenet"})
    return of_prithvi | {"dropout", "imagenet"} if architecture == OUTLINES else of_prithvi


class ClsRecipe(BaseModel):
    """A fine-tuning recipe. The defaults are this project's; the paper's are in ``recipes/cls_paper.yaml``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str = Field(
        PRITHVI,
        description="prithvi: the encoder with one linear unit. seg_model: the network of the asset seg_model, which has learnt "
        "outlines; what it is surest of in an image, scaled, is the answer. Else the name of a timm model, such as resnet18 or "
        "vit_tiny_patch16_224: a baseline, from random weights.",
    )
    imagenet: bool = Field(False, description="A timm model starts from its ImageNet weights, which timm fetches.")
    encoder: Literal["prithvi_weights", "mars_weights", "random"] = Field(
        "prithvi_weights",
        description="Start from the asset prithvi_weights, from mars_weights, which went on with it on Mars, or from random "
        "weights of its architecture.",
    )
    pooling: Literal["class_token", "mean"] = Field(
        "mean", description="What the linear unit sees: the class token, or the mean of the patch tokens."
    )
    dropout: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Dropout between the pooled token and the linear unit; a seg_model keeps its own instead.",
    )
    mask_ratio: float = Field(
        0.375,
        ge=0,
        lt=1,
        description="Part of the patches removed at random in training; they are not encoded. None are in validation.",
    )
    frozen: bool = Field(
        False, description="Train only the linear unit, of a seg_model scale and offset; all else keeps its weights."
    )
    image_size: int = Field(
        0,
        ge=0,
        description="Side in pixels of what the encoder sees; other sizes are resampled, antialiased. 0: about half the side "
        "of the training images, 112 or 224, which patches of 14 and of 16 pixels divide: enough where craters fill much of them.",
    )
    normalize: Literal["statistics", "image"] = Field(
        "image",
        description="statistics: with the weights' means and deviations. image: then also by the image's own "
        "mean and deviation in each band, so that neither the light nor the stretch of an observation tells its class.",
    )
    augment: Literal["none", "flips", "full"] = Field(
        "full",
        description="flips: mirror images and quarter turns. full: also any angle, scale, shift, brightness, "
        "contrast and grain.",
    )
    optimizer: Literal["adam", "adamw"] = Field("adamw", description="Adam, or AdamW with decoupled weight decay.")
    lr: float = Field(1e-3, gt=0, description="Peak learning rate, that of the linear unit.")
    layer_decay: float = Field(
        0.85,
        gt=0,
        le=1,
        description="Each block's learning rate is this times that of the block above it; 1: all equal.",
    )
    weight_decay: float = Field(0.05, ge=0, description="Weight decay of the matrices; biases and norms have none.")
    label_smoothing: float = Field(
        0.05, ge=0, lt=1, description="Targets are 0 and 1 drawn towards 0.5 by this; in training only."
    )
    draw: Literal["images", "classes", "observations"] = Field(
        "classes",
        description="images: every training image as often. classes: both classes as often. observations: both classes as "
        "often, and of a class an observation in proportion to the root of its images, so that none fills the batches.",
    )
    batch_size: int = Field(16, ge=1, description="Images a step.")
    steps: int = Field(3200, ge=1, description="Steps of the optimizer.")
    warmup_steps: int = Field(
        40,
        ge=0,
        validate_default=True,
        description="Steps over which the learning rate rises linearly from 0; no more than all.",
    )
    schedule: Literal["constant", "cosine"] = Field(
        "cosine", description="After the warm-up: constant, or a half cosine to 0 at the last step."
    )
    average_weights: float = Field(
        0.98,
        ge=0,
        lt=1,
        description="Decay of the exponential average of the weights that is validated and kept; 0: off.",
    )
    all_orientations: bool = Field(
        True,
        description="Predictions are means over the eight orientations of a square, instead of the image as it is.",
    )
    evaluate_every: int = Field(
        100, ge=1, description="Steps between two validations; the best of them is what the training gives."
    )
    patience: int = Field(
        0, ge=0, description="Stop after this many validations without a lower validation loss; 0: never."
    )

    @field_validator("encoder", "pooling", "dropout", "mask_ratio")
    @classmethod
    def _is_of_prithvi(cls, value: Any, info: ValidationInfo) -> Any:
        """Settings of Prithvi's encoder that another architecture would bear in vain."""
        architecture = info.data.get("architecture", PRITHVI)
        means_nothing = (cls.model_fields[str(info.field_name)].default, 0.0)
        idle = info.field_name in without_effect(architecture)
        if idle and value not in means_nothing and not _is_kept(info):
            raise ValueError(f"{value!r} is for {PRITHVI} and does nothing with {architecture}: leave it out")
        return value

    @field_validator("imagenet")
    @classmethod
    def _is_of_timm(cls, value: bool, info: ValidationInfo) -> bool:
        architecture = info.data.get("architecture", PRITHVI)
        if value and "imagenet" in without_effect(architecture) and not _is_kept(info):
            raise ValueError(
                f"{architecture} has no ImageNet weights: choose others by encoder, or a timm model by architecture"
            )
        return value

    @field_validator("warmup_steps")
    @classmethod
    def _ends_within_the_training(cls, value: int, info: ValidationInfo) -> int:
        steps = info.data.get("steps", value)
        if value > steps and not _is_kept(info):
            raise ValueError(
                f"a warm-up of {value} of {steps} steps never reaches lr: set warmup_steps to {steps} or less"
            )
        return value

    @property
    def orientations(self) -> int:
        """How many orientations of an image predictions are the mean of."""
        return 8 if self.all_orientations else 1


def stated_recipe_of(config: Mapping[str, Any]) -> ClsRecipe:
    """The recipe in a finished classifier's ``config.json``, whichever version of this project wrote it.

    Settings that contradict each other were no error then; they do what they did. Settings that there were not yet have the
    value that stands for what was done, which is not today's default.

    Raises:
        ValidationError: values that this version does not know.
    """
    before = {"normalize": "statistics", "all_orientations": False, "draw": "images"}
    return ClsRecipe.model_validate(before | config["recipe"], context=_KEPT)


def recipe_of(config: Mapping[str, Any]) -> ClsRecipe:
    """As :func:`stated_recipe_of`, with the size that its images were shown at where it states none."""
    recipe = stated_recipe_of(config)
    return recipe if recipe.image_size else recipe.model_copy(update={"image_size": config["report"]["image_size"]})


_KEPT = {"of": "a finished classifier"}


def _is_kept(info: ValidationInfo) -> bool:
    return info.context is _KEPT
