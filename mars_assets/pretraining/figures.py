"""Figures of a pretraining.

They show its losses, and what the model makes of held-out images before and after.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from mars_assets.bands import denormalize, model_input, reflectance_to_rgb
from mars_assets.plotting import new_figure
from mars_assets.pretraining.data import RandomCrops, Unlabelled, split_groups
from mars_assets.pretraining.recipe import PretrainRecipe
from mars_assets.prithvi.masking import mask_noise
from mars_assets.prithvi.weights import open_weights
from mars_assets.training.compute import Compute

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def curve_figure(history: pd.DataFrame) -> Figure:
    """Training and validation loss over the steps, logarithmic."""
    figure, axes = new_figure(7, 3.8)
    axis = axes[0, 0]
    axis.plot(history["step"], history["train_loss"], label="train")
    axis.plot(history["step"], history["valid_loss"], label="held-out observations")
    axis.set_yscale("log")
    axis.set_xlabel("step")
    axis.set_ylabel("masked reconstruction loss")
    axis.legend()
    return figure


def reconstructions_figure(
    unlabelled: Unlabelled, weights: Mapping[str, Path], recipe: PretrainRecipe, compute: Compute
) -> Figure:
    """Draw held-out images and their reconstructions.

    A row has the original, the masked image, and what each of several weights makes of it.

    Args:
        unlabelled: the images.
        weights: folders of weights by the name they are shown under.
        recipe: imputation, mask ratio and which images were held out.
        compute: device, precision, and the masks' seed.
    """
    _, held_out = split_groups(unlabelled.images, recipe.hold_out)
    chosen = unlabelled.images.iloc[held_out[np.linspace(0, len(held_out) - 1, min(3, len(held_out))).astype(int)]]
    models = {name: open_weights(folder).load().to(compute.device) for name, folder in weights.items()}
    config = next(iter(models.values())).config
    crops = RandomCrops(chosen["path"].tolist(), config.img_size, 1.0, compute.seed, 0)
    columns = ["original", "masked", *models]
    figure, axes = new_figure(2.2 * len(columns), 2.3 * len(chosen) + 0.3, len(chosen), len(columns))
    for place, image_id in enumerate(chosen["image_id"]):
        centre = crops.centre(place)[None].to(compute.device).flip(1).float()
        x = model_input(centre, recipe.imputation, config.statistics)
        grid = next(iter(models.values())).encoder.grid(x[:, :, None])
        noise = torch.from_numpy(mask_noise(str(image_id), compute.seed, math.prod(grid))[None]).to(compute.device)
        shown = {"original": x[0]}
        for name, mae in models.items():
            with torch.inference_mode(), compute.autocast():
                _, pred, mask = mae(x, recipe.mask_ratio, noise)
            removed = mask[:, :, None].expand_as(pred).bool()
            target = mae.patchify(x)
            shown["masked"] = mae.unpatchify(torch.where(removed, torch.zeros_like(target), target), grid)[0, :, 0]
            shown[name] = mae.unpatchify(torch.where(removed, pred.float(), target), grid)[0, :, 0]
        for axis, name in zip(axes[place], columns, strict=True):
            picture = denormalize(shown[name].float().cpu().numpy(), config.statistics)
            axis.imshow(reflectance_to_rgb(picture, config.statistics), interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            if place == 0:
                axis.set_title(name)
    return figure
