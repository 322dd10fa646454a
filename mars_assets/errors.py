"""Errors that a user can fix.

The message says what is wrong, in which file, and what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class MarsError(Exception):
    """Wrong input, settings or surroundings; a retry without a change cannot help."""


class MissingInputError(MarsError):
    """Assets that this step reads have not been materialized yet.

    Args:
        assets: their names, separated by commas, as ``--select`` takes them.
        paths: the missing files.
    """

    def __init__(self, assets: str, *paths: object) -> None:
        names = assets.replace(",", ", ")
        verb = "is" if "," not in assets else "are"
        super().__init__(
            f"{names} {verb} missing: there is no {', no '.join(map(str, paths))}. "
            f"First run: dagster asset materialize --select {assets}"
        )
        self.assets = assets


class DamagedFileError(MarsError):
    """A file that is truncated, in another format, or has unexpected content."""


class ArchiveError(MarsError):
    """An archive that answers no request at the moment, whatever the file."""


class DivergedError(MarsError):
    """A training whose loss is no longer finite.

    The recipe is at fault, and a retry ends the same way.
    """


class ProvenanceError(MarsError):
    """Inputs computed with settings that contradict this step's.

    It lists every mismatch at once.
    """


class SupersededError(MarsError):
    """A process whose work another one took over, or whose run was given up.

    Nothing of it is used, and nothing has to be done.
    """


def all_problems(error: ValidationError) -> str:
    """Join every problem that a validation found, each with the name of its field."""
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'recipe'}: {e['msg']}" for e in error.errors())
