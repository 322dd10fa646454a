"""Set-up of an instance for several people: ``mars-assets deploy``."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg

from mars_assets.cluster.coordinator import NeedsRunCoordinator
from mars_assets.definitions import defs
from mars_assets.deployment.database import check_database, port
from mars_assets.deployment.levels import LEVELS, Level, absolute, require, variables
from mars_assets.deployment.pools import pool_limits
from mars_assets.deployment.services import write_services
from mars_assets.instance import SETTINGS_FILE, merged, overlaid_settings, own_overlay, write_settings
from mars_assets.lake import Lake
from mars_assets.storage.files import explained_errors


def deploy(name: str, gpus: int | None, say: Callable[[str], object] = print) -> None:
    """Set up everything that a level needs, or only what is missing.

    Args:
        name: of the level.
        gpus: number of GPUs of all machines together; None: those of this one.
        say: receives each line of the report.

    Raises:
        MarsError: the environment or the database lacks something, or other settings exist. Nothing is changed then.
    """
    level, environ = LEVELS[name], os.environ
    require(name, environ)
    home, lake = absolute("DAGSTER_HOME", environ), Lake.at(environ["MARS_LAKE"])
    gpus = _gpus_here() if gpus is None else gpus
    settings = _settings(level, home, port(environ), gpus)
    check_database(environ)
    written = write_settings(home, settings)
    say(f"{home / SETTINGS_FILE}: Dagster's settings" + ("" if written else ", which existed"))
    with explained_errors(lake.inbox):
        lake.inbox.mkdir(parents=True, exist_ok=True)
    say(f"{lake.inbox}: the folder for label exports")
    # The first to open the instance creates its tables; services and runs that start at once would compete for it.
    with dg.DagsterInstance.from_config(str(home)) as instance:
        limits = _limits(instance, gpus)
        # A pool without a limit of its own gets default_limit from the first run that uses it. On Postgres that fails
        # for the second of two at once (InFailedSqlTransaction). A test fails once it no longer does.
        for pool, limit in limits.items():
            instance.event_log_storage.set_concurrency_slots(pool, limit)
    say("places in pools: " + ", ".join(f"{pool} {limit}" for pool, limit in limits.items()))
    environment, *units = write_services(home, variables(level), environ)
    for line in _next_steps(environment, units):
        say(line)


def _settings(level: Level, home: Path, database_port: int, gpus: int) -> dict[str, Any]:
    settings = overlaid_settings(level.overlays)
    settings["storage"]["postgres"]["postgres_db"]["port"] = database_port
    if "run_coordinator" in settings:  # gives runs what they need of a host
        settings["run_coordinator"]["config"]["gpus"] = gpus
    return merged(settings, own_overlay(home))


def _limits(instance: dg.DagsterInstance, gpus: int) -> dict[str, int]:
    coordinator = instance.run_coordinator
    if isinstance(coordinator, NeedsRunCoordinator):  # a lab's own settings may state another number of GPUs
        return pool_limits(defs, coordinator.cluster.gpus, several_hosts=True)
    return pool_limits(defs, gpus)


def _gpus_here() -> int:
    import torch

    return torch.cuda.device_count()


def _next_steps(environment: Path, units: list[Path]) -> list[str]:
    return [
        f"{environment}: the environment of the services. Enter the password of Postgres there, then:",
        f"  systemctl --user enable --now {shlex.join(map(str, units))}",
        "  loginctl enable-linger",
        "The UI listens on this machine alone. On your own, reach it as http://127.0.0.1:3000 with:",
        f"  ssh -N -L 3000:127.0.0.1:3000 {platform.node()}",
    ]
