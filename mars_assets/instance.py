"""Settings of a Dagster instance, ``dagster.yaml`` in ``DAGSTER_HOME``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml

from mars_assets.errors import MarsError
from mars_assets.storage.files import user_path, write_bytes

SETTINGS_FILE = "dagster.yaml"
PROJECT_SETTINGS = Path(__file__).parent.parent / SETTINGS_FILE
"""The project's own settings, which differ only in the folder of the history."""


def write_instance_settings(home: Path) -> bool:
    """Write ``dagster.yaml`` for an instance whose history lies in its own folder.

    Args:
        home: folder of the instance.

    Returns:
        Whether the file was written: one with the same settings remains as it is.

    Raises:
        MarsError: the folder contains other settings, or is one that Dagster cannot use.
    """
    # The path becomes part of the address of a database.
    if "?" in str(home) or unquote(str(home)) != str(home):
        raise MarsError(
            f"DAGSTER_HOME={home}: Dagster cannot use a path with '?', or with '%' and two digits: rename it"
        )
    if home.exists() and not home.is_dir():
        raise MarsError(f"DAGSTER_HOME={home} is a file: set it to a folder")
    settings = _project_settings()
    settings["storage"] = {"sqlite": {"base_dir": str(home)}}
    path = home / SETTINGS_FILE
    old = path.read_bytes() if path.exists() else b""
    if old.strip():
        if _parsed(old) == settings:
            return False
        raise MarsError(
            f"{path} has other settings, which remain in use. If they are not yours, move the file away and run the "
            "command again"
        )
    # Plain ASCII, since Dagster reads the file in the system's encoding.
    write_bytes(path, yaml.safe_dump(settings, sort_keys=False).encode("ascii"))
    return True


def instance_home() -> Path:
    """Read the folder of the instance from the variable ``DAGSTER_HOME``.

    Raises:
        MarsError: the variable is not set, or is not an absolute path.
    """
    home = user_path(os.environ.get("DAGSTER_HOME", ""))
    if not home.is_absolute():
        raise MarsError(
            f"DAGSTER_HOME is {os.environ.get('DAGSTER_HOME', '')!r}: set it to the absolute path of a folder for "
            "Dagster's history"
        )
    return home


def _project_settings() -> dict[str, Any]:
    try:
        settings: dict[str, Any] = yaml.safe_load(PROJECT_SETTINGS.read_bytes())
    except FileNotFoundError as error:
        raise MarsError(
            f"{PROJECT_SETTINGS} is missing: install the package from a clone, as make .venv does"
        ) from error
    return settings


def _parsed(text: bytes) -> Any:
    """Parse settings, or return None for what is not YAML."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None
