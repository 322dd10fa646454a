"""The containers of the level workstation. No engine runs them here: their files are valid and fit the rest."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mars_assets import cli
from mars_assets.deployment.levels import LEVELS, PORT, variables
from mars_assets.deployment.services import COMMANDS
from mars_assets_tests.shell import PROJECT

FOLDER = PROJECT / "deploy"
COMPOSE = FOLDER / "compose.yaml"
OURS = ("set-up", "webserver", "daemon")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


@pytest.mark.process
def test_the_file_is_valid() -> None:
    check = Path(sys.executable).with_name("check-jsonschema")
    process = subprocess.run(
        [check, "--builtin-schema", "vendor.compose-spec", COMPOSE], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stdout + process.stderr


def test_the_commands_are_those_of_the_units(services: dict[str, Any]) -> None:
    for name, command in COMMANDS.items():
        # The host publishes the container's port to itself alone.
        assert services[name]["command"] == [{"127.0.0.1": "0.0.0.0"}.get(word, word) for word in command]
    program, *words = services["set-up"]["command"]
    assert program == cli.parser().prog
    assert cli.parser().parse_args(words).level == "workstation"


def test_every_port_is_published_to_this_machine_alone(services: dict[str, Any]) -> None:
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert "ports" not in services["postgres"]
    assert not any(service.get("network_mode") for service in services.values())


def test_services_have_all_variables_and_no_secret_stands_in_the_file(services: dict[str, Any]) -> None:
    password = "DAGSTER_PG_PASSWORD"
    for name in OURS:
        assert services[name]["env_file"] == ".env"
        assert set(services[name]["environment"]) | {password} == {*variables(LEVELS["workstation"]), PORT}
    own = services["daemon"]["environment"]
    postgres = services["postgres"]["environment"]
    assert (postgres["POSTGRES_USER"], postgres["POSTGRES_DB"]) == (own["DAGSTER_PG_USER"], own["DAGSTER_PG_DB"])
    assert postgres["POSTGRES_PASSWORD"].startswith(f"${{{password}:?")
    assert ".env" in (PROJECT / ".gitignore").read_text().split()
    assert "**/.env" in (FOLDER / "Dockerfile.dockerignore").read_text().split()


def test_volumes_are_where_the_variables_say(services: dict[str, Any]) -> None:
    volumes = yaml.safe_load(COMPOSE.read_text())["volumes"]
    for name in OURS:
        places = dict(reversed(volume.rsplit(":", 1)) for volume in services[name]["volumes"])
        own = services[name]["environment"]
        assert places[own["MARS_LAKE"]].startswith("${MARS_LAKE:?")
        assert places[own["DAGSTER_HOME"]] in volumes
    assert services["postgres"]["volumes"] == ["postgres:/var/lib/postgresql/data"]


def test_services_start_after_what_they_need(services: dict[str, Any]) -> None:
    assert "pg_isready" in services["postgres"]["healthcheck"]["test"]
    assert services["set-up"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    for name in COMMANDS:
        assert services[name]["depends_on"] == {"set-up": {"condition": "service_completed_successfully"}}


def test_the_image_is_built_of_what_exists(services: dict[str, Any]) -> None:
    build = services["daemon"]["build"]
    assert (COMPOSE.parent / build["context"]).resolve() == PROJECT
    dockerfile = (PROJECT / build["dockerfile"]).read_text()
    commands = [
        shlex.split(command)
        for line in re.findall(r"^RUN (.*)$", dockerfile, re.MULTILINE)
        for command in line.split("&&")
    ]
    assert all(shutil.which(program) for program, *_ in commands)
    [target] = [words[0] for program, *words in commands if program == "make"]
    assert re.search(rf"^{re.escape(target)}:", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    [folder] = re.findall(r"^WORKDIR (.*)$", dockerfile, re.MULTILINE)
    assert f"PATH={folder}/{target}/bin" in dockerfile
    programs = {services[name]["command"][0] for name in OURS} | {services["daemon"]["healthcheck"]["test"][1]}
    assert all(Path(sys.executable).with_name(name).exists() for name in programs - {"mars-assets"})
    [tag] = re.findall(r"^FROM python:(\d\.\d+)-bookworm$", dockerfile, re.MULTILINE)
    workflow = yaml.safe_load((PROJECT / ".github/workflows/test.yml").read_text())["jobs"]["test"]
    assert workflow["container"] == "python:${{ matrix.python }}-bookworm"
    assert tag in workflow["strategy"]["matrix"]["python"]
