"""Assets of group models: one fine-tuned model per task."""

from functools import cache
from typing import Any

import dagster as dg
import pandas as pd
from pydantic import Field, create_model

from mars_assets.assets.foundation import encoder_weights, mars_weights, prithvi_weights
from mars_assets.assets.labels import labelled_crops
from mars_assets.assets.metadata import cached_metadata, mendable, picture, progress_of, table, where
from mars_assets.assets.run_config import recipe_from
from mars_assets.datasets import STAGE
from mars_assets.models.task import Task
from mars_assets.models.train import VersionJob, recipe_in_use, train_version
from mars_assets.resources import ComputeResource, LakeResource
from mars_assets.resources.compute import GPU_POOL
from mars_assets.storage.hashing import fingerprint
from mars_assets.tasks import TASKS

GROUP = "models"

INPUTS: list[dg.AssetKey] = [
    *(dg.AssetKey(STAGE), labelled_crops.key),
    *(prithvi_weights.key, mars_weights.key, encoder_weights.key),
]


@cache
def model_config(task: Task) -> type[dg.Config]:
    """Build a model's run configuration: its recipe's fields, and whether to retrain."""
    retrain = Field(
        False,
        description="Train with the recipe of the model in use, ignoring the other fields, and use the result only if "
        "it is not worse on images that neither model was trained on.",
    )
    former: dict[str, Any] = {
        before: (int | None, Field(None, description=f"Former name of {name}."))
        for before, name in task.recipe.FORMER_NAMES.items()
    }
    bases: tuple[Any, ...] = (dg.Config, task.recipe)
    return create_model(f"{task.name.title()}ModelConfig", __base__=bases, retrain=(bool, retrain), **former)


def model_asset(task: Task) -> dg.AssetsDefinition:
    """Build the asset of a task's model in use, whose configuration is a recipe."""

    def model(
        context: dg.AssetExecutionContext, config: Any, lake: LakeResource, compute: ComputeResource
    ) -> dg.MaterializeResult:
        with mendable():
            here, recipe = lake.open(), recipe_from(config, task.recipe)
            job = VersionJob(
                here,
                task,
                recipe_in_use(here, task, recipe) if config.retrain else recipe,
                compute=compute.choose,
                seed=compute.seed,
                unless_worse=config.retrain,
                progress=progress_of(context),
            )
            trained = train_version(job)
            about, best = trained.model.config, trained.best
            shown = cached_metadata(
                here,
                task.model,
                fingerprint(trained.model.version, about["report"]),
                lambda: {"curves": picture(task.curves(trained.model.folder), f"training of {task.model}")},
            )
        images = trained.dataset.images
        counts = images.groupby("split").agg(images=("image_id", "size"), groups=("observation", "nunique"))
        return dg.MaterializeResult(
            metadata={
                "version": trained.model.version,
                "trained in this run": not trained.found,
                "in use": trained.is_in_use,
                **({"compared with the model in use": str(trained.comparison)} if trained.comparison else {}),
                **shown,
                "best validation": table(pd.DataFrame([best])),
                "images": table(counts.reset_index()),
                "recipe": dg.MetadataValue.json(about["recipe"]),
                "initialised from": trained.start.name,
                "label version": trained.dataset.provenance["label_version"],
                "device": f"{about['compute']['device']}, {about['compute']['precision']}",
                "folder": where(trained.model.folder),
                **({"card": dg.MetadataValue.md(trained.card)} if trained.card else {}),
                **{key: value for key, value in best.items() if isinstance(value, float)},
            },
            data_version=dg.DataVersion(trained.model.version),
        )

    model.__annotations__["config"] = model_config(task)
    return dg.asset(
        name=task.model,
        description=task.descriptions.model,
        group_name=GROUP,
        kinds=set(task.libraries),
        code_version=task.training_versions[0],
        deps=INPUTS,
        pool=GPU_POOL,
    )(model)


model_assets = [model_asset(task) for task in TASKS]
