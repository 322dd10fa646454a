"""What is wrong with a database is said before anything is written."""

import socket

import psycopg2
import pytest
import sqlalchemy
from dagster_postgres.utils import get_conn_string

from mars_assets.deployment.database import check_database
from mars_assets.errors import MarsError
from mars_assets_tests.postgres import Database, Postgres

pytestmark = pytest.mark.process


def test_a_database_that_can_be_used(database: Database) -> None:
    check_database(database.variables)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"DAGSTER_PG_PASSWORD": "wrong-secret"}, "refuses the user .*: correct DAGSTER_PG_USER and"),
        ({"DAGSTER_PG_USER": "nobody_here"}, "refuses the user nobody_here"),
        ({"DAGSTER_PG_DB": "none_here"}, "has no database none_here: create it"),
        ({"DAGSTER_PG_HOST": "nowhere.invalid"}, "no Postgres answers at nowhere.invalid:.*could not translate"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_is_wrong_is_said(database: Database, changed: dict[str, str], words: str) -> None:
    with pytest.raises(MarsError, match=words) as caught:
        check_database(database.variables | changed)
    assert "wrong-secret" not in str(caught.value)
    assert database.password not in str(caught.value)


def test_no_server(database: Database) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        with pytest.raises(MarsError, match=r"no Postgres answers .*refused.*: start it, or correct"):
            check_database(database.variables | {"DAGSTER_PG_PORT": str(taken.getsockname()[1])})


def test_a_server_that_accepts_no_connection(postgres: Postgres, database: Database) -> None:
    postgres.execute(f"ALTER ROLE {database.user} CONNECTION LIMIT 0")
    with pytest.raises(MarsError, match=r"accepts no connection .*too many connections.*: ask whoever runs it"):
        check_database(database.variables)


def test_no_right_to_create_tables(postgres: Postgres, database: Database) -> None:
    other = postgres.database()
    with pytest.raises(MarsError, match="may not create tables in the database"):
        check_database(database.variables | {"DAGSTER_PG_DB": other.name})
    postgres.execute(f"ALTER DATABASE {other.name} OWNER TO {database.user}")
    check_database(database.variables | {"DAGSTER_PG_DB": other.name})


def test_a_database_that_lacks_characters(postgres: Postgres, database: Database) -> None:
    options = "TEMPLATE template0 ENCODING SQL_ASCII LC_COLLATE 'C' LC_CTYPE 'C'"
    postgres.execute(f"CREATE DATABASE {database.name}_ascii OWNER {database.user} {options}")
    with pytest.raises(MarsError, match="stores text as SQL_ASCII"):
        check_database(database.variables | {"DAGSTER_PG_DB": f"{database.name}_ascii"})


def test_dagsters_address_needs_the_driver_named() -> None:
    """Once this fails, 'scheme' in deploy/dagster.postgres.yaml may go."""
    address = sqlalchemy.make_url(get_conn_string("user"))
    assert address.get_dialect().driver != psycopg2.__name__
