"""The levels of deployment, and what each needs of the environment."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from mars_assets.errors import MarsError
from mars_assets.storage.files import user_path

DEFAULT_PORT = "5432"
_FOLDERS = ("DAGSTER_HOME", "MARS_LAKE")
_POSTGRES = ("DAGSTER_PG_HOST", "DAGSTER_PG_USER", "DAGSTER_PG_PASSWORD", "DAGSTER_PG_DB")
PORT = "DAGSTER_PG_PORT"


class Level(NamedTuple):
    """A level of deployment.

    Args:
        overlays: what is put over the project's settings, in this order.
        variables: what the environment must have in addition to the folders and Postgres.
        modules: what must be installed, by the extra that brings it.
        programs: what must be on the PATH.
    """

    overlays: tuple[str, ...]
    variables: tuple[str, ...] = ()
    modules: Mapping[str, str] = {"postgres": "dagster_postgres"}
    programs: tuple[str, ...] = ()


LEVELS = {
    "workstation": Level(("postgres", "workstation")),
    "ray": Level(("postgres", "ray"), ("MARS_RAY_DASHBOARD",), {"postgres": "dagster_postgres", "ray": "dagster_ray"}),
    "slurm": Level(("postgres", "slurm"), programs=("sbatch",)),
}


def variables(level: Level) -> tuple[str, ...]:
    """List the variables that a level's processes must have."""
    return (*_FOLDERS, *_POSTGRES, *level.variables)


def require(name: str, environ: Mapping[str, str]) -> None:
    """Check that an environment has what a level needs.

    Raises:
        MarsError: something is missing; the message lists all of it.
    """
    if missing := list(_missing(LEVELS[name], environ)):
        raise MarsError(f"the level {name} needs more than this environment has: {'; '.join(missing)}")


def _missing(level: Level, environ: Mapping[str, str]) -> Iterator[str]:
    for variable in variables(level):
        if not environ.get(variable):
            yield f"{variable} is not set"
        elif variable in _FOLDERS and not user_path(environ[variable]).is_absolute():
            yield f"{variable} is not the absolute path of a folder"
    port = environ.get(PORT) or DEFAULT_PORT
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        yield f"{PORT} is not the number of a port"
    for extra, module in level.modules.items():
        if find_spec(module) is None:
            yield f"the extra {extra!r} of this package is not installed"
    for program in level.programs:
        if shutil.which(program, path=environ.get("PATH")) is None:
            yield f"{program} is not on the PATH"


def absolute(variable: str, environ: Mapping[str, str]) -> Path:
    """Resolve a folder that :func:`require` has checked."""
    return user_path(environ[variable])
