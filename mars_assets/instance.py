"""Settings of a Dagster instance, ``dagster.yaml`` in ``DAGSTER_HOME``.

Those of one person are the project's own (:func:`write_instance_settings`). Those of a group are overlays over them
(:func:`overlaid_settings`), which ``mars-assets deploy`` writes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml

from mars_assets.errors import MarsError
from mars_assets.storage.files import user_path, write_bytes

SETTINGS_FILE = "dagster.yaml"
PROJECT_SETTINGS = Path(__file__).parent.parent / SETTINGS_FILE
"""The project's own settings, which differ only in the folder of the history."""
OVERLAYS = PROJECT_SETTINGS.parent / "deploy"
"""Folder of what deployments put over them."""
OWN_OVERLAY = "own.yaml"
"""What a lab puts over both, in the folder of the instance."""


def write_instance_settings(home: Path) -> bool:
    """Write ``dagster.yaml`` for an instance whose history lies in its own folder.

    Args:
        home: folder of the instance.

    Returns:
        Whether the file was written: one with the same settings remains as it is.

    Raises:
        MarsError: the folder contains other settings, or is one that Dagster cannot use.
    """
    settings = _parsed_file(PROJECT_SETTINGS)
    settings["storage"] = {"sqlite": {"base_dir": str(home)}}
    return write_settings(home, settings)


def write_settings(home: Path, settings: Mapping[str, Any]) -> bool:
    """Write settings of an instance, unless somebody else's exist.

    Settings that were written here, that nobody has edited, and that keep the history where it is are replaced.

    Args:
        home: folder of the instance.
        settings: what ``dagster.yaml`` is to contain.

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
    path = home / SETTINGS_FILE
    old = path.read_bytes() if path.exists() else b""
    if old.strip():
        parsed = _parsed(old)
        if parsed == settings:
            return False
        if not _is_unedited(old) or parsed.get("storage") != settings.get("storage"):
            raise MarsError(
                f"{path} has other settings, which remain in use. If they are not yours, move the file away and run "
                "the command again"
            )
    # Plain ASCII, since Dagster reads the file in the system's encoding.
    text = yaml.safe_dump(dict(settings), sort_keys=False).encode("ascii")
    write_bytes(path, _first_line(text) + text)
    return True


def _first_line(text: bytes) -> bytes:
    digest = hashlib.sha256(text).hexdigest()
    return f"# Written by mars-assets, which replaces it as long as nobody edits it: {digest}\n".encode()


def _is_unedited(text: bytes) -> bool:
    first, end, rest = text.partition(b"\n")
    return first + end == _first_line(rest)


def overlaid_settings(names: Sequence[str], folder: Path = OVERLAYS) -> dict[str, Any]:
    """Put overlays over the project's settings.

    Args:
        names: of the overlays ``dagster.NAME.yaml``, each over those before it.
        folder: where they are.

    Raises:
        MarsError: a file is missing.
    """
    settings = _parsed_file(PROJECT_SETTINGS)
    for name in names:
        settings = merged(settings, _parsed_file(folder / f"dagster.{name}.yaml"))
    return settings


def own_overlay(home: Path) -> dict[str, Any]:
    """Read what a lab puts over all of them; empty if there is no such file.

    Raises:
        MarsError: the file has no settings.
    """
    path = home / OWN_OVERLAY
    return _parsed_file(path) if path.exists() else {}


def merged(settings: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """Merge mappings as JSON Merge Patch (RFC 7396) does.

    A null removes a setting, and a list replaces another.
    """
    result = {name: value for name, value in settings.items() if name not in overlay}
    for name, value in overlay.items():
        if isinstance(value, Mapping):
            old = settings.get(name)
            result[name] = merged(old if isinstance(old, Mapping) else {}, value)
        elif value is not None:
            result[name] = value
    return result


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


def _parsed_file(path: Path) -> dict[str, Any]:
    try:
        settings = _parsed(path.read_bytes())
    except FileNotFoundError as error:
        raise MarsError(f"{path} is missing: install the package from a clone, as make .venv does") from error
    if not isinstance(settings, dict):
        raise MarsError(f"{path} has no settings of Dagster: write them in YAML, as in {PROJECT_SETTINGS}")
    return settings


def _parsed(text: bytes) -> Any:
    """Parse settings, or return None for what is not YAML."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None
