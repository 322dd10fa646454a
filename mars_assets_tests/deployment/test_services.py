"""Units of systemd and the file of their environment."""

import configparser
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from mars_assets.deployment.services import COMMANDS, FOLDER, unit_name, write_services

HOMES = ["plain", "a b", "50% 'of' \"it\"", "ä$HOME`\\n"]
NAMES = ("DAGSTER_HOME", "DAGSTER_PG_PASSWORD", "MARS_LAKE")
SECRET = "not to be written"


def written(home: Path) -> list[Path]:
    environ = {"DAGSTER_HOME": str(home), "MARS_LAKE": str(home / "lake"), "DAGSTER_PG_PASSWORD": SECRET}
    return write_services(home, NAMES, {**environ, "MARS_CONTACT": "me & you", "PATH": os.environ["PATH"]})


@pytest.mark.parametrize("name", HOMES)
def test_systemd_reads_the_units(tmp_path: Path, name: str) -> None:
    _, *units = written(tmp_path / name)
    assert [unit.name for unit in units] == [unit_name(service) for service in COMMANDS]
    for unit, (program, *arguments) in zip(units, COMMANDS.values(), strict=True):
        parsed = configparser.RawConfigParser(delimiters="=", comment_prefixes="#")
        parsed.optionxform = str  # type: ignore[assignment, method-assign]
        parsed.read_string(unit.read_text())
        service = parsed["Service"]
        executable, *rest = shlex.split(service["ExecStart"])
        assert Path(executable).name == program
        assert Path(executable).exists()
        assert rest == arguments
        assert service["EnvironmentFile"].replace("%%", "%") == str(tmp_path / name / FOLDER / "mars-assets.env")
        assert service["Restart"] == "on-failure"
    if shutil.which("systemd-analyze"):
        (tmp_path / "runtime").mkdir()
        answer = subprocess.run(
            ["systemd-analyze", "--user", "verify", *units],
            env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path / "runtime")},
            capture_output=True,
            text=True,
        )
        assert (answer.returncode, answer.stderr) == (0, "")


def test_the_webserver_listens_on_this_machine_alone() -> None:
    words = COMMANDS["webserver"]
    assert words[words.index("--host") + 1] == "127.0.0.1"


@pytest.mark.parametrize("name", HOMES)
def test_a_shell_reads_the_environment(tmp_path: Path, name: str) -> None:
    environment, *units = written(tmp_path / name)
    assert environment.stat().st_mode & 0o777 == 0o600
    script = f"set -a; source {shlex.quote(str(environment))}; env -0"
    answer = subprocess.run(["bash", "-c", script], env={}, capture_output=True, text=True, check=True)
    values = dict(line.split("=", 1) for line in answer.stdout.split("\0") if "=" in line)
    assert values["DAGSTER_HOME"] == str(tmp_path / name)
    assert values["MARS_CONTACT"] == "me & you"
    assert values["DAGSTER_PG_PASSWORD"] == ""
    assert not any(SECRET in path.read_text() for path in (environment, *units))


def test_an_environment_that_was_filled_in_stays(tmp_path: Path) -> None:
    environment, *units = written(tmp_path)
    environment.write_text("DAGSTER_PG_PASSWORD=entered\n")
    before = [unit.read_text() for unit in units]
    units[0].write_text("changed")
    assert written(tmp_path) == [environment, *units]
    assert environment.read_text() == "DAGSTER_PG_PASSWORD=entered\n"
    assert environment.stat().st_mode & 0o777 == 0o600
    assert [unit.read_text() for unit in units] == before
