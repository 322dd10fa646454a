"""The task: everything that differs between one kind of model and another.

Training, sweeps, promotion, evaluation, predictions and their assets take a :class:`Task` and know no other difference.
A new task is one package with a ``task.py``, and one line in :mod:`mars_assets.tasks`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pandas as pd

from mars_assets.bands import BandStatistics
from mars_assets.datasets import Dataset
from mars_assets.lake import Lake
from mars_assets.models.starting_point import Start
from mars_assets.models.versions import ModelVersion
from mars_assets.progress import Progress
from mars_assets.training.compute import Compute
from mars_assets.training.recipe import Recipe
from mars_assets.training.run_folder import TrainingJob

if TYPE_CHECKING:
    from mars_assets.plotting import Picture
    from mars_assets.prithvi.model import PrithviEncoder


class Evaluation(Protocol):
    """A model on the images of one split."""

    @property
    def row(self) -> dict[str, Any]:
        """The scores, with ``split``.

        Those that have an interval have ``NAME_low`` and ``NAME_high``.
        """

    @property
    def evidence(self) -> pd.DataFrame:
        """What the scores are computed from, a row an image.

        The columns are ``image_id, observation`` and the task's own.
        """


@dataclass(frozen=True)
class Report:
    """What a result shows beyond its scores, each part by the title that people read.

    Args:
        figures: plots and pictures.
        tables: small tables.
        facts: numbers and texts.
        files: further files that the result consists of.
    """

    figures: Mapping[str, Picture] = field(default_factory=dict)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    facts: Mapping[str, str | float] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Listing:
    """What a model says about crops without labels.

    Args:
        rows: one row for each crop, or for each thing found in it.
        key: the columns that are the result; the others follow from it.
        warning: what a reader should know before believing it; empty if there is nothing.
        report: what is shown beyond the table.
    """

    rows: pd.DataFrame
    key: Sequence[str]
    warning: str
    report: Report


@dataclass(frozen=True, kw_only=True)
class Descriptions:
    """What the UI says about a task's assets, in Markdown."""

    model: str
    evaluation: str
    predictions: str
    experiments: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What a kind of model learns, and how it is trained, evaluated and shown.

    Args:
        name: short name; its assets are ``NAME_model``, ``NAME_evaluation``, ``NAME_predictions`` and
            ``NAME_experiments``.
        descriptions: of these assets.
        libraries: tags that the UI shows.
        recipe: class of its recipes.
        recipe_of: the recipe in a model's ``config.json``, whichever version of this project wrote it; raises
            ``ValidationError`` for values that this version does not know.
        score: what models are compared by, the higher the better.
        lowest_score: a warning is raised below it.
        scores: shown for each evaluation.
        sweep_scores: shown for each run of a sweep, which ranks by the first of them, ``score``.
        curve: columns of a training history: steps, and the score drawn over them.
        default_sweep: what a sweep without any settings runs; empty for the default recipe alone.
        weights_file: name of the file with a model's weights.
        training_versions: versions of the way of training, see :mod:`mars_assets.code_versions`, the present one first.
            It is part of a model version's name; a finished model of one of the others counts as the same version.
        evaluation_versions: those of predicting and counting, on which an evaluation rests.
        predictions_read_evaluation: whether listing predictions reads the model's evaluation.
        dataset: (lake, recipe's values, statistics to check or None) -> the labelled images.
        start: (lake, recipe) -> what a training of the recipe is initialised from.
        train: trains a job to the end, continues it, or finds it finished; returns its report.
        best: the scores of the selected state, from a report.
        curves: figure of a finished training, from its folder.
        card: (model, images) -> the model card in Markdown, if the task has one.
        encoder: Prithvi's encoder inside a model; raises ``MarsError`` if it has none.
        predict: (lake, model, images, compute, progress) -> predictions, each computed once; opaque to the caller.
        calibrate: (model, validation images, compute, progress) fits to images that the model was not trained on what
            its further uses need, if there is anything.
        evaluate: (model, predictions, images, splits, resamples) -> an evaluation for each of the splits.
        pool: (evidence, split) -> the row of an evaluation of images that several models were evaluated on, each on its
            own.
        report: (lake, model, predictions, evaluations) -> what an evaluation shows beyond its scores.
        list_unlabelled: (lake, model, compute, progress) -> what a model says about crops without labels.
    """

    name: str
    descriptions: Descriptions
    libraries: frozenset[str]

    recipe: type[Recipe]
    recipe_of: Callable[[Mapping[str, Any]], Any]

    score: str
    lowest_score: float
    scores: tuple[str, ...]
    sweep_scores: tuple[str, ...]
    curve: tuple[str, str]
    default_sweep: Mapping[str, Any] = field(default_factory=dict)

    weights_file: str
    training_versions: tuple[str, ...]
    evaluation_versions: tuple[str, ...]
    predictions_read_evaluation: bool = False

    dataset: Callable[[Lake, Mapping[str, Any], BandStatistics | None], Dataset]
    start: Callable[[Lake, Any], Start]
    train: Callable[[TrainingJob[Any, pd.DataFrame]], dict[str, Any]]
    best: Callable[[Mapping[str, Any]], dict[str, Any]]
    curves: Callable[[Path], Picture]
    card: Callable[[ModelVersion, pd.DataFrame], str] | None = None
    encoder: Callable[[ModelVersion], PrithviEncoder]

    predict: Callable[[Lake, ModelVersion, pd.DataFrame, Compute, Progress], Any]
    calibrate: Callable[[ModelVersion, pd.DataFrame, Compute, Progress], None] | None = None
    evaluate: Callable[[ModelVersion, Any, pd.DataFrame, Sequence[str], int], Mapping[str, Evaluation]]
    pool: Callable[[pd.DataFrame, str], dict[str, Any]]
    report: Callable[[Lake, ModelVersion, Any, Mapping[str, Evaluation]], Report]
    list_unlabelled: Callable[[Lake, ModelVersion, Compute, Progress], Listing]

    @property
    def model(self) -> str:
        """The asset of the model in use."""
        return f"{self.name}_model"

    @property
    def evaluation(self) -> str:
        """The asset and table of evaluations."""
        return f"{self.name}_evaluation"

    @property
    def predictions(self) -> str:
        """The asset and table of predictions."""
        return f"{self.name}_predictions"

    @property
    def experiments(self) -> str:
        """The asset and table of sweeps, and the folder of their runs."""
        return f"{self.name}_experiments"
