"""The files of a contributor's tools are valid and agree with one another.

check-jsonschema ships the schema of workflows. actionlint would say more, but its package downloads a program.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

PROJECT = Path(__file__).parent.parent
WORKFLOW = PROJECT / ".github/workflows/test.yml"
HOOKS = PROJECT / ".pre-commit-config.yaml"


def run(program: str, *arguments: str | Path) -> None:
    command = [Path(sys.executable).with_name(program), *arguments]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr


def test_the_workflow_is_valid() -> None:
    run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", WORKFLOW)


def test_the_workflow_tests_every_python_that_is_supported() -> None:
    job = yaml.safe_load(WORKFLOW.read_text())["jobs"]["test"]
    classifiers = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["classifiers"]
    supported = [text.rsplit(" ", 1)[1] for text in classifiers if re.search(r":: 3\.\d+$", text)]
    assert job["strategy"]["matrix"]["python"] == supported
    assert [step["run"] for step in job["steps"] if "run" in step] == ["bash .ci/run"]


def test_the_hooks_are_valid() -> None:
    run("pre-commit", "validate-config", HOOKS)


def test_the_hooks_check_what_make_test_checks() -> None:
    recipe = re.search(r"^test:.*\n((?:\t.*\n)+)", (PROJECT / "Makefile").read_text(), re.M)
    assert recipe
    programs = set(re.findall(r"\$\(BIN\)/([\w-]+)", recipe[1])) - {"python"}
    hooks = yaml.safe_load(HOOKS.read_text())["repos"][0]["hooks"]
    assert {Path(hook["entry"].split()[0]).name for hook in hooks} == programs
