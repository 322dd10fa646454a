"""Settings of a classifier's training, apart from its data, weights and seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from mars_assets.prithvi import PRITHVI
from mars_assets.training.recipe import (
    AllOrientations,
    AverageWeights,
    BatchSize,
    FineTuningRecipe,
    LayerDecay,
    Normalization,
    Steps,
    WarmupSteps,
)

OUTLINES = "seg_model"
"""The architecture of the asset ``seg_model``, see :class:`mars_assets.classification.model.OutlineClassifier`."""

STRONGEST = 8
"""Number of pixels of that network's map that decide for an image. One alone may be a speck of noise."""

CLASSES = ("NoCrater", "Crater")
"""Names of label 0 and label 1."""


def without_effect(architecture: str) -> frozenset[str]:
    """Return the settings of a recipe that have no effect with an architecture."""
    of_prithvi = frozenset({"encoder", "pooling", "mask_ratio", "lora_rank"})
    if architecture == PRITHVI:
        return frozenset({"imagenet"})
    return of_prithvi | {"dropout", "imagenet"} if architecture == OUTLINES else of_prithvi


class ClsRecipe(FineTuningRecipe):
    """Recipe for fine-tuning a classifier.

    The defaults are this project's; the paper's values are in ``recipes/cls_paper.yaml``.
    """

    ADDED: ClassVar[Mapping[str, Any]] = {"lora_rank": 0}

    architecture: str = Field(
        PRITHVI,
        description="prithvi: the encoder with one linear unit. seg_model: the network of the asset seg_model, which "
        "has learnt outlines; its most certain pixels in an image, scaled, are the answer. Else the name of a timm "
        "model, such as resnet18 or vit_tiny_patch16_224: a baseline, from random weights.",
    )
    imagenet: bool = Field(False, description="Start a timm model from its ImageNet weights, which timm fetches.")
    pooling: Literal["class_token", "mean"] = Field(
        "mean", description="Input of the linear unit: the class token, or the mean of the patch tokens."
    )
    mask_ratio: float = Field(
        0.375,
        ge=0,
        lt=1,
        description="Share of the patches removed at random in training; they are not encoded. Validation removes none",
    )
    lora_rank: int = Field(
        0,
        ge=0,
        description="Train additions of this rank to the matrices of the encoder's attention (LoRA), and the linear "
        "unit, instead of the encoder's weights; 8 is usual. 0: train all weights, or none where frozen.",
    )
    image_size: int = Field(
        0,
        ge=0,
        description="Side in pixels of the encoder's input; images of other sizes are resampled, antialiased. 0: "
        "about half the side of the training images, 112 or 224, which patches of 14 and of 16 pixels divide: "
        "enough where craters fill much of an image.",
    )
    normalize: Normalization = "image"
    augment: Literal["none", "flips", "full"] = Field(
        "full",
        description="flips: mirror images and quarter turns. full: also any angle, scale, shift, brightness, "
        "contrast and grain.",
    )
    layer_decay: LayerDecay = 0.85
    label_smoothing: float = Field(
        0.05, ge=0, lt=1, description="Move the targets 0 and 1 towards 0.5 by this, in training only."
    )
    draw: Literal["images", "classes", "observations"] = Field(
        "classes",
        description="images: draw every training image equally often. classes: draw both classes equally often. "
        "observations: the same, and within a class each observation in proportion to the square root of its number "
        "of images, so that none fills the batches.",
    )
    batch_size: BatchSize = 16
    steps: Steps = 3200
    warmup_steps: Annotated[WarmupSteps, Field(validate_default=True)] = 40
    schedule: Literal["constant", "cosine"] = Field(
        "cosine", description="Learning rate after the warm-up: constant, or a half cosine to 0 at the last step."
    )
    average_weights: AverageWeights = 0.98
    all_orientations: AllOrientations = True
    patience: int = Field(
        0, ge=0, description="Stop after this many validations without a lower validation loss; 0: never."
    )

    @field_validator("encoder", "pooling", "dropout", "mask_ratio", "lora_rank")
    @classmethod
    def _suits_the_architecture(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse settings that have no effect with an architecture.

        These are settings of Prithvi's encoder.
        """
        architecture = info.data.get("architecture", PRITHVI)
        no_effect = (cls.model_fields[str(info.field_name)].default, 0.0)
        if info.field_name in without_effect(architecture) and value not in no_effect and not _of_finished(info):
            raise ValueError(f"{value!r} is for {PRITHVI} and does nothing with {architecture}: leave it out")
        return value

    @field_validator("lora_rank")
    @classmethod
    def _trains_something(cls, value: int, info: ValidationInfo) -> int:
        if value and info.data.get("frozen"):
            raise ValueError("lora_rank trains additions to an encoder that frozen keeps as it is: set one of the two")
        return value

    @field_validator("imagenet")
    @classmethod
    def _has_imagenet_weights(cls, value: bool, info: ValidationInfo) -> bool:
        architecture = info.data.get("architecture", PRITHVI)
        if value and "imagenet" in without_effect(architecture) and not _of_finished(info):
            raise ValueError(
                f"{architecture} has no ImageNet weights: choose others by encoder, or a timm model by architecture"
            )
        return value

    @field_validator("warmup_steps")
    @classmethod
    def _ends_within_the_training(cls, value: int, info: ValidationInfo) -> int:
        steps = info.data.get("steps", value)
        if value > steps and not _of_finished(info):
            raise ValueError(
                f"a warm-up of {value} steps in a training of {steps} never "
                f"reaches lr: set warmup_steps to {steps} or less"
            )
        return value


def stated_recipe_of(config: Mapping[str, Any]) -> ClsRecipe:
    """Read the recipe in a finished classifier's ``config.json``.

    Any version of this project may have written it.

    Contradictory settings are accepted, since earlier versions accepted them; they have the effect they had. Settings
    that did not exist yet get the value that describes what was done then, which is not today's default.

    Raises:
        ValidationError: values that this version does not know.
    """
    before = {"normalize": "statistics", "all_orientations": False, "draw": "images"}
    return ClsRecipe.model_validate(before | config["recipe"], context=_FINISHED)


def recipe_of(config: Mapping[str, Any]) -> ClsRecipe:
    """Read the recipe of a finished classifier, with its image size.

    Where :func:`stated_recipe_of` has none, it is that of the training.
    """
    recipe = stated_recipe_of(config)
    return recipe if recipe.image_size else recipe.model_copy(update={"image_size": config["report"]["image_size"]})


_FINISHED = {"of": "a finished classifier"}


def _of_finished(info: ValidationInfo) -> bool:
    return info.context is _FINISHED
