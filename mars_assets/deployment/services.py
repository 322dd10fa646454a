"""Units of systemd for Dagster's webserver and daemon, and their environment."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mars_assets.instance import PROJECT_SETTINGS
from mars_assets.storage.files import write_bytes

FOLDER = "systemd"
ENVIRONMENT_FILE = "mars-assets.env"
SECRETS = ("DAGSTER_PG_PASSWORD",)
FURTHER = ("DAGSTER_PG_PORT", "MARS_CONTACT", "MARS_HIRISE_ARCHIVE")
"""What the environment file has in addition to what a level needs, where it is set."""

_MODULE = ("--module-name", "mars_assets.definitions")
COMMANDS = {
    # Connections older than a second are replaced. By default the webserver uses those that Postgres has dropped: after
    # each outage two attempts to start a run failed, and one of them left a run that never starts.
    "webserver": ("dagster-webserver", *_MODULE, "--host", "127.0.0.1", "--port", "3000", "--db-pool-recycle", "1"),
    "daemon": ("dagster-daemon", "run", *_MODULE),
}
"""What the services run."""

_UNIT = """\
# Written by mars-assets deploy, by every call anew. For settings of your own: systemctl --user edit {name}
[Unit]
Description=Dagster's {service}, Mars assets

[Service]
EnvironmentFile={environment}
Environment={path}
WorkingDirectory={project}
ExecStart={command}
# Postgres may start later than this. Ten seconds are more than the limit on restarts counts.
Restart=on-failure
RestartSec=10
# Runs are processes of the service: they go on when it is stopped or started again.
KillMode=process

[Install]
WantedBy=default.target
"""


def unit_name(service: str) -> str:
    """Name the unit of a service."""
    return f"mars-assets-{service}.service"


def write_services(home: Path, names: Sequence[str], environ: Mapping[str, str]) -> list[Path]:
    """Write the units and, unless it exists, the file of their environment.

    Args:
        home: folder of the instance.
        names: variables that the environment file must have. Secrets stay empty in it.
        environ: the environment with the others' values.

    Returns:
        The environment file, and the units.
    """
    folder = home / FOLDER
    environment = folder / ENVIRONMENT_FILE
    if not environment.exists():
        write_bytes(environment, _environment(names, environ).encode())
        environment.chmod(0o600)
    programs = Path(sys.executable).parent
    path = os.pathsep.join(dict.fromkeys([str(programs), *environ.get("PATH", os.defpath).split(os.pathsep)]))
    units = []
    for service, (program, *arguments) in COMMANDS.items():
        text = _UNIT.format(
            name=unit_name(service),
            service=service,
            environment=_unit_text(environment),
            path=_unit_word(f"PATH={path}"),
            project=_unit_text(PROJECT_SETTINGS.parent),
            command=" ".join(map(_unit_word, (str(programs / program), *arguments))),
        )
        units.append(folder / unit_name(service))
        write_bytes(units[-1], text.encode())
    return [environment, *units]


def _environment(names: Sequence[str], environ: Mapping[str, str]) -> str:
    values = {name: environ.get(name, "") for name in (*names, *FURTHER) if name in names or environ.get(name)}
    lines = [f"{name}={'' if name in SECRETS else shlex.quote(value)}" for name, value in values.items()]
    return "\n".join(
        [
            "# The environment of Dagster's services, in a shell: set -a; source THIS_FILE; set +a",
            f"# Enter {', '.join(SECRETS)}. Further variables belong here, too.",
            *lines,
            "",
        ]
    )


def _unit_text(text: object) -> str:
    """Escape what systemd would replace in a path that is the rest of a line."""
    return str(text).replace("%", "%%")


def _unit_word(text: str) -> str:
    r"""Quote a word of a list, where systemd needs that.

    ``\`` and ``%`` have a meaning in quotes, too.
    """
    escaped = _unit_text(text).replace("\\", "\\\\").replace('"', '\\"')
    return escaped if re.fullmatch(r"[\w=:,./+-]+", escaped) else f'"{escaped}"'
