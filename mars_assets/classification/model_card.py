"""The model card: what a classifier is, what it was made from, and what it may not be believed for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from mars_assets.classification.recipe import CLASSES, OUTLINES, PRITHVI, STRONGEST, recipe_of, without_effect


def model_card(version: str, config: Mapping[str, Any], images: pd.DataFrame) -> str:
    """A card in Markdown, after Mitchell et al. 2019, Model cards for model reporting.

    Args:
        version: of the model.
        config: its ``config.json``.
        images: what it was made from: ``image_id, split, label, observation``.
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
    begun = f"({provenance.get('weights', 'unnamed weights')}, {'frozen' if recipe['frozen'] else 'fine-tuned'})"
    kind = {
        PRITHVI: f"Prithvi's encoder {begun} with one linear unit",
        OUTLINES: f"A segmentation network {begun}, which has learnt the outlines of craters: the mean of the {STRONGEST} pixels "
        "that it is surest of, scaled",
    }.get(
        recipe["architecture"],
        f"timm's {recipe['architecture']}, from {'ImageNet' if recipe['imagenet'] else 'random'} weights",
    )
    best, idle = report["best"], without_effect(recipe["architecture"])
    lines = [
        f"# Crater classifier {version}",
        "",
        f"{kind}. It gives the probability that a picture of Mars shows a crater ({CLASSES[0]} / {CLASSES[1]}).",
        "",
        "## Made from",
        "",
        counts.to_markdown(index=False),
        "",
        f"Labels {provenance.get('label_version', 'unknown')[:16]}, tensors `{provenance.get('stage', 'unknown')}`, statistics "
        f"`{config['statistics']['name']}`, seed {config['seed']}. "
        + (
            f"{divided} observations are in more than one split: the validation is too good."
            if divided
            else "No observation is in more than one split."
        ),
        "",
        "## Training",
        "",
        f"{report['steps']} steps; the state of step {report['best_step']}, the lowest validation loss, is kept. "
        f"{report['trained_parameters']:,} of {report['parameters']:,} parameters were trained.",
        "",
        f"Validation there: loss {_number(best['valid_loss'])}, balanced accuracy "
        f"{_number(best['valid_balanced_accuracy'])}, AUROC {_number(best['valid_auroc'])}, each of images seen in one "
        "orientation. It chose the state, so it is optimistic. The asset `cls_evaluation` has scores with intervals.",
        "",
        "## Use",
        "",
        f"A picture is scaled to reflectance units, its missing bands are filled, it is normalised by {recipe['normalize']}, "
        f"and resampled to {size} x {size} pixels; "
        + ("the answer is the mean over eight orientations." if recipe["all_orientations"] else "it is seen as it is."),
        "`mars-assets predict FOLDER` does all of this.",
        "",
        "## Not for",
        "",
        "- Pictures of another scale or instrument than the labelled ones: craters much larger or smaller than those it was "
        "shown are not known to it.",
        "- Counting: it says of a whole picture whether there is a crater, not how many or where.",
        "- Probabilities as rates on other terrain: they are calibrated, if at all, for the mix of classes above.",
        "",
        "## Recipe",
        "",
        *(f"- {name}: {value}" for name, value in recipe.items() if name not in idle),
        "",
    ]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
