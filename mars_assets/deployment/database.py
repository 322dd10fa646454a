"""A look at Postgres before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing

from mars_assets.deployment.levels import DEFAULT_PORT, PORT
from mars_assets.errors import MarsError

PATIENCE = 10
"""Seconds that a server has to answer."""


def port(environ: Mapping[str, str]) -> int:
    """Read the port of Postgres."""
    return int(environ.get(PORT) or DEFAULT_PORT)


def check_database(environ: Mapping[str, str]) -> None:
    """Check that the user may sign in and create tables.

    Raises:
        MarsError: no server answers, it refuses the user, or the database does not exist, does not store all
            characters, or is not the user's to create tables in.
    """
    import psycopg2

    server = f"{environ['DAGSTER_PG_HOST']}:{port(environ)}"
    user, name = environ["DAGSTER_PG_USER"], environ["DAGSTER_PG_DB"]
    try:
        connection = psycopg2.connect(
            host=environ["DAGSTER_PG_HOST"],
            port=port(environ),
            user=user,
            password=environ["DAGSTER_PG_PASSWORD"],
            dbname=name,
            connect_timeout=PATIENCE,
        )
    except psycopg2.OperationalError as error:
        said = " ".join(str(error).split())
        # Only the text says what went wrong: there is no code for it before the connection stands.
        if "FATAL" not in said:
            raise MarsError(
                f"no Postgres answers at {server} ({said}): start it, or correct DAGSTER_PG_HOST and {PORT}"
            ) from error
        if "authentication failed" in said:
            raise MarsError(
                f"Postgres at {server} refuses the user {user}: correct DAGSTER_PG_USER and DAGSTER_PG_PASSWORD"
            ) from error
        if "does not exist" in said:
            raise MarsError(
                f"Postgres at {server} has no database {name}: create it, or correct DAGSTER_PG_DB"
            ) from error
        raise MarsError(f"Postgres at {server} accepts no connection ({said}): ask whoever runs it") from error
    with closing(connection):
        cursor = connection.cursor()
        # The schema is null where the user may not even look into it.
        cursor.execute("SELECT has_schema_privilege(current_schema(), 'CREATE'), current_setting('server_encoding')")
        may_create, encoding = cursor.fetchone()
    if not may_create:
        raise MarsError(
            f"{user} may not create tables in the database {name}: make it their own (ALTER DATABASE ... OWNER TO ...)"
        )
    if encoding != "UTF8":
        raise MarsError(
            f"the database {name} stores text as {encoding}: create one with createdb --template template0 --encoding "
            "UTF8"
        )
