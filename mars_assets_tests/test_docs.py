"""The README and the manual: every command in them holds, every link leads somewhere, and the manual builds.

Each fenced ``bash`` block is parsed as the commands' own parsers do, against the assets, jobs, recipes and targets that
exist; each ``yaml`` block is a run configuration. The README's blocks for one's own data are run.
"""

import os
import re
import shlex
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import dagster as dg
import pytest
import yaml
from dagster._cli import create_dagster_cli
from dagster_dg_cli.cli import create_dg_cli
from dagster_graphql.cli import ui as dagster_graphql_cli

import mars_assets
from mars_assets import cli
from mars_assets.definitions import defs
from mars_assets.deployment.services import COMMANDS, unit_name
from mars_assets.sample.server import serve
from mars_assets_tests.real_subset import browse_archive
from mars_assets_tests.shell import PROJECT, Shell

README = PROJECT / "README.md"
PAGES = [
    README,
    PROJECT / "CONTRIBUTING.md",
    PROJECT / "benchmarks/README.md",
    *sorted((PROJECT / "docs").rglob("*.md")),
]
MAKEFILE = (PROJECT / "Makefile").read_text()
IN_THE_SHELL = {"source", "printf"}
"""Programs of the shell's set-up, which a test runs."""
OF_A_LAB = {"createuser", "createdb", "pg_dump", "pg_restore", "loginctl", "ssh", "read", "set"}
"""Programs of a lab's machines, and what its shells do with the environment file."""
OF_SLURM = {"squeue"}
"""Slurm's commands, which tests run on a Slurm of their own."""
_BLOCK = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<!`)`(?P<command>(?:dagster|dg|make|mars-assets)\s[^`]+)`(?!`)")


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    return [Block(found["language"], found["text"]) for found in _BLOCK.finditer(page.read_text())]


def commands(page: Path) -> Iterator[list[str]]:
    """Every command of a page as words: those of its bash blocks and those in its prose."""
    text = page.read_text()
    lines = [block.text for block in blocks(page) if block.language == "bash"]
    lines += [found["command"].replace("\n", " ") for found in _INLINE.finditer(_BLOCK.sub("", text))]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            yield words[:end]
            words = words[end + 1 :]


@pytest.fixture
def files(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the project's files that commands name, and the YAML files that the page defines."""
    for name in ("recipes", "workspace.yaml", "pyproject.toml", "mars_assets", "mars_assets_tests", "benchmarks"):
        (tmp_path / name).symlink_to(PROJECT / name)
    for block in blocks(request.getfixturevalue("page")):
        if block.language == "yaml" and (found := re.match(r"# (\S+\.yaml)", block.text)):
            (tmp_path / found[1]).write_text(block.text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(PROJECT).as_posix())
def test_commands_and_configurations_hold(page: Path, files: Path) -> None:
    for block in blocks(page):
        assert block.language in ("bash", "yaml"), f"a block of {block.language!r} is not checked by any test"
        if block.language == "bash":
            subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)
        else:
            _check_configuration(yaml.safe_load(block.text))
    for words in commands(page):
        try:
            _check(words)
        except click.ClickException as error:
            if isinstance(error, click.MissingParameter) and not any(word.startswith("-") for word in words):
                continue  # prose names the command alone
            raise AssertionError(f"{shlex.join(words)}: {error.format_message()}") from error


@pytest.mark.parametrize("path", sorted((PROJECT / "recipes").rglob("*.yaml")), ids=lambda path: path.stem)
def test_commands_in_recipes_hold(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    for command in re.findall(r"^#   (dagster .*)$", path.read_text(), re.MULTILINE):
        _check(shlex.split(command))


def _check(words: list[str]) -> None:
    while "=" in words[0]:  # variables for one command
        _check_variable(words.pop(0))
    if words[0] == "env":
        assert words[1] == "-u"
        words = words[3:]
    program, *arguments = words
    match program:
        case "dagster":
            _check_dagster(*_parsed(create_dagster_cli(), arguments))
        case "dg":
            _, options = _parsed(create_dg_cli(), arguments)
            assert options.get("assets") is None or _selected(options["assets"])
        case "dagster-graphql":
            _parsed(dagster_graphql_cli, arguments)
        case "mars-assets":
            cli.parser().parse_args(arguments)
        case "make":
            _check_make(arguments)
        case "export":
            for word in arguments:
                _check_variable(word)
        case "python":
            _check_python(arguments)
        case "systemctl":
            units = {unit_name(service) for service in COMMANDS}
            assert {Path(word).with_suffix(".service").name for word in arguments if "mars-assets" in word} <= units
        case "docker":
            assert (PROJECT / arguments[arguments.index("--file") + 1]).exists()
        case "pre-commit":
            subprocess.run([Path(sys.executable).with_name(program), *arguments, "--help"], check=True)
        case _:
            if program.startswith("deploy/"):
                assert os.access(PROJECT / program, os.X_OK), program
                return
            known = IN_THE_SHELL | OF_A_LAB | OF_SLURM | {"ELSEWHERE/bin/python"}
            assert program in known, f"nothing checks {shlex.join(words)}"


def _parsed(group: click.Command, words: list[str]) -> tuple[str, dict[str, Any]]:
    """What a command line's own parser reads: the command's name and its options."""
    context = click.Context(group)
    name = ""
    while isinstance(group, click.Group):
        name, command, words = group.resolve_command(context, words)
        assert command is not None
        group = command
    return str(name), group.make_context(name, list(words), parent=context).params


def _check_dagster(command: str, options: dict[str, Any]) -> None:
    if command == "materialize":
        keys = _selected(options["select"])
        graph = defs.resolve_asset_graph()
        partitioned = {key for key in keys if graph.get(key).partitions_def}
        given = options.get("partition") or options.get("partition_range")
        assert partitioned == (keys if given else set())
        for file in options["config"]:
            configured = set(yaml.safe_load(Path(file).read_text()).get("ops", {}))
            assert configured <= {key.to_user_string() for key in keys}, f"{file} configures what is not selected"
    elif command == "execute":
        assert defs.resolve_job_def(options["job_name"])


def _selected(selection: str) -> set[dg.AssetKey]:
    keys = {dg.AssetKey(name) for name in selection.split(",")}
    assert keys <= set(defs.resolve_asset_graph().get_all_asset_keys()), (
        f"{selection} names an asset that does not exist"
    )
    return keys


def _check_make(arguments: list[str]) -> None:
    targets = re.findall(r"^([\w.-]+):", MAKEFILE, re.MULTILINE)
    for word in arguments:
        name, assigned, _ = word.partition("=")
        assert f"$({name})" in MAKEFILE if assigned else name in targets, f"make {word}"


def _check_python(arguments: list[str]) -> None:
    module, *rest = arguments[1:] if arguments[0] == "-m" else ["", *arguments]
    if module == "venv":
        return
    assert module in ("pytest", "")
    assert all(Path(word).exists() for word in rest if not word.startswith("-")), shlex.join(arguments)


def _check_variable(word: str) -> None:
    name = word.partition("=")[0]
    sources = [*(PROJECT / "mars_assets").rglob("*.py"), *(PROJECT / "mars_assets_tests").rglob("*.py")]
    known = name in ("DAGSTER_HOME", "DAGSTER_MODULE_NAME") or any(f'"{name}"' in path.read_text() for path in sources)
    assert known, f"nothing reads the variable {name}"


def _check_configuration(config: dict[str, Any]) -> None:
    """A run configuration whose assets, resources and fields exist, with values that their classes accept."""
    assert set(config) <= {"ops", "resources"}
    for name, step in config.get("ops", {}).items():
        assets = defs.get_repository_def().assets_defs_by_key[dg.AssetKey(name)]
        function = assets.op.compute_fn.decorated_fn  # type: ignore[union-attr]
        typing.get_type_hints(function)["config"](**step["config"])
    for name, resource in config.get("resources", {}).items():
        type((defs.resources or {})[name])(**resource["config"])


@pytest.mark.parametrize("words", ["dagster asset materialize --select crater_model", "make everything", "ls",
    "dagster asset materialize --selection cls_model", "dagster asset materialize --select crops",
    "mars-assets count x",
    "dagster asset materialize --select cls_model -c recipes/none.yaml", "dagster job execute -j all",
    "export MARS_LAKES=x",
    "dagster asset materialize --select seg_model -c recipes/cls_quick.yaml", "dg launch --assets model",
])  # fmt: skip
def test_a_command_that_does_not_hold_is_found(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    with pytest.raises((AssertionError, click.ClickException, dg.DagsterInvariantViolationError, SystemExit)):
        _check(shlex.split(words))


def test_the_readme_is_short_and_shows_the_commands() -> None:
    assert len(README.read_text().split()) <= 900
    shown = {shlex.join(words) for words in commands(README)}
    wanted = ["make demo", "make test", "make quick", "make ui", "make docs", "make bench"]
    wanted += [
        "dagster asset materialize --select cls_model",
        "dg check defs",
        "dg list defs",
        "dg launch --assets cls_model",
    ]
    wanted += [
        f"env -u DAGSTER_MODULE_NAME dagster {command} -w workspace.yaml" for command in ("dev", "definitions validate")
    ]
    assert set(wanted) <= shown
    assert {words[1] for words in commands(README) if words[0] == "mars-assets"} == {
        "init",
        "predict",
        "outline",
        "map",
        "compare",
        "export",
    }


@pytest.mark.parametrize("page", [README, PROJECT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Those of the manual are checked as it is built."""
    for address in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (PROJECT / address).exists(), address


def test_pages_that_code_and_recipes_name_exist() -> None:
    sources = [path for folder in ("mars_assets", "recipes", "benchmarks") for path in (PROJECT / folder).rglob("*.*")]
    for path in sources:
        if path.suffix in (".py", ".yaml", ".md"):
            for address in re.findall(r"docs/[\w/-]+\.md", path.read_text()):
                assert (PROJECT / address).exists(), f"{path}: {address}"


@pytest.mark.process
def test_a_lake_of_ones_own_as_the_readme_says(tmp_path: Path, shared: Path) -> None:
    shell = Shell(tmp_path / "clone")
    (shell.folder / ".venv").symlink_to(sys.prefix)
    browse_archive(shared, tmp_path / "archive")
    home = tmp_path / "Zoë #1: a & 'b'"  # what no tool of the way may take for its own
    home.mkdir()
    bash = [block.text for block in blocks(README) if block.language == "bash"]
    set_up = next(text for text in bash if text.startswith("source")).partition("dagster")[0]
    own = next(text for text in bash if "MARS_LAKE=" in text)
    with serve(tmp_path / "archive") as url:
        surroundings = {**shell.clean, "HOME": str(home), "MARS_HIRISE_ARCHIVE": url}
        answer = subprocess.run(
            ["bash", "-e", "-c", set_up + own],
            cwd=shell.folder,
            env=surroundings,
            capture_output=True,
            text=True,
            timeout=400,
        )
    assert answer.returncode == 0, answer.stderr[-3000:]
    assert len(list((home / "mars/imagery/crops/ESP_011472_1225/current").glob("*.png"))) == 14
    assert list((home / "mars/.dagster").rglob("*.db"))
    assert not (shell.folder / "data_lake").exists()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    answer = subprocess.run(
        build, cwd=PROJECT, env={**os.environ, "PYTHONPATH": str(PROJECT)}, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr[-5000:]
    return folder


@pytest.mark.process
def test_the_manual_describes_all_assets_recipes_and_commands(site: Path) -> None:
    def page(name: str) -> str:
        return (site / f"reference/{name}.html").read_text()

    assets = page("assets")
    assert all(f'id="{key.to_user_string()}"' in assets for key in defs.resolve_asset_graph().get_all_asset_keys())
    assert all(
        f"<code>{name}</code>" in page("recipes")
        for name in ("mask_ratio", "craterwise_weight", "visible_weight", "folds")
    )
    assert all(
        f"mars-assets {name}" in page("command-line")
        for name in ("init", "deploy", "predict", "outline", "map", "compare", "export", "doctor")
    )
    assert "imagery/crops/OBSERVATION" in page("lake")
    packages = [path.parent.name for path in (PROJECT / "mars_assets").glob("*/__init__.py")]
    assert all((site / f"reference/api/{name}.html").exists() for name in packages)
    drawn = (site / "explanation/architecture.html").read_text()
    assert all(f">{name}<" in drawn for name in ("definitions", "segmentation", "lake", "storage"))


@pytest.mark.process
def test_the_citation_is_valid() -> None:
    check = Path(sys.executable).with_name("check-jsonschema")
    schema = ["--builtin-schema", "vendor.citation-file-format"]
    subprocess.run([check, *schema, PROJECT / "CITATION.cff"], check=True)
    assert yaml.safe_load((PROJECT / "CITATION.cff").read_text())["version"] == mars_assets.__version__
