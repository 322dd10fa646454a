"""What a level needs is listed whole."""

import subprocess
import sys
from pathlib import Path

import pytest

from mars_assets.deployment.levels import LEVELS, require, variables
from mars_assets.errors import MarsError
from mars_assets.instance import OVERLAYS, overlaid_settings


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "sbatch").touch(mode=0o755)
    return {name: str(tmp_path) for level in LEVELS.values() for name in variables(level)} | {"PATH": str(tmp_path)}


@pytest.mark.parametrize("name", LEVELS)
def test_an_environment_that_has_everything(name: str, environ: dict[str, str]) -> None:
    require(name, environ)


@pytest.mark.parametrize("name", LEVELS)
def test_all_that_is_missing_is_listed(name: str) -> None:
    with pytest.raises(MarsError) as caught:
        require(name, {"DAGSTER_PG_PORT": "none", "PATH": "/nowhere"})
    expected = ["DAGSTER_HOME", "MARS_LAKE", "DAGSTER_PG_HOST", "DAGSTER_PG_USER", "DAGSTER_PG_PASSWORD"]
    expected += ["DAGSTER_PG_DB is not set", "DAGSTER_PG_PORT is not the number of a port"]
    expected += {"workstation": [], "ray": ["MARS_RAY_DASHBOARD"], "slurm": ["sbatch is not on the PATH"]}[name]
    assert all(words in str(caught.value) for words in expected)
    assert str(caught.value).count(";") == len(expected) - 1


@pytest.mark.parametrize("port", ["0", "65536", "-1", "5432 ", "²", "five"])
def test_what_is_no_port(environ: dict[str, str], port: str) -> None:
    with pytest.raises(MarsError, match="number of a port"):
        require("workstation", environ | {"DAGSTER_PG_PORT": port})


def test_folders_are_absolute(environ: dict[str, str]) -> None:
    with pytest.raises(MarsError, match=r"DAGSTER_HOME is not the absolute.*; MARS_LAKE is not the absolute"):
        require("workstation", environ | {"MARS_LAKE": "lake", "DAGSTER_HOME": "."})


def test_an_extra_that_is_not_installed(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    level = LEVELS["ray"]._replace(modules={"postgres": "dagster_postgres", "ray": "there_is_no_such_module"})
    monkeypatch.setitem(LEVELS, "ray", level)
    with pytest.raises(
        MarsError, match=r"than this environment has: the extra 'ray' of this package is not installed$"
    ):
        require("ray", environ)


def test_a_missing_overlay(tmp_path: Path) -> None:
    with pytest.raises(MarsError, match=r"dagster\.mars\.yaml is missing: install the package from a clone"):
        overlaid_settings(["mars"], tmp_path)


@pytest.mark.process
def test_the_command_line_starts_without_dagster() -> None:
    program = "import sys, mars_assets.cli; sys.exit('dagster' in sys.modules or 'psycopg2' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_every_overlay_belongs_to_a_level() -> None:
    overlays = {path.name.split(".")[1] for path in OVERLAYS.glob("dagster.*.yaml")}
    assert overlays <= {overlay for level in LEVELS.values() for overlay in level.overlays}
