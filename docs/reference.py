"""The reference pages of the manual, generated from the code, so that they cannot contradict it."""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal

import dagster as dg
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from mars_assets import cli
from mars_assets.definitions import defs
from mars_assets.lake import Lake, LakePath
from mars_assets.tasks import TASKS

PROJECT = Path(__file__).parent.parent
PACKAGE = PROJECT / "mars_assets"
GENERATED = "_Generated from the code by `docs/reference.py`._\n"


def pages() -> dict[str, str]:
    """Return the generated pages as Markdown, by their path in the site.

    Raises:
        ValueError: an asset, a field, an address or a column says nothing about itself.
    """
    written = {
        "reference/assets.md": assets_page(),
        "reference/automation.md": automation_page(),
        "reference/recipes.md": recipes_page(),
        "reference/lake.md": lake_page(),
        "reference/metrics.md": metrics_page(),
        "reference/command-line.md": command_line_page(),
    }
    written |= {f"reference/api/{name}.md": api_page(name, modules) for name, modules in packages().items()}
    return {name: "\n".join(lines) + "\n" for name, lines in written.items()}


# Assets


def assets_page() -> Iterator[str]:
    """Describe every asset: group, inputs, kinds, checks and configuration."""
    graph = defs.resolve_asset_graph()
    groups: dict[str, list[dg.AssetKey]] = {}
    for key in graph.toposorted_asset_keys:
        groups.setdefault(str(graph.get(key).group_name), []).append(key)
    yield "# Assets\n"
    yield GENERATED
    yield "An asset is something the pipeline produces. In the drawing, an arrow leads from an asset to one"
    yield "that needs it. Arrows that a longer path implies are left out; the lists below are complete.\n"
    yield "<!-- drawing: lineage -->\n"
    for group, keys in groups.items():
        yield f"## {group}\n"
        for key in keys:
            yield from _asset(graph.get(key))


def _asset(node: Any) -> Iterator[str]:
    name = node.key.to_user_string()
    checks = sorted(check.name for check in node.check_keys)
    facts = {
        "Needs": _links(node.parent_keys) or "nothing",
        "Needed by": _links(node.child_keys) or "nothing",
        "Kinds": ", ".join(sorted(node.kinds)),
        "Partitions": f"`{node.partitions_def.name}`" if node.partitions_def else "",
        "Pool": ", ".join(f"`{pool}`" for pool in sorted(node.pools or ())),
        "Checks": ", ".join(f"[`{check}`](automation.md#checks)" for check in checks),
        "Runs by itself": "when an input changes ([sensor `follow_labels`](automation.md#sensors))"
        if node.automation_condition
        else "",
    }
    yield f"### `{name}` {{ #{name} }}\n"
    yield _said(node.description, f"the asset {name}") + "\n"
    yield from (f"- **{title}:** {value}" for title, value in facts.items() if value)
    yield ""
    config = _configurations().get(name)
    if config is None:
        return
    recipe = recipe_of(config)
    shared = recipe.model_fields if recipe else {}
    own = {field: info for field, info in config.model_fields.items() if field not in shared}
    if recipe:
        more = "; and:" if own else "."
        yield f"Configuration: the fields of [`{recipe.__name__}`](recipes.md#{recipe.__name__.lower()}){more}\n"
    if own:
        yield from _field_table(own)


def _links(keys: Iterable[dg.AssetKey]) -> str:
    names = sorted(key.to_user_string() for key in keys)
    return ", ".join(f"[`{name}`](#{name})" for name in names)


def _configurations() -> dict[str, type[BaseModel]]:
    """Return the configuration class of each asset that has one."""
    found = {}
    for key, assets in defs.get_repository_def().assets_defs_by_key.items():
        function = getattr(assets.op.compute_fn, "decorated_fn", None) if assets.is_executable else None
        if function and (config := typing.get_type_hints(function).get("config")):
            found[key.to_user_string()] = config
    return found


def recipe_of(config: type[BaseModel]) -> type[BaseModel] | None:
    """Return the class of the domain that a configuration takes its fields from, or None if it has only its own."""
    for base in config.__mro__:
        if (
            issubclass(base, BaseModel)
            and base.__module__.startswith("mars_assets")
            and not issubclass(base, dg.Config)
        ):
            return base
    return None


# Jobs, sensors, schedules, checks, resources


def automation_page() -> Iterator[str]:
    """Describe jobs, sensors, schedules, checks and resources."""
    repository, graph = defs.get_repository_def(), defs.resolve_asset_graph()
    yield "# Jobs, automation, checks and resources\n"
    yield GENERATED
    yield "## Jobs\n"
    yield "A job materializes several assets, or does a task of its own.\n"
    jobs = {job.name: job.description for job in repository.get_all_jobs() if not job.name.startswith("__")}
    yield from _table(
        ("job", "what it does"), [(f"`{name}`", _said(text, f"the job {name}")) for name, text in sorted(jobs.items())]
    )
    yield "## Sensors\n"
    yield "A sensor looks for a change at short intervals, while `make ui` (`dagster dev`) runs.\n"
    yield from _table(
        ("sensor", "at first", "looks every", "what it does"),
        [
            (f"`{one.name}`", _switch(one), f"{one.minimum_interval_seconds} s", _said(one.description, one.name))
            for one in repository.sensor_defs
        ],
    )
    yield "## Schedules\n"
    yield "A schedule starts a job at fixed times (UTC).\n"
    yield from _table(
        ("schedule", "at first", "cron", "job", "what it does"),
        [
            (
                f"`{one.name}`",
                _switch(one),
                f"`{one.cron_schedule}`",
                f"`{one.job_name}`",
                _said(one.description, one.name),
            )
            for one in repository.schedule_defs
        ],
    )
    yield "## Checks\n"
    yield "A blocking check that fails stops what needs the asset. The others warn.\n"
    specs = [graph.get_check_spec(key) for key in sorted(graph.asset_check_keys, key=lambda key: key.to_user_string())]
    yield from _table(
        ("asset", "check", "blocking", "what it checks"),
        [
            (
                f"[`{spec.asset_key.to_user_string()}`](assets.md#{spec.asset_key.to_user_string()})",
                f"`{spec.name}`",
                "yes" if spec.blocking else "no",
                _said(spec.description, f"the check {spec.name}"),
            )
            for spec in specs
        ],
    )
    yield "## Resources\n"
    yield "Several assets share a resource. It is configured under `resources` in a run configuration.\n"
    for name, resource in sorted((defs.resources or {}).items()):
        yield f"### `{name}`\n"
        yield _said(inspect.getdoc(type(resource)), f"the resource {name}") + "\n"
        yield from _field_table(type(resource).model_fields)


def _switch(automation: Any) -> str:
    return "on" if automation.default_status.value == "RUNNING" else "off"


# Recipes


def recipes_page() -> Iterator[str]:
    """Describe the recipe files, and each recipe class field by field."""
    yield "# Recipes\n"
    yield GENERATED
    yield "A recipe is the settings of a training or of a sweep of trainings: a YAML file that a command takes with"
    yield "`-c`. A second `-c` changes what it states and leaves the rest of the first.\n"
    yield "## Files\n"
    files = sorted((PROJECT / "recipes").rglob("*.yaml"), key=lambda path: (len(path.parts), path))
    yield from _table(
        ("file", "what it is for"), [(f"`{path.relative_to(PROJECT / 'recipes')}`", _header(path)) for path in files]
    )
    configured: dict[type[BaseModel], list[str]] = {}
    for asset, config in _configurations().items():
        if recipe := recipe_of(config):
            configured.setdefault(recipe, []).append(asset)
    for recipe, assets in configured.items():
        yield f"## `{recipe.__name__}`\n"
        yield f"{inspect.getdoc(recipe)}\n"
        yield f"Configuration of {', '.join(f'[`{asset}`](assets.md#{asset})' for asset in sorted(assets))}.\n"
        yield from _field_table(recipe.model_fields)


def _header(path: Path) -> str:
    """Return the comment at the head of a recipe file, without the command."""
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("#   dagster"):
            lines.append(line.removeprefix("#").strip())
    return re.sub(r"docs/(results/\w+)\.md", r"[\1](../\1.md)", _said(" ".join(lines), path.name))


# Fields of pydantic classes


def _field_table(fields: Mapping[str, FieldInfo]) -> Iterator[str]:
    rows: list[tuple[str, ...]] = []
    nested: dict[str, type[BaseModel]] = {}
    for name, info in fields.items():
        kinds = [kind for kind in _choices(info.annotation) if kind is not type(None)]
        nested |= {name: kind for kind in kinds if _is_settings(kind)}  # noqa: B035 - a field has one such kind at most
        values = ", ".join([" or ".join(map(_kind, kinds)), *filter(None, map(_bounds, info.metadata))])
        rows.append((f"`{name}`", values, _default(info), _said(info.description, f"the field {name}")))
    yield from _table(("field", "values", "default", "what it does"), rows)
    for name, kind in nested.items():
        yield f"Fields of `{name}`: {_said(inspect.getdoc(kind), kind.__name__)}\n"
        yield from _field_table(kind.model_fields)


def _choices(annotation: Any) -> tuple[Any, ...]:
    return typing.get_args(annotation) if typing.get_origin(annotation) in (typing.Union, UnionType) else (annotation,)


def _is_settings(annotation: Any) -> bool:
    return inspect.isclass(annotation) and issubclass(annotation, BaseModel)


def _kind(annotation: Any) -> str:
    """Return what values a type has, in words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is Annotated:
        return ", ".join([_kind(arguments[0]), *filter(None, map(_bounds, arguments[1:]))])
    if origin is list:
        return f"list of: {_kind(arguments[0])}"
    if origin is dict:
        return "settings by name"
    if _is_settings(annotation):
        return "settings, below"
    return {bool: "yes or no", int: "whole number", float: "number", str: "text"}[annotation]


def _bounds(rule: Any) -> str:
    """Return the bounds that a rule, or a field that holds rules, sets."""
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "min_length": "length ≥", "max_length": "length ≤"}
    if isinstance(rule, FieldInfo):
        return ", ".join(filter(None, map(_bounds, rule.metadata)))
    return ", ".join(f"{sign} {getattr(rule, name)}" for name, sign in signs.items() if hasattr(rule, name))


def _default(info: FieldInfo) -> str:
    value = info.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return "required"
    if value is None or value == "":
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


# The lake


def lake_page() -> Iterator[str]:
    """Describe where each file of the lake lies, from the attributes and methods of ``Lake``."""
    yield "# The lake\n"
    yield GENERATED
    yield "All data lie in one folder, the lake. Addresses are relative to it; a word in capitals stands for a name.\n"
    rows, lake = [], Lake(Path("/"))
    for name, member in vars(Lake).items():
        if isinstance(member, LakePath):
            rows.append((f"`{member.relative}`", f"`{name}`", _said(member.description, f"Lake.{name}")))
        if name.startswith("_") or not inspect.isfunction(member) or member.__annotations__.get("return") != "Path":
            continue
        parameters = [one for one in inspect.signature(member).parameters.values() if one.name != "self"]
        wanted = [one.name for one in parameters if one.default is one.empty]
        placeholders = [parameter.upper() for parameter in wanted]
        address = member(lake, *placeholders).relative_to("/").as_posix()
        if [address] != placeholders:  # else it takes addresses, and is none
            summary = (inspect.getdoc(member) or "").split("\n\n")[0]
            rows.append((f"`{address}`", f"`{name}({', '.join(wanted)})`", _said(summary, f"Lake.{name}")))
    yield from _table(("address", "in the code", "what lies there"), rows)


# Tables and metrics


def metrics_page() -> Iterator[str]:
    """Describe what each task is measured by, and the columns of every table that has a schema."""
    yield "# Metrics and tables\n"
    yield GENERATED
    yield "## Scores of a task\n"
    yield "Models are compared by one score. A check warns when it falls below its bound. The table of evaluations,"
    yield "`metrics/NAME_evaluation.parquet`, has a row for each model, label version and split, with a column for each"
    yield "score"
    yield "and its interval (`_low`, `_high`).\n"
    rows: list[tuple[str, ...]] = []
    for task in TASKS:
        scores, of_sweeps = (", ".join(f"`{name}`" for name in names) for names in (task.scores, task.sweep_scores))
        evaluation = f"[`{task.evaluation}`](assets.md#{task.evaluation})"
        rows.append((evaluation, f"`{task.score}`", f"{task.lowest_score:g}", scores, of_sweeps))
    yield from _table(("table", "compared by", "bound", "scores shown", "scores shown of a sweep's runs"), rows)
    yield "[What the numbers mean](../explanation/numbers.md) explains the scores; the functions that compute them are"
    yield f"{_api('classification.evaluate.scores')}, {_api('segmentation.evaluate.evaluate')},"
    yield f"{_api('reconstruction.summary.summarise')} and {_api('evaluation.history.with_change')}.\n"
    for path in sorted(PACKAGE.glob("*/schema.py")):
        module = importlib.import_module(f"mars_assets.{path.parent.name}.schema")
        for name, schema in vars(module).items():
            if inspect.isclass(schema) and schema.__module__ == module.__name__:
                yield f"## `{name}`\n"
                yield _said(inspect.getdoc(schema), f"the table {name}") + "\n"
                columns = schema.to_schema().columns  # type: ignore[attr-defined]
                yield from _table(
                    ("column", "type", "what it is"),
                    [
                        (
                            f"`{title}`",
                            str(column.dtype).partition("[")[0],
                            _said(column.description, f"{name}.{title}"),
                        )
                        for title, column in columns.items()
                    ],
                )


def _api(name: str) -> str:
    return f"[`{name}`][mars_assets.{name}]"


# The command line


def command_line_page() -> Iterator[str]:
    """Describe the targets of the Makefile and the commands of ``mars-assets``."""
    yield "# Command line\n"
    yield GENERATED
    yield "## `make`\n"
    targets = re.findall(r"^# (make \S+)\s+(.+)$", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    yield from _table(("command", "what it does"), [(f"`{command}`", text) for command, text in targets])
    parser = cli.parser()
    yield "## `mars-assets`\n"
    yield f"{parser.description}\n"
    yield from _arguments(parser)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield f"### `mars-assets {name}`\n"
                yield f"{command.description}\n"
                yield f"```text\n{command.format_usage().strip()}\n```\n"
                yield from _arguments(command)


def _arguments(parser: argparse.ArgumentParser) -> Iterator[str]:
    rows = []
    for action in parser._actions:
        if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            name = ", ".join(action.option_strings) or action.dest
            text = _said(action.help, name) % {"default": action.default}
            rows.append((f"`{name}`", ", ".join(f"`{choice}`" for choice in action.choices or ()), text))
    yield from _table(("argument", "choices", "what it is"), rows)


# The API


def packages() -> dict[str, list[str]]:
    """Return the modules of each package below ``mars_assets``; those at the root count as ``mars_assets``."""
    found: dict[str, list[str]] = {"mars_assets": []}
    for path in sorted(PACKAGE.rglob("*.py")):
        names = path.relative_to(PROJECT).with_suffix("").parts
        if names[-1] != "__init__":
            found.setdefault(names[1] if len(names) > 2 else names[0], []).append(".".join(names))
    return found


def api_page(package: str, modules: list[str]) -> Iterator[str]:
    """List the modules of a package; mkdocstrings fills in what is in them."""
    source = PACKAGE / ("" if package == PACKAGE.name else package) / "__init__.py"
    yield f"# {package}\n"
    yield _said(ast.get_docstring(ast.parse(source.read_text())), f"the package {package}") + "\n"
    yield from (f"::: {module}\n" for module in modules)


# Markdown


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield "|---" * len(header) + "|"
    for row in rows:
        yield f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in row)} |"
    yield ""


def _said(text: str | None, about: str) -> str:
    """Return what something says about itself.

    Raises:
        ValueError: it says nothing.
    """
    if not text:
        raise ValueError(f"{about} has no description: the manual would have nothing to say about it")
    return text.replace("``", "`")
