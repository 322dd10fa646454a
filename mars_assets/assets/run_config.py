"""Conversion of run configurations to domain recipes.

A model's configuration is its recipe: ``class ClsModelConfig(dg.Config, ClsRecipe)`` has the same fields, defaults and
descriptions. Dagster checks names, types and choices before a run; bounds are checked when the recipe is built.
"""

from typing import Literal, TypeVar

import dagster as dg
from pydantic import BaseModel, ValidationError

from mars_assets.errors import MarsError, all_problems

R = TypeVar("R", bound=BaseModel)

AS_BEFORE: Literal["as_before"] = "as_before"
"""Default of settings that persist: runs without configuration use the last explicit choice."""


def recipe_from(config: dg.Config, recipe: type[R]) -> R:
    """Convert a run configuration to a recipe.

    Raises:
        MarsError: the recipe refuses values; the message lists all of them.
    """
    try:
        return recipe(**{name: getattr(config, name) for name in recipe.model_fields})
    except ValidationError as error:
        raise MarsError(f"the run configuration is invalid: {all_problems(error)}") from error
