"""A job that does nothing, for tests of what happens to its runs."""

import dagster as dg


@dg.op
def step() -> None:
    pass


@dg.job
def job() -> None:
    step()
