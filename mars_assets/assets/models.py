"""The fine-tuned models. They are trained here and validated on their own; judging them is `evaluation`'s."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import dagster as dg
import pandas as pd
from pydantic import BaseModel, Field, ValidationError

from mars_assets.assets.foundation import mars_weights, prithvi_weights
from mars_assets.assets.labels import labelled_crops
from mars_assets.assets.metadata import kept, mendable, picture, progress_of, table, where
from mars_assets.assets.run_config import listed, recipe_from
from mars_assets.bands import EVALUATED, BandStatistics
from mars_assets.classification.recipe import ClsRecipe, stated_recipe_of
from mars_assets.resources import ComputeResource, LakeResource
from mars_assets.resources.compute import GPU_POOL
from mars_assets.segmentation.recipe import SegRecipe

if TYPE_CHECKING:
    from mars_assets.datasets import Dataset
    from mars_assets.lake import Lake
    from mars_assets.models.promotion import Judge
    from mars_assets.models.versions import ModelVersion
    from mars_assets.training.compute import Compute


R = TypeVar("R", bound=BaseModel)

GROUP = "models"
STAGE = f"imputed_{EVALUATED}"
"""The tensors that models are trained on."""

CLS_SCORE, SEG_SCORE = "balanced_accuracy", "iou_crater"
"""By which models are compared, and their evaluations."""

INPUTS: list[dg.AssetKey] = [dg.AssetKey(STAGE), labelled_crops.key, prithvi_weights.key, mars_weights.key]


_SEG_SCORES = ("best_iteration", "miou", "iou_crater", "iou_background", "train_loss")


_RETRAIN = (
    "Train with the recipe of the model in use, whatever the other fields say, and take the result into use only if it is not "
    "worse on images that neither was trained on."
)


class ClsModelConfig(dg.Config, ClsRecipe):
    """A classification recipe."""

    retrain: bool = Field(False, description=_RETRAIN)


class SegModelConfig(dg.Config, SegRecipe):
    """A segmentation recipe."""

    retrain: bool = Field(False, description=_RETRAIN)


@dg.asset(group_name=GROUP, kinds={"pytorch"}, code_version="4", deps=INPUTS, pool=GPU_POOL)
def cls_model(
    context: dg.AssetExecutionContext,
    config: ClsModelConfig,
    lake: LakeResource,
    compute: ComputeResource,
) -> dg.MaterializeResult:
    """Crater or no crater: Prithvi's encoder with one linear unit, fine-tuned on the classified crops.

    The configuration is a recipe; `recipes/cls_paper.yaml` is the paper's. The `architecture` `seg_model` begins as the
    segmentation model in use; another names a model of timm's, to compare with. The same recipe on the same labels,
    tensors, weights and seed is one version and is not trained twice; a killed training continues. The state of the
    lowest validation loss is kept. `mars_weights` and `seg_model` have to be there only for recipes that start from them.
    """
    from mars_assets.classification.model_card import model_card
    from mars_assets.classification.recipe import COMPUTATION
    from mars_assets.datasets import classification_dataset
    from mars_assets.models.promotion import judge_classifier

    def train(*arguments: Any) -> dict[str, Any]:
        from mars_assets.classification.train import train_classifier

        return train_classifier(recipe, *arguments, features=here.features)

    def curves(folder: Path) -> Any:
        from mars_assets.classification.figures import training_curves

        return training_curves(folder)

    with mendable():
        here = lake.open()
        recipe = _recipe(config, ClsRecipe, here, "cls_model", stated_recipe_of)
        return _train(
            context,
            here,
            "cls_model",
            recipe,
            compute,
            (CLS_SCORE, judge_classifier) if config.retrain else None,
            lambda statistics: classification_dataset(here, STAGE, statistics),
            train,
            lambda report: report["best"],
            curves,
            COMPUTATION,
            model_card,
        )


@dg.asset(group_name=GROUP, kinds={"pytorch", "mmsegmentation"}, code_version="3", deps=INPUTS, pool=GPU_POOL)
def seg_model(
    context: dg.AssetExecutionContext,
    config: SegModelConfig,
    lake: LakeResource,
    compute: ComputeResource,
) -> dg.MaterializeResult:
    """Crater segmentation: Prithvi's encoder, a neck and a head through MMSegmentation, fine-tuned on the outlined crops.

    The configuration is a recipe; `recipes/seg_paper_*.yaml` are the paper's six. `model.pth` and `config.py` of a
    version are an ordinary MMSegmentation checkpoint and configuration. Versions and resumption as in `cls_model`; the
    state of the highest validation mIoU is kept.
    """
    from mars_assets.datasets import segmentation_dataset
    from mars_assets.models.promotion import judge_segmenter
    from mars_assets.segmentation.recipe import COMPUTATION

    def train(*arguments: Any) -> dict[str, Any]:
        from mars_assets.segmentation.train import train_segmentation

        return train_segmentation(recipe, *arguments)

    def curves(folder: Path) -> Any:
        from mars_assets.segmentation.figures import training_figure
        from mars_assets.storage.files import read_table

        return training_figure(read_table(folder / "history.parquet", "seg_model"))

    def judge(chosen: "Compute") -> "Judge":
        return judge_segmenter(lambda annotation: segmentation_dataset(here, STAGE, annotation).images, chosen)

    with mendable():
        here = lake.open()
        recipe = _recipe(config, SegRecipe, here, "seg_model", lambda trained: SegRecipe(**trained["recipe"]))
        return _train(
            context,
            here,
            "seg_model",
            recipe,
            compute,
            (SEG_SCORE, judge) if config.retrain else None,
            lambda statistics: segmentation_dataset(here, STAGE, recipe.annotation, statistics),
            train,
            lambda report: {name: report[name] for name in _SEG_SCORES},
            curves,
            COMPUTATION,
        )


def _recipe(
    config: Any, recipe: type[R], lake: "Lake", name: str, recipe_of_trained: Callable[[dict[str, Any]], R]
) -> R:
    """The recipe that a configuration states, or that of the model in use where it is to be trained again."""
    from mars_assets.errors import MarsError, MissingInputError
    from mars_assets.models.versions import current_model

    stated = recipe_from(config, recipe)
    if not config.retrain:
        return stated
    try:
        model = current_model(lake, name)
    except MissingInputError:
        return stated  # the first one
    try:
        return recipe_of_trained(model.config)
    except ValidationError as error:
        raise MarsError(
            f"the recipe of {name} {model.version} is of an earlier version of this project: {listed(error)}. Train one "
            "with a recipe of your own, without retrain"
        ) from error


def _check_comparable(lake: "Lake", name: str, statistics: str) -> None:
    """Whether the model in use, if there is one, can be judged on chips of these statistics.

    Raises:
        ProvenanceError: it was trained on chips of others, on which it would look worse than it is.
    """
    from mars_assets.errors import ProvenanceError
    from mars_assets.models.versions import current_model

    if not (lake.model(name) / "current.json").exists():
        return
    model = current_model(lake, name)
    own = model.config["provenance"]["statistics"]
    if own != statistics:
        raise ProvenanceError(
            f"{name} {model.version} was trained on chips of the statistics {own!r}, and {STAGE} has {statistics!r}: the two "
            "cannot be compared. Train without retrain, which puts the new model into use"
        )


def _train(
    context: dg.AssetExecutionContext,
    lake: "Lake",
    name: str,
    recipe: "ClsRecipe | SegRecipe",
    compute: ComputeResource,
    unless_worse: "tuple[str, Callable[[Compute], Judge]] | None",
    dataset_for: Callable[[Any], "Dataset"],
    train: Callable[..., dict[str, Any]],
    best_of: Callable[[dict[str, Any]], dict[str, Any]],
    curves: Callable[[Path], Any],
    computation: str,
    card: Callable[[str, dict[str, Any], Any], str] | None = None,
) -> dg.MaterializeResult:
    """Trains a version, or finds it, and puts it into use; given a score and its judge, unless it is worse than what is."""
    from mars_assets.models.promotion import compare
    from mars_assets.models.starting_point import start_of_training
    from mars_assets.models.versions import ModelVersion, current_model, make_current, start_version, version_of
    from mars_assets.provenance import software
    from mars_assets.storage.files import read_json, write_bytes
    from mars_assets.storage.hashing import fingerprint
    from mars_assets.training.run_folder import CONFIG, SCRATCH

    lake.require(
        {
            "labelled_crops": lake.labelled_crops,
            "reflectance": lake.tensors("reflectance") / "manifest.parquet",
            STAGE: lake.tensors(STAGE) / "manifest.parquet",
            "prithvi_weights": lake.current_foundation,
        }
    )
    start = start_of_training(lake, recipe.encoder, recipe.architecture)
    dataset = dataset_for(start.statistics)
    if unless_worse is not None:
        _check_comparable(lake, name, dataset.provenance["statistics"])
    version = version_of(recipe.model_dump(), dataset.images, start.sha256, compute.seed, computation)
    found = (lake.model(name) / version / CONFIG).exists()
    progress = progress_of(context)
    progress.say(f"version {version} is there already: nothing to train" if found else f"training version {version}")
    folder = start_version(lake, name, version, dataset.images)
    provenance = {**dataset.provenance, **start.provenance, "software": software()}
    # What is there is shown without importing torch; only what a killed run left behind is cleared up.
    if not found or (folder / SCRATCH).exists():
        train(dataset.images, start.folder, folder, compute.choose(), provenance, progress)
    trained = read_json(folder / CONFIG)
    best = best_of(trained["report"])
    more: dict[str, Any] = {}
    if card is not None:
        text = card(version, trained, dataset.images)
        write_bytes(folder / "card.md", text.encode())
        more["card"] = dg.MetadataValue.md(text)
    comparison = None
    if unless_worse is not None and (lake.model(name) / "current.json").exists():
        current = current_model(lake, name)
        if current.version != version:
            score, judge = unless_worse
            candidate = ModelVersion(name, version, folder, trained)
            comparison = compare(current, candidate, dataset.images, score, judge(compute.choose()))
            progress.say(str(comparison))
    if comparison is None or comparison.is_not_worse:
        make_current(lake, name, version, best)
    counts = dataset.images.groupby("split").agg(images=("image_id", "size"), groups=("observation", "nunique"))
    return dg.MaterializeResult(
        metadata={
            "version": version,
            "trained in this run": not found,
            "in use": comparison is None or comparison.is_not_worse,
            **({"against the one in use": str(comparison)} if comparison is not None else {}),
            **kept(
                lake,
                name,
                fingerprint(version, trained["report"]),
                lambda: {"curves": picture(curves(folder), f"training of {name}")},
            ),
            "best validation": table(pd.DataFrame([best])),
            "images": table(counts.reset_index()),
            "recipe": dg.MetadataValue.json(recipe.model_dump()),
            "began as": start.name,
            "label version": dataset.provenance["label_version"],
            "device": f"{trained['compute']['device']}, {trained['compute']['precision']}",
            "folder": where(folder),
            **more,
            **{key: value for key, value in best.items() if isinstance(value, float)},
        },
        data_version=dg.DataVersion(version),
    )


def current_with_statistics(lake: "Lake", name: str) -> tuple["ModelVersion", "BandStatistics"]:
    """The current model and the statistics its input is normalised with."""
    from mars_assets.models.versions import current_model

    model = current_model(lake, name)
    return model, BandStatistics.from_dict(model.config["statistics"])
