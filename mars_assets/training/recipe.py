"""Settings that trainings have in common.

There are bases for all recipes, for networks, and for fine-tuning.

A subclass gives a default by stating the type again: ``steps: Steps = 3200`` keeps bounds and description.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mars_assets.encoders.registry import require_known
from mars_assets.errors import MarsError
from mars_assets.prithvi import PRITHVI

BatchSize = Annotated[int, Field(ge=1, description="Images, or crops of them, per step.")]
Steps = Annotated[int, Field(ge=1, description="Steps of the optimizer.")]
WarmupSteps = Annotated[int, Field(ge=0, description="Steps over which the learning rate rises linearly from 0.")]
PeakRate = Annotated[float, Field(gt=0, description="Peak learning rate, used by the head.")]
LayerDecay = Annotated[
    float,
    Field(
        gt=0,
        le=1,
        description="The learning rate of each block is this times that of the block above it; 1: all equal.",
    ),
]
EvaluateEvery = Annotated[int, Field(ge=1, description="Steps between two validations.")]
Normalization = Annotated[
    Literal["statistics", "image"],
    Field(
        description="statistics: with the means and deviations of the weights. image: then also by "
        "the image's own mean and deviation in each band, so that neither the light nor the "
        "stretch of an observation gives its class away."
    ),
]
AverageWeights = Annotated[
    float,
    Field(
        ge=0,
        lt=1,
        description="Decay of the exponential average of the weights, which is what is validated and saved; 0: off.",
    ),
]
AllOrientations = Annotated[
    bool,
    Field(
        description="Average predictions over the eight orientations of a square. Validations during segmentation "
        "training use one orientation, for speed."
    ),
]


class Recipe(BaseModel):
    """Settings of a training, which name the version of the model that it gives."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    FORMER_NAMES: ClassVar[Mapping[str, str]] = {}
    """Today's name of a setting by the name it had when versions were first named."""
    RETIRED: ClassVar[Mapping[str, Any]] = {}
    """Settings that no longer exist, each with the one value that describes today's training."""

    ADDED: ClassVar[Mapping[str, Any]] = {}
    """Settings that came later, each with the value that describes a training before."""

    def identity(self) -> dict[str, Any]:
        """Return the values that name a version of a model.

        They have the names, and include the retired settings, of the time when versions were first named: neither
        renaming, removing nor adding a setting gives an existing model another version.
        """
        former = {name: before for before, name in self.FORMER_NAMES.items()}
        values = {name: value for name, value in self.model_dump().items() if self.ADDED.get(name, ...) != value}
        return {former.get(name, name): value for name, value in values.items()} | dict(self.RETIRED)

    @model_validator(mode="before")
    @classmethod
    def _translate_former_settings(cls, values: Any) -> Any:
        """Accept recipes and configurations of earlier versions."""
        if not isinstance(values, Mapping):
            return values
        values = dict(values)
        for before, name in cls.FORMER_NAMES.items():
            if (given := values.pop(before, None)) is None:
                continue
            # Dagster fills in defaults, so a default does not count as stated.
            if values.get(name, given) not in (given, cls.model_fields[name].default):
                raise ValueError(f"{name} and {before}, its former name, are both set: remove {before}")
            values[name] = given
        for name, value in cls.RETIRED.items():
            if values.pop(name, value) != value:
                raise ValueError(f"{name} no longer exists: remove it")
        return values


class TrainingRecipe(Recipe):
    """Settings that every training of a network has."""

    batch_size: BatchSize
    steps: Steps
    warmup_steps: WarmupSteps
    lr: PeakRate = 1e-3
    layer_decay: LayerDecay
    weight_decay: float = Field(0.05, ge=0, description="Weight decay of matrices; biases and norms have none.")
    evaluate_every: EvaluateEvery = 100


class FineTuningRecipe(TrainingRecipe):
    """Settings that trainings with labels have in addition."""

    architecture: str = PRITHVI
    encoder: str = Field(
        "prithvi_weights",
        description="Start from the asset prithvi_weights, from mars_weights, which continued its pretraining on Mars, "
        "or from random: random weights of its architecture. Or the name of an encoder that encoder_weights has "
        "installed, such as galileo_nano; with random: or shuffled: in front, its architecture with random weights, or "
        "its weights in a random order.",
    )
    frozen: bool = Field(
        False,
        description="Keep the encoder's weights and train only what follows it: the linear unit, or neck and heads. "
        "With architecture seg_model of a classifier: train only scale and offset.",
    )
    dropout: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Dropout before the last layer of each head, in training; architecture seg_model keeps its own.",
    )
    normalize: Normalization
    optimizer: Literal["adam", "adamw"] = Field("adamw", description="Adam, or AdamW with decoupled weight decay.")
    average_weights: AverageWeights
    all_orientations: AllOrientations

    @field_validator("encoder")
    @classmethod
    def _is_known(cls, value: str) -> str:
        try:
            return require_known(value)
        except MarsError as error:
            raise ValueError(str(error)) from error

    @property
    def orientations(self) -> int:
        """Number of orientations of an image that predictions are averaged over."""
        return 8 if self.all_orientations else 1
