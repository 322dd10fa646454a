"""The definition of a sweep: recipes to compare, and seeds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from mars_assets.errors import MarsError

R = TypeVar("R", bound=BaseModel)


class Sweep(BaseModel):
    """A product of variants, a grid, random draws and seeds.

    Omitted factors count once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: dict[str, Any] = Field({}, description="Settings shared by all runs, in addition to the recipe's defaults.")
    variants: dict[str, Any] = Field(
        {}, description="Named groups of settings, for example {resnet: {architecture: resnet18}}."
    )
    grid: dict[str, Any] = Field(
        {}, description="Values of settings, run in all combinations, for example {lr: [1.0e-3, 1.0e-4]}."
    )
    random: dict[str, Any] = Field(
        {},
        description="Settings drawn at random from a list, or from a range {low: 1.0e-4, high: 1.0e-2, log: true}.",
    )
    draws: int = Field(0, ge=0, description="Number of random draws.")
    draws_seed: int = Field(
        0, ge=0, description="Seed of the draws; a larger number of draws starts with the same ones."
    )
    seeds: list[NonNegativeInt] = Field(
        [1], min_length=1, description="Seeds of the trainings; each recipe runs with each of them."
    )
    hold_back: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the training observations held out from training in every run. Runs are evaluated on "
        "them in addition to the validation and test sets, for an estimate unaffected by the choice between recipes.",
    )
    folds: int = Field(
        0,
        ge=0,
        description="Number of parts for cross-validation, instead of hold_back: the training observations are divided "
        "into so many parts, and each recipe is trained once for each part, which is held out. The combined scores "
        "cover every training image, each evaluated by a model that was not trained on it.",
    )


class Run(NamedTuple, Generic[R]):
    """One training of a sweep.

    Args:
        name: name of its variant; empty without one.
        recipe: all settings.
        seed: seed of the training.
        fold: the held-out part of the training observations, from 0.
    """

    name: str
    recipe: R
    seed: int
    fold: int = 0


def plan(sweep: Sweep, recipe: type[R]) -> list[Run[R]]:
    """List all runs of a sweep in order, without duplicates.

    Raises:
        MarsError: the recipe rejects settings, or a range is invalid; all problems are listed.
    """
    problems = [
        f"variants: {name} is not a set of settings"
        for name, value in sweep.variants.items()
        if not isinstance(value, Mapping)
    ]
    problems += [f"grid: {name} is not a list of values" for name, value in sweep.grid.items() if not _listed(value)]
    problems += [f"random: {name} {problem}" for name, value in sweep.random.items() if (problem := _no_range(value))]
    if sweep.folds == 1:
        problems.append("folds: a single part leaves nothing to train on")
    if sweep.folds and sweep.hold_back:
        problems.append("folds and hold_back: with folds the parts are held out in turn, so set only one of them")
    if bool(sweep.random) != bool(sweep.draws):
        problems.append("random and draws: set both or neither")
    if problems:
        raise MarsError(f"the sweep is invalid: {'; '.join(problems)}")
    runs: dict[str, Run[R]] = {}
    for name, settings in _combinations(sweep):
        try:
            checked = recipe(**settings)
        except ValidationError as error:
            problems += [f"{name or 'run'}: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
            continue
        for seed, fold in itertools.product(sweep.seeds, range(sweep.folds or 1)):
            runs.setdefault(f"{checked.model_dump_json()} {seed} {fold}", Run(name, checked, seed, fold))
    if problems:
        raise MarsError(f"the sweep is invalid: {'; '.join(dict.fromkeys(problems))}")
    return list(runs.values())


def varied(runs: list[Run[Any]]) -> list[str]:
    """List the settings that differ between runs."""
    dumps = [run.recipe.model_dump() for run in runs]
    return [name for name in dumps[0] if any(dump[name] != dumps[0][name] for dump in dumps)] if dumps else []


def _combinations(sweep: Sweep) -> Iterator[tuple[str, dict[str, Any]]]:
    variants = sweep.variants or {"": {}}
    grid = [dict(zip(sweep.grid, values, strict=True)) for values in itertools.product(*sweep.grid.values())]
    rng = np.random.default_rng(sweep.draws_seed)
    draws = [{name: _drawn(rng, value) for name, value in sweep.random.items()} for _ in range(sweep.draws)] or [{}]
    for (name, variant), cell, draw in itertools.product(variants.items(), grid, draws):
        yield name, {**sweep.base, **variant, **cell, **draw}


def _drawn(rng: np.random.Generator, values: Any) -> Any:
    if _listed(values):
        return values[int(rng.integers(len(values)))]
    low, high = values["low"], values["high"]
    if values.get("log", False):
        drawn = float(math.exp(rng.uniform(math.log(low), math.log(high))))
        return round(drawn) if isinstance(low, int) and isinstance(high, int) else drawn
    if isinstance(low, int) and isinstance(high, int):
        return int(rng.integers(low, high + 1))
    return float(rng.uniform(low, high))


def _listed(value: Any) -> bool:
    return isinstance(value, list) and bool(value)


def _no_range(value: Any) -> str:
    """Describe the problem with a list or range to draw from; empty if there is none."""
    if _listed(value):
        return ""
    if not isinstance(value, Mapping) or not {"low", "high"} <= set(value) <= {"low", "high", "log"}:
        return "is neither a list nor {low, high, log}"
    bounds = [value["low"], value["high"]]
    if not all(isinstance(bound, int | float) and math.isfinite(bound) for bound in bounds) or bounds[0] >= bounds[1]:
        return "needs finite numbers with low < high"
    return "needs low > 0 for log" if value.get("log", False) and bounds[0] <= 0 else ""
