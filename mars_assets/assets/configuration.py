"""Run configuration from domain recipes: the same fields, defaults, bounds and descriptions, as Dagster wants them."""

import enum
from typing import Any, Literal, TypeVar, get_args, get_origin

import dagster as dg
from pydantic import BaseModel, create_model
from pydantic.fields import FieldInfo

from mars_assets.errors import MarsError

R = TypeVar("R", bound=BaseModel)


def config_class(name: str, recipe: type[BaseModel]) -> type[dg.Config]:
    """A ``dg.Config`` with the recipe's fields, so that a launchpad shows and checks them.

    Dagster knows no ``Literal``: such a field becomes an enumeration of the same values.
    """
    fields: dict[str, Any] = {}
    for field_name, field in recipe.model_fields.items():
        annotation: Any = field.annotation
        default = field.get_default(call_default_factory=True)
        if get_origin(annotation) is Literal:
            choices = get_args(annotation)
            annotation = enum.Enum(f"{name}_{field_name}", {str(choice): choice for choice in choices})  # type: ignore[misc,no-redef]
            default = annotation(default)
        fields[field_name] = (annotation, FieldInfo(default=default, description=field.description))
    return create_model(name, __base__=dg.Config, __doc__=recipe.__doc__, **fields)


def recipe_from(config: dg.Config, recipe: type[R]) -> R:
    """The recipe that a configuration states.

    Raises:
        MarsError: values that the recipe refuses; all of them are listed.
    """
    from pydantic import ValidationError

    values = {name: getattr(config, name) for name in recipe.model_fields}
    plain = {name: value.value if isinstance(value, enum.Enum) else value for name, value in values.items()}
    try:
        return recipe(**plain)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'recipe'}: {e['msg']}" for e in error.errors())
        raise MarsError(f"the run configuration does not hold: {problems}") from error
