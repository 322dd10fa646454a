"""The reference pages of the manual, generated from the code, so that they cannot contradict it."""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal

import dagster as dg
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from mars_assets import cli
from mars_assets.definitions import defs
from mars_assets.lake import Lake

PROJECT = Path(__file__).parent.parent
PACKAGE = PROJECT / "mars_assets"
GENERATED = "_Generated from the code by `docs/reference.py`._\n"


def pages() -> dict[str, str]:
    """Return the generated pages as Markdown, by their path in the site."""
    return {
        "reference/assets.md": assets_page(),
        "reference/automation.md": automation_page(),
        "reference/recipes.md": recipes_page(),
        "reference/lake.md": lake_page(),
        "reference/command-line.md": command_line_page(),
        **{f"reference/api/{name}.md": api_page(name, modules) for name, modules in packages().items()},
    }


# Assets


def assets_page() -> str:
    """Describe every asset: group, inputs, kinds, checks and configuration."""
    graph = defs.resolve_asset_graph()
    keys = list(graph.toposorted_asset_keys)
    groups: dict[str, list[dg.AssetKey]] = {}
    for key in keys:
        groups.setdefault(str(graph.get(key).group_name), []).append(key)
    text = [
        "# Assets\n",
        GENERATED,
        "An asset is something the pipeline produces. The drawing shows them from the first to the last; an arrow leads from an",
        "asset to one that needs it. Arrows that a longer path implies are left out; the tables list every input.\n",
        "<!-- drawing: lineage -->\n",
    ]
    for group, members in groups.items():
        text.append(f"## {group}\n")
        for key in members:
            text += _asset(graph, key)
    return "\n".join(text)


def _asset(graph: Any, key: dg.AssetKey) -> Iterable[str]:
    node = graph.get(key)
    name = key.to_user_string()
    specs = [graph.get_check_spec(check) for check in sorted(node.check_keys, key=lambda check: check.name)]
    follows = node.automation_condition is not None
    facts = {
        "Needs": _links(node.parent_keys) or "nothing",
        "Needed by": _links(node.child_keys) or "nothing",
        "Kinds": ", ".join(sorted(node.kinds)),
        "Partitions": f"`{node.partitions_def.name}`" if node.partitions_def else "",
        "Pool": ", ".join(f"`{pool}`" for pool in sorted(node.pools or ())),
        "Checks": ", ".join(f"[`{spec.name}`](automation.md#checks)" for spec in specs),
        "Runs by itself": "when an input changes ([`follow_labels`](automation.md#sensors))" if follows else "",
    }
    yield f"### `{name}` {{ #{name} }}\n"
    yield f"{node.description}\n"
    yield from (f"- **{title}:** {value}" for title, value in facts.items() if value)
    yield ""
    config = _configurations().get(name)
    if config is None:
        return
    recipe = recipe_of(config)
    own = {
        field: info for field, info in config.model_fields.items() if recipe is None or field not in recipe.model_fields
    }
    if recipe is not None:
        yield f"Configuration: the fields of [`{recipe.__name__}`](recipes.md#{recipe.__name__.lower()})"
        yield ("; and:\n" if own else ".\n")
    if own:
        yield from _field_table(own)


def _links(keys: Iterable[dg.AssetKey]) -> str:
    names = sorted(key.to_user_string() for key in keys)
    return ", ".join(f"[`{name}`](#{name})" for name in names)


def _configurations() -> dict[str, type[BaseModel]]:
    """Return the configuration class of each asset that has one."""
    found = {}
    for key, assets in defs.get_repository_def().assets_defs_by_key.items():
        if not assets.is_executable or not isinstance(assets.node_def, dg.OpDefinition):
            continue
        function = getattr(assets.op.compute_fn, "decorated_fn", None)
        config = typing.get_type_hints(function).get("config") if function else None
        if config:
            found[key.to_user_string()] = config
    return found


def recipe_of(config: type[BaseModel]) -> type[BaseModel] | None:
    """Return the domain's recipe that a configuration class inherits its fields from; None for one of its own fields."""
    for base in config.__mro__:
        if (
            issubclass(base, BaseModel)
            and not issubclass(base, dg.Config)
            and base.__module__.startswith("mars_assets")
        ):
            return base
    return None


# Fields of pydantic classes


def _field_table(fields: Mapping[str, FieldInfo]) -> Iterable[str]:
    yield "| field | values | default | what it does |\n|---|---|---|---|"
    nested: dict[str, type[BaseModel]] = {}
    for name, info in fields.items():
        inner = [kind for kind in _choices(info.annotation) if inspect.isclass(kind) and issubclass(kind, BaseModel)]
        nested.update((name, kind) for kind in inner)
        if not info.description:
            raise ValueError(f"the field {name} has no description: the manual would have nothing to say about it")
        yield f"| `{name}` | {_values(info)} | {_default(info)} | {_cell(info.description)} |"
    yield ""
    for name, kind in nested.items():
        yield f"Fields of `{name}`: {_cell(inspect.getdoc(kind) or '')}\n"
        yield from _field_table(kind.model_fields)


def _choices(annotation: Any) -> list[Any]:
    return (
        list(typing.get_args(annotation))
        if typing.get_origin(annotation) in (typing.Union, UnionType)
        else [annotation]
    )


def _values(info: FieldInfo) -> str:
    bounds = [_bound(rule) for rule in info.metadata]
    kinds = [_kind(kind) for kind in _choices(info.annotation) if kind is not type(None)]
    return _cell(", ".join([" or ".join(kinds), *filter(None, bounds)]))


def _kind(annotation: Any) -> str:
    arguments = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is Annotated:
        return ", ".join(
            [_kind(arguments[0]), *filter(None, map(_bound, getattr(arguments[1], "metadata", arguments[1:])))]
        )
    if origin is list:
        return f"list of {_kind(arguments[0])}"
    if origin is dict:
        return "settings by name"
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return "settings, below"
    return {bool: "yes or no", int: "whole number", float: "number", str: "text"}.get(annotation, "")


def _bound(rule: Any) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "min_length": "length ≥", "max_length": "length ≤"}
    return " ".join(
        f"{sign} {getattr(rule, name)}" for name, sign in signs.items() if getattr(rule, name, None) is not None
    )


def _default(info: FieldInfo) -> str:
    default = info.get_default(call_default_factory=True, validated_data={})
    if default is PydanticUndefined:
        return "required"
    if default is None or default == "":
        return "none"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# Jobs, sensors, schedules, checks, resources


def automation_page() -> str:
    """Describe jobs, sensors, schedules, checks and resources."""
    repository = defs.get_repository_def()
    graph = defs.resolve_asset_graph()
    jobs = [job for job in repository.get_all_jobs() if not job.name.startswith("__")]
    specs = [graph.get_check_spec(key) for key in sorted(graph.asset_check_keys, key=lambda key: key.to_user_string())]
    text = ["# Jobs, automation, checks and resources\n", GENERATED]
    text += ["## Jobs\n", "A job materializes several assets, or does a task of its own.\n"]
    text += ["| job | what it does |\n|---|---|"]
    text += [f"| `{job.name}` | {_cell(job.description or '')} |" for job in sorted(jobs, key=lambda job: job.name)]
    text += [
        "\n## Sensors\n",
        "A sensor looks for a change at short intervals. It runs while `make ui` (`dagster dev`) runs.\n",
    ]
    text += ["| sensor | at first | looks every | what it does |\n|---|---|---|---|"]
    text += [
        f"| `{sensor.name}` | {_switch(sensor.default_status)} | {sensor.minimum_interval_seconds} s | {_cell(sensor.description or '')} |"
        for sensor in repository.sensor_defs
    ]
    text += ["\n## Schedules\n", "A schedule starts a job at fixed times (UTC).\n"]
    text += ["| schedule | at first | cron | job | what it does |\n|---|---|---|---|---|"]
    text += [
        f"| `{schedule.name}` | {_switch(schedule.default_status)} | `{schedule.cron_schedule}` | `{schedule.job_name}` | "
        f"{_cell(schedule.description or '')} |"
        for schedule in repository.schedule_defs
    ]
    text += ["\n## Checks\n", "A blocking check that fails stops what needs the asset. The others warn.\n"]
    text += ["| asset | check | blocking | what it checks |\n|---|---|---|---|"]
    text += [
        f"| [`{spec.asset_key.to_user_string()}`](assets.md#{spec.asset_key.to_user_string()}) | `{spec.name}` | "
        f"{'yes' if spec.blocking else 'no'} | {_cell(spec.description or '')} |"
        for spec in specs
    ]
    text += [
        "\n## Resources\n",
        "A resource is what several assets share. It is configured under `resources` in a run configuration.\n",
    ]
    for name, resource in sorted((defs.resources or {}).items()):
        text += [
            f"### `{name}`\n",
            f"{_cell(inspect.getdoc(type(resource)) or '')}\n",
            *_field_table(type(resource).model_fields),
        ]
    return "\n".join(text)


def _switch(status: Any) -> str:
    return "on" if status.value == "RUNNING" else "off"


# Recipes


def recipes_page() -> str:
    """Describe the recipe files, and each recipe class field by field."""
    text = [
        "# Recipes\n",
        GENERATED,
        "A recipe is the settings of a training or of a sweep of trainings: a YAML file that a command takes with `-c`. Several",
        "files may be given; the later ones add to the earlier ones.\n",
        "## Files\n",
    ]
    for folder in (PROJECT / "recipes", PROJECT / "recipes" / "sweeps"):
        text += ["| file | what it is for |\n|---|---|"]
        text += [f"| `{path.relative_to(PROJECT)}` | {_header(path)} |" for path in sorted(folder.glob("*.yaml"))]
        text += [""]
    configured: dict[type[BaseModel], list[str]] = {}
    for asset, config in _configurations().items():
        if recipe := recipe_of(config):
            configured.setdefault(recipe, []).append(asset)
    for recipe, assets in configured.items():
        text += [f"## `{recipe.__name__}`\n", f"{inspect.getdoc(recipe)}\n"]
        text += [f"Configuration of {', '.join(f'[`{asset}`](assets.md#{asset})' for asset in sorted(assets))}.\n"]
        text += _field_table(recipe.model_fields)
    return "\n".join(text)


def _header(path: Path) -> str:
    """Return the comment at the head of a recipe file, without the command."""
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("#   "):
            lines.append(line.removeprefix("#").strip())
    return _cell(" ".join(lines))


# The lake


def lake_page() -> str:
    """Describe where each file of the lake lies, from the properties and methods of ``Lake``."""
    text = ["# The lake\n", GENERATED, f"{inspect.getdoc(inspect.getmodule(Lake))}\n"]
    text += ["Addresses are relative to the lake's folder; a word in capitals stands for a name.\n"]
    text += ["| address | in the code | what lies there |\n|---|---|---|"]
    lake = Lake(Path("/"))
    for name, member in vars(Lake).items():
        function = member.fget if isinstance(member, property) else member
        if name.startswith("_") or not inspect.isfunction(function) or function.__annotations__.get("return") != "Path":
            continue
        arguments = [argument.upper() for argument in inspect.signature(function).parameters if argument != "self"]
        path = getattr(lake, name) if isinstance(member, property) else function(lake, *arguments)
        address = path.relative_to("/").as_posix()
        if [address] != arguments:  # an address of one's own
            called = f"{name}({', '.join(arguments).lower()})" if arguments else name
            text.append(f"| `{address}` | `{called}` | {_first_paragraph(function)} |")
    return "\n".join([*text, ""])


def _first_paragraph(documented: Any) -> str:
    text = inspect.getdoc(documented)
    if not text:
        raise ValueError(f"{documented.__qualname__} has no docstring: the manual would have nothing to say about it")
    return _cell(text.split("\n\n")[0]).replace("``", "`")


# The command line


def command_line_page() -> str:
    """Describe the targets of the Makefile and the commands of ``mars-assets``."""
    text = ["# Command line\n", GENERATED, "## `make`\n", "| command | what it does |\n|---|---|"]
    for line in (PROJECT / "Makefile").read_text().splitlines():
        if match := re.match(r"# (make \S+)\s+(.+)", line):
            text.append(f"| `{match[1]}` | {_cell(match[2])} |")
    parser = cli.parser()
    text += ["\n## `mars-assets`\n", f"{parser.description}\n", *_options(parser)]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                text += [f"### `mars-assets {name}`\n", f"{command.description}\n"]
                text += ["```text", command.format_usage().strip(), "```\n", *_options(command)]
    return "\n".join(text)


def _options(parser: argparse.ArgumentParser) -> Iterable[str]:
    yield "| argument | what it is |\n|---|---|"
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            continue
        name = ", ".join(action.option_strings) or action.dest
        choices = f" One of {', '.join(f'`{choice}`' for choice in action.choices)}." if action.choices else ""
        said = (action.help or "") % {"default": action.default}
        yield f"| `{name}` | {_cell(said)}{choices} |"
    yield ""


# The API


def packages() -> dict[str, list[str]]:
    """Return the public modules of each package below ``mars_assets``; those at the root count as ``mars_assets``."""
    found: dict[str, list[str]] = {"mars_assets": []}
    for path in sorted(PACKAGE.rglob("*.py")):
        names = path.relative_to(PROJECT).with_suffix("").parts
        package = names[1] if len(names) > 2 else names[0]
        module = ".".join(names).removesuffix(".__init__")
        found.setdefault(package, []).append(module)
    return {name: sorted(modules) for name, modules in found.items()}


def api_page(package: str, modules: list[str]) -> str:
    """List the modules of a package; mkdocstrings fills in what is in them."""
    summary = (
        ast.get_docstring(ast.parse((PACKAGE / package / "__init__.py").read_text()))
        if package != "mars_assets"
        else None
    )
    text = [f"# {package}\n", summary or "The modules at the root of the package.", ""]
    return "\n".join([*text, *(f"::: {module}\n" for module in modules)])
