"""The errors that a person can mend: their message says what is wrong, in which file, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class MarsError(Exception):
    """Input, settings or surroundings are wrong. Retrying without a change cannot help."""


class MissingInputError(MarsError):
    """Assets that this step reads have not been made yet.

    Args:
        assets: their names, separated by commas, as ``--select`` takes them.
        paths: the files that are not there.
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
    """A file is not what its name says: truncated, another format, or of unexpected content."""


class ArchiveError(MarsError):
    """The archive cannot be asked for anything now, whatever file is wanted."""


class DivergedError(MarsError):
    """A training whose loss is not finite any more: the recipe's own fault, and the same when it is tried again."""


class ProvenanceError(MarsError):
    """Inputs were made with settings that contradict this step's. Lists every mismatch at once."""


def all_problems(error: ValidationError) -> str:
    """Join every problem that a validation found, each with the name of its field."""
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'recipe'}: {e['msg']}" for e in error.errors())
