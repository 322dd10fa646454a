"""From run configurations to domain recipes.

A model's configuration is its recipe: ``class ClsModelConfig(dg.Config, ClsRecipe)`` has the same fields, defaults and
descriptions. Dagster checks names, types and choices before a run; bounds are checked when the recipe is made of it.
"""

from typing import Literal, TypeVar

import dagster as dg
from pydantic import BaseModel, ValidationError

from mars_assets.errors import MarsError, all_problems

R = TypeVar("R", bound=BaseModel)

AS_BEFORE: Literal["as_before"] = "as_before"
"""What runs that nobody configures take: they go on with what somebody chose."""


def recipe_from(config: dg.Config, recipe: type[R]) -> R:
    """The recipe that a configuration states.

    Raises:
        MarsError: values that the recipe refuses; all of them are listed.
    """
    try:
        return recipe(**{name: getattr(config, name) for name in recipe.model_fields})
    except ValidationError as error:
        raise MarsError(f"the run configuration is invalid: {all_problems(error)}") from error
