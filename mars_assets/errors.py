"""The errors that a person can mend: their message says what is wrong, in which file, and what to do."""


class MarsError(Exception):
    """Input, settings or surroundings are wrong. Retrying without a change cannot help."""


class MissingInputError(MarsError):
    """An asset that this step reads has not been made yet."""

    def __init__(self, asset: str, path: object) -> None:
        super().__init__(
            f"the asset '{asset}' is missing: there is no {path}. "
            f"Make it first: dagster asset materialize --select {asset}"
        )
        self.asset = asset


class DamagedFileError(MarsError):
    """A file is not what its name says: truncated, another format, or of unexpected content."""


class ProvenanceError(MarsError):
    """Inputs were made with settings that contradict this step's. Lists every mismatch at once."""
