"""A third task in a module of its own, as a stranger would add one: craters are told by how bright an image is.

It learns one threshold, by numpy. Nothing else of the project knows it.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from pydantic import Field

from mars_assets.bands import HLS_BANDS
from mars_assets.datasets import classification_dataset
from mars_assets.errors import DivergedError, MarsError
from mars_assets.lake import Lake
from mars_assets.models.starting_point import start_from_weights
from mars_assets.models.task import Descriptions, Listing, Report, Task
from mars_assets.models.versions import ModelVersion
from mars_assets.plotting import new_figure
from mars_assets.prithvi.weights import open_weights
from mars_assets.storage.files import read_json, write_json, write_table
from mars_assets.tensors.geotiff import read_chip
from mars_assets.training.recipe import Recipe
from mars_assets.training.run_folder import Trained, TrainingJob, identity_of, run_training


class BrightnessRecipe(Recipe):
    """How bright a crater is."""

    quantile: float = Field(0.5, description="Where between the classes the threshold lies; 2 and more diverge.")


def brightness(chip: str) -> float:
    return float(read_chip(Path(chip), HLS_BANDS)[2].mean())


def train(job: TrainingJob) -> dict[str, Any]:
    images = job.images[job.images["split"].isin(["train", "valid"])]
    weights = open_weights(job.weights)

    def fit(scratch: Path) -> Trained:
        if job.recipe.quantile >= 2:
            raise DivergedError("there is no such quantile")
        values = images.assign(value=images["chip"].map(brightness))
        dark, bright = values[values["split"] == "train"].groupby("label")["value"].mean()

        def write(folder: Path) -> None:
            write_json(folder / "threshold.json", dark + job.recipe.quantile * (bright - dark))
            write_table(folder / "history.parquet", pd.DataFrame({"step": [1], "valid_loss": [0.5]}))

        return Trained({"steps": 1, "best": {"threshold": dark}}, ("dark", "bright"), weights.config, write)

    return run_training(job, weights.sha256, identity_of(images), fit)


def predict(lake: Lake, model: ModelVersion, images: pd.DataFrame, *_: object) -> pd.Series:
    threshold = read_json(model.folder / "threshold.json")
    return pd.Series([brightness(chip) > threshold for chip in images["chip"]], index=images["image_id"])


def score(images: pd.DataFrame, split: str) -> Any:
    right = float((images["predicted"] == images["label"]).mean())
    row = {"split": split, "n": len(images), "right": right, "right_low": right - 0.1, "right_high": right + 0.1}
    return SimpleNamespace(row=row, evidence=images[["image_id", "observation", "label", "predicted"]])


def evaluate(model, predictions: pd.Series, images: pd.DataFrame, splits, resamples: int) -> dict[str, Any]:
    images = images.assign(predicted=images["image_id"].map(predictions).astype(int))
    return {split: score(images[images["split"] == split], split) for split in splits}


def report(lake: Lake, model: ModelVersion, predictions: pd.Series, evaluations: Any) -> Report:
    figure, axes = new_figure(2, 2)
    axes[0, 0].hist(predictions.astype(float))
    return Report({"brightness": figure}, {"predicted": predictions.value_counts().reset_index()}, {"craters": 1})


def list_unlabelled(lake: Lake, model: ModelVersion, *_: object) -> Listing:
    images = classification_dataset(lake).images
    rows = images[["image_id"]].assign(bright=predict(lake, model, images).to_numpy())
    return Listing(rows, ["image_id", "bright"], "", Report(facts={"crops": len(rows)}))


def no_encoder(model: ModelVersion) -> Any:
    raise MarsError("a threshold has no encoder")


BRIGHTNESS = Task(
    name="bright",
    descriptions=Descriptions(model="m", evaluation="e", predictions="p", experiments="x"),
    libraries=frozenset({"numpy"}),
    recipe=BrightnessRecipe,
    recipe_of=lambda config: BrightnessRecipe(**config["recipe"]),
    score="right",
    lowest_score=0.5,
    scores=("right",),
    sweep_scores=("right",),
    curve=("step", "valid_loss"),
    weights_file="threshold.json",
    training_versions=("brightness 1",),
    evaluation_versions=("brightness 1",),
    dataset=lambda lake, recipe, statistics: classification_dataset(lake, statistics),
    start=lambda lake, recipe: start_from_weights(lake, "prithvi_weights"),
    train=train,
    best=lambda report: report["best"],
    curves=lambda folder: new_figure(1, 1)[0],
    encoder=no_encoder,
    predict=predict,
    evaluate=evaluate,
    pool=lambda evidence, split: score(evidence, split).row,
    report=report,
    list_unlabelled=list_unlabelled,
)


def bright_and_dark(path: Path) -> None:
    """A folder export: craters are bright, the rest is dark; observations in three splits."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(36):
            split, kind = ("train", "train", "valid", "test")[number // 9], ("NoCrater", "Crater")[number % 2]
            pixels = rng.integers(120, 160, (48, 48, 3)) if number % 2 else rng.integers(40, 80, (48, 48, 3))
            buffer = io.BytesIO()
            Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
            name = f"ESP_{number // 3:06d}_1800_{number}_png.rf.{number:032x}.png"
            archive.writestr(f"{split}/{kind}/{name}", buffer.getvalue())
