"""What decides a pretraining, besides its images, the weights it starts from and its seed."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from mars_assets.bands import ImputationMethod


class PretrainRecipe(BaseModel):
    """How the masked pretraining goes on. Architecture, bands and statistics are those of ``prithvi_weights``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    from_random: bool = Field(
        False, description="Begin at random weights of the architecture instead of going on from prithvi_weights."
    )
    imputation: ImputationMethod = Field(
        "post_norm", description="How the bands that HiRISE lacks are filled: as in what the models are trained on."
    )
    mask_ratio: float = Field(0.75, gt=0, lt=1, description="Share of the patches that is removed.")
    visible_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of the visible patches' loss beside that of the removed ones, which small models learn from first.",
    )
    smallest_scale: float = Field(
        0.6, gt=0, le=1, description="Crops are at least this part of the image's shorter side, then resampled."
    )
    brightness: float = Field(
        0.15, ge=0, lt=1, description="Random gain and offset of the 8-bit values, as a share of their range."
    )
    batch_size: int = Field(64, ge=1, description="Images a step, over all devices and accumulated batches.")
    accumulate: int = Field(1, ge=1, description="Batches whose gradients make one step, for less memory.")
    devices: int = Field(1, ge=1, description="GPUs, or CPU processes, that share a step.")
    steps: int = Field(2000, ge=1, description="Steps of the optimizer.")
    warmup_steps: int = Field(100, ge=0, description="Steps over which the learning rate rises linearly from 0.")
    lr: float = Field(5e-4, gt=0, description="Peak learning rate, AdamW; then half a cosine to 0.")
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Each encoder block's learning rate is this times that of the block above; 1: equal.",
    )
    weight_decay: float = Field(0.05, ge=0, description="Of matrices; biases and norms have none.")
    clip_grad: float = Field(1.0, gt=0, description="Largest norm of the gradient.")
    hold_out: float = Field(
        0.05, gt=0, lt=0.5, description="Share of the observations that is kept for the validation loss."
    )
    evaluate_every: int = Field(100, ge=1, description="Steps between two validations; each leaves a checkpoint.")
