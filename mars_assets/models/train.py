"""Training a version of a task's model, or finding it, and putting it into use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any

from pydantic import ValidationError

from mars_assets.datasets import STAGE, Dataset
from mars_assets.errors import MarsError, MissingInputError, ProvenanceError, all_problems
from mars_assets.lake import CONFIG, MODEL_CARD, SCRATCH, Lake
from mars_assets.models.promotion import Comparison, compare
from mars_assets.models.starting_point import Start
from mars_assets.models.task import Task
from mars_assets.models.versions import (
    ModelVersion,
    current_model,
    find_version,
    in_use,
    make_current,
    start_version,
    version_of,
)
from mars_assets.progress import SILENT, Progress
from mars_assets.provenance import software
from mars_assets.storage.claims import has_work
from mars_assets.storage.files import read_json, write_bytes
from mars_assets.training.compute import Compute
from mars_assets.training.run_folder import TrainingJob


@dataclass(frozen=True, kw_only=True)
class TrainedVersion:
    """A version that was asked for.

    Args:
        model: the version.
        start: what its training was initialised from.
        dataset: what it was trained on.
        found: whether it existed before.
        best: scores of the selected state.
        comparison: with the model that was in use; None if they were not compared.
        card: the model card in Markdown; empty if the task has none.
    """

    model: ModelVersion
    start: Start
    dataset: Dataset
    found: bool
    best: Mapping[str, Any]
    comparison: Comparison | None
    card: str

    @property
    def is_in_use(self) -> bool:
        """Whether it is the model in use from now on."""
        return self.comparison is None or self.comparison.is_not_worse


@dataclass(frozen=True)
class VersionJob:
    """A version to train, or to find.

    Args:
        lake: has the inputs, gets the model.
        task: what is learnt.
        recipe: how.
        compute: gives the device; asked only where something is computed.
        seed: of that device.
        unless_worse: leave the model in use where it is if the new one is worse on images that neither was trained on.
        progress: takes lines.
    """

    lake: Lake
    task: Task
    recipe: Any
    _: KW_ONLY
    compute: Callable[[], Compute]
    seed: int
    unless_worse: bool = False
    progress: Progress = SILENT


def train_version(job: VersionJob) -> TrainedVersion:
    """Train a recipe on the current labels, and put it into use.

    A version that exists is not trained.

    A version is identified by its recipe, training and validation images, initial weights and seed.

    Raises:
        MissingInputError: inputs have not been materialized; lists all of them.
        ProvenanceError: inputs, or the model in use, contradict each other.
        MarsError: nothing can be trained on these labels, or the training diverged.
    """
    lake, task, recipe = job.lake, job.task, job.recipe
    stages = {stage: lake.chips(stage) for stage in ("reflectance", STAGE)}
    lake.require({"labelled_crops": lake.labelled_crops, **stages, "prithvi_weights": lake.current_foundation})
    start = task.start(lake, recipe)
    dataset = task.dataset(lake, recipe.model_dump(), start.statistics)
    current = current_model(lake, task.model) if job.unless_worse and in_use(lake, task.model) else None
    if current is not None:
        _refuse_other_statistics(current, dataset.provenance["statistics"])
    name_of = partial(version_of, recipe.identity(), dataset.images, start.sha256, job.seed)
    version = find_version(lake, task.model, task.training_versions, name_of)
    found = (lake.version(task.model, version) / CONFIG).exists()
    job.progress.say(f"version {version} exists: nothing to train" if found else f"training version {version}")
    folder = start_version(lake, task.model, version, dataset.images)
    # An existing version is shown without importing torch; only what a killed run left behind is cleared up.
    if not found or has_work(folder / SCRATCH):
        provenance = {**dataset.provenance, **start.provenance, "software": software()}
        training = TrainingJob(
            recipe,
            dataset.images,
            start.folder,
            folder,
            job.compute(),
            provenance,
            job.progress,
            cache=lake.features,
        )
        task.train(training)
    model = ModelVersion(task.model, version, folder, read_json(folder / CONFIG))
    best, card = task.best(model.config["report"]), ""
    if task.card is not None:
        card = task.card(model, dataset.images)
        write_bytes(folder / MODEL_CARD, card.encode())
    comparison = None
    if current is not None and current.version != version:
        comparison = compare(lake, task, (current, model), dataset.images, job.compute())
        job.progress.say(str(comparison))
    trained = TrainedVersion(
        model=model, start=start, dataset=dataset, found=found, best=best, comparison=comparison, card=card
    )
    if trained.is_in_use:
        make_current(lake, task.model, version, best)
    return trained


def recipe_in_use(lake: Lake, task: Task, otherwise: Any) -> Any:
    """Read the recipe of the model in use.

    Args:
        lake: has the model.
        task: whose.
        otherwise: what to return where no model is in use.

    Raises:
        MarsError: it has settings that this version of the project does not know.
    """
    try:
        model = current_model(lake, task.model)
    except MissingInputError:
        return otherwise
    try:
        return task.recipe_of(model.config)
    except ValidationError as error:
        raise MarsError(
            f"the recipe of {model.name} {model.version} is from an earlier version of this project: "
            f"{all_problems(error)}. Train one with a recipe of your own, without retrain"
        ) from error


def _refuse_other_statistics(current: ModelVersion, statistics: str) -> None:
    """Refuse a model that was trained on chips with other statistics.

    Raises:
        ProvenanceError: it was, and would look worse than it is on these.
    """
    own = current.config["provenance"]["statistics"]
    if own != statistics:
        raise ProvenanceError(
            f"{current.name} {current.version} was trained on chips with the statistics {own!r}, and {STAGE} has "
            f"{statistics!r}: the two cannot be compared. Train without retrain, which puts the new model into use"
        )
