"""A sweep in a file: which recipes are to be compared, and with which seeds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from mars_assets.errors import MarsError

R = TypeVar("R", bound=BaseModel)

_RANGE = {"low", "high", "log"}


class Sweep(BaseModel):
    """Variants times a grid times random draws times seeds; what is left out counts once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: dict[str, Any] = Field({}, description="Settings that all runs share; the recipe's defaults are the rest.")
    variants: dict[str, Any] = Field(
        {}, description="Settings that belong together, by a name for the table: {resnet: {architecture: resnet18}}."
    )
    grid: dict[str, Any] = Field({}, description="Values of settings; all combinations run: {lr: [1.0e-3, 1.0e-4]}.")
    random: dict[str, Any] = Field(
        {},
        description="Settings that are drawn: from a list, or from a range {low: 1.0e-4, high: 1.0e-2, log: true}.",
    )
    draws: int = Field(0, ge=0, description="How many random draws.")
    draws_seed: int = Field(0, ge=0, description="Seed of the draws; more draws begin with the same ones.")
    seeds: list[NonNegativeInt] = Field(
        [1], min_length=1, description="Seeds of the trainings; each recipe runs with each."
    )
    hold_back: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the training observations that no run is trained on and all are judged on, beside valid "
        "and test: an estimate that no choice between recipes has touched.",
    )
    folds: int = Field(
        0,
        ge=0,
        description="Cross-validation, in the place of hold_back: the training observations are dealt into so many "
        "parts, and each recipe is trained as often, with another part held back each time. Its scores on all parts "
        "together rest on every training image, and none was seen by the training that is judged on it.",
    )


class Run(NamedTuple, Generic[R]):
    """One training of a sweep.

    Args:
        name: of its variant; empty without one.
        recipe: all settings.
        seed: of the training.
        fold: the part of the training observations that it holds back, from 0.
    """

    name: str
    recipe: R
    seed: int
    fold: int = 0


def plan(sweep: Sweep, recipe: type[R]) -> list[Run[R]]:
    """All runs of a sweep, in order, each once.

    Raises:
        MarsError: settings that the recipe refuses, or a range that is none; all of them are listed.
    """
    problems = [
        f"variants: {name} is not a set of settings" for name, value in sweep.variants.items() if not _is(value)
    ]
    problems += [f"grid: {name} is not a list of values" for name, value in sweep.grid.items() if not _listed(value)]
    problems += [f"random: {name} {problem}" for name, value in sweep.random.items() if (problem := _no_range(value))]
    if sweep.folds == 1:
        problems.append("folds: one part is all, and leaves nothing to train on")
    if sweep.folds and sweep.hold_back:
        problems.append("folds and hold_back: the parts are held back in turn, so that there is no share to choose")
    if bool(sweep.random) != bool(sweep.draws):
        problems.append("random: draws and the settings to draw go together")
    if problems:
        raise MarsError(f"the sweep is invalid: {'; '.join(problems)}")
    runs: dict[str, Run[R]] = {}
    for name, settings in _combinations(sweep):
        try:
            made = recipe(**settings)
        except ValidationError as error:
            problems += [f"{name or 'run'}: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
            continue
        for seed, fold in itertools.product(sweep.seeds, range(sweep.folds or 1)):
            runs.setdefault(f"{made.model_dump_json()} {seed} {fold}", Run(name, made, seed, fold))
    if problems:
        raise MarsError(f"the sweep is invalid: {'; '.join(dict.fromkeys(problems))}")
    return list(runs.values())


def varied(runs: list[Run[Any]]) -> list[str]:
    """The settings that are not the same in all runs."""
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


def _is(value: Any) -> bool:
    return isinstance(value, Mapping)


def _listed(value: Any) -> bool:
    return isinstance(value, list) and bool(value)


def _no_range(value: Any) -> str:
    """What is wrong with something to draw from; empty if nothing is."""
    if _listed(value):
        return ""
    if not _is(value) or not {"low", "high"} <= set(value) <= _RANGE:
        return "is neither a list nor {low, high, log}"
    bounds = [value["low"], value["high"]]
    if not all(isinstance(bound, int | float) and math.isfinite(bound) for bound in bounds) or bounds[0] >= bounds[1]:
        return "needs numbers with low below high"
    return "needs a low above 0 for log" if value.get("log", False) and bounds[0] <= 0 else ""
