"""How long a run waits for Postgres."""

import inspect
import logging

import dagster_postgres.utils
import pytest
import sqlalchemy.exc

from mars_assets.outages import outlast_outages


def test_a_run_waits_100_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    retry = dagster_postgres.utils.retry_pg_connection_fn
    parameters = inspect.signature(retry).parameters
    assert list(parameters) == ["fn", "retry_limit", "retry_wait"]
    monkeypatch.setattr(retry, "__defaults__", (5, 0.2))
    waits: list[float] = []
    monkeypatch.setattr(dagster_postgres.utils.time, "sleep", waits.append)
    monkeypatch.setattr(logging, "warning", lambda *_: None)

    def refused() -> None:
        raise sqlalchemy.exc.OperationalError("connect", {}, OSError("refused"))

    for prepare, least, most in ((lambda: None, 9, 13), (outlast_outages, 95, 105)):
        prepare()
        waits.clear()
        with pytest.raises(dagster_postgres.utils.DagsterPostgresException):
            retry(refused)
        assert least < sum(waits) < most
