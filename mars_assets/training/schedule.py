"""Learning rate and random numbers of each step.

They are functions of the seed and the step's number alone.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch

Schedule = Literal["constant", "cosine"]


def learning_rate_factor(step: int, steps: int, warmup_steps: int, schedule: Schedule) -> float:
    """Compute the factor of the peak learning rate at a step, counted from 0.

    The n-th step of the warm-up has n / warmup_steps, so its last one has the peak rate. After it the rate is constant,
    or falls as half a cosine that reaches 0 after the last step.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def seed_step(seed: int, step: int, rank: int = 0) -> None:
    """Seed torch for one step of one process."""
    number = int(np.random.default_rng([seed, step, rank] if rank else [seed, step]).integers(2**63))
    # Not torch.manual_seed, which formats a stack trace on every call while CUDA is not in use.
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(number)
