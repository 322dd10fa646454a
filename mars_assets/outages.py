"""Outages of Postgres that a run survives, where Dagster's history is there."""

import sys

ATTEMPTS = 8
"""Attempts of a run to reach Postgres after the first. Each waits twice as long as the one before: 100 s together."""
FIRST_WAIT = 0.2


def outlast_outages() -> None:
    """Let this process wait for Postgres longer than the 11 s of dagster-postgres.

    A run whose events cannot be written fails, and its history lacks what the step has computed. Even a line of
    progress that cannot be written ends a training. dagster-postgres has no setting for it.
    """
    # Imported where the history is in Postgres.
    utils = sys.modules.get("dagster_postgres.utils")
    if utils is not None:
        utils.retry_pg_connection_fn.__defaults__ = (ATTEMPTS, FIRST_WAIT)
