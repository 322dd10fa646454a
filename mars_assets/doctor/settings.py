"""Checks of ``dagster.yaml``, and of the database that it names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from mars_assets.deployment.database import check_database
from mars_assets.deployment.levels import PORT
from mars_assets.doctor.findings import Finding, Surroundings, first_line, note, ok, problem
from mars_assets.doctor.mounts import mount_of
from mars_assets.errors import MarsError
from mars_assets.instance import SETTINGS_FILE

_START_TIMEOUT = 180
"""Dagster's own."""
_A_DAY = 24 * 3600
_FIELDS = {
    "hostname": "DAGSTER_PG_HOST",
    "port": PORT,
    "username": "DAGSTER_PG_USER",
    "password": "DAGSTER_PG_PASSWORD",
    "db_name": "DAGSTER_PG_DB",
}
"""The settings of Postgres, with the variables that the project has for them."""
_DEPLOY = "write the settings by mars-assets deploy, or add it"


def home_of(surroundings: Surroundings) -> Path | None:
    """Return the instance's folder, or None without one that has settings."""
    home = Path(surroundings.environment.get("DAGSTER_HOME", "")).expanduser()
    return home if home.is_absolute() and (home / SETTINGS_FILE).is_file() else None


def settings_of(surroundings: Surroundings) -> Mapping[str, Any]:
    """Read the instance's settings; empty where none can be read."""
    home = home_of(surroundings)
    if home is None:
        return {}
    try:
        settings = yaml.safe_load((home / SETTINGS_FILE).read_bytes())
    except (OSError, yaml.YAMLError):
        return {}
    return settings if isinstance(settings, dict) else {}


def is_deployed(surroundings: Surroundings) -> bool:
    """Test whether the history is in Postgres, for several people or hosts."""
    return "postgres" in _part(settings_of(surroundings), "storage")


def launcher_of(surroundings: Surroundings) -> str:
    """Return module and class of what starts runs, in lower case.

    Empty for Dagster's own.
    """
    launcher = _part(settings_of(surroundings), "run_launcher")
    return f"{launcher.get('module', '')}.{launcher.get('class', '')}".lower().strip(".")


def home_folder(surroundings: Surroundings) -> Iterator[Finding]:
    """Check that the variable names a folder with settings that can be read."""
    value = surroundings.environment.get("DAGSTER_HOME", "")
    if not value:
        yield note("DAGSTER_HOME is not set: commands keep their history in the clone", "set it for a lake of your own")
        return
    path = Path(value).expanduser() / SETTINGS_FILE
    if not path.is_absolute():
        yield problem(f"DAGSTER_HOME={value} is not an absolute path", "set it to the absolute path of a folder")
    elif not path.is_file():
        yield problem(f"{path} does not exist", "write it by mars-assets init or mars-assets deploy")
    else:
        try:
            settings = yaml.safe_load(path.read_bytes())
        except (OSError, yaml.YAMLError) as error:
            yield problem(f"{path} cannot be read ({first_line(error)})", "correct it, or move it away and run init")
            return
        if not isinstance(settings, dict):
            yield problem(f"{path} has no settings", "move it away, and run mars-assets init or mars-assets deploy")
            return
        yield ok(f"{path}, history in {'Postgres' if is_deployed(surroundings) else 'SQLite'}")


def sqlite(surroundings: Surroundings) -> Iterator[Finding]:
    """Check that the files of SQLite are on a file system of this host."""
    home = home_of(surroundings)
    if home is None or is_deployed(surroundings):
        return
    folder = Path(str(_part(_part(settings_of(surroundings), "storage"), "sqlite").get("base_dir", home)))
    mount = mount_of(folder, surroundings.proc)
    if mount is not None and mount.is_network:
        yield problem(
            f"the history in {folder} is SQLite on {mount.kind}, which damages it as soon as two hosts write",
            "use a folder of this host's disk, or Postgres (mars-assets deploy)",
        )
    else:
        yield ok(f"{folder} is on {mount.kind if mount else 'a file system of unknown type'}")


def monitoring(surroundings: Surroundings) -> Iterator[Finding]:
    """Check that runs whose process is gone are noticed and ended."""
    settings = settings_of(surroundings)
    if not settings:
        return
    say = problem if is_deployed(surroundings) else note
    watched = _part(settings, "run_monitoring")
    launcher = launcher_of(surroundings)
    found = False
    if not watched.get("enabled"):
        found = True
        yield say("run_monitoring is off: a run whose process is gone stays STARTED", f"{_DEPLOY}: enabled: true")
    if "ray" in launcher and not watched.get("max_runtime_seconds"):
        found = True
        yield problem(
            "run_monitoring has no max_runtime_seconds: a run on a Ray host that is gone stays STARTED for ever",
            _DEPLOY,
        )
    start_timeout = watched.get("start_timeout_seconds", _START_TIMEOUT)
    if ("slurm" in launcher or "ray" in launcher) and 0 < start_timeout < _A_DAY:
        found = True
        what = f"run_monitoring fails runs that wait more than {start_timeout} s for a host (start_timeout_seconds)"
        yield problem(what, _DEPLOY)
    if not found:
        longest = watched.get("max_runtime_seconds")
        yield ok("run_monitoring is on" + (f", runs end after {longest} s" if longest else ""))


def database(surroundings: Surroundings) -> Iterator[Finding]:
    """Check that Postgres answers and accepts the user."""
    if not is_deployed(surroundings):
        return
    fields = _part(_part(_part(settings_of(surroundings), "storage"), "postgres"), "postgres_db")
    if not fields:
        yield note("the settings name Postgres by an address, which is not looked at by itself", "see the next line")
        return
    found = {name: _value(fields.get(field, ""), surroundings) for field, name in _FIELDS.items()}
    if unset := [str(fields[field]["env"]) for field, name in _FIELDS.items() if found[name] is None]:
        yield problem(f"{', '.join(unset)} not set, which the settings name", "set it wherever Dagster is started")
        return
    try:
        check_database({name: str(value) for name, value in found.items()})
    except ModuleNotFoundError as error:
        yield problem(f"there is no {error.name}, which Postgres needs", "install the extra 'postgres' of this package")
    except MarsError as error:
        # Its messages end with what to do.
        what, _, advice = surroundings.concealed(str(error)).rpartition(": ")
        yield problem(what, advice)
    else:
        yield ok(f"Postgres at {found['DAGSTER_PG_HOST']} accepts {found['DAGSTER_PG_USER']}")


def _value(field: Any, surroundings: Surroundings) -> str | None:
    """Resolve a setting that may name a variable; None if the variable is not set."""
    if isinstance(field, dict) and "env" in field:
        return surroundings.environment.get(str(field["env"]))
    return str(field)


def _part(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = settings.get(name)
    return part if isinstance(part, dict) else {}
