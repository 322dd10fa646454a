"""Model card of a classifier: description, training data, and intended use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from mars_assets.classification.recipe import CLASSES, OUTLINES, PRITHVI, STRONGEST, recipe_of, without_effect


def model_card(version: str, config: Mapping[str, Any], images: pd.DataFrame) -> str:
    """Write a model card in Markdown.

    Source: Mitchell et al. 2019, Model cards for model reporting.

    Args:
        version: the model version.
        config: content of the model's ``config.json``.
        images: the training and validation images: ``image_id, split, label, observation``.
    """
    recipe, report, provenance = config["recipe"], config["report"], config["provenance"]
    size = recipe_of(config).image_size
    counts = (
        images[images["split"].isin(["train", "valid"])]
        .groupby("split")
        .agg(images=("image_id", "size"), craters=("label", "sum"), observations=("observation", "nunique"))
        .reset_index()
    )
    divided = int((images.groupby("observation")["split"].nunique() > 1).sum())
    start = f"({provenance.get('weights', 'unnamed weights')}, {'frozen' if recipe['frozen'] else 'fine-tuned'})"
    kind = {
        PRITHVI: f"Prithvi's encoder {start} with one linear unit",
        OUTLINES: f"A segmentation network {start}, trained on outlines of craters, whose {STRONGEST} most confident "
        "pixels are averaged and scaled",
    }.get(
        recipe["architecture"],
        f"timm's {recipe['architecture']}, from {'ImageNet' if recipe['imagenet'] else 'random'} weights",
    )
    best, idle = report["best"], without_effect(recipe["architecture"])
    lines = [
        f"# Crater classifier {version}",
        "",
        f"{kind}. It predicts the probability that an image of Mars shows a crater ({CLASSES[0]} / {CLASSES[1]}).",
        "",
        "## Data",
        "",
        counts.to_markdown(index=False),
        "",
        f"Label version {provenance.get('label_version', 'unknown')[:16]}, chips "
        f"`{provenance.get('stage', 'unknown')}`, "
        f"statistics `{config['statistics']['name']}`, seed {config['seed']}. "
        + (
            f"{divided} observations are in more than one split: the validation scores are too optimistic."
            if divided
            else "No observation is in more than one split."
        ),
        "",
        "## Training",
        "",
        f"The model was trained for {report['steps']} steps; the state at step {report['best_step']}, which has the "
        f"lowest validation loss, was selected. {report['trained_parameters']:,} of {report['parameters']:,} "
        "parameters were trained.",
        "",
        f"Validation at that step: loss {_number(best['valid_loss'])}, balanced accuracy "
        f"{_number(best['valid_balanced_accuracy'])}, AUROC {_number(best['valid_auroc'])}, with each image in one "
        "orientation. These scores are optimistic, since the state was selected by them. The asset `cls_evaluation` "
        "has scores with intervals.",
        "",
        "## Use",
        "",
        "An image is scaled to reflectance units, its missing bands are imputed, it is normalised by "
        f"{recipe['normalize']} "
        f"and resampled to {size} x {size} pixels. "
        + (
            "The logits are averaged over eight orientations."
            if recipe["all_orientations"]
            else "It is classified in its original orientation only."
        ),
        "`mars-assets predict FOLDER` does all of this.",
        "",
        "## Not for",
        "",
        "- Images of another scale or instrument than the training images: the model was not trained on craters that "
        "are much larger or smaller.",
        "- Counting: it predicts whether an image shows a crater, not how many or where.",
        "- Estimating crater rates on other terrain: the probabilities are calibrated, if at all, for the class "
        "balance above.",
        "",
        "## Recipe",
        "",
        *(f"- {name}: {value}" for name, value in recipe.items() if name not in idle),
        "",
    ]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
