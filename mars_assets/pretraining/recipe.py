"""Settings of a pretraining, apart from its images, starting point and seed."""

from __future__ import annotations

from pydantic import Field

from mars_assets.bands import ImputationMethod
from mars_assets.training.recipe import BatchSize, LayerDecay, PeakRate, Steps, TrainingRecipe, WarmupSteps


class PretrainRecipe(TrainingRecipe):
    """Recipe for continuing the masked pretraining.

    Architecture, bands and statistics are those of ``prithvi_weights``. The optimizer is AdamW; after the warm-up the
    learning rate falls as half a cosine to 0.
    """

    from_random: bool = Field(
        False, description="Start from random weights of the architecture instead of prithvi_weights."
    )
    imputation: ImputationMethod = Field(
        "post_norm",
        description="How the bands that HiRISE lacks are filled: as in the images that models are trained on.",
    )
    mask_ratio: float = Field(0.75, gt=0, lt=1, description="Share of the patches that is removed.")
    visible_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of the loss of the visible patches, added to that of the "
        "removed ones; small models learn from it first.",
    )
    smallest_scale: float = Field(
        0.6,
        gt=0,
        le=1,
        description="Smallest side of a crop, before resampling, as a share of the image's shorter side.",
    )
    brightness: float = Field(
        0.15, ge=0, lt=1, description="Random gain and offset of the 8-bit values, as a share of their range."
    )
    batch_size: BatchSize = 64
    accumulate: int = Field(
        1,
        ge=1,
        description="Number of parts that a step's images are computed in, one after the other, for less memory.",
    )
    devices: int = Field(1, ge=1, description="GPUs, or CPU processes, that share a step.")
    steps: Steps = 2000
    warmup_steps: WarmupSteps = 100
    lr: PeakRate = 5e-4
    layer_decay: LayerDecay = 1.0
    clip_grad: float = Field(1.0, gt=0, description="Largest norm of the gradient.")
    hold_out: float = Field(
        0.05, gt=0, lt=0.5, description="Share of the observations that is held out for the validation loss."
    )
